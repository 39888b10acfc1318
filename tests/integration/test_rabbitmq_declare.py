"""`declare` on a real RabbitMQ: what each mode makes, tells and refuses, and what each role may do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from amqp_wire import Wire, as_user, wire
from rabbitmq_admin import Admin

from dispatcher.amqp.errors import AccessRefused, NotFound
from dispatcher.amqp.methods import ExchangeDeclare, QueueBind, QueueDeclare, QueueDelete
from dispatcher.brokers.base import TopologyDiffers
from dispatcher.brokers.rabbitmq.ladder import LOST_QUEUE, level_names
from dispatcher.brokers.rabbitmq.plan import roles
from dispatcher.errors import TopologyMismatch
from dispatcher.model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, DeclareMode, Queue, Topology

Q = Queue("q", binding_keys=("k",))
MODES: tuple[DeclareMode, ...] = ("create", "verify", "never")


@pytest.fixture
async def broker(vhost_url: str) -> AsyncIterator[Wire]:
    async with wire(vhost_url) as broker:
        yield broker


def whats(told: list[TopologyDiffers]) -> dict[str, tuple[str, str]]:
    return {differs.what: (differs.expected, differs.found) for differs in told}


async def test_creating_makes_everything_and_again_changes_nothing(broker: Wire) -> None:
    """Routes lead where they should, and what is there is as asked for."""
    topology = Topology("ex", (Q, Queue("classic", type="classic", max_priority=9), Queue("full", max_length=5)))
    for _ in range(2):
        assert await broker.declare(topology) == []
    await broker.publish("ex", "k", b"1")
    await broker.publish(DELAY_EXCHANGE, "q", b"2")
    await broker.publish(DEAD_EXCHANGE, "q", b"3")
    await broker.publish_delayed(50, "ex", "k", b"4")
    async with broker.consuming("q") as taken, broker.consuming("q.dead") as dead:
        assert await taken.bodies(3) == [b"1", b"2", b"4"]
        assert await dead.bodies(1) == [b"3"]
    assert await broker.declare(Topology("ex", topology.queues, "verify")) == []


async def test_a_queue_of_a_go_program_is_used_as_it_is(broker: Wire) -> None:
    """Durable, classic, no arguments: bound, given dead letters, and told of as one difference, or none if asked for."""
    await broker.call(
        ExchangeDeclare(exchange="ex", type="direct", durable=True), QueueDeclare(queue="q", durable=True)
    )
    told = whats(await broker.declare(Topology("ex", (Q,))))
    assert told == {"type of queue 'q'": ("'quorum'", "'classic'")}
    assert await broker.declare(Topology("ex", (Queue("q", type="classic"),))) == []
    await broker.publish("ex", "k", b"1")
    await broker.publish(DEAD_EXCHANGE, "q", b"2")
    await broker.call(QueueDeclare(queue="q", durable=True))


async def test_every_difference_of_a_queue_is_told(broker: Wire) -> None:
    """The broker names one at a time; all are found, and nothing is changed by looking for them."""
    arguments = {"x-queue-type": "quorum", "x-max-length": 7, "x-delivery-limit": 3, "x-expires": 3_600_000}
    there = QueueDeclare(queue="q", durable=True, arguments={**arguments, "x-dead-letter-exchange": "other"})
    await broker.call(there)
    told = whats(await broker.declare(Topology("ex", (Q,))))
    assert told == {
        "delivery_limit of queue 'q'": ("20", "3"),
        "max_length of queue 'q'": ("None", "7"),
        "x-dead-letter-exchange of queue 'q'": ("'dispatcher.dead'", "'other'"),
        "x-dead-letter-routing-key of queue 'q'": ("'q'", "None"),
        "x-dead-letter-strategy of queue 'q'": ("'at-least-once'", "None"),
        "x-expires of queue 'q'": ("None", "3600000"),
        "x-overflow of queue 'q'": ("'reject-publish'", "None"),
    }
    await broker.call(there)


async def test_a_difference_that_does_not_fit_into_an_answer(broker: Wire) -> None:
    """AMQP cuts the broker's sentence off after 255 bytes: then it is told as far as it came."""
    name = "n" * 200
    await broker.declare(Topology("ex", (Queue(name, max_length=5),)))
    [differs] = await broker.declare(Topology("ex", (Queue(name, max_length=6),)))
    assert name in differs.what
    assert "x-max-length" in differs.found


@pytest.mark.parametrize("mode", MODES)
async def test_an_exchange_of_another_type(broker: Wire, mode: DeclareMode) -> None:
    """It is refused in every mode, with both types, and the connection lives on."""
    await broker.call(ExchangeDeclare(exchange="ex", type="topic", durable=True))
    with pytest.raises(TopologyMismatch, match=r"'ex'.*direct.*topic"):
        await broker.declare(Topology("ex", (Q,), mode))
    assert broker.connection.is_open


