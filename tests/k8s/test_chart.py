"""The chart with many combinations of values, held against schemas and against what a pod of stockflow may do."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from schemas.topics import TOPICS
from stockflow import __version__
from stockflow.settings import Settings
from tests.k8s import custom
from tests.k8s.test_manifests import NEWEST_MINORS
from tests.k8s.tools import CHART, K8S, ROOT, Manifest, Manifests, by_name, helm, pod_spec, run, tool

SWITCHES = {
    "autoscaling.kind": ("none", "keda", "hpa"),
    "strimzi.enabled": ("false", "true"),
    "audit.enabled": ("false", "true"),
    "monitoring.enabled": ("false", "true"),
}
COMBINATIONS = {
    ",".join(chosen): ("--set", ",".join(chosen))
    for chosen in (
        [f"{name}={value}" for name, value in zip(SWITCHES, values, strict=True)]
        for values in itertools.product(*SWITCHES.values())
    )
}
SPECIAL: dict[str, tuple[str, ...]] = {
    "a digest": ("--set", f"image.digest=sha256:{'0' * 64}"),
    "a registry with a password": (
        "--set",
        "image.repository=registry.example/stockflow,image.pullSecrets[0].name=pull",
    ),
    "no network policies, no budget": ("--set", "networkPolicy.enabled=false,podDisruptionBudget.enabled=false"),
    "spans": (
        *("--set-string", "settings.OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318"),
        *("--set", "networkPolicy.collector.ports[0]=4318"),
    ),
    "no preStop": ("--set", "preStopSeconds=0"),
    "topics made by hand": ("--set", "topicsEnsure.enabled=false"),
    "another port": ("--set-string", "settings.STOCKFLOW_METRICS_PORT=9500"),
    "a prefix and another group": (
        *("--set-string", "settings.STOCKFLOW_TOPIC_PREFIX=eu_,settings.STOCKFLOW_GROUP_ID=eu"),
        *("--set", "strimzi.enabled=true,autoscaling.kind=keda,audit.enabled=true"),
    ),
    "client certificates": (
        "--set",
        "strimzi.enabled=true,strimzi.authentication=tls,autoscaling.kind=keda,audit.enabled=true",
    ),
    "a scaler with credentials of its own": ("--set", "autoscaling.kind=keda,autoscaling.authentication=mine"),
    "few partitions": (
        *("--set-string", "settings.STOCKFLOW_PARTITIONS=3"),
        *("--set", "autoscaling.kind=hpa,strimzi.enabled=true,strimzi.replicas=1"),
    ),
    "placed": (
        *("--set", "nodeSelector.disk=fast,priorityClassName=high,podLabels.team=stock,podAnnotations.note=x"),
        *("--set", "tolerations[0].key=stock,tolerations[0].operator=Exists"),
    ),
    "much memory": ("--set", "sizing.balances=10000000,sizing.skus=1000000,sizing.factsRemembered=6000000"),
    "memory as told": ("--set", "resources.memory=3Gi"),
    "monitoring found by labels": ("--set", "monitoring.enabled=true,monitoring.labels.release=prometheus"),
    "metrics for who shows a token": ("--set", "monitoring.enabled=true,monitoring.tokenSecret=stockflow-credentials"),
    "production": ("-f", str(K8S / "overlays/production/values.yaml")),
    "hpa": ("-f", str(K8S / "overlays/hpa/values.yaml")),
}
ALL = {"defaults": (), **COMBINATIONS, **SPECIAL}
RELEASES = ("stockflow", "eu", "stockflow-with-a-name-that-is-as-long-as-is-allowed")
OURS = re.compile(r"^(kafka\.strimzi\.io|keda\.sh|monitoring\.coreos\.com)/")
EXTERNAL = {"stockflow-credentials", "kafka-cluster-ca-cert"}  # yours, and Strimzi's
_valid: set[str] = set()


@pytest.fixture(params=ALL, ids=lambda text: text.replace(" ", "-"))
def rendered(request: pytest.FixtureRequest) -> Manifests:
    """What the chart renders to with one combination."""
    return by_name(helm(*ALL[request.param]))


def test_there_are_combinations_enough() -> None:
    """All switches with each other, and what they do not cover."""
    assert len(COMBINATIONS) == 24
    assert len(ALL) == 43


def test_chart_is_without_a_finding_of_lint() -> None:
    """`helm lint --strict`, with the defaults and with everything on."""
    for values in ((), SPECIAL["production"]):
        result = run(tool("helm"), "lint", "--strict", "--quiet", str(CHART), *values)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_object_fits_its_schema(rendered: Manifests) -> None:
    """Kubernetes' own on the four newest minors, strict; custom resources by their published fields."""
    for manifest in rendered.values():
        text = json.dumps(manifest, sort_keys=True)
        if text in _valid:
            continue
        if OURS.match(manifest["apiVersion"]):
            custom.validate(manifest)
        else:
            for version in NEWEST_MINORS:
                kubernetes_validate.validate(manifest, version, strict=True)
        _valid.add(text)


