"""Whether exchanges, queues, dead letters and the ladder of delays are there, and as an app asks for them. Creates nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from ...amqp.errors import AccessRefused, NotFound, ResourceLocked
from ...amqp.methods import ExchangeDeclare, Method, QueueDeclare, QueueDeclareOk
from ...brokers.base import TopologyDiffers
from ...brokers.rabbitmq.declare import compare
from ...brokers.rabbitmq.ladder import LOST_QUEUE, is_service, way_key
from ...brokers.rabbitmq.schedules import is_schedule
from ...brokers.rabbitmq.specs import ExchangeSpec, Plan, QueueSpec
from ...brokers.rabbitmq.translate import is_down
from ...errors import TopologyMismatch
from ...model.topology import DELAY_EXCHANGE
from .findings import Finding, Tell, note, ok, warning, wrong
from .link import Answer, Link
from .rights import may_configure
from .subject import Subject

__all__ = ["Seen", "check_ladder", "check_topology", "check_ways"]

Spec = ExchangeSpec | QueueSpec

MOST_NAMED = 4


class Seen(msgspec.Struct, frozen=True):
    """`may_create`: which exchanges and queues this user may create. `present`, `as_asked_for`: the app's own exchange."""

    may_create: dict[str, bool]
    present: bool
    as_asked_for: bool


async def check_topology(link: Link, plan: Plan, subject: Subject, tell: Tell) -> Seen:
    """Tell of each exchange and queue of the app, the ladder aside."""
    specs = [spec for spec in _specs(plan) if not is_service(spec.name)]
    answers = await link.ask([_passive(spec) for spec in specs])
    may = await may_configure(link, specs)
    if all(isinstance(answer, NotFound) and not is_down(answer) for answer in answers):
        told = [_absent("topology", "nothing of it exists", subject, may_create=all(may.values()))]
    else:
        told = [
            await _examine(link, spec, answer, subject, may_create=may[spec.name])
            for spec, answer in zip(specs, answers, strict=True)
        ]
    for finding in told:
        tell(finding)
    for lacks in plan.notes:
        tell(
            warning(
                "priorities", f"{lacks.what}: expected {lacks.expected}, got {lacks.found}", "change the queue's type"
            )
        )
    own = told[0].status  # a plan begins with the exchange
    return Seen(may, own != "wrong" and not isinstance(answers[0], NotFound), own == "ok")


async def _examine(link: Link, spec: Spec, answer: Answer, subject: Subject, *, may_create: bool) -> Finding:
    check = _name(spec)
    match answer:
        case NotFound() if is_down(answer):
            return wrong(check, f"the node that holds it is down ({answer.text})", "start that node")
        case NotFound():
            return _absent(check, "it does not exist", subject, may_create=may_create)
        case ResourceLocked():
            return wrong(check, "it belongs to another connection alone", "choose another name, or end that program")
        case AccessRefused():
            return note(check, "this user may not look at it")
        case Exception():
            return wrong(check, str(answer), "see the broker's log")
        case _:
            return await _present(link, spec, answer, subject)


async def _present(link: Link, spec: Spec, answer: Method, subject: Subject) -> Finding:
    check = _name(spec)
    try:
        differs = await compare(link.open_channel, spec)
    except TopologyMismatch as error:
        what, _, advice = str(error).removeprefix(f"{check}: ").partition(". ")
        return wrong(check, what, advice)
    if differs:
        return _differs(check, differs, subject)
    text = "it exists; how it was declared this user may not know" if differs is None else "as asked for"
    if not isinstance(answer, QueueDeclareOk):
        return ok(check, text)
    if is_schedule(spec.name):
        return ok(check, f"{text}; {answer.consumer_count} workers lead it or wait to")
    if spec.name not in {queue.name for queue in subject.topology.queues}:
        return ok(check, f"{text}; {answer.message_count} dead letters")
    text = f"{text}; {answer.message_count} waiting, {answer.consumer_count} consumers"
    if answer.message_count and not answer.consumer_count:
        return warning(check, f"{text}: nobody takes them", f"start a worker: dispatcher worker {subject.target}")
    return ok(check, text)


def _absent(check: str, text: str, subject: Subject, *, may_create: bool) -> Finding:
    mode = subject.topology.declare
    if mode != "create":
        return wrong(
            check,
            f"{text}, and declare={mode!r} creates nothing",
            f"have it made once with declare='create', or import what `dispatcher plan {subject.target} --json` prints",
        )
    if not may_create:
        return wrong(
            check,
            f"{text}, and this user may not create it",
            "declare once as a user who may (see the right to install)",
        )
    return warning(check, f"{text} yet", f"the app makes it when it connects: dispatcher worker {subject.target}")


