"""A TCP proxy that tests put between a client and a broker, to break the link in the ways that networks do.

It runs in a thread with a loop of its own, so a test that blocks its loop does not stop it. A control returns when it is
in effect. It must never invent or lose a byte of a link that nobody harmed, and leaves no thread or socket behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeAlias, TypeVar

__all__ = ["Direction", "Spoil", "TcpProxy", "free_port"]

Direction: TypeAlias = Literal["to_broker", "to_client"]
Spoil: TypeAlias = int | Callable[[bytes], int | None]
T = TypeVar("T")

BOTH: tuple[Direction, Direction] = ("to_broker", "to_client")
PORTS = range(20_000, 32_000)
"""Below what systems take for outgoing connections: a client that tries a closed port of that range may meet itself."""
CHUNK_BYTES = 65_536
DRIPS_A_SECOND = 20
CONTROL_SECONDS = 20.0
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, no time to linger: close() sends RST and drops what is unsent


def free_port() -> int:
    """A port of the loopback address on which nothing listens, in a range from which the system takes none by itself."""
    dice = random.Random(os.urandom(8))
    for _ in range(1000):
        port = dice.choice(PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop} after 1000 tries")


def close_with_reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # its peer reset it first: closing is all that is left
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    end.close()


class _Way:
    """One direction: how much went through, and what is wrong with it. Lives in the proxy's loop."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.passed = 0
        self.heal()

    def heal(self) -> None:
        self.bytes_per_second: float | None = None
        self.cut_at: int | None = None
        self.spoil: Spoil | None = None
        self.open.set()

    def spoiled(self, data: bytes) -> bytes:
        """`data`, with the byte inverted that is to be spoiled, if it is in there."""
        index = self.spoil(data) if callable(self.spoil) else self.spoil
        if index is None:
            return data
        if index >= len(data):
            self.spoil = index - len(data)
            return data
        self.spoil = None
        return data[:index] + bytes((data[index] ^ 0xFF,)) + data[index + 1 :]

    def piece_bytes(self) -> int:
        """How much may be sent in one go."""
        most = CHUNK_BYTES
        if self.bytes_per_second is not None:
            most = max(1, int(self.bytes_per_second / DRIPS_A_SECOND))
        if self.cut_at is not None:
            most = min(most, max(0, self.cut_at - self.passed))
        return most


class _CutHere(ConnectionResetError):
    """The place that `cut_after` named is reached."""


