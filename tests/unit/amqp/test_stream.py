"""The socket of the AMQP client: real sockets, real TLS, peers that stop reading, reset, or are forked away."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import ssl
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from stream_peer import SECONDS, Heard, Peer, connect
from tls_certificates import Certificates

from dispatcher.amqp import stream as stream_module
from dispatcher.amqp.connect import open_stream
from dispatcher.amqp.stream import READ_BYTES, READS, Stream
from dispatcher.errors import ConfigError

FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
LARGE = random.Random(1).randbytes(12_000_000)
SMALL_BUFFER = 64 * 1024
BEYOND_KERNEL = 6  # times LARGE: more than the kernel's buffers hold, which may grow to tens of megabytes

Connect = Callable[..., Coroutine[Any, Any, tuple[Stream, Peer]]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def server_context(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    pair = certificates.server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(pair.certfile, pair.keyfile)
    return context


def client_context(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.cacertfile)


@pytest.fixture(params=["plain", "TLSv1_2", "TLSv1_3"])
async def link(request: pytest.FixtureRequest, certificates: Certificates) -> AsyncIterator[Connect]:
    """Connects streams of each kind; they are closed at the end of the test."""
    made: list[tuple[Stream, Peer]] = []

    async def make(**options: Any) -> tuple[Stream, Peer]:
        if request.param == "plain":
            made.append(await connect(**options))
        else:
            server = server_context(certificates, ssl.TLSVersion[request.param])
            made.append(await connect(server, client_context(certificates), **options))
        return made[-1]

    yield make
    for stream, peer in made:
        stream.close()
        peer.socket.close()


async def test_carries_bytes_both_ways(link: Connect) -> None:
    """What is sent arrives, in order; the peer's name is told."""
    stream, peer = await link()
    heard = Heard(stream)
    for part in (b"one ", b"", b"two ", b"three"):
        stream.send(part)
    assert stream.unsent == 0
    assert await peer.receive(13) == b"one two three"
    await peer.send(b"an answer")
    assert await heard.bytes_arrived(9) == b"an answer"
    assert stream.peer.startswith("127.0.0.1:")
    assert stream.peer in repr(stream)


async def test_sends_what_the_kernel_did_not_take(link: Connect) -> None:
    """A peer that does not read leaves bytes unsent; they follow in order, with what was sent after them."""
    stream, peer = await link(buffer_bytes=SMALL_BUFFER)
    Heard(stream)
    stream.send(LARGE)
    stream.send(b"and then this")
    assert 0 < stream.unsent <= len(LARGE) + 13
    assert await peer.receive(len(LARGE) + 13) == LARGE + b"and then this"
    assert stream.unsent == 0


async def test_sends_while_it_receives(link: Connect) -> None:
    """Both directions full at once do not hold each other up."""
    stream, peer = await link(buffer_bytes=SMALL_BUFFER)
    heard = Heard(stream)
    stream.send(LARGE)
    answer = asyncio.create_task(peer.receive(len(LARGE)))
    if isinstance(peer.socket, ssl.SSLSocket):  # not for two threads
        assert await answer == LARGE
    await peer.send(LARGE)
    assert await heard.bytes_arrived(len(LARGE)) == LARGE
    assert await answer == LARGE


async def test_reads_a_backlog_in_turns() -> None:
    """However much has arrived, others have their turn after at most four reads."""
    stream, peer = await connect()
    done = asyncio.Event()
    reads = most = received = 0

    def on_data(data: bytes) -> None:
        nonlocal reads, most, received
        reads += 1
        most = max(most, reads)
        received += len(data)
        assert len(data) <= READ_BYTES
        if received == len(LARGE):
            done.set()

    def turn() -> None:
        nonlocal reads
        reads = 0
        if not done.is_set():
            asyncio.get_running_loop().call_soon(turn)

    stream.start(on_data, pytest.fail)
    turn()
    sending = asyncio.create_task(peer.send(LARGE))
    async with asyncio.timeout(SECONDS):
        await done.wait()
    await sending
    assert 1 <= most <= READS
    stream.close()
    peer.socket.close()


async def test_reads_now(link: Connect) -> None:
    """What has arrived while the loop was busy is there at once when it is asked for."""
    stream, peer = await link()
    heard = Heard(stream)
    await asyncio.sleep(0)
    peer.socket.sendall(b"sign of life")
    while not heard.data:  # the kernel hands it over when it likes; the loop has no turn here
        stream.read_now()
    assert heard.data == b"sign of life"