@pytest.mark.parametrize(
    ("text", "kind", "path", "value"),
    [
        ("operation was removed in v1", "KafkaUser", "spec.authorization.acls.0.operation", "Read"),
        ("an unknown operation", "KafkaUser", "spec.authorization.acls.0.operations", ["Reed"]),
        ("an old version", "KafkaTopic", "apiVersion", "kafka.strimzi.io/v1beta2"),
        ("partitions as text", "KafkaTopic", "spec.partitions", "12"),
        ("a misspelt threshold", "ScaledObject", "spec.triggers.0.metadata.lagTreshold", "5"),
        ("a number where KEDA wants text", "ScaledObject", "spec.triggers.0.metadata.lagThreshold", 5),
        ("a key of its parent", "PodMonitor", "spec.interval", "15s"),
        ("no unit", "PrometheusRule", "spec.groups.0.interval", "30"),
        ("neither alert nor record", "PrometheusRule", "spec.groups.0.rules.0", {"expr": "1"}),
    ],
)
def test_custom_schema_refuses(text: str, kind: str, path: str, value: object) -> None:
    """The schemas above can fail."""
    objects = by_name(helm("--set", "strimzi.enabled=true,autoscaling.kind=keda,monitoring.enabled=true"))
    broken: Any = json.loads(json.dumps(next(one for one in objects.values() if one["kind"] == kind)))
    custom.validate(broken)
    at = broken
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        at = at[part]
    at[last] = value
    with pytest.raises(jsonschema.ValidationError):
        custom.validate(broken)


def pods(objects: Manifests) -> Iterator[tuple[Manifest, Manifest, dict[str, str]]]:
    """Each object that makes pods, with the pod and its labels."""
    for manifest in objects.values():
        found = pod_spec(manifest)
        if found is not None:
            job = manifest["spec"].get("jobTemplate", manifest)
            yield manifest, found, job["spec"]["template"]["metadata"]["labels"]


def test_pods_keep_to_the_restricted_profile(rendered: Manifests) -> None:
    """Pod Security `restricted`, a root file system that cannot be written, no token and no service links."""
    for _, pod, _ in pods(rendered):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod) == set()
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert [port for port in container.get("ports", []) if "hostPort" in port] == []
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert "cpu" in container["resources"]["requests"]
            assert "cpu" not in container["resources"]["limits"]
        assert {key for volume in pod["volumes"] for key in volume} <= {"name", "secret", "emptyDir"}


