from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import pathlib
import typing
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, TypedDict
from uuid import UUID

import msgspec
import pytest

from dispatcher.errors import ArgumentError, ConfigError
from dispatcher.model.codec import decode_body, encode_body
from dispatcher.model.signature import Signature
from dispatcher.model.task import TaskArgument
from dispatcher.model.wire import INTEGERS, WireType
from dispatcher.types import Float32, Int8, Int16, Int64, Uint8, Uint64

if typing.TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


class Even(msgspec.Struct):
    value: int

    def __post_init__(self) -> None:
        if self.value % 2:
            raise KeyError("odd")


class Options(TypedDict):
    depth: int


@dataclasses.dataclass
class Holder:
    log: logging.Logger


def plain(text: str, number: int, ratio: float = 0.5, flag: bool = False) -> None: ...


def of(function: Callable[..., Any], **options: Any) -> Signature:
    return Signature.of(function, name="t", **options)


def travel(signature: Signature, *args: Any, **kwargs: Any) -> list[Any]:
    """What the function receives when it is sent `args` and `kwargs`."""
    return signature.check(decode_body(encode_body("u", "t", signature.bind(args, kwargs))).args)


def one(annotation: Any) -> Signature:
    def function(x): ...  # type: ignore[no-untyped-def]

    function.__annotations__["x"] = annotation
    return of(function)


# --- registration -------------------------------------------------------------------------------------------------


def keyword_only(a: int, *, b: int = 1) -> None: ...
def keywords(**rest: int) -> None: ...
def unresolvable(a: int, b: Missing) -> None: ...
def unresolvable_inside(a: list[Missing]) -> None: ...
def broken(a: "1 +") -> None: ...  # type: ignore[syntax]  # noqa: F722
def path(a: pathlib.Path) -> None: ...
def inside(a: dict[str, list[Holder]]) -> None: ...
def ambiguous(a: Point | Tree) -> None: ...
def misplaced(a: Annotated[str, WireType("int8")]) -> None: ...
def a_callable(a: Callable[[], None]) -> None: ...
def an_iterable(a: Iterable[int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (keyword_only, "keyword-only b"),
        (keywords, r"\*\*rest"),
        (unresolvable, "parameter 'b'.*Missing.*TYPE_CHECKING"),
        (unresolvable_inside, "parameter 'a'.*Missing"),
        (broken, "parameter 'a'"),
        (path, "parameter 'a'.*Path.*cannot travel"),
        (inside, "Logger.*cannot travel"),
        (ambiguous, "cannot travel"),
        (misplaced, "expected int for int8.*str"),
        (a_callable, "cannot travel"),
        (an_iterable, "cannot travel"),
        (functools.partial(plain, number=1), "keyword-only"),
        (3, "expected a function"),
    ],
)
def test_what_can_never_work_is_refused_at_registration(function: Any, why: str) -> None:
    """Parameters that the wire cannot fill are a `ConfigError` that names task and parameter."""
    with pytest.raises(ConfigError, match=f"task 't'.*{why}"):
        of(function)


def test_the_return_annotation_is_nobodys_business() -> None:
    """A return type that cannot be resolved does not keep a task from being registered."""

    def function(a: int) -> Missing: ...

    assert travel(of(function), 1) == [1]


def test_a_parameter_that_can_be_left_out_may_have_any_type() -> None:
    """What cannot travel is refused where it is sent, not where its default is always taken."""

    def function(a: int, log: logging.Logger | None = None, where: pathlib.Path = pathlib.Path()) -> None: ...

    assert travel(of(function), 1) == [1]
    with pytest.raises(ArgumentError, match="argument 'where'"):
        of(function).bind((1,), {"where": pathlib.Path("x")})


def test_methods_partials_wrappers_and_callable_objects_have_signatures() -> None:
    """Whatever can be called can be a task."""

    class Caller:
        def __call__(self, a: Uint8) -> None: ...
        def method(self, a: Uint8) -> None: ...

    @functools.wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert of(wrapper).bind(("a", 1), {}) == (TaskArgument("string", "a"), TaskArgument("int", 1))
    assert of(functools.partial(plain, "a")).bind((1,), {}) == (TaskArgument("int", 1),)
    assert of(Caller().method).bind((1,), {}) == (TaskArgument("uint8", 1),)
    assert of(Caller()).bind((1,), {}) == (TaskArgument("uint8", 1),)


