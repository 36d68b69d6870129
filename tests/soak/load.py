"""Sends what the shops say: the openings as fast as they are taken, then each fact when it is due, late ones too."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as KafkaMessage

from schemas.topics import WMS_MOVEMENTS
from tests.e2e.load import DELIVERY_TIMEOUT_MS, FLUSH_TIMEOUT_S, Record, poison
from tests.soak.shop import Shop, Told, openings

CHUNK = 20_000  # Openings handed to the producer at once.
IN_FLIGHT_MAX = 200_000
REPEATS_SHARE = 0.01

Place = tuple[str, int, int]


class Load:
    """One sender; `due` holds the monotonic time at which each fact was due that no record has named yet.

    Facts fall due at fixed times whether or not anything keeps up. New keys and poison come on top of the rate's mix.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        partitions: int,
        *,
        balances: int,
        rate: float,
        new_keys_per_s: float,
        poison_share: float,
        seed: int,
    ) -> None:
        self._bootstrap, self._prefix, self._partitions = bootstrap, prefix, partitions
        self._balances, self._rate = balances, rate
        self._new_share, self._poison_share = new_keys_per_s / rate, poison_share
        self._chance = random.Random(seed)
        self._shop = Shop(seed, balances, partitions)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.due: dict[str, float] = {}
        self.refused: dict[Place, Record] = {}
        self.failures: list[str] = []
        self.produced = self.delivered = self.repeats = self.late_ms_max = 0

    @property
    def new_keys(self) -> int:
        """Balances that came into being after the openings."""
        return self._shop.new_keys

    def open(self, progress: Callable[[int], None]) -> None:
        """Send one opening per balance and wait for all acknowledgements."""
        producer = self._producer({"linger.ms": 20, "batch.size": 262_144, "queue.buffering.max.messages": 2_000_000})
        records = openings(self._balances, self._partitions, time.time_ns() // 1_000)
        while chunk := list(islice(records, CHUNK)):
            by_partition: dict[int, list[dict[str, bytes]]] = {}
            for number, key, value in chunk:
                by_partition.setdefault(number, []).append({"key": key, "value": value})
            for number, messages in by_partition.items():
                taken = producer.produce_batch(
                    self._prefix + WMS_MOVEMENTS.name, messages, partition=number, on_delivery=self._delivered
                )
                assert taken == len(messages), f"{len(messages) - taken} openings were not taken"
            self.produced += len(chunk)
            while self.produced - self.delivered > IN_FLIGHT_MAX:
                producer.poll(0.05)
            producer.poll(0)
            progress(self.produced)
        self._finish(producer)

    def start(self) -> None:
        """Send in the background until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """End the sending and wait until all is acknowledged; what went wrong in it fails here."""
        self._stop.set()
        self._thread.join()
        self.check()

    def check(self) -> None:
        """Do nothing while nothing has gone wrong."""
        if self.failures:
            raise AssertionError(f"the load failed: {self.failures[:3]}")

    def _producer(self, more: dict[str, Any]) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "max.in.flight": 1,  # For the reason given in tests/e2e/load.py.
                "message.timeout.ms": DELIVERY_TIMEOUT_MS,
                "log_level": 0,
                **more,
            }
        )

    def _finish(self, producer: Producer) -> None:
        left = producer.flush(FLUSH_TIMEOUT_S)
        if left or self.delivered != self.produced:
            self.failures.append(f"{self.delivered} of {self.produced} acknowledged, {left} left")
        if self.failures:
            raise AssertionError(f"not delivered: {self.failures[:3]}")

    def _run(self) -> None:
        producer = self._producer({"linger.ms": 2, "partitioner": "murmur2_random"})
        begin, number = time.monotonic(), 0
        try:
            while not self._stop.is_set():
                at = begin + number / self._rate
                while (left := at - time.monotonic()) > 0:
                    producer.poll(min(left, 0.01))
                self.late_ms_max = max(self.late_ms_max, int(-left * 1e3))
                self._send(producer, number, at)
                number += 1
                if number % 100 == 0:
                    producer.poll(0)
            self._finish(producer)
        except Exception as error:  # noqa: BLE001 - told by `stop`, in the thread that can fail the run
            self.failures.append(f"{type(error).__name__}: {error}")

    def _send(self, producer: Producer, number: int, at: float) -> None:
        draw = self._chance.random()
        self.produced += 1
        if draw < self._poison_share:
            self._spoil(producer, poison(self._chance, number, self._partitions))
            return
        now_us = time.time_ns() // 1_000
        told: Told | None = None
        if draw < self._poison_share + REPEATS_SHARE:
            told = self._shop.tell_again()
            self.repeats += told is not None
        elif draw < self._poison_share + REPEATS_SHARE + self._new_share:
            told = self._shop.tell_of_new_key(now_us)
        if told is None:
            told = self._shop.tell(now_us)
        if told.id:
            self.due[told.id] = at
        producer.produce(
            self._prefix + told.topic,
            value=told.value,
            key=told.key,
            partition=told.partition,
            on_delivery=self._delivered,
        )

    def _spoil(self, producer: Producer, record: Record) -> None:
        placed: dict[str, Any] = {} if record.partition is None else {"partition": record.partition}
        producer.produce(
            self._prefix + record.topic,
            value=record.value,
            key=record.key,
            headers=list(record.headers),
            on_delivery=partial(self._noted, record),
            **placed,
        )

    def _delivered(self, error: KafkaError | None, message: KafkaMessage) -> None:
        if error is not None:
            self.failures.append(f"{message.topic()}: {error}")
        else:
            self.delivered += 1

    def _noted(self, record: Record, error: KafkaError | None, message: KafkaMessage) -> None:
        self._delivered(error, message)
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or offset < 0:
            self.failures.append(f"{record.topic}: acknowledged without an offset")
        else:
            self.refused[record.topic, partition, offset] = record
