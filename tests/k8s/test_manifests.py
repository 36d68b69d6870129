"""The Kubernetes manifests against Kubernetes' own schemas, and against the program that they start."""

from __future__ import annotations

import re
import sysconfig
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import kubernetes_validate.utils
import pytest

from stockflow import __version__, health
from stockflow.settings import KAFKA_PREFIX, PREFIX, Settings, load
from tests.k8s.tools import K8S, Manifest, by_name, kustomize, run

EXAMPLE = K8S / "secret.example.yaml"
SECRETS_FOLDER = "/run/secrets/stockflow"
NEWEST_MINORS = list(dict.fromkeys(kubernetes_validate.utils.all_versions()))[-4:]
EXIT_MARGIN_MS = 10_000  # The interpreter's end and the kubelet's own delays.


@pytest.fixture(scope="module")
def rendered() -> dict[str, Manifest]:
    """What the kustomization renders to, by `Kind/name`."""
    return by_name(kustomize(K8S / "base"))


def pod(manifest: Manifest) -> Manifest:
    return manifest["spec"]["template"]["spec"]


def container(manifest: Manifest) -> Manifest:
    (only,) = pod(manifest)["containers"]
    return only


def test_kustomization_holds_exactly_these_objects(rendered: dict[str, Manifest]) -> None:
    """No namespace, no secret: both belong to whoever deploys."""
    assert sorted(rendered) == [
        "ConfigMap/stockflow",
        "Deployment/stockflow",
        "Job/stockflow-topics-ensure",
        "NetworkPolicy/stockflow-default-deny",
        "NetworkPolicy/stockflow-egress",
        "NetworkPolicy/stockflow-metrics",
        "PodDisruptionBudget/stockflow",
        "Service/stockflow",
        "ServiceAccount/stockflow",
    ]
    assert [name for name, one in rendered.items() if "namespace" in one["metadata"]] == []


def test_the_four_newest_minors_are_known() -> None:
    """The validator ships four consecutive minors, so that the next test means something."""
    minors = [int(version.split(".")[1]) for version in NEWEST_MINORS]
    assert minors == list(range(minors[0], minors[0] + 4))


@pytest.mark.parametrize("version", NEWEST_MINORS)
def test_every_object_fits_the_schema_of(version: str, rendered: dict[str, Manifest]) -> None:
    """Strict: a misspelt or misplaced field is an error. The example secret is held to the same."""
    for manifest in [*rendered.values(), *by_name(EXAMPLE.read_text()).values()]:
        validated = kubernetes_validate.validate(manifest, version, strict=True)
        assert validated == kubernetes_validate.utils.major_minor(version)


def test_schema_check_refuses_a_misspelt_field(rendered: dict[str, Manifest]) -> None:
    """The check above can fail."""
    deployment = rendered["Deployment/stockflow"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**deployment, "spec": {**deployment["spec"], "replica": 2}}, NEWEST_MINORS[-1], strict=True
        )


def test_config_map_sets_only_variables_that_the_program_reads(rendered: dict[str, Manifest]) -> None:
    """Every variable is a setting, its value is accepted, and it is text as the environment wants it."""
    data = rendered["ConfigMap/stockflow"]["data"]
    assert [name for name in data if not is_setting(name)] == []
    assert [name for name, value in data.items() if not isinstance(value, str)] == []
    load(data)


def is_setting(name: str) -> bool:
    known = {PREFIX + one.name.upper() for one in fields(Settings) if one.name != "kafka"}
    return name in known or name.startswith(KAFKA_PREFIX)


def test_config_map_repeats_the_defaults_except_for_addresses(rendered: dict[str, Manifest]) -> None:
    """A default that changes in the program changes here too: only the addresses are placeholders."""
    settings, defaults = load(rendered["ConfigMap/stockflow"]["data"]), Settings()
    different = {one.name for one in fields(Settings) if getattr(settings, one.name) != getattr(defaults, one.name)}
    assert different == {"bootstrap_servers", "redis_url"}


def test_example_credentials_are_read_from_their_files(rendered: dict[str, Manifest], tmp_path: Path) -> None:
    """Each file that a variable, or the address of Redis, names is a key of the secret, and none is left over."""
    example = by_name(EXAMPLE.read_text())
    secret, names = example["Secret/stockflow-credentials"], example["ConfigMap/stockflow-credentials"]["data"]
    for key, value in secret["stringData"].items():
        (tmp_path / key).write_text(value + "\n")
    named = {value for name, value in names.items() if name.endswith("_FILE")}
    named |= set(re.findall(rf"{SECRETS_FOLDER}/[\w.-]+", secret["stringData"]["redis-url"]))
    assert named == {f"{SECRETS_FOLDER}/{key}" for key in secret["stringData"]}
    assert [name for name in names if not is_setting(name.removesuffix("_FILE"))] == []
    settings = load(
        {
            **rendered["ConfigMap/stockflow"]["data"],
            **{name: value.replace(SECRETS_FOLDER, str(tmp_path)) for name, value in names.items()},
        }
    )
    assert settings.redis_url == secret["stringData"]["redis-url"]
    assert settings.metrics_token == secret["stringData"]["metrics-token"]
    assert settings.kafka == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": secret["stringData"]["kafka-username"],
        "sasl.password": secret["stringData"]["kafka-password"],
    }


