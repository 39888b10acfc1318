"""The TCP proxy of the tests does what its controls say, told by real sockets on both of its sides."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from tcp_proxy import PORTS, TcpProxy, free_port

DEADLINE_SECONDS = 20.0
SHORT_SECONDS = 0.2
"""How long nothing has to come before a test believes that nothing comes."""


class Rig:
    def __init__(self, proxy: TcpProxy, listener: socket.socket) -> None:
        self.proxy = proxy
        self._listener = listener
        self._ends: list[socket.socket] = []

    def dial(self) -> socket.socket:
        """A client's connection to the proxy, with nobody behind it yet."""
        client = socket.create_connection((self.proxy.host, self.proxy.port), DEADLINE_SECONDS)
        self._ends.append(client)
        return client

    def link(self) -> tuple[socket.socket, socket.socket]:
        """A client's end and the broker's end of a new link."""
        return self.dial(), self.next_broker()

    def next_broker(self) -> socket.socket:
        broker, _ = self._listener.accept()
        broker.settimeout(DEADLINE_SECONDS)
        self._ends.append(broker)
        return broker

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECONDS)
        with TcpProxy("localhost", listener.getsockname()[1]) as proxy:
            rig = Rig(proxy, listener)
            yield rig
            rig.close()


def read(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := end.recv(count - len(data))):
        data += piece
    return data


def is_silent(end: socket.socket) -> bool:
    end.settimeout(SHORT_SECONDS)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        end.settimeout(DEADLINE_SECONDS)


def is_reset(end: socket.socket) -> bool:
    """True if the end came by RST; an orderly end is False."""
    try:
        while end.recv(65_536):
            pass
    except ConnectionResetError:
        return True
    return False


def is_reset_at_once(proxy: TcpProxy) -> bool:
    """True if a new connection is reset; on a busy machine that may be before it is known to stand."""
    try:
        with socket.create_connection((proxy.host, proxy.port), DEADLINE_SECONDS) as client:
            return is_reset(client)
    except ConnectionResetError:
        return True


def test_passes_bytes_both_ways_and_counts_them(rig: Rig) -> None:
    """Megabytes go through unharmed in both directions at once, and are counted."""
    client, broker = rig.link()
    up, down = bytes(range(256)) * 8192, bytes(reversed(range(256))) * 4096
    writers = [threading.Thread(target=end.sendall, args=(data,)) for end, data in ((client, up), (broker, down))]
    for writer in writers:
        writer.start()
    assert read(broker, len(up)) == up
    assert read(client, len(down)) == down
    for writer in writers:
        writer.join()
    rig.proxy.wait(lambda: rig.proxy.passed_bytes("to_broker") == len(up))
    rig.proxy.wait(lambda: rig.proxy.passed_bytes("to_client") == len(down))
    assert (rig.proxy.links, rig.proxy.accepted, rig.proxy.cuts) == (1, 1, 0)


def test_passes_the_end_of_one_direction_alone(rig: Rig) -> None:
    """A half-closed link goes on the other way, and an orderly end is no reset."""
    client, broker = rig.link()
    client.shutdown(socket.SHUT_WR)
    assert broker.recv(1) == b""
    broker.sendall(b"still here")
    assert read(client, 10) == b"still here"
    broker.close()
    assert not is_reset(client)
    rig.proxy.wait(lambda: rig.proxy.links == 0)
    assert rig.proxy.cuts == 0


def test_passes_a_reset_on(rig: Rig) -> None:
    """Where one side resets, the other is reset."""
    client, broker = rig.link()
    broker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broker.close()
    assert is_reset(client)


@pytest.mark.parametrize("direction", ["to_broker", "to_client", "both"])
def test_stalls_the_asked_direction_and_loses_nothing(rig: Rig, direction: str) -> None:
    """A stalled direction passes nothing, the other everything; what was sent meanwhile comes at `resume`."""
    client, broker = rig.link()
    rig.proxy.stall(direction)  # type: ignore[arg-type]
    client.sendall(b"up")
    broker.sendall(b"down")
    for end, text, way in ((broker, b"up", "to_broker"), (client, b"down", "to_client")):
        if direction in (way, "both"):
            assert is_silent(end)
        else:
            assert read(end, len(text)) == text
    rig.proxy.resume()
    for end, text, way in ((broker, b"up", "to_broker"), (client, b"down", "to_client")):
        if direction in (way, "both"):
            assert read(end, len(text)) == text


def test_a_stall_hides_the_end_of_a_link(rig: Rig) -> None:
    """During a stall not even the end of the other side is told."""
    client, broker = rig.link()
    rig.proxy.stall()
    broker.close()
    assert is_silent(client)
    rig.proxy.resume()
    assert client.recv(1) == b""


def test_cut_resets_both_sides_of_every_link(rig: Rig) -> None:
    """`cut` resets all links at both ends; the next connection goes through."""
    ends = [*rig.link(), *rig.link()]
    assert rig.proxy.cut() == 2
    assert all(is_reset(end) for end in ends)
    assert (rig.proxy.links, rig.proxy.cuts) == (0, 2)
    client, broker = rig.link()
    client.sendall(b"again")
    assert read(broker, 5) == b"again"


@pytest.mark.parametrize("count", [0, 1, 7])
def test_cut_after_passes_exactly_so_many_bytes(rig: Rig, count: int) -> None:
    """The other side gets `count` bytes of a longer message, then a reset."""
    client, broker = rig.link()
    client.sendall(b"before ")
    assert read(broker, 7) == b"before "
    rig.proxy.cut_after(count, "to_broker")
    client.sendall(b"0123456789")
    got = b""
    with pytest.raises(ConnectionResetError):
        while piece := broker.recv(64):
            got += piece
    assert got == b"0123456789"[:count]
    assert is_reset(client)
    rig.proxy.wait(lambda: rig.proxy.cuts == 1)


