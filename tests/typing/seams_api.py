"""What users write for Dispatcher to call: middleware, observers, retry rules, loggers. Never run; see `everyday_api`.

Each is accepted as what it naturally looks like, with parameter names of the user's own choice.
"""

from __future__ import annotations

from dispatcher import AnyEvent, CallNext, CurrentTask, Dispatcher, Middleware, Observer, ServerConfig, TaskConfig
from dispatcher.model.retry import Failure, RetryRule
from dispatcher.observe.events import TaskFailed
from dispatcher.observe.logs import Log


async def middleware_function(task: CurrentTask, call_next: CallNext) -> None:
    await call_next()


class MiddlewareClass:
    async def __call__(self, running: CurrentTask, inner: CallNext) -> None:
        await inner()


class Counter:
    failures = 0

    def on_event(self, event: AnyEvent) -> None:
        if isinstance(event, TaskFailed):
            self.failures += event.attempt


class NamesOnly:
    def on_event(self, what: object) -> None: ...


class Twice:
    jitter = False

    def delay_seconds(self, attempt: int, failure: Failure) -> float | None:
        return 1 if attempt < 2 and failure.type == "builtins.OSError" else None


class TwiceDrawn:
    @property
    def jitter(self) -> bool:
        return True

    def delay_seconds(self, n: int, why: Failure) -> int:
        return n


class GoLogger:
    def debug(self, message: str, *args: object) -> None: ...
    def info(self, message: str, *args: object) -> None: ...
    def error(self, message: str, *args: object) -> None: ...


def accepted() -> None:
    middleware: list[Middleware] = [middleware_function, MiddlewareClass()]
    observers: list[Observer] = [Counter(), NamesOnly()]
    rules: list[RetryRule] = [Twice(), TwiceDrawn()]
    logger: Log = GoLogger()
    ServerConfig(
        url="memory://",
        exchange="e",
        default_routing_key="rk",
        middleware=middleware,
        observers=observers,
        logger=logger,
    )
    app = Dispatcher(middleware=[middleware_function], observers=[Counter()], retry=rules[0], logger=GoLogger())
    app.task(retry=Twice())
    TaskConfig(print, retry=TwiceDrawn())


# --- what is wrong --------------------------------------------------------------------------------------------------


def synchronous(task: CurrentTask, call_next: CallNext) -> None: ...
async def awaits_nothing(task: CurrentTask) -> None: ...


class Deaf:
    def on_events(self, event: AnyEvent) -> None: ...


class WithoutJitter:
    def delay_seconds(self, attempt: int, failure: Failure) -> float | None: ...


class Mute:
    def debug(self, message: str, *args: object) -> None: ...


def refused() -> None:
    middleware: Middleware = synchronous  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    middleware = awaits_nothing  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    observer: Observer = Deaf()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    TaskConfig(print, retry=WithoutJitter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    logger: Log = Mute()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(middleware, observer, logger)
