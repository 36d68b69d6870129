"""What a log line looks like, and that no secret stands in it."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
import structlog

from stockflow import logs
from stockflow.settings import Settings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_with_time_level_logger_and_keys() -> None:
    """One line per event: RFC 3339 UTC time first, then level, logger, event, then the caller's keys."""
    stream = io.StringIO()
    logs.configure("info", stream)
    logs.get("stockflow.source").bind(partition=3).info(
        "assigned", offsets={"pos-sales": 12}, at=datetime(2026, 1, 1, tzinfo=timezone.utc)
    )
    (line,) = lines(stream)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line.pop("timestamp")))
    assert line == {
        "level": "info",
        "logger": "stockflow.source",
        "event": "assigned",
        "partition": 3,
        "offsets": {"pos-sales": 12},
        "at": "2026-01-01T00:00:00+00:00",
    }


def test_standard_logging_ends_in_the_same_place() -> None:
    """Records of client libraries become the same lines, with their arguments filled in."""
    stream = io.StringIO()
    logs.configure("info", stream)
    logs.standard("librdkafka").warning("%s: broker %s is down", "FAIL", "redis://u:pw@host:1")
    (line,) = lines(stream)
    assert (line["level"], line["logger"]) == ("warning", "librdkafka")
    assert line["event"] == "FAIL: broker redis://u:***@host:1 is down"


def test_level_drops_what_is_below_it_everywhere() -> None:
    """The level counts for own and library loggers, also for those made before configure."""
    early = logs.get("early")
    stream = io.StringIO()
    logs.configure("warning", stream)
    for log in (early, logs.get("late"), logs.standard("library")):
        log.info("below")
        log.error("above")
    assert [(line["logger"], line["event"]) for line in lines(stream)] == [
        ("early", "above"),
        ("late", "above"),
        ("library", "above"),
    ]


def test_unknown_level_is_refused() -> None:
    """A level that does not exist is named together with those that do."""
    with pytest.raises(ValueError, match="'loud' must be one of: debug, info, warning, error"):
        logs.configure("loud", io.StringIO())


def test_second_configure_replaces_the_first() -> None:
    """Configuring again writes to the new stream only, once."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", first)
    logs.configure("info", second)
    logs.get("x").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_terminal_gets_readable_lines() -> None:
    """On a terminal a line is coloured text, with the same masking and a plain traceback without variables."""
    stream = Terminal()
    logs.configure("info", stream)
    try:
        hidden_local = "in-a-variable"
        raise RuntimeError(f"boom {len(hidden_local)}")
    except RuntimeError:
        logs.get("stockflow.run").exception("stopped", redis="redis://:pw@host:1", password="hunter2")
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "stopped" in text
    assert "RuntimeError: boom 13" in text
    assert "redis://:***@host:1" in text
    assert "hunter2" not in text
    assert "'in-a-variable'" not in text


@dataclass
class Holder:
    password: str


@pytest.mark.parametrize(
    ("text", "key", "value", "shown"),
    [
        ("password key", "password", "hunter2", "***"),
        ("librdkafka property", "sasl.password", "hunter2", "***"),
        ("variable's name", "STOCKFLOW_KAFKA__SASL_USERNAME", "hunter2", "***"),
        ("private key", "ssl.key.pem", "hunter2", "***"),
        ("private key, environment style", "SSL_KEY_PEM", "hunter2", "***"),
        ("secret", "client_secret", "hunter2", "***"),
        ("inside a dict", "config", {"sasl.jaas": "hunter2", "acks": "all"}, {"sasl.jaas": "***", "acks": "all"}),
        ("inside a list of dicts", "configs", [{"password": "hunter2"}], [{"password": "***"}]),
        ("inside an object", "holder", Holder("hunter2"), "Holder(password=***"),
        ("inside bytes", "raw", b"redis://:hunter2@h", "b'redis://:***@h'"),
        ("inside an exception", "error", ValueError("sasl.password=hunter2;x"), "sasl.password=***;x"),
        ("harmless", "units", 7, 7),
        ("harmless text", "sku", "SKU-1", "SKU-1"),
    ],
)
def test_secret_is_masked_wherever_it_stands(text: str, key: str, value: object, shown: object) -> None:
    """By key at any depth and inside texts; what is no secret stays as it is."""
    stream = io.StringIO()
    logs.configure("info", stream)
    logs.get("x").info("event", **{key: value})
    (line,) = lines(stream)
    assert "hunter2" not in stream.getvalue(), text
    if isinstance(shown, str) and shown.endswith("=***"):
        assert str(line[key]).startswith(shown), text
    else:
        assert line[key] == shown, text


def test_settings_can_be_logged_whole() -> None:
    """The settings object shows no password of its Redis URL or its Kafka properties."""
    stream = io.StringIO()
    logs.configure("info", stream)
    settings = Settings(redis_url="rediss://app:hunter2@cache:6380/0", kafka={"sasl.password": "hunter2"})
    logs.get("x").info("settings", settings=settings)
    logs.get("x").info(f"settings {settings}")
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("rediss://app:***@cache:6380/0") == 2


def test_secret_in_a_traceback_is_masked() -> None:
    """The text of an exception and of its cause is searched too."""
    stream = io.StringIO()
    logs.configure("info", stream)
    try:
        try:
            raise OSError("redis://:hunter2@cache:6379 refused")
        except OSError as error:
            raise RuntimeError("start failed") from error
    except RuntimeError:
        logs.get("x").exception("stopped")
    (line,) = lines(stream)
    assert "hunter2" not in stream.getvalue()
    assert "OSError: redis://:***@cache:6379 refused" in str(line["exception"])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://user:pw@host", "rediss://user:***@host"),
        ("redis://user@host:6379", "redis://user@host:6379"),
        ("redis://u:p@ss/w:rd@host:1", "redis://u:***@host:1"),
        ("redis://u:a@h1:1,redis://u:b@h2:2", "redis://u:***@h1:1,redis://u:***@h2:2"),
        ("redis+sentinel://u:a@h1:1,h2:2/primary", "redis+sentinel://u:***@h1:1,h2:2/primary"),
        ("redis://h:1/0?password=pw&db=1", "redis://h:1/0?password=***&db=1"),
        ("unix:///run/redis.sock?password=pw", "unix:///run/redis.sock?password=***"),
        ("tried redis://:pw@h and gave up: mail a@b", "tried redis://:***@h and gave up: mail a@b"),
        ("http://host/a:b@c", "http://host/a:b@c"),
        ("", ""),
    ],
)
def test_url_shows_everything_but_its_password(url: str, shown: str) -> None:
    """User, host, port and path stay readable."""
    assert logs.mask_url(url) == shown


def test_masking_is_linear_in_the_length_of_the_text() -> None:
    """A hostile text of a million characters takes no time to speak of, and its line stays short."""
    hostile = "://a:" * 100_000 + "password" * 60_000 + "'" * 10_000
    started = time.monotonic()
    (shown,) = logs.mask_secrets(None, "info", {"event": hostile}).values()
    assert time.monotonic() - started < 2.0
    assert len(shown) < logs.TEXT_LENGTH_MAX + 100
    assert shown.endswith(f"... ({len(hostile)} characters)")


@pytest.mark.parametrize("value", ["\ud800", 2**70, float("nan"), {1: {2: 3}}, [[[[[[[[[[[[1]]]]]]]]]]]]])
def test_odd_value_never_costs_the_line(value: object) -> None:
    """What strict JSON cannot hold is written in some way instead of raising."""
    stream = io.StringIO()
    logs.configure("info", stream)
    logs.get("x").info("odd", value=value)
    (line,) = lines(stream)
    assert line["event"] == "odd"


class Stuck(io.StringIO):
    """A pipe that nobody reads: flushing waits until the test lets go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def flush(self) -> None:
        assert self.let_go.wait(60)