def test_the_uuid_parameter_is_outside_of_the_checks() -> None:
    """With `skip_first` the first parameter is neither sent nor checked, whatever its annotation."""

    def function(uuid: Missing, a: int) -> None: ...
    def anything(*args: int) -> None: ...

    assert travel(of(function, skip_first=True), 1) == [1]
    assert travel(of(anything, skip_first=True), 1, 2) == [1, 2]
    with pytest.raises(ArgumentError, match="'uuid'"):
        of(function, skip_first=True).bind((), {"uuid": "x", "a": 1})
    for without in (lambda: None, lambda *, a: None):
        with pytest.raises(ConfigError, match="first parameter"):
            of(without, skip_first=True)


# --- sending ------------------------------------------------------------------------------------------------------


def test_annotations_decide_the_wire_type() -> None:
    """The four plain types, the aliases, and `json` for all else."""

    def function(
        a: int, b: float, c: str, d: bool, e: Int8, f: Uint64, g: Float32, h: UserId, i: list[int]
    ) -> None: ...

    bound = of(function).bind((1, 2, "c", True, -128, 2**64 - 1, 0.1, UserId(7), [1]), {})
    assert [(arg.type, arg.value) for arg in bound] == [
        ("int", 1),
        ("float64", 2.0),
        ("string", "c"),
        ("bool", True),
        ("int8", -128),
        ("uint64", 2**64 - 1),
        ("float32", 0.1),
        ("int", 7),
        ("json", [1]),
    ]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (True, "bool"),
        (1, "int"),
        (-(2**63), "int"),
        (2**63 - 1, "int"),
        (2**63, "uint64"),
        (2**64 - 1, "uint64"),
        (2**64, "json"),
        (-(2**63) - 1, "json"),
        (1.5, "float64"),
        ("a", "string"),
        (None, "json"),
        ([1, "a"], "json"),
        ({"a": None}, "json"),
    ],
)
def test_without_annotation_the_value_decides(value: Any, wire: str) -> None:
    """Scalars travel as their own type, integers in the narrowest 64-bit type that holds them, the rest as `json`."""

    def function(x): ...  # type: ignore[no-untyped-def]

    assert of(function).bind((value,), {}) == (TaskArgument(wire, value),)
    assert travel(of(function), value) == [value]


def test_keywords_become_positions_and_gaps_are_filled() -> None:
    """Only what was given travels, with the defaults of the gaps before it."""
    signature = of(plain)
    assert [a.value for a in signature.bind(("a", 1), {})] == ["a", 1]
    assert [a.value for a in signature.bind((), {"number": 1, "text": "a"})] == ["a", 1]
    assert [a.value for a in signature.bind(("a",), {"number": 1, "flag": True})] == ["a", 1, 0.5, True]


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        (("a",), {}, r"expected 2 to 4 arguments \(text, number, ratio, flag\), got 1"),
        ((), {}, "got 0"),
        (("a", 1, 0.5, True, 5), {}, "got 5"),
        (("a", 1, 0.5, True, 5), {"text": 1}, "got 6"),
        (("a",), {"flag": True}, "argument 'number', got none"),
        (("a", 1), {"size": 1}, "named text, number, ratio, flag, got 'size'"),
        (("a", 1), {"text": "b"}, "'text' once"),
        ((1, 1), {}, "argument 'text': expected a string, got 1"),
        (("a", "1"), {}, "argument 'number': expected an integer"),
        (("a", True), {}, "argument 'number': expected an integer"),
        (("a", 1.0), {}, "argument 'number': expected an integer"),
        (("a", 2**63), {}, "argument 'number'.*Uint64"),
        (("a", 1, "1"), {}, "argument 'ratio'"),
        (("a", 1, float("nan")), {}, "argument 'ratio'.*finite"),
        (("a", 1, 1, 1), {}, "argument 'flag'"),
    ],
)
def test_what_does_not_fit_is_refused_in_the_sender(args: Any, kwargs: Any, why: str) -> None:
    """Wrong count, unknown name, wrong type, out of range: an `ArgumentError` that names the parameter."""
    with pytest.raises(ArgumentError, match=f"task 't'.*{why}"):
        of(plain).bind(args, kwargs)


