"""The methods as bytes: both ways, against another implementation, and against bytes made to harm."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from table_values import damaged, short_texts

from dispatcher.amqp import methods
from dispatcher.amqp.errors import ProtocolError
from dispatcher.amqp.methods import (
    BasicAck,
    BasicCancel,
    BasicDeliver,
    BasicPublish,
    BasicQos,
    ConnectionClose,
    ConnectionSecureOk,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionUpdateSecret,
    Method,
    QueueBind,
    QueueDeclare,
    decode_method,
    encode_method,
)
from dispatcher.errors import ArgumentError

METHODS = sorted(Method.__subclasses__(), key=lambda cls: cls.index)

PAMQPS_NAMES = {"no_wait": "nowait", ("ExchangeDeclare", "type"): "exchange_type"}

KINDS: dict[str, st.SearchStrategy[Any]] = {
    "octet": st.integers(0, 2**8 - 1),
    "short": st.integers(0, 2**16 - 1),
    "long": st.integers(0, 2**32 - 1),
    "longlong": st.integers(0, 2**63 - 1),  # beyond, pamqp reads a negative number
    "bit": st.booleans(),
    "shortstr": short_texts,
    "longstr": st.text(max_size=300).map(str.encode),  # pamqp writes text only
    # No floats and bytes here: that pamqp takes them another way is the business of test_tables.
    "table": st.dictionaries(
        st.text(max_size=8), st.integers(-(2**63), 2**63 - 1) | st.text() | st.booleans() | st.none()
    ),
}


def kinds(cls: type[Method]) -> list[str]:
    return [word for word in cls.layout.split() if not word.startswith("(")]


def instances(cls: type[Method]) -> st.SearchStrategy[Method]:
    return st.builds(cls, *(KINDS[kind] for kind in kinds(cls)))


def pamqps_name(cls: type[Method], field: str) -> str:
    return PAMQPS_NAMES.get((cls.__name__, field)) or PAMQPS_NAMES.get(field) or field


def pamqps_class(cls: type[Method]) -> Any:
    return commands.INDEX_MAPPING[cls.index[0] << 16 | cls.index[1]]


any_method = st.sampled_from(METHODS).flatmap(instances)
per_class = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.__name__)


@per_class
def test_the_other_implementation_agrees(cls: type[Method]) -> None:
    """Of each method both implementations write the same bytes and read the same values, reserved fields included."""

    @settings(max_examples=30, deadline=None)
    @given(instances(cls))
    def agree(method: Method) -> None:
        payload = encode_method(method)
        assert payload[:4] == bytes((0, cls.index[0], 0, cls.index[1]))
        assert decode_method(payload) == method
        theirs = pamqps_class(cls)()
        theirs.unmarshal(payload[4:])
        for field in cls.__struct_fields__:
            found = getattr(theirs, pamqps_name(cls, field))
            assert (found.encode() if kind_of(cls, field) == "longstr" else found) == getattr(method, field)
        with mock.patch.object(type(theirs), "validate", lambda self: None):  # it is stricter about names than RabbitMQ
            assert decode_method(payload[:4] + theirs.marshal()) == method
            if "table" not in kinds(cls):  # pamqp sorts tables, and writes integers shorter
                assert theirs.marshal() == payload[4:]

    agree()


def kind_of(cls: type[Method], field: str) -> str:
    return kinds(cls)[cls.__struct_fields__.index(field)]


def test_the_names_are_those_of_the_specification() -> None:
    """Classes and fields are named as in the specification, which pamqp's names follow, and none of either is missing."""
    for cls in METHODS:
        theirs = pamqps_class(cls)
        assert cls.__name__ == theirs.name.replace(".", "")
        reserved = set(theirs.attributes()) - {pamqps_name(cls, field) for field in cls.__struct_fields__}
        assert len(reserved) == cls.layout.count("(")
        assert reserved <= {
            "ticket",
            "capabilities",
            "insist",
            "known_hosts",
            "out_of_band",
            "channel_id",
            "cluster_id",
        }
    left_out = {theirs.name for theirs in commands.INDEX_MAPPING.values()} - {pamqps_class(cls).name for cls in METHODS}
    assert {name for name in left_out if not name.startswith("Tx.")} == {
        "Basic.Recover",
        "Basic.RecoverAsync",
        "Basic.RecoverOk",
    }
    assert {cls.__name__ for cls in METHODS} <= set(methods.__all__)


@per_class
def test_every_field_has_a_default(cls: type[Method]) -> None:
    """A method can be made without a word, and then goes both ways; no two share a default table that can change."""
    assert decode_method(encode_method(cls())) == cls()
    with pytest.raises(AttributeError):
        cls().anything = 1  # type: ignore[attr-defined]