@pytest.mark.parametrize("topology", [Topology("amq.ours"), Topology("ex", (Queue("amq.ours"),))])
async def test_a_name_that_is_the_broker_s_own(broker: Wire, topology: Topology) -> None:
    """No right would help, so none is asked for."""
    with pytest.raises(TopologyMismatch, match=r"'amq\.ours': names that begin with 'amq\.'"):
        await broker.declare(topology)


async def test_our_exchange_of_another_type(broker: Wire) -> None:
    """A part of the ladder that is something else cannot be used."""
    await broker.call(ExchangeDeclare(exchange="dispatcher.delay.due", type="fanout", durable=True))
    with pytest.raises(TopologyMismatch, match=r"'dispatcher.delay.due'.*headers.*fanout"):
        await broker.declare(Topology("ex", (Q,)))


@pytest.mark.parametrize("mode", ["create", "verify"])
async def test_what_cannot_be_used_as_it_is(broker: Wire, mode: DeclareMode) -> None:
    """A stream keeps what was acked and redelivers nothing, an internal exchange takes no publish: no warning would do."""
    await broker.declare(Topology("ex", (Q,)))
    await broker.call(
        QueueDeclare(queue="log", durable=True, arguments={"x-queue-type": "stream"}),
        QueueDeclare(queue="log.dead", durable=True),
        ExchangeDeclare(exchange="hidden", type="direct", durable=True, internal=True),
    )
    with pytest.raises(TopologyMismatch, match=r"queue 'log'.*a stream"):
        await broker.declare(Topology("ex", (Queue("log"),), mode))
    with pytest.raises(TopologyMismatch, match=r"exchange 'hidden'.*internal"):
        await broker.declare(Topology("hidden", (Q,), mode))


async def test_a_ladder_of_somebody_else_is_none(broker: Wire) -> None:
    """A level without a way on would swallow what is delayed."""
    arguments = {"x-queue-type": "quorum", "x-message-ttl": 101}
    await broker.call(QueueDeclare(queue="dispatcher.delay.0", durable=True, arguments=arguments))
    with pytest.raises(TopologyMismatch, match=r"x-dead-letter-exchange of queue 'dispatcher\.delay\.0' is None"):
        await broker.declare(Topology("ex", (Q,)))


async def test_an_exchange_that_differs_otherwise(broker: Wire) -> None:
    """It is used, and the difference told."""
    arguments = {"alternate-exchange": "amq.fanout"}
    await broker.call(ExchangeDeclare(exchange="ex", type="direct", durable=True, arguments=arguments))
    told = whats(await broker.declare(Topology("ex", (Q,))))
    assert told == {"alternate-exchange of exchange 'ex'": ("None", "'amq.fanout'")}


async def test_verify_names_everything_at_once_and_creates_nothing(broker: Wire) -> None:
    """Absent exchanges and queues, dead letters too, and each difference."""
    await broker.declare(Topology("ex", (Queue("q", max_length=5), Queue("half"))))
    await broker.call(QueueDelete(queue="half.dead"))
    asked = Topology("ex", (Queue("q", max_length=6), Queue("half"), Queue("gone")), "verify")
    with pytest.raises(TopologyMismatch) as caught:
        await broker.declare(asked)
    text = str(caught.value)
    for part in ("'half.dead' does not exist", "'gone' does not exist", "'gone.dead'", "max_length of queue 'q' is 5"):
        assert part in text
    assert "queue 'half' does not" not in text
    for absent in ("half.dead", "gone", "gone.dead"):
        with pytest.raises(NotFound):
            await broker.call(QueueDeclare(queue=absent, passive=True))


async def test_verify_of_an_empty_vhost(broker: Wire) -> None:
    """The exchange is named, and is all that a server without queues needs."""
    with pytest.raises(TopologyMismatch, match=r"'ex' does not exist"):
        await broker.declare(Topology("ex", (), "verify"))
    await broker.call(ExchangeDeclare(exchange="ex", type="direct", durable=True))
    await broker.declare(Topology("ex", (), "verify"))


async def test_never_makes_nothing_and_misses_nothing(broker: Wire) -> None:
    """On an empty vhost it is content."""
    assert await broker.declare(Topology("ex", (Q,), "never")) == []
    for absent in (ExchangeDeclare(exchange="ex", passive=True), QueueDeclare(queue="q", passive=True)):
        with pytest.raises(NotFound):
            await broker.call(absent)


