"""What is read at once and passed on over turns is told, and cut, when the last of it is applied."""

from __future__ import annotations

import pytest

from schemas.topics import AVAILABILITY, STOCK_STATE
from sinks import outlet as module
from sinks.publisher import Publisher
from sources.restore import Restored
from stock.events import PosSale
from stock.ledger import Ledger
from stock.policies import Policies
from tests.simulation.kafka import Broker
from tests.strategies import START

NOW_US = int(START.timestamp() * 1_000_000)


def opened_by(publisher: Publisher) -> Ledger:
    """The ledger of a partition without any balance yet."""
    ledger = Ledger(Policies())
    publisher.open(Restored(0, 7, generation=1), ledger)
    return ledger


def sell(publisher: Publisher, ledger: Ledger, number: int, more: bool) -> None:
    """One more sale of the same key, in a batch of its own."""
    event = PosSale(id=f"s-{number}", source="till", occurred_at=START, sku="SKU-1", location="STORE-A", units=2)
    ledger.apply(event, 0, number, NOW_US)
    publisher.publish(0, 7, (), {}, more)


def serve(publisher: Publisher, broker: Broker, turns: int = 20) -> tuple[int, int]:
    """Turns that last longer than it takes until a cut; ends of the availability and of the state topic."""
    for _ in range(turns):
        broker.timeline.advance(0.1)
        publisher.serve(cuts_allowed=True)
    return broker.logs[AVAILABILITY.name, 0].end, broker.logs[STOCK_STATE.name, 0].end


def test_a_run_is_told_and_cut_with_its_last_portion(publisher: tuple[Publisher, Broker]) -> None:
    """One record says what all of it changed; a cut before that would commit what nobody was told."""
    outgoing, broker = publisher
    ledger = opened_by(outgoing)
    for number in range(3):
        sell(outgoing, ledger, number, more=True)
        assert serve(outgoing, broker) == (0, 0)
    sell(outgoing, ledger, 3, more=False)
    told, kept = serve(outgoing, broker)
    assert told == 1
    assert kept > 0


def test_a_run_of_many_keys_is_told_and_cut_before_its_end(
    publisher: tuple[Publisher, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where keys hardly come again, waiting spares no record, and all of them would be sent in one turn."""
    monkeypatch.setattr(module, "GATHERED_MAX", 1)
    outgoing, broker = publisher
    ledger = opened_by(outgoing)
    ends = [(0, 0)]
    for number in range(3):
        sell(outgoing, ledger, number, more=True)
        ends.append(serve(outgoing, broker))
    assert [told for told, _ in ends] == [0, 1, 2, 3]
    assert len({kept for _, kept in ends}) == len(ends)


@pytest.mark.parametrize("portions", [1, 2])
def test_a_partition_that_is_handed_over_tells_what_was_applied(
    portions: int, publisher: tuple[Publisher, Broker]
) -> None:
    """The next owner reads from there: the rest of the run is its own."""
    outgoing, broker = publisher
    ledger = opened_by(outgoing)
    for number in range(portions):
        sell(outgoing, ledger, number, more=True)
    outgoing.finish([0], 5.0)
    assert broker.logs[AVAILABILITY.name, 0].end == 1
    assert [positions[0] for positions in outgoing._commits.requested] == [portions]  # type: ignore[attr-defined]
