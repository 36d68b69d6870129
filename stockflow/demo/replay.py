"""Sends planned records when they are due, in a thread of its own; never waits for the pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.topics import partition_of
from stockflow.demo.planned import Planned

TICK_S = 0.002  # Records due within this time go out together: one wake-up each would burn a core for nothing.
FLUSH_S = 30.0
QUEUE_FULL_POLL_S = 0.05
PARTITION_UNASSIGNED = -1  # The partitioner decides, by key.


class SendingFailed(RuntimeError):
    """Records could not be delivered to the broker."""


class Sender:
    """Produces planned records and counts what the broker has acknowledged. For one thread at a time."""

    def __init__(self, client_config: Mapping[str, str], topic_prefix: str, partitions: int) -> None:
        """The producer connects in the background; nothing blocks here."""
        self._producer = Producer(
            {
                **client_config,
                "partitioner": "murmur2_random",  # Java's default; librdkafka's own would scatter the SKUs.
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "log_level": 2,  # What matters comes back as an error; passing hiccups of a fresh broker do not.
                "message.timeout.ms": int(FLUSH_S * 1_000),
            }
        )
        self._prefix = topic_prefix
        self._partitions = partitions
        self.sent = 0
        self.delivered = 0
        self.error: KafkaError | None = None

    def send(self, planned: Planned, start: datetime) -> None:
        """Hand one record to the producer; waits only while the producer's queue is full.

        Raises:
            SendingFailed: an earlier record was not delivered, or this one is refused by the producer.
        """
        partition = PARTITION_UNASSIGNED
        if planned.foreign_partition:
            partition = (partition_of(planned.key, self._partitions) + 1) % self._partitions
        value = planned.value(start)
        while True:
            if self.error is not None:
                raise SendingFailed(self.error.str())
            try:
                self._producer.produce(
                    self._prefix + planned.topic.name,
                    value=value,
                    key=planned.key,
                    on_delivery=self._delivered,
                    partition=partition,
                )
            except BufferError:
                self._producer.poll(QUEUE_FULL_POLL_S)
                continue
            except KafkaException as error:
                raise SendingFailed(str(error)) from error
            self.sent += 1
            return

    def serve(self) -> None:
        """Let delivery reports come in."""
        self._producer.poll(0)

    def finish(self) -> None:
        """Wait until all that was sent is acknowledged.

        Raises:
            SendingFailed: it was not, within half a minute.
        """
        left = self._producer.flush(FLUSH_S)
        if self.error is not None:
            raise SendingFailed(self.error.str())
        if left or self.delivered != self.sent:
            raise SendingFailed(f"{self.sent - self.delivered} records were not acknowledged within {FLUSH_S:.0f} s")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.delivered += 1
        elif self.error is None:
            self.error = error


class Replay(threading.Thread):
    """Sends a day at its planned times (an open loop: a slow broker delays nothing that comes later).

    `sent` may be read at any time; `error` is set before the thread ends, if it could not go on.
    """

    def __init__(self, sender: Sender, planned: Sequence[Planned]) -> None:
        """The first record's time counts from the call of `start()`."""
        super().__init__(name="demo-replay", daemon=True)
        self._sender = sender
        self._planned = planned
        self._halt = threading.Event()
        self.started_at: float | None = None
        self.behind_s_max = 0.0
        self.error: Exception | None = None

    @property
    def sent(self) -> int:
        """Records handed to the producer so far, those before this replay included."""
        return self._sender.sent

    def run(self) -> None:
        """Send everything, then wait for the acknowledgements."""
        try:
            self._send_all()
            if not self._halt.is_set():
                self._sender.finish()
        except Exception as error:  # noqa: BLE001 - it is handed to the waiting thread, which raises it
            self.error = error

    def halt(self) -> None:
        """Stop sending soon; what is already sent stays sent."""
        self._halt.set()

    def _send_all(self) -> None:
        wall = time.time()
        begin = time.monotonic()
        self.started_at = wall
        start = datetime.fromtimestamp(wall, tz=timezone.utc)
        for planned in self._planned:
            while (wait := begin + planned.send_at - time.monotonic()) > 0:
                self._sender.serve()
                if self._halt.wait(max(wait, TICK_S)):
                    return
            self.behind_s_max = max(self.behind_s_max, -wait)
            self._sender.send(planned, start)
