"""TLS settings: the context they make, what is refused, and what a failed handshake means; handshakes by real OpenSSL."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from tls_certificates import Certificates, KeyPair

from dispatcher.amqp.tls import client_context, tls_failure, tls_warnings
from dispatcher.amqp.url import parse_url
from dispatcher.errors import ConfigError

SECRET = "canary-pw"
HOST = "rabbit.example:5671"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def server_context(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certfile, pair.keyfile)
    return context


class Peers:
    """A client and a server of TLS with their bytes handed across by hand: no socket, no thread, no deadline."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(to_client, to_server, server_hostname=name)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)

    def shake(self) -> None:
        """Both handshakes and the client's first read; raises what the client gets to see."""
        done: set[ssl.SSLObject] = set()
        for _ in range(10):
            for side in (self.client, self.server):
                try:
                    if side not in done:
                        side.do_handshake()
                        done.add(side)
                    elif side is self.client:
                        side.read(1)
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError:
                    if side is self.client:
                        raise
        assert done == {self.client, self.server}


def shake(client: ssl.SSLContext | None, server: ssl.SSLContext, name: str = "localhost") -> None:
    assert client is not None
    Peers(client, server, name).shake()


def failure(client: ssl.SSLContext | None, server: ssl.SSLContext, name: str = "localhost") -> str:
    """What is said of the handshake that fails."""
    with pytest.raises(ssl.SSLError) as caught:
        shake(client, server, name)
    error = tls_failure(caught.value, HOST)
    assert error is not None, f"{caught.value!r} is not known"
    assert HOST in str(error)
    assert "\n" not in str(error)
    return str(error)


# --- the context --------------------------------------------------------------------------------------------------


def test_plain_has_no_context() -> None:
    """`amqp://` is plain TCP."""
    assert client_context(parse_url("amqp://localhost")) is None


@pytest.mark.parametrize("url", ["amqps://localhost", "amqp://localhost"])
def test_tls_is_verified(url: str) -> None:
    """`amqps://` and `secure_connection` verify chain and host name, with TLS 1.2 or newer and the system's authorities."""
    context = client_context(parse_url(url, secure_connection=True))
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert tls_warnings(parse_url(url, secure_connection=True), context) == []


def test_the_named_authority_is_trusted(certificates: Certificates) -> None:
    """With `cacertfile` its certificates are good, for the name they bear and for an address."""
    context = client_context(parse_url(f"amqps://localhost?cacertfile={certificates.cacertfile}"))
    server = server_context(certificates.server())
    for name in ("localhost", "127.0.0.1", "::1"):
        shake(context, server, name)


def test_unverified(certificates: Certificates) -> None:
    """`insecure_skip_verify` takes any certificate, still with TLS 1.2 or newer, and is warned of."""
    url = parse_url("amqps://localhost")
    context = client_context(url, insecure_skip_verify=True)
    for pair in (certificates.self_signed(), certificates.expired(), certificates.server("other.example")):
        shake(context, server_context(pair))
    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    (warning,) = tls_warnings(url, context)
    assert "does not verify" in warning


def test_a_context_of_ones_own() -> None:
    """`tls_config` is used as it is; one that does not verify is warned of."""
    url = parse_url("amqps://localhost")
    mine = ssl.create_default_context()
    assert client_context(url, tls_config=mine) is mine
    assert tls_warnings(url, mine) == []
    mine.check_hostname = False
    assert len(tls_warnings(url, mine)) == 1
    mine.verify_mode = ssl.CERT_NONE
    assert len(tls_warnings(url, mine)) == 1


@pytest.mark.parametrize(
    ("url", "count"),
    [
        ("amqp://localhost", 0),
        (f"amqp://u:{SECRET}@127.0.0.1,localhost", 0),
        (f"amqp://u:{SECRET}@rabbit", 1),
        (f"amqp://u:{SECRET}@localhost,rabbit", 1),
    ],
)
def test_a_password_in_the_clear_is_warned_of(url: str, count: int) -> None:
    """Plain TCP beyond this machine, and only that; the sentence holds no secret."""
    warnings = tls_warnings(parse_url(url), None)
    assert len(warnings) == count
    assert SECRET not in str(warnings)


def test_a_client_certificate(certificates: Certificates) -> None:
    """certfile and keyfile, or both in one file, satisfy a server that requires a certificate."""
    server = server_context(certificates.server())
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(certificates.cacertfile)
    mine = certificates.client("me")
    for own in (f"certfile={mine.certfile}&keyfile={mine.keyfile}", f"certfile={certificates.in_one_file(mine)}"):
        for mechanism in ("", "&auth_mechanism=external"):
            shake(
                client_context(parse_url(f"amqps://localhost?cacertfile={certificates.cacertfile}&{own}{mechanism}")),
                server,
            )


