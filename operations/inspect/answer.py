"""The question and the answer of an inspection, as plain data; what is told to a person and in JSON."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from schemas.records import Cause, Promise


class Question(Struct, frozen=True):
    """What is asked: a SKU, maybe one location, and how far back its inputs are read (records per topic)."""

    sku: str
    location: str | None
    movements: int
    look_back: int


class Line(Struct, frozen=True):
    """One line of the arithmetic: what it is, signed units, and the total after it, if the line makes one."""

    text: str
    units: int
    total: str | None = None


class Mode(Struct, frozen=True):
    """One way of selling: status, units, the arithmetic that leads there, and the reason in a sentence."""

    status: str
    reason: str | None
    available: int | None
    withheld: int
    safety_stock: int
    policy: str | None
    low_stock_enter: int
    low_stock_exit: int
    arithmetic: list[Line]
    why: str


class Bound(Struct, frozen=True):
    """An open hold or allocation: who binds how many units, until when (null: until it is taken or released)."""

    kind: str
    id: str
    line: str | None
    units: int
    ends_at: datetime | None


class OpenAlert(Struct, frozen=True):
    """An alert that is open, as the saved state has it."""

    alert: str
    kind: str
    units: int
    references: dict[str, str]
    opened_at: datetime


class Movement(Struct, frozen=True):
    """One input record: what it says, what it did to on_hand, and what became of it as far as that is remembered."""

    type: str
    id: str
    source: str
    occurred_at: datetime | None
    units: int | None
    on_hand: int
    outcome: str
    topic: str
    partition: int
    offset: int


class Rule(Struct, frozen=True):
    """A policy whose SKU and location, if it names any, are those asked for."""

    policy: str
    scope: dict[str, object]
    values: dict[str, object]


class Published(Struct, frozen=True):
    """The newest published record: how old it is, and which of its fields are not what holds now."""

    version: int
    age_s: float
    changed_at: datetime
    status: str
    available_to_ship: int | None
    available_in_store: int | None
    cause: Cause
    differs: dict[str, tuple[object, object]]  # by field: published, now


class Place(Struct, frozen=True):
    """Everything about the SKU at one location."""

    location: str
    kind: str | None
    on_hand: int
    unavailable: dict[str, int]
    physical: int
    committed: int
    raw: int
    shortage: int
    in_transit: int
    inbound: int
    atp: list[Promise]
    counted_at: datetime | None
    counted_by: str | None
    count_id: str | None
    ship: Mode
    pickup: Mode
    bound: list[Bound]
    policies: list[Rule]
    published: Published | None
    movements: list[Movement]
    alerts: list[OpenAlert]


class NetworkMode(Struct, frozen=True):
    """One way of selling over all locations: how much, and by which of the two formulas.

    `safety_stock`: the network's own, by this policy, which then stands for those of the locations; null without one.
    """

    status: str
    available: int | None
    safety_stock: int | None
    policy: str | None
    quota: int
    reserved_for_others: int


class Network(Struct, frozen=True):
    """What a channel (`*`: any) can sell over all locations; `bound`: units held and allocated for it alone."""

    channel: str
    status: str
    locations_in_stock: int
    locations_unknown: int
    bound: int
    ship: NetworkMode
    pickup: NetworkMode


class Read(Struct, frozen=True):
    """How much of an input was read: from which offset to which, and how much of that the saved state lacks."""

    topic: str
    from_offset: int
    to_offset: int
    not_read: int  # older records of the log that were not looked at
    not_in_state: int


class Explanation(Struct, frozen=True):
    """The answer. `as_of`: the moment for which it was computed."""

    sku: str
    partition: int
    partitions: int
    as_of: datetime
    places: list[Place]
    inputs: list[Read]
    dead_letters: dict[str, int]
    notes: list[str]
    networks: list[Network] = []


class Unknown(Struct, frozen=True):
    """There is no balance to explain; `advice` says what to check."""

    sku: str
    location: str | None
    partition: int
    partitions: int
    advice: list[str]
