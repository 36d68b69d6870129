"""Structured logs of a process: JSON lines for machines, colours for a terminal; never a secret in either."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
# One value of one line: container runtimes split longer lines at about this size, which breaks the JSON.
TEXT_LENGTH_MAX = 12_000
DEPTH_MAX = 8

_SECRET_KEY = re.compile(r"passw(or)?d|secret|sasl|ssl.key|token|credential|authorization", re.IGNORECASE)
# `sasl.password=x`, `'password': 'x'`, `?password=x`: what a client library may quote in its messages.
_SECRET_PAIR = re.compile(
    r"((?:password|passwd|secret)[\w.\-]{0,64}[\"']?[ \t]{0,4}[=:][ \t]{0,4})(\"[^\"]*\"|'[^']*'|[^\s,;&]+)",
    re.IGNORECASE,
)
_NOT_SPACE = re.compile(r"\S*")
_FIRST_KEYS = ("timestamp", "level", "logger", "event")


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # cannot be subscripted before Python 3.11
    """The one handler that `configure` owns, so that a second call replaces it and nothing else."""


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log record of this process, structlog's and standard logging's, to `stream` (stdout).

    Lines are JSON objects with `timestamp` (RFC 3339, UTC), `level`, `logger`, `event` and the caller's own keys;
    on a terminal they are aligned and coloured. May be called again, for example to change the level.

    Raises:
        ValueError: `level` is not one of debug, info, warning, error.
    """
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError(f"log level {level!r} must be one of: debug, info, warning, error")
    threshold = logging.getLevelName(level.upper())
    target = sys.stdout if stream is None else stream
    stamps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _Handler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*stamps, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                mask_secrets,
                _renderer(target.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    structlog.configure(
        processors=[*stamps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Module-level loggers exist before the wiring calls this function; they must obey it nevertheless.
        cache_logger_on_first_use=False,
    )


def get(name: str) -> Any:
    """A logger for one part of the program: `log.info("what happened", key=value)`; `bind` adds keys for good."""
    return structlog.stdlib.get_logger(name)


class Sparse(logging.Filter):
    """Lets a kind of message through once per interval: Kafka's clients say every 50 ms that a broker is away.

    Two messages are of a kind if they begin with the same words up to the first address, or as `kind_of` says.
    """

    def __init__(
        self,
        interval_s: float,
        clock: Callable[[], float],
        kind_of: Callable[[logging.LogRecord], str] = lambda record: record.getMessage().partition("[thrd")[0],
    ) -> None:
        super().__init__()
        self._interval_s, self._clock, self._kind_of = interval_s, clock, kind_of
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this message is worth a line."""
        kind = self._kind_of(record)
        now = self._clock()
        if now - self._said_at.get(kind, float("-inf")) < self._interval_s:
            return False
        self._said_at[kind] = now
        return True


def standard(name: str) -> logging.Logger:
    """A standard logger for a client library that wants one (librdkafka's `logger=`); it ends in the same place."""
    return logging.getLogger(name)


def flush(timeout_s: float = 1.0) -> None:
    """Hand what was logged to the operating system, for a caller about to leave by `os._exit`.

    Comes back after `timeout_s` at the latest: a reader that no longer empties the pipe must not keep a process alive
    that has decided to die.
    """

    def flush_all() -> None:
        for handler in logging.getLogger().handlers:
            # Nobody is left to tell that stdout is gone.
            with contextlib.suppress(OSError, ValueError):
                handler.flush()

    worker = threading.Thread(target=flush_all, name="flush-logs", daemon=True)
    worker.start()
    worker.join(timeout_s)


def mask_url(url: str) -> str:
    """The URL, or a comma-separated list or text with URLs in it, with every password replaced by `***`."""
    return _SECRET_PAIR.sub(rf"\1{MASK}", _mask_user_info(url))


def mask_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The event with secrets masked, as plain JSON types: by key at any depth, and inside every text."""
    return {key: MASK if _names_secret(key) else _plain(value, DEPTH_MAX) for key, value in event.items()}


def _names_secret(key: object) -> bool:
    return _SECRET_KEY.search(str(key)) is not None


def _plain(value: Any, depth: int) -> Any:
    """`value` as None, bool, number, text, list or dict: an object's text is masked like any other text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth > 0 and isinstance(value, Mapping):
        return {str(key): MASK if _names_secret(key) else _plain(inner, depth - 1) for key, inner in value.items()}
    if depth > 0 and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner, depth - 1) for inner in value]
    if isinstance(value, date):
        return value.isoformat()
    text = mask_url(value if isinstance(value, str) else str(value))
    return text if len(text) <= TEXT_LENGTH_MAX else f"{text[:TEXT_LENGTH_MAX]}... ({len(text)} characters)"


def _mask_user_info(text: str) -> str:
    """`scheme://user:password@host` without the password, wherever it stands in `text`; linear in its length.

    Everything from the colon to the last `@` of the word is taken, so that a password with an unescaped `/` or `@`
    (an invalid URL, as quoted by the error that refuses it) is hidden whole.
    """
    head, *rest = text.split("://")
    for index, segment in enumerate(rest):
        word = _NOT_SPACE.match(segment)
        assert word is not None
        user_info, at, host = word[0].rpartition("@")
        user, colon, _ = user_info.partition(":")
        if at and colon and "/" not in user:
            rest[index] = f"{user}:{MASK}@{host}{segment[word.end() :]}"
    return "://".join([head, *rest])


def _renderer(terminal: bool) -> Processor:
    if terminal:
        # The default traceback of structlog shows local variables, and so secrets.
        return structlog.dev.ConsoleRenderer(
            colors=True, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
    return _json_line


def _json_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    ordered = {**{key: event[key] for key in _FIRST_KEYS if key in event}, **event}
    try:
        return orjson.dumps(ordered).decode()
    except TypeError:
        # Lone surrogates and integers beyond 64 bits: rare, and no reason to lose the line.
        return json.dumps(ordered)
