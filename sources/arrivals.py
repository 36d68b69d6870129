"""What the source passes on, one item per partition and turn; plain values, no client."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import Message

from sources.restore import Restored
from sources.settings_topic import RefusedSetting
from stock.ledger import Ledger


@dataclass(frozen=True)
class Opened:
    """A partition is ours and restored, its ledger full; its inputs follow, each from its position in `starts`."""

    restored: Restored
    ledger: Ledger
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Records of one partition in the order of arrival, from one or more of the keyed inputs.

    A message with an error is the end of its log, seen at its offset: all before it has been passed on. Where `more`
    were read with them, the next batch of the partition follows soon; what all of them changed is told with the last.
    """

    epoch: int
    messages: list[Message]
    more: bool = False


@dataclass(frozen=True)
class SettingsRefused:
    """Settings records that this partition's owner has to send to the dead letters."""

    epoch: int
    refused: tuple[RefusedSetting, ...]


@dataclass(frozen=True)
class CaughtUp:
    """Everything that was in the log at the claim has been passed on."""

    epoch: int


@dataclass(frozen=True)
class Closed:
    """The partition was taken away; what is known of it is to be forgotten."""

    epoch: int


Arrival = Opened | Batch | SettingsRefused | CaughtUp | Closed
