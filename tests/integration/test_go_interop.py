"""Python and Go on one RabbitMQ queue, which the Go side declared: both send, both work, neither disturbs the other.

The Go side is `GoSide` and `GoWorker`, on a client that shares no code with ours.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from go_side import GoSide, GoWorker, Refused
from server_bench import Recorder

from dispatcher import (
    Queue,
    RetryPolicy,
    Server,
    ServerConfig,
    Snooze,
    Task,
    TaskArgument,
    TaskConfig,
    WorkerConfig,
    current_task,
)
from dispatcher.types import Float32, Int8, Int16, Int32, Int64, Uint, Uint8, Uint16, Uint32, Uint64

EXCHANGE, QUEUE, KEY = "vec_ex", "vec_queue", "vec_rk"
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "interop" / "go-messages.json").read_text(encoding="utf-8")
)


@pytest.fixture
def go(vhost_url: str) -> Iterator[GoSide]:
    """A Go program that was here first: exchange, queue and binding are its own."""
    side = GoSide(vhost_url, EXCHANGE)
    side.declare(QUEUE, KEY)
    yield side
    side.close()


@pytest.fixture
async def server(vhost_url: str, recorder: Recorder, go: GoSide) -> AsyncIterator[Server]:
    """A Python program with the Go program's names, in the mode that creates what is not there."""
    config = ServerConfig(
        url=vhost_url,
        exchange=EXCHANGE,
        default_routing_key=KEY,
        init_queues=[Queue(QUEUE, [KEY], type="classic")],
        observers=[recorder],
    )
    async with await Server.connect(config) as server:
        yield server
        await server.close(grace_seconds=0)


async def start(server: Server, *, name: str = "python", limit: int = 8, **tasks: TaskConfig) -> None:
    worker = await server.new_worker(WorkerConfig(name, QUEUE, (KEY,), limit), tasks)
    await worker.start()


@pytest.fixture
def go_worker(vhost_url: str, go: GoSide) -> Iterator[Callable[..., GoWorker]]:
    """Starts Go workers, which end with the test."""
    started: list[GoWorker] = []

    def begin(limit: int = 1, **tasks: Callable[..., None]) -> GoWorker:
        started.append(GoWorker(vhost_url, QUEUE, limit, **tasks))
        return started[-1]

    yield begin
    for worker in started:
        worker.stop()


