"""The kustomizations say the same as the chart, whichever parts are chosen."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.tools import K8S, Manifest, by_name, helm, kustomize

# What the chart adds or derives that a kustomization cannot: it says nothing about what runs.
ONLY_IN_THE_CHART = {
    ("labels", "helm.sh/chart"),
    ("labels", "app.kubernetes.io/managed-by"),
    ("labels", "app.kubernetes.io/version"),
    ("annotations", "helm.sh/resource-policy"),
    ("annotations", "checksum/settings"),
}
PARTS = ("strimzi", "audit", "monitoring")
SCALERS = (None, "hpa", "keda")


def normal(text: str) -> dict[str, Manifest]:
    """Objects by name without what only the chart says, and with lists of named things in order."""
    return {unhashed(name): tidy(one) for name, one in by_name(text).items()}


def unhashed(name: str) -> str:
    """The name of a Job without the part that follows its content."""
    return re.sub(r"-topics-ensure-[0-9a-f]{8}$", "-topics-ensure", name)


def tidy(value: Any, parent: str = "") -> Any:
    """The same meaning in one spelling."""
    if isinstance(value, dict):
        kept = {key: tidy(inner, key) for key, inner in value.items() if (parent, key) not in ONLY_IN_THE_CHART}
        if kept.get("annotations") == {}:
            del kept["annotations"]
        if kept.get("imagePullPolicy") == "IfNotPresent":  # what Kubernetes takes for a tag
            del kept["imagePullPolicy"]
        return {**kept, "name": unhashed(kept["name"])} if parent == "metadata" and "name" in kept else kept
    if isinstance(value, list):
        items = [tidy(one) for one in value]
        named = all(isinstance(one, dict) and ("name" in one or "mountPath" in one) for one in items)
        return sorted(items, key=lambda one: (one.get("name", ""), one.get("mountPath", ""))) if named else items
    return value


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
@pytest.mark.parametrize(
    "parts", [one for count in range(len(PARTS) + 1) for one in itertools.combinations(PARTS, count)], ids="+".join
)
def test_components_are_the_switches_of_the_chart(parts: tuple[str, ...], scaler: str | None, tmp_path: Path) -> None:
    """Base with any choice of components = the chart with the same switches on."""
    switches = [f"{part}.enabled=true" for part in parts] + ([f"autoscaling.kind={scaler}"] if scaler else [])
    assert kustomized(components_for(parts, scaler), tmp_path) == from_chart(switches)


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
@pytest.mark.parametrize("parts", [("strimzi",), ("strimzi", "audit")], ids="+".join)
def test_certificates_are_a_switch_and_a_component(parts: tuple[str, ...], scaler: str | None, tmp_path: Path) -> None:
    """In place of passwords for whichever users there are."""
    switches = [f"{part}.enabled=true" for part in parts] + ([f"autoscaling.kind={scaler}"] if scaler else [])
    rendered = kustomized([*components_for(parts, scaler), "strimzi-tls"], tmp_path)
    assert rendered == from_chart([*switches, "strimzi.authentication=tls"])
    assert "SASL" not in str(rendered)


def components_for(parts: tuple[str, ...], scaler: str | None) -> list[str]:
    """Those that belong to the switches, in the order that they need."""
    chosen = [*parts[:1], *([scaler] if scaler else []), *parts[1:]] if "strimzi" in parts else [*parts]
    if scaler and scaler not in chosen:
        chosen.append(scaler)
    if "strimzi" in parts and scaler == "keda":
        chosen.append("keda-strimzi")
    if "strimzi" in parts and "audit" in parts:
        chosen.append("audit-strimzi")
    return chosen


def kustomized(chosen: list[str], tmp_path: Path) -> dict[str, Manifest]:
    """Base with these components."""
    folder = Path("/".join([".."] * (len(tmp_path.resolve().parts) - 1))) / K8S.relative_to("/")
    components = "".join(f"  - {folder}/components/{one}\n" for one in chosen)
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{folder}/base]\n" + (f"components:\n{components}" if chosen else "")
    )
    return normal(kustomize(tmp_path))


def from_chart(switches: list[str]) -> dict[str, Manifest]:
    """The chart with these values."""
    return normal(helm(*(("--set", ",".join(switches)) if switches else ())))


@pytest.mark.parametrize("overlay", ["production", "hpa"])
def test_overlay_is_the_chart_with_its_values(overlay: str) -> None:
    """Each example has both forms, and they are equal."""
    folder = K8S / "overlays" / overlay
    assert normal(kustomize(folder)) == normal(helm("-f", str(folder / "values.yaml")))


def test_no_overlay_is_left_out() -> None:
    """The test above knows all examples."""
    assert sorted(one.name for one in (K8S / "overlays").iterdir()) == ["hpa", "production"]


def test_a_difference_is_seen() -> None:
    """Another value is another result after all that is overlooked."""
    plain = normal(helm())
    for change in ("replicas=3", "preStopSeconds=3", "image.tag=0.2.0", "podLabels.team=x", "image.pullPolicy=Always"):
        assert normal(helm("--set", change)) != plain, change
    assert normal(helm("--set-string", "settings.STOCKFLOW_LINGER_MS=5")) != plain
