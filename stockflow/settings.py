"""The only reader of the environment: every setting, its default and its limits; never a connection."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from sinks.addresses import host_of, read_address
from stock.doubts import Thresholds
from stock.times import SECOND_US
from stock.verdicts import NODE_ORDER, node_order

PREFIX = "STOCKFLOW_"
KAFKA_PREFIX = PREFIX + "KAFKA__"

# librdkafka properties that carry a guarantee of this program; a user's value would silently break it.
RESERVED_KAFKA_PROPERTIES = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "group.remote.assignor",
        "bootstrap.servers",
        "metadata.broker.list",
        "delivery.timeout.ms",
        "isolation.level",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "message.max.bytes",
        "message.send.max.retries",
        "message.timeout.ms",
        "partition.assignment.strategy",
        "partitioner",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "request.required.acks",
        "retries",
        "transactional.id",
    }
)


_YEAR_S = 366 * 86_400
_BEARER = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")


class InvalidSettings(ValueError):
    """The environment asks for something that cannot work; the text says what to change."""


@dataclass(frozen=True)
class Settings:
    """All settings of one process. Times are milliseconds as in the environment."""

    bootstrap_servers: str = "localhost:9092"
    redis_url: str = "redis://localhost:6379/0"
    group_id: str = "stockflow"
    topic_prefix: str = ""
    partitions: int = 12
    replication: int = -1
    group_protocol: str = "consumer"
    lease_ms: int = 30_000
    routine_interval_ms: int = 250
    commit_interval_ms: int = 200
    linger_ms: int = 2
    ready_lag_max: int = 10_000
    facts_remembered: int = 500_000
    node_order: tuple[str, ...] = NODE_ORDER
    count_variance_units: int = 2
    count_variance_percent: int = 5
    alert_unclaimed_s: int = 3_600
    alert_hold_s: int = 86_400
    alert_allocation_s: int = 604_800
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9400
    metrics_token: str = field(default="", repr=False)
    http_port: int = 8080
    cloudevents_headers: bool = False
    trace_context: bool = True
    export_spans: bool = False
    accept_lost_input: bool = False
    log_level: str = "info"
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)

    def topic(self, name: str) -> str:
        """The name of a registered topic on the broker: the prefix stands literally in front."""
        return self.topic_prefix + name

    def thresholds(self) -> Thresholds:
        """From when on something is worth an alert."""
        return Thresholds(
            self.count_variance_units,
            self.count_variance_percent,
            self.alert_unclaimed_s * SECOND_US,
            self.alert_hold_s * SECOND_US,
            self.alert_allocation_s * SECOND_US,
        )

    def client_config(self) -> dict[str, str]:
        """librdkafka properties shared by every client: the user's own and the bootstrap servers."""
        return {**self.kafka, "bootstrap.servers": self.bootstrap_servers}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every setting from the environment; `<NAME>_FILE` names a file that holds the value.

    Raises:
        InvalidSettings: a value is not usable, a file cannot be read, or a property would break a guarantee.
    """
    env = dict(os.environ if environ is None else environ)
    values = {name: text for name, text in _with_files(env).items() if name.startswith(PREFIX)}
    defaults = Settings()

    def text(name: str, default: str) -> str:
        return values.get(PREFIX + name, default)

    def number(name: str, default: int, low: int, high: int) -> int:
        raw = text(name, str(default))
        try:
            value = int(raw)
        except ValueError:
            raise InvalidSettings(f"{PREFIX}{name}={raw!r} is not a whole number") from None
        if not low <= value <= high:
            raise InvalidSettings(f"{PREFIX}{name}={value} must be between {low} and {high}")
        return value

    def choice(name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = text(name, default)
        if value not in allowed:
            raise InvalidSettings(f"{PREFIX}{name}={value!r} must be one of: {', '.join(allowed)}")
        return value

    def criteria(name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = text(name, ",".join(default))
        try:
            return node_order(value)
        except ValueError as error:
            raise InvalidSettings(f"{PREFIX}{name}={value!r} {error}") from None

    settings = Settings(
        bootstrap_servers=text("BOOTSTRAP_SERVERS", defaults.bootstrap_servers),
        redis_url=text("REDIS_URL", defaults.redis_url),
        group_id=text("GROUP_ID", defaults.group_id),
        topic_prefix=text("TOPIC_PREFIX", defaults.topic_prefix),
        partitions=number("PARTITIONS", defaults.partitions, 1, 10_000),
        replication=number("REPLICATION", defaults.replication, -1, 100),
        group_protocol=choice("GROUP_PROTOCOL", defaults.group_protocol, ("consumer", "classic")),
        lease_ms=number("LEASE_MS", defaults.lease_ms, 1_000, 3_600_000),
        routine_interval_ms=number("ROUTINE_INTERVAL_MS", defaults.routine_interval_ms, 0, 3_600_000),
        commit_interval_ms=number("COMMIT_INTERVAL_MS", defaults.commit_interval_ms, 10, 60_000),
        linger_ms=number("LINGER_MS", defaults.linger_ms, 0, 1_000),
        ready_lag_max=number("READY_LAG_MAX", defaults.ready_lag_max, 0, 1_000_000_000),
        facts_remembered=number("FACTS_REMEMBERED", defaults.facts_remembered, 1_024, 100_000_000),
        node_order=criteria("NODE_ORDER", defaults.node_order),
        count_variance_units=number("COUNT_VARIANCE_UNITS", defaults.count_variance_units, 0, 1_000_000_000),
        count_variance_percent=number("COUNT_VARIANCE_PERCENT", defaults.count_variance_percent, 0, 1_000_000),
        alert_unclaimed_s=number("ALERT_UNCLAIMED_S", defaults.alert_unclaimed_s, 0, _YEAR_S),
        alert_hold_s=number("ALERT_HOLD_S", defaults.alert_hold_s, 0, _YEAR_S),
        alert_allocation_s=number("ALERT_ALLOCATION_S", defaults.alert_allocation_s, 0, _YEAR_S),
        metrics_host=text("METRICS_HOST", defaults.metrics_host),
        metrics_port=number("METRICS_PORT", defaults.metrics_port, 0, 65_535),
        metrics_token=_token(values.get(PREFIX + "METRICS_TOKEN")),
        http_port=number("HTTP_PORT", defaults.http_port, 0, 65_535),
        cloudevents_headers=choice("CLOUDEVENTS_HEADERS", "false", ("true", "false")) == "true",
        trace_context=choice("TRACE_CONTEXT", "true", ("true", "false")) == "true",
        export_spans=_exports_spans(env),
        accept_lost_input=choice("ACCEPT_LOST_INPUT", "false", ("true", "false")) == "true",
        log_level=choice("LOG_LEVEL", defaults.log_level, ("debug", "info", "warning", "error")),
        kafka=_kafka_properties(values),
    )
    if settings.replication == 0:
        raise InvalidSettings(f"{PREFIX}REPLICATION=0 must be -1 (the broker's default) or at least 1")
    if settings.commit_interval_ms > settings.lease_ms // 5:
        raise InvalidSettings(f"{PREFIX}COMMIT_INTERVAL_MS must be at most a fifth of {PREFIX}LEASE_MS")
    if not settings.bootstrap_servers.strip():
        raise InvalidSettings(f"{PREFIX}BOOTSTRAP_SERVERS is empty: name at least one broker as host:port")
    _check_redis_url(settings.redis_url)
    _refuse_plain_text(settings)
    session_ms = settings.kafka.get("session.timeout.ms", "45000")
    if settings.group_protocol == "classic" and session_ms.isdigit() and settings.lease_ms >= int(session_ms):
        raise InvalidSettings(f"{PREFIX}LEASE_MS must be shorter than the group's session timeout of {session_ms} ms")
    return settings


def _token(told: str | None) -> str:
    """A bearer token as a header carries it (RFC 6750); an empty one would open what it was to close."""
    if told is None:
        return ""
    if not _BEARER.fullmatch(told):
        raise InvalidSettings(f"{PREFIX}METRICS_TOKEN must be 1 to 4096 letters, digits or any of -._~+/=")
    return told


def _check_redis_url(url: str) -> None:
    try:
        parts = [urlsplit(part if "://" in part else f"redis://{part}") for part in url.split(",")]
        fine = parts[0].scheme in REDIS_SCHEMES and "://" in url and all(part.port != 0 for part in parts)
    except ValueError:  # a malformed address, or a port that cannot be
        fine = False
    if not fine:
        raise InvalidSettings(
            f"{PREFIX}REDIS_URL is not an address that begins with one of: {', '.join(REDIS_SCHEMES)}"
        )


def _refuse_plain_text(settings: Settings) -> None:
    """Credentials leave this machine encrypted or not at all."""
    protocol = settings.kafka.get("security.protocol", "plaintext").lower()
    brokers = [broker.rpartition("://")[2].strip() for broker in settings.bootstrap_servers.split(",")]
    if protocol == "sasl_plaintext" and not all(_is_loopback(host_of(broker)) for broker in brokers):
        raise InvalidSettings(
            f"{KAFKA_PREFIX}SECURITY_PROTOCOL=SASL_PLAINTEXT would send credentials unencrypted to another machine: "
            "use SASL_SSL and a listener with TLS"
        )
    redis = read_address(settings.redis_url)
    if redis.has_password and not redis.encrypted and not all(_is_loopback(host) for host in redis.hosts):
        raise InvalidSettings(
            f"{PREFIX}REDIS_URL would send its password unencrypted to another machine: use rediss:// "
            "(for redis+sentinel:// and redis+cluster:// add ?ssl=true)"
        )


def _exports_spans(env: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables name a collector for traces, in a way that this program can follow."""

    def said(name: str) -> tuple[str, str]:
        """The variable of traces, or else that of all signals, and its value; empty stands for none."""
        names = f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"
        return next(((one, env[one].strip()) for one in names if env.get(one, "").strip()), (names[1], ""))

    variable, endpoint = said("ENDPOINT")
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if not endpoint or exporter == "none" or env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if exporter != "otlp":
        raise InvalidSettings(f"OTEL_TRACES_EXPORTER={exporter!r} must be otlp or none")
    protocol_variable, protocol = said("PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise InvalidSettings(
            f"{protocol_variable}={protocol!r} must be http/protobuf: name the collector's port for HTTP, "
            "4318 as a rule, or set OTEL_SDK_DISABLED=true"
        )
    try:
        parts = urlsplit(endpoint)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that cannot be
        fine = False
    if not fine:
        raise InvalidSettings(f"{variable} is not an address that begins with http:// or https://")
    credentials = said("HEADERS")[1] or parts.username or parts.password
    if credentials and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise InvalidSettings(
            f"{variable} would send the collector's credentials unencrypted to another machine: use https://"
        )
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, then; what it stands for may change
        return host == "localhost"


def process_environment() -> dict[str, str]:
    """The environment as it is, for a child process to inherit."""
    return dict(os.environ)


def _with_files(env: dict[str, str]) -> dict[str, str]:
    """The environment with every `<NAME>_FILE` replaced by the content of its file."""
    resolved = dict(env)
    for name, path in env.items():
        if name.startswith(PREFIX) and name.endswith("_FILE"):
            try:
                resolved[name.removesuffix("_FILE")] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InvalidSettings(f"{name}: cannot read {path}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise InvalidSettings(f"{name}: {path} is not UTF-8 text") from None
            del resolved[name]
    return resolved


def _kafka_properties(values: Mapping[str, str]) -> dict[str, str]:
    """`STOCKFLOW_KAFKA__SASL_USERNAME` becomes `sasl.username`; reserved properties are refused."""
    properties = {}
    for name, value in values.items():
        if name.startswith(KAFKA_PREFIX):
            key = name.removeprefix(KAFKA_PREFIX).lower().replace("_", ".")
            if key in RESERVED_KAFKA_PROPERTIES:
                raise InvalidSettings(f"{name}: {key} is set by stockflow, because its guarantees depend on it")
            properties[key] = value
    return properties
