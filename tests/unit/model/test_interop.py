"""Messages taken off the wire from a Go sender, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.model.codec import decode_body, encode_body
from dispatcher.model.signature import Signature
from dispatcher.model.task import TaskArgument
from dispatcher.types import Float32, Int8, Int16, Int32, Int64, Uint, Uint8, Uint16, Uint32, Uint64

MESSAGES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "interop" / "go-messages.json").read_text(encoding="utf-8")
)

each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: json.loads(message["body"])["name"])


def anything(*args): ...  # type: ignore[no-untyped-def]


def all_types(
    a: bool,
    b: str,
    c: int,
    d: Int8,
    e: Int16,
    f: Int32,
    g: Int64,
    h: Uint,
    i: Uint8,
    j: Uint16,
    k: Uint32,
    m: Uint64,
    n: Float32,
    o: float,
) -> None: ...


def test_there_are_messages() -> None:
    """The vectors are here, one of them with all fourteen types."""
    assert any(len({arg["type"] for arg in json.loads(m["body"])["args"] or ()}) == 14 for m in MESSAGES)


@each_message
def test_a_go_message_arrives_as_the_values_it_stands_for(message: dict[str, Any]) -> None:
    """Every argument of every message has the value and the Python type that the vectors say."""
    task = decode_body(message["body"].encode())
    values = Signature.of(anything, name=task.name).check(task.args)
    assert values == message["python_args"]
    assert [type(value).__name__ for value in values] == message["python_types"]


@each_message
def test_our_encoding_of_the_same_task_equals_the_go_body(message: dict[str, Any]) -> None:
    """The Python values, sent with the same types, make the same JSON."""
    go = json.loads(message["body"])
    go_args = go["args"] or []
    args = [TaskArgument(arg["type"], value) for arg, value in zip(go_args, message["python_args"], strict=True)]
    ours = json.loads(encode_body(go["uuid"], go["name"], args))
    assert ours == go | {"args": go_args}
    assert list(ours) == list(go)
    assert [list(arg) for arg in ours["args"]] == [list(arg) for arg in go_args]


@each_message
def test_our_encoding_is_received_as_the_go_message_is(message: dict[str, Any]) -> None:
    """What a Python worker gets does not depend on which side sent it."""
    go = decode_body(message["body"].encode())
    args = [TaskArgument(arg.type, value) for arg, value in zip(go.args, message["python_args"], strict=True)]
    ours = decode_body(encode_body(go.uuid, go.name, args))
    signature = Signature.of(anything, name=go.name)
    assert signature.check(ours.args) == signature.check(go.args)


def test_annotations_give_a_go_worker_the_types_it_expects() -> None:
    """A Python call of a function with fourteen annotated parameters is the Go sender's message."""
    message = next(m for m in MESSAGES if '"all_types"' in m["body"])
    go = json.loads(message["body"])
    bound = Signature.of(all_types, name="all_types").bind(message["python_args"], {})
    assert json.loads(encode_body(go["uuid"], go["name"], bound)) == go
    assert (
        Signature.of(all_types, name="all_types").check(decode_body(message["body"].encode()).args)
        == message["python_args"]
    )


def test_a_go_sender_that_escapes_html_is_understood() -> None:
    """Go writes <, > and & and the two JavaScript line ends as escapes; they arrive as themselves."""
    body = b'{"uuid":"u","name":"n","args":[{"type":"string","value":"\\u003ca\\u003e \\u0026 \\u2028\\u2029"}]}'
    assert decode_body(body).args[0].value == "<a> & \u2028\u2029"