def test_parameters_by_position_only_have_no_names() -> None:
    """A keyword never reaches a positional-only parameter."""

    def function(a: int, /, b: int) -> None: ...

    assert travel(of(function), 1, b=2) == [1, 2]
    with pytest.raises(ArgumentError, match="named b, got 'a'"):
        of(function).bind((), {"a": 1, "b": 2})


def test_a_default_that_does_not_fit_is_named_when_it_fills_a_gap() -> None:
    """`a: int = None` is a gap that cannot be filled."""

    def function(a: int = None, b: int = 1) -> None: ...  # type: ignore[assignment]

    assert travel(of(function)) == []
    with pytest.raises(ArgumentError, match="argument 'a'.*None"):
        of(function).bind((), {"b": 2})


def test_each_of_any_number_of_arguments_is_checked() -> None:
    """`*args` takes its annotation for every element; without one each value decides."""

    def typed(a: str, *rest: Int8) -> None: ...
    def untyped(*rest) -> None: ...  # type: ignore[no-untyped-def]

    assert [a.type for a in of(typed).bind(("a", 1, 2), {})] == ["string", "int8", "int8"]
    assert travel(of(typed), "a", 1, 2) == ["a", 1, 2]
    assert travel(of(untyped), 1, "a", None) == [1, "a", None]
    with pytest.raises(ArgumentError, match="argument 'rest'"):
        of(typed).bind(("a", 1, 300), {})
    with pytest.raises(ArgumentError, match="argument 'rest'"):
        of(typed).check([TaskArgument("string", "a"), TaskArgument("int", 1), TaskArgument("int", 300)])
    with pytest.raises(ArgumentError, match=r"at least 1 argument \(a, \*rest\), got 0"):
        of(typed).bind((), {})


def test_a_bound_list_is_a_copy() -> None:
    """What the caller does to its list afterwards does not change the task."""
    for annotation in (list[int], Any, list):
        given = [1]
        bound = one(annotation).bind((given,), {})
        given.append(2)
        assert bound[0].value == [1]


# --- both sides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], [1, 2]),
        (dict[str, float], {"a": 1.5}),
        (dict[int, str], {1: "a", 2: "b"}),
        (dict[UUID, int], {UUID(int=1): 1}),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (int | None, None),
        (int | None, 3),
        (int | str, "a"),
        (int | None, 2**64),
        (Point, Point(1, 2.5)),
        (list[Point], [Point(1), Point(2)]),
        (Tree, Tree("a", [Tree("b")])),
        (Options, {"depth": 1}),
        (Colour, Colour.RED),
        (Level, Level.HIGH),
        (Literal["a", 1], "a"),
        (datetime, datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        (UUID, UUID(int=5)),
        (Decimal, Decimal("1.50")),
        (bytes, b"\0\xff"),
        (Any, {"a": [1, None]}),
        (object, [1]),
        (None, None),
        (list[Int8], [-128, 127]),
        (Annotated[list[int], msgspec.Meta(max_length=2)], [1]),
        (Annotated[int, "about"], 5),
        (Annotated[str, msgspec.Meta(min_length=1)], "a"),
    ],
)
def test_typed_values_arrive_equal_and_of_their_type(annotation: Any, value: Any) -> None:
    """Whatever the annotation can carry arrives as what it was."""
    (arrived,) = travel(one(annotation), value)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], ["a"]),
        (list[int], [1.0]),
        (list[int], [True]),
        (list[int], 1),
        (list[Int8], [300]),
        (dict[str, int], {1: 2}),
        (dict, {1: 2}),
        (Any, {1: 2}),
        (dict[Any, int], {1: 2}),
        (int | None, "a"),
        (Point, {"y": 1}),
        (Colour, "blue"),
        (Literal["a"], "b"),
        (datetime, "yesterday"),
        (Even, {"value": 3}),
        (list[float], [float("nan")]),
        (Any, object()),
        (Annotated[int, msgspec.Meta(ge=10)], 5),
        (Annotated[Int8, msgspec.Meta(ge=10)], 5),
        (Annotated[str, msgspec.Meta(max_length=1)], "ab"),
    ],
)
def test_values_that_contradict_their_annotation_are_refused_at_send(annotation: Any, value: Any) -> None:
    """The sender checks what the receiver would."""
    with pytest.raises(ArgumentError, match="task 't', argument 'x'"):
        one(annotation).bind((value,), {})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(list[int], ["a"]), (Colour, "hunter2"), (Point, {"x": "a"}), (Even, {"value": 3}), (int | None, "1")],
)
def test_values_that_contradict_their_annotation_are_refused_at_receive(annotation: Any, value: Any) -> None:
    """A sender without our checks does not get past the receiver's, and the value is not shown."""
    with pytest.raises(ArgumentError, match="task 't', argument 'x'") as caught:
        one(annotation).check([TaskArgument("json", value)])
    assert "hunter2" not in str(caught.value)


