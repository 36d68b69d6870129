"""The balance job on faust-streaming: one agent over three topics, a table in memory with a changelog topic.

Best settings found: a few hundred events per turn of the agent (`take`), their records sent together and awaited once;
the table in the partition of the event, so that nothing is repartitioned. Its consumer reads uncommitted records unless
it runs transactions itself; the benchmark's events are released by a transaction, so `read_committed` is given to the
client here.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import faust
import orjson
from faust.transport.drivers import aiokafka as driver
from job import COMMIT_S, arguments, record, take

TAKE, WITHIN_S = 500, 0.02


class _Committed(driver.aiokafka.AIOKafkaConsumer):
    def __init__(self, *topics: str, **settings: Any) -> None:
        super().__init__(*topics, **{**settings, "isolation_level": "read_committed", "fetch_max_wait_ms": 500})


def build(options: Any) -> faust.App:
    """The application."""
    driver.aiokafka.AIOKafkaConsumer = _Committed
    app = faust.App(
        options.group,
        broker=f"kafka://{options.bootstrap}",
        store="memory://",
        datadir=str(options.folder),
        topic_partitions=options.partitions,
        topic_replication_factor=1,
        broker_commit_interval=COMMIT_S,
        broker_max_poll_records=TAKE,
        producer_linger_ms=options.linger_ms,
        producer_max_batch_size=262_144,
        producer_acks=-1,
        stream_wait_empty=False,
        web_enabled=False,
    )
    events = app.topic(*options.inputs, key_type=bytes, value_type=bytes, value_serializer="raw")
    output = app.topic(options.output, key_type=bytes, value_type=bytes, value_serializer="raw")
    balances = app.Table("balances", partitions=options.partitions, use_partitioner=True)

    @app.agent(events)
    async def keep(stream: Any) -> None:
        async for values in stream.take(TAKE, within=WITHIN_S):
            sent = []
            for value in values:
                event = orjson.loads(value)
                key = f"{event['sku']}|{event['location']}"
                balance = balances.get(key) or [0, 0, 0]
                take(balance, event)
                balances[key] = balance
                sent.append(output.send(key=key.encode(), value=record(balance, event)))
            await asyncio.gather(*await asyncio.gather(*sent))

    return app


def main() -> None:
    """Run until killed."""
    app = build(arguments())
    sys.argv = ["faust", "worker", "--without-web", "--loglevel", "WARN"]
    app.main()


if __name__ == "__main__":
    main()
