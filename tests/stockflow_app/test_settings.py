"""Settings that cannot work are refused with a text that says what to change, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from stock.doubts import Thresholds
from stockflow.settings import RESERVED_KAFKA_PROPERTIES, InvalidSettings, load


@pytest.mark.parametrize(
    ("session_ms", "lease_ms", "fine"),
    [(None, 44_999, True), (None, 45_000, False), (6_000, 5_999, True), (6_000, 6_000, False), (6_000, None, False)],
)
def test_a_classic_members_lease_ends_before_its_session(
    session_ms: int | None, lease_ms: int | None, fine: bool
) -> None:
    """Else another owner may write while this one still believes in its lease."""
    environ = {"STOCKFLOW_GROUP_PROTOCOL": "classic"}
    if session_ms is not None:
        environ["STOCKFLOW_KAFKA__SESSION_TIMEOUT_MS"] = str(session_ms)
    if lease_ms is not None:
        environ["STOCKFLOW_LEASE_MS"] = str(lease_ms)
    if fine:
        assert load(environ).lease_ms == lease_ms
        return
    with pytest.raises(InvalidSettings, match=f"STOCKFLOW_LEASE_MS must be shorter .* {session_ms or 45_000} ms"):
        load(environ)


@pytest.mark.parametrize("name", sorted(RESERVED_KAFKA_PROPERTIES | {"group.instance.id"}))
def test_properties_that_carry_a_guarantee_are_refused(name: str) -> None:
    """A static member's id, for one, would let replicas of one deployment fence each other in turn."""
    variable = "STOCKFLOW_KAFKA__" + name.replace(".", "_").upper()
    with pytest.raises(InvalidSettings, match=f"{variable}: {name} is set by stockflow"):
        load({variable: "x"})


@pytest.mark.parametrize(
    "url",
    [
        "redis://[::1",
        "redis://localhost:99999999/0",
        "redis://localhost:0/0",
        "redis://localhost:port",
        "redis+sentinel://one:26379,two:99999999/main",
        "http://localhost:6379",
        "localhost:6379",
        "",
    ],
)
def test_a_malformed_redis_address_is_refused(url: str) -> None:
    """As a wrong setting, not as a crash."""
    with pytest.raises(InvalidSettings, match="STOCKFLOW_REDIS_URL is not an address"):
        load({"STOCKFLOW_REDIS_URL": url})


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:secret@[::1]:6379/0",
        "rediss://user:secret@cache.example:6380/1",
        "unix:///run/redis.sock",
        "redis+sentinel://one:26379,two:26379/main",
        "redis+cluster://one:6379,two:6379",
    ],
)
def test_every_form_of_a_redis_address_is_taken(url: str) -> None:
    """One server, a socket, or several for sentinel and cluster."""
    assert load({"STOCKFLOW_REDIS_URL": url}).redis_url == url


FAR = "redis://user:hush-hush@cache.example:6379/0"


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        (FAR, True),
        ("redis://:hush-hush@10.0.0.5/0", True),
        ("redis://cache.example/0?password=hush-hush", True),
        ("redis+sentinel://:hush-hush@localhost:26379,two.example:26379/main", True),
        ("redis+sentinel://localhost:26379,two.example:26379/main?sentinel_password=hush-hush", True),
        ("redis+cluster://:hush-hush@one.example:6379?ssl=false&ssl_cert_reqs=none", True),
        ("redis+cluster://:hush-hush@one.example:6379?ssl=true", False),
        ("redis+sentinel://:hush-hush@one.example:26379/main?ssl_ca_certs=/ca.pem", False),
        ("redis://user@cache.example/0", False),
        ("redis://cache.example/0", False),
        ("redis://:hush-hush@127.0.0.2/0", False),
        ("redis://:hush-hush@[::1]/0", False),
        ("unix://:hush-hush@/run/redis.sock", False),
    ],
)
def test_a_password_for_redis_goes_to_no_other_machine_unencrypted(url: str, refused: bool) -> None:
    """Nor does the text that refuses it contain it."""
    if not refused:
        assert load({"STOCKFLOW_REDIS_URL": url}).redis_url == url
        return
    with pytest.raises(InvalidSettings, match="unencrypted") as raised:
        load({"STOCKFLOW_REDIS_URL": url})
    assert "hush-hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("protocol", "brokers", "refused"),
    [
        ("SASL_PLAINTEXT", "kafka.example:9092", True),
        ("sasl_plaintext", "127.0.0.1:9092,10.0.0.5:9092", True),
        ("SASL_PLAINTEXT", "SASL_PLAINTEXT://kafka.example:9092", True),
        ("SASL_PLAINTEXT", "localhost:9092, [::1]:9092", False),
        ("SASL_SSL", "kafka.example:9093", False),
        ("SSL", "kafka.example:9093", False),
        ("PLAINTEXT", "kafka.example:9092", False),
    ],
)
def test_credentials_for_kafka_go_to_no_other_machine_unencrypted(protocol: str, brokers: str, refused: bool) -> None:
    """Whatever the mechanism: what SCRAM says without TLS can be guessed at offline."""
    environ = {"STOCKFLOW_KAFKA__SECURITY_PROTOCOL": protocol, "STOCKFLOW_BOOTSTRAP_SERVERS": brokers}
    if not refused:
        assert load(environ).bootstrap_servers == brokers
        return
    with pytest.raises(InvalidSettings, match="use SASL_SSL"):
        load(environ)


