"""What users see of a rollout, of more and fewer replicas and of a lost node: latency, silence, and nothing lost.

Real processes of one group work off an open-loop load (`generator.py`) and are replaced as Kubernetes replaces them by
the settings of `k8s/base/deployment.yaml`: one new replica at a time, an old one told to end once the new one has been
ready for `minReadySeconds`, SIGTERM after the wait of `preStop`, the next new one without waiting for that end. A node
that is lost takes its replica with it (SIGKILL), and another one starts at once.

Latency counts from the time an event was due until its availability record was read, for the events that were due
from the first step until the last one has settled. Silence is the longest time between two answers of one partition;
that of `steady`, where nothing happens, is what the load itself leaves. A turn counts only if topic and Redis hold the
right sums at its end. All replicas share the machine's cores with broker, Redis and generator: on few cores a start
slows down the others, as it would not on a node of its own.

    python -m benchmarks.rollout                                       # steady, rolling, scaling, node loss
    python -m benchmarks.rollout --old-python ../old/.venv/bin/python  # also from that version to this one, and back
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.generator import Generator, Load
from benchmarks.latency import spread
from benchmarks.rig import (
    ROOT,
    Loader,
    Servers,
    StockflowRun,
    add_place,
    check_redis,
    check_topic,
    drop_topics,
    empty_redis,
    make_topics,
    servers,
    wait_for,
    wait_for_calm,
)
from benchmarks.watching import Answers, Due, answering, dues
from benchmarks.workload import Options, make
from schemas.topics import AVAILABILITY, partition_of

STEADY, ROLLING, SCALING, NODE_LOSS, UPGRADE, DOWNGRADE = (
    "steady",
    "rolling",
    "scaling",
    "node loss",
    "upgrade",
    "downgrade",
)
SHARED_S = 90.0  # For the partitions to be shared out.
SETTLE_S = 5.0  # What is due so long after the last step still counts as its effect.
LAST_ANSWER_S = 60.0
NEW = (sys.executable, "-m", "stockflow")


@dataclass(frozen=True)
class Rules:
    """How Kubernetes replaces replicas; seconds."""

    replicas: int
    surge: int
    min_ready_s: float
    pre_stop_s: float


@dataclass
class Rolled:
    """One turn. `latency` is milliseconds by quantile, `silence_s` the longest of each partition, by partition."""

    scenario: str
    took_s: float
    latency: dict[str, float]
    before: dict[str, float]
    answered: float
    silence_s: list[float]
    generator_late_p99_ms: float
    steps: list[tuple[float, str]] = field(default_factory=list)


def rules_of(manifest: Path = ROOT / "k8s" / "base" / "deployment.yaml", replicas: int = 3) -> Rules:
    """What the Deployment says.

    Raises:
        ValueError: it lets a replica be missing, which is not what is measured here.
    """
    spec = yaml.safe_load(manifest.read_text(encoding="utf-8"))["spec"]
    rolling = spec["strategy"]["rollingUpdate"]
    if rolling["maxUnavailable"] != 0:
        raise ValueError(f"{manifest}: maxUnavailable is {rolling['maxUnavailable']}, not 0")
    (container,) = spec["template"]["spec"]["containers"]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    return Rules(replicas, int(rolling["maxSurge"]), float(spec["minReadySeconds"]), float(pre_stop))


class Replicas:
    """The processes of one Deployment, oldest first, and what was done to them when (monotonic)."""

    def __init__(self, where: Servers, prefix: str, rules: Rules, partitions: int, folder: Path) -> None:
        self.rules = rules
        self.running: list[StockflowRun] = []
        self.steps: list[tuple[float, str]] = []
        self._where, self._prefix, self._partitions, self._folder = where, prefix, partitions, folder
        self._started = 0

    def launch(self, program: Sequence[str] = NEW) -> StockflowRun:
        """Start one more, without waiting for it."""
        self._started += 1
        folder = self._folder / f"replica-{self._started}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"STOCKFLOW_READY_LAG_MAX": "1000"}
        replica = StockflowRun(self._where, self._prefix, settings, folder, program)
        self.running.append(replica)
        replica.launch()
        self._note(f"replica {self._started} started")
        return replica

    def wait_available(self, replica: StockflowRun) -> None:
        """Block until it has been ready for `minReadySeconds`."""
        wait_for(lambda: replica.is_ready, "a new replica is ready", SHARED_S)
        self._note("ready")
        time.sleep(self.rules.min_ready_s)

    def terminate(self, replica: StockflowRun) -> None:
        """The wait of `preStop`, then SIGTERM; it must end with 0."""
        time.sleep(self.rules.pre_stop_s)
        self.running.remove(replica)
        replica.stop()
        self._note("an old one ended")

    def roll(self, program: Sequence[str]) -> None:
        """Replace all, one at a time."""
        old = list(self.running)
        new = self.launch(program)
        for number, leaving in enumerate(old):
            self.wait_available(new)
            if number + 1 < len(old):
                new = self.launch(program)
            self.terminate(leaving)

    def lose(self) -> None:
        """The node of the first one is gone; its successor starts elsewhere."""
        lost = self.running.pop(0)
        self._note("killed")
        lost.kill()
        self.wait_available(self.launch())

    def scale(self, *numbers: int) -> None:
        """As an autoscaler does: all that are new at once, all that are too many at once."""
        for number in numbers:
            new = [self.launch() for _ in range(number - len(self.running))]
            for replica in new:
                self.wait_available(replica)
            for replica in self.running[number:]:
                self.terminate(replica)

    def wait_shared(self) -> None:
        """Block until every partition is live with somebody."""
        wait_for(
            lambda: sum(one.live_partitions for one in self.running) == self._partitions,
            f"{self._partitions} partitions shared out among {len(self.running)} replicas",
            SHARED_S,
        )

    def close(self) -> None:
        """End all, however they are."""
        for replica in self.running:
            replica.close()

    def _note(self, what: str) -> None:
        self.steps.append((time.monotonic(), what))


def scenario_of(name: str, old: Sequence[str]) -> tuple[Sequence[str], Callable[[Replicas], None]]:
    """The program of the first replicas, and what happens to them."""
    return {
        STEADY: (NEW, lambda on: time.sleep(3 * (on.rules.min_ready_s + on.rules.pre_stop_s))),
        ROLLING: (NEW, lambda on: on.roll(NEW)),
        SCALING: (NEW, lambda on: on.scale(2 * on.rules.replicas - 1, on.rules.replicas - 1, on.rules.replicas)),
        NODE_LOSS: (NEW, Replicas.lose),
        UPGRADE: (old, lambda on: on.roll(NEW)),
        DOWNGRADE: (NEW, lambda on: on.roll(old)),
    }[name]


def measure(where: Servers, name: str, rules: Rules, turn: str, options: argparse.Namespace) -> Rolled:
    """One turn of one scenario.

    Raises:
        WrongResult: topic or Redis do not hold what the events say.
        TimeoutError: something did not happen in time.
    """
    first, change = scenario_of(name, options.old or NEW)
    load = Load(options.rate, options.seconds)
    due = load.due()
    shape = Options(len(due), options.balances, options.partitions)
    now_us = time.time_ns() // 1000
    workload = make(shape, now_us, ordered=True)
    prefix = f"rollout-{os.getpid()}-{turn}-{name.replace(' ', '-')}-"
    make_topics(where, prefix, shape.partitions)
    empty_redis(where)
    loader = Loader(where, prefix)
    loader.load(workload.openings)
    with ExitStack() as stack:
        on = Replicas(where, prefix, rules, shape.partitions, options.folder)
        stack.callback(on.close)
        generator = Generator(where, prefix, load, shape, now_us)
        stack.callback(generator.close)
        for _ in range(rules.replicas):
            on.launch(first)
        wait_for(lambda: all(one.is_ready for one in on.running), "all replicas are ready", SHARED_S)
        on.wait_shared()
        on.running[0].wait_committed(loader.positions)
        for one in on.running:
            one.wait_visible()
        answers = Answers(where, prefix + AVAILABILITY.name, shape.partitions)
        stack.callback(answers.close)
        wait_for_calm(options.calm)
        begin = generator.begin()
        events = dues([value for *_, value in workload.sequence], due, begin)
        time.sleep(options.quiet)
        changed = time.monotonic()
        on.steps.clear()
        change(on)
        on.wait_shared()
        settled = time.monotonic()
        late, _ = generator.finish()
        if settled + SETTLE_S > events[-1].at:
            raise TimeoutError(f"{name} took {settled - changed:.0f} s: give it more --seconds")
        wait_for(lambda: events[-1].id in answers.seen, "the last event is answered", LAST_ANSWER_S)
        for one in on.running:
            one.wait_visible()
            one.stop()
        on.running.clear()
    check_topic(where, prefix + AVAILABILITY.name, workload.expected)
    check_redis(where, workload.expected, hashes=True)
    drop_topics(where, prefix)
    found = rolled(name, events, answers.seen, (changed, settled), shape.partitions)
    found.generator_late_p99_ms = spread([one * 1e3 for one in late])[0]["p99"]
    found.steps = [(round(at - changed, 2), what) for at, what in on.steps]
    return found


def rolled(
    name: str, events: Sequence[Due], seen: dict[str, float], change: tuple[float, float], partitions: int
) -> Rolled:
    """What the answers say about a change that began and ended at these monotonic times."""
    begin, end = change[0], change[1] + SETTLE_S
    firsts = answering(events, seen)
    inside = [(event, first) for event, first in zip(events, firsts, strict=True) if begin <= event.at < end]
    before = [
        (seen[first] - event.at) * 1e3
        for event, first in zip(events, firsts, strict=True)
        if first is not None and begin - SETTLE_S <= event.at < begin
    ]
    taken = [(seen[first] - event.at) * 1e3 for event, first in inside if first is not None]
    return Rolled(
        name,
        change[1] - change[0],
        spread(taken)[0],
        spread(before)[0],
        len(taken) / max(1, len(inside)),
        silences(events, seen, (begin, end), partitions),
        0.0,
    )


def silences(
    events: Sequence[Due], seen: dict[str, float], window: tuple[float, float], partitions: int
) -> list[float]:
    """The longest time between two answers of each partition, in seconds, the window's ends counting as answers."""
    times: list[list[float]] = [[] for _ in range(partitions)]
    for event in events:
        at = seen.get(event.id)
        if at is not None and window[0] <= at <= window[1]:
            times[partition_of(event.sku, partitions)].append(at)
    return [
        round(max(later - sooner for sooner, later in pairwise([window[0], *sorted(one), window[1]])), 3)
        for one in times
    ]


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rate", type=float, default=500, help="events per second")
    options.add_argument("--seconds", type=float, default=120, help="of load; must outlast the longest scenario")
    options.add_argument("--quiet", type=float, default=10, help="seconds of it before anything happens")
    options.add_argument("--balances", type=int, default=20_000)
    options.add_argument("--partitions", type=int, default=12)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--replicas", type=int, default=3)
    options.add_argument(
        "--scenario", action="append", choices=(STEADY, ROLLING, SCALING, NODE_LOSS, UPGRADE, DOWNGRADE)
    )
    options.add_argument("--old-python", type=Path, help="the Python of an environment with an older stockflow")
    options.add_argument(
        "--min-ready", type=float, help="seconds instead of minReadySeconds; for tests of this program"
    )
    add_place(options)
    return options


