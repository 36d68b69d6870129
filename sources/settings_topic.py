"""The settings topic: every process reads all of it, first to its end and then as it grows.

A refused record is kept here until the owner of the matching partition has sent it to the dead letters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.events import Refusal, decode_setting, type_of
from sources.bounds import extent
from stock.events import LocationSet, PolicyRemoved, PolicySet, SourceAlive
from stock.policies import Change, Policies
from stock.times import micros

_NEVER = 2**63
READ_TIMEOUT_S = 30.0  # Settings are few; not reaching their end means the broker is not there.


class SettingsUnreachable(Exception):
    """The settings topic could not be read to its end."""


@dataclass(frozen=True)
class RefusedSetting:
    """A settings record that no rule was taken from."""

    message: Message
    refusal: Refusal


class SettingsTopic:
    """Reads settings into `policies` and moves their time on. Called by the source, blocks in `read_to_end` only."""

    def __init__(
        self, client_config: Mapping[str, str], topic: str, policies: Policies, wall_us: Callable[[], int]
    ) -> None:
        self._wall_us = wall_us
        self.refused: list[RefusedSetting] = []
        self._newly_refused: list[RefusedSetting] = []
        self._policies = policies
        self._topic = topic
        self._behind: dict[int, int] = {}  # by partition not read whole yet: its end when reading began
        self._consumer = Consumer(
            {
                **client_config,
                "group.id": "stockflow-settings-reader",  # never joined: partitions are assigned by hand
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )

    def read_to_end(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take in everything there is, before the first fact is applied.

        Raises:
            SettingsUnreachable: the broker did not deliver the end within half a minute.
        """
        self._policies.advance(self._wall_us())
        deadline = clock() + READ_TIMEOUT_S
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=READ_TIMEOUT_S).topics[self._topic]
        except KafkaException as error:
            raise SettingsUnreachable(f"cannot list {self._topic}: {error}") from error
        places = [TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in sorted(metadata.partitions)]
        for place in places:
            try:
                low, high = extent(self._consumer, place, READ_TIMEOUT_S, deadline, clock)
            except KafkaException as error:
                raise SettingsUnreachable(f"the end of {self._topic} is not known: {error}") from error
            if high > low:
                self._behind[place.partition] = high
        self._consumer.assign(places)
        while self._behind:
            if clock() > deadline:
                raise SettingsUnreachable(f"{self._topic} was not read to its end within {READ_TIMEOUT_S:.0f} s")
            self._take(self._consumer.consume(1000, 0.1))

    def poll(self) -> list[Change]:
        """What changed since the last call, by settings or by time."""
        return [*self._policies.advance(self._wall_us()), *self._take(self._consumer.consume(1000, 0))]

    def newly_refused(self) -> list[RefusedSetting]:
        """What was refused since the last call."""
        refused, self._newly_refused = self._newly_refused, []
        return refused

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _take(self, messages: list[Message]) -> list[Change]:
        changes = []
        for message in messages:
            error = message.error()
            partition, offset = message.partition() or 0, message.offset() or 0
            if error is None:
                changes.extend(self._apply(message))
                if offset + 1 >= self._behind.get(partition, _NEVER):
                    del self._behind[partition]
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.pop(partition, None)
            elif not error.retriable() and error.fatal():
                raise SettingsUnreachable(f"{self._topic}: {error}")
        return changes

    def _apply(self, message: Message) -> list[Change]:
        value, key = message.value(), message.key()
        if value is None:
            return self._remove((key or b"").decode(errors="replace"))
        kind, timestamp_ms = message.timestamp()
        has_time = kind != TIMESTAMP_NOT_AVAILABLE and timestamp_ms >= 0
        setting = decode_setting(key, value, timestamp_ms * 1000 if has_time else None)
        if isinstance(setting, Refusal):
            # The compacted topic keeps only this record of its key, so whatever stood there before ends with it.
            self.refused = [r for r in self.refused if r.message.key() != key]
            self.refused.append(RefusedSetting(message, setting))
            self._newly_refused.append(self.refused[-1])
            return self._remove((key or b"").decode(errors="replace"))
        cause = (type_of(setting), setting.id, setting.source, micros(setting.occurred_at))
        if isinstance(setting, LocationSet):
            self._policies.set_location(setting)
            return [Change(None, setting.location, cause)]
        if isinstance(setting, SourceAlive):
            return [Change(None, setting.location, cause)] if self._policies.set_alive(setting) else []
        if isinstance(setting, PolicySet):
            replaced = self._policies.set_policy(setting)
            scopes = [setting.scope] if replaced is None else [setting.scope, replaced]
            return [Change.inside(scope, cause) for scope in scopes]
        assert isinstance(setting, PolicyRemoved)
        removed = self._policies.remove_policy(setting.policy)
        return [] if removed is None else [Change.inside(removed, cause)]

    def _remove(self, key: str) -> list[Change]:
        kind, _, name = key.partition(":")
        if kind == "location":
            self._policies.remove_location(name)
            return [Change(None, name, None)]
        if kind == "policy":
            removed = self._policies.remove_policy(name)
            return [] if removed is None else [Change.inside(removed, None)]
        if kind == "alive":
            location, _, feed = name.rpartition(":")
            if self._policies.remove_alive(location, feed):
                return [Change(None, location, None)]
        return []
