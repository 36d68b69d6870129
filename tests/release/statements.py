"""Where the version is stated, and under which licences others may use what is given out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Each place and the expression that finds the version in it; all must say the same.
VERSION_PLACES: Mapping[str, str] = {
    "pyproject.toml": r'^version = "(.+)"$',
    "stockflow/__init__.py": r'^__version__ = "(.+)"$',
    "Dockerfile": r'org\.opencontainers\.image\.version="(.+?)"',
    "k8s/chart/Chart.yaml": r"^appVersion: (\S+)$",
    "k8s/base/kustomization.yaml": r"^ +newTag: (\S+)$",
    "k8s/components/audit/cronjob.yaml": r"image: stockflow:(\S+)$",
    "CHANGELOG.md": r"^## (\d\S*)",
    "UPGRADING.md": r"^## To (\d\S*)",
}
# Licences that let a retailer run, change and pass on the image: permissive ones, and MPL-2.0 for unchanged files.
ALLOWED_LICENCES = frozenset(
    {
        *(
            "0BSD",
            "Apache-2.0",
            "BSD-2-Clause",
            "BSD-3-Clause",
            "ISC",
            "MIT",
            "MIT-0",
            "MPL-2.0",
            "PSF-2.0",
            "Unlicense",
        ),
        *("3-Clause BSD License", "Apache Software License", "ISC License", "MIT License"),
    }
)
# Packages whose metadata names no licence, with where it is stated.
STATED_ELSEWHERE: Mapping[str, str] = {"bytewax": "Apache-2.0"}  # LICENSE beside its metadata


def versions(root: Path) -> dict[str, str | None]:
    """The version that each place states first, None where it states none."""
    stated: dict[str, str | None] = {}
    for name, expression in VERSION_PLACES.items():
        file = root / name
        found = re.search(expression, file.read_text(encoding="utf-8"), re.MULTILINE) if file.exists() else None
        stated[name] = found[1] if found else None
    return stated


def refused_licences(bill: Mapping[str, Any]) -> list[str]:
    """The components of a CycloneDX document whose licences are not all allowed, or not named."""
    refused = []
    for component in bill["components"]:
        stated = [one.get("expression") or one["license"]["name"] for one in component.get("licenses", ())]
        if not stated and component["name"] in STATED_ELSEWHERE:
            stated = [STATED_ELSEWHERE[component["name"]]]
        # Of a choice each must be allowed, too: nobody chooses for those who run it.
        names = [name for text in stated for name in re.split(r"\s*\b(?:AND|OR)\b\s*|[()]", text) if name.strip()]
        if not names or not all(name.strip() in ALLOWED_LICENCES for name in names):
            refused.append(f"{component['name']} {component['version']}: {', '.join(stated) or 'no licence is named'}")
    return refused
