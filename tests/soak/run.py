"""One long run from the first server to the verdict: the wiring and the order of steps; no measuring, no judging."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.live import Live
from rich.table import Table

from operations.topics import ensure
from schemas.topics import AVAILABILITY
from stockflow.embedded import KafkaBroker, RedisServer
from stockflow.embedded.process import wait_until
from tests.e2e.harness import Ended, Stage
from tests.services import own_kafka
from tests.soak import figures
from tests.soak.answers import SLOT_S, Answers
from tests.soak.faults import FAULTS, Fault, NotHealed, Victims, lines
from tests.soak.load import Load
from tests.soak.report import Report, render
from tests.soak.samples import MACHINE, Samples, rows_of
from tests.soak.truth import problems_of

OPEN_TIMEOUT_S = 900.0
QUIET_TIMEOUT_S = 600.0
PLAIN_LINE_EVERY_S = 60.0
WIDTH = 130  # Of reports that do not go to a terminal.
SURVIVOR, VICTIM = "survivor", "victim"
LEASE_SHARE = 2 / 3  # Of the session, as by default; with a heartbeat it stays below it.
HEARTBEAT_MS = (300, 2_000)  # A tenth of the session within these limits.


def parser() -> argparse.ArgumentParser:
    """The options of a run."""
    options = argparse.ArgumentParser(prog="make soak ARGS=...", description=__doc__)
    options.add_argument("--minutes", type=float, default=30, help="of load, after the openings")
    options.add_argument("--balances", type=int, default=1_000_000)
    options.add_argument("--rate", type=float, default=750, help="events per second")
    options.add_argument("--new-keys", type=float, default=2, help="new balances per second")
    options.add_argument("--poison", type=float, default=0.5, help="percent of records that must be refused")
    options.add_argument("--partitions", type=int, default=12)
    # Few, so that what is remembered soon stays the same in number and kind, and memory should too.
    options.add_argument("--facts", type=int, default=20_000, help="remembered per partition")
    options.add_argument("--fault-every", type=float, default=150, help="seconds; the first one at half of it")
    options.add_argument("--faults", default=",".join(FAULTS), help="in this order, again and again")
    options.add_argument("--fault-seconds", type=float, default=5, help="how long a pause lasts")
    options.add_argument("--sample-every", type=float, default=2, help="seconds")
    options.add_argument("--session", type=float, default=45, help="seconds after which a dead process is replaced")
    options.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    options.add_argument("--folder", type=Path, default=Path(".cache/soak"), help="for samples, logs and the report")
    return options


class Run:
    """Everything of one run, connected; `go` does it."""

    def __init__(self, options: argparse.Namespace, console: Console, stack: ExitStack) -> None:
        self.options, self.console = options, console
        self.length_s = options.minutes * 60
        self.folder: Path = options.folder / time.strftime("%Y%m%dT%H%M%S")
        self.folder.mkdir(parents=True)
        self.phase = "starting"
        self.faults: list[Fault] = []
        self.ended: list[str] = []
        self._stopping = threading.Event()
        self._lines = 0
        session_ms = int(options.session * 1_000)
        heartbeat_ms = min(max(session_ms // 10, HEARTBEAT_MS[0]), HEARTBEAT_MS[1])
        self.broker: KafkaBroker = own_kafka(heartbeat_ms=heartbeat_ms, session_ms=session_ms, heap_mb=1_024)
        stack.callback(self.broker.close)
        self.store = stack.enter_context(RedisServer())
        prefix = f"soak-{options.seed}-"
        ensure({"bootstrap.servers": self.broker.bootstrap}, lambda name: prefix + name, options.partitions, -1)
        self.stage = Stage(
            self.broker.bootstrap,
            prefix,
            options.partitions,
            self.store.url,
            self.folder.resolve(),
            {
                "STOCKFLOW_LEASE_MS": str(int(session_ms * LEASE_SHARE)),
                "STOCKFLOW_FACTS_REMEMBERED": str(options.facts),
            },
        )
        stack.callback(self.stage.close)
        self.survivor, self.victim = self.stage.pipeline(), self.stage.pipeline()
        self.load = Load(
            self.broker.bootstrap,
            prefix,
            options.partitions,
            balances=options.balances,
            rate=options.rate,
            new_keys_per_s=options.new_keys,
            poison_share=options.poison / 100,
            seed=options.seed,
        )
        self.answers = Answers(
            self.broker.bootstrap, self.stage.topic(AVAILABILITY.name), options.partitions, self.load.due
        )
        self.samples = Samples(
            {SURVIVOR: self.survivor, VICTIM: self.victim},
            {"broker": self.broker, "redis": self.store},
            self.folder / "samples.jsonl",
        )
        self.samples.phase = lambda: self.phase
        self.victims = Victims(
            self.broker, self.store, self.survivor, self.victim, options.partitions, options.fault_seconds
        )

    def go(self) -> Report:
        """Start, load, disturb, compare; the report, however it went."""
        about = [
            f"{self.broker.description}; {self.store.description}; {os.cpu_count()} cores, "
            f"load {os.getloadavg()[0]:.1f} before the start; seed {self.options.seed}",
            f"written to {self.folder}",
        ]
        for line in about:
            self.console.print(line, soft_wrap=True)
        for pipeline in (self.survivor, self.victim):
            pipeline.start()
        opened_s = self._open()
        self.answers.start()
        self.samples.begin = self.answers.begin
        self.load.start()
        self.samples.start(self.options.sample_every)
        busy = self._disturb()
        problems, covered = self._compare()
        return self._report(about, opened_s, busy, problems, covered)

    def _open(self) -> float:
        """The openings, as fast as they are taken; seconds until every one is applied, published and in Redis."""
        begun, wanted = time.monotonic(), self.options.balances // 10 * 10

        def step(sent: int) -> None:
            self.phase = f"openings: {sent:,} of {wanted:,} sent"

        with self._live():
            sender = threading.Thread(target=self.load.open, args=(step,), name="openings")
            sender.start()
            while sender.is_alive():
                sender.join(1.0)
                self.samples.look()

            def all_there() -> bool:
                self.samples.look()
                pages = [lines(one.get("/metrics")[1]) for one in (self.survivor, self.victim)]
                held = sum(page.get("stockflow_balances", 0) for page in pages)
                waiting = sum(page.get("stockflow_redis_backlog_keys", 1) for page in pages)
                self.phase = f"openings: {held:,.0f} of {wanted:,} balances held"
                self._check_alive()
                time.sleep(0.5)
                return held >= wanted and waiting == 0 and not self.stage.behind()

            if not wait_until(all_there, OPEN_TIMEOUT_S):
                raise NotHealed(f"not within {OPEN_TIMEOUT_S:.0f} s: {wanted} balances; {self.phase}")
        took = time.monotonic() - begun
        self.samples.rows.clear()
        self.samples.visible.clear()
        self.console.print(f"{wanted:,} balances in {took:.0f} s")
        return took

    def _disturb(self) -> float:
        """Faults on their schedule until the time is over; the share of the machine that was in use meanwhile."""
        begin, every = self.answers.begin, self.options.fault_every
        names, clock = self.options.faults.split(","), MachineClock()
        with self._live():
            for number in range(10**6):
                at = begin + every * (number + 0.5)
                if at > begin + self.length_s - every / 2 or self.ended:
                    break
                self.phase = "calm"
                self._wait_until(at)
                name = names[number % len(names)]
                self.phase = name
                fault = Fault(name, time.monotonic() - begin)
                self.faults.append(fault)
                try:
                    self.victims.strike(fault, self._stopping)
                except (Ended, NotHealed) as error:
                    self.ended.append(f"{name}: {error}")
                took = ", ".join(f"{step} {seconds:.1f}" for step, seconds in fault.took_s.items())
                self._say(f"{fault.began_s:.0f} s: {name}, seconds: {took}")
            self.phase = "calm"
            if not self.ended:
                self._wait_until(begin + self.length_s)
        self.load.stop()
        return clock.busy()

    def _compare(self) -> tuple[list[str], list[str]]:
        """Let everything come to rest, then the truth."""
        if self.ended:
            self._stop_watching()
            return ["not compared: " + text for text in self.ended], []
        self.phase = "coming to rest"
        try:
            self.stage.wait_until_committed(QUIET_TIMEOUT_S)
            self.victims.wait("everything is in Redis", self.victims.is_well)
        except AssertionError as error:
            return [f"not at rest: {error}"], []
        finally:
            self._stop_watching()
        return problems_of(self.stage, self.load, self._say)

    def _stop_watching(self) -> None:
        self.samples.stop()
        self.answers.stop()

    def _report(
        self, about: list[str], opened_s: float, busy: float, problems: list[str], covered: list[str]
    ) -> Report:
        rows, length_s = self.samples.rows, self.length_s
        windows = figures.fault_windows(self.faults)
        calm = figures.calm_rows(rows, SURVIVOR, windows)
        minutes = figures.calm_minutes(self.answers.percentiles, windows, length_s)
        figures.add_load(minutes, rows_of(rows, MACHINE))
        drifts = {}
        for name in ("p50_ms", "p99_ms", "urgent_p50_ms", "urgent_p99_ms"):
            if (pair := figures.drift(minutes, name, length_s)) is not None:
                drifts[f"due -> read, {name}"] = pair
        for lane in ("routine", "urgent"):
            stage = f"{SURVIVOR} visible {lane}"
            for name, pair in figures.visible_drift(self.samples.visible, stage, windows, length_s).items():
                drifts[f"in Kafka -> in Redis, {lane}, {name} (survivor)"] = pair
        whole = self.answers.percentiles(range(int(length_s / SLOT_S) + 1))
        report = Report(
            about,
            [
                ("load", f"{self.options.minutes:g} min at {self.options.rate:g} events/s"),
                ("balances opened", f"{self.options.balances:,} in {opened_s:.0f} s"),
                ("records sent", f"{self.load.produced:,}, the latest {self.load.late_ms_max} ms after it was due"),
                ("new balances, repeats", f"{self.load.new_keys:,}, {self.load.repeats:,}"),
                ("refused records", f"{len(self.load.refused):,}"),
                (
                    "facts with a record of their own",
                    f"{self.answers.answered:,} (conflated {self.answers.conflated:,})",
                ),
                ("latency with the faults", ", ".join(f"{k} {v:,.0f}" for k, v in whole.items())),
                ("machine in use meanwhile", f"{busy:.0%} of {os.cpu_count()} cores, by everything on it"),
                ("partitions in calm time, survivor", str(_only(calm, "live"))),
            ],
            self.faults,
            figures.memory(rows, SURVIVOR, windows, length_s),
            {} if calm.is_empty() else {name: figures.steps(calm, name, length_s) for name in ("fds", "threads")},
            minutes,
            drifts,
            [_end_of(rows, name) for name in (SURVIVOR, VICTIM, "broker", "redis")],
            problems,
            covered,
            self.ended,
        )
        self._write(report)
        return report

    def _write(self, report: Report) -> None:
        """Samples as parquet, faults and minutes as JSON, the report as text."""
        pl.DataFrame(self.samples.rows, infer_schema_length=None).write_parquet(self.folder / "samples.parquet")
        figures_found = {
            "minutes": report.minutes,
            "faults": [asdict(fault) for fault in report.faults],
            "drifts": report.drifts,
            "problems": report.problems,
        }
        (self.folder / "report.json").write_text(json.dumps(figures_found, indent=2) + "\n", encoding="utf-8")
        with (self.folder / "report.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=WIDTH).print(render(report))

    # While it runs

    def _wait_until(self, at: float) -> None:
        while (left := at - time.monotonic()) > 0:
            self._check_alive()
            self._stopping.wait(min(left, 1.0))
            self.answers.check()
            self.load.check()
            elapsed_s = time.monotonic() - self.answers.begin
            if elapsed_s > (self._lines + 1) * PLAIN_LINE_EVERY_S:
                self._lines = int(elapsed_s / PLAIN_LINE_EVERY_S)
                if not self.console.is_terminal:
                    self.console.print(self._line(), soft_wrap=True)
            if self.ended:
                return

    def _check_alive(self) -> None:
        for name, one in ((SURVIVOR, self.survivor), (VICTIM, self.victim)):
            if one.exit_code is not None and not self.ended:
                self.ended.append(f"{name} ended by itself with {one.exit_code}; its log ends: {one.log_tail(5)}")

    def _say(self, text: str) -> None:
        self.phase = text if text.startswith(("audit", "versions", "dead")) else self.phase
        self.console.print(text, soft_wrap=True)

    def _live(self) -> Live:
        return Live(get_renderable=self._picture, console=self.console, refresh_per_second=1, transient=True)

    def _line(self) -> str:
        at = time.monotonic() - self.answers.begin
        parts = [f"{at / 60:5.1f} min"]
        for name in (SURVIVOR, VICTIM):
            row = self.samples.newest(name)
            parts.append(
                f"{name} {row.get('rss', 0) / 1e6:,.0f} MB {row.get('fds', 0)} fds, {row.get('live', 0):.0f} live"
            )
        newest = self.answers.percentiles(range(int(at / SLOT_S) - 6, int(at / SLOT_S)))
        parts.append(f"p50 {newest.get('p50_ms', 0):.1f} p99 {newest.get('p99_ms', 0):.1f} ms")
        parts.append(f"{len(self.faults)} faults, sent {self.load.produced:,}")
        return "; ".join(parts)

    def _picture(self) -> Table:
        table = Table(title=f"{self.phase}; {len(self.faults)} faults so far", title_justify="left")
        names = ("process", "MB", "fds", "threads", "live", "balances", "facts", "lag", "redis backlog")
        for name in names:
            table.add_column(name, justify="right")
        for process in (SURVIVOR, VICTIM, "broker", "redis"):
            row = self.samples.newest(process)
            cells = [row.get(key) for key in ("fds", "threads", "live", "balances", "facts", "lag", "redis_backlog")]
            texts = ["" if cell is None else f"{cell:,.0f}" for cell in cells]
            table.add_row(process, f"{row.get('rss', 0) / 1e6:,.0f}", *texts)
        table.caption = self._line() if self.samples.rows else None
        return table


class MachineClock:
    """The share of all cores in use from now on, by whatever runs on this machine."""

    def __init__(self) -> None:
        self._idle, self._at = _idle_s(), time.monotonic()

    def busy(self) -> float:
        """The share so far."""
        idle = (_idle_s() - self._idle) / ((time.monotonic() - self._at) * (os.cpu_count() or 1))
        return max(0.0, 1 - idle)


def _idle_s() -> float:
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    return (int(fields[3]) + int(fields[4])) / 100


def _only(calm: pl.DataFrame, column: str) -> Any:
    return "none" if calm.is_empty() else int(calm[column][0])


def _end_of(rows: Sequence[dict[str, Any]], process: str) -> dict[str, Any]:
    """The last row of a process with its peak of resident memory."""
    mine = [row for row in rows_of(rows, process) if row.get("rss")]
    return {"process": process, **(mine[-1] if mine else {}), "peak": max((row["rss"] for row in mine), default=0)}


def main(arguments: Sequence[str], console: Console | None = None) -> int:
    """Run and report; 1 if anything is wrong."""
    options, shown = parser().parse_args(arguments), console or Console()
    if not shown.is_terminal:
        shown.width = WIDTH
    unknown = set(options.faults.split(",")) - FAULTS.keys()
    if unknown:
        parser().error(f"no such fault: {', '.join(unknown)}; there are: {', '.join(FAULTS)}")
    with ExitStack() as stack:
        report = Run(options, shown, stack).go()
    shown.print(render(report))
    return 0 if report.fine else 1
