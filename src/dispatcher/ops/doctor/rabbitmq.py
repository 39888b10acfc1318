"""The examination of a RabbitMQ: what is asked, in which order, and on which connection.

Everything that looks comes first, on one connection. What publishes has its own: an alarm of the broker blocks that one,
and must not keep the rest from being told.
"""

from __future__ import annotations

import ssl

from ...amqp.errors import AmqpError
from ...amqp.url import AmqpUrl
from ...brokers.rabbitmq.ladder import for_exchange, ladder
from ...brokers.rabbitmq.plan import plan_of
from ...brokers.rabbitmq.schedules import schedule_queue
from ...model.topology import CANCEL_EXCHANGE, DEAD_EXCHANGE, DELAY_EXCHANGE, SCHEDULE_EXCHANGE
from ..failures import EXIT_UNAVAILABLE
from .findings import Finding, Tell, wrong
from .hosts import reach
from .link import Alarm, Link, open_link
from .release import check_release
from .rights import check_rights, may_read, may_write, sampled_levels
from .roundtrip import check_roundtrip
from .subject import Subject
from .topology import check_ladder, check_topology, check_ways

__all__ = ["examine_rabbitmq"]


async def examine_rabbitmq(url: AmqpUrl, context: ssl.SSLContext | None, subject: Subject | None, tell: Tell) -> None:
    """Tell everything that can be told of the broker at `url`, and of what `subject` needs there; None: of no app."""
    links = await reach(url, context, tell)
    try:
        if links:
            link = links[0]
            check_release(link.connection, subject, tell)
            publisher = await open_link(url, link.host, context)
            links.append(publisher)
            if subject is None:
                await check_ladder(link, ladder(link.features), None, tell)
                await check_roundtrip(publisher, None, bind=False, tell=tell)
            else:
                await _examine(link, publisher, url, subject, tell)
    except Alarm as alarm:
        tell(_blocked(str(alarm)))
    except AmqpError as error:
        tell(
            wrong(
                "connection",
                f"it ended, or was refused, in the midst of the examination: {error}",
                "see the broker's log, then try again",
                exit_code=EXIT_UNAVAILABLE,
            )
        )
    finally:
        for link in links:
            await link.close()


async def _examine(link: Link, publisher: Link, url: AmqpUrl, subject: Subject, tell: Tell) -> None:
    topology = subject.topology
    plan = plan_of(topology, link.features)
    seen = await check_topology(link, plan, subject, tell)
    may_create_ladder = await check_ladder(link, plan, subject, tell)
    schedules = [schedule_queue(topology.exchange, name) for name in topology.schedules]
    read = await may_read(link, [*(queue.name for queue in topology.queues), *schedules, CANCEL_EXCHANGE])
    # From here on something is published.
    exchanges = (
        topology.exchange,
        DEAD_EXCHANGE,
        DELAY_EXCHANGE,
        CANCEL_EXCHANGE,
        for_exchange(topology.exchange),
        *sampled_levels(link),
        *((SCHEDULE_EXCHANGE,) if schedules else ()),
    )
    write = await may_write(publisher, exchanges)
    await check_rights(url, subject, {**seen.may_create, DELAY_EXCHANGE: may_create_ladder}, read, write, tell)
    if seen.present and write[DELAY_EXCHANGE]:
        await check_ways(publisher, subject, tell)
    exchange = topology.exchange if seen.present and write[topology.exchange] else None
    await check_roundtrip(publisher, exchange, bind=seen.as_asked_for, tell=tell)


def _blocked(reason: str) -> Finding:
    match reason:
        case _ if "memory" in reason:
            advice = "see what uses it (rabbitmq-diagnostics memory_breakdown), or raise vm_memory_high_watermark"
        case _ if "disk" in reason:
            advice = "free some there, or lower disk_free_limit"
        case _:
            advice = "see the broker's log"
    return wrong(
        "alarm",
        f"the broker takes no messages from anyone now: {reason or 'it did not say why'}; what publishes was not tried",
        advice,
        exit_code=EXIT_UNAVAILABLE,
    )