def test_files_are_read_at_each_connection(certificates: Certificates, tmp_path: Path) -> None:
    """An authority that was replaced on disk is the one that counts."""
    authority = Certificates(tmp_path).cacertfile
    url = parse_url(f"amqps://localhost?cacertfile={authority}")
    server = server_context(certificates.server())
    assert "not trusted" in failure(client_context(url), server)
    authority.write_bytes(certificates.cacertfile.read_bytes())
    shake(client_context(url), server)


# --- refused settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameter",
    ["cacertfile=/x", "certfile=/x", "keyfile=/x", "server_name_indication=x", "auth_mechanism=external"],
)
def test_tls_settings_need_tls(parameter: str) -> None:
    """On a plain `amqp://` they would protect nothing, so they are refused."""
    with pytest.raises(ConfigError, match=parameter.partition("=")[0] + ".*expected TLS with it.*amqps://"):
        client_context(parse_url(f"amqp://localhost?{parameter}"))


def test_tls_settings_in_code_need_tls() -> None:
    """The same holds for what code says."""
    plain = parse_url("amqp://localhost")
    with pytest.raises(ConfigError, match="tls_config: expected TLS"):
        client_context(plain, tls_config=ssl.create_default_context())
    with pytest.raises(ConfigError, match="insecure_skip_verify: expected TLS"):
        client_context(plain, insecure_skip_verify=True)


@pytest.mark.parametrize("parameter", ["cacertfile=/x", "certfile=/x", "keyfile=/x"])
def test_two_ways_to_say_one_thing(parameter: str) -> None:
    """`tls_config` stands alone."""
    with pytest.raises(ConfigError, match="tls_config: expected it alone, got " + parameter.partition("=")[0]):
        client_context(parse_url(f"amqps://localhost?{parameter}"), tls_config=ssl.create_default_context())


def test_contradictions() -> None:
    """What cannot both be meant is refused, and so is what is no client's context."""
    url = parse_url("amqps://localhost")
    with pytest.raises(ConfigError, match="got insecure_skip_verify besides"):
        client_context(url, tls_config=ssl.create_default_context(), insecure_skip_verify=True)
    with pytest.raises(ConfigError, match="cacertfile or insecure_skip_verify"):
        client_context(parse_url("amqps://localhost?cacertfile=/x"), insecure_skip_verify=True)
    with pytest.raises(ConfigError, match="expected a certfile"):
        client_context(parse_url("amqps://localhost?keyfile=/x"))
    with pytest.raises(ConfigError, match="expected certfile .*or tls_config"):
        client_context(parse_url("amqps://localhost?auth_mechanism=external"))
    with pytest.raises(ConfigError, match="expected a context for a client"):
        client_context(url, tls_config=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ConfigError, match="expected an ssl.SSLContext, got str"):
        client_context(url, tls_config="yes")  # type: ignore[arg-type]


# --- files --------------------------------------------------------------------------------------------------------


def refusal(query: str) -> str:
    with pytest.raises(ConfigError) as caught:
        client_context(parse_url(f"amqps://localhost?{query}"))
    return str(caught.value)


@pytest.mark.parametrize("parameter", ["cacertfile", "certfile", "keyfile"])
def test_files_that_cannot_be_read(parameter: str, certificates: Certificates, tmp_path: Path) -> None:
    """Missing, a folder, a pipe, no permission: parameter, path and reason are named, and a pipe is not waited for."""
    mine = certificates.client("me")
    before = f"certfile={mine.certfile}&" if parameter == "keyfile" else ""
    os.mkfifo(tmp_path / "pipe")
    cases = {"missing.pem": "no such file", ".": "no regular file", "pipe": "no regular file"}
    for name, words in cases.items():
        path = os.path.normpath(tmp_path / name)
        said = refusal(f"{before}{parameter}={path}")
        assert f"{parameter} {path!r}" in said
        assert words in said