def test_a_setting_may_stand_in_a_file(tmp_path: Path) -> None:
    """For secrets; the white space around it does not count."""
    file = tmp_path / "secret"
    file.write_text("päss\n", encoding="utf-8")
    assert dict(load({"STOCKFLOW_KAFKA__SASL_PASSWORD_FILE": str(file)}).kafka) == {"sasl.password": "päss"}


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """By its name, without a word of what is in it."""
    file = tmp_path / "secret"
    file.write_bytes(b"pass\xff")
    with pytest.raises(InvalidSettings, match=r"STOCKFLOW_KAFKA__SASL_PASSWORD_FILE: .*secret is not UTF-8 text$"):
        load({"STOCKFLOW_KAFKA__SASL_PASSWORD_FILE": str(file)})


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """By its name and the reason."""
    with pytest.raises(InvalidSettings, match=r"STOCKFLOW_REDIS_URL_FILE: cannot read .*: No such file"):
        load({"STOCKFLOW_REDIS_URL_FILE": str(tmp_path / "absent")})


def test_the_order_of_nodes_is_read_and_checked() -> None:
    """A criterion that does not exist is refused before anything is started."""
    assert load({}).node_order == ("whole", "most", "near", "kind", "id")
    assert load({"STOCKFLOW_NODE_ORDER": "whole,near,warehouse,most"}).node_order[-2:] == ("most", "id")
    with pytest.raises(InvalidSettings, match=r"STOCKFLOW_NODE_ORDER='cheapest' must be a comma list .* of: whole"):
        load({"STOCKFLOW_NODE_ORDER": "cheapest"})


def test_thresholds_of_alerts_are_settings() -> None:
    """In seconds outside, microseconds inside; without any, those that the core has by itself."""
    assert load({}).thresholds() == Thresholds()
    ours = {"COUNT_VARIANCE_UNITS": 1, "COUNT_VARIANCE_PERCENT": 0, "ALERT_UNCLAIMED_S": 2, "ALERT_HOLD_S": 3}
    environ = {f"STOCKFLOW_{name}": str(number) for name, number in ours.items()}
    assert load({**environ, "STOCKFLOW_ALERT_ALLOCATION_S": "4"}).thresholds() == Thresholds(
        1, 0, 2_000_000, 3_000_000, 4_000_000
    )
    with pytest.raises(InvalidSettings, match="STOCKFLOW_ALERT_HOLD_S=-1 must be between"):
        load({"STOCKFLOW_ALERT_HOLD_S": "-1"})


@pytest.mark.parametrize(
    ("text", "environ", "exports"),
    [
        ("nothing is said", {}, False),
        ("for all signals", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ("for traces", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, True),
        ("empty is nothing", {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ("disabled", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_SDK_DISABLED": "True"}, False),
        ("no traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_TRACES_EXPORTER": "none"}, False),
        ("a wrong address of what is off", {"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "true"}, False),
        ("key, encrypted", {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:1", "OTEL_EXPORTER_OTLP_HEADERS": "k=v"}, True),
        ("key, here", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:1", "OTEL_EXPORTER_OTLP_HEADERS": "k=v"}, True),
        (
            "gRPC for all, HTTP for traces",
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            True,
        ),
    ],
)
def test_spans_are_exported_where_opentelemetrys_variables_name_a_collector(
    text: str, environ: dict[str, str], exports: bool
) -> None:
    """And nowhere else: off by default."""
    assert load(environ).export_spans is exports, text


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT is not an address"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:99999999"}, "OTLP_TRACES_ENDPOINT is not an address"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='grpc' must be http/protobuf",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_TRACES_EXPORTER": "zipkin"}, "must be otlp or none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_HEADERS": "k=v"}, "unencrypted"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@c:1"}, "unencrypted"),
    ],
)
def test_collector_that_cannot_be_used_is_refused(environ: dict[str, str], told: str) -> None:
    """With what to change, and without the secret."""
    with pytest.raises(InvalidSettings, match=told) as refused:
        load(environ)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("token", "is_taken"),
    [
        ("s3cret-._~+/=", True),
        ("", False),
        ("two words", False),
        ("s3crét", False),
        ("a" * 4096, True),
        ("a" * 4097, False),
    ],
)
def test_a_token_for_the_metrics_fits_into_a_header(token: str, is_taken: bool) -> None:
    """An empty one, as from an empty file, would open what it was to close; no text shows it."""
    if is_taken:
        settings = load({"STOCKFLOW_METRICS_TOKEN": token})
        assert settings.metrics_token == token
        assert token not in repr(settings)
        return
    with pytest.raises(InvalidSettings, match="METRICS_TOKEN must be") as raised:
        load({"STOCKFLOW_METRICS_TOKEN": token})
    assert not token or token not in str(raised.value)
