"""The names of the headers that Dispatcher adds to a message. All start with `x-dispatcher-`; the body is never touched.

This is the one list of them: what is written by `settle` and the publisher, and read by the worker and the tools.
Times are Unix milliseconds.
"""

from __future__ import annotations

__all__ = [
    "ATTEMPT",
    "BROKER_DEATH_HEADERS",
    "CANCELLED_AT",
    "CANCEL_EXCHANGE",
    "CANCEL_MARK",
    "DEAD_AT",
    "DELAYED",
    "DELAY_DUE",
    "DELAY_PREFIX",
    "DELAY_TO",
    "ERROR",
    "ERROR_TYPE",
    "ETA",
    "EXCHANGE",
    "EXPIRES_AT",
    "FIRST_PUBLISHED_AT",
    "HISTORY",
    "NOT_COPIED",
    "PREFIX",
    "PUBLISH",
    "QUEUE",
    "REASON",
    "REASON_TEXT",
    "REDELIVERIES",
    "REPLAYED_AT",
    "ROUTING_HEADERS",
    "ROUTING_KEY",
    "SCHEDULE",
    "SCHEDULED_AT",
    "SNOOZES",
    "TRACEBACK",
    "UNKNOWN_SINCE",
    "header_text",
]

PREFIX = "x-dispatcher-"

ATTEMPT = PREFIX + "attempt"  # int, 1-based; absent means 1
SNOOZES = PREFIX + "snoozes"  # int, how often the task asked to be put off
FIRST_PUBLISHED_AT = PREFIX + "first-published-at"
EXPIRES_AT = PREFIX + "expires-at"
ETA = PREFIX + "eta"
SCHEDULE = PREFIX + "schedule"  # the name of the schedule that fired it
SCHEDULED_AT = PREFIX + "scheduled-at"  # the instant it was fired for, however late it was
UNKNOWN_SINCE = PREFIX + "unknown-since"  # when a worker first met the task without knowing its name
REDELIVERIES = PREFIX + "redeliveries"  # int, holders that died with it
ERROR_TYPE = PREFIX + "error-type"
ERROR = PREFIX + "error"
TRACEBACK = PREFIX + "traceback"
HISTORY = PREFIX + "history"  # JSON, the attempts that failed, see model.history
REASON = PREFIX + "reason"  # one of the closed list in model.outcome
REASON_TEXT = PREFIX + "reason-text"
DEAD_AT = PREFIX + "dead-at"
EXCHANGE = PREFIX + "exchange"  # where it was first published to
ROUTING_KEY = PREFIX + "routing-key"
QUEUE = PREFIX + "queue"  # the queue it died in
REPLAYED_AT = PREFIX + "replayed-at"  # when it was last sent again from the dead letters: no cancel from before holds

# On the wire of RabbitMQ only; no delivery shows them.
PUBLISH = (
    PREFIX + "publish"
)  # int, the publisher's own number of this publish: a message that comes back is known by it
DELAY_PREFIX = PREFIX + "delay-"  # with the number of a level of the delay ladder: true if the message waits there
DELAYED = DELAY_PREFIX + "ladder"  # true: it has been on the ladder, and can no longer be returned
DELAY_TO = DELAY_PREFIX + "to"  # the exchange it goes to then; absent: to the queue that its routing key names
DELAY_DUE = DELAY_PREFIX + "due"  # when

CANCEL_EXCHANGE = PREFIX + "cancel-exchange"  # of a cancel: where its task was published to
CANCELLED_AT = PREFIX + "cancelled-at"
CANCEL_MARK = PREFIX + "cancel-mark"  # of no cancel: who reads the cancels knows by it that it has read all before

BROKER_DEATH_HEADERS = (
    "x-death",
    "x-delivery-count",
    "x-acquired-count",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
)
"""The broker's notes. RabbitMQ up to 3.13 reads them back and silently drops what looks like a cycle."""

ROUTING_HEADERS = ("CC", "BCC")
"""RabbitMQ sends a message to the routing keys in them, too (rabbitmq.com/docs/sender-selected); what is no list there
ends the channel."""

NOT_COPIED = frozenset((*BROKER_DEATH_HEADERS, *ROUTING_HEADERS))
"""Stripped from every copy, and refused from a sender: they would change where a message goes, or whether it arrives."""


def header_text(text: str, length: int) -> str:
    """Text as a header can carry it: at most `length` characters, and valid UTF-8 whatever an exception said."""
    return text[:length].encode("utf-8", "backslashreplace").decode()