def test_objects_are_of_this_release_only(rendered: Manifests) -> None:
    """Nothing cluster-wide, no namespace, names that fit, the chart's labels on each."""
    for manifest in rendered.values():
        assert manifest["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
        assert "namespace" not in manifest["metadata"]
        assert manifest["metadata"]["name"].startswith("stockflow")
        assert len(manifest["metadata"]["name"]) <= 63
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "stockflow"
        assert labels["app.kubernetes.io/instance"] == "stockflow"
        assert labels["app.kubernetes.io/version"] == __version__


def test_what_is_referred_to_is_there(rendered: Manifests) -> None:
    """ConfigMaps, Secrets and the service account of a pod are rendered, made by a KafkaUser, or known to be yours."""
    made = {one["metadata"]["name"] for one in rendered.values() if one["kind"] == "KafkaUser"} | EXTERNAL
    for _, pod, _ in pods(rendered):
        assert f"ServiceAccount/{pod['serviceAccountName']}" in rendered
        for volume in pod["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in made
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            for source in container["envFrom"]:
                name = source["configMapRef"]["name"]
                assert f"ConfigMap/{name}" in rendered or source["configMapRef"].get("optional")


def test_selectors_find_the_pipeline_and_nothing_else(rendered: Manifests) -> None:
    """Deployment, Service, budget, monitor and spread mean the same pods; the deny means all of them."""
    deployment = rendered["Deployment/stockflow"]["spec"]
    selector = deployment["selector"]["matchLabels"]
    labels = {manifest["metadata"]["name"]: of_pod for manifest, _, of_pod in pods(rendered)}
    assert [name for name, of_pod in labels.items() if selector.items() <= of_pod.items()] == ["stockflow"]
    same = [rendered["Service/stockflow"]["spec"]["selector"]]
    same += [one["labelSelector"]["matchLabels"] for one in deployment["template"]["spec"]["topologySpreadConstraints"]]
    same += [
        one["spec"]["selector"]["matchLabels"]
        for one in rendered.values()
        if one["kind"] in ("PodDisruptionBudget", "PodMonitor")
    ]
    assert [one for one in same if one != selector] == []
    policies = [one for one in rendered.values() if one["kind"] == "NetworkPolicy"]
    if policies:
        deny = rendered["NetworkPolicy/stockflow-default-deny"]["spec"]
        assert sorted(deny) == ["podSelector", "policyTypes"]
        assert deny["policyTypes"] == ["Ingress", "Egress"]
        for of_pod in labels.values():
            assert deny["podSelector"]["matchLabels"].items() <= of_pod.items()


def test_autoscalers_stay_below_the_partitions(rendered: Manifests) -> None:
    """Bounded by P, and then the Deployment has no number of its own that each rollout would set back."""
    settings = rendered["ConfigMap/stockflow"]["data"]
    bounds = [
        (spec.get("minReplicas", spec.get("minReplicaCount")), spec.get("maxReplicas", spec.get("maxReplicaCount")))
        for one in rendered.values()
        if (spec := one["spec"] if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject") else None)
    ]
    assert ("replicas" in rendered["Deployment/stockflow"]["spec"]) == (bounds == [])
    for least, most in bounds:
        assert 2 <= least <= most == int(settings["STOCKFLOW_PARTITIONS"]) - 1


def test_scaler_asks_for_the_group_of_the_pipeline(rendered: Manifests) -> None:
    """All topics of the group, at the same Kafka."""
    settings = rendered["ConfigMap/stockflow"]["data"]
    for one in rendered.values():
        if one["kind"] == "ScaledObject":
            asked = one["spec"]["triggers"][0]["metadata"]
            assert asked["consumerGroup"] == settings["STOCKFLOW_GROUP_ID"]
            assert asked["bootstrapServers"] == settings["STOCKFLOW_BOOTSTRAP_SERVERS"]
            assert "topic" not in asked


def test_topics_are_those_of_the_registry(rendered: Manifests) -> None:
    """Strimzi makes what `topics ensure` would make; then the job is not there. Rights name these topics only."""
    topics = [one["spec"] for one in rendered.values() if one["kind"] == "KafkaTopic"]
    if not topics:
        return
    settings = rendered["ConfigMap/stockflow"]["data"]
    prefix = settings["STOCKFLOW_TOPIC_PREFIX"]
    found = {one["topicName"]: {**one["config"]} for one in topics}
    for config in found.values():
        config.pop("min.insync.replicas", None)
    assert found == {prefix + topic.name: topic.config() for topic in TOPICS}
    assert {one["partitions"] for one in topics} == {int(settings["STOCKFLOW_PARTITIONS"])}
    assert [one for one in rendered if one.startswith("Job/")] == []
    for user in (one for one in rendered.values() if one["kind"] == "KafkaUser"):
        for acl in user["spec"]["authorization"]["acls"]:
            if acl["resource"]["type"] == "topic":
                assert acl["resource"]["name"] in found
            assert acl["resource"]["patternType"] == "literal"
            assert {"All", "Create", "Delete", "Alter", "AlterConfigs", "ClusterAction"} & set(
                acl["operations"]
            ) == set()


def test_replica_may_take_its_lease_to_end(rendered: Manifests) -> None:
    """A shutdown waits at most a lease for Kafka; the kill comes after that, and after preStop."""
    lease_s = int(rendered["ConfigMap/stockflow"]["data"]["STOCKFLOW_LEASE_MS"]) / 1_000
    pod = pod_spec(rendered["Deployment/stockflow"])
    assert pod is not None
    hook = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] >= lease_s + hook + 10


def cost_model() -> Mapping[str, int]:
    """Bytes as README.md states them."""
    text = (ROOT / "README.md").read_text().partition("## Size it")[2].partition("\n## ")[0]
    return {
        "balance": int(re.search(r"idle balance \| (\d+) bytes", text)[1]),  # type: ignore[index]
        "network": int(re.search(r"(\d+) with ten", text)[1]),  # type: ignore[index]
        "fact": int(re.search(r"remembered fact .*\| (\d+) bytes", text)[1]),  # type: ignore[index]
        "active": int(re.search(r"that has any costs some (\d+) more", text)[1]),  # type: ignore[index]
        "order": round(float(re.search(r"order line \| ([\d.]+) KB", text)[1]) * 1_000),  # type: ignore[index]
    }


@pytest.mark.parametrize(
    ("text", "balances", "skus", "facts", "orders"),
    [
        ("nothing", 0, 0, 0, 0),
        ("the defaults", 200_000, 20_000, 1_000_000, 50_000),
        ("a chain of stores", 10_000_000, 1_000_000, 6_000_000, 2_000_000),
        ("few facts on many balances", 5_000_000, 50_000, 10_000, 0),
    ],
)
def test_memory_follows_the_cost_model(text: str, balances: int, skus: int, facts: int, orders: int) -> None:
    """Twice what README.md says that these take at rest, and room for the program, rounded up a little."""
    cost = cost_model()
    resting = cost["balance"] * balances + cost["network"] * skus + cost["fact"] * facts + cost["order"] * orders
    resting += cost["active"] * min(balances, facts)
    needed_mi = 160 + 2 * resting / 2**20
    sizes = {"balances": balances, "skus": skus, "factsRemembered": facts, "ordersRemembered": orders}
    objects = by_name(helm("--set", ",".join(f"sizing.{name}={value}" for name, value in sizes.items())))
    pod = pod_spec(objects["Deployment/stockflow"])
    assert pod is not None
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", pod["containers"][0]["resources"]["limits"]["memory"]).groups()  # type: ignore[union-attr]
    assert 0 <= int(number) * {"Mi": 1, "Gi": 1024}[unit] - needed_mi <= 129


@pytest.mark.parametrize(
    ("text", "flag", "value", "says"),
    [
        ("more replicas than partitions", "--set", "replicas=13", "more replicas than partitions"),
        ("a scaler beyond the partitions", "--set", "autoscaling.kind=hpa,autoscaling.maxReplicas=13", "only 12"),
        ("a short grace", "--set", "terminationGracePeriodSeconds=35", "must be at least 42"),
        ("a long lease", "--set-string", "settings.STOCKFLOW_LEASE_MS=60000", "must be at least 72"),
        ("an unknown value", "--set", "replicaCount=2", "replicaCount"),
        ("an unknown authentication", "--set", "strimzi.authentication=oauth", "authentication"),
        ("an unknown kind of scaler", "--set", "autoscaling.kind=vpa", "autoscaling"),
        ("a setting that is no text", "--set", "settings.STOCKFLOW_LINGER_MS=5", "STOCKFLOW_LINGER_MS"),
        ("a setting of something else", "--set-string", "settings.KAFKA_OPTS=x", "KAFKA_OPTS"),
        ("a tag in place of a digest", "--set", "image.digest=latest", "digest"),
    ],
)
def test_values_that_cannot_work_are_refused(text: str, flag: str, value: str, says: str) -> None:
    """Before anything is installed, with a word about which."""
    result = run(tool("helm"), "template", "stockflow", str(CHART), flag, value)
    assert result.returncode != 0
    assert says in result.stderr


def test_a_release_of_another_name_keeps_to_itself() -> None:
    """Names and selectors follow the release, so two can stand in one namespace."""
    for release in RELEASES:
        objects = by_name(helm("--set", "monitoring.enabled=true,audit.enabled=true", release=release))
        for manifest in objects.values():
            assert len(manifest["metadata"]["name"]) <= 63
            if manifest["apiVersion"] != "monitoring.coreos.com/v1":
                kubernetes_validate.validate(manifest, NEWEST_MINORS[-1], strict=True)
        selectors = {
            json.dumps(one["spec"]["selector"]["matchLabels"])
            for one in objects.values()
            if one["kind"] in ("Deployment", "PodMonitor")
        }
        assert len(selectors) == 1
        assert f'"app.kubernetes.io/instance": "{release}"' in selectors.pop()


def test_another_job_comes_with_another_content() -> None:
    """A Job cannot be changed, so its name follows what it would do; the same values give the same name."""
    names = [
        next(name for name in by_name(helm(*values)) if name.startswith("Job/"))
        for values in ((), ("--set-string", "settings.STOCKFLOW_PARTITIONS=24"), ("--set", "image.tag=0.2.0"), ())
    ]
    assert len(set(names)) == 3
    assert names[0] == names[3]


def test_chart_is_of_this_version() -> None:
    """Chart and program carry one number."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


def test_defaults_of_the_chart_are_those_of_the_program() -> None:
    """Of the settings that both name, except for addresses."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, value in values["settings"].items():
        if name not in ("STOCKFLOW_BOOTSTRAP_SERVERS", "STOCKFLOW_REDIS_URL"):
            assert value == str(getattr(Settings(), name.removeprefix("STOCKFLOW_").lower()))


def test_readme_explains_every_value() -> None:
    """Each value of the chart stands in the table of k8s/README.md, and no other."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = (K8S / "README.md").read_text().partition("## Values")[2].partition("\n## ")[0]
    told = {name.partition(".")[0] for name in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)*)`", text)}
    assert set(values) - told == set()