def signatures(seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> dict[str, TaskConfig]:
    """The tasks of the vectors with the parameters that a Python program gives them."""

    def note(*args: Any) -> None:
        current = current_task()
        headers = {name: value for name, value in current.headers.items() if not name.startswith("x-dispatcher-")}
        seen.append((current.name, args, headers))

    async def task_1(text: str, number: int) -> None:
        note(text, number)

    async def noargs() -> None:
        note()

    async def all_types(
        a: bool,
        b: str,
        c: int,
        d: Int8,
        e: Int16,
        f: Int32,
        g: Int64,
        h: Uint,
        i: Uint8,
        j: Uint16,
        k: Uint32,
        m: Uint64,
        n: Float32,
        o: float,
    ) -> None:
        note(a, b, c, d, e, f, g, h, i, j, k, m, n, o)

    async def floats(a: float, b: float, c: float, d: float, e: float, f: float, g: Float32, h: Float32) -> None:
        note(a, b, c, d, e, f, g, h)

    async def with_headers(text: str) -> None:
        note(text)

    async def generated_uuid(flag: bool) -> None:
        note(flag)

    functions = (task_1, noargs, all_types, floats, with_headers, generated_uuid)
    return {function.__name__: TaskConfig(function) for function in functions}


async def test_what_a_go_program_sends_arrives_exactly(go: GoSide, server: Server, recorder: Recorder) -> None:
    """Every message that was taken off the wire of a Go sender runs with its exact values, types and headers."""
    for vector in VECTORS:
        go.publish(KEY, vector["body"], vector["headers"])
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    await start(server, limit=1, **signatures(seen))
    done = await recorder.wait_for("task.succeeded", len(VECTORS))
    assert [event.uuid for event in done] == [json.loads(vector["body"])["uuid"] for vector in VECTORS]
    for vector, (name, args, headers) in zip(VECTORS, seen, strict=True):
        assert name == json.loads(vector["body"])["name"]
        assert list(args) == vector["python_args"]
        assert [type(value).__name__ for value in args] == vector["python_types"]
        assert headers == (vector["headers"] or {})


async def test_what_the_go_program_declared_is_used_as_it_is(go: GoSide, server: Server, recorder: Recorder) -> None:
    """Nothing differs from what Python asks for with `type="classic"`, and nothing of it was touched."""
    await start(server)
    assert recorder.named("topology.differs") == []
    go.declare(QUEUE, KEY)


async def test_a_queue_of_another_type_is_used_and_told_once(go: GoSide, vhost_url: str, recorder: Recorder) -> None:
    """A Python program that asks for a quorum queue works on the classic one that is there."""
    config = ServerConfig(
        url=vhost_url,
        exchange=EXCHANGE,
        default_routing_key=KEY,
        init_queues=[Queue(QUEUE, [KEY])],
        observers=[recorder],
    )
    ran = asyncio.Event()

    async def task() -> None:
        ran.set()

    async with await Server.connect(config) as server:
        await start(server, task=TaskConfig(task))
        await server.publish(Task("task"))
        await recorder.wait_for("task.succeeded")
    told = [event.what for event in recorder.named("topology.differs")]
    assert told and len(told) == len(set(told))
    assert all(QUEUE in what for what in told)


async def test_the_go_program_may_come_second(vhost_url: str) -> None:
    """It finds its own exchange and queue in what Python declared as classic; a quorum queue it refuses."""
    config = ServerConfig(
        url=vhost_url,
        exchange=EXCHANGE,
        default_routing_key=KEY,
        init_queues=[Queue(QUEUE, [KEY], type="classic"), Queue("ours", ["ours"])],
    )
    async with await Server.connect(config):
        pass
    go = GoSide(vhost_url, EXCHANGE)
    try:
        go.declare(QUEUE, KEY)
        with pytest.raises(Refused, match="406 PRECONDITION_FAILED"):
            go.declare("ours")
    finally:
        go.close()


@pytest.mark.parametrize(
    ("task", "body"),
    [
        (
            Task("task_1", [TaskArgument("string", 'é "<&>" \n'), TaskArgument("int", -1)], uuid="u1"),
            '{"uuid":"u1","name":"task_1","args":[{"type":"string","value":"é \\"<&>\\" \\n"},{"type":"int","value":-1}]}',
        ),
        (Task("noargs", uuid="u2"), '{"uuid":"u2","name":"noargs","args":[]}'),
        (
            Task("wide", [TaskArgument("uint64", 2**64 - 1), TaskArgument("float64", 0.1)], uuid="u3"),
            '{"uuid":"u3","name":"wide","args":[{"type":"uint64","value":18446744073709551615},{"type":"float64","value":0.1}]}',
        ),
    ],
    ids=["text", "no-arguments", "wide"],
)
async def test_what_python_sends_is_what_a_go_program_reads(go: GoSide, server: Server, task: Task, body: str) -> None:
    """The body is the wire format letter by letter, and no property changes what a Go worker does with it."""
    await server.publish(task)
    found = go.take(QUEUE)
    assert found.body.decode() == body
    assert (found.exchange, found.routing_key, found.redelivered) == (EXCHANGE, KEY, False)
    properties = found.other_properties
    assert (properties.pop("content_type"), properties.pop("delivery_mode")) == ("application/json", 2)
    assert properties.pop("message_id") == task.id
    assert set(properties) <= {"priority"}
    assert {name.startswith("x-dispatcher-") for name in found.headers} == {True}


async def test_headers_of_every_type_reach_a_go_program(go: GoSide, server: Server) -> None:
    """What a user puts into headers is decoded by another client as it was (floats aside, which that one cuts)."""
    headers = {"text": "é", "n": -(2**40), "b": True, "none": None, "list": [1, "two"], "table": {"x": "y"}}
    await server.publish(Task("task", headers=headers))
    found = go.take(QUEUE).headers
    assert {name: value for name, value in found.items() if name in headers} == headers


async def test_both_sides_work_on_one_queue(
    go: GoSide, go_worker: Callable[..., GoWorker], server: Server, recorder: Recorder
) -> None:
    """Of what both sides send each side's worker gets some, and everything is done once."""
    here: list[int] = []
    there: list[int] = []

    async def count(number: int) -> None:
        here.append(number)

    worker = go_worker(1, count=there.append)
    await start(server, limit=1, count=TaskConfig(count))
    for number in range(100):
        go.publish(KEY, f'{{"uuid":"go-{number}","name":"count","args":[{{"type":"int","value":{number}}}]}}')
    await server.publish_many(Task("count", [TaskArgument("int", number)]) for number in range(100, 200))
    async with asyncio.timeout(30):
        while len(here) + len(there) < 200:
            await asyncio.sleep(0.01)
    assert sorted(here + there) == list(range(200))
    assert here and there
    await asyncio.to_thread(worker.wait_for, len(there))


async def test_a_retry_comes_back_to_the_go_programs_queue(
    go: GoSide, go_worker: Callable[..., GoWorker], server: Server, recorder: Recorder
) -> None:
    """The copy has the same body, so that a Go worker runs it; what Python knows of it is in headers."""

    async def task(text: str) -> None:
        raise ValueError("not here")

    policy = RetryPolicy(max_attempts=2, base_seconds=0.5, jitter=False)
    await start(server, task=TaskConfig(task, retry=policy))
    body = '{"uuid":"u","name":"task","args":[{"type":"string","value":"\\u003cb\\u003e"}]}'
    go.publish(KEY, body, {"mine": 1})
    await recorder.wait_for("task.retried")
    await server.get_worker_by_name("python").close()
    found = await asyncio.to_thread(go.take, QUEUE)
    assert (found.body.decode(), found.headers["mine"], found.headers["x-dispatcher-attempt"]) == (body, 1, 2)
    assert (found.properties.content_type, found.properties.delivery_mode) == ("application/json", 2)
    assert found.properties.expiration is None

    ran: list[str] = []
    worker = go_worker(1, task=ran.append)
    go.publish(KEY, body, found.headers)
    await asyncio.to_thread(worker.wait_for, 1)
    assert ran == ["<b>"]


async def test_what_waits_and_what_is_dead_is_out_of_the_go_programs_way(
    go: GoSide, go_worker: Callable[..., GoWorker], server: Server, recorder: Recorder
) -> None:
    """Delayed tasks, snoozes and dead letters are in queues of ours; the Go worker goes on beside them."""

    async def fails() -> None:
        raise ValueError("to the dead letters")

    async def later() -> None:
        raise Snooze(3600)

    await start(server, fails=TaskConfig(fails), later=TaskConfig(later))
    for name in ("fails", "later"):
        await server.publish(Task(name))
    await server.publish(Task("count", [TaskArgument("int", 0)], delay_seconds=3600))
    await recorder.wait_for("task.dead_lettered")
    await recorder.wait_for("task.snoozed")
    await server.get_worker_by_name("python").close()
    ran: list[int] = []
    worker = go_worker(8, count=ran.append)
    await server.publish(Task("count", [TaskArgument("int", 1)], delay_seconds=0.2))
    go.publish(KEY, '{"uuid":"u","name":"count","args":[{"type":"int","value":2}]}')
    await asyncio.to_thread(worker.wait_for, 2)
    assert sorted(ran) == [1, 2]
    assert worker.handed_back == 0
    letters = [letter async for letter in server.inspector.browse(QUEUE + ".dead")]
    assert [letter.message.headers["x-dispatcher-reason"] for letter in letters if letter.message.headers] == ["failed"]


async def test_a_task_that_only_go_knows_ends_up_there(
    go: GoSide, go_worker: Callable[..., GoWorker], server: Server, recorder: Recorder
) -> None:
    """Python puts it off and offers it again, without a hot loop, until a Go worker takes it."""
    await start(server)
    go.publish(KEY, '{"uuid":"u","name":"of_go","args":[{"type":"int","value":7}]}')
    (offered,) = await recorder.wait_for("task.unknown")
    assert offered.delay_seconds >= 1
    ran: list[int] = []
    worker = go_worker(1, of_go=ran.append)
    await asyncio.to_thread(worker.wait_for, 1)
    assert ran == [7]
    assert len(recorder.named("task.unknown")) < 10
    assert recorder.named("task.dead_lettered") == []


async def test_a_task_that_only_python_knows_ends_up_there(
    go_worker: Callable[..., GoWorker], server: Server, recorder: Recorder
) -> None:
    """A Go worker hands back whatever copy it is given in turn: counted once in this worker, not until the limit."""
    seen: list[tuple[int, bool]] = []

    async def of_python() -> None:
        current = current_task()
        seen.append((current.headers["x-dispatcher-redeliveries"], current.redelivered))

    worker = go_worker(1)
    await server.publish(Task("of_python"))
    async with asyncio.timeout(30):
        while not worker.handed_back:
            await asyncio.sleep(0.01)
    await start(server, of_python=TaskConfig(of_python))
    await recorder.wait_for("task.succeeded")
    await recorder.wait_for("task.redelivery_counted")
    assert seen == [(1, True)]
    assert len(recorder.named("task.redelivery_counted")) == 1


async def test_a_hand_back_by_a_go_worker_is_counted(go: GoSide, server: Server, recorder: Recorder) -> None:
    """Nobody can tell it from the death of a worker: the task runs from a copy that has the count."""
    seen: list[tuple[int, bool]] = []

    async def task() -> None:
        current = current_task()
        seen.append((current.headers["x-dispatcher-redeliveries"], current.redelivered))

    await server.publish(Task("task", uuid="u"))
    go.hand_back(QUEUE)
    await start(server, task=TaskConfig(task))
    await recorder.wait_for("task.succeeded")
    (counted,) = await recorder.wait_for("task.redelivery_counted")  # the copy may be faster than its confirm
    assert (counted.uuid, counted.redeliveries) == ("u", 1)
    assert seen == [(1, True)]