def test_cut_every_cuts_again_and_again_until_resume(rig: Rig) -> None:
    """Each new link is reset at the next turn; after `resume` they stay."""
    rig.proxy.cut_every(0.05)
    for _ in range(3):
        assert is_reset_at_once(rig.proxy)
    rig.proxy.resume()
    cuts = rig.proxy.cuts
    client = rig.dial()
    client.sendall(b"mine")
    broker = rig.next_broker()
    while read_or_nothing(broker) != b"mine":  # what was reset earlier may still wait to be accepted here
        broker = rig.next_broker()
    broker.sendall(b"stays")
    assert read(client, 5) == b"stays"
    assert rig.proxy.cuts == cuts


def read_or_nothing(end: socket.socket) -> bytes:
    try:
        return end.recv(64)
    except ConnectionResetError:
        return b""


def test_drips_byte_by_byte(rig: Rig) -> None:
    """A dripping direction passes one byte at a time; `resume` lets the rest through at once."""
    client, broker = rig.link()
    rig.proxy.drip(20, "to_client")
    broker.sendall(b"drops" + bytes(100_000))
    began = time.monotonic()
    assert [client.recv(64) for _ in range(5)] == [b"d", b"r", b"o", b"p", b"s"]
    assert time.monotonic() - began > 0.1  # a lower bound: it was slowed at all
    rig.proxy.resume()
    assert read(client, 100_000) == bytes(100_000)


def test_corrupts_the_byte_asked_for_and_no_other(rig: Rig) -> None:
    """The byte at that place is inverted, whichever chunk it comes in; every other one is as it was sent."""
    client, broker = rig.link()
    rig.proxy.corrupt(6, "to_broker")
    client.sendall(b"0123")
    assert read(broker, 4) == b"0123"
    client.sendall(b"4567")
    assert read(broker, 4) == b"45" + bytes((ord("6") ^ 0xFF,)) + b"7"
    client.sendall(b"clean")
    assert read(broker, 5) == b"clean"


def test_corrupts_where_a_function_says(rig: Rig) -> None:
    """A function that is shown what passes picks the byte, once."""
    client, broker = rig.link()

    def at_end_of_frame(chunk: bytes) -> int | None:
        return chunk.index(b"\xce") if b"\xce" in chunk else None

    rig.proxy.corrupt(at_end_of_frame, "to_client")
    broker.sendall(b"ab")
    assert read(client, 2) == b"ab"
    broker.sendall(b"cd\xce\xce")
    assert read(client, 4) == b"cd\x31\xce"


def test_refuses_and_accepts_again(rig: Rig) -> None:
    """While refusing, new connections are refused and old links go on; afterwards the same port answers."""
    client, broker = rig.link()
    rig.proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        rig.dial()
    client.sendall(b"old")
    assert read(broker, 3) == b"old"
    rig.proxy.accept()
    client, broker = rig.link()
    client.sendall(b"new")
    assert read(broker, 3) == b"new"


def test_mute_accepts_and_says_nothing(rig: Rig) -> None:
    """A mute port takes connections and bytes and never answers; links made before go on."""
    old, broker = rig.link()
    rig.proxy.mute()
    mute = rig.dial()
    mute.sendall(b"hello?")
    assert is_silent(mute)
    broker.sendall(b"old")
    assert read(old, 3) == b"old"
    assert rig.proxy.links == 2
    rig.proxy.resume()
    client, far = rig.link()
    far.sendall(b"new")
    assert read(client, 3) == b"new"


def test_a_client_of_a_dead_broker_is_reset() -> None:
    """Where nobody listens behind the proxy, its client is reset and nothing is left."""
    with TcpProxy("127.0.0.1", free_port()) as proxy:
        assert is_reset_at_once(proxy)
        proxy.wait(lambda: proxy.accepted == 1 and proxy.links == 0)


def test_works_while_the_test_blocks(rig: Rig) -> None:
    """It forwards in a thread of its own: nothing that the test's thread does holds it up."""
    client, broker = rig.link()
    client.sendall(b"x")
    deadline = time.monotonic() + DEADLINE_SECONDS
    broker.setblocking(False)
    while True:  # no call into the proxy, no yielding to any loop
        try:
            assert broker.recv(1) == b"x"
            break
        except BlockingIOError:
            assert time.monotonic() < deadline


def test_leaves_nothing_behind_with_links_open() -> None:
    """Closing the proxy resets the links that stand, mute ones too, and frees the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECONDS)
        with TcpProxy("127.0.0.1", listener.getsockname()[1]) as proxy:
            client = socket.create_connection((proxy.host, proxy.port), DEADLINE_SECONDS)
            broker, _ = listener.accept()
            proxy.mute()
            mute = socket.create_connection((proxy.host, proxy.port), DEADLINE_SECONDS)
            proxy.wait(lambda: proxy.links == 2)
        with client, broker, mute:
            assert all(is_reset(end) for end in (client, broker, mute))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((proxy.host, proxy.port), DEADLINE_SECONDS)


def test_waiting_in_vain_says_so(rig: Rig) -> None:
    """A wait for what never comes ends at its deadline with the state in the message."""
    with pytest.raises(TimeoutError, match="0 links stand, 0 were accepted"):
        rig.proxy.wait(lambda: rig.proxy.links == 1, 0.05)


def test_free_ports_are_none_that_the_system_hands_out() -> None:
    """A free port lies below the range of outgoing connections, so a retrying client cannot connect to itself."""
    assert free_port() in PORTS
    assert PORTS.stop <= 32_768
