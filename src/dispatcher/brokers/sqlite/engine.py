"""What a session's writer thread does in the file, turn by turn: transactions, and the duties of a quarter second.

Called by that thread alone. A turn answers for every operation of its batch, or keeps it for a later turn, or raises
what ends the session. One operation that cannot be done fails alone: its neighbours of the same transaction go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import BrokerBlocked, DispatcherError, PublishRefused, StorageFull
from ...model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, Topology
from ..base import SessionsReleased, TopologyDiffers
from . import members
from .cancels import CancelTable
from .catalog import declare
from .entries import Batch, Publish, Results, Window
from .failpoints import failpoint
from .faults import is_busy, is_full, sqlite
from .file import Database
from .liveness import Inheritance
from .place import Place
from .space import Space
from .store import Store, Work, wall_clock_ms
from .wake import Kicker, make_waker

__all__ = ["Engine"]

TICK_SECONDS = 0.25
REAP_SECONDS = 0.5
HEARTBEAT_SECONDS = 20.0
STALL_SECONDS = 5.0
"""A session that could not see to its duties for longer believes no lease for a while, see `_note_stall`."""
SHARED_LOOK_SECONDS = 0.005
"""When to look again at what was left for other consumers: they may all have their hands full."""

RETURNS = frozenset({DEAD_EXCHANGE, DELAY_EXCHANGE})
"""Where the copies go by which a delivery is retried or parked: each is followed by the ack of what it replaces."""

NEVER = float("inf")

T = TypeVar("T")


class Engine:
    """One session in the file. Opening it may raise any `StorageError`, `ConfigError` or SQLite error."""

    def __init__(self, place: Place, name: str, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        place.prepare()
        self._place = place
        self._space = Space(place.companion, place.inside("ballast"))
        self._full_at_start = not self._space.restore()
        self._kicker = Kicker()
        self.kept = Batch()
        """What could not be committed yet; the next tick tries again."""
        with contextlib.ExitStack() as undo:
            inheritance = Inheritance()
            undo.callback(inheritance.end)
            self._database = self._with_room(lambda: Database(place, inheritance, self._space.checkpoint_pages))
            undo.callback(self._database.close)
            self._member = self._with_room(lambda: members.join(self._database, inheritance, name))
            undo.callback(self._member.lock.close)
            self.waker = make_waker(place.inside(members.fifo_name(self._member.token)))
            undo.callback(self.waker.close)
            self.store = Store(self._database.connection, self._member.id, now_ms)
            self.cancels = CancelTable(self._database.connection, now_ms)
            self._undo = undo.pop_all()
        self._next_tick = self._next_reap = self._next_heartbeat = self._leases_from = 0.0
        self._look_at = NEVER
        self._idle = True
        self._unsynced = False

    def _with_room(self, open: Callable[[], T]) -> T:
        """Do a step of opening. A full disk must not stop it: what a new worker acks is what makes room."""
        try:
            return open()
        except (StorageFull, sqlite().Error) as error:
            if not isinstance(error, StorageFull) and not is_full(error):
                raise
            self._full_at_start = True
            self._space.give_way()
            return open()

    @property
    def is_blocked(self) -> bool:
        """Whether publishes are refused, because the disk is full."""
        return self._space.blocked

    def begin(self, results: Results) -> None:
        """The first duties: see what state the file is in, release the dead."""
        now = time.monotonic()
        if self._full_at_start:
            results.events += self._space.ran_full(now)
        self._next_tick = now + TICK_SECONDS
        self._next_heartbeat = self._leases_from = now + HEARTBEAT_SECONDS
        self._unhurried(lambda: self._reap(now, results))

    def wait(self) -> None:
        """Sleep until woken, or until the next thing to do by the clock."""
        now = time.monotonic()
        due_ms = self.store.next_due_ms if self.store.windows else None  # only looks for windows keep it true
        due = NEVER if due_ms is None else (due_ms - self.store.now_ms()) / 1000.0
        self.waker.wait(min(self._next_tick - now, self._look_at - now, due))

    def turn(self, batch: Batch, results: Results) -> None:
        """Commit `batch` and claim what there is room for."""
        now = time.monotonic()
        if now >= self._next_tick:
            self._tick(now, batch, results)
        self._look_at = NEVER
        if batch:
            self._idle = False
            self._transact(batch, results)
        elif self.store.windows and self.store.worth_claiming():
            self._transact(batch, results)

    def tidy(self) -> None:
        """What can be done after the answers were given: keep the log short."""
        self._unhurried(self._database.checkpoint_if_due)

    # --- one transaction ----------------------------------------------------------------------------------------

    def _transact(self, batch: Batch, results: Results) -> None:
        if batch.publishes:
            self._refuse_while_blocked(batch, results)
            if not batch:
                return
        try:
            self._commit(batch, results)
        except sqlite().Error as error:
            self.store.next_due_ms = None  # what is due cannot be had now: the next tick looks again
            if is_busy(error):
                self.kept.take(batch)  # a foreign program holds the file; its callers keep their own deadlines
            elif is_full(error):
                self._ran_full(batch, results)
            elif isinstance(error, sqlite().ProgrammingError | sqlite().InterfaceError | sqlite().DataError):
                self._one_by_one(batch, results, error)
            else:
                raise
        except (UnicodeEncodeError, OverflowError) as error:
            self._one_by_one(batch, results, error)

    def _commit(self, batch: Batch, results: Results, *, claims: bool = True) -> None:
        store, database = self.store, self._database
        windows = list(store.windows)
        answers: list[tuple[Any, Any, Exception | None]] = []
        # Acks need not wait for the disk: a power cut that undoes some runs their tasks again. The tick syncs them.
        database.begin(relaxed=not (batch.publishes or batch.rejects or batch.calls))
        try:
            work = store.refresh()
            errors = store.insert(batch.publishes, work) if batch.publishes else ()
            if batch.acks:
                store.ack(batch.acks, work)
            if batch.rejects:
                store.hand_back(batch.rejects, work)
            for run, future in batch.calls:
                answers.append((future, *self._call(run, work)))
            if claims and store.windows:
                store.claim(work)
            store.finish(work)
            self._failpoints("before", batch, work)
            database.commit(work.pages)
        except BaseException:
            store.windows = windows
            store.forget_catalog()
            database.rollback()
            raise
        self._failpoints("after", batch, work)
        if batch.publishes:
            self._place.check()  # what was written into a file that is gone must not be called accepted
        self._unsynced = database.relaxed and (self._unsynced or bool(batch.acks))
        store.committed(work)
        self._after_commit(work)
        results.answers += [(publish[2], None, error) for publish, error in zip(batch.publishes, errors, strict=True)]
        results.answers += answers
        results.deliveries += work.claimed
        if work.claimed:
            results.cancels += self.cancels.news()  # what was cancelled before it was claimed does not begin

    def _call(self, run: Any, work: Work) -> tuple[Any, Exception | None]:
        execute = self._database.connection.execute
        execute("SAVEPOINT call")
        try:
            return run(work), None
        except DispatcherError as error:
            execute("ROLLBACK TO call")
            return None, error
        finally:
            execute("RELEASE call")

    def _failpoints(self, when: str, batch: Batch, work: Work) -> None:
        if batch.publishes:
            failpoint(f"publish_{when}_commit")
        if batch.acks or batch.rejects:
            failpoint(f"settle_{when}_commit")
        if work.claimed:
            failpoint(f"claim_{when}_commit")

    def _after_commit(self, work: Work) -> None:
        if work.more:
            self._look_at = 0.0
        elif work.limited:
            self._look_at = time.monotonic() + SHARED_LOOK_SECONDS
        queues = work.kicks | work.timers
        if queues:
            self._kick(queues)
        if work.changed_catalog:
            self._kicker.keep({self._fifo(session) for session in self.store.catalog.sessions})

    def _kick(self, queues: set[int]) -> None:
        catalog = self.store.catalog
        sessions = {session for queue in queues for session in catalog.consumers.get(queue, ())}
        sessions.discard(self._member.id)
        self._kicker.kick([self._fifo(session) for session in sessions if session in catalog.sessions])

    def _fifo(self, session: int) -> str:
        return self._place.inside(members.fifo_name(self.store.catalog.sessions[session].token))

    # --- what can go wrong --------------------------------------------------------------------------------------

    def _refuse_while_blocked(self, batch: Batch, results: Results) -> None:
        results.events += self._space.check(time.monotonic())
        if self._space.blocked:
            # Copies pass: refused, each would keep its delivery's slot, and nothing would be acked to make room any more.
            self._refuse([publish for publish in batch.publishes if publish[0].exchange not in RETURNS], results)
            batch.publishes = [publish for publish in batch.publishes if publish[0].exchange in RETURNS]

    def _refuse(self, publishes: list[Publish], results: Results) -> None:
        for message, _, future in publishes:
            error = BrokerBlocked(
                f"the disk of {self._place.path} is full, or nearly; make room on it", uuid=message.uuid
            )
            results.answers.append((future, None, error))

    def _ran_full(self, batch: Batch, results: Results) -> None:
        """Nothing comes in any more, but the rest must pass, settlements above all: they are what makes room."""
        results.events += self._space.ran_full(time.monotonic())
        self._refuse(batch.publishes, results)
        batch.publishes = []
        if not batch:
            return
        try:
            self._database.checkpoint()
            self._commit(batch, results, claims=False)
            self._look_at = 0.0
        except sqlite().Error as again:
            if not is_full(again) and not is_busy(again):
                raise
            error = f"{self._place.path}: its disk is full; make room on it"
            results.answers += [(future, None, StorageFull(error, path=self._place.path)) for _, future in batch.calls]
            batch.calls = []
            self.kept.take(batch)

    def _one_by_one(self, batch: Batch, results: Results, error: Exception) -> None:
        """Something in `batch` has a value that SQLite cannot store: find out what, and let the rest pass."""
        if len(batch) > 1 and (batch.publishes or batch.calls):
            for single in batch.singles():
                self._transact(single, results)
        elif batch.publishes:
            message, _, future = batch.publishes[0]
            refused = PublishRefused(f"message {message.uuid!r} cannot be stored: {error}", uuid=message.uuid)
            results.answers.append((future, None, refused))
        elif batch.calls:
            results.answers.append((batch.calls[0][1], None, error))
        else:
            raise error

    # --- by the clock -------------------------------------------------------------------------------------------

    def _tick(self, now: float, batch: Batch, results: Results) -> None:
        due, self._next_tick = self._next_tick, now + TICK_SECONDS
        self._place.check()
        self.store.look()
        results.cancels += self.cancels.news()
        kept, self.kept = self.kept, Batch()
        batch.take(kept)
        if self._space.blocked:
            results.events += self._space.check(now)
        if self._unsynced or now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self._unhurried(self._heartbeat)
        self._note_stall(due)
        if self.store.windows and now >= self._next_reap:
            self._unhurried(lambda: self._reap(now, results))
        if self._space.blocked:
            self._unhurried(lambda: self._database.vacuum(eager=True))
        elif self._idle and not batch:
            self._unhurried(self._database.vacuum)
        self._idle = True

    def _unhurried(self, duty: Callable[[], object]) -> None:
        """Do what nobody waits for: a full or busy disk puts it off."""
        try:
            duty()
        except sqlite().Error as error:
            self._database.rollback()
            if not is_full(error) and not is_busy(error):
                raise

    def _heartbeat(self) -> None:
        """Renew the lease; to disk where acks wait for that."""
        self._database.begin(relaxed=not self._unsynced)
        members.renew(self._database.connection, self._member)
        self._database.commit(1)
        self._unsynced = False

    def _note_stall(self, due: float) -> None:
        """`due`: when this tick should have been.

        Whoever kept this session waiting (a process that was stopped with the write lock in its hand, a disk that
        hung) kept the others waiting too. Their leases are over for no fault of theirs: let them renew first.
        """
        now = time.monotonic()
        if now - due > STALL_SECONDS:
            self._leases_from = now + HEARTBEAT_SECONDS

    def _reap(self, now: float, results: Results) -> None:
        self._next_reap = now + REAP_SECONDS
        dead = members.find_dead(self._place, self.store, self._member, by_lease=now >= self._leases_from)
        if not dead:
            return
        try:
            self._release(dead, results)
        finally:
            for one in dead:
                if one.lock is not None:
                    one.lock.close()

    def _release(self, dead: list[members.Dead], results: Results) -> None:
        self._database.begin()
        try:
            work = self.store.refresh()
            found = [(one.session.token, members.release(self.store, one, work)) for one in dead]
            self.store.finish(work)
            failpoint("reap_before_commit")
            self._database.commit(work.pages)
        except BaseException:
            self.store.forget_catalog()
            self._database.rollback()
            raise
        for token, released in found:
            if released is not None:
                members.drop_files(self._place, token)
        self._after_commit(work)
        holders = [one for _, one in found if one is not None and (one.messages or one.consumed)]
        if holders:
            messages, letters = (sum(getattr(one, what) for one in holders) for what in ("messages", "dead_letters"))
            results.events.append(SessionsReleased(len(holders), messages, letters))

    # --- calls: rare things done inside a transaction -------------------------------------------------------------

    def declare(self, topology: Topology, work: Work) -> list[TopologyDiffers]:
        differs, created = declare(self._database.connection, self.store.catalog, topology)
        if created:
            self.store.changed_catalog(work)
        return differs

    def start_consumer(self, window: Window, work: Work) -> None:
        window.queue_id = self.store.catalog.queue(window.queue).id
        row = self._database.connection.execute(
            "INSERT INTO consumers (session, queue_id) VALUES (?, ?)", (self._member.id, window.queue_id)
        )
        window.key = row.lastrowid
        self.store.windows.append(window)
        self.store.changed_catalog(work, self.store.catalog.with_consumer(window.queue_id, self._member.id))

    def stop_consumer(self, window: Window, work: Work) -> None:
        found = self._database.connection.execute("DELETE FROM consumers WHERE id = ?", (window.key,)).rowcount
        self.store.windows = [other for other in self.store.windows if other is not window]
        if found:  # it is not there if its start failed
            self.store.changed_catalog(work, self.store.catalog.without_consumer(window.queue_id, self._member.id))

    # --- the end ------------------------------------------------------------------------------------------------

    def leave(self, results: Results) -> None:
        """Do what was kept, hand back what is held, delete this session's rows and files."""
        kept, self.kept = self.kept, Batch()
        if kept:
            self._transact(kept, results)
        try:
            self._leave()
        except sqlite().Error as error:
            if not is_full(error):
                raise
            results.events += self._space.ran_full(time.monotonic())
            self._leave()

    def _leave(self) -> None:
        self._database.begin()
        try:
            work = self.store.refresh()
            members.leave(self.store, work)
            self.store.finish(work)
            self._database.commit(work.pages)
        except BaseException:
            self._database.rollback()
            raise
        self._kick(work.kicks)
        members.drop_files(self._place, self._member.token)

    def close(self) -> None:
        """Let go of the file."""
        self._kicker.close()
        self._undo.close()