def endings(stream: Stream, peer: Peer) -> set[str]:
    """How a reset is told: Python's TLS layer takes it for an end, depending on its version."""
    told = {f"{stream.peer}: the other side reset the connection"}
    if isinstance(peer.socket, ssl.SSLSocket):
        told.add(f"{stream.peer}: the other side closed the connection")
    return told


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_tells_of_a_peer_that_closes(link: Connect) -> None:
    """What came before the end comes first, and sending afterwards is ignored."""
    stream, peer = await link()
    heard = Heard(stream)
    await peer.send(b"last words")
    peer.socket.close()
    assert await heard.ended() == f"{stream.peer}: the other side closed the connection"
    assert heard.data == b"last words"
    stream.send(b"too late")
    stream.read_now()
    stream.close()
    assert stream.unsent == 0
    assert len(heard.reasons) == 1
    assert "ended" in repr(stream)


async def test_a_half_closed_connection_has_ended() -> None:
    """A peer that only stops sending has ended the connection, too."""
    stream, peer = await connect()
    heard = Heard(stream)
    peer.socket.shutdown(1)
    assert "closed the connection" in await heard.ended()
    peer.socket.close()


async def test_tells_of_a_reset(link: Connect) -> None:
    """A reset is told as one."""
    stream, peer = await link()
    heard = Heard(stream)
    peer.reset()
    assert await heard.ended() in endings(stream, peer)


async def test_reads_the_reason_before_it_tells_that_sending_failed() -> None:
    """A broker says why and hangs up while we are sending: what it said is heard, and `send` raises nothing."""
    stream, peer = await connect()
    heard = Heard(stream)
    stream.send(b"never read, so that the peer's close is a reset")
    peer.socket.sendall(b"the reason")
    peer.socket.close()
    for _ in range(3):
        stream.send(b"more")
    assert not heard.reasons, "send calls nobody back"
    await heard.ended()
    assert heard.data == b"the reason"


async def test_tells_of_a_peer_that_is_gone_with_bytes_unsent(link: Connect) -> None:
    """A peer that does not read and then resets ends the stream once."""
    stream, peer = await link(buffer_bytes=SMALL_BUFFER)
    heard = Heard(stream)
    stream.send(LARGE)
    peer.reset()
    assert await heard.ended() in endings(stream, peer)
    assert stream.unsent == 0


async def test_close_ends_it_for_the_peer(link: Connect) -> None:
    """The peer gets what was sent and the end; we hear nothing more."""
    stream, peer = await link()
    heard = Heard(stream)
    stream.send(b"goodbye")
    stream.close()
    stream.close()
    assert await peer.receive_end() == b"goodbye"
    assert not heard.reasons


async def test_close_drops_what_is_unsent(link: Connect) -> None:
    """It waits for nobody: a peer that does not read gets a part and the end."""
    stream, peer = await link(buffer_bytes=SMALL_BUFFER)
    Heard(stream)
    stream.send(LARGE)
    stream.close()
    assert stream.unsent == 0
    try:
        assert len(await peer.receive_end()) < len(LARGE)
    except (ssl.SSLEOFError, ConnectionResetError):
        pass  # TLS tells that a record is missing, or a ticket of the peer's that was not read made it a reset


async def test_may_be_closed_by_who_hears_data(link: Connect) -> None:
    """Closing from within `on_data` is the end: nothing more is heard, of data or of an end."""
    stream, peer = await link()
    heard: list[bytes] = []

    def on_data(data: bytes) -> None:
        heard.append(data)
        stream.close()

    stream.start(on_data, pytest.fail)
    await peer.send(LARGE[: 2 * READ_BYTES] if not isinstance(peer.socket, ssl.SSLSocket) else b"small")
    with_end = asyncio.create_task(peer.receive_end())
    try:
        assert await with_end == b""
    except ConnectionResetError:
        pass  # there was more to read
    assert len(heard) == 1


# --- TLS --------------------------------------------------------------------------------------------------------------


