"""The reply codes as errors, and what a broker's text may do to a terminal: nothing."""

from __future__ import annotations

import pytest

from dispatcher.amqp.errors import (
    AccessRefused,
    AmqpError,
    ChannelGone,
    ChannelNotOpen,
    CommandInvalid,
    ConnectionForced,
    ContentTooLarge,
    FrameInvalid,
    HandshakeError,
    InternalError,
    InvalidPath,
    NoConsumers,
    NoRoute,
    NotAllowed,
    NotFound,
    NotSupported,
    PeerLost,
    PreconditionFailed,
    ProtocolError,
    ReplyError,
    ResourceLocked,
    ResourcesExhausted,
    SyntaxInvalid,
    UnexpectedFrame,
    reply_error,
)
from dispatcher.errors import DispatcherError

CODES = {
    311: ContentTooLarge,
    312: NoRoute,
    313: NoConsumers,
    320: ConnectionForced,
    402: InvalidPath,
    403: AccessRefused,
    404: NotFound,
    405: ResourceLocked,
    406: PreconditionFailed,
    501: FrameInvalid,
    502: SyntaxInvalid,
    503: CommandInvalid,
    504: ChannelNotOpen,
    505: UnexpectedFrame,
    506: ResourcesExhausted,
    530: NotAllowed,
    540: NotSupported,
    541: InternalError,
}


@pytest.mark.parametrize(("code", "cls"), CODES.items(), ids=[str(code) for code in CODES])
def test_every_reply_code_is_a_class_with_a_sentence(code: int, cls: type[ReplyError]) -> None:
    """A reply code makes its class, whose sentence stands in its docstring and before the broker's text."""
    error = reply_error(code, "REASON - the broker's words", 50, 10)
    assert type(error) is cls
    assert cls.code == code
    assert (error.code, error.text, error.class_id, error.method_id) == (code, "REASON - the broker's words", 50, 10)
    assert cls.__doc__ == cls.sentence
    assert len(cls.sentence) > 40 and cls.sentence.endswith(".")
    assert str(error) == f"{cls.sentence} The broker said ({code}, method 50.10): REASON - the broker's words"


def test_the_table_is_whole() -> None:
    """No class of a reply code is missing from the table above, and no two say the same."""
    assert set(ReplyError.__subclasses__()) == set(CODES.values())
    assert len({cls.sentence for cls in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("code", [0, 200, 299, 599, 65535])
def test_an_unknown_code_is_a_plain_reply_error(code: int) -> None:
    """A code that nobody listed is an error too, with that code and the broker's text."""
    error = reply_error(code, "")
    assert type(error) is ReplyError
    assert error.code == code
    assert str(error).endswith(f"The broker said ({code}): nothing more")


def test_every_error_is_an_amqp_error_of_dispatcher() -> None:
    """One `except` catches them all; a protocol error carries the code that the connection is closed with."""
    for cls in (ReplyError, ProtocolError, PeerLost, HandshakeError, ChannelGone):
        assert issubclass(cls, AmqpError) and issubclass(AmqpError, DispatcherError)
    error = ProtocolError(505, "expected a header")
    assert (error.code, str(error)) == (505, "expected a header")


def test_the_brokers_text_steers_no_terminal() -> None:
    """Control characters of both sets, escape sequences and lone surrogates are shown escaped, other text as it is."""
    error = reply_error(404, "no queue 'wärme'\x1b[2J\r\n\x00\x7f\x9b31m\u2028\u202e\ud800 in vhost '/'")
    assert error.text == ("no queue 'wärme'\\x1b[2J\\r\\n\\x00\\x7f\\x9b31m\\u2028\\u202e\\ud800 in vhost '/'")
    assert str(error).isprintable()


@pytest.mark.parametrize("text", ["x" * 10_000, "\x1b" * 10_000, "\U0001f600" * 10_000])
def test_the_brokers_text_is_cut(text: str) -> None:
    """Of a text without end 500 characters are kept, escapes counted as they are shown."""
    error = reply_error(541, text)
    assert len(error.text) == 500
    assert len(str(error)) < 700