def _differs(check: str, differs: Sequence[TopologyDiffers], subject: Subject) -> Finding:
    text = "; ".join(
        f"{one.what.removesuffix(f' of {check}')} is {one.found}, expected {one.expected}" for one in differs
    )
    advice = "ask for what is there, or empty it, delete it and let it be declared anew"
    if subject.topology.declare == "verify":
        return wrong(check, f"{text}; declare='verify' refuses that", advice)
    return warning(check, f"{text}; it is used as it is", advice)


# --- the ladder -----------------------------------------------------------------------------------------------------


async def check_ladder(link: Link, plan: Plan, subject: Subject | None, tell: Tell) -> bool:
    """Tell whether the ladder of delays in `plan` is complete, and of messages that fell off it.

    Returns whether this user may create it.
    """
    check = "delays"
    specs = [spec for spec in _specs(plan) if is_service(spec.name)]
    answers = await link.ask([_passive(spec) for spec in specs])
    may = (await may_configure(link, specs[:1]))[specs[0].name]
    absent = [_name(spec) for spec, answer in zip(specs, answers, strict=True) if isinstance(answer, NotFound)]
    refused = sum(isinstance(answer, Exception) for answer in answers) - len(absent)
    present = [spec for spec, answer in zip(specs, answers, strict=True) if not isinstance(answer, Exception)]
    if absent:
        if may and (differs := await _compared(link, present, subject)).status != "ok":
            tell(differs)
            return may
        text = "the ladder does not exist" if len(absent) == len(specs) else f"the ladder lacks {_some(absent)}"
        if subject is None:
            tell(note(check, text, "it is made by the first app that connects with the right to declare"))
        else:
            tell(_absent(check, text, subject, may_create=may))
        return may
    if refused:
        tell(note(check, "this user may not look at the ladder"))
        return may
    tell(await _compared(link, specs, subject) if may else ok(check, "the ladder is complete"))
    for spec, answer in zip(specs, answers, strict=True):
        if spec.name == LOST_QUEUE and isinstance(answer, QueueDeclareOk) and answer.message_count:
            tell(_lost(answer.message_count))
    return may


async def _compared(link: Link, specs: Sequence[Spec], subject: Subject | None) -> Finding:
    """All at once: one after the other would take a while over a long way."""
    check = "delays"
    try:
        found = await asyncio.gather(*(compare(link.open_channel, spec) for spec in specs))
    except TopologyMismatch as error:
        what, _, advice = str(error).partition(". ")
        return wrong(check, what, advice)
    differs = [one.what for differences in found for one in differences or ()]
    if not differs:
        return ok(check, "the ladder is complete, and as it should be")
    text = f"the ladder is not as it should be: {_some(differs)}"
    advice = "while no delayed message is on its way: delete what differs, and let it be declared anew"
    return wrong(check, text, advice) if subject is not None else warning(check, text, advice)


async def check_ways(link: Link, subject: Subject, tell: Tell) -> None:
    """Tell whether retries and snoozes come back to the app's queues. Nothing comes to any of them."""
    check = "ways back"
    names = [queue.name for queue in subject.topology.queues]
    try:
        lacking = [name for name in names if (await link.publish(DELAY_EXCHANGE, way_key(name))).outcome == "returned"]
    except NotFound:
        return  # there is no ladder, as was told
    if not lacking:
        tell(ok(check, "retries and snoozes come back to every queue"))
        return
    text = f"retries and snoozes do not come back to {_some([f'queue {name!r}' for name in lacking])}"
    tell(_absent(check, text, subject, may_create=True))


def _lost(count: int) -> Finding:
    return warning(
        f"queue {LOST_QUEUE!r}",
        f"{count} delayed messages came due after their queue had been deleted",
        f"see 'dispatcher dead list -Q {DELAY_EXCHANGE}'; declare their queues again, then replay them, or purge them",
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _specs(plan: Plan) -> list[Spec]:
    return [*plan.exchanges, *plan.queues]


def _passive(spec: Spec) -> Method:
    if isinstance(spec, ExchangeSpec):
        return ExchangeDeclare(exchange=spec.name, type=spec.type, passive=True)
    return QueueDeclare(queue=spec.name, passive=True)


def _name(spec: Spec) -> str:
    return f"{'exchange' if isinstance(spec, ExchangeSpec) else 'queue'} {spec.name!r}"
