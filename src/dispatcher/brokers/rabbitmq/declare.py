"""Makes a plan true on a live broker, as the topology's mode says: creates, verifies, or leaves alone. Deletes nothing, ever.

The broker tells what is there by its refusals: a passive declare of what does not exist is 404, an active one of what
differs is 406 with the first argument that differs, and changes nothing. Every refusal ends the channel it came on, so
channels are opened as they are used up; none of them is anybody else's. A user who may not ask (403) is told nothing,
and uses what is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from ...amqp.channel import Channel
from ...amqp.errors import AccessRefused, NotFound, PreconditionFailed, ReplyError, ResourceLocked
from ...amqp.methods import ExchangeBind, ExchangeDeclare, Method, QueueBind, QueueDeclare
from ...errors import TopologyMismatch
from ...model.topology import CANCEL_EXCHANGE, DEAD_EXCHANGE, Topology
from ..base import TopologyDiffers
from ..differences import mismatch
from .inequivalent import Declaration, Found, differences_of, read_refusal
from .ladder import is_service
from .plan import is_ours, plan_of, services
from .specs import BindingSpec, ExchangeSpec, Plan, QueueSpec
from .translate import is_down
from .version import Features

__all__ = ["OpenChannel", "compare", "declare", "has_services"]

OpenChannel: TypeAlias = Callable[[], Awaitable[Channel]]
Tell: TypeAlias = Callable[[TopologyDiffers], None]
Spec: TypeAlias = ExchangeSpec | QueueSpec

MAX_DIFFERENCES = 16
"""The most arguments of one queue that are looked at; there are fewer that the broker compares."""


RESERVED = "reserved prefix"
"""So a refusal says that nobody may create something of that name, whatever his rights."""


async def declare(
    open_channel: OpenChannel,
    topology: Topology,
    features: Features,
    on_difference: Tell,
    *,
    with_services: bool = True,
) -> bool:
    """Make `topology` true according to its mode; whether all of it is, delays and the ways back from them included.

    `create`: what is absent is created, what is there is used as it is, and each difference that can be seen is told.
    `verify`: creates nothing; `TopologyMismatch` names everything that is absent or different. The ladder is not looked at.
    `never`: asks for the exchange's type only.

    An exchange of another type is a `TopologyMismatch` in every mode. Other refusals of the broker come as the
    `AmqpError` they are. `with_services` False: see `plan_of`.
    """
    plan = plan_of(topology, features, with_services=with_services)
    is_whole = False
    match topology.declare:
        case "create":
            is_whole = await _create(open_channel, plan, on_difference)
        case "verify":
            await _verify(open_channel, topology, plan)
        case "never":
            await _check_type(open_channel, plan.exchanges[0])
            return False
    for note in plan.notes:
        on_difference(note)
    return is_whole


async def has_services(open_channel: OpenChannel, features: Features) -> bool:
    """Whether every exchange and queue that all topologies share is there; False where this user may not know."""
    plan = services(features)
    specs: list[Spec] = [*plan.exchanges, *plan.queues]
    channel = await open_channel()
    try:
        for asked in [channel.ask(_passive(spec)) for spec in specs]:
            await channel.answer(asked)
    except ReplyError:
        return False
    finally:
        channel.let_go()
    return True


async def compare(open_channel: OpenChannel, spec: Spec) -> list[TopologyDiffers] | None:
    """In what that which exists differs from `spec`; None if this user may not know. Only for what is known to exist.

    `TopologyMismatch` for an exchange of another type.
    """
    [refusal] = await _ask(open_channel, [_active(spec)])
    if isinstance(refusal, AccessRefused):
        return None
    if isinstance(refusal, PreconditionFailed):
        return await _differences(open_channel, spec, refusal)
    if refusal is not None:
        raise refusal
    return []


# --- create ---------------------------------------------------------------------------------------------------------


async def _create(open_channel: OpenChannel, plan: Plan, tell: Tell) -> bool:
    everything: list[Spec] = [*plan.exchanges, *plan.queues]
    for ours in (False, True):
        specs = [spec for spec in everything if is_ours(spec.name) is ours]
        # Who may not declare one level of the ladder may declare none: asking for all of them would take a channel each.
        refusals = await _ask(open_channel, [_active(spec) for spec in specs], until_denied=ours)
        denied: list[Spec] = []
        for spec, refusal in zip(specs, refusals, strict=True):
            if isinstance(refusal, PreconditionFailed):
                differs = await _usable_differences(open_channel, spec, refusal)
                if is_service(spec.name):  # it would lead delayed tasks to nowhere, or back too soon
                    raise _strange_ladder(differs)
                for difference in differs:
                    tell(difference)
            elif isinstance(refusal, AccessRefused):
                if RESERVED in refusal.text:
                    raise TopologyMismatch(
                        f"{_name(spec)}: names that begin with 'amq.' are the broker's own; choose another"
                    )
                denied.append(spec)
            elif is_down(refusal):
                tell(TopologyDiffers(_name(spec), "available", f"its node is down ({refusal.text})"))
            elif refusal is not None:
                raise refusal
        if not ours:
            await _check_present(open_channel, denied)
    return await _bind(open_channel, plan)


async def _usable_differences(open_channel: OpenChannel, spec: Spec, refusal: ReplyError) -> list[TopologyDiffers]:
    """`_differences`, but a stream of cancels that cannot be is no reason to stop: nothing can be cancelled then."""
    try:
        return await _differences(open_channel, spec, refusal)
    except TopologyMismatch as error:
        if spec.name != CANCEL_EXCHANGE:
            raise
        return [TopologyDiffers(_name(spec), "a stream that keeps cancels", str(error))]


def _strange_ladder(differs: Sequence[TopologyDiffers]) -> TopologyMismatch:
    told = "; ".join(f"{one.what} is {one.found}, expected {one.expected}" for one in differs)
    return TopologyMismatch(
        f"the ladder of delays is not as it must be: {told}. It is Dispatcher's own: delete what differs, while no delayed"
        " task is on its way there, and let it be declared anew"
    )


async def _check_present(open_channel: OpenChannel, denied: Sequence[Spec]) -> None:
    """`TopologyMismatch` if one that we may not declare does not exist."""
    refusals = await _ask(open_channel, [_passive(spec) for spec in denied])
    absent = [
        spec
        for spec, refusal in zip(denied, refusals, strict=True)
        if isinstance(refusal, NotFound) and not is_down(refusal)
    ]
    if absent:
        raise TopologyMismatch(
            f"{', '.join(_name(spec) for spec in absent)}: expected it to exist, or the right to create it; this user has"
            " no configure permission for it. Declare once as a user who has, and use declare='verify' here"
        )


async def _bind(open_channel: OpenChannel, plan: Plan) -> bool:
    """Bind what is to be bound; whether all of the bindings of delays are there."""
    is_whole = True
    for ours in (False, True):
        bindings = [binding for binding in plan.bindings if is_ours(binding.source) is ours]
        for refusal in await _ask(open_channel, [_binding(binding) for binding in bindings], until_denied=ours):
            if refusal is None or is_down(refusal):
                continue  # a durable queue keeps its bindings while its node is away
            # Whether a binding exists cannot be asked. No ladder, and no right to make it: the sender of a delay is told.
            if not isinstance(refusal, AccessRefused) and not (ours and isinstance(refusal, NotFound)):
                raise refusal
            is_whole = is_whole and not ours
    return is_whole


# --- verify and never -----------------------------------------------------------------------------------------------


async def _verify(open_channel: OpenChannel, topology: Topology, plan: Plan) -> None:
    exchanges = [spec for spec in plan.exchanges if not is_ours(spec.name)]
    if not topology.queues:
        exchanges = [spec for spec in exchanges if spec.name != DEAD_EXCHANGE]  # no queue, no dead letters
    specs: list[Spec] = [*exchanges, *(spec for spec in plan.queues if not is_ours(spec.name))]
    wrong: list[str] = []
    present: list[Spec] = []
    refusals = await _ask(open_channel, [_passive(spec) for spec in specs])
    for spec, refusal in zip(specs, refusals, strict=True):
        if refusal is None:
            present.append(spec)
        elif isinstance(refusal, NotFound):
            if not is_down(refusal):
                wrong.append(f"{_name(spec)} does not exist")
        elif isinstance(refusal, ResourceLocked):
            wrong.append(f"{_name(spec)} belongs to another connection alone")
        elif not isinstance(refusal, AccessRefused):
            raise refusal
    differs: list[TopologyDiffers] = []
    refusals = await _ask(open_channel, [_active(spec) for spec in present], until_denied=True)
    for spec, refusal in zip(present, refusals, strict=True):
        if isinstance(refusal, PreconditionFailed):
            differs += await _differences(open_channel, spec, refusal)
    if wrong or differs:
        raise mismatch("the broker's topology", wrong, differs)


async def _check_type(open_channel: OpenChannel, exchange: ExchangeSpec) -> None:
    """`TopologyMismatch` if the exchange exists and is of another type, as far as this user may know."""
    [refusal] = await _ask(open_channel, [_passive(exchange)])
    if refusal is None:
        [refusal] = await _ask(open_channel, [_active(exchange)])
        if isinstance(refusal, PreconditionFailed):
            await _differences(open_channel, exchange, refusal)


# --- what the broker answers ----------------------------------------------------------------------------------------


async def _ask(
    open_channel: OpenChannel, methods: Sequence[Method], *, until_denied: bool = False
) -> list[ReplyError | None]:
    """What became of each: None, or the refusal. All are on their way at once; after a refusal the rest is sent again.

    `until_denied`: after one 403 the others are not asked; theirs is the same.
    """
    outcomes: list[ReplyError | None] = []
    while len(outcomes) < len(methods):
        channel = await open_channel()
        try:
            for asked in [channel.ask(method) for method in methods[len(outcomes) :]]:
                await channel.answer(asked)
                outcomes.append(None)
        except ReplyError as refusal:
            outcomes.append(refusal)
            if until_denied and isinstance(refusal, AccessRefused):
                outcomes += [refusal] * (len(methods) - len(outcomes))
        except BaseException:
            channel.let_go()  # who cancels does not want to wait, least of all for a broker that does not answer
            raise
        await channel.close()
    return outcomes


async def _differences(open_channel: OpenChannel, spec: Spec, refusal: ReplyError) -> list[TopologyDiffers]:
    """Everything in which what exists differs from `spec`, of which `refusal` tells the first.

    The others are found by asking again for what is there so far. `TopologyMismatch` for an exchange of another type, and
    for what cannot exist at all.
    """
    found: list[Found] = []
    declared = _active(spec)
    answer: ReplyError | None = refusal
    while isinstance(answer, PreconditionFailed) and len(found) < MAX_DIFFERENCES:
        read = read_refusal(answer.text)
        if read is None:
            break
        found.append(read)
        _check_usable(spec, read)
        again = read.applied_to(declared)
        if again is None:
            break
        declared = again
        [answer] = await _ask(open_channel, [declared])
    return differences_of(_name(spec), found) if found else await _as_told(open_channel, spec, refusal)


def _check_usable(spec: Spec, found: Found) -> None:
    """`TopologyMismatch` for a difference with which it cannot be used at all."""
    if isinstance(spec, ExchangeSpec) and found.name == "type":
        raise TopologyMismatch(
            f"{_name(spec)}: expected one of type {spec.type}, got {found.current}. Name another exchange, or remove that"
            " one"
        )
    if isinstance(spec, ExchangeSpec) and found.name == "internal":
        raise TopologyMismatch(
            f"{_name(spec)}: expected one that takes messages, got an internal one. Name another exchange, or remove that"
            " one"
        )
    if isinstance(spec, QueueSpec) and found.name == "x-queue-type" and found.current == "stream":
        raise TopologyMismatch(
            f"{_name(spec)}: expected a queue, got a stream, which keeps what was acked and forgets who had what. Name"
            " another queue, or remove that stream"
        )


async def _as_told(open_channel: OpenChannel, spec: Spec, refusal: ReplyError) -> list[TopologyDiffers]:
    """For a refusal in other words than we know: it differs if it exists, and is impossible if it does not."""
    [absent] = await _ask(open_channel, [_passive(spec)])
    if absent is not None:
        raise TopologyMismatch(f"{_name(spec)}: the broker will not have it: {refusal.text}")
    return [TopologyDiffers(_name(spec), "as declared", refusal.text)]


# --- specs as methods -----------------------------------------------------------------------------------------------


def _active(spec: Spec) -> Declaration:
    if isinstance(spec, ExchangeSpec):
        return ExchangeDeclare(exchange=spec.name, type=spec.type, durable=True, arguments=spec.arguments)
    return QueueDeclare(queue=spec.name, durable=True, arguments=spec.arguments)


def _passive(spec: Spec) -> Declaration:
    if isinstance(spec, ExchangeSpec):
        return ExchangeDeclare(exchange=spec.name, type=spec.type, passive=True)
    return QueueDeclare(queue=spec.name, passive=True)


def _binding(spec: BindingSpec) -> QueueBind | ExchangeBind:
    if spec.to_exchange:
        return ExchangeBind(
            destination=spec.destination, source=spec.source, routing_key=spec.routing_key, arguments=spec.arguments
        )
    return QueueBind(
        queue=spec.destination, exchange=spec.source, routing_key=spec.routing_key, arguments=spec.arguments
    )


def _name(spec: Spec) -> str:
    return f"{'exchange' if isinstance(spec, ExchangeSpec) else 'queue'} {spec.name!r}"
