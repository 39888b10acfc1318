"""`result_of`: every exception becomes words, bounded, and nothing of the exception is kept."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context

import executor_tasks as tasks
import msgspec
import pytest

from dispatcher.errors import TaskProcessDied
from dispatcher.model.outcome import RETURNED, BadArguments, Discarded, Raised, Rejected, Result, Snoozed
from dispatcher.model.retry import Failure
from dispatcher.observe.context import CurrentTask
from dispatcher.runtime.executors import Call, CoroutineExecutor, error_of, result_of, text_of
from dispatcher.runtime.executors import call as calls
from dispatcher.runtime.executors.failures import MAX_MESSAGE_CHARS, MAX_TRACEBACK_CHARS

CURRENT = CurrentTask("u", "t", 1, False, {}, "q")


def run_plain(call: Call) -> Result:
    return copy_context().run(calls.run_plain, call)


def failure_of(error: BaseException) -> Failure:
    result = result_of(error)
    assert isinstance(result, Raised)
    msgspec.json.encode(result)  # whatever it holds can be stored and sent
    assert len(result.failure.message) <= MAX_MESSAGE_CHARS
    assert len(result.failure.traceback) <= MAX_TRACEBACK_CHARS
    return result.failure


def failure_of_call(kind: str) -> Failure:
    result = run_plain(Call(tasks.raises, (kind,), CURRENT))
    assert isinstance(result, Raised)
    return result.failure


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_any_base_exception_is_a_failure(kind: str) -> None:
    """What a function raises is its failure, also what would end a program."""
    failure = failure_of_call(kind)
    assert failure.type == kind
    assert failure.lineage[0] == f"builtins.{kind}"
    assert failure.lineage[-1] == "builtins.object"
    assert not failure.asked


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("Snooze", Snoozed(9.0)), ("Reject", Rejected("no good")), ("Discard", Discarded("never mind"))],
)
def test_a_task_says_its_own_fate(kind: str, expected: Result) -> None:
    """Snooze, Reject and Discard are no failures."""
    assert run_plain(Call(tasks.raises, (kind,), CURRENT)) == expected


def test_retry_is_a_failure_that_was_asked_for() -> None:
    """Retry carries its delay, and says that the task asked."""
    result = run_plain(Call(tasks.raises, ("Retry",), CURRENT))
    assert isinstance(result, Raised)
    assert result.after_seconds == 7
    assert result.failure.asked


def test_the_traceback_starts_at_the_users_function() -> None:
    """None of our frames stand between the reader and the function."""
    lines = failure_of_call("ValueError").traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "executor_tasks.py" in lines[1]
    assert lines[-1] == "ValueError: boom"


def test_huge_texts_are_cut() -> None:
    """Ten million characters become two thousand."""
    failure = failure_of(ValueError("x" * 10_000_000))
    assert failure.message.endswith("…")


def test_a_huge_traceback_keeps_head_and_tail() -> None:
    """The way in and what went wrong stay; the middle goes."""

    def deeper(levels: int) -> None:
        if levels:
            exec(f"def step{levels}(): deeper({levels - 1})\nstep{levels}()", {"deeper": deeper})  # no repeats to fold
        else:
            raise ValueError("at the bottom")

    try:
        deeper(150)
    except ValueError as error:
        text = failure_of(error).traceback
    assert text.startswith("Traceback (most recent call last):")
    assert text.endswith("ValueError: at the bottom\n")
    assert "characters cut" in text
    assert len(text) == MAX_TRACEBACK_CHARS


def test_lone_surrogates_are_escaped() -> None:
    """A text that is not UTF-8 can be raised and must still be stored."""
    assert failure_of(ValueError("a\udcffb")).message == "a\\udcffb"
    assert len(failure_of(ValueError("\udcff" * 5_000)).message) <= MAX_MESSAGE_CHARS


def test_an_exception_whose_text_raises() -> None:
    """Its class still says what happened."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

        __repr__ = __str__

    failure = failure_of(Mute())
    assert failure.type.endswith("Mute")
    assert "SystemExit" in failure.message


