"""The balance job on Bytewax's own Kafka connectors, with recovery to SQLite once a second.

Best settings found: batches of 1,000 from the source, decoding a batch per step, state by SKU and location a batch at a
time. The sink that comes with Bytewax flushes after each batch, and the source starts one client per partition. Offsets
live in the recovery store, so nothing is committed to Kafka.
"""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from confluent_kafka import OFFSET_BEGINNING
from job import arguments, record, take

SNAPSHOT_S = 1.0
BATCH = 1_000


class Keep(StatefulBatchLogic):
    """One balance."""

    def __init__(self, resumed: list[int] | None) -> None:
        self._balance = resumed or [0, 0, 0]

    def on_batch(self, values: list[dict[str, Any]]) -> tuple[list[tuple[bytes, bytes]], bool]:
        """A record per event."""
        balance, out = self._balance, []
        for event in values:
            take(balance, event)
            key = f"{event['sku']}|{event['location']}"
            out.append((key.encode(), record(balance, event)))
        return out, False

    def snapshot(self) -> list[int]:
        """What recovery keeps."""
        return list(self._balance)


def decoded(messages: list[KafkaSourceMessage]) -> list[tuple[str, dict[str, Any]]]:
    """Events by SKU and location."""
    events = [orjson.loads(message.value) for message in messages]
    return [(f"{event['sku']}|{event['location']}", event) for event in events]


def build(bootstrap: str, inputs: list[str], output: str, linger_ms: int) -> Dataflow:
    """The flow."""
    flow = Dataflow("stock_bytewax")
    source = KafkaSource(
        [bootstrap], inputs, tail=True, starting_offset=OFFSET_BEGINNING, batch_size=BATCH, raise_on_errors=True
    )
    read = op.input("read", flow, source)
    keyed: KeyedStream[dict[str, Any]] = op.flat_map_batch("decode", read, decoded)
    kept = op.stateful_batch("keep", keyed, Keep)
    records = op.map("records", kept, lambda pair: KafkaSinkMessage(*pair[1]))
    producer = {"acks": "all", "enable.idempotence": "true", "linger.ms": str(linger_ms)}
    op.output("write", records, KafkaSink([bootstrap], output, add_config=producer))
    return flow


def main() -> None:
    """Run until killed."""
    options = arguments()
    flow = build(options.bootstrap, options.inputs, options.output, options.linger_ms)
    recovery = options.folder / "recovery"
    recovery.mkdir(parents=True)
    init_db_dir(recovery, 1)
    cli_main(flow, workers_per_process=1, epoch_interval=_seconds(SNAPSHOT_S), recovery_config=RecoveryConfig(recovery))


def _seconds(value: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=value)


if __name__ == "__main__":
    main()
