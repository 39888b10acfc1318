"""`read_refusal`: what RabbitMQ 3.10.8 and 4.3.6 say of a queue or exchange that exists otherwise."""

from __future__ import annotations

import pytest

from dispatcher.amqp.methods import ExchangeDeclare, QueueDeclare
from dispatcher.brokers.rabbitmq.inequivalent import Found, differences_of, read_refusal

OF_QUEUE = "PRECONDITION_FAILED - inequivalent arg '{}' for queue 'q' in vhost '/': received {} but current is {}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OF_QUEUE.format("x-max-length", "'77'", "'1000'"), Found("x-max-length", "77", "1000", None)),
        (
            OF_QUEUE.format("x-expires", "none", "the value '9' of type 'signedint'"),
            Found("x-expires", None, "9", "signedint"),
        ),
        (
            OF_QUEUE.format("x-overflow", "the value 'reject-publish' of type 'longstr'", "none"),
            Found("x-overflow", "reject-publish", None, None),
        ),
        (OF_QUEUE.format("durable", "'true'", "'false'"), Found("durable", "true", "false", None)),
        (
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'ex' in vhost '/': received 'direct' but current is"
            " 'topic'",
            Found("type", "direct", "topic", None),
        ),
        (
            OF_QUEUE.format("x-dead-letter-exchange", "'it's'", "the value 'of type 'odd'' of type 'longstr'"),
            Found("x-dead-letter-exchange", "it's", "of type 'odd'", "longstr"),
        ),
        ("PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'qqqqqqqqqqqqqq...", None),
        (OF_QUEUE.format("x-max-length", "'77'", "'10..."), None),
        ("PRECONDITION_FAILED - queue limit in vhost 'v' (5) is reached", None),
        ("", None),
    ],
)
def test_reading_a_refusal(text: str, expected: Found | None) -> None:
    """Name, what was asked for and what there is; None for other words and for what was cut off."""
    assert read_refusal(text) == expected


DECLARED = QueueDeclare(queue="q", durable=True, arguments={"x-max-length": 5, "x-overflow": "reject-publish"})


@pytest.mark.parametrize(
    ("found", "arguments"),
    [
        (Found("x-max-length", "5", "7", None), {"x-max-length": 7, "x-overflow": "reject-publish"}),
        (Found("x-max-length", "5", None, None), {"x-overflow": "reject-publish"}),
        (Found("x-overflow", "reject-publish", "drop-head", None), {"x-max-length": 5, "x-overflow": "drop-head"}),
        (Found("x-expires", None, "9", "signedint"), dict(DECLARED.arguments) | {"x-expires": 9}),
        (Found("x-expires", None, "-9", "long"), dict(DECLARED.arguments) | {"x-expires": -9}),
        (Found("x-other", None, "9", "longstr"), dict(DECLARED.arguments) | {"x-other": "9"}),
    ],
)
def test_asking_again_for_what_there_is(found: Found, arguments: dict[str, object]) -> None:
    """An argument is taken over with its type, or left out."""
    again = found.applied_to(DECLARED)
    assert again is not None
    assert dict(again.arguments) == arguments
    assert again.durable


def test_asking_again_for_a_flag() -> None:
    """Flags are no arguments."""
    again = Found("durable", "true", "false", None).applied_to(ExchangeDeclare(exchange="ex", durable=True))
    assert again is not None
    assert not again.durable


@pytest.mark.parametrize(
    "found",
    [Found("x-f", None, "0.5", "double"), Found("x-max-length", "5", "1e3", None), Found("x", None, "", "long")],
)
def test_what_cannot_be_asked_for_again(found: Found) -> None:
    """Then no further difference is looked for."""
    assert found.applied_to(DECLARED) is None


def test_differences_have_our_names() -> None:
    """The arguments that a `Queue` has a word for are called by it; numbers are numbers, absent is None."""
    found = [
        Found("x-max-length", "77", "1000", None),
        Found("x-delivery-limit", "20", None, None),
        Found("x-expires", None, "9", "signedint"),
        Found("durable", "true", "false", None),
    ]
    assert [(d.what, d.expected, d.found) for d in differences_of("queue 'q'", found)] == [
        ("max_length of queue 'q'", "77", "1000"),
        ("delivery_limit of queue 'q'", "20", "None"),
        ("x-expires of queue 'q'", "None", "9"),
        ("durable of queue 'q'", "True", "False"),
    ]


def test_another_type_is_the_only_difference() -> None:
    """The arguments that come with it are not told; no type is classic."""
    found = [Found("x-overflow", "reject-publish", None, None), Found("x-queue-type", "quorum", None, None)]
    assert [(d.what, d.expected, d.found) for d in differences_of("queue 'q'", found)] == [
        ("type of queue 'q'", "'quorum'", "'classic'")
    ]
