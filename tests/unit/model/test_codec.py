from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.errors import ArgumentError, DecodeError
from dispatcher.model.codec import MAX_BODY_BYTES, MAX_DEPTH, DecodedTask, decode_body, encode_body
from dispatcher.model.task import TaskArgument
from dispatcher.model.wire import MAX_VALUE_DEPTH

GOOD = b'{"uuid":"u","name":"n","args":[{"type":"string","value":"a"},{"type":"int","value":1}]}'


def body_with(value: bytes) -> bytes:
    return b'{"uuid":"u","name":"n","args":[{"type":"json","value":' + value + b"}]}"


def test_the_body_is_written_exactly_as_the_format_says() -> None:
    """Keys in their order, UTF-8, no spaces."""
    args = [
        TaskArgument("string", "aü<"),
        TaskArgument("int", 1),
        TaskArgument("float32", 0.32),
        TaskArgument("json", None),
    ]
    assert (
        encode_body("u-1", "task_1", args)
        == (
            '{"uuid":"u-1","name":"task_1","args":[{"type":"string","value":"aü<"},{"type":"int","value":1},'
            '{"type":"float32","value":0.32},{"type":"json","value":null}]}'
        ).encode()
    )
    assert encode_body("u", "n", []) == b'{"uuid":"u","name":"n","args":[]}'


def test_a_body_is_read_into_a_task() -> None:
    """Uuid, name and the arguments with their types."""
    assert decode_body(GOOD) == DecodedTask("u", "n", (TaskArgument("string", "a"), TaskArgument("int", 1)))


@pytest.mark.parametrize(
    "body", [b'{"uuid":"u","name":"n","args":null}', b'{"name":"n","uuid":"u"}', b'{"uuid":"u","name":"n","args":[]}']
)
def test_null_and_absent_arguments_are_none(body: bytes) -> None:
    """The Go package writes no arguments as null; a foreign sender may leave the key out."""
    assert decode_body(body) == DecodedTask("u", "n", ())


