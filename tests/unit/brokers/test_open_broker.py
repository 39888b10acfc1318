"""`open_broker`: which broker a URL names, and what is said of one that names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatcher.brokers import open_broker, redact_url
from dispatcher.brokers.memory import MemoryBroker
from dispatcher.errors import ConfigError

SECRET = "hunter2"


def test_memory_is_a_private_broker_each_time() -> None:
    """Two URLs, two worlds."""
    first, second = open_broker("memory://"), open_broker("MEMORY:///")
    assert isinstance(first, MemoryBroker)
    assert first is not second


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///app.db", "{cwd}/app.db"),
        ("sqlite:///data/app.db", "{cwd}/data/app.db"),
        ("sqlite:////var/lib/app.db", "/var/lib/app.db"),
        ("SQLite:////var/lib/app.db", "/var/lib/app.db"),
        ("sqlite:///~/app.db", "{home}/app.db"),
        ("sqlite:////var/a b#c%20d.db", "/var/a b#c%20d.db"),
        ("sqlite:////var/me@host.db", "/var/me@host.db"),
    ],
)
def test_sqlite_paths(url: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are relative, four absolute; nothing of a path is decoded; the path does not move with a later chdir."""
    opened: list[Path] = []
    monkeypatch.setattr("dispatcher.brokers.sqlite.SqliteBroker", opened.append)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    open_broker(url)
    assert [str(path) for path in opened] == [expected.format(cwd=tmp_path, home=tmp_path / "home")]


@pytest.mark.parametrize("place", ["/C:/app/x.db", "//C:/app/x.db", "/C:\\app\\x.db"])
def test_a_drive_on_windows(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three slashes, as SQLAlchemy has it, or with four: no slash stands before the drive."""
    opened: list[Path] = []
    monkeypatch.setattr("dispatcher.brokers.sqlite.SqliteBroker", opened.append)
    monkeypatch.setattr("dispatcher.brokers._WINDOWS", True)
    open_broker("sqlite://" + place)
    assert "/C:" not in str(opened[0]).replace(str(Path.cwd()) + "/", "", 1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "expected a file"),
        ("sqlite:///", "expected a file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///folder/", "path of a file"),
        ("sqlite:///a\0b", "path of a file"),
        ("sqlite://app.db", "three slashes"),
        ("sqlite:///app.db?mode=ro", "'mode'"),
        ("sqlite:///app.db?mode", "'mode'"),
        ("memory://?shared=1", "'shared'"),
        ("memory://name", "nothing after it"),
        ("amqp://host.example", "user"),
        ("amqps://localhost:port/vhost", "port"),
        ("redis://localhost", "sqlite, memory, amqp or amqps"),
        ("app.db", "no '://'"),
        ("", "no '://'"),
    ],
)
def test_what_cannot_work_is_refused(url: str, words: str) -> None:
    """The message says what was expected and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        open_broker(url)
    assert words in str(caught.value)


def test_a_url_that_is_no_string() -> None:
    """It is named by its type, not by its value."""
    with pytest.raises(ConfigError, match="got PosixPath|got WindowsPath"):
        open_broker(Path("app.db"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://user:{SECRET}@host:5672/?unknown=1",
        f"amqp://user:{SECRET}@h1,user2:{SECRET}@h2/",
        f"amqp://user:{SECRET}/with@slash@host/",
        f"amqp://user:what?{SECRET}@host/",
        f"redis://:{SECRET}@host",
        f"amqp//user:{SECRET}@host",
        f"user:{SECRET}@host",
        f"sqlite://user:{SECRET}@host/x",
        f"memory://user:{SECRET}@/",
        f"memory://?password={SECRET}",
        f"amqp://host/?password={SECRET}&other={SECRET}",
    ],
)
def test_no_secret_is_repeated(url: str) -> None:
    """Neither in the error, nor in what led to it, nor by `redact_url`."""
    with pytest.raises(ConfigError) as caught:
        open_broker(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error) + repr(error)
        error = error.__cause__ or error.__context__
    assert SECRET not in redact_url(url)


def test_redacting_keeps_what_helps() -> None:
    """Scheme, host, path and the names of parameters."""
    assert redact_url("amqps://me:pw@host:5671/vhost?heartbeat=10") == "amqps://***@host:5671/vhost?heartbeat=***"
    assert redact_url("sqlite:///app.db") == "sqlite:///app.db"
