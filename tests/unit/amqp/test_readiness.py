"""Sockets on an event loop that cannot watch them itself (Windows' Proactor): a thread does."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from stream_peer import SECONDS, Heard, connect
from tls_certificates import Certificates

from dispatcher.amqp.readiness import LoopReadiness, ThreadReadiness, make_readiness, wait_for


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """What asyncio's Proactor loop does not have, this one does not have either."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise NotImplementedError

    add_reader = remove_reader = add_writer = remove_writer = _refuse


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


def run(main: Any) -> None:
    with asyncio.Runner(loop_factory=LoopWithoutReaders) as runner:
        runner.run(asyncio.wait_for(main, SECONDS))


async def test_a_loop_that_can_watch_does(ends: tuple[socket.socket, socket.socket]) -> None:
    """There is no thread where the loop has readers."""
    readiness = make_readiness(asyncio.get_running_loop(), ends[0])
    assert isinstance(readiness, LoopReadiness)
    readiness.close()


def test_calls_back_for_as_long_as_it_is_ready(ends: tuple[socket.socket, socket.socket]) -> None:
    """Readable and writable are told again and again, on the loop's thread, until nobody wants to know."""
    near, far = ends

    async def main() -> None:
        readiness = make_readiness(asyncio.get_running_loop(), near)
        assert isinstance(readiness, ThreadReadiness)
        calls: list[str] = []
        enough = asyncio.Event()

        def note(what: str) -> None:
            assert threading.current_thread() is threading.main_thread()
            calls.append(what)
            if calls.count("read") >= 3 and calls.count("write") >= 3:
                readiness.on_readable(None)
                readiness.on_writable(None)
                enough.set()

        far.send(b"never read")
        readiness.on_readable(lambda: note("read"))
        readiness.on_writable(lambda: note("write"))
        await enough.wait()
        count = len(calls)
        await wait_for(readiness.on_writable)
        assert len(calls) == count
        readiness.close()

    run(main())


def test_does_not_spin_while_the_loop_is_busy(ends: tuple[socket.socket, socket.socket]) -> None:
    """Until the loop has called back it is told nothing a second time."""
    near, far = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        readiness = make_readiness(loop, near)
        told = 0
        tell = loop.call_soon_threadsafe

        def counting(*args: Any, **options: Any) -> asyncio.Handle:
            nonlocal told
            told += 1
            return tell(*args, **options)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign,assignment]
        far.send(b"one")
        readiness.on_readable(lambda: readiness.on_readable(None))
        while not told:  # blocks the loop until the thread has told it
            pass
        for _ in range(20):
            readiness.on_writable(None)  # wakes the thread up
        await asyncio.sleep(0)
        assert told == 1
        readiness.close()

    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_stream_works_with_it(secure: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Connecting, TLS, both directions, a peer that does not read, the end."""
    large = bytes(8_000_000)
    contexts: tuple[ssl.SSLContext, ...] = ()
    if secure:
        certificates = Certificates(tmp_path_factory.mktemp("certificates"))
        pair = certificates.server()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(pair.certfile, pair.keyfile)
        contexts = (server, ssl.create_default_context(cafile=certificates.cacertfile))

    async def main() -> None:
        stream, peer = await connect(*contexts, buffer_bytes=65_536)
        heard = Heard(stream)
        stream.send(large)
        assert stream.unsent
        assert await peer.receive(len(large)) == large
        await peer.send(b"an answer")
        assert await heard.bytes_arrived(9) == b"an answer"
        peer.socket.close()
        assert "closed" in await heard.ended()

    run(main())


def test_its_thread_ends_with_a_loop_that_was_closed_without_a_word(ends: tuple[socket.socket, socket.socket]) -> None:
    """Nobody closed it: the thread sees that its loop is gone."""
    made: list[ThreadReadiness] = []

    async def main() -> None:
        readiness = make_readiness(asyncio.get_running_loop(), ends[0])
        assert isinstance(readiness, ThreadReadiness)
        readiness.on_readable(lambda: None)
        made.append(readiness)

    run(main())
    made[0]._thread.join(SECONDS)
    assert not made[0]._thread.is_alive()
    made[0].close()
