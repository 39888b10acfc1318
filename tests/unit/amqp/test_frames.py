"""The frames that are built by hand, read by another implementation."""

from __future__ import annotations

import pytest
from amqp_peer import unmarshal
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import body, commands, frame, header, heartbeat

from dispatcher.amqp.frames import (
    HEARTBEAT_FRAME,
    PROTOCOL_HEADER,
    ack_frame,
    content_frames,
    method_frame,
    nack_frame,
)

channels = st.integers(1, 65_535)
tags = st.integers(1, 2**63 - 1)  # the other implementation takes them as signed


@settings(deadline=None)
@given(channels, tags, st.booleans())
def test_ack(channel: int, tag: int, multiple: bool) -> None:
    """An ack is the ack that the other implementation writes."""
    assert ack_frame(channel, tag, multiple=multiple) == frame.marshal(commands.Basic.Ack(tag, multiple), channel)


@settings(deadline=None)
@given(channels, tags, st.booleans())
def test_nack(channel: int, tag: int, multiple: bool) -> None:
    """A nack always hands back: nothing is dropped by it."""
    expected = frame.marshal(commands.Basic.Nack(tag, multiple, requeue=True), channel)
    assert nack_frame(channel, tag, multiple=multiple) == expected


def test_constant_frames() -> None:
    """The heartbeat and the first bytes of a connection are those of the specification."""
    assert HEARTBEAT_FRAME == heartbeat.Heartbeat().marshal()
    assert PROTOCOL_HEADER == header.ProtocolHeader(0, 9, 1).marshal()


def test_method_frame() -> None:
    """A method's payload is wrapped with its channel and its size."""
    whole = frame.marshal(commands.Queue.Declare(queue="q", durable=True), 7)
    assert method_frame(7, whole[7:-1]) == whole


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 200, 201, 1000])
def test_content_frames(size: int) -> None:
    """A body is cut into frames of at most the given size, an empty one into none."""
    text = bytes(n % 251 for n in range(size))
    pieces = content_frames(3, b"\x00\x00", text, 100)
    (first_channel, first), *parts = unmarshal(b"".join(pieces))
    assert isinstance(first, header.ContentHeader)
    assert (first_channel, first.body_size, first.class_id) == (3, size, 60)
    assert [channel for channel, _ in parts] == [3] * (-(-size // 100))
    values = [part.value for _, part in parts if isinstance(part, body.ContentBody)]
    assert all(len(value) <= 100 for value in values)
    assert b"".join(values) == text
