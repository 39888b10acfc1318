"""The other end of a stream, for tests: a blocking socket with a deadline, plain or TLS, and a record of what is heard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

from dispatcher.amqp.connect import open_stream
from dispatcher.amqp.stream import Stream

__all__ = ["SECONDS", "Heard", "Peer", "connect"]

SECONDS = 20.0
"""The deadline of everything here."""


class Peer:
    """Its plain methods block, which is how a test blocks its event loop until something has come; the others do not."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(SECONDS)

    def receive_blocking(self, count: int) -> bytes:
        """Exactly that many bytes, or less at the end."""
        data = bytearray()
        while len(data) < count and (part := self.socket.recv(min(count - len(data), 65_536))):
            data += part
        return bytes(data)

    async def receive(self, count: int) -> bytes:
        return await asyncio.to_thread(self.receive_blocking, count)

    async def receive_end(self) -> bytes:
        """Everything up to the end."""
        return await self.receive(1 << 40)

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.socket.sendall, data)

    def send_raw(self, data: bytes) -> None:
        """Past the TLS layer."""
        socket.socket.send(self.socket, data)

    async def receive_raw(self) -> bytes:
        """What arrives next, past the TLS layer, which does not tell a reset from an end in every Python."""
        return await asyncio.to_thread(socket.socket.recv, self.socket, 65_536)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Heard:
    """What a stream tells."""

    def __init__(self, stream: Stream) -> None:
        self.data = bytearray()
        self.reasons: list[str] = []
        self.changed = asyncio.Event()
        stream.start(self._on_data, self._on_end)

    def _on_data(self, data: bytes) -> None:
        assert not self.reasons, "data after the end"
        self.data += data
        self.changed.set()

    def _on_end(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    async def bytes_arrived(self, count: int) -> bytes:
        async with asyncio.timeout(SECONDS):
            while len(self.data) < count:
                self.changed.clear()
                await self.changed.wait()
        return bytes(self.data)

    async def ended(self) -> str:
        async with asyncio.timeout(SECONDS):
            while not self.reasons:
                self.changed.clear()
                await self.changed.wait()
        return self.reasons[0]


async def connect(
    server: ssl.SSLContext | None = None, client: ssl.SSLContext | None = None, *, buffer_bytes: int | None = None
) -> tuple[Stream, Peer]:
    """A stream to a listener of this process, and the other end. `buffer_bytes`: how much the kernel holds for that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        if buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)

        def accept() -> Peer:
            sock, _ = listener.accept()
            sock.settimeout(SECONDS)
            if server is None:
                return Peer(sock)
            try:
                return Peer(server.wrap_socket(sock, server_side=True))
            except BaseException:
                sock.close()
                raise

        accepting = asyncio.create_task(asyncio.to_thread(accept))
        try:
            stream = await open_stream(
                "127.0.0.1",
                listener.getsockname()[1],
                context=client,
                server_hostname="localhost" if client is not None else None,
                timeout_seconds=SECONDS,
            )
        except BaseException:
            with contextlib.suppress(OSError):  # the failure of the other side of the handshake
                (await accepting).socket.close()
            raise
        return stream, await accepting
