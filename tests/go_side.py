"""A program that does on the wire what the Go package does: declares, sends, and works, on a client that is not ours.

What the Go side does with a message is in `work`: it reads every number as a float, acks what it ran whether that went
well or not, and hands back at once what it does not know. Must never use anything of `dispatcher`: it is the other side.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

__all__ = ["Found", "GoSide", "GoWorker", "Refused"]

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.02

Function = Callable[..., None]


class Refused(Exception):
    """The broker refused what was asked, with this code and text."""


@dataclass(frozen=True)
class Found:
    """A message as it lay in a queue."""

    body: bytes
    properties: pika.BasicProperties
    exchange: str
    routing_key: str
    redelivered: bool

    @property
    def headers(self) -> dict[str, Any]:
        return dict(self.properties.headers or {})

    @property
    def other_properties(self) -> dict[str, Any]:
        """Those that are set, without the headers."""
        return {name: value for name, value in vars(self.properties).items() if value is not None and name != "headers"}


class GoSide:
    """One connection. Each method may be called from one thread at a time, and blocks."""

    def __init__(self, url: str, exchange: str) -> None:
        self._exchange = exchange
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()

    def close(self) -> None:
        self._connection.close()

    def declare(self, queue: str, *keys: str) -> None:
        """The exchange direct and durable, the queue durable and without arguments. Raises `Refused`."""
        try:
            self._channel.exchange_declare(self._exchange, "direct", durable=True)
            self._channel.queue_declare(queue, durable=True)
            for key in keys:
                self._channel.queue_bind(queue, self._exchange, key)
        except pika.exceptions.ChannelClosedByBroker as error:
            self._channel = self._connection.channel()
            raise Refused(f"{error.reply_code} {error.reply_text}") from error

    def publish(self, key: str, body: str, headers: Mapping[str, Any] | None = None) -> None:
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=2, headers=None if headers is None else dict(headers)
        )
        self._channel.basic_publish(self._exchange, key, body.encode(), properties)

    def take(self, queue: str) -> Found:
        """The next message of `queue`, acked; waits until there is one."""
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            method, properties, body = self._channel.basic_get(queue)
            if method is not None:
                self._channel.basic_ack(method.delivery_tag)
                return Found(body, properties, method.exchange, method.routing_key, method.redelivered)
            self._connection.sleep(POLL_SECONDS)
        raise AssertionError(f"nothing came to queue {queue!r}")

    def hand_back(self, queue: str) -> None:
        """Take the next message of `queue` and put it back, as a Go worker does with a task that it does not know."""
        for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
            method, _, _ = self._channel.basic_get(queue)
            if method is not None:
                self._channel.basic_nack(method.delivery_tag, requeue=True)
                return
            self._connection.sleep(POLL_SECONDS)
        raise AssertionError(f"nothing came to queue {queue!r}")


class GoWorker:
    """A worker in a thread, with a connection of its own; `ran` is the bodies that it ran, in order."""

    def __init__(self, url: str, queue: str, limit: int, **tasks: Function) -> None:
        self.ran: list[bytes] = []
        self.handed_back = 0
        self._queue = queue
        self._tasks = tasks
        self._changed = threading.Condition()
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=limit)
        channel.basic_consume(queue, self._work)
        self._channel = channel
        self._thread = threading.Thread(target=channel.start_consuming, name="go worker", daemon=True)
        self._thread.start()

    def wait_for(self, count: int) -> list[bytes]:
        """The bodies that it ran, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ran) >= count, WAIT_SECONDS), f"it ran {self.ran}"
            return list(self.ran)

    def stop(self) -> None:
        self._connection.add_callback_threadsafe(self._channel.stop_consuming)
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()
        self._connection.close()

    def _work(self, channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        message = json.loads(body, parse_int=float)
        function = self._tasks.get(message["name"])
        if function is None:
            self.handed_back += 1
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        try:
            function(*(argument["value"] for argument in message["args"] or ()))
        except Exception:  # a panic there is recovered, logged, and acked
            pass
        channel.basic_ack(method.delivery_tag)
        with self._changed:
            self.ran.append(body)
            self._changed.notify_all()
