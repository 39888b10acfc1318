"""The properties of a message as bytes: both ways, against another implementation, and against bytes made to harm."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pamqp.commands
import pamqp.header
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_values import damaged, in_bytes, short_texts, tables

from dispatcher.amqp.errors import ProtocolError
from dispatcher.amqp.properties import Properties, PropertiesForm, encode_properties
from dispatcher.amqp.tables import encode_table
from dispatcher.errors import ArgumentError

NAMES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
PAMQPS_NAMES = {"type": "message_type", "message_type": "type"}
TEXTS = ("content_type", "correlation_id", "reply_to", "expiration", "message_id", "type", "user_id", "app_id")

values = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TEXTS, short_texts),
        "headers": tables,
        "delivery_mode": st.integers(0, 255),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, 2**64 - 1),
    },
)


def encode(values: dict[str, Any]) -> bytes:
    if "headers" in values:
        values = {**values, "headers": encode_table(values["headers"])}
    return encode_properties(**values)


def shown(properties: Properties) -> dict[str, Any]:
    found = {name: getattr(properties, name) for name in NAMES}
    return {name: value for name, value in found.items() if value not in (None, {})}


@settings(deadline=None)
@given(values)
def test_properties_come_back_as_they_went(values: dict[str, Any]) -> None:
    """Every set of properties, the empty one too, decodes to what it was made from; the rest is None."""
    assert shown(Properties(encode(values))) == {name: value for name, value in values.items() if value != {}}


@settings(deadline=None)
@given(short_texts, st.integers(0, 255), st.none() | st.integers(0, 255), tables, short_texts)
def test_a_form_makes_the_same_bytes(
    content_type: str, delivery_mode: int, priority: int | None, headers: dict[str, Any], message_id: str
) -> None:
    """Whatever is in its fixed part, the words `headers` and `message_id` too."""
    form = PropertiesForm(content_type=content_type, delivery_mode=delivery_mode, priority=priority)
    table = encode_table(headers)
    assert form.encode(table, message_id) == encode_properties(
        content_type=content_type, headers=table, delivery_mode=delivery_mode, priority=priority, message_id=message_id
    )


def test_a_form_whose_fixed_part_looks_like_what_varies() -> None:
    """It is not mistaken for it."""
    form = PropertiesForm(content_type="headers", delivery_mode=2, priority=None)
    properties = Properties(form.encode(encode_table({}), "message_id"))
    assert (properties.content_type, properties.message_id, properties.headers) == ("headers", "message_id", {})
    with pytest.raises(ArgumentError, match="message_id"):
        form.encode(encode_table({}), "x" * 256)


@settings(deadline=None)
@given(values)
def test_pamqp_reads_what_we_write(values: dict[str, Any]) -> None:
    """Another implementation reads our bytes as what they were made from (it takes times of over 32 bits for ms)."""
    values["timestamp"] = values.get("timestamp", 0) % 2**32
    header = pamqp.header.ContentHeader()
    header.unmarshal(struct.pack(">HHQ", 60, 0, 5) + encode(values))
    found = {PAMQPS_NAMES.get(name, name): value for name, value in header.properties if value is not None}
    assert found.pop("cluster_id") == ""  # which is absent
    found["headers"] = in_bytes(found.get("headers") or {})
    assert found == {
        **values,
        "headers": values.get("headers", {}),
        "timestamp": datetime.fromtimestamp(values["timestamp"], UTC),
    }


@settings(deadline=None)
@given(values)
def test_we_read_what_pamqp_writes(values: dict[str, Any]) -> None:
    """We read another implementation's bytes, of properties that we never send too."""
    values = {name: value for name, value in values.items() if value != "" and name != "headers"}
    values["timestamp"] = values.get("timestamp", 0) % 2**32
    theirs = {
        **values,
        "timestamp": datetime.fromtimestamp(values["timestamp"], UTC),
        "headers": {"n": 1},
        "content_encoding": "gzip",
    }
    with mock.patch.object(pamqp.commands.Basic.Properties, "validate", lambda self: None):  # of delivery_mode
        raw = pamqp.commands.Basic.Properties(
            **{PAMQPS_NAMES.get(name, name): v for name, v in theirs.items()}
        ).marshal()
    assert shown(Properties(raw)) == {**values, "headers": {"n": 1}, "content_encoding": "gzip"}


def test_the_bytes_of_what_we_send() -> None:
    """Flags from the highest bit down, then the values in the same order (section 4.2.6.1)."""
    raw = encode_properties(
        content_type="a/j", headers=encode_table({"n": None}), delivery_mode=2, priority=4, message_id="id"
    )
    assert raw == b"\xb8\x80" + b"\x03a/j" + b"\x00\x00\x00\x03\x01nV" + b"\x02" + b"\x04" + b"\x02id"
    assert encode_properties() == b"\x00\x00"
    assert Properties(b"\x00\x04\x01c").cluster_id == "c"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "x" * 256) for name in TEXTS),
        *((name, "ä" * 128) for name in TEXTS),
        ("message_id", "\ud800"),
        ("priority", 256),
        ("priority", -1),
        ("delivery_mode", 256),
        ("timestamp", -1),
        ("timestamp", 2**64),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, value: Any) -> None:
    """A value that its property cannot hold is an `ArgumentError` that names the property."""
    with pytest.raises(ArgumentError, match=f"^{name}: "):
        encode_properties(**{name: value})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80",
        b"\x80\x00",  # a content type, and nothing of it
        b"\x80\x00\x05json",
        b"\x20\x00\x00\x00",  # half the length of a table
        b"\x20\x00\xff\xff\xff\xff",
        b"\x10\x00",
        b"\x00\x40\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00",  # one octet more than announced
        b"\x80\x00\x01jx",
        b"\x00\x01",  # more flags follow, and don't
        b"\x00\x01\x00\x00",
        b"\x00\x02",  # a flag of no property
    ],
    ids=bytes.hex,
)
def test_malformed_properties_are_a_syntax_error(raw: bytes) -> None:
    """What is cut off, goes on, or announces what does not exist, is refused with 502 whichever property is asked for."""
    for name in NAMES:
        with pytest.raises(ProtocolError) as caught:
            getattr(Properties(raw), name)
        assert caught.value.code == 502


def test_a_broken_header_table_leaves_the_rest_readable() -> None:
    """A table that is malformed inside is an error of `headers` alone, each time that it is asked for."""
    properties = Properties(encode_properties(message_id="id", headers=b"\x00\x00\x00\x03\x01n?"))
    assert properties.message_id == "id"
    for _ in range(2):
        with pytest.raises(ProtocolError):
            _ = properties.headers
    assert properties.message_id == "id"


def test_text_that_is_not_utf8_can_be_shown_and_sent_on() -> None:
    """Of a stranger's text the readable rest stays, and the copy still fits."""
    assert Properties(b"\x00\x80\x04a\xff\xc3b").message_id == "a??b"
    longest = Properties(b"\x00\x80\xff" + b"\xff" * 255).message_id
    assert Properties(encode_properties(message_id=longest)).message_id == longest == "?" * 255


@settings(max_examples=500, deadline=None)
@given(damaged(values.map(encode)) | st.binary(max_size=100))
def test_damaged_bytes_raise_nothing_else(raw: bytes) -> None:
    """Whatever comes, each property is a value or a `ProtocolError`."""
    properties = Properties(raw)
    for name in NAMES:
        try:
            getattr(properties, name)
        except ProtocolError as error:
            assert error.code == 502
