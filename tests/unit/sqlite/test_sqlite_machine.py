"""The embedded broker's transactions against a dictionary: random publishes, claims, settlements, kills and delays.

The engine is driven turn by turn without its thread, with a clock of the test, so that a failing run shrinks and
repeats.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlite_rig import message

from dispatcher.brokers.sqlite.engine import Engine
from dispatcher.brokers.sqlite.entries import Batch, Results, Window
from dispatcher.brokers.sqlite.place import Place
from dispatcher.errors import PublishRefused
from dispatcher.model.topology import Queue, Topology

BOUND = 6
LIMIT = 1
QUEUES = (Queue("plain", ("plain",)), Queue("bounded", ("bounded",), max_length=BOUND, delivery_limit=LIMIT))
PREFETCH = 3
SESSIONS = 2


class Kept:
    """What the model knows of one message. `holder`: a number of a session, None while it waits."""

    def __init__(self, order: int, queue: str, priority: int | None, due_ms: int) -> None:
        self.order = order
        self.queue = queue
        self.rank = 9 - (4 if priority is None else priority)
        self.due_ms = due_ms
        self.holder: int | None = None
        self.again = False
        self.deaths = 0


class Member:
    """One session: its engine, its two windows and what it holds."""

    def __init__(self, number: int, engine: Engine) -> None:
        self.number = number
        self.engine = engine
        self.windows = {queue.name: Window(None, queue.name, PREFETCH) for queue in QUEUES}
        self.held: dict[str, tuple[int, Window]] = {}


publishes = st.lists(
    st.tuples(
        st.sampled_from([queue.name for queue in QUEUES]),
        st.none() | st.integers(0, 9),
        st.sampled_from([0, 0, 0, 5, 6, 7, 50]),
    ),
    min_size=1,
    max_size=8,
)
members = st.integers(0, SESSIONS - 1)


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now_ms = 1_000_000
        self.model: dict[str, Kept] = {}
        self.count = 0
        self.order = 0
        self.members: list[Member] = []

    @initialize()
    def start(self) -> None:
        self.members = [self.join(number) for number in range(SESSIONS)]

    def join(self, number: int) -> Member:
        engine = Engine(Place(self.folder / "broker.db"), f"member {number}", now_ms=lambda: self.now_ms)
        member = Member(number, engine)
        engine.begin(Results())
        batch = Batch()
        batch.calls.append((partial(engine.declare, Topology("ex", QUEUES)), object()))  # type: ignore[arg-type]
        for window in member.windows.values():
            batch.calls.append((partial(engine.start_consumer, window), object()))  # type: ignore[arg-type]
        self.turn(member, batch)
        return member

    def turn(self, member: Member, batch: Batch) -> list[tuple[Any, Any, Exception | None]]:
        results = Results()
        member.engine.turn(batch, results)
        member.engine.tidy()
        for window, rows in results.deliveries:
            self.claimed(member, window, rows)
        return results.answers

    def waiting(self, queue: str) -> list[str]:
        """What may be delivered from a queue now, in order."""
        ready = [
            u
            for u, kept in self.model.items()
            if kept.queue == queue and kept.holder is None and kept.due_ms <= self.now_ms
        ]
        return sorted(ready, key=lambda uuid: (self.model[uuid].rank, self.model[uuid].order))

    def claimed(self, member: Member, window: Window, rows: Iterable[Any]) -> None:
        """Only the first of the queue may be handed out, as they are in the model, and never beyond the window."""
        rows = list(rows)
        uuids = [row[7] for row in rows]
        assert uuids == self.waiting(window.queue)[: len(uuids)]
        for row, uuid in zip(rows, uuids, strict=True):
            kept = self.model[uuid]
            assert (bool(row[1]), row[3]) == (kept.again, kept.deaths)
            kept.holder = member.number
            member.held[uuid] = (row[2], window)
        assert sum(held is window for _, held in member.held.values()) <= PREFETCH

    @rule(number=members, wanted=publishes)
    def publish(self, number: int, wanted: list[tuple[str, int | None, int]]) -> None:
        batch = Batch()
        for queue, priority, delay_ms in wanted:
            self.count += 1
            due_ms = self.now_ms + delay_ms if delay_ms else None
            published = message(
                b"x" * (self.count % 7), queue, uuid=f"u{self.count}", priority=priority, ready_at_ms=due_ms
            )
            batch.publishes.append((published, None, object()))  # type: ignore[arg-type]
        # What is refused depends on what waits before this batch; what is claimed, on what it adds.
        room = BOUND - sum(kept.queue == "bounded" and kept.holder is None for kept in self.model.values())
        expected: list[type | None] = []
        accepted: list[tuple[str, str, int | None, int]] = []
        for (queue, priority, delay_ms), (published, _, _) in zip(wanted, batch.publishes, strict=True):
            if queue == "bounded" and room <= 0:
                expected.append(PublishRefused)
                continue
            expected.append(None)
            room -= queue == "bounded"
            accepted.append((published.uuid, queue, priority, delay_ms))
        # Within one transaction what is due at once is numbered before what is delayed.
        for uuid, queue, priority, delay_ms in sorted(accepted, key=lambda one: one[3] > 0):
            self.order += 1
            self.model[uuid] = Kept(self.order, queue, priority, self.now_ms + delay_ms)
        answers = self.turn(self.members[number], batch)
        assert [None if error is None else type(error) for _, _, error in answers] == expected

    @rule(number=members, data=st.data())
    def settle(self, number: int, data: st.DataObject) -> None:
        member = self.members[number]
        fates = data.draw(
            st.fixed_dictionaries({uuid: st.sampled_from(["keep", "ack", "reject"]) for uuid in sorted(member.held)})
        )
        batch = Batch()
        for uuid, fate in fates.items():
            if fate == "ack":
                batch.acks.append(member.held.pop(uuid))
                del self.model[uuid]
            elif fate == "reject":
                batch.rejects.append(member.held.pop(uuid))
                self.model[uuid].holder = None
                self.model[uuid].again = True
        if batch:
            self.turn(member, batch)

    @rule(number=members)
    def wake(self, number: int) -> None:
        member = self.members[number]
        wanted = {
            queue: self.waiting(queue)
            for queue, window in member.windows.items()
            if sum(held is window for _, held in member.held.values()) < PREFETCH
        }
        before = len(member.held)
        self.turn(member, Batch())
        assert len(member.held) > before or not any(wanted.values()), "a wake-up with room must take something"

    @rule(ms=st.sampled_from([1, 2, 5, 6, 60]))
    def pass_time(self, ms: int) -> None:
        self.now_ms += ms

    @rule(number=members)
    def kill(self, number: int) -> None:
        """The process dies; the next one to join counts a death for what it held."""
        member = self.members[number]
        for uuid in member.held:
            kept = self.model[uuid]
            kept.holder, kept.again, kept.deaths = None, True, kept.deaths + 1
            if kept.queue == "bounded" and kept.deaths > LIMIT:
                kept.queue, kept.again, kept.deaths = "bounded.dead", False, 0
        member.engine.close()
        self.members[number] = self.join(number)

    @rule(number=members)
    def leave(self, number: int) -> None:
        member = self.members[number]
        for uuid in member.held:
            self.model[uuid].holder, self.model[uuid].again = None, True
        member.engine.leave(Results())
        member.engine.close()
        self.members[number] = self.join(number)

    @precondition(lambda self: bool(self.members))
    @invariant()
    def the_file_is_as_the_model(self) -> None:
        execute = self.members[0].engine.store.connection.execute
        rows = execute(
            "SELECT m.uuid, q.name,"
            " (SELECT count(*) FROM ready r WHERE r.queue_id = m.queue_id AND r.rank = m.rank AND r.id = m.id),"
            " (SELECT count(*) FROM delayed d WHERE d.id = m.id AND d.queue_id = m.queue_id),"
            " (SELECT count(*) FROM held h WHERE h.id = m.id) FROM messages m JOIN queues q ON q.id = m.queue_id"
        ).fetchall()
        assert {row[0] for row in rows} == set(self.model)
        for uuid, queue, ready, delayed, held in rows:
            kept = self.model[uuid]
            assert queue == kept.queue
            assert (ready + delayed, held) == ((0, 1) if kept.holder is not None else (1, 0))
        places = execute(
            "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM delayed) + (SELECT count(*) FROM held)"
        )
        assert places.fetchone() == (len(self.model),)
        bounded = sum(kept.queue == "bounded" and kept.holder is None for kept in self.model.values())
        assert execute("SELECT waiting FROM queues WHERE name = 'bounded'").fetchone() == (bounded,)

    def teardown(self) -> None:
        try:
            if self.members:
                execute = self.members[0].engine.store.connection.execute
                assert execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            for member in self.members:
                member.engine.close()
            shutil.rmtree(self.folder)


BrokerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBrokerMachine = BrokerMachine.TestCase