def test_bits_share_octets() -> None:
    """Bits that follow one another lie in one octet, the first lowest (section 4.2.5.2)."""
    declare = QueueDeclare(queue="q", passive=True, exclusive=True, no_wait=True)
    assert encode_method(declare) == b"\x00\x32\x00\x0a\x00\x00\x01q\x15\x00\x00\x00\x00"
    assert encode_method(BasicAck(258, multiple=True)) == b"\x00\x3c\x00\x50" + b"\x00" * 6 + b"\x01\x02\x01"


@pytest.mark.parametrize(
    ("method", "field"),
    [
        (QueueDeclare(queue="q" * 256), "QueueDeclare.queue"),
        (QueueDeclare(queue="ä" * 128), "QueueDeclare.queue"),
        (BasicPublish(routing_key="\ud800"), "BasicPublish.routing_key"),
        (BasicQos(prefetch_count=65536), "BasicQos.prefetch_count"),
        (BasicQos(prefetch_count=-1), "BasicQos.prefetch_count"),
        (BasicAck(delivery_tag=2**64), "BasicAck.delivery_tag"),
        (ConnectionClose(reply_code=70000), "ConnectionClose.reply_code"),
        (QueueBind(arguments={"x-y": object()}), "x-y"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(method: Method, field: str) -> None:
    """A value that its field cannot hold is an `ArgumentError` that names the field, and no shortened value."""
    with pytest.raises(ArgumentError, match=field):
        encode_method(method)


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\x00\x3c\x00", b"\x00\x3c\x00\x01", b"\x00\x5a\x00\x0a", b"\xff" * 40]
)
def test_an_unknown_method_is_refused(payload: bytes) -> None:
    """A method that we don't know closes the connection with 540."""
    with pytest.raises(ProtocolError) as caught:
        decode_method(payload)
    assert caught.value.code == 540


@settings(max_examples=300, deadline=None)
@given(any_method, st.data())
def test_short_and_trailing_bytes_are_refused(method: Method, data: st.DataObject) -> None:
    """A payload that is cut anywhere, or goes on, is refused with 502."""
    payload = encode_method(method)
    cut = data.draw(st.integers(4, len(payload) - 1)) if len(payload) > 4 else 4
    broken = [payload + b"\x00"] + ([payload[:cut]] if len(payload) > 4 else [])
    for raw in broken:
        with pytest.raises(ProtocolError) as caught:
            decode_method(raw)
        assert caught.value.code == 502


@settings(max_examples=500, deadline=None)
@given(damaged(any_method.map(encode_method)) | st.binary(max_size=100))
def test_damaged_bytes_raise_nothing_else(payload: bytes) -> None:
    """Whatever comes is either a method that can be sent back, infinities in its table aside, or a `ProtocolError`."""
    try:
        encode_method(decode_method(payload))
    except ProtocolError as error:
        assert error.code in (502, 540)
    except ArgumentError as error:
        assert "expected a finite number" in str(error)


def test_text_that_is_not_utf8_can_be_shown_and_sent_back() -> None:
    """Of a name that is not UTF-8 the rest stays readable, and the longest of them still fits a short string."""
    assert decode_method(b"\x00\x3c\x00\x1e\x04a\xff\xc3b\x00") == BasicCancel("a??b")
    longest = decode_method(b"\x00\x3c\x00\x1e\xff" + b"\xff" * 255 + b"\x00")
    assert decode_method(encode_method(longest)) == longest == BasicCancel("?" * 255)


@pytest.mark.parametrize(
    "method",
    [
        ConnectionStartOk(response=b"\0user\0canary-4711"),
        ConnectionSecureOk(response=b"canary-4711"),
        ConnectionUpdateSecret(new_secret=b"canary-4711", reason="renewed"),
    ],
)
def test_a_password_is_not_shown(method: Method) -> None:
    """No way to show a method shows what logs in."""
    assert type(method).__name__ in repr(method)
    for shown in (repr(method), str(method), f"{method}", f"{[method]}", "%s %r" % (method, method)):  # noqa: UP031
        assert "canary" not in shown


def test_methods_match_and_compare_as_data() -> None:
    """A method is a value: fields by position or name, equality, patterns."""
    assert ConnectionTune(1, 2, 3) == ConnectionTune(channel_max=1, frame_max=2, heartbeat=3)
    match decode_method(encode_method(BasicDeliver("c", 7, True, "x", "k"))):
        case BasicDeliver(delivery_tag=tag, routing_key=key):
            assert (tag, key) == (7, "k")
        case other:
            pytest.fail(f"no delivery: {other}")
