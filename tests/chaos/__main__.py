"""`python -m tests.chaos`: kill rounds with a broker and a Redis of their own, recorded line by line."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests import services
from tests.chaos.failpoints import NAMES, parse
from tests.chaos.rounds import HEARTBEAT_MS, SESSION_MS, Rounds, plan

FINE, FAILED = 0, 1
LANES_MAX = 8

_out = Console()


class Campaign:
    """Rounds in several lanes, which take the next seed in turns; what is in the record is not played again."""

    def __init__(self, seeds: range, record: Path, only: str | None) -> None:
        self._seeds, self._record, self._only = seeds, record, only
        self.lines: list[dict[str, Any]] = []
        if record.exists():
            read = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
            self.lines = [line for line in read if line["seed"] in seeds]
        done = {line["seed"] for line in self.lines}
        self._next = iter([seed for seed in seeds if seed not in done])
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def lane(self, rounds: Rounds, progress: Progress, bar: Any) -> None:
        """Play until no seed is left."""
        with rounds:
            while not self.stopped.is_set():
                with self._lock:
                    seed = next(self._next, None)
                if seed is None:
                    return
                outcome = rounds.play(plan(seed, self._only))
                with self._lock:
                    with self._record.open("a", encoding="utf-8") as file:
                        file.write(outcome.line() + "\n")
                    self.lines.append(json.loads(outcome.line()))
                    progress.update(bar, completed=len(self.lines), tally=tally(self.lines))
                    for problem in outcome.problems[:5]:
                        progress.console.print(f"[red]round {seed}[/red] {outcome.point}: {problem}", highlight=False)

    def play(self, lanes: int, folder: Path) -> None:
        """Everything, from the start of the servers to their end."""
        columns = [TextColumn("kill rounds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[tally]}")]
        kafka = services.own_kafka(heartbeat_ms=HEARTBEAT_MS, session_ms=SESSION_MS)
        server = services.own_redis()
        _out.print(f"broker: {kafka.description}, redis: {server.description}, lanes: {lanes}")
        try:
            with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_out) as progress:
                bar = progress.add_task("", total=len(self._seeds), completed=len(self.lines), tally=tally(self.lines))
                threads = [
                    threading.Thread(
                        target=self.lane, args=(self._rounds(kafka.bootstrap, server.url, lane, folder), progress, bar)
                    )
                    for lane in range(lanes)
                ]
                for thread in threads:
                    thread.start()
                try:
                    for thread in threads:
                        thread.join()
                finally:
                    self.stopped.set()
                    for thread in threads:
                        thread.join()
        finally:
            kafka.close()
            server.close()

    def _rounds(self, bootstrap: str, redis_url: str, lane: int, folder: Path) -> Rounds:
        return Rounds(bootstrap, f"{redis_url.rpartition('/')[0]}/{lane}", folder / f"lane-{lane}")


def tally(lines: list[dict[str, Any]]) -> str:
    """The figures so far, as the last line says them."""
    kills = sum(line["reached"] for line in lines)
    violations = sum(line["verdict"] != "equal" for line in lines)
    return f"{len(lines)} rounds, {kills} kills, {violations} violations"


def coverage(lines: list[dict[str, Any]]) -> Table:
    """How often processes died at each named point, and how often a round did not get there."""
    kills = Counter(parse(line["point"]).name for line in lines if line["reached"])
    missed = Counter(parse(line["point"]).name for line in lines if not line["reached"])
    table = Table("point", "kills", "not reached", title="coverage")
    for name in NAMES:
        table.add_row(name, str(kills[name]), str(missed[name] or ""))
    return table


def main(
    rounds: Annotated[int, typer.Option(help="How many rounds.", min=1)] = len(NAMES),
    first: Annotated[int, typer.Option("--from", help="The first round's number, which is its seed.", min=0)] = 0,
    lanes: Annotated[int, typer.Option(help="Rounds at the same time.", min=1, max=LANES_MAX)] = 2,
    record: Annotated[
        Path | None, typer.Option(help="Where a line per round goes; what is there is not played again.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="One named point, such as before:produce.")] = None,
) -> None:
    """Kill processes at named points; exit code 1 if anything was not equal afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="stockflow-chaos-")) if record is None else record.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(range(first, first + rounds), record or folder / "rounds.jsonl", only)
    campaign.play(lanes, folder)
    seconds = [line["seconds"] for line in campaign.lines]
    _out.print(coverage(campaign.lines))
    _out.print(f"record: {record or folder / 'rounds.jsonl'}; a round took {sum(seconds) / max(1, len(seconds)):.1f} s")
    _out.print(tally(campaign.lines), highlight=False)
    raise typer.Exit(FAILED if any(line["verdict"] != "equal" for line in campaign.lines) else FINE)


if __name__ == "__main__":
    typer.run(main)