def main() -> int:
    """Measure all in turns, show medians, write them."""
    options = parser().parse_args()
    console = Console()
    # -I: what is installed there, whatever lies in this directory.
    options.old = (str(options.old_python.absolute()), "-I", "-m", "stockflow") if options.old_python else None
    names = options.scenario or [STEADY, ROLLING, SCALING, NODE_LOSS, *([UPGRADE, DOWNGRADE] if options.old else [])]
    if options.old is None and {UPGRADE, DOWNGRADE} & set(names):
        console.print("[red]upgrade and downgrade need --old-python[/red]")
        return 2
    rules = rules_of(replicas=options.replicas)
    if options.min_ready is not None:
        rules = Rules(rules.replicas, rules.surge, options.min_ready, rules.pre_stop_s)
    results: dict[str, list[Rolled]] = {name: [] for name in names}
    with servers(options.folder, options.bootstrap, options.redis_url) as where:
        console.print(f"{where.description}; {os.cpu_count()} cores; {rules}")
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else names[::-1]:
                found = measure(where, name, rules, str(number), options)
                results[name].append(found)
                console.print(f"round {number + 1} {line(found)}", soft_wrap=True)
        description = where.description
    table = Table(title=f"{rules.replicas} replicas, {options.rate:g} events/s; medians of {options.rounds} rounds")
    for title in (
        "scenario",
        "took s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "p99 before",
        "silent s, median partition",
        "worst",
    ):
        table.add_column(title, justify="left" if title == "scenario" else "right")
    for name, rounds in results.items():
        table.add_row(name, *(f"{median(of(one) for one in rounds):.{digits}f}" for digits, of in COLUMNS))
    console.print(table)
    written = options.folder / f"rollout-{time.strftime('%Y%m%dT%H%M%S')}.json"
    plain = {name: [asdict(one) for one in rounds] for name, rounds in results.items()}
    report = {"servers": description, "rules": asdict(rules), "rate": options.rate, "results": plain}
    written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {written}")
    return 0


COLUMNS: tuple[tuple[int, Callable[[Rolled], float]], ...] = (
    (0, lambda one: one.took_s),
    (1, lambda one: one.latency["p50"]),
    (0, lambda one: one.latency["p99"]),
    (0, lambda one: one.latency["max"]),
    (0, lambda one: one.before["p99"]),
    (2, lambda one: median(one.silence_s)),
    (2, lambda one: max(one.silence_s)),
)


def line(found: Rolled) -> str:
    """One turn on one line."""
    quantiles = ", ".join(f"{name} {value:.0f}" for name, value in found.latency.items())
    return (
        f"{found.scenario:10} {found.took_s:5.1f} s, ms {quantiles} (before: p99 {found.before['p99']:.0f}), silent "
        f"{median(found.silence_s):.2f}, at most {max(found.silence_s):.2f} s; answered {found.answered:.1%}; "
        f"generator late p99 {found.generator_late_p99_ms:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
