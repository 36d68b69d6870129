"""How a run ends once all is at rest: in order, with nothing left to replay, or with input that nobody has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.topics import AVAILABILITY, DEAD_LETTERS, NETWORK_AVAILABILITY, POS_SALES, STOCK_STATE, partition_of
from stock.events import PolicyRemoved, PolicySet, PolicyValues, Scope
from tests.simulation.clients import Troubles
from tests.simulation.kafka import Place
from tests.simulation.limits import small_limits
from tests.simulation.process import Process
from tests.simulation.verdict import judge
from tests.strategies import START

if TYPE_CHECKING:
    from tests.simulation.world import Simulation

PATIENCE_S = 60.0


def go_in_order(run: Simulation) -> None:
    """While all is well, partitions are handed over and processes stopped: each commits all that it has taken in."""
    _calm_down(run)
    for ending, percent in _ENDINGS:
        if not run.problems and run.timeline.percent(percent):
            ending(run)
    if not run.problems:
        _stop_all(run)
    if not run.problems and run.timeline.percent(20):
        _lose_input(run)


def _calm_down(run: Simulation) -> None:
    run.calm_down()
    run.processes = [process for process in run.processes if not process.ended]
    for process in run.processes:
        process.is_lazy = False  # what is still between two steps is rightly left to the next owner


def _start_well(run: Simulation) -> Process:
    """One process more, which does not die on the way."""
    while True:
        run.start()
        if run.processes[-1].ended != "killed":
            _calm_down(run)
            return run.processes[-1]
        run.processes.pop()


def _taken_in(process: Process) -> dict[Place, int]:
    """By topic and partition, up to where a process has taken in its inputs."""
    return {
        (topic, partition): position
        for partition, outlet in process.pipeline.publisher.outlets.items()
        for topic, position in zip(process.pipeline.commits.topics, outlet.ledger.totals.positions, strict=True)
    }


def _judge_commits(run: Simulation, name: str, taken: dict[Place, int]) -> None:
    for place, position in taken.items():
        committed = run.group.positions.get(place, (0, ""))[0]
        if committed < position:
            run.problems.append(f"{name} took in {place} to {position} and left it in order, committed to {committed}")


def _work(run: Simulation) -> None:
    """Some facts are told, and taken in or not."""
    run.facts()
    for _ in range(run.timeline.chance.randint(1, 8)):
        for process in run.processes:
            process.turn()
        run.timeline.advance(0.005)


def _hand_over(run: Simulation) -> None:
    """A process more comes, and takes its share."""
    before = list(run.processes)
    _start_well(run)
    for _ in range(20):
        _work(run)
        for process in before:
            taken = _taken_in(process)
            process.turn()
            left = {place: at for place, at in taken.items() if place[1] not in process.pipeline.publisher.outlets}
            if left:
                run.timeline.advance(0.05)  # its last commit is on the way
                _judge_commits(run, process.host.name, left)


def _late_state(run: Simulation) -> None:
    """A fenced writer's state arrives while nobody is there, and at last it alone is left of its key."""
    run.kill_all()
    run.write_late(STOCK_STATE.name)
    if _rest_and_judge(run):
        run.compaction()
        run.kill_all()
        _rest_and_judge(run)


def _late_record(run: Simulation) -> None:
    """A fenced writer's record arrives where nobody else writes."""
    run.write_late(run.timeline.chance.choice((STOCK_STATE.name, AVAILABILITY.name, NETWORK_AVAILABILITY.name)))
    if _rest_and_judge(run):
        run.compaction()
        run.kill_all()
        _rest_and_judge(run)


def _renewal_at_a_takeover(run: Simulation) -> None:
    """A hold ends while nobody is there, and its renewal comes between the assignment and the claim."""
    renewed = run.hold()
    if not _rest_and_judge(run):
        return
    run.kill_all()
    partition = partition_of(renewed.sku, run.plan.partitions)
    claims = len(run.broker.appended[STOCK_STATE.name])
    process = _start_well(run)
    deadline = run.timeline.now + PATIENCE_S
    while partition not in process.pipeline.reader._assignments and run.timeline.now < deadline:
        process.turn()
        run.timeline.advance(0.01)
    if len(run.broker.appended[STOCK_STATE.name]) == claims:
        run.append(renewed)
    _rest_and_judge(run)