@pytest.mark.parametrize(
    "body",
    [
        b' {"uuid" : "u", "name":"n",\n"args":[ {"value":1,"type":"int"} ]} ',
        b'{"uuid":"\\u0075","name":"n","args":[{"type":"int","value":1}]}',
        b'{"uuid":"u","name":"n","args":[{"type":"int","value":1,"note":"x"}],"later":{"a":[1.5,null]}}',
    ],
    ids=["spaces and order", "escapes", "unknown keys"],
)
def test_another_way_of_writing_the_same_task_is_read_alike(body: bytes) -> None:
    """Spaces, the order of keys, escapes and unknown keys make no difference."""
    assert decode_body(body) == DecodedTask("u", "n", (TaskArgument("int", 1),))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"uuid":"u"}',
        b'{"name":"n"}',
        b'{"uuid":null,"name":"n"}',
        b'{"uuid":"","name":"n"}',
        b'{"uuid":1,"name":"n"}',
        b'{"uuid":"' + b"u" * 256 + b'","name":"n"}',
        b'{"uuid":"' + "ü".encode() * 128 + b'","name":"n"}',
        b'{"uuid":"u","name":""}',
        b'{"uuid":"u","name":"a b"}',
        b'{"uuid":"u","name":"n\\n"}',
        b'{"uuid":"u","name":"' + b"n" * 201 + b'"}',
        b'{"UUID":"u","Name":"n"}',
        b'{"uuid":"u","name":"n","args":{}}',
        b'{"uuid":"u","name":"n","args":[1]}',
        b'{"uuid":"u","name":"n","args":[{"type":"int"}]}',
        b'{"uuid":"u","name":"n","args":[{"value":1}]}',
        b'{"uuid":"u","name":"n","args":[{"type":1,"value":1}]}',
        GOOD + b"x",
        GOOD + GOOD,
        GOOD[:-1],
        GOOD + b"\0",
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD.decode().encode("utf-16-le"),
        GOOD.decode().encode("utf-32"),
        GOOD.replace(b'"a"', b"'a'"),
        GOOD.replace(b"1}", b"1,}"),
        GOOD.replace(b'"a"', b'"\xff"'),
        GOOD.replace(b'"a"', b'"\xed\xa0\x80"'),
        GOOD.replace(b'"a"', b'"\\ud800"'),
        GOOD.replace(b'"a"', b'"\\ud800x"'),
        GOOD.replace(b'"a"', b'"\\udc00"'),
        GOOD.replace(b'"a"', b'"a\nb"'),
        body_with(b"NaN"),
        body_with(b"[Infinity]"),
        body_with(b"-Infinity"),
        body_with(b"1e999"),
        body_with(b"[-1e999]"),
        body_with(b"01"),
        body_with(b"1" * 5000),
        b'{"uuid":"u","name":"n","later":NaN}',
        b'{"uuid":"u","name":"n","later":1e999}',
        b'{"uuid":"u","name":"n","later":"\xff"}',
        b'{"uuid":"u","name":"n","later":{"a":1,"a":2}}',
        b'{"uuid":"u","name":"n","\xff":1}',
    ],
)
def test_what_is_not_a_task_is_refused(body: bytes) -> None:
    """Another shape, other encodings, trailing bytes, numbers without a value: `DecodeError`, in one line."""
    with pytest.raises(DecodeError) as caught:
        decode_body(body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"uuid":"u","uuid":"v","name":"n"}',
        b'{"uuid":"u","name":"n","name":"n"}',
        b'{"uuid":"u","name":"n","args":[],"args":null}',
        b'{"uuid":"u","\\u0075uid":"u","name":"n"}',
        b'{"uuid":"u","name":"n","args":[{"type":"int","type":"string","value":1}]}',
        b'{"uuid":"u","name":"n","args":[{"type":"int","value":2,"value":1}]}',
        body_with(b'{"a":1,"a":1}'),
        body_with(b'[{"b":{"":1,"":2}}]'),
        body_with(b'{"\\u0061":1,"a":1}'),
        b'{"uuid":"u","name":"n","later":1,"later":1}',
    ],
)
def test_a_key_that_comes_twice_is_refused_at_every_level(body: bytes) -> None:
    """Two readers would see two different tasks, so neither is run."""
    with pytest.raises(DecodeError, match="twice"):
        decode_body(body)


def test_integers_are_exact_beyond_what_a_float_holds() -> None:
    """No number of the body goes through a float."""
    for value in (2**53 + 1, 2**64 - 1, -(2**63), 2**64, 10**400, -(10**400)):
        arrived = decode_body(body_with(str(value).encode())).args[0].value
        assert arrived == value
        assert type(arrived) is int


def test_size_is_checked_before_parsing() -> None:
    """The limit itself passes; one byte more is refused, even if it is no JSON at all. It can be configured."""
    body = b'{"uuid":"u","name":"n"}'
    padded = body + b" " * (MAX_BODY_BYTES - len(body))
    assert decode_body(padded).uuid == "u"
    with pytest.raises(DecodeError, match=f"at most {MAX_BODY_BYTES} bytes, got {MAX_BODY_BYTES + 1}"):
        decode_body(padded + b" ")
    with pytest.raises(DecodeError, match="at most 10 bytes"):
        decode_body(b"\xff" * 11, max_bytes=10)
    assert decode_body(body, max_bytes=len(body)).name == "n"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    """A body of 64 levels is read, one of 65 is refused, and one of a hundred thousand does not overflow anything."""
    for depth in (1, MAX_VALUE_DEPTH):
        assert decode_body(body_with(opening * depth + b"1" + closing * depth)).name == "n"
    for depth in (MAX_VALUE_DEPTH + 1, 100_000):
        with pytest.raises(DecodeError, match=f"at most {MAX_DEPTH} levels"):
            decode_body(body_with(opening * depth + b"1" + closing * depth))
        with pytest.raises(DecodeError):
            decode_body(body_with(opening * depth))


