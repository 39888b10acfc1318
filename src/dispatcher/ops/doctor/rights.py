"""What this user may do, asked so that nothing comes of it: each question has a fault in it that is looked at last.

A queue with a negative time to live, a message whose expiry is no number, a consumer whose priority is a word: RabbitMQ
looks at the rights first (403), then at whether the thing exists (404), then at the fault (406). Tried on 3.10.8 and 4.3.6.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from secrets import token_hex

from ...amqp.errors import AccessRefused, ReplyError
from ...amqp.methods import BasicConsume, ExchangeDeclare, Method, QueueDeclare
from ...amqp.url import AmqpUrl
from ...brokers.rabbitmq.ladder import level_names
from ...brokers.rabbitmq.plan import Rights, roles
from ...brokers.rabbitmq.specs import ExchangeSpec, QueueSpec
from ...model.topology import DEAD_EXCHANGE, DELAY_EXCHANGE, SCHEDULE_EXCHANGE
from .findings import Finding, Tell, note, ok, warning, wrong
from .link import Link
from .subject import Subject

__all__ = ["check_rights", "may_configure", "may_read", "may_write", "sampled_levels"]

MOST_NAMED = 5


async def may_configure(link: Link, specs: Sequence[ExchangeSpec | QueueSpec]) -> dict[str, bool]:
    """Whether this user may create each of them. Creates nothing, and changes nothing that exists."""
    answers = await link.ask([_impossible(spec) for spec in specs])
    return {spec.name: not isinstance(answer, AccessRefused) for spec, answer in zip(specs, answers, strict=True)}


def _impossible(spec: ExchangeSpec | QueueSpec) -> Method:
    if isinstance(spec, ExchangeSpec):
        return ExchangeDeclare(exchange=spec.name, type=spec.type, durable=True, arguments={"alternate-exchange": 1})
    return QueueDeclare(queue=spec.name, durable=True, arguments={"x-message-ttl": -1})


async def may_read(link: Link, queues: Sequence[str]) -> dict[str, bool]:
    """Whether this user may consume each of them. Takes nothing."""
    answers = await link.ask([BasicConsume(queue=queue, arguments={"x-priority": "none"}) for queue in queues])
    return {queue: not isinstance(answer, AccessRefused) for queue, answer in zip(queues, answers, strict=True)}


async def may_write(link: Link, exchanges: Sequence[str]) -> dict[str, bool]:
    """Whether this user may publish to each of them. Nothing arrives anywhere. `Alarm` where the broker takes nothing."""
    may: dict[str, bool] = {}
    for exchange in exchanges:
        try:
            await link.publish(exchange, token_hex(8), expiration="none")
            may[exchange] = True
        except ReplyError as refusal:
            may[exchange] = not isinstance(refusal, AccessRefused)
    return may


async def check_rights(
    url: AmqpUrl,
    subject: Subject,
    configure: Mapping[str, bool],
    read: Mapping[str, bool],
    write: Mapping[str, bool],
    tell: Tell,
) -> None:
    """Tell which of the three kinds of user this one can be."""
    topology = subject.topology
    for_work = [name for name in (DEAD_EXCHANGE, DELAY_EXCHANGE, SCHEDULE_EXCHANGE) if name in write]
    delays = [name for name in write if name != topology.exchange and name not in for_work]
    publish = {f"write {name!r}": write[name] for name in (topology.exchange, *delays)}
    services = {f"write {name!r}": write[name] for name in for_work}
    install = {f"create {name!r}": may for name, may in configure.items()}
    take = {f"consume {name!r}": may for name, may in read.items()}
    needed = roles(topology)
    works = any(take.values()) and not all(install.values())  # who installs may read every queue, too
    told = [
        _role("install", "create the topology", install, any(install.values()), needed["install"], url),
        _role("publish", "send tasks", publish, write[topology.exchange], needed["publish"], url),
        _role("work", "run tasks", {**take, **publish, **services}, works, needed["work"], url),
    ]
    if all(finding.status == "note" for finding in told):
        tell(wrong("rights", "this user may neither create the topology nor send nor run tasks", told[-1].advice))
        return
    for finding in told:
        tell(finding)


def _role(name: str, what: str, rights: Mapping[str, bool], begun: bool, needed: Rights, url: AmqpUrl) -> Finding:
    """`begun`: the user has what only a user of that kind needs, so that what is missing is missing by mistake."""
    check = f"right to {name}"
    missing = [right for right, has in rights.items() if not has]
    if not missing:
        return ok(check, f"this user may {what}")
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    patterns = " ".join(shlex.quote(pattern) for pattern in (needed.configure, needed.write, needed.read))
    user = shlex.quote(url.login.user) if url.mechanism == "PLAIN" else "USER"
    advice = f"rabbitmqctl set_permissions -p {shlex.quote(url.vhost)} {user} {patterns}"
    text = f"this user may not {what}: it may not {', '.join(missing[:MOST_NAMED])}{more}"
    return warning(check, text, advice) if begun else note(check, text, f"if it should: {advice}")


def sampled_levels(link: Link) -> tuple[str, ...]:
    """The levels of the ladder that stand for all, one of each lane: a refusal costs a line in the broker's log."""
    return tuple(name for name in level_names(link.features) if name.endswith(".0"))
