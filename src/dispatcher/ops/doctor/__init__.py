"""`dispatcher doctor`: is the broker right, and is it right for an app? It asks, prints, and creates nothing.

__init__     the command: which broker and which app are meant, and how it is printed
findings     what an examination finds
subject      what it is done for: an app
rabbitmq     the order of an examination of RabbitMQ, made of
  hosts        who lets us in
  release      what the broker's version and settings mean
  topology     what is there, and what an app asks for
  rights       what this user may do
  roundtrip    a message there and back
  link         one connection of it
file         the examination of an embedded broker's file
"""

from __future__ import annotations

import asyncio

import click
import msgspec

from ...amqp.tls import client_context
from ...amqp.url import parse_url
from ...brokers import TlsSettings, open_broker
from ...brokers.memory import MemoryBroker
from ...brokers.sqlite import SqliteBroker
from ...observe.text import clean
from ...runtime.settings import DEFAULT_URL
from ..connect import place_of
from ..failures import EXIT_CONFIG, EXIT_USAGE, CliError
from ..locate import load_app
from .file import examine_file
from .findings import Finding, Tell, note
from .rabbitmq import examine_rabbitmq
from .subject import Subject, subject_of

__all__ = ["command"]

COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "wrong": "red"}
CHECK_WIDTH = 26


@click.command("doctor")
@click.argument("words", metavar="[URL] [MODULE:APP]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], as_json: bool) -> int:
    """Examine a broker: what is right, what is wrong, and what to do about it.

    With MODULE:APP it is examined for that app: its exchange, queues and tasks. The broker is that of the URL, else the
    app's, else $DISPATCHER_URL, else sqlite:///dispatcher.db. Nothing is created there, and nothing taken.

    Exit codes: 0 nothing is wrong, warnings aside; 69 the broker cannot be reached, or takes nothing; 74 storage;
    78 configuration, credentials or rights.
    """
    url, target = _sorted(words)
    app = load_app(target)[1] if target is not None else None
    place = place_of(app) if app is not None else None
    subject = subject_of(target, app) if target is not None and app is not None else None
    tls = place.tls if place is not None else TlsSettings()
    if url is None:
        url = place.url if place is not None else ctx.obj or DEFAULT_URL
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        _show_json(finding) if as_json else _show(finding)

    asyncio.run(_examine(url, tls, subject, tell))
    if not as_json:
        _sum_up(findings)
    codes = {finding.exit_code for finding in findings} - {0}
    return EXIT_CONFIG if EXIT_CONFIG in codes else max(codes, default=0)


def _sorted(words: tuple[str, ...]) -> tuple[str | None, str | None]:
    """The URL and the app among `words`, each at most once."""
    urls = [word for word in words if "://" in word]
    targets = [word for word in words if "://" not in word]
    if len(urls) > 1 or len(targets) > 1:
        raise CliError(
            "expected a URL, MODULE:APP, or both, once each",
            "as in: dispatcher doctor amqp://user:password@host/vhost tasks:app",
            exit_code=EXIT_USAGE,
        )
    return urls[0] if urls else None, targets[0] if targets else None


async def _examine(url: str, tls: TlsSettings, subject: Subject | None, tell: Tell) -> None:
    broker = open_broker(url, tls)
    if isinstance(broker, MemoryBroker):
        tell(note("memory", "a memory:// broker lives inside its own process: there is nothing to examine"))
    elif isinstance(broker, SqliteBroker):
        await examine_file(broker, subject, tell)
    else:
        parsed = parse_url(url, secure_connection=tls.secure_connection)
        context = client_context(parsed, tls_config=tls.tls_config, insecure_skip_verify=tls.insecure_skip_verify)
        await examine_rabbitmq(parsed, context, subject, tell)


def _show_json(finding: Finding) -> None:
    shown = {"check": finding.check, "status": finding.status, "text": finding.text, "advice": finding.advice}
    click.echo(msgspec.json.encode(shown))


def _show(finding: Finding) -> None:
    status = click.style(f"{finding.status:<8}", fg=COLORS[finding.status], bold=finding.status == "wrong")
    click.echo(f"{status} {clean(finding.check):<{CHECK_WIDTH}} {clean(finding.text)}")
    if finding.advice:
        click.echo(f"{'':8} {'':{CHECK_WIDTH}} -> {clean(finding.advice, max_bytes=None)}")


def _sum_up(findings: list[Finding]) -> None:
    wrong, warnings = (sum(finding.status == status for finding in findings) for status in ("wrong", "warning"))
    also = f", {warnings} {'warning' if warnings == 1 else 'warnings'}" if warnings else ""
    click.echo(f"{wrong} wrong{also}" if wrong else f"nothing is wrong{also}")
