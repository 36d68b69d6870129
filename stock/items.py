"""Items: lifecycle, brand and category of the SKUs of one partition, each a state key of its own; never any stock.

The newest record of a SKU's item holds, whatever times it names: its topic keeps only that one. A SKU without an item
is active.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import intern

import msgspec
from msgspec import Struct

from stock.events import ItemSet, Lifecycle

ACTIVE: Lifecycle = "active"
PREORDER: Lifecycle = "preorder"
DISCONTINUED: Lifecycle = "discontinued"
DELISTED: Lifecycle = "delisted"

# Stored. State key beside `sku|location`: a location has at least one character and no control character.
_ITEM = "|\x1fitem"


class Item(Struct, frozen=True, gc=False, array_like=True):
    """What is known of one SKU. `applied`: the offset of the record on the items topic that said so."""

    # Stored. Changing these needs a migration.
    applied: int
    lifecycle: Lifecycle
    brand: str | None
    category: str | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Item)


def item_key(sku: str) -> str:
    """The state key of a SKU's item."""
    return f"{sku}{_ITEM}"


def is_item_key(key: str) -> bool:
    """Whether a state key belongs to an item."""
    return key.endswith(_ITEM)


def check_item(packed: bytes) -> None:
    """Nothing, if these are the packed bytes of an item.

    Raises:
        ValueError: they are not.
    """
    _decoder.decode(packed)


class Items:
    """The items of one partition; not thread-safe. A SKU that is not in `by_sku` is active: none was ever told."""

    def __init__(self) -> None:
        self.by_sku: dict[str, Item] = {}
        self._dirty: dict[str, None] = {}

    def __len__(self) -> int:
        """Number of SKUs of which an item was ever told, delisted ones included."""
        return len(self.by_sku)

    def __contains__(self, sku: str) -> bool:
        """Whether an item of this SKU was ever told."""
        return sku in self.by_sku

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return bool(self._dirty)

    def get(self, sku: str) -> Item | None:
        """The item of a SKU, or None if none was told: it is active then."""
        return self.by_sku.get(sku)

    def lifecycle(self, sku: str) -> Lifecycle:
        """The lifecycle of a SKU."""
        item = self.by_sku.get(sku)
        return ACTIVE if item is None else item.lifecycle

    def tell(self, sku: str, told: ItemSet | None, offset: int) -> bool:
        """Take in the record at this offset, None for a removal; whether it says something new of the SKU."""
        known = self.by_sku.get(sku)
        if known is not None and offset <= known.applied:
            return False
        if told is None:
            item = Item(offset, DELISTED, None, None)
        else:
            item = Item(offset, told.lifecycle, intern(told.brand), intern(told.category))
        self.by_sku[sku] = item
        self._dirty[sku] = None
        before = (ACTIVE, None, None) if known is None else (known.lifecycle, known.brand, known.category)
        return before != (item.lifecycle, item.brand, item.category)

    def flush(self) -> Iterator[tuple[str, bytes | None]]:
        """State records of everything that changed; None deletes."""
        for sku in self._dirty:
            item = self.by_sku.get(sku)
            yield item_key(sku), None if item is None else _encoder.encode(item)
        self._dirty.clear()

    def restore(self, key: str, packed: bytes) -> None:
        """Take back one item."""
        item = _decoder.decode(packed)
        brand, category = item.brand, item.category
        self.by_sku[key.removesuffix(_ITEM)] = Item(
            item.applied,
            item.lifecycle,
            None if brand is None else intern(brand),
            None if category is None else intern(category),
        )

    def rewrite(self, key: str) -> None:
        """Write this key again with the next flush: what stands on the topic is not ours."""
        self._dirty[key.removesuffix(_ITEM)] = None
