"""The way to a broker: which URL is meant, whether a command can use it, and a session that never creates one by looking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ..brokers import open_broker
from ..brokers.base import Broker, Session
from ..brokers.memory import MemoryBroker
from ..brokers.sqlite import SqliteBroker
from ..observe.logs import LogObserver
from ..runtime.settings import DEFAULT_URL
from .failures import EXIT_STORAGE, EXIT_USAGE, CliError
from .locate import load_app

__all__ = ["broker_option", "broker_url", "check_shared", "looking"]

Function = TypeVar("Function", bound=Callable[..., Any])


def broker_option(function: Function) -> Function:
    """Give a click command the option `--url`."""
    text = "The broker, instead of an app's.  [default: $DISPATCHER_URL, else sqlite:///dispatcher.db]"
    return click.option("--url", default=None, help=text)(function)


def broker_url(ctx: click.Context, target: str | None, url: str | None) -> str:
    """The URL that a command means: the app's, `--url`, `$DISPATCHER_URL`, or the default."""
    if target is not None and url is not None:
        raise CliError("expected MODULE:APP or --url, got both", "leave one of them out", exit_code=EXIT_USAGE)
    if target is not None:
        return load_app(target)[1].config.url
    return url or ctx.obj or DEFAULT_URL


def check_shared(broker: Broker) -> None:
    """Raise `CliError` for a broker that other processes cannot reach: what one sends there, no other ever sees."""
    if isinstance(broker, MemoryBroker):
        raise CliError(
            "a memory:// broker lives inside its own process: no other process can see what is in it",
            "name one that processes share, such as sqlite:///dispatcher.db: in $DISPATCHER_URL or in the app",
            exit_code=EXIT_USAGE,
        )


def _check_exists(url: str) -> None:
    """A look must not create the file it looks at: connecting would. `url` is one that `open_broker` has accepted."""
    path = Path(url.partition(":///")[2]).expanduser().absolute()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise CliError(
            f"there is no broker file {path}",
            "it is made by the first publish or worker; is this the folder it runs in? else say --url",
            exit_code=EXIT_STORAGE,
        ) from None
    except OSError as error:
        raise CliError(
            f"expected to look at the broker file {path}, got: {error.strerror}",
            "check the path, and that this user may enter its folders",
            exit_code=EXIT_STORAGE,
        ) from None


@asynccontextmanager
async def looking(url: str, name: str) -> AsyncIterator[Session]:
    """A session on the broker at `url`, closed at the end. Raises `CliError` where there is no broker yet."""
    broker = open_broker(url)
    check_shared(broker)
    if isinstance(broker, SqliteBroker):
        _check_exists(url)
    session = await broker.connect(name=name, on_event=LogObserver().on_event)
    try:
        yield session
    finally:
        await session.close()