async def test_the_ladder_is_made_whole_again(broker: Wire) -> None:
    """What was deleted of it comes back, with its bindings."""
    await broker.declare(Topology("ex", (Q,)))
    level = level_names(broker.features)[0]
    await broker.call(QueueDelete(queue=level), QueueDelete(queue=LOST_QUEUE))
    await broker.declare(Topology("ex", (Q,)))
    await broker.publish_delayed(50, "ex", "k", b"1")
    async with broker.consuming("q") as taken:
        assert await taken.bodies(1) == [b"1"]


# --- roles ----------------------------------------------------------------------------------------------------------

NAMED = Topology("e.x+", (Queue("q 1.é", binding_keys=("k",)), Queue("full", max_length=9), Queue("c", type="classic")))


@pytest.fixture
async def installed(vhost: str, vhost_url: str, broker_admin: Admin) -> str:
    """A vhost in which the install role has declared `NAMED`, and the users of all three roles; their password is their name."""
    for role, rights in roles(NAMED).items():
        user = f"{role}-{vhost}"
        broker_admin.add_user(user, user, vhost, (rights.configure, rights.write, rights.read))
    async with wire(as_role(vhost_url, "install", vhost)) as install:
        for _ in range(2):
            assert await install.declare(NAMED) == []
        with pytest.raises(AccessRefused):
            await install.call(QueueDeclare(queue="another"))
    return vhost


def as_role(url: str, role: str, vhost: str) -> str:
    user = f"{role}-{vhost}"
    return as_user(url, user, user)


async def test_the_publish_role(installed: str, vhost_url: str, broker: Wire) -> None:
    """It sends, at once and delayed, and can do nothing else."""
    async with wire(as_role(vhost_url, "publish", installed)) as publisher:
        await publisher.publish("e.x+", "k", b"1")
        await publisher.publish_delayed(50, "e.x+", "k", b"2")
        for exchange in (DEAD_EXCHANGE, DELAY_EXCHANGE, ""):
            with pytest.raises(AccessRefused):
                await publisher.publish(exchange, "q 1.é", b"refused")
        with pytest.raises(AccessRefused):
            await publisher.get("q 1.é")
        await refused_all_changes(publisher)
    async with broker.consuming("q 1.é") as taken:
        assert await taken.bodies(2) == [b"1", b"2"]


async def test_the_work_role(installed: str, vhost_url: str) -> None:
    """It consumes, publishes, retries and parks, and cannot look into dead letters."""
    async with wire(as_role(vhost_url, "work", installed)) as worker:
        await worker.publish("e.x+", "k", b"1")
        await worker.publish(DELAY_EXCHANGE, "q 1.é", b"2")
        await worker.publish_delayed(50, DELAY_EXCHANGE, "q 1.é", b"3")
        await worker.publish(DEAD_EXCHANGE, "q 1.é", b"4")
        async with worker.consuming("q 1.é") as taken:
            assert await taken.bodies(3) == [b"1", b"2", b"3"]
        for closed in ("q 1.é.dead", "dispatcher.delay.3"):
            with pytest.raises(AccessRefused):
                await worker.get(closed)
        with pytest.raises(AccessRefused):
            await worker.publish("", "q 1.é", b"refused")
        await refused_all_changes(worker)


async def refused_all_changes(user: Wire) -> None:
    for change in (
        QueueDeclare(queue="another"),
        ExchangeDeclare(exchange="another"),
        QueueDelete(queue="q 1.é"),
        QueueBind(queue="q 1.é", exchange="e.x+", routing_key="another"),
    ):
        with pytest.raises(AccessRefused):
            await user.call(change)


@pytest.mark.parametrize("role", ["publish", "work"])
@pytest.mark.parametrize("mode", MODES)
async def test_roles_that_may_not_declare_use_what_is_there(
    installed: str, vhost_url: str, role: str, mode: DeclareMode
) -> None:
    """In each mode; what they may not see is taken as right."""
    async with wire(as_role(vhost_url, role, installed)) as user:
        assert await user.declare(Topology(NAMED.exchange, NAMED.queues, mode)) == []


async def test_a_role_that_may_not_create_what_is_absent(installed: str, vhost_url: str, broker: Wire) -> None:
    """It says which, and what to do. The right to see it that 4.3 asks for is the right to read it."""
    await broker.call(QueueDelete(queue="c"))
    async with wire(as_role(vhost_url, "work", installed)) as user:
        with pytest.raises(TopologyMismatch, match=r"queue 'c'.*configure"):
            await user.declare(NAMED)
        with pytest.raises(TopologyMismatch, match=r"queue 'c' does not exist"):
            await user.declare(Topology(NAMED.exchange, NAMED.queues, "verify"))
