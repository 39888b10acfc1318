"""The link to the broker: one live session at a time, made anew whenever it is lost.

A lost session is thrown away; nothing on it is repaired. Who needs one waits in `live`. Knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable

from ..brokers.base import Broker, BrokerEvent, Connected, Disconnected, OnEvent, Session
from ..errors import ConfigError, ConnectionLost, DispatcherError, StorageError

__all__ = ["Backoff", "Link", "LostLinks"]


class Backoff:
    """Full-jitter back-off: each pause is drawn below a bound, `bound_seconds`, that doubles up to `longest_seconds`."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self.pauses = 0
        self.bound_seconds = self._first = min(first_seconds, longest_seconds)
        self._longest = longest_seconds

    async def pause(self) -> None:
        bound = self.bound_seconds
        self.bound_seconds = min(self._longest, bound * 2)
        self.pauses += 1
        await asyncio.sleep(random.uniform(0, bound))

    def begin_anew(self) -> None:
        """What was waited for has come, and stayed."""
        self.bound_seconds = self._first
        self.pauses = 0


LOSSES_REMEMBERED_SECONDS = 600.0


class LostLinks:
    """The links to the broker that this process has lost lately, and lived. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lost_at: deque[float] = deque()

    def note(self) -> None:
        """One more was lost."""
        self._lost_at.append(self._clock())

    @property
    def recently(self) -> int:
        """How many in the last ten minutes."""
        while self._lost_at and self._lost_at[0] < self._clock() - LOSSES_REMEMBERED_SECONDS:
            self._lost_at.popleft()
        return len(self._lost_at)


class Link:
    """Connects `broker` under `name`, and lets `prepare` (the topology) run on each new session before anyone gets it.

    `retries`: how often a lost session is tried anew, None for ever. A session that did not last as long as the next pause
    may be counts as a try that failed: else a link that comes and goes would be made anew without pause and without end.
    `on_give_up` is called once, with the error that ended it.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        prepare: Callable[[Session], Awaitable[None]],
        on_event: OnEvent,
        on_give_up: Callable[[DispatcherError], None],
        retries: int | None,
        first_pause_seconds: float,
        longest_pause_seconds: float,
    ) -> None:
        self._broker = broker
        self._name = name
        self._prepare = prepare
        self._on_event = on_event
        self._on_give_up = on_give_up
        self._retries = retries
        self._backoff = Backoff(first_pause_seconds, longest_pause_seconds)
        self._loop = asyncio.get_running_loop()
        self.lost = LostLinks(self._loop.time)
        self._session: Session | None = None
        self._up: asyncio.Future[Session] = self._loop.create_future()
        self._told: str | None = None  # the failure that was told last, None since the last success
        self._ending = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def session(self) -> Session | None:
        """The live session, None while disconnected."""
        self._forget_dead()  # the keeper's turn may not have come yet, but nobody may be handed a dead one
        return self._session

    @property
    def failure(self) -> str | None:
        """What the last attempt failed with; None if none has failed since the last success."""
        return self._told

    async def live(self) -> Session:
        """Wait for a live session. `ConnectionLost` once there will be none any more."""
        session = self.session
        if session is not None:
            return session
        if self._ending:
            raise self._none_any_more()
        return await asyncio.shield(self._up)

    @staticmethod
    def _none_any_more() -> ConnectionLost:
        return ConnectionLost("the server is closed, or closing without a connection")

    async def open(self) -> None:
        """Connect, trying until it succeeds, and keep the link up from then on.

        What trying again cannot help is raised: `ConfigError`, `AuthenticationError`, `StorageError`.
        """
        while True:
            try:
                session = await self._connect()
            except ConnectionLost as error:
                self._tell(error)
                await self._backoff.pause()
            else:
                break
        self._backoff.begin_anew()
        self._keeper = self._loop.create_task(self._keep(session), name="dispatcher link")

    def stop_reconnecting(self) -> None:
        """No new session from now on: who waits for one gets `ConnectionLost`."""
        self._ending = True
        if self._keeper is not None:
            self._keeper.cancel()
        if not self._up.done():
            self._up.set_exception(self._none_any_more())
            self._up.exception()  # read: nobody may be waiting for it

    async def close(self) -> None:
        """Close the session, if there is one. To be called after `stop_reconnecting`."""
        if self._keeper is not None:
            await asyncio.wait([self._keeper])  # it closes what it was just opening
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _forget_dead(self) -> None:
        if self._session is not None and self._session.closed.done():
            self._session = None
            self._up = self._loop.create_future()

    async def _connect(self) -> Session:
        # A session that cannot be prepared was none: its coming and going is not told.
        held: list[BrokerEvent] = []
        holding = True

        def on_event(event: BrokerEvent) -> None:
            if holding and isinstance(event, Connected | Disconnected):
                held.append(event)
            else:
                self._on_event(event)

        session = await self._broker.connect(name=self._name, on_event=on_event)
        try:
            await self._prepare(session)
        except BaseException:
            await session.close()
            raise
        self._told = None
        holding = False
        for event in held:
            self._on_event(event)
        self._session = session
        if not self._up.done():
            self._up.set_result(session)
        return session

    def _tell(self, error: DispatcherError) -> None:
        """One event a change: a broker that is away for hours fails alike a thousand times."""
        if str(error) != self._told:
            self._told = str(error)
            self._on_event(Disconnected(self._name, self._told))

    async def _keep(self, session: Session) -> None:
        """Wait for the session's end and connect anew; give up where that cannot succeed.

        It never waits in `live`, which only it resolves: a session may be lost again before anybody had it.
        """
        while True:
            await asyncio.wait([session.closed], timeout=self._backoff.bound_seconds)
            if not session.closed.done():
                self._backoff.begin_anew()
                await asyncio.wait([session.closed])
            error = session.closed.exception()
            self.lost.note()
            self._forget_dead()
            try:
                if not isinstance(error, ConnectionLost):
                    raise error or ConnectionLost("the session was closed")
                session = await self._reconnect(error)
            except DispatcherError as final:
                self._on_give_up(final)
                return
            except (
                Exception
            ) as fault:  # of ours: a server that silently had no connection any more would hang its users
                self._on_give_up(DispatcherError(f"the connection failed: {type(fault).__name__}: {fault}"))
                return

    async def _reconnect(self, error: DispatcherError) -> Session:
        backoff = self._backoff
        while self._retries is None or backoff.pauses < self._retries:
            await backoff.pause()
            try:
                return await self._connect()
            except StorageError:
                raise
            except (ConnectionLost, ConfigError) as failed:
                # After a first success a refusal may heal too: credentials rotate, a virtual host is restored.
                error = failed
                self._tell(failed)
        raise ConnectionLost(f"no connection to the broker after {backoff.pauses} retries; the last error: {error}")