# --- receiving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", INTEGERS)
def test_a_parameter_int_takes_every_integer_type_over_its_whole_range(wire: str) -> None:
    """A Go sender may use any of them; a narrower parameter holds the value to its own range."""
    low, high = INTEGERS[wire]
    for annotation in (int, Int64):
        for value in (low, high):
            expected_to_fit = annotation is int or value < 2**63
            if expected_to_fit:
                assert one(annotation).check([TaskArgument(wire, value)]) == [value]
            else:
                with pytest.raises(ArgumentError):
                    one(annotation).check([TaskArgument(wire, value)])
        with pytest.raises(ArgumentError, match="out of range"):
            one(annotation).check([TaskArgument(wire, high + 1)])
    assert one(Uint8).check([TaskArgument(wire, 5)]) == [5]
    with pytest.raises(ArgumentError):
        one(Uint8).check([TaskArgument(wire, 300)])
    with pytest.raises(ArgumentError):
        one(Uint8).check([TaskArgument(wire, -1)])


def test_a_value_is_held_to_the_range_of_the_type_it_came_with() -> None:
    """An int8 of 300 is nothing, even where the parameter would hold 300."""
    for annotation in (int, Int16, Any):
        with pytest.raises(ArgumentError, match="int8"):
            one(annotation).check([TaskArgument("int8", 300)])


def test_a_parameter_float_takes_both_float_types() -> None:
    """float32 arrives as the float32's value; a whole number may be written as an integer."""
    assert one(float).check([TaskArgument("float32", 0.32)]) == [0.3199999928474426]
    assert one(float).check([TaskArgument("float64", 3)]) == [3.0]
    assert type(one(float).check([TaskArgument("float64", 3)])[0]) is float
    assert one(Float32).check([TaskArgument("float64", 0.32)]) == [0.3199999928474426]


def test_json_fits_where_its_value_does() -> None:
    """A message sent when the parameter was still `int | None` fits the release that made it `int`."""
    assert one(int).check([TaskArgument("json", 3)]) == [3]
    assert one(str).check([TaskArgument("json", "a")]) == ["a"]
    for value in (None, "3", 3.0, True):
        with pytest.raises(ArgumentError):
            one(int).check([TaskArgument("json", value)])


