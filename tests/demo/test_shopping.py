"""The planned shopping day: the same for the same seed, valid on every topic, and in a sensible order."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from types import UnionType

import msgspec
import polars as pl
import pytest

from schemas.events import Refusal, decode, decode_setting
from schemas.topics import KEYED_INPUTS, ORDER_RESERVATIONS, POS_SALES, STOCK_SETTINGS, WMS_MOVEMENTS
from stock.events import (
    LocationSet,
    Message,
    OrderMessage,
    PolicySet,
    PosMessage,
    PosSale,
    ReservationCreated,
    SettingsMessage,
    WmsAdjustment,
    WmsCount,
    WmsMessage,
)
from stock.times import micros
from stockflow.demo import shopping
from stockflow.demo.planned import Planned
from stockflow.demo.shelf import GRACE_S
from stockflow.demo.shopping import NoShoppingData, Shopping, plan, read_lines

START = datetime(2026, 11, 22, 10, 15, tzinfo=timezone.utc)
EVENTS = 20_000
UNIONS: dict[str, UnionType] = {
    POS_SALES.name: PosMessage,
    WMS_MOVEMENTS.name: WmsMessage,
    ORDER_RESERVATIONS.name: OrderMessage,
    STOCK_SETTINGS.name: SettingsMessage,
}


@lru_cache(maxsize=1)
def lines() -> pl.DataFrame:
    return read_lines()


@lru_cache(maxsize=1)
def day() -> Shopping:
    return plan(lines(), EVENTS, seed=7)


def good() -> list[Planned]:
    return [planned for planned in day().events if planned.refused is None]


def shelf_of(planned: Planned) -> tuple[str, str]:
    return planned.key, planned.fields["location"]


def test_same_seed_gives_the_same_bytes_at_the_same_times() -> None:
    """Determinism covers order, times, partitions and bytes."""
    again = plan(read_lines(), EVENTS, seed=7)
    assert again == day()
    assert [p.value(START) for p in again.events[:500]] == [p.value(START) for p in day().events[:500]]


def test_another_seed_gives_another_day() -> None:
    """Both the SKUs and what happens to them depend on the seed."""
    other = plan(lines(), EVENTS, seed=8)
    assert {p.key for p in other.events} != {p.key for p in day().events}


@pytest.mark.parametrize("events", [500, 5_000, 20_000])
def test_number_of_events_is_nearly_what_was_asked_for(events: int) -> None:
    """Whole SKUs are taken, so at most a hundredth is missing and nothing is too much."""
    found = len(plan(lines(), events, seed=3).events)
    assert events * 0.99 <= found <= events


def test_every_kind_of_event_is_there_in_sensible_shares() -> None:
    """Sales make up about half; every supported type occurs."""
    shares = {kind: count / len(good()) for kind, count in Counter(p.type for p in good()).items()}
    table = {
        "pos.sale": (0.4, 0.65),
        "wms.count": (0.1, 0.35),
        "reservation.created": (0.05, 0.15),
        "order.allocated": (0.02, 0.06),
        "order.fulfilled": (0.005, 0.04),
        "wms.receipt": (0.01, 0.08),
        "wms.shipment": (0.003, 0.02),
        "wms.shipment_voided": (0.0005, 0.01),
        "wms.adjustment": (0.004, 0.03),
        "wms.status_changed": (0.004, 0.03),
        "reservation.released": (0.002, 0.03),
        "reservation.renewed": (0.0015, 0.02),
        "order.deallocated": (0.002, 0.02),
        "pos.return": (0.004, 0.02),
        "pos.void": (0.001, 0.01),
    }
    assert set(shares) == set(table)
    assert {kind: share for kind, share in shares.items() if not table[kind][0] <= share <= table[kind][1]} == {}


def test_exact_repeats_are_half_a_percent() -> None:
    """A repeat has the same topic, key and bytes."""
    seen = Counter((p.topic.name, p.key, p.value(START)) for p in good())
    repeats = sum(count - 1 for count in seen.values())
    assert 0.003 <= repeats / len(good()) <= 0.008


def test_ids_are_unique_per_source_apart_from_repeats() -> None:
    """The same id of a source always stands for the same bytes."""
    contents = defaultdict(set)
    for planned in good():
        contents[planned.fields["source"], planned.fields["id"]].add(planned.value(START))
    assert [key for key, values in contents.items() if len(values) != 1] == []


def test_every_message_decodes_as_its_topics_type() -> None:
    """Typed messages that are not meant to be refused are valid on the topic they go to."""
    decoders = {name: msgspec.json.Decoder(union) for name, union in UNIONS.items()}
    for planned in [*day().settings, *good()]:
        value = planned.value(START)
        assert value is not None
        message: Message = decoders[planned.topic.name].decode(value)
        assert message == planned.message(START)


def test_key_is_the_sku_and_goes_to_the_skus_partition() -> None:
    """Only the record meant to be in a wrong partition leaves the choice to nobody else."""
    assert [p for p in good() if p.key != p.fields["sku"] or p.foreign_partition] == []
    assert [p.refused for p in day().events if p.foreign_partition] == ["wrong_partition"]


def test_opening_count_precedes_everything_else_of_its_shelf() -> None:
    """Nothing happens, and nothing is sent, before the shelf has a baseline."""
    opened: set[tuple[str, str]] = set()
    at: dict[tuple[str, str], float] = {}
    for planned in good():
        shelf = shelf_of(planned)
        if shelf not in opened:
            assert planned.kind is WmsCount
            opened.add(shelf)
            at[shelf] = planned.happened_at
        assert planned.happened_at >= at[shelf]
    assert {shelf_of(p) for p in good() if p.kind is PosSale} <= opened


def test_events_are_in_sending_order_and_within_the_sending() -> None:
    """The open-loop sender relies on the order."""
    times = [planned.send_at for planned in day().events]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] == day().sending_s


def test_nothing_is_told_before_it_happened() -> None:
    """`occurred_at` is never after the sending, except in the record that is refused for it."""
    early = [planned.refused for planned in day().events if planned.happened_at > planned.send_at]
    assert early == ["in_future"]


def test_occurred_at_is_the_planned_time_after_the_start() -> None:
    """The wall clock enters only as the start."""
    planned = next(p for p in good() if p.kind is PosSale)
    assert planned.message(START).occurred_at == START + timedelta(seconds=planned.happened_at)


def test_some_facts_are_told_late() -> None:
    """Cycle counts are keyed in after the shelf was counted; some sales and renewals come late as well."""
    late = Counter(p.type for p in good() if p.send_at > p.happened_at + 0.4)
    assert {"wms.count", "pos.sale", "reservation.renewed"} <= set(late)


def test_holds_end_in_real_seconds_soon_after_the_sending() -> None:
    """The demo waits for the last expiry, so none is far away, and none has ended when it is created."""
    holds = [p for p in good() if p.kind is ReservationCreated]
    lives = [p.moments["expires_at"] - p.happened_at for p in holds]
    assert min(lives) > 0
    assert max(lives) <= 40
    assert day().last_expiry_s() <= day().sending_s + GRACE_S


def test_some_shelves_run_out_and_most_do_not() -> None:
    """The opening counts leave a visible part of the shelves with less than they sell."""
    opening: dict[tuple[str, str], int] = {}
    sold: Counter[tuple[str, str]] = Counter()
    for planned in good():
        if planned.kind is WmsCount:
            opening.setdefault(shelf_of(planned), planned.fields["units"])
        elif planned.kind is PosSale:
            sold[shelf_of(planned)] += planned.fields["units"]
    short = sum(1 for shelf, units in opening.items() if units <= max(sold[shelf], 0))
    assert 0.05 <= short / len(opening) <= 0.4


def test_pickups_name_a_hold_that_was_created_before() -> None:
    """A sale that collects a reservation comes after the reservation, at the same shelf."""
    created: dict[str, tuple[str, str]] = {}
    pickups = 0
    for planned in sorted(good(), key=lambda p: p.happened_at):
        if planned.kind is ReservationCreated:
            created[planned.fields["reservation"]] = shelf_of(planned)
        elif planned.kind is PosSale and "reservation" in planned.fields:
            pickups += 1
            assert created[planned.fields["reservation"]] == shelf_of(planned)
    assert pickups > 100


def test_adjustments_are_never_zero() -> None:
    """An adjustment by nothing would be refused."""
    assert [p for p in good() if p.kind is WmsAdjustment and p.fields["units"] == 0] == []


def test_refused_records_cover_the_reasons_a_pipeline_must_tell_apart() -> None:
    """A handful of dead letters, at SKUs that exist."""
    bad = [planned for planned in day().events if planned.refused is not None]
    assert Counter(planned.refused for planned in bad) == {
        "not_json": 2,
        "empty": 2,
        "missing_field": 1,
        "bad_field": 2,
        "unknown_type": 1,
        "wrong_topic": 1,
        "not_supported_yet": 1,
        "wrong_partition": 1,
        "in_future": 1,
    }
    assert {planned.key for planned in bad} <= {planned.key for planned in good()}


def test_pipelines_decoder_agrees_on_what_is_refused_and_why() -> None:
    """Each record is refused for the planned reason or not at all; a foreign partition is not the decoder's matter."""
    wrong = []
    for planned in day().events:
        sent_us = micros(START + timedelta(seconds=planned.send_at))
        found = decode(KEYED_INPUTS.index(planned.topic), planned.value(START), sent_us)
        reason = found.reason if isinstance(found, Refusal) else None
        if reason != (None if planned.foreign_partition else planned.refused):
            wrong.append((planned, found))
    assert wrong == []


