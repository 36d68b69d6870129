"""An explanation as a person reads it, and as JSON; never what it says."""

from __future__ import annotations

from datetime import datetime

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from operations.inspect.answer import Explanation, Mode, Network, NetworkMode, Place, Unknown

MODES = (("ship", "ship"), ("pickup", "pick-up"))


def as_json(answer: Explanation | Unknown) -> str:
    """The whole answer as indented JSON; `known` tells the two kinds apart."""
    told = {"known": isinstance(answer, Explanation), **msgspec.to_builtins(answer)}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def render(answer: Explanation | Unknown) -> RenderableType:
    """Tables, one group per location; or what to check."""
    if isinstance(answer, Unknown):
        at = "" if answer.location is None else f" at {answer.location}"
        head = Text(f"nothing is known of {answer.sku}{at}", style="bold red")
        return Group(head, *(Text(f"  - {line}") for line in answer.advice))
    parts: list[RenderableType] = [
        Text(f"{answer.sku}  (partition {answer.partition} of {answer.partitions}, as of {_time(answer.as_of)})"),
    ]
    for place in answer.places:
        parts += _place(place)
    if answer.networks:
        parts.append(_networks(answer.networks))
    read = ", ".join(f"{one.topic} {one.from_offset}-{one.to_offset}" for one in answer.inputs)
    parts.append(Text(f"inputs read: {read}", style="dim"))
    if answer.dead_letters:
        told = ", ".join(f"{reason} ({count})" for reason, count in answer.dead_letters.items())
        parts.append(Text(f"dead letters under its key: {told}", style="yellow"))
    parts += [Text(f"note: {note}", style="yellow") for note in answer.notes]
    return Group(*parts)


def _place(place: Place) -> list[RenderableType]:
    kind = f" ({place.kind})" if place.kind else ""
    parts: list[RenderableType] = [Text(), Text(f"at {place.location}{kind}", style="bold")]
    for name, label in MODES:
        mode: Mode = getattr(place, name)
        reason = f", {mode.reason}" if mode.reason else ""
        parts.append(Text(f"{label}: {mode.status}{reason}. {mode.why}"))
    parts.append(_arithmetic(place))
    parts.append(Text(f"newest count: {_count(place)}"))
    if place.shortage or place.in_transit or place.inbound:
        parts.append(Text(f"shortage {place.shortage}, in transit {place.in_transit}, inbound {place.inbound}"))
    if place.atp:
        parts.append(_atp(place))
    if place.bound:
        parts.append(_bound(place))
    if place.alerts:
        parts.append(_alerts(place))
    if place.policies:
        parts.append(_policies(place))
    parts.append(_published(place))
    if place.movements:
        parts.append(_movements(place))
    return parts


def _networks(networks: list[Network]) -> Table:
    table = Table(title="over all locations, by channel", title_justify="left", show_edge=False)
    for column in ("channel", "status", "ship", "pick-up", "in stock at", "bound for it", "how"):
        right = column in ("ship", "pick-up", "in stock at", "bound for it")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for one in networks:
        numbers = [one.ship.available, one.pickup.available, one.locations_in_stock, one.bound]
        cells = ["unknown" if number is None else f"{number:,}" for number in numbers]
        how = _how(one.ship) if one.ship == one.pickup else f"ship: {_how(one.ship)}; pick-up: {_how(one.pickup)}"
        table.add_row(Text(one.channel), one.status, *cells, Text(how))
    return table


def _how(mode: NetworkMode) -> str:
    told = "what each location may sell"
    if mode.safety_stock is not None:
        told = f"all there is, less {mode.safety_stock:,} by policy {mode.policy}"
    if mode.reserved_for_others:
        told += f", less {mode.reserved_for_others:,} kept for other channels"
    return f"{told}; has a quota of {mode.quota:,}" if mode.quota else told


