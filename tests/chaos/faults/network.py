"""A TCP proxy that fails like a network does: slow, reset, half-open or swallowing everything."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from stockflow.embedded.process import LOOPBACK, free_port

CHUNK_BYTES = 65_536
ANSWER_TIMEOUT_S = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: the peer gets a reset, not an end


class Proxy:
    """One loopback port in front of another server's; its faults may be called from any thread.

    What is held back is kept in memory, in order, until it may pass or its connection is reset. A connection that
    is made while nothing passes is accepted and stays silent.
    """

    def __init__(self, target_port: int) -> None:
        """Accept connections at `port` from now on; the target need not be there yet."""
        self.port = free_port()
        self._target_port = target_port
        self._delay_s = 0.0
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._call(self._open)

    # The faults

    def delay(self, seconds: float) -> None:
        """From now on every byte takes so much longer, in each direction."""
        self._call(lambda: setattr(self, "_delay_s", seconds))

    def blackhole(self) -> None:
        """Nothing passes in either direction; nobody is told."""
        self._call(lambda: (self._up.clear(), self._down.clear()))

    def lose_answers(self) -> None:
        """Requests still pass, and are carried out, but no answer comes back."""
        self._call(self._down.clear)

    def heal(self) -> None:
        """Everything passes again without delay; what was held back on living connections arrives late."""
        self._call(self._heal)

    def reset(self) -> None:
        """Break all connections with a TCP reset on both sides; what was held back is lost."""
        self._call(lambda: [connection.reset() for connection in list(self._connections)])

    def forget(self) -> None:
        """Leave all connections half-open: the server's side is reset, the client's stays open and silent."""
        self._call(lambda: [connection.forget() for connection in list(self._connections)])

    def redirect(self, target_port: int) -> None:
        """Send new connections elsewhere and break the present ones, as a service address does in a failover."""
        self._target_port = target_port
        self.reset()

    @property
    def held_bytes(self) -> int:
        """What clients have sent and the server has not got yet."""
        return sum(connection.held_up for connection in list(self._connections))

    # Its own life

    def close(self) -> None:
        """Break everything and stop."""
        if self._thread.is_alive():
            self._call(self._close)
            self._thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._heal()
        self._loop.run_forever()
        self._loop.close()

    def _call(self, action: Callable[[], object]) -> None:
        """Run on the proxy's thread, also what must be awaited, and wait for it."""

        async def act() -> None:
            result = action()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(ANSWER_TIMEOUT_S)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for connection in self._connections for task in connection.tasks]
        for connection in list(self._connections):
            connection.reset()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.call_soon(self._loop.stop)

    def _heal(self) -> None:
        self._delay_s = 0.0
        self._up.set()
        self._down.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(LOOPBACK, self._target_port)
        except OSError:  # Nobody there: what a client of a server that is down sees.
            _abort(writer)
            return
        connection = _Connection(self, writer, back)
        self._connections.add(connection)
        connection.tasks = [
            self._loop.create_task(connection.receive(reader, connection.upward)),
            self._loop.create_task(connection.pass_on(connection.upward, back, self._up)),
            self._loop.create_task(connection.receive(there, connection.downward)),
            self._loop.create_task(connection.pass_on(connection.downward, writer, self._down)),
        ]

    def ended(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    @property
    def due_at(self) -> float:
        """When a byte that comes now may be passed on."""
        return self._loop.time() + self._delay_s


class _Connection:
    """One client and its server; all of it runs on the proxy's thread."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.upward: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self.downward: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        self.held_up = 0
        self._proxy, self._client, self._server = proxy, client, server
        self._forgotten = False

    async def receive(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Take whatever comes; no bytes stand for the end."""
        data = b"."
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            if queue is self.upward:
                self.held_up += len(data)
            queue.put_nowait((self._proxy.due_at, data))

    async def pass_on(
        self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        """Write what is due while the gate is open; hand the end on too."""
        while True:
            due_at, data = await queue.get()
            await asyncio.sleep(max(0.0, due_at - asyncio.get_running_loop().time()))
            await gate.wait()
            if self._forgotten and data:
                continue  # There is nobody any more; the client is not told.
            if queue is self.upward:
                self.held_up -= len(data)
            if not data:
                self.reset()
                return
            writer.write(data)
            try:
                await writer.drain()
            except OSError:
                self.reset()
                return

    def forget(self) -> None:
        """Reset the server's side only."""
        self._forgotten = True
        upward, pass_up, downward, pass_down = self.tasks
        for task in (pass_up, downward, pass_down):
            task.cancel()
        _abort(self._server)
        self.tasks = [upward, asyncio.get_running_loop().create_task(self._outlive(upward))]

    async def _outlive(self, upward: asyncio.Task[None]) -> None:
        """Stay until the client gives up."""
        await asyncio.gather(upward, return_exceptions=True)
        self.reset()

    def reset(self) -> None:
        """Break both sides at once."""
        _abort(self._client)
        _abort(self._server)
        running = asyncio.current_task(asyncio.get_running_loop())
        for task in self.tasks:
            if task is not running:
                task.cancel()
        self._proxy.ended(self)


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
