"""`python -m tests.chaos`: kill rounds with a broker and a Redis of their own, recorded line by line."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests import services
from tests.chaos.campaign import Campaign, recorded
from tests.chaos.failpoints import NAMES, parse
from tests.chaos.rounds import HEARTBEAT_MS, REACH_TIMEOUT_S, SESSION_MS, Outcome, plan

FINE, FAILED = 0, 1
LANES_MAX = 8
PROBLEMS_SHOWN = 5

_out = Console()


def main(
    rounds: Annotated[int, typer.Option(help="How many rounds.", min=1)] = len(NAMES),
    first: Annotated[int, typer.Option("--from", help="The first round's number, which is its seed.", min=0)] = 0,
    lanes: Annotated[int, typer.Option(help="Rounds at the same time.", min=1, max=LANES_MAX)] = 2,
    record: Annotated[
        Path | None, typer.Option(help="Gets a line per round; rounds that are in it are not played again.")
    ] = None,
    session_ms: Annotated[
        int, typer.Option(help="After how long a dead member's partitions are free.", min=1_500)
    ] = SESSION_MS,
    only: Annotated[str | None, typer.Option(help="One named point for all rounds, such as before:produce.")] = None,
) -> None:
    """Kill processes at named points; exit code 1 if anything was not equal afterwards."""
    if only not in (None, *NAMES):
        raise typer.BadParameter(f"there is no point {only}: {', '.join(NAMES)}")
    record = record or Path(tempfile.mkdtemp(prefix="stockflow-chaos-")) / "rounds.jsonl"
    folder = record.with_suffix("").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = recorded(record, range(first, first + rounds))
    seeds = [seed for seed in range(first, first + rounds) if seed not in outcomes]
    columns = [TextColumn("kill rounds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[tally]}")]
    with services.own_kafka(heartbeat_ms=HEARTBEAT_MS, session_ms=session_ms) as kafka, services.own_redis() as server:
        _out.print(f"{kafka.description}, {server.description}, {lanes} lanes; record: {record}", highlight=False)
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_out) as progress:
            bar = progress.add_task("", total=rounds, completed=len(outcomes), tally=tally(outcomes.values()))

            def told(outcome: Outcome) -> None:
                with record.open("a", encoding="utf-8") as file:
                    file.write(outcome.line() + "\n")
                outcomes[outcome.seed] = outcome
                progress.update(bar, completed=len(outcomes), tally=tally(outcomes.values()))
                for problem in outcome.problems[:PROBLEMS_SHOWN]:
                    progress.console.print(f"round {outcome.seed}, {outcome.point}: {problem}", highlight=False)

            campaign = Campaign((plan(seed, only) for seed in seeds), told)
            campaign.play(kafka.bootstrap, server.url, folder, lanes, session_ms, REACH_TIMEOUT_S)
    _out.print(coverage(outcomes.values()))
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    _out.print(f"a round took {seconds / len(outcomes):.1f} s on average", highlight=False)
    _out.print(tally(outcomes.values()), highlight=False)
    raise typer.Exit(FAILED if any(outcome.problems for outcome in outcomes.values()) else FINE)


def tally(outcomes: Collection[Outcome]) -> str:
    """The figures so far, as the last line says them."""
    kills = sum(outcome.reached for outcome in outcomes)
    violations = sum(bool(outcome.problems) for outcome in outcomes)
    return f"{len(outcomes)} rounds, {kills} kills, {violations} violations"


def coverage(outcomes: Collection[Outcome]) -> Table:
    """How often processes died at each named point, and how often a round did not get there."""
    kills = Counter(parse(outcome.point).name for outcome in outcomes if outcome.reached)
    missed = Counter(parse(outcome.point).name for outcome in outcomes if not outcome.reached)
    table = Table("point", "kills", "not reached", title="coverage")
    for name in NAMES:
        table.add_row(name, str(kills[name]), str(missed[name] or ""))
    return table


if __name__ == "__main__":
    typer.run(main)
