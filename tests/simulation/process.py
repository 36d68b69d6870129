"""One simulated process: the pipeline as `stockflow run` wires it, driven turn by turn as Bytewax does."""

from __future__ import annotations

import importlib
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, cast

from dataflows.availability import PublishSink
from dataflows.keep_balances import Changes, KeepBalances
from schemas.records import moment
from sinks.redis_view import _State
from sinks.view_store import NETWORK_MARKER_PREFIX, NETWORK_PREFIX
from sources.arrivals import Arrival, Opened
from stockflow.run import Pipeline, Surroundings
from stockflow.settings import Settings
from tests.at_once import AtOnce
from tests.simulation.clients import Crash, Host, SimAdmin, SimConsumer, SimProducer
from tests.simulation.redis import SimRedis, SimStore

# Where the program makes its clients. A test checks that there is no other place.
CLIENTS: dict[str, tuple[str, ...]] = {
    "sources.claims": ("Consumer",),
    "sources.kafka": ("Consumer",),
    "sources.restore": ("Consumer",),
    "sources.ranges": ("Consumer",),
    "sources.settings_topic": ("Consumer",),
    "sources.bounds": ("AdminClient",),
    "sinks.view_sync": ("Consumer",),
    "sinks.publisher": ("Producer", "AdminClient"),
}
SIMULATED: dict[str, Callable[[Host, Mapping[str, Any]], Any]] = {
    "Consumer": SimConsumer,
    "Producer": SimProducer,
    "AdminClient": SimAdmin,
}
# How a process may end that is not killed: the guarantees ask for it.
RIGHTFUL_ENDS = ("DeliveryFailed", "NewerClaim", "SourceFailed", "RangeUnreadable", "KafkaException", "RestoreFailed")


@contextmanager
def simulated_clients(hosts: Mapping[str, Host]) -> Iterator[None]:
    """While this is open, every client that the program makes is a simulated one, on the host of its `client.id`."""
    real: list[tuple[Any, str, Any]] = []
    for module_name, names in CLIENTS.items():
        module = importlib.import_module(module_name)
        for name in names:
            real.append((module, name, getattr(module, name)))
            make = SIMULATED[name]
            setattr(module, name, lambda config, make=make: make(hosts[config["client.id"]], config))
    try:
        yield
    finally:
        for module, name, value in real:
            setattr(module, name, value)


