"""The main pipeline on one page: events in, exact availability out."""

from __future__ import annotations

from bytewax import operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from dataflows.keep_balances import BalanceContext, Changes, KeepBalances
from sinks.publisher import Publisher
from sources.arrivals import Arrival
from sources.kafka import EventsReader, EventsSource


def build(reader: EventsReader, context: BalanceContext, publisher: Publisher) -> Dataflow:
    """The dataflow of one process. Pure wiring: nothing connects here.

    Args:
        reader: all owned partitions of the keyed inputs; also gives the publisher its turns.
        context: what the stateful step shares over partitions.
        publisher: everything that goes out.
    """
    flow = Dataflow("availability")
    # key: Kafka partition number as text
    arrivals: KeyedStream[Arrival] = op.input("read_events", flow, EventsSource(reader))
    changes: KeyedStream[Changes] = op.stateful_batch("keep_balances", arrivals, lambda _resume: KeepBalances(context))
    op.output("publish", changes, PublishSink(publisher, context))
    return flow


class PublishSink(DynamicSink[tuple[str, Changes]]):
    """Hands changes to the publisher; at-least-once by the commit protocol, not by Bytewax."""

    def __init__(self, publisher: Publisher, context: BalanceContext) -> None:
        self._part = _PublishPart(publisher, context)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _PublishPart:
        """The one part.

        Raises:
            ValueError: more than one worker; a process scales by more processes of its group.
        """
        if worker_count != 1:
            raise ValueError("one process is one worker: scale by starting more processes of the same group")
        return self._part


class _PublishPart(StatelessSinkPartition[tuple[str, Changes]]):
    def __init__(self, publisher: Publisher, context: BalanceContext) -> None:
        self._publisher, self._context = publisher, context

    def write_batch(self, items: list[tuple[str, Changes]]) -> None:
        """Publish; never blocks. A failure ends the process at once."""
        try:
            for key, changes in items:
                self._write(int(key), changes)
        except BaseException as error:  # noqa: BLE001 - nothing more may be produced
            self._context.die(error)

    def _write(self, partition: int, changes: Changes) -> None:
        if changes.opened is not None:
            restored, ledger = changes.opened
            self._publisher.open(restored, ledger)
        self._publisher.publish(partition, changes.epoch, changes.letters, changes.traces, changes.more)
        if changes.caught_up:
            self._publisher.caught_up(partition, changes.epoch)
        if changes.closed:
            # The loss itself has closed the outlet, unless its opening was still on the way here.
            self._publisher.lose(partition, changes.epoch)
        if changes.gone is not None:
            changes.gone.discard()
        if changes.traced_batch is not None and self._context.tracing is not None:
            self._context.tracing.processed(partition, changes.traced_batch, self._context.wall_us())
        self._context.stats.handled += changes.arrivals
