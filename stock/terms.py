"""What holds at one key once all policies are resolved: plain values, nothing of how they were found."""

from __future__ import annotations

from msgspec import Struct

LOW_STOCK_ENTER_DEFAULT = 3  # Holds where no policy sets `low_stock_enter`.


class ModeTerms(Struct, frozen=True, gc=False):
    """What holds for one way of selling (ship or pickup) at one key.

    `off` is None while the mode sells, else the published reason. `safety_stock` includes the buffers, which are also
    told apart as `on_top`: where a `percent` of the physical stock is more than the rest, it stands for the rest.
    `stale`: a feed of the location is, and no policy says what to keep back then.
    """

    off: str | None
    safety_stock: int
    enter: int
    exit: int
    policy: str | None
    percent: int = 0
    on_top: int = 0
    stale: bool = False


class Terms(Struct, frozen=True, gc=False):
    """What holds at one key for both modes.

    `banded`: LOW_STOCK depends on the way there. `alike`: both modes have the very same terms.
    """

    ship: ModeTerms
    pickup: ModeTerms
    banded: bool
    alike: bool
    backorder_limit: int = 0
    reorder_point: int | None = None


class NetworkModeTerms(Struct, frozen=True, gc=False):
    """What holds for one way of selling a SKU over all locations, in one channel or in all.

    `safety_stock` is the network's own, None if there is none; `policy` supplied it. `quota` is what the channel has to
    itself: other channels may not see so much of what is left.
    """

    safety_stock: int | None
    policy: str | None
    quota: int
    enter: int
    exit: int


class NetworkTerms(Struct, frozen=True, gc=False):
    """What holds over all locations for both modes."""

    ship: NetworkModeTerms
    pickup: NetworkModeTerms