@pytest.mark.parametrize(
    "value",
    [b'"' + b"[{" * 500 + b'"', b'"\\"' + b"[" * 500 + b'"', b'"\\\\","' + b"[" * 500 + b'"', b"[],{}," * 500 + b"1"],
    ids=["in a string", "after an escaped quote", "after an escaped backslash", "wide"],
)
def test_brackets_are_counted_only_where_they_nest(value: bytes) -> None:
    """Brackets inside strings and side by side are no depth."""
    value = b"[" + value + b"]"
    assert decode_body(body_with(value)).args[0].value == json.loads(value)


def test_brackets_cannot_hide_behind_a_quote() -> None:
    """Depth that follows a string which ends in an escaped backslash is seen."""
    for text in (b'"\\\\"', b'"\\\\\\""', b'"a"'):
        with pytest.raises(DecodeError, match="levels"):
            decode_body(body_with(b"[" + text + b"," + b"[" * 200 + b"]" * 200 + b"]"))


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
def test_any_bytes_are_a_task_or_a_decode_error(body: bytes) -> None:
    """Nothing but `DecodeError` ever comes out."""
    try:
        decode_body(body)
    except DecodeError:
        pass


ALPHABET = [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"null", b"1", b"1e999", b"NaN", b"\\ud800", b"\xff", b" "]


@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 3), st.sampled_from(ALPHABET) | st.binary(max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_body_is_a_task_or_a_decode_error(damage: list[tuple[int, int, bytes]]) -> None:
    """Bytes cut out of and put into a good body never make anything but a task or a `DecodeError`."""
    body = GOOD
    for at, cut, put in damage:
        body = body[:at] + put + body[at + cut :]
    try:
        task = decode_body(body)
    except DecodeError:
        return
    assert json.loads(body)["uuid"] == task.uuid


@given(st.lists(st.sampled_from(ALPHABET), max_size=300))
def test_a_heap_of_brackets_is_a_decode_error_or_json(parts: list[bytes]) -> None:
    """The check of depth and the parser agree on whatever comes: no other error, no crash."""
    try:
        decode_body(body_with(b"".join(parts)))
    except DecodeError:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=4))
def test_what_is_written_is_read_back(values: list[Any]) -> None:
    """Every task that can be sent can be received, with equal values."""
    args = tuple(TaskArgument("json", value) for value in values)
    assert decode_body(encode_body("u", "n", args)) == DecodedTask("u", "n", args)


def test_what_is_sent_is_within_the_limits() -> None:
    """A sender is told of a body that no receiver would take."""
    with pytest.raises(ArgumentError, match="at most 100 bytes"):
        encode_body("u", "n", [TaskArgument("string", "x" * 100)], max_bytes=100)
    deep: Any = 1
    for _ in range(MAX_VALUE_DEPTH):
        deep = [deep]
    assert decode_body(encode_body("u", "n", [TaskArgument("json", deep)])).args[0].value == deep
    with pytest.raises(ArgumentError, match="nesting"):
        encode_body("u", "n", [TaskArgument("json", [deep])])


@pytest.mark.parametrize(
    ("arg", "why"),
    [
        (TaskArgument("int8", 300), "argument 2: expected an integer from -128 to 127"),
        (TaskArgument("integer", 3), "argument 2: expected one of the wire types"),
        (TaskArgument(["int"], 3), "argument 2: expected one of the wire types"),  # type: ignore[arg-type]
        (3, "argument 2: expected TaskArgument"),
    ],
)
def test_an_argument_that_cannot_be_sent_is_named(arg: Any, why: str) -> None:
    """The explicit level says which argument is wrong, by its place."""
    with pytest.raises(ArgumentError, match=f"task 'n', {why}"):
        encode_body("u", "n", (TaskArgument("int", 1), arg))


def test_an_unknown_wire_type_is_still_a_task() -> None:
    """Whether a type is known is a question of arguments, not of the body."""
    assert decode_body(b'{"uuid":"u","name":"n","args":[{"type":"complex64","value":1}]}').args[0].type == "complex64"