def test_a_file_without_permission(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every file is readable, so the refusal of the system is put in place of it."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "permission denied" in refusal(f"cacertfile={certificates.cacertfile}")


def test_files_with_the_wrong_content(certificates: Certificates, tmp_path: Path) -> None:
    """No PEM, no key, another's key: which file is to blame, and what was expected there."""
    mine, other = certificates.client("me"), certificates.client("other")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate\n")
    assert f"cacertfile {str(junk)!r}: expected PEM certificates" in refusal(f"cacertfile={junk}")
    assert f"cacertfile {str(mine.keyfile)!r}: expected PEM" in refusal(f"cacertfile={mine.keyfile}")
    assert "expected a PEM certificate there" in refusal(f"certfile={junk}&keyfile={mine.keyfile}")
    assert "the same file (no keyfile was given)" in refusal(f"certfile={mine.certfile}")
    assert str(junk) in refusal(f"certfile={mine.certfile}&keyfile={junk}")
    said = refusal(f"certfile={mine.certfile}&keyfile={other.keyfile}")
    assert "expected the private key of the certificate" in said
    assert str(other.keyfile) in said
    assert str(mine.certfile) in said


def test_a_key_with_a_password(certificates: Certificates) -> None:
    """It is refused at once: nobody is asked for the password at a terminal."""
    locked = certificates.with_password(certificates.client("me"), SECRET)
    for query, path in (
        (f"certfile={locked.certfile}&keyfile={locked.keyfile}", locked.keyfile),
        (f"certfile={(both := certificates.in_one_file(locked))}", both),
    ):
        said = refusal(query)
        assert "without a password" in said
        assert str(path) in said


# --- failed handshakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Certificates.self_signed, "is self-signed"),
        (Certificates.of_unknown_authority, "authority that is not trusted here"),
        (Certificates.expired, "has expired"),
        (Certificates.not_yet_valid, "not valid yet"),
        (
            lambda certificates: certificates.server("other.example"),
            "for another host.*'localhost'.*server_name_indication",
        ),
    ],
    ids=["self-signed", "unknown authority", "expired", "not yet valid", "wrong host"],
)
def test_certificates_that_are_refused(
    make: Callable[[Certificates], KeyPair], words: str, certificates: Certificates
) -> None:
    """Each wrong certificate has a sentence of its own that says what to do."""
    context = client_context(parse_url(f"amqps://localhost?cacertfile={certificates.cacertfile}"))
    assert re.search(words, failure(context, server_context(make(certificates))))


def test_the_wrong_address(certificates: Certificates) -> None:
    """A certificate for a name is not one for its address."""
    context = client_context(parse_url(f"amqps://127.0.0.1?cacertfile={certificates.cacertfile}"))
    assert "for another host" in failure(context, server_context(certificates.server("localhost")), "127.0.0.1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_wanted(version: ssl.TLSVersion, certificates: Certificates) -> None:
    """None given: with TLS 1.2 the handshake fails, with 1.3 the first read; the sentence is the same."""
    server = server_context(certificates.server())
    server.maximum_version = version
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(certificates.cacertfile)
    context = client_context(parse_url(f"amqps://localhost?cacertfile={certificates.cacertfile}"))
    assert "expects a client certificate" in failure(context, server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("make", [Certificates.of_unknown_authority, Certificates.expired])
def test_a_client_certificate_is_refused(
    make: Callable[[Certificates], KeyPair], version: ssl.TLSVersion, certificates: Certificates
) -> None:
    """The broker's reason is passed on."""
    server = server_context(certificates.server())
    server.maximum_version = version
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(certificates.cacertfile)
    mine = make(certificates)
    query = f"cacertfile={certificates.cacertfile}&certfile={mine.certfile}&keyfile={mine.keyfile}"
    assert "refused our certificate (" in failure(client_context(parse_url(f"amqps://localhost?{query}")), server)


@pytest.mark.filterwarnings("ignore:.*TLSv1_1 is deprecated:DeprecationWarning")
def test_an_old_broker(certificates: Certificates) -> None:
    """TLS 1.1 is not spoken, not even unverified."""
    server = server_context(certificates.server())
    server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1_1
    server.set_ciphers("ALL:@SECLEVEL=0")
    context = client_context(parse_url("amqps://localhost"), insecure_skip_verify=True)
    assert "TLS 1.2 or newer" in failure(context, server)


@pytest.mark.parametrize(
    "answer", [b"AMQP\0\0\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP\r\n", b"\0" * 64]
)
def test_tls_to_a_plain_port(answer: bytes) -> None:
    """What RabbitMQ's plain port answers to a TLS hello, and what others do: the port is named as the reason."""
    context = client_context(parse_url("amqps://localhost"))
    assert context is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    incoming.write(answer)
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert "does not speak it" in str(tls_failure(caught.value, HOST))


def test_a_peer_that_goes_away_may_come_back() -> None:
    """An end within the handshake is no configuration error: trying again may help."""
    context = client_context(parse_url("amqps://localhost"))
    assert context is not None
    incoming = ssl.MemoryBIO()
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="localhost")
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert tls_failure(caught.value, HOST) is None


def test_damage_may_heal(certificates: Certificates) -> None:
    """A byte that was changed on the way is no configuration error either."""
    context = client_context(parse_url(f"amqps://localhost?cacertfile={certificates.cacertfile}"))
    assert context is not None
    to_client, to_server, on_the_way = ssl.MemoryBIO(), ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context(certificates.server()).wrap_bio(to_server, on_the_way, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    damaged = bytearray(on_the_way.read())
    damaged[-1] ^= 1
    to_client.write(bytes(damaged))
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    assert tls_failure(caught.value, HOST) is None
