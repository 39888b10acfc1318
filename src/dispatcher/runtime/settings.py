"""The settings that `Dispatcher` takes besides its own, for type checkers and editors, and the broker's default URL.

They are the fields of `ServerConfig`, which says what each means and checks it, without the three that the app has in
a form of its own. A test holds the two equal: a `TypedDict` cannot be derived from a class.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import TypedDict

from ..model.topology import DeclareMode, Queue
from ..observe.hooks import Middleware, Observer
from ..observe.logs import Log

__all__ = ["DEFAULT_URL", "ServerSettings", "default_url"]

DEFAULT_URL = "sqlite:///dispatcher.db"
"""The broker where none is named and `$DISPATCHER_URL` is unset or empty."""


def default_url() -> str:
    """`$DISPATCHER_URL`, else the embedded broker in `dispatcher.db` of the current folder."""
    return os.environ.get("DISPATCHER_URL") or DEFAULT_URL


class ServerSettings(TypedDict, total=False):
    """See `ServerConfig`. What is left out has its default there."""

    init_queues: Sequence[Queue]
    declare: DeclareMode
    reconnection_retries_forever: bool | None
    reconnection_retries: int | None
    reconnection_interval_seconds: float
    reconnection_max_interval_seconds: float
    connect_timeout_seconds: float | None
    publish_timeout_seconds: float
    max_body_bytes: int
    tls_config: ssl.SSLContext | None
    secure_connection: bool
    insecure_skip_verify: bool
    middleware: Sequence[Middleware]
    observers: Sequence[Observer]
    logger: Log | None
    debug_mode: bool
