"""What holds for every test: it leaves no asyncio task, no thread, no file descriptor and no unread exception behind.

Threads and descriptors are compared around the whole of a test, its fixtures included; what a fixture of a wider scope
opens belongs to that scope. The deadline of each test is `timeout` in pyproject.toml.

A RabbitMQ is found, or started, when the first test asks for one; where there is none, the tests that need it fail.
"""

from __future__ import annotations

import asyncio
import compileall
import gc
import inspect
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack
from multiprocessing import resource_tracker
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from rabbitmq_admin import Admin
from rabbitmq_roles import Roles
from rabbitmq_url import NoRabbitMq, RabbitMq, find

THREAD_GRACE_SECONDS = 5.0
"""How long threads that were told to end may take for it."""

SOURCE = Path(__file__).parent.parent / "src"

FD_FOLDER = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"

Resource = tuple[str, object, str]

_of_wider_scope: set[Resource] = set()
_before_test = pytest.StashKey[set[Resource]]()


def open_files() -> set[Resource]:
    """Every open file descriptor with what it points to, but that of multiprocessing's tracker, which lives as long as we."""
    found: set[Resource] = set()
    tracker = getattr(resource_tracker._resource_tracker, "_fd", None)
    for name in os.listdir(FD_FOLDER) if os.path.isdir(FD_FOLDER) else ():
        try:
            target = os.readlink(f"{FD_FOLDER}/{name}") if FD_FOLDER.startswith("/proc") else str(os.fstat(int(name)))
        except OSError:  # the descriptor of this very listing
            continue
        if int(name) != tracker:
            found.add(("file descriptor", int(name), target))
    return found


def running_threads() -> set[Resource]:
    return {("thread", thread.ident, thread.name) for thread in threading.enumerate()}


def wait_for_threads(known: set[Resource]) -> None:
    deadline = time.monotonic() + THREAD_GRACE_SECONDS
    for thread in threading.enumerate():
        if ("thread", thread.ident, thread.name) not in known and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


class WiderScopes:
    """Notes what fixtures of a wider scope than a test open. A plugin, for no conftest is told of a session's fixtures."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = open_files() | running_threads()
        result = yield
        _of_wider_scope.update((open_files() | running_threads()) - before)
        return result


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(WiderScopes())
    # Hundreds of tests start a Python. Many environments forbid it to write byte code (PYTHONDONTWRITEBYTECODE, as our
    # own tests of the command line do): each would compile all of Dispatcher, which takes three times what it then does.
    compileall.compile_dir(SOURCE, quiet=2)
    for signum, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        # In the background of a script, and under nohup, these are ignored, and by every child that a test starts.
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, action)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[_before_test] = open_files() | running_threads()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    known = item.stash[_before_test] | _of_wider_scope
    if running_threads() - known:
        wait_for_threads(known)
    left = (open_files() | running_threads()) - known
    if left:
        gc.collect()  # a cycle may hold what nobody can reach any more: no leak, only not collected yet
        left = (open_files() | running_threads()) - known
    if left:
        pytest.fail(
            "the test left behind: " + ", ".join(f"{kind} {key} ({what})" for kind, key, what in sorted(left, key=str))
        )


@pytest.fixture(autouse=True)
def no_asyncio_leaks(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_clean_event_loop")


@pytest.fixture
async def _clean_event_loop() -> AsyncIterator[None]:
    """Fails a test that leaves tasks running, or lets asyncio log an exception that nobody retrieved."""
    loop = asyncio.get_running_loop()
    complaints: list[str] = []

    def complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    loop.set_exception_handler(complain)
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # a task that was cancelled a moment ago ends in the loop's next turn
    tasks = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    if tasks:
        pytest.fail(f"the test left asyncio tasks running: {tasks}")
    if complaints:
        pytest.fail("asyncio had to report: " + "; ".join(complaints))


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMq]:
    """The RabbitMQ of this run. Tests that kill, pause or alarm a broker start a `PrivateNode` of their own."""
    with ExitStack() as stack:
        try:
            broker = stack.enter_context(find())
        except NoRabbitMq as error:
            pytest.fail(str(error), pytrace=False)
        yield broker


@pytest.fixture
def vhost(rabbitmq: RabbitMq) -> Iterator[str]:
    """The name of an empty vhost, which is deleted after the test with all that is in it."""
    name = f"dispatcher-test-{token_hex(6)}"
    rabbitmq.admin.add_vhost(name)
    yield name
    rabbitmq.admin.delete_vhost(name)


@pytest.fixture
def vhost_url(rabbitmq: RabbitMq, vhost: str) -> str:
    """The URL of `vhost`, for a user who may do everything there."""
    return rabbitmq.url_of(vhost)


@pytest.fixture
def broker_admin(rabbitmq: RabbitMq) -> Iterator[Admin]:
    """The administration of the RabbitMQ of this run; users that a test adds are deleted after it."""
    yield rabbitmq.admin
    for user in tuple(rabbitmq.admin.added_users):
        rabbitmq.admin.delete_user(user)


@pytest.fixture
def role_users(vhost: str, vhost_url: str, broker_admin: Admin) -> Roles:
    """The three least-privilege users of `vhost`."""
    return Roles(broker_admin, vhost, vhost_url)