def test_flush_returns_although_nobody_reads() -> None:
    """A full pipe cannot keep a process from leaving: flush gives up after its time limit."""
    stream = Stuck()
    logs.configure("info", stream)
    started = time.monotonic()
    logs.flush(timeout_s=0.2)
    assert 0.15 < time.monotonic() - started < 30.0
    (worker,) = [one for one in threading.enumerate() if one.name == "flush-logs"]
    stream.let_go.set()
    worker.join(30)
    assert not worker.is_alive()


def test_flush_hands_everything_over(tmp_path: Path) -> None:
    """What was logged before flush is in the file after it."""
    path = tmp_path / "out.log"
    with path.open("w", buffering=1 << 20) as stream:
        logs.configure("info", stream)
        logs.get("x").info("last words")
        logs.flush()
        assert json.loads(path.read_text())["event"] == "last words"


def test_time_is_utc() -> None:
    """The timestamp is now, in UTC, whatever the local zone is."""
    stream = io.StringIO()
    before = datetime.now(timezone.utc)
    logs.configure("info", stream)
    logs.get("x").info("now")
    stamp = datetime.fromisoformat(str(lines(stream)[0]["timestamp"]).replace("Z", "+00:00"))
    assert before <= stamp <= datetime.now(timezone.utc)


def test_sparse_filter_says_each_kind_once_per_interval() -> None:
    """The same client's same complaint waits; another kind, or the next interval, gets through."""
    now = [0.0]
    sparse = logs.Sparse(10.0, lambda: now[0])

    def passes(text: str) -> bool:
        return sparse.filter(logging.LogRecord("kafka", logging.ERROR, "", 0, text, None, None))

    assert passes("FAIL [rdkafka#producer-1] [thrd:a:1/1]: a:1/1: Connect failed")
    assert not passes("FAIL [rdkafka#producer-1] [thrd:a:1/bootstrap]: a:1: Connect failed")
    assert passes("FAIL [rdkafka#producer-2] [thrd:a:1/1]: a:1/1: Connect failed")
    now[0] = 10.0
    assert passes("FAIL [rdkafka#producer-1] [thrd:a:1/1]: a:1/1: Connect failed")
