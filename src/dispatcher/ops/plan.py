"""`dispatcher plan`: what `declare` would create on RabbitMQ for an app, and the rights that it takes. Connects to nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click
import msgspec

from ..amqp.url import parse_url
from ..brokers.rabbitmq.ladder import level_names
from ..brokers.rabbitmq.plan import Rights, definitions, plan_of, roles
from ..brokers.rabbitmq.specs import Arguments, ExchangeSpec, Plan, QueueSpec
from ..brokers.rabbitmq.version import Features, features_of, server_version
from ..model.topology import Topology
from .failures import EXIT_USAGE, CliError
from .locate import load_app
from .terminal import echo_table

__all__ = ["command"]

NEWEST = "4.3"
OLDEST = (3, 10)
_LEVEL = re.compile(r"\d+$")


@click.command("plan")
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--rabbitmq", "release", default=NEWEST, show_default=True, metavar="VERSION",
    help="The release that it is for: 4.0 to 4.2 need more queues for delays.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="Print definitions, as `rabbitmqctl import_definitions` takes them."
)
def command(target: str, release: str, as_json: bool) -> None:
    """Show what MODULE:APP would declare on RabbitMQ, and the rights of the users it can have.

    Nothing is connected to. The vhost is that of the app's URL, `/` where it has none.
    """
    app = load_app(target)[1]
    url = app.config.url
    vhost = parse_url(url).vhost if url.partition("://")[0].lower() in ("amqp", "amqps") else "/"
    features = _features(release)
    topology = Topology(app.config.exchange, app.queues, schedules=tuple(app.schedules))
    plan = plan_of(topology, features)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(definitions(plan, vhost)), indent=2))
        return
    click.echo(f"On RabbitMQ {release}, in vhost {vhost!r}; everything is durable.\n")
    _show_plan(plan, level_names(features))
    _show_rights(roles(topology))
    for note in plan.notes:
        click.echo(f"\n{note.what}: expected {note.expected}, got {note.found}")


def _features(release: str) -> Features:
    version = server_version({"version": release})
    if version < OLDEST:
        raise CliError(
            f"--rabbitmq: expected a version from 3.10 on, such as {NEWEST}, got {release!r}", exit_code=EXIT_USAGE
        )
    return features_of(version)


def _show_plan(plan: Plan, levels: Sequence[str]) -> None:
    hidden = {level: _LEVEL.sub("N", level) for level in levels}
    exchanges = [_exchange_row(spec, hidden) for spec in plan.exchanges]
    echo_table(("EXCHANGE", "TYPE", "ARGUMENTS"), dict.fromkeys(exchanges))
    click.echo()
    queues = [_queue_row(spec, hidden) for spec in plan.queues]
    echo_table(("QUEUE", "TYPE", "ARGUMENTS"), dict.fromkeys(queues))
    click.echo()
    bindings = [
        (
            hidden.get(spec.source, spec.source),
            spec.routing_key or None,
            "exchange" if spec.to_exchange else "queue",
            hidden.get(spec.destination, spec.destination),
        )
        for spec in plan.bindings
    ]
    echo_table(("FROM EXCHANGE", "KEY", "TO", "NAME"), dict.fromkeys(bindings))
    click.echo(f"\nN: from 0 to {len(levels) // len(set(hidden.values())) - 1}, the levels of the ladder of delays.\n")


def _exchange_row(spec: ExchangeSpec, hidden: dict[str, str]) -> tuple[str, str, str]:
    if spec.name in hidden:
        return hidden[spec.name], spec.type, "alternate-exchange=that of N-1"
    return spec.name, spec.type, _written(spec.arguments)


def _queue_row(spec: QueueSpec, hidden: dict[str, str]) -> tuple[str, str, str]:
    arguments = {name: value for name, value in spec.arguments.items() if name != "x-queue-type"}
    if spec.name in hidden:
        arguments |= {"x-message-ttl": "100 * 2^N + 1", "x-dead-letter-exchange": "that of N-1"}
    return hidden.get(spec.name, spec.name), str(spec.arguments.get("x-queue-type", "classic")), _written(arguments)


def _written(arguments: Arguments) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items())


def _show_rights(needed: dict[str, Rights]) -> None:
    rows = [
        (name, right, pattern)
        for name, rights in needed.items()
        for right, pattern in (("configure", rights.configure), ("write", rights.write), ("read", rights.read))
    ]
    echo_table(("USER", "RIGHT", "PATTERN"), rows)
