"""The image as far as it can be judged without building it: the Dockerfile, and the list of what would be in it."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import requires
from typing import Any

import jsonschema
import pytest

from stockflow import __version__
from tests.k8s.custom import TEXT, Schema, closed
from tests.k8s.tools import K8S, ROOT, by_name, kustomize, output_of, pod_spec, run, tool
from tests.test_tidy import PACKAGES

DOCKERFILE = (ROOT / "Dockerfile").read_text()
PURL: Schema = {"type": "string", "pattern": r"^pkg:pypi/[a-z0-9-]+@[0-9][\w.+!-]*$"}
COMPONENT = closed(
    {"type": {"enum": ["library", "application"]}, "bom-ref": PURL, "name": TEXT, "version": TEXT, "purl": PURL},
    {
        "licenses": {
            "type": "array",
            "minItems": 1,
            "items": {"oneOf": [closed({"expression": TEXT}), closed({"license": closed({"name": TEXT})})]},
        },
        "hashes": {
            "type": "array",
            "items": closed({"alg": {"const": "SHA-256"}, "content": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}),
        },
    },
)
# The fields of CycloneDX 1.6 that are used, and no others.
DOCUMENT = closed(
    {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "version": {"const": 1},
        "metadata": closed({"component": COMPONENT}),
        "components": {"type": "array", "minItems": 10, "items": COMPONENT, "uniqueItems": True},
        "dependencies": {
            "type": "array",
            "items": closed({"ref": PURL}, {"dependsOn": {"type": "array", "items": PURL, "uniqueItems": True}}),
        },
    },
    {"$schema": TEXT},
)


def test_dockerfile_is_without_a_finding() -> None:
    """hadolint, with nothing ignored."""
    result = run(tool("hadolint"), "--no-color", str(ROOT / "Dockerfile"))
    assert (result.returncode, result.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE


def test_hadolint_finds_something_elsewhere() -> None:
    """The check above can fail."""
    result = run(tool("hadolint"), "--no-color", "-", stdin="FROM python\nRUN apt-get install gcc\n")
    assert result.returncode != 0


def test_image_holds_every_package_and_no_tests() -> None:
    """What is copied is what is imported; the builder gets that and nothing else."""
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, flags=re.MULTILINE))
    assert copied == set(PACKAGES)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[ignored.index("*") + 1 :] != []
    assert {one[1:].rstrip("/") for one in ignored if one.startswith("!")} == {
        *PACKAGES,
        *("pyproject.toml", "README.md", "LICENSE", "requirements.lock", ".ci/sbom"),
    }


def test_image_is_what_the_manifests_expect() -> None:
    """The same user by number, the same version, a last stage that installs nothing."""
    pod = pod_spec(by_name(kustomize(K8S / "base"))["Deployment/stockflow"])
    assert pod is not None
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert f"\nUSER {user}\n" in last
    assert f'org.opencontainers.image.version="{__version__}"' in last
    assert "RUN" not in last
    assert "--require-hashes" in DOCKERFILE


def sbom() -> dict[str, Any]:
    """What the build stage would write, of the environment that runs the tests."""
    document: dict[str, Any] = json.loads(output_of(sys.executable, str(ROOT / ".ci" / "sbom"), sys.prefix))
    return document


def test_bill_of_materials_is_of_the_published_form() -> None:
    """CycloneDX 1.6, and each reference in it leads somewhere."""
    document = sbom()
    jsonschema.validate(document, DOCUMENT)
    known = {one["bom-ref"] for one in [document["metadata"]["component"], *document["components"]]}
    assert {one["ref"] for one in document["dependencies"]} == known
    assert {name for one in document["dependencies"] for name in one["dependsOn"]} <= known
    assert document == sbom()


def test_bill_of_materials_names_what_the_program_needs() -> None:
    """Every requirement of the program is a component, and the program depends on it."""
    document = sbom()
    needed = {re.split(r"[^\w.-]", one)[0].lower() for one in requires("stockflow") or () if "extra ==" not in one}
    own = document["metadata"]["component"]["bom-ref"]
    (depends_on,) = (one["dependsOn"] for one in document["dependencies"] if one["ref"] == own)
    assert {re.split("[/@]", one)[1] for one in depends_on} == needed


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("a component without a version", {"components": [{"type": "library", "name": "a"}] * 10}),
        ("another format", {"bomFormat": "SPDX"}),
        ("a field that does not exist", {"generated": "today"}),
    ],
)
def test_form_refuses(text: str, change: dict[str, object]) -> None:
    """The schema above can fail."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**sbom(), **change}, DOCUMENT)