def test_pipelines_decoder_accepts_all_settings() -> None:
    """No setting ends as a dead letter, and each stands under the key that names it."""
    for planned in day().settings:
        found = decode_setting(planned.key.encode(), planned.value(START) or b"")
        assert found == planned.message(START)


def test_settings_describe_all_stores_and_a_few_policies() -> None:
    """One store has no pick-up; keys are the settings' ids."""
    places = [planned for planned in day().settings if planned.kind is LocationSet]
    policies = {p.fields["policy"]: p.fields["values"] for p in day().settings if p.kind is PolicySet}
    assert len(places) == shopping.STORES
    assert sum(1 for planned in places if not planned.fields["pickup_enabled"]) == 1
    assert {p.key for p in places} == {f"location:{p.fields['location']}" for p in places}
    assert {p.fields["location"] for p in good()} <= {p.fields["location"] for p in places}
    assert set(policies) == {"safety-stock", "best-seller-buffer", "big-store-low-stock", "recalled"}
    assert policies["safety-stock"].safety_stock == 1
    assert policies["recalled"].enabled is False


def test_speed_scales_the_time_and_not_the_number() -> None:
    """Half the speed takes twice as long."""
    fast = plan(lines(), 3_000, seed=7, speed=8_000)
    slow = plan(lines(), 3_000, seed=7, speed=4_000)
    assert abs(len(slow.events) - len(fast.events)) < 60
    assert fast.sending_s == pytest.approx(86_400 / 8_000 + 1, abs=1)
    assert slow.sending_s == pytest.approx(86_400 / 4_000 + 1, abs=1)


def test_default_speed_keeps_the_mean_rate() -> None:
    """60,000 events take about a minute."""
    planned = plan(lines(), 60_000, seed=7)
    assert 60 <= planned.sending_s <= 75


def test_lines_keep_only_pieces_of_the_busiest_stores() -> None:
    """No line without product, quantities of 1 to 100, 20 stores, times within one day."""
    frame = lines()
    assert frame["product_id"].null_count() == 0
    assert frame["store_id"].explode().n_unique() == 20
    units, seconds = frame["units"].explode(), frame["second"].explode()
    assert units.min() == 1
    assert units.max() <= 100
    assert seconds.min() >= 0
    assert seconds.max() < 86_400


def test_missing_data_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo extra may not be there."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NoShoppingData, match=r"stockflow\[demo\]"):
        read_lines()
