"""What was read and is not passed on yet: far behind much is read at once, but a turn may not take long."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Message


@dataclass(frozen=True)
class Run:
    """Records of one partition in the order of arrival, as read under one assignment; `more` of the same follow."""

    partition: int
    epoch: int
    messages: list[Message]
    more: bool = False


class Runs:
    """Runs in the order of reading; what is taken of one leaves its rest in front."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, run: Run) -> None:
        """Behind all others; what goes on with the last one makes that longer."""
        last = self._runs[-1] if self._runs else None
        if last is not None and (last.partition, last.epoch) == (run.partition, run.epoch):
            last.messages.extend(run.messages)
        else:
            self._runs.append(run)

    def first_offsets(self) -> dict[tuple[str, int], int]:
        """Where what waits of each log begins, by topic and partition. Looks at every message."""
        first: dict[tuple[str, int], int] = {}
        for run in self._runs:
            for message in run.messages:
                first.setdefault((str(message.topic()), run.partition), message.offset() or 0)
        return first

    def take(self, messages: int) -> Iterator[Run]:
        """So many messages, the first read first; fewer if there are no more."""
        while self._runs and messages > 0:
            run = self._runs.popleft()
            if len(run.messages) > messages:
                rest = Run(run.partition, run.epoch, run.messages[messages:])
                self._runs.appendleft(rest)
                run = Run(run.partition, run.epoch, run.messages[:messages], more=True)
            messages -= len(run.messages)
            yield run