class _Link:
    """A client's connection and the one to the broker that belongs to it."""

    def __init__(self, client: socket.socket, ways: dict[Direction, _Way], changed: Callable[[], None]) -> None:
        self.cut_itself = False
        self._client = client
        self._broker: socket.socket | None = None
        self._ways = ways
        self._changed = changed

    async def run(self, target: tuple[str, int] | None) -> None:
        """Forward until both sides have ended, or one has reset. No target: say nothing until cancelled."""
        try:
            if target is None:
                await asyncio.Event().wait()
                return
            self._broker = await connect(*target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump("to_broker", self._client, self._broker))
                pumps.create_task(self._pump("to_client", self._broker, self._client))
            self._client.close()
            self._broker.close()
        except* _CutHere:
            self.cut_itself = True
        except* OSError:  # one side reset, or the broker cannot be reached: `reset` tells the other side
            pass

    def reset(self) -> None:
        """Reset both sides, unless they have ended in order."""
        for end in (self._client, self._broker):
            if end is not None and end.fileno() >= 0:
                close_with_reset(end)

    async def _pump(self, direction: Direction, source: socket.socket, drain: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        way = self._ways[direction]
        while True:
            await way.open.wait()
            data = await loop.sock_recv(source, CHUNK_BYTES)
            await way.open.wait()  # stalled while we waited: nothing passes, an end of the stream neither
            if not data:
                break
            await self._send(way, drain, way.spoiled(data))
        drain.shutdown(socket.SHUT_WR)

    async def _send(self, way: _Way, drain: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        while data:
            await way.open.wait()
            piece, data = data[: way.piece_bytes()], data[way.piece_bytes() :]
            if piece:
                await loop.sock_sendall(drain, piece)
                way.passed += len(piece)
                self._changed()
            if way.cut_at is not None and way.passed >= way.cut_at:
                way.cut_at = None
                raise _CutHere
            if way.bytes_per_second is not None:
                await asyncio.sleep(len(piece) / way.bytes_per_second)


async def connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    last: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        end = socket.socket(family, kind, protocol)
        end.setblocking(False)
        try:
            await loop.sock_connect(end, address)
        except BaseException as error:  # a cut while it connects, too: the other side may have accepted it
            close_with_reset(end)
            if not isinstance(error, OSError):
                raise
            last = error
        else:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return end
    raise last or OSError(f"{host} has no address")


RECEIVE_BYTES = 64 * 1024


class TcpProxy:
    """Forwards 127.0.0.1:`port` to `host`:`to_port`. A context manager; the controls may be called from any thread.

    `accepted`: links ever accepted; `links`: those that stand now; `cuts`: links that this proxy has cut.
    """

    def __init__(self, host: str, to_port: int) -> None:
        self.host = "127.0.0.1"
        self.port = free_port()
        self.accepted = 0
        self.cuts = 0
        self._target = (host, to_port)
        self._muted = False
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._faults: list[BaseException] = []  # of this proxy, none of them the link's
        self._listener: socket.socket | None = None
        self._cutter: asyncio.Task[None] | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> TcpProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp proxy", daemon=True)
        self._thread.start()
        try:
            self._do(self._begin)
        except BaseException:
            self._end_thread()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait(self._end())
        finally:
            self._end_thread()
        if self._faults:
            raise self._faults[0]

    @property
    def links(self) -> int:
        return len(self._links)

    def passed_bytes(self, direction: Direction) -> int:
        """What went through in that direction, on all links together."""
        return self._ways[direction].passed

    def wait(self, what: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
        """Block until `what` holds, looked at whenever a link or a count changes. Raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(what, timeout_seconds):
                raise TimeoutError(
                    f"waited {timeout_seconds:g} s in vain; {self.links} links stand, {self.accepted} were accepted"
                )

    # --- controls -------------------------------------------------------------------------------------------------

    def stall(self, direction: Direction | Literal["both"] = "both") -> None:
        """Pass nothing on, on standing and on new links; nobody is told. What was sent meanwhile passes at `resume`."""
        self._do(lambda: self._on(direction, lambda way: way.open.clear()))

    def drip(self, bytes_per_second: float, direction: Direction | Literal["both"] = "both") -> None:
        """Pass on so few bytes a second, on each link."""

        def slow(way: _Way) -> None:
            way.bytes_per_second = bytes_per_second

        self._do(lambda: self._on(direction, slow))

    def cut(self) -> int:
        """Reset (RST) every link, on both sides. Returns how many there were. New ones are accepted."""
        return self._wait(self._cut())

    def cut_after(self, count: int, direction: Direction) -> None:
        """Let `count` more bytes pass in that direction, then reset the link that carried the last of them."""

        def plan(way: _Way) -> None:
            way.cut_at = way.passed + count

        self._do(lambda: self._on(direction, plan))

    def cut_every(self, seconds: float) -> None:
        """Reset every link at this interval, until `resume`."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(seconds)
                await self._cut()

        def start() -> None:
            self._stop_cutter()
            self._cutter = self._loop.create_task(repeat())

        self._do(start)

    def corrupt(self, where: Spoil, direction: Direction) -> None:
        """Invert one byte: the one after `where` more bytes, or the one whose index `where` returns for a chunk read."""

        def plan(way: _Way) -> None:
            way.spoil = where

        self._do(lambda: self._on(direction, plan))

    def refuse(self) -> None:
        """Listen no more: new connections are refused. Standing links go on."""
        self._do(self._close_listener)

    def accept(self) -> None:
        """Listen again after `refuse`, on the same port."""
        self._do(self._listen)

    def mute(self) -> None:
        """Accept new connections and never answer them. Standing links go on."""

        def silence() -> None:
            self._muted = True

        self._do(silence)

    def resume(self) -> None:
        """End whatever was asked for and is not over: stall, drip, mute, refuse, cuts and corruption yet to come.

        Links that were cut stay cut, and links that were accepted mute stay so.
        """

        def heal() -> None:
            self._on("both", _Way.heal)
            self._muted = False
            self._stop_cutter()
            self._listen()

        self._do(heal)

    # --- in the proxy's own loop ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._ways: dict[Direction, _Way] = {direction: _Way() for direction in BOTH}
        self._listen()

    def _on(self, direction: Direction | Literal["both"], change: Callable[[_Way], None]) -> None:
        for each in BOTH if direction == "both" else (direction,):
            change(self._ways[each])

    def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Else megabytes lie here, delivered as far as the client's kernel knows, while the link is slow.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            listener.setblocking(False)
            listener.bind((self.host, self.port))
            listener.listen(128)
            self._loop.add_reader(listener, self._accept_link, listener)
        except BaseException:
            listener.close()
            raise
        self._listener = listener

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _stop_cutter(self) -> None:
        if self._cutter is not None:
            self._cutter.cancel()
            self._cutter = None

    def _accept_link(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # the client has gone again: the next one is told anew
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, self._ways, self._notify)
        task = self._loop.create_task(link.run(None if self._muted else self._target))
        self._links[task] = link
        task.add_done_callback(self._forget)
        self.accepted += 1
        self._notify()

    def _forget(self, task: asyncio.Task[None]) -> None:
        link = self._links.pop(task)
        link.reset()
        self.cuts += link.cut_itself
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def _cut(self) -> int:
        links = dict(self._links)
        for task, link in links.items():
            link.cut_itself = True
            task.cancel()
        if links:
            await asyncio.wait(links)
        return len(links)

    async def _end(self) -> None:
        self._close_listener()
        if self._cutter is not None:
            self._cutter.cancel()
            await asyncio.wait((self._cutter,))
        await self._cut()

    # --- from the test's thread -----------------------------------------------------------------------------------

    def _do(self, what: Callable[[], object]) -> None:
        async def done() -> None:
            what()

        self._wait(done())

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(CONTROL_SECONDS)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_SECONDS)
        self._loop.close()
