"""Many rounds in several lanes at the same time, which take the next number in turns; each leaves a line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.chaos.rounds import Outcome, Plan, Rounds

Told = Callable[[Outcome], None]


class Campaign:
    """Plays plans on one broker and one Redis, of which each lane takes the database with its own number."""

    def __init__(self, plans: Iterable[Plan], told: Told) -> None:
        self._plans = iter(plans)
        self._told = told
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []

    def play(
        self, bootstrap: str, redis_url: str, folder: Path, lanes: int, session_ms: int, reach_timeout_s: float
    ) -> None:
        """Everything that is planned; `told` is called for each round, by one lane at a time."""
        server = redis_url.rpartition("/")[0]
        threads = []
        for lane in range(lanes):
            rounds = Rounds(bootstrap, f"{server}/{lane}", folder / f"lane-{lane}", session_ms, reach_timeout_s)
            threads.append(threading.Thread(target=self._run, args=(rounds,), name=f"lane-{lane}"))
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, rounds: Rounds) -> None:
        try:
            with rounds:
                while (planned := self._next()) is not None:
                    outcome = rounds.play(planned)
                    with self._lock:
                        self._told(outcome)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the lanes
            self._failures.append(error)
            self._stopped.set()

    def _next(self) -> Plan | None:
        with self._lock:
            return None if self._stopped.is_set() else next(self._plans, None)


def recorded(record: Path, seeds: range) -> dict[int, Outcome]:
    """The rounds of a record among these, by their number; none if there is no record yet."""
    if not record.exists():
        return {}
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return {line["seed"]: Outcome(**line) for line in lines if line["seed"] in seeds}