def test_an_exception_class_that_fights_back() -> None:
    """Even a class whose name cannot be read ends as a failure."""

    class Meta(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise RuntimeError("no")

    class Hostile(Exception, metaclass=Meta):
        pass

    result = result_of(Hostile())
    assert isinstance(result, Raised)
    assert result.failure.type == "Hostile"


def test_groups_recursion_and_long_chains_are_bounded() -> None:
    """Exception groups, endless recursion and chains of causes cost bounded text."""
    group = BaseExceptionGroup("many", [ValueError(str(n)) for n in range(1_000)])
    assert "and 992 more exceptions" in failure_of(group).traceback

    def forever() -> None:
        forever()

    try:
        forever()
    except RecursionError as error:
        assert "repeated" in failure_of(error).traceback

    last = ValueError("first")
    for n in range(300):
        following = ValueError(str(n))
        following.__cause__ = last
        last = following
    failure_of(last)


def test_a_deep_class_tree_is_cut() -> None:
    """A lineage of thousands of classes would fill the headers of every copy."""
    cls: type[Exception] = ValueError
    for n in range(200):
        cls = type(f"E{n}", (cls,), {})
    assert len(failure_of(cls()).lineage) == 32


def test_a_class_of_the_main_script_has_one_name_everywhere() -> None:
    """A child knows the main script as __mp_main__; the retry policy of the worker says __main__."""
    error = type("Mine", (Exception,), {"__module__": "__mp_main__"})()
    assert failure_of(error).lineage[0] == "__main__.Mine"


@pytest.mark.parametrize(
    "result",
    [
        Snoozed(3.0),
        Rejected("text"),
        Discarded("text"),
        Raised(Failure("x.Y", "m", "t", ("x.Y",)), 2.0),
        BadArguments("text"),
    ],
)
def test_error_of_is_the_way_back(result: Result) -> None:
    """A result that passes through middleware as an exception comes out as it went in."""
    assert result_of(error_of(result)) == result


def test_a_failure_of_ours_has_its_whole_name() -> None:
    """A policy can name TaskProcessDied."""
    assert failure_of(TaskProcessDied("gone")).is_a([TaskProcessDied])


class Local:
    """Something big in a function's frame."""


async def test_nothing_of_a_failed_run_is_kept() -> None:
    """The function's locals are freed with the run, without waiting for the cyclic collector."""
    seen: list[weakref.ref[Local]] = []

    def fails() -> None:
        local = Local()
        seen.append(weakref.ref(local))
        raise ValueError("boom")

    async def fails_async() -> None:
        fails()

    async def run(keep_error: bool) -> list[bool]:
        on_loop = Call(fails_async, (), CURRENT, keep_error=keep_error)
        await executor.submit(on_loop)
        plain = Call(fails, (), CURRENT, keep_error=keep_error)
        run_plain(plain)
        kept = [isinstance(call.error, ValueError) for call in (on_loop, plain)]
        on_loop.error = plain.error = None  # as who asked for it does when taking it
        return kept

    executor = CoroutineExecutor()
    gc.disable()
    try:
        for keep_error in (False, True):
            assert await run(keep_error) == [keep_error, keep_error]
            await asyncio.sleep(0)
        assert [reference() for reference in seen] == [None] * 4
    finally:
        gc.enable()


def test_a_returned_exception_is_noted() -> None:
    """It is no failure, but worth a warning."""
    call = Call(tasks.returns_an_error, (), CURRENT)
    assert run_plain(call) == RETURNED
    assert call.returned_error == "ValueError"


async def an_async_generator() -> AsyncIterator[int]:
    yield 1


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        (tasks.nothing_async, "async def"),
        (lambda: (n for n in [1]), "class generator, whose body nobody runs"),
        (an_async_generator, "class async_generator, whose body nobody runs"),
        (Awaitable, "class Awaitable that nobody awaits"),
    ],
)
async def test_work_that_nobody_does_is_a_failure(returns: Callable[[], object], words: str) -> None:
    """A function that returns a coroutine, a generator or an awaitable has done nothing: it may not be acked."""

    async def forgets_to_await() -> object:
        return returns()

    for result in (
        run_plain(Call(lambda: returns(), (), CURRENT)),
        await CoroutineExecutor().submit(Call(forgets_to_await, (), CURRENT)),
    ):
        assert isinstance(result, Raised)
        assert words in result.failure.message


def test_other_returned_values_are_ignored() -> None:
    """Lists, strings and functions are no work left undone."""
    values: list[object] = [[1], "text", iter([1]), tasks.nothing_async, {}]
    for value in values:
        assert run_plain(Call(lambda: value, (), CURRENT)) == RETURNED  # noqa: B023 - called at once


class Fierce(type):
    """A metaclass that does not give its name away."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class FierceText(str):
    """A text that fights back."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __getitem__(self, key: object) -> str:
        raise RuntimeError("no part")

    def isascii(self) -> bool:
        raise RuntimeError("no")


def test_a_text_can_be_made_of_anything() -> None:
    """text_of never raises, and stays within its limit."""

    class Silent(metaclass=Fierce):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    class Textual:
        def __str__(self) -> str:
            return FierceText("x" * 50)

    assert text_of("short", 10) == "short"
    assert text_of("x" * 50, 10) == "x" * 9 + "…"
    assert text_of(Textual(), 10) == "x" * 9 + "…"
    assert type(text_of(FierceText("x"), 10)) is str
    assert text_of(Silent(), 100) == "<Silent, whose text could not be made: KeyboardInterrupt>"
    assert len(text_of("\udcff" * 50, 10)) == 10


def test_an_exception_whose_class_fights_back_is_described() -> None:
    """A failure is never lost for want of words."""

    class Nameless(Exception, metaclass=Fierce):
        def __str__(self) -> str:
            raise ValueError

    assert "Nameless" in failure_of(Nameless()).type
