"""A RabbitMQ node for the chaos tests alone: what is done to it, and how busy it is, touches nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from rabbitmq_node import PrivateNode
from tcp_proxy import TcpProxy, free_port
from tls_certificates import Certificates

__all__ = ["TlsNode"]


class TlsNode:
    """`node` with a TLS listener besides: `tls_port`, trusted through `cacertfile`."""

    def __init__(self, node: PrivateNode, tls_port: int, cacertfile: Path) -> None:
        self.node = node
        self.tls_port = tls_port
        self.cacertfile = cacertfile

    def start(self, certificates: Certificates) -> None:
        pair, node = certificates.server(), self.node
        node.start(
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {node.put('ca.pem', certificates.cacertfile.read_bytes())}\n"
            f"ssl_options.certfile = {node.put('server.pem', pair.certfile.read_bytes())}\n"
            f"ssl_options.keyfile = {node.put('server.key', pair.keyfile.read_bytes())}\n"
        )


@pytest.fixture(scope="session")
def tls_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    with PrivateNode() as node:
        one = TlsNode(node, free_port(), certificates.cacertfile)
        one.start(certificates)
        yield one


@pytest.fixture
def node(tls_node: TlsNode) -> PrivateNode:
    """It runs when a test begins, and has to run when it ends."""
    return tls_node.node


@pytest.fixture
def own_vhost(node: PrivateNode) -> Iterator[str]:
    """An empty vhost on it."""
    name = f"chaos-{token_hex(4)}"
    node.admin.add_vhost(name)
    yield name
    node.admin.delete_vhost(name)


@pytest.fixture
def proxy(node: PrivateNode) -> Iterator[TcpProxy]:
    """Before it."""
    with TcpProxy("127.0.0.1", node.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: TcpProxy, own_vhost: str) -> str:
    """The URL of the vhost through the proxy, with the shortest heartbeat that there is, and little time for a handshake."""
    return f"amqp://guest:guest@{proxy.host}:{proxy.port}/{own_vhost}?heartbeat=1&connection_timeout=3000"