def _arithmetic(place: Place) -> Table:
    table = Table(title="why so many", title_justify="left", show_edge=False)
    table.add_column("")
    for _, label in MODES:
        table.add_column(label, justify="right")
        table.add_column("", style="dim")
    for ship, pickup in zip(place.ship.arithmetic, place.pickup.arithmetic, strict=True):
        text = ship.text if ship.text == pickup.text else f"{ship.text} / {pickup.text}"
        cells = [cell for line in (ship, pickup) for cell in (f"{line.units:+,}", line.total or "")]
        table.add_row(text, *cells)
    split = ", ".join(f"{name} {units}" for name, units in place.unavailable.items() if units)
    if split:
        table.caption = f"counters of unavailable states: {split}"
        table.caption_justify = "left"
    return table


def _count(place: Place) -> str:
    if place.counted_at is None:
        return "none"
    return f"{_time(place.counted_at)} by {place.counted_by}, id {place.count_id}"


def _atp(place: Place) -> Table:
    table = Table(title="can be promised by date, as far as announced", title_justify="left", show_edge=False)
    table.add_column("from")
    table.add_column("units", justify="right")
    for one in place.atp:
        table.add_row(_time(one.at), f"{one.units:,}")
    return table


def _bound(place: Place) -> Table:
    table = Table(title="what binds units", title_justify="left", show_edge=False)
    for column in ("kind", "id", "line", "units", "ends"):
        table.add_column(column, justify="right" if column == "units" else "left", overflow="fold")
    for one in place.bound:
        ends = "never by itself" if one.ends_at is None else _time(one.ends_at)
        table.add_row(one.kind, Text(one.id), Text(one.line or ""), f"{one.units:,}", ends)
    return table


def _alerts(place: Place) -> Table:
    table = Table(title="open alerts", title_justify="left", show_edge=False)
    for column in ("kind", "units", "since", "about"):
        table.add_column(column, justify="right" if column == "units" else "left", overflow="fold")
    for one in place.alerts:
        about = ", ".join(f"{name} {text}" for name, text in one.references.items())
        table.add_row(one.kind, f"{one.units:,}", _time(one.opened_at), Text(about))
    return table


def _policies(place: Place) -> Table:
    table = Table(title="policies that name this SKU or location, or any", title_justify="left", show_edge=False)
    for column in ("policy", "scope", "values"):
        table.add_column(column, overflow="fold")
    for rule in place.policies:
        scope = ", ".join(f"{name}={value}" for name, value in rule.scope.items()) or "everywhere"
        values = ", ".join(f"{name}={value}" for name, value in rule.values.items())
        table.add_row(Text(rule.policy), Text(scope), Text(values))
    return table


def _published(place: Place) -> Text:
    told = place.published
    if told is None:
        return Text("published: nothing yet", style="yellow")
    text = Text(
        f"published: version {told.version}, {told.age_s:,.0f} s old, {told.status}, ship {told.available_to_ship}, "
        f"pick-up {told.available_in_store}; caused by {told.cause.type} {told.cause.id} of {told.cause.source}"
    )
    for name, (then, now) in told.differs.items():
        text.append(f"\n  published {name} is {then}, now it is {now}", style="yellow")
    return text


def _movements(place: Place) -> Table:
    table = Table(title="last facts, newest first", title_justify="left", show_edge=False)
    for column in ("type", "id", "source", "occurred", "units", "on hand", "outcome", "where"):
        right = column in ("units", "on hand")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for one in place.movements:
        table.add_row(
            Text(one.type),
            Text(one.id),
            Text(one.source),
            "" if one.occurred_at is None else _time(one.occurred_at),
            "" if one.units is None else f"{one.units:,}",
            f"{one.on_hand:+,}" if one.on_hand else "",
            Text(one.outcome),
            f"{one.topic}[{one.partition}]@{one.offset}",
        )
    return table


def _time(when: datetime) -> str:
    return when.isoformat(sep=" ", timespec="milliseconds")
