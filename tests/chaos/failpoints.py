"""Named points of the running program at which a process can be killed, and how it is done.

The production code knows nothing of this: the functions at the seams are wrapped from outside, before it starts.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

BEFORE, AFTER = "before", "after"
# What the process says on stderr with its last breath.
LAST_WORDS = "chaos: killed "
_POINT = re.compile(r"(before|after):([a-z_]+):(\d+)(?:\+(\d+)ms)?")


@dataclass(frozen=True)
class Seam:
    """A function of the program: where it is, and up to which of its calls a round may wait for a death.

    `module` is where the name is looked up when it is called, which for an imported function is the importer.
    """

    name: str
    module: str
    path: str
    calls_max: int


SEAMS = (
    Seam("decode", "dataflows.keep_balances", "decode", 60),
    Seam("apply", "stock.ledger", "Ledger.apply", 60),
    Seam("produce", "sinks.publisher", "Publisher.availability", 15),
    Seam("dead_letter", "sinks.publisher", "Publisher.dead_letter", 2),
    Seam("delivered", "sinks.outlet", "Outlet._availability_delivered", 30),
    Seam("flush", "stock.ledger", "Ledger.flush", 8),
    Seam("state", "sinks.publisher", "Publisher.state", 8),
    Seam("state_delivered", "sinks.outlet", "Outlet._state_delivered", 100),
    Seam("commit", "sources.kafka", "EventsReader._send_commit", 8),
    Seam("committed", "sources.commits", "Commits.answered", 8),
    Seam("redis", "sinks.view_store", "RedisStore.write", 8),
    Seam("redis_marker", "sinks.view_store", "RedisStore.move_markers", 3),
    Seam("claim", "sinks.publisher", "Publisher.claim", 2),
    Seam("restore", "sources.restore", "Restorer.step", 5),
    Seam("restore_state", "sources.restore", "Restorer._take_state", 40),
    Seam("restore_tail", "sources.restore", "Restorer._take_tail", 6),
    Seam("opened", "sources.kafka", "EventsReader._open", 2),
    Seam("revoke", "sources.kafka", "EventsReader._revoked", 1),
    Seam("revoke_finish", "sinks.publisher", "Publisher.finish", 1),
    Seam("revoke_drop", "sources.kafka", "EventsReader._drop", 1),
)
BY_NAME = {seam.name: seam for seam in SEAMS}
# These are reached by a process that has partitions and is asked to hand some over.
NEEDS_A_REVOKE = frozenset({"revoke", "revoke_finish", "revoke_drop"})
# In company a process may be given one partition only.
ONCE_PER_PARTITION = frozenset({"claim", "opened"})
# Only behind a process that died without a last commit is there something to read here.
NEEDS_A_TAIL = frozenset({"restore_tail"})


@dataclass(frozen=True)
class Failpoint:
    """Death at one moment: before or after the so-and-so-many-th call of a seam.

    `linger_ms` is how long the calling thread stands still before: what other threads have to send goes out meanwhile.
    """

    when: str
    seam: str
    count: int
    linger_ms: int = 0

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.when}:{self.seam}:{self.count}" + (f"+{self.linger_ms}ms" if self.linger_ms else "")

    @property
    def name(self) -> str:
        """Which of the named points it is, whatever the call."""
        return f"{self.when}:{self.seam}"


NAMES = tuple(f"{when}:{seam.name}" for seam in SEAMS for when in (BEFORE, AFTER))


def parse(text: str) -> Failpoint:
    """The failpoint of a text such as `before:produce:17` or `after:state:3+20ms`.

    Raises:
        ValueError: there is no such point.
    """
    found = _POINT.fullmatch(text)
    if found is None or found[2] not in BY_NAME or found[3] == "0":
        raise ValueError(f"{text!r} is no failpoint: before|after:<seam>:<count>[+<ms>ms], a seam of {list(BY_NAME)}")
    return Failpoint(found[1], found[2], int(found[3]), int(found[4] or 0))


def resolve(seam: Seam) -> tuple[Any, str, Callable[..., Any]]:
    """Whose attribute the seam is, by which name, and the function itself.

    Raises:
        AttributeError: it has been renamed.
    """
    owner: Any = import_module(seam.module)
    *outer, last = seam.path.split(".")
    for name in outer:
        owner = getattr(owner, name)
    return owner, last, getattr(owner, last)


def plant(point: Failpoint, die: Callable[[Failpoint], NoReturn]) -> None:
    """Wrap the point's function so that `die` is called at its moment."""
    owner, name, function = resolve(BY_NAME[point.seam])
    lock = threading.Lock()
    calls = 0

    @functools.wraps(function)
    def watched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        with lock:
            calls += 1
            is_the_one = calls == point.count
        if is_the_one and point.when == BEFORE:
            die(point)
        result = function(*arguments, **named)
        if is_the_one:
            die(point)
        return result

    setattr(owner, name, watched)


def kill_this_process(point: Failpoint) -> NoReturn:
    """Say where, stand still as long as the point wants, and die by SIGKILL."""
    time.sleep(point.linger_ms / 1000)
    os.write(2, f"{LAST_WORDS}{point}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")