@pytest.mark.parametrize("name", ["Deployment/stockflow", "Job/stockflow-topics-ensure"])
def test_settings_and_optional_credentials_reach_the_container(name: str, rendered: dict[str, Manifest]) -> None:
    """Plain settings are required, credentials optional, and secrets come as files, never as variables."""
    manifest = rendered[name]
    assert container(manifest)["envFrom"] == [
        {"configMapRef": {"name": "stockflow"}},
        {"configMapRef": {"name": "stockflow-credentials", "optional": True}},
    ]
    assert "env" not in container(manifest)
    mounts = {one["name"]: one for one in container(manifest)["volumeMounts"]}
    assert mounts["credentials"] == {"name": "credentials", "mountPath": SECRETS_FOLDER, "readOnly": True}
    volumes = {one["name"]: one for one in pod(manifest)["volumes"]}
    assert volumes["credentials"]["secret"] == {
        "secretName": "stockflow-credentials",
        "defaultMode": 0o440,
        "optional": True,
    }


@pytest.mark.parametrize("name", ["Deployment/stockflow", "Job/stockflow-topics-ensure"])
def test_container_has_no_rights_it_does_not_need(name: str, rendered: dict[str, Manifest]) -> None:
    """The restricted profile of the pod security standards, and a root file system that cannot be written."""
    manifest = rendered[name]
    security = pod(manifest)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["fsGroup"] == security["runAsGroup"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(manifest)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", ["Deployment/stockflow", "Job/stockflow-topics-ensure"])
def test_services_cannot_set_variables_of_the_program(name: str, rendered: dict[str, Manifest]) -> None:
    """With service links a Service `stockflow-metrics` would set STOCKFLOW_METRICS_PORT to an URL."""
    assert pod(rendered[name])["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["Deployment/stockflow", "Job/stockflow-topics-ensure"])
def test_image_is_the_version_of_this_tree(name: str, rendered: dict[str, Manifest]) -> None:
    """The tag follows the program's version, so a release cannot ship manifests of another one."""
    assert container(rendered[name])["image"] == f"stockflow:{__version__}"


@pytest.mark.parametrize("name", ["Deployment/stockflow", "Job/stockflow-topics-ensure"])
def test_command_exists(name: str, rendered: dict[str, Manifest]) -> None:
    """The command line has the command that the container starts."""
    program, *words = container(rendered[name])["command"]
    assert program == "stockflow"
    installed = Path(sysconfig.get_path("scripts")) / program
    result = run(str(installed), *words, "--help")
    assert result.returncode == 0, result.stderr
    assert f"Usage: {program} {' '.join(words)}" in " ".join(result.stdout.split())


def test_probes_ask_what_the_health_server_answers(rendered: dict[str, Manifest]) -> None:
    """Paths and port of the probes are those of the program and of the settings beside them."""
    running = container(rendered["Deployment/stockflow"])
    settings = load(rendered["ConfigMap/stockflow"]["data"])
    assert running["ports"] == [{"name": "metrics", "containerPort": settings.metrics_port}]
    assert settings.metrics_port == Settings().metrics_port
    asked = {
        name: (running[name]["httpGet"]["path"], running[name]["httpGet"]["port"])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": (health.LIVE_PATH, "metrics"),
        "livenessProbe": (health.LIVE_PATH, "metrics"),
        "readinessProbe": (health.READY_PATH, "metrics"),
    }


def test_service_finds_the_replicas_and_not_the_job(rendered: dict[str, Manifest]) -> None:
    """The Service's selector is the Deployment's; its port is the container's; the Job's pods do not match."""
    service, deployment = rendered["Service/stockflow"]["spec"], rendered["Deployment/stockflow"]["spec"]
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    job_labels = rendered["Job/stockflow-topics-ensure"]["spec"]["template"]["metadata"]["labels"]
    assert not service["selector"].items() <= job_labels.items()
    assert service["ports"] == [{"name": "metrics", "port": Settings().metrics_port, "targetPort": "metrics"}]


def test_grace_period_is_longer_than_the_longest_shutdown(rendered: dict[str, Manifest]) -> None:
    """A shutdown waits for Kafka for at most a lease; the kill comes only after that."""
    lease_ms = load(rendered["ConfigMap/stockflow"]["data"]).lease_ms
    grace_ms = pod(rendered["Deployment/stockflow"])["terminationGracePeriodSeconds"] * 1_000
    assert grace_ms >= lease_ms + EXIT_MARGIN_MS


def test_rollout_never_takes_a_replica_away_first(rendered: dict[str, Manifest]) -> None:
    """Two replicas, and a new one is ready before an old one goes; the partitions suffice for the extra one."""
    spec = rendered["Deployment/stockflow"]["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert spec["replicas"] == 2
    assert spec["replicas"] + 1 <= load(rendered["ConfigMap/stockflow"]["data"]).partitions
    spread = pod(rendered["Deployment/stockflow"])["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert [one["labelSelector"]["matchLabels"] for one in spread] == [spec["selector"]["matchLabels"]] * 2
