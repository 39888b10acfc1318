"""The three least-privilege users of RabbitMQ at work: each can do all of its job, and nothing besides.

The fates of deliveries and the conformance suite run as the work role too, where they are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from amqp_wire import Wire, soon, wire
from cli_run import Cli
from rabbitmq_admin import Admin
from rabbitmq_roles import ROLES, Roles
from server_bench import DEADLINE_SECONDS, RabbitHands, Recorder, eventually

from dispatcher import (
    Dispatcher,
    PublishRefused,
    RetryPolicy,
    Server,
    ServerConfig,
    Task,
    TaskConfig,
    TopologyMismatch,
    Unroutable,
    WorkerConfig,
    current_task,
)
from dispatcher.amqp.errors import AccessRefused
from dispatcher.amqp.methods import (
    BasicConsume,
    BasicGet,
    ExchangeBind,
    ExchangeDeclare,
    ExchangeDelete,
    Method,
    QueueBind,
    QueueDeclare,
    QueueDelete,
    QueuePurge,
    QueueUnbind,
)
from dispatcher.brokers import open_broker
from dispatcher.brokers.base import TopologyDiffers
from dispatcher.brokers.rabbitmq.plan import plan_of, roles
from dispatcher.model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, DeclareMode, Queue, Topology

pytestmark = pytest.mark.timeout(180)

TOPOLOGY = Topology(
    "shop",
    (
        Queue("emails", ("emails",)),
        Queue("old", ("old",), type="classic", max_priority=9),
        Queue("full", ("full",), type="classic", max_length=1),
    ),
)
NOTHING = ("^$", "^$", "^$")
STRANGE = ("another", "amq.direct", "emails2", "shop2", "dispatcher", "dispatcher.delays")


@pytest.fixture
async def users(role_users: Roles) -> Roles:
    """The three users, and what the first of them has created."""
    await role_users.install(TOPOLOGY)
    return role_users


@pytest.fixture
def hands(broker_admin: Admin, vhost: str, vhost_url: str) -> RabbitHands:
    return RabbitHands(broker_admin, vhost, vhost_url)


def config(url: str, declare: DeclareMode = "verify", *observers: Recorder, **settings: Any) -> ServerConfig:
    return ServerConfig(
        url=url,
        exchange="shop",
        default_routing_key="emails",
        init_queues=TOPOLOGY.queues,
        declare=declare,
        observers=observers,
        **settings,
    )


async def ready(hands: RabbitHands, queue: str) -> int:
    return (await asyncio.to_thread(hands.admin.counts, hands.vhost))[queue][0]


# --- each does its job ----------------------------------------------------------------------------------------------


async def test_the_install_role_creates_and_verifies(users: Roles) -> None:
    """Again and in each mode; to it alone the differences are told."""
    told: list[Any] = []
    session = await open_broker(users.url("install")).connect(name="install", on_event=told.append)
    for mode in ("create", "verify", "never"):
        await soon(session.declare(Topology(TOPOLOGY.exchange, TOPOLOGY.queues, mode)))
    assert not [event for event in told if isinstance(event, TopologyDiffers)]
    await soon(session.declare(Topology("shop", (Queue("emails", ("emails",), delivery_limit=3),))))
    assert [event.what for event in told if isinstance(event, TopologyDiffers)] == ["delivery_limit of queue 'emails'"]
    await session.close()


@pytest.mark.parametrize("declare", ["create", "verify", "never"])
async def test_the_publish_role_sends(users: Roles, hands: RabbitHands, declare: DeclareMode) -> None:
    """One, many, delayed, with a priority; and learns of what no queue takes and of what is full."""
    async with await Server.connect(config(users.url("publish"), declare, publish_timeout_seconds=3)) as server:
        await server.publish(Task("task"))
        await server.publish_many(Task("task") for _ in range(50))
        await server.publish(Task("task", delay_seconds=0.25))
        await server.publish(Task("task", delay_seconds=0.25, priority=9))
        await eventually(lambda: ready(hands, "emails"), 53)
        await server.publish(Task("task", routing_key="full"))
        with pytest.raises(Unroutable):
            await server.publish(Task("task", routing_key="nowhere"))
        with pytest.raises(PublishRefused, match="maximum length"):
            await server.publish(Task("task", routing_key="full"))


async def test_an_app_sends_as_the_publish_role(users: Roles, hands: RabbitHands) -> None:
    """From a loop and from synchronous code."""
    app = Dispatcher(users.url("publish"), exchange="shop", declare="verify")

    @app.task(queue="emails")
    def task(number: int) -> None: ...

    async with app:
        await task.send(1)
    await asyncio.to_thread(task.send_sync, 2)
    await asyncio.to_thread(app.close_sync)
    await eventually(lambda: ready(hands, "emails"), 2)


@pytest.mark.parametrize("declare", ["verify", "never"])
async def test_both_come_back_after_a_cut(
    users: Roles, hands: RabbitHands, recorder: Recorder, declare: DeclareMode
) -> None:
    """Who sends and who works reconnect by themselves, and a task that failed before the cut has its retry after it."""
    failed: set[str] = set()

    async def task() -> None:
        if current_task().attempt == 1:
            failed.add(current_task().uuid)
            raise ValueError("once")

    policy = RetryPolicy(max_attempts=2, base_seconds=0.3, jitter=False)
    pauses = {"reconnection_interval_seconds": 0.01, "reconnection_max_interval_seconds": 0.1}
    async with (
        await Server.connect(config(users.url("publish"), declare, **pauses)) as sender,
        await Server.connect(config(users.url("work"), declare, recorder, **pauses)) as server,
    ):
        worker = await server.new_worker(WorkerConfig("w", "emails"), {"task": TaskConfig(task, retry=policy)})
        await worker.start()
        uuids = set()
        for cut in range(3):
            uuids.add((await sender.publish(Task("task"))).uuid)
            await recorder.wait_for("task.retried", cut + 1)
            sessions = [await sender.live_session(), await server.live_session()]
            await hands.cut(server, sessions[1])
            await soon(asyncio.wait([session.closed for session in sessions]))
            await recorder.wait_for("task.succeeded", cut + 1)
    assert {event.uuid for event in recorder.named("task.succeeded")} == uuids == failed


async def test_the_work_role_counts_the_deaths_of_classic_queues(users: Roles, recorder: Recorder) -> None:
    """The copy that does it goes through the exchange of delays, and keeps its priority."""
    seen: list[int | None] = []

    async def task() -> None:
        seen.append(current_task().attempt)

    async with await Server.connect(config(users.url("work"), "verify", recorder)) as server:
        await server.publish(Task("task", routing_key="old"))
        dying = await open_broker(users.url("work")).connect(name="dying", on_event=lambda event: None)
        await soon(anext(await dying.consume("old", prefetch=1)))
        dying.abort()
        worker = await server.new_worker(WorkerConfig("w", "old"), {"task": TaskConfig(task)})
        await worker.start()
        await recorder.wait_for("task.succeeded")
        await recorder.wait_for("task.redelivery_counted")
    assert seen == [1]


async def test_a_retry_into_a_queue_with_a_maximum_length(users: Roles, recorder: Recorder) -> None:
    """It takes the way round, on which the broker itself publishes."""

    async def task() -> None:
        if current_task().attempt == 1:
            raise ValueError("once")

    policy = RetryPolicy(max_attempts=2, base_seconds=0.1)
    async with await Server.connect(config(users.url("work"), "never", recorder)) as server:
        worker = await server.new_worker(WorkerConfig("w", "full"), {"task": TaskConfig(task, retry=policy)})
        await worker.start()
        await server.publish(Task("task", routing_key="full"))
        await recorder.wait_for("task.succeeded")


# --- and nothing besides --------------------------------------------------------------------------------------------


async def refused(user: Wire, *methods: Method) -> None:
    for method in methods:
        with pytest.raises(AccessRefused):
            await user.call(method)


async def unheard(user: Wire, *exchanges: str) -> None:
    for exchange in exchanges:
        with pytest.raises(AccessRefused):
            await user.publish(exchange, "emails", b"")


CHANGES = (
    QueueDeclare(queue="another", durable=True),
    QueueDeclare(queue="", exclusive=True),
    ExchangeDeclare(exchange="another", type="direct", durable=True),
    QueueDelete(queue="emails"),
    QueueDelete(queue="emails.dead"),
    ExchangeDelete(exchange="shop"),
    QueueBind(queue="emails", exchange="shop", routing_key="more"),
    QueueUnbind(queue="emails", exchange="shop", routing_key="emails"),
    ExchangeBind(destination="shop", source="amq.fanout"),
    QueuePurge(queue="emails.dead"),
    QueuePurge(queue="dispatcher.delay.3"),
)


async def test_the_publish_role_only_sends(users: Roles) -> None:
    """It reads no queue, changes nothing, and writes neither dead letters nor straight into a queue."""
    async with wire(users.url("publish")) as user:
        for queue in ("emails", "emails.dead", "old", "dispatcher.delay.3", "dispatcher.delay.dead"):
            await refused(user, BasicConsume(queue=queue), BasicGet(queue=queue), QueuePurge(queue=queue))
        await refused(user, *CHANGES)
        await unheard(
            user, DEAD_EXCHANGE, DELAY_EXCHANGE, "dispatcher.delay.due", "dispatcher.delay.back.emails", *STRANGE
        )


async def test_the_work_role_only_works(users: Roles) -> None:
    """It reads its queues alone, no dead letters and no delays, and changes nothing; to read a queue is to empty it, too."""
    async with wire(users.url("work")) as user:
        for queue in ("emails.dead", "dispatcher.delay.3", "dispatcher.delay.dead", "dispatcher.delay.back.emails"):
            await refused(user, BasicConsume(queue=queue), BasicGet(queue=queue))
        await refused(user, *CHANGES)
        await unheard(user, "dispatcher.delay.due", "dispatcher.delay.back.emails", *STRANGE)
        await user.call(QueuePurge(queue="emails"))


async def test_the_install_role_has_no_hand_in_what_is_others(users: Roles, vhost_url: str) -> None:
    """Of the queues and exchanges of others it creates, binds, reads and writes none; and it sends no task."""
    async with wire(vhost_url) as everything, wire(users.url("install")) as user:
        await everything.call(QueueDeclare(queue="another", durable=True))
        await refused(
            user,
            BasicGet(queue="another"),
            QueueDelete(queue="another"),
            QueueBind(queue="another", exchange="shop", routing_key="emails"),
            QueueBind(queue="emails", exchange="amq.direct", routing_key="emails"),
            *(QueueDeclare(queue=name, durable=True) for name in STRANGE),
        )
        await unheard(user, "shop", *STRANGE)


@pytest.mark.parametrize(
    ("right", "name", "queue"),
    [
        ("write", "dispatcher.delay.back.emails", "dispatcher.delay.back.emails"),
        ("write", DEAD_EXCHANGE, "emails"),
        ("read", "emails", "emails"),
        ("read", "shop", "emails"),
        ("write", "emails", "emails"),
    ],
)
async def test_what_rabbitmq_asks_of_who_installs(
    users: Roles, vhost: str, vhost_url: str, broker_admin: Admin, right: str, name: str, queue: str
) -> None:
    """A dead-letter exchange takes write on it and read on the queue, a binding the reverse: so it may send and consume."""
    patterns = msgspec.structs.asdict(roles(TOPOLOGY)["install"])
    patterns[right] = f"^(?!{name}$){patterns[right].removeprefix('^')}"
    broker_admin.permit(users.user("install"), vhost, (patterns["configure"], patterns["write"], patterns["read"]))
    async with wire(vhost_url) as everything, wire(users.url("install")) as user:
        plan = plan_of(TOPOLOGY, user.features)
        [spec] = [spec for spec in plan.queues if spec.name == queue]
        bindings = [binding for binding in plan.bindings if binding.destination == queue]
        await everything.call(QueueDelete(queue=queue))
        with pytest.raises(AccessRefused):
            await user.call(
                QueueDeclare(queue=queue, durable=True, arguments=spec.arguments),
                *(QueueBind(queue=queue, exchange=to.source, routing_key=to.routing_key) for to in bindings),
            )


@pytest.mark.parametrize("role", ROLES)
async def test_nobody_needs_the_default_exchange(users: Roles, role: str) -> None:
    """None of the three may write to it, and they suffice for all that is tested here."""
    async with wire(users.url(role)) as user:
        await unheard(user, "")


# --- what is told to whom has not the rights ------------------------------------------------------------------------


async def test_a_publish_that_is_forbidden_is_refused_at_once(
    users: Roles, broker_admin: Admin, vhost: str, recorder: Recorder
) -> None:
    """Long before its deadline, with the exchange and the permission; the session lives on, and does once it is granted."""
    url = users.url("publish")
    async with await Server.connect(config(url, "never", recorder, publish_timeout_seconds=3600)) as server:
        broker_admin.permit(users.user("publish"), vhost, NOTHING)
        with pytest.raises(PublishRefused, match=r"'shop'.*permission to write") as caught:
            await soon(server.publish(Task("task", uuid="u")))
        assert caught.value.uuid == "u"
        with pytest.raises(PublishRefused, match=r"'dispatcher.delay.*permission to write"):
            await soon(server.publish(Task("task", delay_seconds=60)))
        users.allow(TOPOLOGY)
        await soon(server.publish(Task("task")))
    assert not recorder.named("broker.disconnected")


async def test_a_worker_without_the_right_to_park(
    users: Roles, broker_admin: Admin, vhost: str, hands: RabbitHands, recorder: Recorder
) -> None:
    """It says so, keeps the task, and parks it once it may."""

    async def task() -> None:
        raise ValueError("always")

    work = roles(TOPOLOGY)["work"]
    broker_admin.permit(users.user("work"), vhost, ("^$", "^shop$", work.read))
    async with await Server.connect(config(users.url("work"), "verify", recorder)) as server:
        worker = await server.new_worker(WorkerConfig("w", "emails"), {"task": TaskConfig(task)})
        await worker.start()
        await server.publish(Task("task"))
        (failed,) = await recorder.wait_for("task.settle_failed")
        assert "'dispatcher.dead'" in failed.error and "permission to write" in failed.error
        assert (await hands.depth(server, "emails"))[:2] == (0, 1)
        users.allow(TOPOLOGY)
        await recorder.wait_for("task.dead_lettered")
        assert not recorder.named("broker.disconnected")


async def test_a_queue_that_may_not_be_read(users: Roles) -> None:
    """The worker does not start, and is told which permission it lacks."""
    async with await Server.connect(config(users.url("publish"), "never")) as server:
        worker = await server.new_worker(WorkerConfig("w", "emails"), {})
        with pytest.raises(TopologyMismatch, match=r"'emails'.*permission to read"):
            await asyncio.wait_for(worker.start(), DEADLINE_SECONDS)


# --- the command line -----------------------------------------------------------------------------------------------

APP_TOPOLOGY = Topology("dispatcher", (Queue("default", ("default",)), Queue("other", ("other",))))


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.close()


@pytest.fixture
async def app_users(role_users: Roles) -> Roles:
    """The three users of the app of `cli`."""
    await role_users.install(APP_TOPOLOGY)
    return role_users


async def ends(cli: Cli, users: Roles, url: str, *words: str) -> str:
    """Run what must end with exit code 78, and return its one line."""
    done = await asyncio.to_thread(cli.run, *words, DISPATCHER_URL=url)
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr and users.password not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dispatcher: error: ")]
    return line


async def test_a_worker_as_the_publish_role_ends(cli: Cli, app_users: Roles) -> None:
    """78, and the permission."""
    line = await ends(cli, app_users, app_users.url("publish"), "worker", "tasks:app")
    assert "permission to read" in line and ("'default'" in line or "'other'" in line)


async def test_a_sender_without_rights_ends(cli: Cli, app_users: Roles, broker_admin: Admin, vhost: str) -> None:
    """78, and the permission."""
    broker_admin.permit(app_users.user("publish"), vhost, NOTHING)
    line = await ends(cli, app_users, app_users.url("publish"), "send", "tasks:app", "note", "hello")
    assert "permission" in line and "'dispatcher'" in line


async def test_who_may_not_create_what_is_absent_ends(
    cli: Cli, app_users: Roles, vhost: str, broker_admin: Admin
) -> None:
    """78, the queue, the permission, and what to do."""
    await asyncio.to_thread(broker_admin.delete_queue, vhost, "other")
    line = await ends(cli, app_users, app_users.url("work"), "worker", "tasks:app")
    assert "'other'" in line and "configure permission" in line and "declare='verify'" in line


async def test_a_burst_as_the_work_role_ends_when_all_is_done(cli: Cli, app_users: Roles) -> None:
    """What it must see of its queues it may see, and of what another user sent nothing is left."""
    await asyncio.to_thread(cli.ok, "send", "tasks:app", "note", "hello", DISPATCHER_URL=app_users.url("publish"))
    cli.env["DISPATCHER_URL"] = app_users.url("work")
    worker = cli.start("worker", "tasks:app", "--burst")
    assert await asyncio.to_thread(worker.exit_code) == 0
    worker.wait_for("note hello 0\n")


async def test_dead_letters_are_the_business_of_the_install_role(cli: Cli, app_users: Roles) -> None:
    """It lists, replays and deletes them; who works may not look."""
    for _ in range(2):
        await asyncio.to_thread(cli.ok, "send", "tasks:app", "fail", DISPATCHER_URL=app_users.url("publish"))
    work = app_users.url("work")
    await asyncio.to_thread(cli.ok, "worker", "tasks:app", "--burst", DISPATCHER_URL=work)
    line = await ends(cli, app_users, work, "dead", "list", "tasks:app")
    assert "'default.dead'" in line and "permission" in line
    install = {"DISPATCHER_URL": app_users.url("install")}
    listed = await asyncio.to_thread(cli.ok, "dead", "list", "tasks:app", "--json", **install)
    assert [json.loads(line)["reason"] for line in listed.splitlines()] == ["failed", "failed"]
    assert await asyncio.to_thread(cli.ok, "dead", "replay", "tasks:app", "--all", **install) == "replayed 2\n"
    await asyncio.to_thread(cli.ok, "worker", "tasks:app", "--burst", DISPATCHER_URL=work)
    assert await asyncio.to_thread(cli.ok, "dead", "purge", "tasks:app", "--yes", **install) == "deleted 2\n"