async def test_a_refused_client_certificate_is_a_failure_of_the_settings(certificates: Certificates) -> None:
    """With TLS 1.3 it becomes known after the handshake: the stream ends, and says that trying again is no use."""
    server = server_context(certificates, ssl.TLSVersion.TLSv1_3)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(certificates.cacertfile)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock, pytest.raises(ssl.SSLError):
                server.wrap_socket(sock, server_side=True)

        refusing = asyncio.create_task(asyncio.to_thread(refuse))
        stream = await open_stream(
            "127.0.0.1",
            listener.getsockname()[1],
            context=client_context(certificates),
            server_hostname="localhost",
            timeout_seconds=SECONDS,
        )
        heard = Heard(stream)
        stream.send(FRAME)
        await refusing
        stream.send(FRAME)
        stream.send(FRAME)
        reason = await heard.ended()
    assert isinstance(stream.failure, ConfigError)
    assert "client certificate" in reason
    assert reason == str(stream.failure)


async def test_an_altered_byte_ends_a_tls_stream(certificates: Certificates) -> None:
    """What is no TLS record is not taken for data."""
    stream, peer = await connect(
        server_context(certificates, ssl.TLSVersion.TLSv1_3), client_context(certificates), buffer_bytes=SMALL_BUFFER
    )
    heard = Heard(stream)
    peer.send_raw(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert "TLS failed" in await heard.ended()
    assert not heard.data
    peer.socket.close()


# --- the heartbeat ----------------------------------------------------------------------------------------------------


async def test_keeps_alive_while_the_loop_is_blocked(link: Connect) -> None:
    """A task that blocks the event loop does not keep the heartbeats from the peer."""
    stream, peer = await link()
    Heard(stream)
    stream.send(b"before ")
    stream.keep_alive(FRAME, 0.05)
    assert peer.receive_blocking(7 + 3 * len(FRAME)) == b"before " + 3 * FRAME


async def test_keeps_order_when_the_loop_is_blocked_with_bytes_unsent(link: Connect) -> None:
    """The heartbeat thread sends on what the kernel had not taken, and puts nothing into the middle of it."""
    stream, peer = await link(buffer_bytes=SMALL_BUFFER)
    Heard(stream)
    stream.send(LARGE)
    assert stream.unsent > 0
    stream.keep_alive(FRAME, 0.02)
    assert peer.receive_blocking(len(LARGE) + 2 * len(FRAME)) == LARGE + 2 * FRAME
    stream.send(b"after")
    received = await peer.receive(5)
    while not received.endswith(b"after"):  # heartbeats may come first
        received += await peer.receive(1)
    assert received.removesuffix(b"after") == FRAME * (len(received) // len(FRAME))


async def test_a_heartbeat_that_was_cut_is_finished_by_the_loop(link: Connect) -> None:
    """Whatever the heartbeat thread could not send goes out as soon as the peer reads again, once."""
    stream, peer = await link(buffer_bytes=SMALL_BUFFER)
    Heard(stream)
    stream.keep_alive(LARGE, 0.02)  # a frame that no kernel takes in one go
    assert await peer.receive(len(LARGE)) == LARGE


async def test_reads_while_the_loop_is_blocked(link: Connect) -> None:
    """A peer that has much to send need not wait for the loop; everything is told in its order afterwards."""
    stream, peer = await link()
    heard = Heard(stream)
    stream.keep_alive(FRAME, 0.02)
    for _ in range(BEYOND_KERNEL):
        peer.socket.sendall(LARGE)  # blocks the loop, and has more than the kernel takes
    assert not heard.data
    assert await heard.bytes_arrived(BEYOND_KERNEL * len(LARGE)) == BEYOND_KERNEL * LARGE
    await peer.send(b"and more")
    assert (await heard.bytes_arrived(BEYOND_KERNEL * len(LARGE) + 8)).endswith(b"and more")


async def test_tells_of_an_end_that_came_while_the_loop_was_blocked(link: Connect) -> None:
    """First what had come before it, then the end, once."""
    stream, peer = await link()
    heard = Heard(stream)
    stream.keep_alive(FRAME, 0.02)
    for _ in range(BEYOND_KERNEL):
        peer.socket.sendall(LARGE)
    peer.reset()
    assert await heard.ended() in endings(stream, peer)
    assert len(heard.data) <= BEYOND_KERNEL * len(LARGE)
    assert len(heard.reasons) == 1


async def test_reads_only_so_much_while_the_loop_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps for a loop that does not read has a bound; the rest follows."""
    monkeypatch.setattr(stream_module, "MAX_INBOX_BYTES", 1_000_000)
    stream, peer = await connect()
    heard = Heard(stream)
    sending = asyncio.create_task(peer.send(BEYOND_KERNEL * LARGE))
    await heard.bytes_arrived(1)
    stream.keep_alive(FRAME, 0.0)
    for _ in range(100):  # blocks the loop for as many beats
        peer.receive_blocking(len(FRAME))
        assert sum(len(data) for data in stream._inbox if isinstance(data, bytes)) <= 1_000_000 + READ_BYTES
    assert await heard.bytes_arrived(BEYOND_KERNEL * len(LARGE)) == BEYOND_KERNEL * LARGE
    await sending
    stream.close()
    peer.socket.close()


async def test_is_silent_while_others_send() -> None:
    """No heartbeat is sent as long as something else was."""
    stream, peer = await connect()
    Heard(stream)
    stream.keep_alive(FRAME, 3600.0)
    stream.send(b"traffic")
    seconds = stream._beat()
    assert seconds is not None
    assert 0 < seconds <= 3600
    stream.close()
    assert await peer.receive_end() == b"traffic"
    assert stream._beat() is None
    peer.socket.close()


async def test_the_heartbeat_notices_that_the_peer_is_gone(link: Connect) -> None:
    """A heartbeat that cannot be sent ends the stream, on the loop."""
    stream, peer = await link()
    heard = Heard(stream)
    stream.keep_alive(FRAME, 0.02)
    assert peer.receive_blocking(len(FRAME)) == FRAME
    peer.reset()
    assert await heard.ended() in endings(stream, peer)


# --- forks and forgetting ---------------------------------------------------------------------------------------------


def in_child(do: Callable[[], None]) -> int:
    """Fork; the exit status of the child that runs `do`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads: this is the case that is tested
        pid = os.fork()
    if pid == 0:
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_a_forked_child_leaves_its_parents_stream_alone(link: Connect) -> None:
    """The child sends nothing, not even a goodbye, and the parent goes on sending and hearing."""
    stream, peer = await link()
    heard = Heard(stream)
    stream.send(b"first ")

    def child() -> None:
        stream.send(b"from the child")
        stream.read_now()
        stream.close()
        assert not heard.reasons

    assert in_child(child) == 0
    stream.send(b"second")
    assert await peer.receive(12) == b"first second"
    await peer.send(b"an answer")
    assert await heard.bytes_arrived(9) == b"an answer"
    stream.close()
    assert await peer.receive_end() == b""


async def test_close_ends_it_though_a_child_has_a_copy() -> None:
    """A child that was forked meanwhile holds the socket open: the peer sees the end all the same."""
    stream, peer = await connect()
    Heard(stream)
    held, release = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(release)
        os.read(held, 1)
        os._exit(0)
    os.close(held)
    stream.close()
    assert await peer.receive_end() == b""
    os.close(release)
    os.waitpid(pid, 0)
    peer.socket.close()


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_forgotten_stream_leaves_nothing(certificates: Certificates, secure: bool) -> None:
    """Its loop is gone, nobody closed it: it is collected, its descriptor is closed and its thread ends."""

    async def forget() -> tuple[weakref.ref[Stream], Peer]:
        contexts = (server_context(certificates, ssl.TLSVersion.TLSv1_3), client_context(certificates))
        stream, peer = await connect(*(contexts if secure else ()))
        Heard(stream)
        stream.keep_alive(FRAME, 3600.0)
        return weakref.ref(stream), peer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Python's own, of a socket that was not closed
        stream, peer = asyncio.run(forget())
        gc.collect()
    assert stream() is None
    peer.receive_blocking(1)  # the end; the guard around each test sees to the descriptor and the thread
    peer.socket.close()


def test_the_heartbeats_of_a_stream_end_with_its_loop() -> None:
    """A stream whose loop is closed is not kept alive: the broker must see that nobody is there."""

    async def forget() -> tuple[Stream, Peer]:
        stream, peer = await connect()
        Heard(stream)
        stream.keep_alive(FRAME, 0.02)
        return stream, peer

    stream, peer = asyncio.run(forget())
    assert stream._keeper is not None
    stream._keeper._thread.join(SECONDS)
    assert not stream._keeper._thread.is_alive()
    stream.close()
    peer.socket.close()
