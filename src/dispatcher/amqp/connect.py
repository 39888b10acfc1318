"""From a host's name to a connected stream: its addresses, TCP, TLS, all within one deadline.

One host, one attempt at each of its addresses. It never blocks the event loop, and leaves no socket behind.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import Any

from .errors import PeerLost
from .readiness import Readiness, make_readiness, wait_for
from .stream import Stream, reason_of
from .tls import tls_failure

__all__ = ["open_stream"]

UNSENT_OPTION: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
UNSENT_BYTES = 128 * 1024
"""With more than so much in the kernel that the link has not taken, the socket is not writable; a full buffer is megabytes."""

Address = tuple[socket.AddressFamily, Any]


async def open_stream(
    host: str, port: int, *, context: ssl.SSLContext | None, server_hostname: str | None, timeout_seconds: float
) -> Stream:
    """Connect to the first address of `host` that answers, in the order that the system gives them (RFC 6724).

    Each address may take its share of what is left of `timeout_seconds`, so that a dead one does not cost the others.
    `context` None is plain TCP; else `server_hostname` is who the certificate must name.

    Raises `PeerLost`, which tells what became of each address, where another try may help, and `ConfigError` for a TLS
    verification that failed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    addresses = await _addresses(host, port, peer, timeout_seconds)
    tried: list[str] = []
    for index, (family, address) in enumerate(addresses):
        share = (deadline - loop.time()) / (len(addresses) - index)
        try:
            async with asyncio.timeout(share):
                sock = await _connect(family, address)
                sock, readiness = await _secure(sock, context, server_hostname, peer)
                return Stream(sock, readiness, peer)
        except TimeoutError:
            tried.append(f"{address[0]}: no answer within {max(share, 0.0):.1f} s")
        except OSError as error:
            tried.append(f"{address[0]}: {reason_of(error)}")
    raise PeerLost(f"{peer}: expected a connection, got none: {'; '.join(tried)}")


async def _addresses(host: str, port: int, peer: str, timeout_seconds: float) -> list[Address]:
    try:
        async with asyncio.timeout(timeout_seconds):
            found = await _resolve(host, port)
    except TimeoutError:
        raise PeerLost(
            f"{peer}: expected the addresses of that name within {timeout_seconds:g} s, the resolver did not answer"
        ) from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no valid name"
        raise PeerLost(f"{peer}: expected a host that has an address: {reason}") from error
    return found


async def _resolve(host: str, port: int) -> list[Address]:
    """Ask the resolver in a thread of its own.

    Not in the loop's executor: tasks of the user may fill that, and it is waited for at the end of the program, where a
    resolver that does not answer takes half a minute.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[Address]] = loop.create_future()

    def settle(addresses: list[Address], error: OSError | UnicodeError | None) -> None:
        if result.done():  # it was given up
            return
        if error is None:
            result.set_result(addresses)
        else:
            result.set_exception(error)

    def ask() -> None:
        addresses: list[Address] = []
        failure: OSError | UnicodeError | None = None
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        except (OSError, UnicodeError) as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, addresses, failure)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody asks any more

    threading.Thread(target=ask, name="dispatcher-amqp-resolver", daemon=True).start()
    return await result


async def _connect(family: socket.AddressFamily, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if UNSENT_OPTION is not None:
            sock.setsockopt(socket.IPPROTO_TCP, UNSENT_OPTION, UNSENT_BYTES)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _secure(
    sock: socket.socket, context: ssl.SSLContext | None, server_hostname: str | None, peer: str
) -> tuple[socket.socket, Readiness]:
    """`sock` with TLS on it, if a context is given, and what tells when it is ready."""
    readiness: Readiness | None = None
    try:
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)
        readiness = make_readiness(asyncio.get_running_loop(), sock)
        if isinstance(sock, ssl.SSLSocket):
            await _handshake(sock, readiness)
    except BaseException as error:
        if readiness is not None:
            readiness.close()
        sock.close()
        failure = tls_failure(error, peer) if isinstance(error, ssl.SSLError) else None
        if failure is not None:
            raise failure from error
        raise
    return sock, readiness


async def _handshake(sock: ssl.SSLSocket, readiness: Readiness) -> None:
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await wait_for(readiness.on_readable)
        except ssl.SSLWantWriteError:
            await wait_for(readiness.on_writable)
        else:
            return
