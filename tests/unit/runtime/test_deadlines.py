"""One timer for many waits, on a clock that the test sets."""

from __future__ import annotations

import asyncio

import pytest

from dispatcher.runtime.deadlines import GROUP_SECONDS, Deadlines

SECONDS = 30.0


class Clock:
    """The loop's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def turn(self, seconds: float) -> None:
        """Let `seconds` pass, and the loop see to what is due."""
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


def futures(count: int) -> list[asyncio.Future[None]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_what_is_not_done_in_time_fails_and_nothing_else_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    deadlines = Deadlines(SECONDS)
    done, cancelled, late = futures(3)
    assert [deadlines.watch(future) for future in (done, cancelled, late)] == [clock.now + SECONDS] * 3
    done.set_result(None)
    cancelled.cancel()
    await clock.turn(SECONDS + GROUP_SECONDS)
    assert isinstance(late.exception(), TimeoutError)
    assert done.result() is None
    assert cancelled.cancelled()
    deadlines.close()


async def test_a_wait_ends_at_its_time_or_milliseconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    deadlines = Deadlines(SECONDS)
    waits = futures(4)
    for future in waits:  # the last two begin in a later group
        deadlines.watch(future)
        clock.now += GROUP_SECONDS * 0.6
    begun = clock.now
    await clock.turn(SECONDS - 4 * GROUP_SECONDS * 0.6 - 0.001)
    assert not any(future.done() for future in waits)
    await clock.turn(1000.0 + SECONDS + GROUP_SECONDS - clock.now)
    assert [future.done() for future in waits] == [True, True, False, False]
    await clock.turn(begun + SECONDS + GROUP_SECONDS - clock.now)
    assert all(isinstance(future.exception(), TimeoutError) for future in waits)
    deadlines.close()


async def test_what_is_done_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    deadlines = Deadlines(SECONDS)
    for future in futures(3):
        deadlines.watch(future)
        future.set_result(None)
        clock.now += 2 * GROUP_SECONDS
    assert len(deadlines._groups) == 1
    deadlines.close()
    assert not deadlines._groups