def _die_in_the_replay(run: Simulation) -> None:
    """Much is refused; an owner dies before it has committed that, and the next one in the middle of the replay."""
    run.kill_all()
    for _ in range(8):
        run.poison()
        run.stranger()
        run.facts()
    letters_are_slow = run.timeline.percent(50)
    with small_limits():
        process = _start_well(run)
        process.host.slow_topic = DEAD_LETTERS.name if letters_are_slow else None
        for _ in range(run.timeline.chance.randint(30, 90)):
            process.turn()
            run.timeline.advance(0.04 if letters_are_slow else 0.004)
        run.kill_all()
        committed = dict(run.group.positions)
        process = _start_well(run)
        deadline = run.timeline.now + PATIENCE_S
        while run.group.positions == committed and process.ended is None and run.timeline.now < deadline:
            process.turn()
            run.timeline.advance(0.04)
        run.kill_all()
    _rest_and_judge(run)


def _rule_there_and_back(run: Simulation) -> None:
    """A rule changes and its records are long on their way; it changes back while nobody is there."""
    if not run.told.facts:
        return
    _, fact = run.timeline.chance.choice(run.told.facts)
    scope = Scope(sku=fact.event.sku, location=fact.event.location)
    saying: dict[str, Any] = {"source": "planning", "policy": "there-and-back"}
    run.append(
        PolicySet(id="there", occurred_at=START, scope=scope, values=PolicyValues(safety_stock=7, buffer=1), **saying)
    )
    partition = partition_of(fact.event.sku, run.plan.partitions)
    for process in run.processes:
        process.host.troubles = Troubles(slow=70)
    for _ in range(4):
        run.append_poison(POS_SALES.name, partition, None, b"")  # each has its cut, and says nothing of stock
        for _ in range(10):
            for process in run.processes:
                process.turn()
            run.timeline.advance(0.05)
    run.kill_all()
    run.append(PolicyRemoved(id="back", occurred_at=START, **saying))
    _rest_and_judge(run)


def _rest_and_judge(run: Simulation) -> bool:
    if run.come_to_rest():
        run.problems += judge(run)
    _calm_down(run)
    return not run.problems


def _stop_all(run: Simulation) -> None:
    _work(run)
    for process in run.processes:
        taken = _taken_in(process)
        run.timeline.tell(f"{process.host.name}: is asked to stop while all is well")
        process.ask_to_stop()
        _turn_until_it_ends(run, process)
        if process.ended != "stopped":
            run.problems.append(f"{process.host.name} was asked to stop, and ended with {process.ended}")
        _judge_commits(run, process.host.name, taken)


def _lose_input(run: Simulation) -> None:
    """Retention takes what nobody has read: whoever comes next has to say so, and may not begin."""
    partition = run.timeline.chance.randrange(run.plan.partitions)
    if (POS_SALES.name, partition) not in run.group.positions:
        return
    for _ in range(2):
        run.append_poison(POS_SALES.name, partition, None, b"")
    run.broker.logs[POS_SALES.name, partition].forget(run.timeline.now + 1)
    run.kill_all()
    process = _start_well(run)
    _turn_until_it_ends(run, process)
    if not str(process.ended).startswith("InputLost"):
        run.problems.append(f"input was lost, and {process.host.name} goes on: {process.ended}")


_ENDINGS = (
    (_late_state, 12),
    (_late_record, 12),
    (_rule_there_and_back, 15),
    (_renewal_at_a_takeover, 12),
    (_die_in_the_replay, 15),
    (_hand_over, 40),
)


def _turn_until_it_ends(run: Simulation, process: Process) -> None:
    deadline = run.timeline.now + PATIENCE_S
    while process.ended is None and run.timeline.now < deadline:
        process.turn()
        run.timeline.advance(0.02)
