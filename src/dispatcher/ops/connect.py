"""The way to a broker: which URL is meant, whether a command can use it, and a session that never creates one by looking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from ..brokers import TlsSettings, kind_of, open_broker
from ..brokers.base import Broker, Session
from ..model.topology import Topology
from ..observe.logs import LogObserver
from ..runtime.app import Dispatcher
from ..runtime.settings import DEFAULT_URL
from .failures import EXIT_STORAGE, EXIT_USAGE, CliError
from .locate import load_app

__all__ = ["Place", "broker_option", "broker_place", "looking", "place_of", "shared_broker"]

Function = TypeVar("Function", bound=Callable[..., Any])


class Place(msgspec.Struct, frozen=True):
    """Where a command looks: a broker, and what an app has there; `topology` None for a URL that no app came with."""

    url: str
    tls: TlsSettings = TlsSettings()
    topology: Topology | None = None


def broker_option(function: Function) -> Function:
    """Give a click command the option `--url`."""
    text = "The broker, instead of an app's.  [default: $DISPATCHER_URL, else sqlite:///dispatcher.db]"
    return click.option("--url", default=None, help=text)(function)


def broker_place(ctx: click.Context, target: str | None, url: str | None) -> Place:
    """The broker that a command means: the app's, `--url`, `$DISPATCHER_URL`, or the default."""
    if target is not None and url is not None:
        raise CliError("expected MODULE:APP or --url, got both", "leave one of them out", exit_code=EXIT_USAGE)
    if target is not None:
        return place_of(load_app(target)[1])
    return Place(url or ctx.obj or DEFAULT_URL)


def place_of(app: Dispatcher) -> Place:
    """The broker of `app`, with its queues."""
    config = app.config
    return Place(config.url, config.tls, Topology(config.exchange, app.queues, "never"))


def shared_broker(place: Place) -> Broker:
    """The broker of `place`. Raises `CliError` for one that other processes cannot reach: what one sends there, no
    other ever sees."""
    broker = open_broker(place.url, place.tls)
    if kind_of(place.url) == "memory":
        raise CliError(
            "a memory:// broker lives inside its own process: no other process can see what is in it",
            "name one that processes share, such as sqlite:///dispatcher.db: in $DISPATCHER_URL or in the app",
            exit_code=EXIT_USAGE,
        )
    return broker


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
async def looking(place: Place, name: str, *, needs_queues: bool = True) -> AsyncIterator[Session]:
    """A session on the broker of `place`, closed at the end, which declares nothing.

    `needs_queues`: whether the command is about queues, so that their names must be known.

    Raises `CliError` where there is no broker yet, and for a broker that does not tell its queues and no app that does.
    """
    broker = shared_broker(place)
    kind = kind_of(place.url)
    if kind == "sqlite":
        _check_exists(place.url)
    if needs_queues and kind == "rabbitmq" and place.topology is None:
        raise CliError(
            "RabbitMQ does not tell which queues it has",
            "name the app whose queues are meant, as in: dispatcher queues tasks:app",
            exit_code=EXIT_USAGE,
        )
    session = await broker.connect(name=name, on_event=LogObserver().on_event)
    try:
        if place.topology is not None:
            await session.declare(place.topology)
        yield session
    finally:
        await session.close()