def test_every_type_fits_a_parameter_that_is_json_if_its_value_does() -> None:
    """A Go sender fills `int | None`, `datetime` and the like with its own scalar types."""
    assert one(int | None).check([TaskArgument("int8", 3)]) == [3]
    assert one(datetime).check([TaskArgument("string", "2024-01-02T03:04:05Z")]) == [
        datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    ]
    assert one(Any).check([TaskArgument("uint64", 2**64 - 1)]) == [2**64 - 1]
    with pytest.raises(ArgumentError):
        one(int | None).check([TaskArgument("int8", 300)])


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], r"expected 2 to 4 arguments \(text, number, ratio, flag\), got 0"),
        ([TaskArgument("string", "a")], "got 1"),
        ([TaskArgument("string", "a")] * 5, "got 5"),
        (
            [TaskArgument("string", "a"), TaskArgument("string", "1")],
            "argument 'number': expected wire type int, got 'string'",
        ),
        ([TaskArgument("int", 1), TaskArgument("int", 1)], "argument 'text': expected wire type string, got 'int'"),
        ([TaskArgument("string", "a"), TaskArgument("bool", True)], "argument 'number'"),
        ([TaskArgument("string", "a"), TaskArgument("float64", 1.0)], "argument 'number'"),
        ([TaskArgument("string", "a"), TaskArgument("int", 1.0)], "argument 'number': expected an integer"),
        ([TaskArgument("string", "a"), TaskArgument("int", None)], "argument 'number'.*null"),
        (
            [TaskArgument("string", "a"), TaskArgument("complex64", 1)],
            "argument 'number': expected one of the wire types",
        ),
        ([TaskArgument("string", "a"), TaskArgument("int", 1), TaskArgument("int", 1)], "argument 'ratio'"),
        ([TaskArgument("string", None), TaskArgument("int", 1)], "argument 'text'"),
    ],
)
def test_received_arguments_that_do_not_fit_are_refused(args: list[TaskArgument], why: str) -> None:
    """Wrong count, a type that contradicts the annotation, an unknown type, a value that is not of its type."""
    with pytest.raises(ArgumentError, match=f"task 't'.*{why}"):
        of(plain).check(args)


def test_missing_arguments_are_left_to_the_functions_defaults() -> None:
    """Only what arrived is passed."""
    assert of(plain).check([TaskArgument("string", "a"), TaskArgument("int", 1)]) == ["a", 1]


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "words", "expected"),
    [
        (plain, ["a", "1"], (["a", 1], {})),
        (plain, ["1", "-1", "2", "true"], (["1", -1, 2.0, True], {})),
        (plain, ["a=b", "number=1", "flag=False"], (["a=b"], {"number": 1, "flag": False})),
        (plain, ["text=a=b", "number=1"], ([], {"text": "a=b", "number": 1})),
        (lambda x: None, ["5"], ([5], {})),
        (lambda x: None, ["five"], (["five"], {})),
        (lambda x: None, ['{"a":[1]}'], ([{"a": [1]}], {})),
        (lambda *x: None, ["5", "a", "true"], ([5, "a", True], {})),
    ],
)
def test_words_are_read_as_the_parameters_say(function: Any, words: list[str], expected: Any) -> None:
    """Numbers, booleans and text by type; the rest as JSON, or as text where it is none."""
    assert of(function).parse_text(words) == expected


@pytest.mark.parametrize(
    ("annotation", "word", "expected"),
    [
        (list[int], "[1,2]", [1, 2]),
        (datetime, "2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (str | None, "5", "5"),
        (str | None, "null", None),
        (int | None, "5", 5),
        (Colour, "red", Colour.RED),
        (Point, '{"x":1}', Point(1)),
        (UUID, "00000000-0000-0000-0000-000000000005", UUID(int=5)),
    ],
)
def test_a_word_arrives_as_the_parameters_type(annotation: Any, word: str, expected: Any) -> None:
    """From the command line to the function: quotes are needed only where JSON would mean something else."""
    signature = one(annotation)
    args, kwargs = signature.parse_text([word])
    assert travel(signature, *args, **kwargs) == [expected]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["a", "one"], "argument 'number': expected int, got 'one'"),
        (["a", "1", "x"], "argument 'ratio'"),
        (["a", "1", "1", "yes"], "argument 'flag'"),
        (["a", "1", "1", "true", "5"], "got 5"),
        (["number=1", "number=2"], "once"),
        (["a", "1" * 5000], "argument 'number'"),
    ],
)
def test_words_that_cannot_be_read_are_refused(words: list[str], why: str) -> None:
    """An `ArgumentError` that names the parameter and what was expected."""
    with pytest.raises(ArgumentError, match=why):
        of(plain).parse_text(words)


def test_a_word_that_never_fits_is_refused_when_it_is_bound() -> None:
    """Reading leaves to `bind` what only the annotation can say."""
    args, kwargs = one(list[int]).parse_text(["five"])
    with pytest.raises(ArgumentError, match="argument 'x'"):
        one(list[int]).bind(args, kwargs)
