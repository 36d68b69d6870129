"""Settings as they are read while the process runs: over simulated clients, which deliver what the log holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.topics import KEYED_INPUTS, STOCK_SETTINGS
from sources.settings_topic import SettingsTopic
from stock.policies import Policies
from tests.simulation.clients import Host, Troubles
from tests.simulation.kafka import Broker, Group, Timeline
from tests.simulation.process import simulated_clients

BAD = b'{"type":"policy.set"}'


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker without troubles, and a host `here` for the clients of the program."""
    timeline = Timeline(1)
    group = Group(timeline, tuple(topic.name for topic in KEYED_INPUTS), 1, session_s=6)
    broker = Broker(timeline, [(STOCK_SETTINGS.name, True)], 1, group, start_ms=0)
    with simulated_clients({"here": Host("here", timeline, broker, Troubles(0, 0, 0, 0, 0, 0))}):
        yield broker


def opened(broker: Broker) -> SettingsTopic:
    settings = SettingsTopic({"client.id": "here"}, STOCK_SETTINGS.name, Policies(), broker.wall_us)
    settings.read_to_end(lambda: broker.timeline.now)
    return settings


def offsets_refused(settings: SettingsTopic) -> list[int | None]:
    """Where the newly refused records stand, after a look at the topic."""
    while settings.poll():
        continue
    return [refused.message.offset() for refused in settings.newly_refused()]


def test_each_refused_setting_is_said_also_the_second_of_a_key(broker: Broker) -> None:
    """The newest replaces the older of its key among those that are kept, and is news all the same."""
    settings = opened(broker)
    told = []
    for _ in range(3):
        broker.append(STOCK_SETTINGS.name, 0, b"policy:p", BAD, (), "planning")
        told.append(offsets_refused(settings))
    assert told == [[0], [1], [2]]
    assert [refused.message.offset() for refused in settings.refused] == [2], "a new owner tells the one that stands"


def test_a_refused_setting_is_news_once(broker: Broker) -> None:
    """Whoever asks again has been told."""
    broker.append(STOCK_SETTINGS.name, 0, b"policy:p", BAD, (), "planning")
    settings = opened(broker)
    assert offsets_refused(settings) == [0]
    assert offsets_refused(settings) == []


def test_heartbeats_and_dates_are_changes_of_the_rules(broker: Broker) -> None:
    """A heartbeat that says nothing new is none; a promise that ends by itself is one, and so is its removal."""
    settings = opened(broker)
    key = b"alive:A:b:pos"  # a location may have a colon in it
    said = '"source":"g","occurred_at":"1970-01-01T00:00:00Z"'

    def heartbeat(seconds: int) -> None:
        until = f"1970-01-01T00:00:{seconds:02d}Z"
        value = f'{{"type":"source.alive","id":"h","location":"A:b","feed":"pos","until":"{until}",{said}}}'
        broker.append(STOCK_SETTINGS.name, 0, key, value.encode(), (), "gateway")

    def changes() -> list[tuple[str | None, str | None]]:
        found = [*settings.poll(), *settings.poll()]
        return [(change.location, None if change.cause is None else change.cause[0]) for change in found]

    heartbeat(5)
    assert changes() == []
    broker.timeline.advance(6)
    assert changes() == [("A:b", "source.stale")]
    heartbeat(30)
    assert changes() == [("A:b", "source.alive")]
    heartbeat(40)
    assert changes() == []
    heartbeat(1)
    assert changes() == [("A:b", "source.alive")]
    broker.append(STOCK_SETTINGS.name, 0, key, None, (), "gateway")
    assert changes() == [("A:b", None)]
