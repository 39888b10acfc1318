"""What the broker's release and its settings mean for tasks: versions, heartbeats, how long a delivery may be held.

Sources: RabbitMQ's release notes, and its pages on heartbeats and consumers.
"""

from __future__ import annotations

from ...amqp.connection import Connection
from ...brokers.rabbitmq.consuming import DEFAULT_DELIVERY_TIMEOUT_SECONDS
from ...brokers.rabbitmq.version import ServerVersion, features_of, server_version
from .findings import Finding, Tell, note, ok, warning, wrong
from .subject import Subject

__all__ = ["check_release", "heartbeat_finding", "timeout_finding", "version_finding"]

OLDEST = (3, 10)
CAPABILITIES = ("publisher_confirms", "basic.nack", "connection.blocked", "consumer_cancel_notify")
SHORT_HEARTBEAT_SECONDS = 5
LONG_HEARTBEAT_SECONDS = 60
MOST_TASKS_NAMED = 5


def check_release(connection: Connection, subject: Subject | None, tell: Tell) -> None:
    """Tell what the broker says of itself in the handshake."""
    properties = connection.server_properties
    version = server_version(properties)
    product = f"{properties.get('product', 'a broker without a name')} {properties.get('version', '')}".strip()
    tell(version_finding(version, product))
    capabilities = properties.get("capabilities")
    has = capabilities if isinstance(capabilities, dict) else {}
    if missing := [name for name in CAPABILITIES if not has.get(name)]:
        tell(wrong("features", f"the broker lacks {', '.join(missing)}", "use RabbitMQ 3.10 or later"))
    tell(heartbeat_finding(connection.heartbeat_seconds))
    tell(timeout_finding(version, subject))


def version_finding(version: ServerVersion, product: str) -> Finding:
    """What that release means. `product`: how the broker names itself."""
    check = "version"
    if not any(version):
        return warning(
            check,
            f"{product}, which is no release of RabbitMQ that is known here",
            "use RabbitMQ 3.10 or later; nothing newer than 3.10 is made use of here",
        )
    text = f"RabbitMQ {version}"
    if version < OLDEST:
        return wrong(
            check,
            f"{text}: its quorum queues know no time to live, which delays need",
            "upgrade it to 3.10 or later, best to 4.0.7 or later",
        )
    if (4, 0) <= version < (4, 0, 7):
        return warning(
            check,
            f"{text}: a fault in the replication of its quorum queues may lose messages",
            "upgrade it to 4.0.7 or later",
        )
    match features_of(version).quorum_priorities:
        case "none":
            return ok(check, f"{text}: quorum queues do not order by priority, and count every hand-back as a death")
        case "two levels":
            return ok(check, f"{text}: quorum queues have two levels of priority, and count every hand-back as a death")
        case _:
            return ok(check, f"{text}: quorum queues order by priority, and a hand-back is no death")


def heartbeat_finding(seconds: int) -> Finding:
    """What the interval that was agreed upon means; zero is none."""
    check = "heartbeat"
    if not seconds:
        return warning(
            check,
            "none was agreed upon: a link that falls silent is never noticed",
            "leave heartbeat=0 out of the URL, and heartbeat = 0 out of rabbitmq.conf",
        )
    text = f"every {seconds} s: a link that falls silent is noticed after {2 * seconds} s"
    if seconds < SHORT_HEARTBEAT_SECONDS:
        return warning(check, f"{text}, and one that is only slow may be given up", "say heartbeat=15 in the URL")
    if seconds > LONG_HEARTBEAT_SECONDS:
        return warning(check, f"{text}; what it holds waits as long", "say heartbeat=15 in the URL")
    return ok(check, text)


def timeout_finding(version: ServerVersion, subject: Subject | None) -> Finding:
    """Whether the broker takes deliveries back from tasks that run long."""
    check = "long tasks"
    if features_of(version).consumer_timeout_argument:
        return ok(check, "the broker leaves a delivery with its worker for as long as the task takes")
    minutes = f"{DEFAULT_DELIVERY_TIMEOUT_SECONDS / 60:.0f} minutes"
    text = f"the broker takes a delivery back after {minutes}, unless its consumer_timeout says otherwise"
    if version >= (3, 12):
        advice = "let a policy set consumer-timeout above the longest task's time, in milliseconds"
    else:
        advice = "set consumer_timeout in rabbitmq.conf above the longest task's time, in milliseconds"
    if subject is None:
        return note(check, text, advice)
    long = [
        name
        for name, seconds in subject.timeouts.items()
        if seconds is None or seconds > DEFAULT_DELIVERY_TIMEOUT_SECONDS
    ]
    if not long:
        return ok(check, f"{text}; every task has a timeout below that")
    more = f" and {len(long) - MOST_TASKS_NAMED} more" if len(long) > MOST_TASKS_NAMED else ""
    return warning(
        check,
        f"{text}; no timeout, or a longer one, have: {', '.join(long[:MOST_TASKS_NAMED])}{more}",
        f"give them a timeout_seconds, or {advice}",
    )
