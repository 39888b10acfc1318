"""What AMQP's errors are called in Dispatcher."""

from __future__ import annotations

import pytest

from dispatcher.amqp.errors import AmqpError, ChannelGone, MechanismNotOffered, PeerLost, reply_error
from dispatcher.amqp.url import parse_url
from dispatcher.brokers.rabbitmq.translate import connect_error, largest_body, lost, refusal
from dispatcher.errors import AuthenticationError, ConnectionLost, TopologyMismatch

URL = parse_url("amqp://someone:s3cret@h/v")
PEER = "h:5672"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (reply_error(403, "ACCESS_REFUSED - Login was refused"), AuthenticationError),
        (reply_error(530, "NOT_ALLOWED - vhost v not found"), AuthenticationError),
        (reply_error(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'someone'"), AuthenticationError),
        (
            reply_error(530, "NOT_ALLOWED - connection to vhost refused: connection limit (1) is reached"),
            ConnectionLost,
        ),
        (reply_error(530, "NOT_ALLOWED - access to vhost 'limit' refused for user 'u'"), AuthenticationError),
        (reply_error(530, "NOT_ALLOWED - vhost 'is down' not found"), AuthenticationError),
        (reply_error(530, "NOT_ALLOWED - access to vhost 'a' refused for user 'my limit'"), AuthenticationError),
        (
            reply_error(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (3) is reached"),
            ConnectionLost,
        ),
        (reply_error(541, "INTERNAL_ERROR - vhost 'v' is down"), ConnectionLost),
        (MechanismNotOffered("expected the broker to offer EXTERNAL, it offers 'PLAIN'"), AuthenticationError),
        (reply_error(320, "CONNECTION_FORCED - broker forced connection closure"), ConnectionLost),
        (PeerLost("h:5672: the other side closed the connection"), ConnectionLost),
    ],
    ids=str,
)
def test_why_a_connection_could_not_be_opened(error: AmqpError, kind: type[Exception]) -> None:
    """What trying again cannot help is told apart from what it may; the peer is named once, the password never."""
    told = connect_error(error, PEER, URL)
    assert type(told) is kind
    assert str(told).count(PEER) == 1
    assert "s3cret" not in str(told)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (403, TopologyMismatch),
        (404, TopologyMismatch),
        (405, TopologyMismatch),
        (406, TopologyMismatch),
        (320, ConnectionLost),
        (506, ConnectionLost),
        (541, ConnectionLost),
    ],
)
def test_what_was_refused_and_what_was_never_answered(code: int, kind: type[Exception]) -> None:
    """A refusal is about the queue or the user; all else is about the connection, and a new one may do."""
    told = refusal(reply_error(code, "the broker's words"), "consuming queue 'q'")
    assert type(told) is kind
    assert "consuming queue 'q'" in str(told)
    assert "the broker's words" in str(told)
    assert type(refusal(ChannelGone("no answer"), "x")) is ConnectionLost


def test_how_a_session_was_lost() -> None:
    """With the reason, if there is one."""
    assert "closed" in str(lost(None, PEER))
    assert "reset" in str(lost(PeerLost("the other side reset the connection"), PEER))


@pytest.mark.parametrize(
    ("code", "text", "limit"),
    [
        (406, "PRECONDITION_FAILED - message size 2001 is larger than configured max size 2000", 2000),
        (406, "PRECONDITION_FAILED - message size 134217729 is larger than max size 134217728", 134217728),
        (406, "PRECONDITION_FAILED - unknown delivery tag 7", None),
        (404, "NOT_FOUND - no exchange 'x'", None),
    ],
)
def test_the_largest_message_is_learnt_from_a_refusal(code: int, text: str, limit: int | None) -> None:
    """RabbitMQ tells its `max_message_size` in no other way."""
    assert largest_body(reply_error(code, text)) == limit