class _Log:
    """Lets the run's history hear what the process logs."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.bugs: list[str] = []

    def _say(self, event: str, **values: Any) -> None:
        said = " ".join(f"{name}={value}" for name, value in values.items())
        self._host.timeline.tell(f"{self._host.name}: {event} {said}")

    info = warning = error = _say

    def exception(self, event: str, **values: Any) -> None:
        self.bugs.append(f"{event}: {traceback.format_exc(limit=-4)}")
        self._say(event, **values)


class Process:
    """A running pipeline on a host. `turn` does one round of everything; `ended` says why it ended, if it has."""

    def __init__(self, host: Host, server: SimRedis, settings: Settings, pending_max: int | None = None) -> None:
        self.host = host
        self.ended: str | None = None
        self.is_bug = False
        self._timeline = host.timeline
        self.log = _Log(host)
        self._arrivals: deque[list[tuple[str, Arrival]]] = deque()
        self._outputs: deque[list[tuple[str, Changes]]] = deque()
        self._logics: dict[str, KeepBalances] = {}
        self._dawdles_until = 0.0
        self.is_lazy = self._timeline.percent(30)  # whether batches may wait between two steps
        around = Surroundings(
            host.name,
            lambda: self._timeline.now,
            self.wall_us,
            self._die,
            lambda _name: self.log,
            SimStore(host, server),
            SimStore(host, server, NETWORK_PREFIX, NETWORK_MARKER_PREFIX),
            AtOnce(),
        )
        self.withheld: dict[int, set[str]] = {}  # by partition the keys in its tail as it was taken over
        self._begin(lambda: self._build(settings, around, pending_max))

    def _build(self, settings: Settings, around: Surroundings, pending_max: int | None) -> None:
        self.pipeline = Pipeline(settings, self.host.broker.partitions, around)
        if pending_max is not None:
            self.pipeline.view._pending_max = self.pipeline.network_view._pending_max = pending_max
        self.host.open_partitions = lambda: set(self.pipeline.publisher.outlets)
        self._sink = PublishSink(self.pipeline.publisher, self.pipeline.context).build("publish", 0, 1)
        self.pipeline.settings_topic.read_to_end(around.clock)
        unread = cast(SimConsumer, self.pipeline.settings_topic._consumer).unread()
        if unread:
            self.host.misdeeds.append(f"{self.host.name} begins with {unread} settings unread")

    def wall_us(self) -> int:
        """The wall clock of this host, right or wrong."""
        return self.host.broker.wall_us() + int(self.host.skew_s * 1e6)

    def turn(self) -> None:
        """One turn of the source, of every step behind it, and of the view."""
        self.host.turn_began = self._timeline.now
        self._begin(self._turn)

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self.pipeline.request_stop()

    @property
    def resting(self) -> bool:
        """Whether nothing is under way inside."""
        publisher = self.pipeline.publisher
        return not (
            self._arrivals
            or self._outputs
            or publisher.waiting
            or any(
                outlet.cutting
                or outlet.backlog
                or outlet.owes_alerts
                or outlet.ledger.touched
                or outlet.ledger.has_suspects
                or outlet.sweeping
                or outlet.has_gap
                for outlet in publisher.outlets.values()
            )
        )

    @property
    def view_is_current(self) -> bool:
        """Whether Redis has all that was acknowledged, and its markers say so."""
        return all(
            view.stats.connected
            and not view.stats.backlog
            and all(share.state is _State.CURRENT for share in view._shares.values())
            for view in (self.pipeline.view, self.pipeline.network_view)
        )

    def _turn(self) -> None:
        items = self.pipeline.reader.next_batch()
        if items:
            self._arrivals.append(items)
        while self._arrivals and not self._dawdles():
            self._keep_balances(self._arrivals.popleft())
        self._end_holds()
        while self._outputs and not self._dawdles():
            self._sink.write_batch(self._outputs.popleft())
        self.pipeline.view.work()
        self.pipeline.network_view.work()

    def _dawdles(self) -> bool:
        if self.is_lazy and self._timeline.now >= self._dawdles_until and self._timeline.percent(15):
            self._dawdles_until = self._timeline.now + self._timeline.chance.choice((0.001, 0.001, 0.4))
        return self.is_lazy and self._timeline.now < self._dawdles_until

    def _keep_balances(self, items: list[tuple[str, Arrival]]) -> None:
        by_key: dict[str, list[Arrival]] = {}
        for key, arrival in items:
            by_key.setdefault(key, []).append(arrival)
        for key, arrivals in by_key.items():
            logic = self._logics.get(key)
            if logic is None:
                logic = self._logics[key] = KeepBalances(self.pipeline.context)
            for arrival in arrivals:
                if isinstance(arrival, Opened):
                    restored = arrival.restored
                    self.withheld[restored.partition] = restored.shown | restored.network_shown
            changes, discard = logic.on_batch(arrivals)
            if discard:
                del self._logics[key]
            self._outputs.append([(key, change) for change in changes])

    def _end_holds(self) -> None:
        now = moment(self.wall_us())
        for key, logic in self._logics.items():
            at = logic.notify_at()
            if at is not None and now is not None and at <= now:
                changes, _ = logic.on_notify()
                self._outputs.append([(key, change) for change in changes])

    def _begin(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Crash:
            self.ended = "killed"
        except StopIteration:
            self._begin(self._leave)
        except _Ended as end:
            self._note_end(end.cause)
        except Exception as error:  # noqa: BLE001 - judged by its kind
            self._note_end(error)

    def _leave(self) -> None:
        """The orderly end, after which nothing more is sent."""
        self.pipeline.reader.close()
        self.pipeline.view.work(last=True)
        self.pipeline.network_view.work(last=True)
        self.ended = "stopped"
        self.host.kill()

    def _note_end(self, error: BaseException) -> None:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        kind = type(cause).__name__
        self.ended = f"{kind}: {cause}"
        self.is_bug = not isinstance(cause, Crash) and kind not in RIGHTFUL_ENDS and kind != "SettingsUnreachable"
        if self.is_bug:
            self.log.bugs.append("".join(traceback.format_exception(cause, limit=-6)))
        self._timeline.tell(f"{self.host.name}: ends with {self.ended}")
        if self.host.is_alive:
            self.host.kill()

    def _die(self, error: BaseException) -> NoReturn:
        if isinstance(error, Crash | _Ended):  # whoever is dead is not ended again
            raise error
        raise _Ended(error)


class _Ended(BaseException):
    """The program asked for its own end."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause
