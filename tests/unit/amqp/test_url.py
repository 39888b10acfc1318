"""`parse_url`: what an AMQP URL means, what is refused, and that no secret comes out of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.amqp.url import AmqpUrl, Login, is_loopback, parse_url
from dispatcher.errors import ConfigError

USER, SECRET = "canary-user", "canary-pw"


def chain(error: BaseException) -> str:
    """All that an error and what led to it tell."""
    texts = []
    todo: BaseException | None = error
    while todo is not None:
        texts.append(f"{todo} {todo!r} {todo.args}")
        todo = todo.__cause__ or todo.__context__
    return " ".join(texts)


def test_the_defaults() -> None:
    """A bare host on this machine: guest, the virtual host /, plain, 15 s between heartbeats, 10 s to connect."""
    assert parse_url("amqp://localhost") == AmqpUrl(
        hosts=(("localhost", 5672),),
        tls=False,
        login=Login("guest", "guest"),
        vhost="/",
        mechanism="PLAIN",
        heartbeat_seconds=15,
        connect_timeout_seconds=10.0,
        cacertfile=None,
        certfile=None,
        keyfile=None,
        server_name_indication=None,
    )


def test_everything_at_once() -> None:
    """Each part comes out decoded."""
    assert parse_url(
        "AMQPS://me%40home:p%40ss%2F:w%25rd@h1:5673,h2,[::1]:5674,[fe80::1%25eth0]/my%2Fvhost%C3%A9"
        "?heartbeat=0&connection_timeout=2500&auth_mechanism=Plain&cacertfile=/etc/a+b%20c.pem"
        "&certfile=/c.pem&keyfile=/k.pem&server_name_indication=rabbit.example"
    ) == AmqpUrl(
        hosts=(("h1", 5673), ("h2", 5671), ("::1", 5674), ("fe80::1%eth0", 5671)),
        tls=True,
        login=Login("me@home", "p@ss/:w%rd"),
        vhost="my/vhosté",
        heartbeat_seconds=0,
        connect_timeout_seconds=2.5,
        cacertfile="/etc/a+b c.pem",
        certfile="/c.pem",
        keyfile="/k.pem",
        server_name_indication="rabbit.example",
    )


@pytest.mark.parametrize(
    ("url", "secure_connection", "tls", "port"),
    [
        ("amqp://localhost", False, False, 5672),
        ("amqps://localhost", False, True, 5671),
        ("amqp://localhost", True, True, 5671),
        ("amqps://localhost", True, True, 5671),
        ("amqp://localhost:5672", True, True, 5672),
        ("amqps://localhost:1", False, True, 1),
        ("amqp://localhost:65535", False, False, 65535),
    ],
)
def test_ports(url: str, secure_connection: bool, tls: bool, port: int) -> None:
    """5672, with TLS 5671, unless one is written out."""
    parsed = parse_url(url, secure_connection=secure_connection)
    assert (parsed.tls, parsed.hosts) == (tls, (("localhost", port),))


@pytest.mark.parametrize(
    ("path", "vhost"),
    [("", "/"), ("/", "/"), ("//", "/"), ("/%2f", "/"), ("/%2F", "/"), ("/a", "a"), ("/a%2Fb", "a/b"), ("/ü", "ü")],
)
def test_virtual_hosts(path: str, vhost: str) -> None:
    """None, the slash alone, and the slash in every way of writing it are the virtual host /."""
    assert parse_url(f"amqp://localhost{path}").vhost == vhost
    assert parse_url(f"amqp://localhost{path}?heartbeat=7").vhost == vhost


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.255.0.9", "[::1]", "localhost,127.0.0.1"])
def test_guest_on_this_machine(host: str) -> None:
    """Without a user, loopback hosts get guest/guest."""
    assert parse_url(f"amqp://{host}").login == Login("guest", "guest")


@pytest.mark.parametrize(
    "host", ["rabbit", "localhost.example", "10.0.0.1", "[::2]", "localhost,rabbit", "127.0.0.1.nip.io"]
)
def test_no_guest_elsewhere(host: str) -> None:
    """Without a user, any other host is refused, TLS or not."""
    for scheme in ("amqp", "amqps"):
        with pytest.raises(ConfigError, match="expected a user and a password.*on this machine only"):
            parse_url(f"{scheme}://{host}/vhost")


def test_logins() -> None:
    """What PLAIN sends; the user name may be empty (OAuth 2), and a password may hold ':' as it is."""
    assert parse_url("amqp://u%C3%A9:p:w@h").login.sasl_response("PLAIN") == "\0ué\0p:w".encode()
    assert parse_url("amqp://:token@h").login.sasl_response("PLAIN") == b"\0\0token"
    external = parse_url("amqps://h?auth_mechanism=external")
    assert (external.mechanism, external.login.sasl_response(external.mechanism)) == ("EXTERNAL", b"")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "begin with amqp://"),
        ("localhost", "begin with amqp://"),
        ("http://localhost", "begin with amqp://"),
        ("amqp:localhost", "begin with amqp://"),
        ("amqp://", "expected a host"),
        ("amqp:///vhost", "expected a host"),
        ("amqp://:5672", "expected a host"),
        ("amqp://u:p@", "expected a host"),
        ("amqp://localhost,", "expected a host"),
        ("amqp://localhost,,localhost", "expected a host"),
        ("amqp://local%68ost", "letters, digits"),
        ("amqp://hö.example", "xn--"),
        ("amqp://a..b", "letters, digits"),
        ("amqp://" + "a" * 64, "letters, digits"),
        ("amqp://localhost:", "port from 1 to 65535"),
        ("amqp://localhost:0", "port from 1 to 65535"),
        ("amqp://localhost:65536", "port from 1 to 65535"),
        ("amqp://localhost:-1", "port from 1 to 65535"),
        ("amqp://localhost:+5672", "port from 1 to 65535"),
        ("amqp://localhost:٥٦٧٢", "port from 1 to 65535"),
        ("amqp://localhost:amqp", "port from 1 to 65535"),
        ("amqp://::1", "in brackets"),
        ("amqp://fe80::1:5672", "in brackets"),
        ("amqp://[::1", "IPv6 address in the brackets"),
        ("amqp://[localhost]", "IPv6 address in the brackets"),
        ("amqp://[]", "IPv6 address in the brackets"),
        ("amqp://[::1]5672", "after the ']'"),
        ("amqp://[::1]:", "port from 1 to 65535"),
        ("amqp://localhost/a b", "no spaces"),
        ("amqp://localhost\n", "line end"),
        ("amqp://local\thost", "no spaces"),
        ("amqp://localhost/\x00", "control characters"),
        ("amqp://localhost/\ud800", "control characters"),
        ("amqp://localhost/%00", "no control characters"),
        ("amqp://u:p%0A@localhost", "no control characters"),
        ("amqp://localhost/#top", "%23"),
        ("amqp://localhost/%zz", "two hexadecimal digits"),
        ("amqp://localhost/%f", "two hexadecimal digits"),
        ("amqp://localhost/100%", "written %25"),
        ("amqp://localhost/%ff", "expected UTF-8"),
        ("amqp://localhost/a/b", "written %2F"),
        ("amqp://localhost///", "written %2F"),
        ("amqp://localhost/" + "ü" * 128, "at most 255 bytes of UTF-8, got 256"),
        ("amqp://user@localhost", "expected a password"),
        ("amqp://user:@localhost", "expected a password"),
        ("amqp://@localhost", "expected a password"),
        ("amqp://u:p@h1,u:p@h2", "at most one '@'"),
        ("amqp://u:p@ss@h1", "at most one '@'"),
        ("amqp://u:p@h1/v@host", "at most one '@'"),
        ("amqp://h1?cacertfile=/a@b", "at most one '@'"),
        ("amqp://u:p@h1,amqp://u:p@h2", "at most one '@'"),
        ("amqps://u:p@h?auth_mechanism=external", "no user and password"),
        ("amqp://localhost?auth_mechanism=amqplain", "plain or external"),
        ("amqp://localhost?heartbeat=3601", "heartbeat: expected whole seconds"),
        ("amqp://localhost?heartbeat=-1", "heartbeat: expected whole seconds"),
        ("amqp://localhost?heartbeat=1.5", "heartbeat: expected whole seconds"),
        ("amqp://localhost?heartbeat=" + "9" * 5000, "heartbeat: expected whole seconds"),
        ("amqp://localhost?connection_timeout=0", "whole milliseconds from 1"),
        ("amqp://localhost?connection_timeout=600001", "whole milliseconds from 1"),
        ("amqp://localhost?connection_timeout=10s", "whole milliseconds from 1"),
        ("amqps://localhost?server_name_indication=disable", "cannot be switched off"),
        ("amqps://localhost?server_name_indication=a/b", "host name in the broker's certificate"),
        ("amqps://localhost?verify=verify_none", "always verified"),
        ("amqps://localhost?verify=verify_peer", "always verified"),
        ("amqps://localhost?VERIFY=verify_none", "expected only the parameters auth_mechanism"),
        ("amqps://localhost?fail_if_no_peer_cert=true", "cacertfile, certfile"),
        ("amqp://localhost?heartbeat=1&heartbeat=1", "'heartbeat' once, got it twice"),
        ("amqp://localhost?heartbeat=1&heart%62eat=1", "'heartbeat' once, got it twice"),
        ("amqp://localhost?heartbeat", "a value for the parameter 'heartbeat'"),
        ("amqp://localhost?cacertfile=", "a value for the parameter 'cacertfile'"),
        ("amqp://localhost?heartbeat=1&", "expected only the parameters"),
        ("amqp://localhost?&", "expected only the parameters"),
    ],
)
def test_what_is_refused(url: str, words: str) -> None:
    """One clear sentence each: what was expected, and what to write."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_url_that_is_no_string() -> None:
    """It is named by its type, not by its value."""
    with pytest.raises(ConfigError, match="got bytes") as caught:
        parse_url(f"amqp://u:{SECRET}@h".encode())  # type: ignore[arg-type]
    assert SECRET not in chain(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "{login}@host",
        "amqp//{login}@host",
        "{login}://host",
        "amqp://{login}",
        "amqp://{login}@",
        "amqp://{login}@host:port",
        "amqp://{login}@host/a/b",
        "amqp://{login}@host/%zz",
        "amqp://{login}@host?nothing=1",
        "amqp://{login}@host?heartbeat={secret}",
        "amqp://{login}@host?auth_mechanism={secret}",
        "amqp://{login}@host?auth_mechanism=external",
        "amqp://{login}@host?verify={secret}",
        "amqp://{login}@host?server_name_indication={secret}/",
        "amqp://{login}@host?connection_timeout={secret}&heartbeat={secret}",
        "amqp://{login}#more@host",
        "amqp://{login} more@host",
        "amqp://{login}/more@host",
        "amqp://{login}?more@host",
        "amqp://{login}@more@host",
        "amqp://{login}%more@host",
        "amqp://{login}%ff@host",
        "amqp://{login}%00@host",
        "amqp://u:a/{secret}@host",
        "amqp://u:a?{secret}@host",
        "amqp://u:a@{secret}@host",
        "amqp://u:a@b/{secret}@host",
        "amqp://u:a@b?{secret}@host",
        "amqp://u:{secret}:x",
        "amqp://[{secret}]",
        "amqp://[::1]{secret}",
    ],
)
def test_no_secret_in_an_error(url: str) -> None:
    """Neither user nor password nor the value of a parameter, in the error or in what led to it."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url.format(login=f"{USER}:{SECRET}", secret=SECRET))
    assert USER not in chain(caught.value)
    assert SECRET not in chain(caught.value)


def test_no_secret_is_shown() -> None:
    """A parsed URL can be shown in every way that a log or a debugger may choose."""
    url = parse_url(f"amqp://{USER}:{SECRET}@host/vhost")
    shown: list[Any] = [url, url.login, [url], {"url": url}, url.login.sasl_response]
    texts = [text for value in shown for text in (repr(value), str(value), f"{value}", f"{value!s:>9}", f"{value=}")]
    texts.append(repr(list(url.__rich_repr__())))
    for text in texts:
        assert USER not in text
        assert SECRET not in text
    assert "host" in repr(url)
    assert not hasattr(url.login, "__dict__")


def test_no_secret_is_written_away() -> None:
    """Pickling, copying and encoding refuse, and do not say the secret while they do."""
    url = parse_url(f"amqp://{USER}:{SECRET}@host/vhost")
    for write in (pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError) as caught:
            write(url.login)
        assert SECRET not in chain(caught.value)
    for write in (pickle.dumps, copy.deepcopy, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError):
            write(url)


def test_logins_compare() -> None:
    """Equal by what they hold, so that URLs are."""
    url = f"amqp://u:{SECRET}@host"
    assert parse_url(url) == parse_url(url)
    assert hash(parse_url(url)) == hash(parse_url(url))
    assert parse_url(url) != parse_url("amqp://u:other@host")
    assert Login("a", "b") != ("a", "b")


def test_loopback_is_only_what_is_sure() -> None:
    """A name that merely looks like this machine is not."""
    assert [
        name for name in ("localhost", "127.0.0.1", "::1", "127.1", "localhost.", "0.0.0.0", "") if is_loopback(name)
    ] == [
        "localhost",
        "127.0.0.1",
        "::1",
    ]


def encode(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)


@given(user=names, password=names, vhost=names)
def test_what_is_encoded_comes_back(user: str, password: str, vhost: str) -> None:
    """Any user, password and virtual host survive, whatever characters they have."""
    url = parse_url(f"amqp://{encode(user)}:{encode(password)}@host/{encode(vhost)}")
    assert (url.login, url.vhost, url.hosts) == (Login(user, password), vhost, (("host", 5672),))


@given(st.text(st.sampled_from("amqp:/@?#[]%,=&.-01fF \n\0é") | st.characters(), max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Nothing but a ConfigError ever comes of it, and what is parsed has hosts and ports that can be connected to."""
    for url in (text, f"amqp://{text}", f"amqps://u:p@{text}"):
        try:
            parsed = parse_url(url)
        except ConfigError:
            continue
        assert parsed.hosts
        assert all(host and 1 <= port <= 65535 for host, port in parsed.hosts)
        assert [host.encode("idna") for host, _ in parsed.hosts]
