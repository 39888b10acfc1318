"""Who leads which schedule, on RabbitMQ: each has a queue with a single active consumer, who leads, and who holds its state.

The state is one message: when the schedule was first seen, and its last firing. The leader keeps it unacked, so that it is
back in the queue, for the next consumer, the moment the leader's channel ends. It is replaced by publishing the new state
first; the old one is acked when the new one has come round, which a queue on a majority makes the proof that it is kept.

Nobody can ask whether a queue holds anything that another has. So whoever begins to wait publishes a seed, a state without
a firing: the leader acks what is worth less than what it holds, and of a new schedule the oldest seed becomes its state.

A leader that was lost may have published a firing and not the state after it: the next one finds the state redelivered,
and its first firing may be that one once more, with the same uuid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import time

import msgspec

from ...errors import ConnectionLost, ConsumerCancelled, DeliveryLost, DispatcherError
from ...model.topology import SCHEDULE_EXCHANGE
from ..base import Message
from .consuming import RabbitConsumer
from .delivery import RabbitDelivery
from .ladder import UNREACHABLE_DELIVERY_LIMIT, named
from .specs import BindingSpec, ExchangeSpec, Plan, QueueSpec

__all__ = ["RabbitLead", "RabbitSchedules", "is_schedule", "schedule_plan", "schedule_queue"]

PREFIX = SCHEDULE_EXCHANGE + "."

COLLECT_SECONDS = 1.0
"""How long a new leader looks at what there is before it believes that it has seen the state."""

PREFETCH = 100

RENEW_SECONDS = 300.0
"""How often the state is replaced by itself: before RabbitMQ 4.3 nobody may keep a message for longer than half an hour."""

RESIGN_SECONDS = 5.0
SEED_SECONDS = 30.0


def schedule_queue(exchange: str, name: str) -> str:
    """The queue of a schedule, and the routing key that leads there. No schedule has a `/` in its name: no two are alike."""
    return named(PREFIX, f"{exchange}/{name}")


def is_schedule(name: str) -> bool:
    """Whether an exchange or queue of that name belongs to schedules."""
    return name == SCHEDULE_EXCHANGE or name.startswith(PREFIX)


def schedule_plan(exchange: str, names: tuple[str, ...]) -> Plan:
    """What must exist for these schedules. The state of one must never be dropped, whatever becomes of its leaders."""
    queues = [schedule_queue(exchange, name) for name in names]
    arguments: dict[str, str | int | bool] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT,
    }
    return Plan(
        exchanges=(ExchangeSpec(SCHEDULE_EXCHANGE, "direct"),) if names else (),
        queues=tuple(QueueSpec(queue, arguments) for queue in queues),
        bindings=tuple(BindingSpec(SCHEDULE_EXCHANGE, queue, queue) for queue in queues),
    )


class _State(msgspec.Struct, frozen=True):
    """What is kept of a schedule, in Unix milliseconds. Without a firing it may be a seed."""

    since_ms: int
    fired_ms: int | None = None

    @property
    def worth(self) -> tuple[int, int]:
        """The latest firing counts; without any, the earliest beginning."""
        return (-1, -self.since_ms) if self.fired_ms is None else (self.fired_ms, -self.since_ms)


class RabbitLead:
    """See `brokers.base.Lead`. Fed with what comes to the queue, from the first message on."""

    def __init__(
        self, publish: Callable[[Message], asyncio.Future[None]], queue: str, consumer: RabbitConsumer
    ) -> None:
        self._publish = publish
        self._queue = queue
        self._consumer = consumer
        self._loop = asyncio.get_running_loop()
        self._held: tuple[_State, RabbitDelivery] | None = None
        self._published = ""  # the uuid of the last firing that the broker is known to have
        self._resigning = False
        self._feeding: asyncio.Task[None] | None = None
        self._first = self._loop.create_future()
        self._renewing: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Future[None] | None = None
        self.is_doubtful = False
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.failure: DispatcherError = ConnectionLost(f"the session of {queue!r} has ended; connect again")

    @property
    def since_ms(self) -> int:
        return self._state.since_ms

    @property
    def fired_ms(self) -> int | None:
        return self._state.fired_ms

    @property
    def _state(self) -> _State:
        assert self._held is not None, "a lead begins with the first state"
        return self._held[0]

    async def begin(self) -> None:
        """Wait for the lead. Raises what ended the consumer before it came."""
        self._feeding = asyncio.create_task(self._feed(), name=f"dispatcher {self._queue}")
        await asyncio.wait([self._first, self.lost], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([self.lost], timeout=COLLECT_SECONDS)
        if self.lost.done():
            raise self.failure
        assert self._held is not None
        self.is_doubtful = self._held[1].redelivered
        self._renew_later()

    async def _feed(self) -> None:
        try:
            async for delivery in self._consumer:
                self._take(delivery)
        except ConsumerCancelled as error:
            self.failure = error
        finally:
            self._end()

    def _take(self, delivery: RabbitDelivery) -> None:
        """Keep the state that is worth most, ack the other. What is none is nobody's: it is acked too."""
        try:
            state = msgspec.json.decode(delivery.body, type=_State)
        except msgspec.DecodeError:
            self._ack(delivery)
            return
        held = self._held
        if held is None:
            self._held = state, delivery
        elif state.worth >= held[0].worth:
            self._held = state, delivery
            self._ack(held[1])
        else:
            self._ack(delivery)
        if not self._first.done():
            self._first.set_result(None)

    def _ack(self, delivery: RabbitDelivery) -> None:
        try:
            delivery.ack()
        except DeliveryLost:
            pass  # the session has ended: both are with the next leader, who keeps the better one

    def _end(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    # --- firing ----------------------------------------------------------------------------------------------------

    async def fire(self, message: Message, fired_ms: int) -> None:
        self._check()
        if message.uuid != self._published:
            await self._publish(message)
            self._published = message.uuid
        self._check()
        await self._replace(_State(self.since_ms, fired_ms))

    def _check(self) -> None:
        if self.lost.done() or not self._consumer.is_alive:
            raise ConnectionLost(f"schedule {self._queue!r} is led by this session no more")

    async def _replace(self, state: _State) -> None:
        """Publish a new state. It comes round to us, and the old one is acked then; until then both are there."""
        await self._publish(_message(self._queue, state))
        if self._held is not None and state.worth > self._held[0].worth:
            # It is on its way here. Whoever asks now must see it.
            self._held = state, self._held[1]

    def _renew_later(self) -> None:
        if not self.lost.done():
            self._renewing = self._loop.call_later(RENEW_SECONDS, self._renew)

    def _renew(self) -> None:
        self._renewal = self._publish(_message(self._queue, self._state))
        self._renewal.add_done_callback(self._renewed)

    def _renewed(self, renewal: asyncio.Future[None]) -> None:
        if not renewal.cancelled():
            renewal.exception()  # a renewal that failed is tried again in its turn; the state is where it was
        self._renew_later()

    # --- the end ---------------------------------------------------------------------------------------------------

    async def resign(self) -> None:
        """Leave the state to the next one as a message that nobody had, so that it has no reason for doubt."""
        if self._resigning:
            return
        self._resigning = True
        state = self._held[0] if self._held is not None else None
        try:
            async with asyncio.timeout(RESIGN_SECONDS):
                await self._consumer.stop()
                if self._feeding is not None:
                    await asyncio.wait([self._feeding])
                if state is not None and self._held is not None and self._consumer.is_alive:
                    held = self._held[1]
                    try:
                        await self._publish(_message(self._queue, state))
                    except DispatcherError:
                        held.reject()
                    else:
                        held.ack()
        except (TimeoutError, DeliveryLost):
            pass  # the session's end hands it back
        finally:
            self._end()


def _message(queue: str, state: _State) -> Message:
    return Message(SCHEDULE_EXCHANGE, queue, msgspec.json.encode(state), uuid=queue)


class RabbitSchedules:
    """See `brokers.base.Schedules`. `publish` and `consume` are the session's."""

    def __init__(
        self,
        publish: Callable[[Message], asyncio.Future[None]],
        consume: Callable[[str, int], Awaitable[RabbitConsumer]],
    ) -> None:
        self._publish = publish
        self._consume = consume

    async def lead(self, exchange: str, name: str) -> RabbitLead:
        queue = schedule_queue(exchange, name)
        try:
            async with asyncio.timeout(SEED_SECONDS):
                await self._publish(_message(queue, _State(int(time() * 1000))))
        except TimeoutError:
            raise ConnectionLost(f"{queue!r}: expected an answer of the broker within {SEED_SECONDS:.0f} s") from None
        lead = RabbitLead(self._publish, queue, await self._consume(queue, PREFETCH))
        try:
            await lead.begin()
        except BaseException:
            await lead.resign()
            raise
        return lead

    async def fired_ms(self, exchange: str, name: str) -> int | None:
        return None  # the state is in the leader's hands
