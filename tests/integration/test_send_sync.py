"""`send_sync`: from synchronous code, from threads, inside an async program, and after a fork."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tcp_proxy import TcpProxy

from dispatcher import AnyEvent, ArgumentError, BrokerUnavailable, ConfigError, Dispatcher, Unroutable


def counting_app(url: str) -> Dispatcher:
    app = Dispatcher(url)

    @app.task(name="task")
    def task(number: int) -> None: ...

    return app


async def ready(app: Dispatcher) -> int:
    async with app:
        return (await app.server.inspector.depth("default")).ready


def test_from_plain_code(url: str) -> None:
    """It blocks until the task is kept, and raises what `send` would."""
    app = counting_app(url)
    receipt = app.tasks["task"].options(uuid="u1").send_sync(1)
    assert receipt.uuid == "u1"
    with pytest.raises(ArgumentError):
        app.tasks["task"].send_sync("no number")
    with pytest.raises(Unroutable):
        app.tasks["task"].options(queue="nowhere").send_sync(1)
    assert asyncio.run(ready(app)) == 1
    app.close_sync()
    app.close_sync()
    app.tasks["task"].send_sync(2)
    app.close_sync()
    assert asyncio.run(ready(app)) == 2


def test_from_many_threads_at_once(url: str) -> None:
    """One connection serves all threads of a process."""
    app = counting_app(url)
    before = threading.active_count()

    def send() -> None:
        for number in range(20):
            app.tasks["task"].send_sync(number)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The I/O thread, and the thread that the one session may have.
    assert threading.active_count() <= before + 2
    assert asyncio.run(ready(app)) == 160
    app.close_sync()


async def test_from_a_thread_inside_an_async_program(url: str) -> None:
    """A thread beside a running loop sends without touching that loop; a plain task of a worker does so too."""
    app = counting_app(url)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    @app.task(queue="parents")
    def parent() -> None:
        app.tasks["task"].send_sync(1)
        loop.call_soon_threadsafe(done.set)

    async with app:
        await asyncio.to_thread(app.tasks["task"].send_sync, 1)
        await parent.send()
        running = asyncio.create_task(app.run_worker(["parents"]))
        await asyncio.wait_for(done.wait(), 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await ready(app) == 2
    app.close_sync()


FORKING = """
    import os, sys
    from dispatcher import Dispatcher

    app = Dispatcher(sys.argv[1])

    @app.task
    def task(number: int) -> None: ...

    task.send_sync(0)
    children = []
    for number in range(1, 4):
        pid = os.fork()
        if pid == 0:
            task.send_sync(number)
            app.close_sync()
            os._exit(0)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    task.send_sync(4)
    assert codes == [0, 0, 0], codes
"""


def test_after_a_fork(shared_url: str) -> None:
    """Every forked child opens its own connection, and the parent's goes on: web servers fork after loading the app."""
    code = textwrap.dedent(FORKING)
    command = [sys.executable, "-c", code, shared_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert asyncio.run(ready(counting_app(shared_url))) == 5


EXITING = """
    import sys
    from dispatcher import Dispatcher

    app = Dispatcher(sys.argv[1])

    @app.task
    def task(number: int) -> None: ...

    for number in range(3):
        task.send_sync(number)
"""


def test_a_script_that_just_ends(shared_url: str, tmp_path: Path) -> None:
    """A script needs no clean-up: it ends at once, with nothing lost and nothing on stderr."""
    code = textwrap.dedent(EXITING)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code, shared_url],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert asyncio.run(ready(counting_app(shared_url))) == 3
    assert list(tmp_path.rglob("*.fifo")) == []


def test_no_broker_is_an_error_not_a_wait(tmp_path: Path) -> None:
    """A folder that does not exist is told at once."""
    app = counting_app(f"sqlite:///{tmp_path}/missing/folder.db")
    with pytest.raises(Exception, match="missing") as caught:
        app.tasks["task"].send_sync(1)
    assert not isinstance(caught.value, BrokerUnavailable)


def muted_app(proxy: TcpProxy, **settings: Any) -> Dispatcher:
    """An app with a task, whose broker takes connections and says nothing."""
    proxy.mute()
    app = Dispatcher(f"amqp://guest:guest@127.0.0.1:{proxy.port}/", **settings)

    @app.task(name="task")
    def task() -> None: ...

    return app


def sending_threads(app: Dispatcher, count: int) -> tuple[list[threading.Thread], list[BrokerUnavailable]]:
    """Threads that send at the same time, and what they are told."""
    errors: list[BrokerUnavailable] = []

    def send() -> None:
        try:
            app.tasks["task"].send_sync()
        except BrokerUnavailable as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, errors


def test_many_threads_wait_for_one_attempt_to_connect() -> None:
    """And share its failure: each waits for one connect timeout, not for those of all that came before it."""
    with TcpProxy("127.0.0.1", 1) as proxy:
        app = muted_app(proxy, connect_timeout_seconds=1.0)
        threads, errors = sending_threads(app, 20)
        for thread in threads:
            thread.join(10)  # one after the other it would be 20 s
        assert len(errors) == 20
        assert proxy.accepted <= 2
        app.close_sync()


def test_closing_while_it_is_being_opened() -> None:
    """Who waits for it is told, and nothing is left behind."""
    with TcpProxy("127.0.0.1", 1) as proxy:
        app = muted_app(proxy)
        [thread], errors = sending_threads(app, 1)
        proxy.wait(lambda: proxy.accepted >= 1)
        app.close_sync()
        thread.join(20)
        assert not thread.is_alive()
        assert len(errors) == 1


def test_a_first_publish_ends_at_its_deadline_and_the_attempt_goes_on() -> None:
    """However long the connect timeout is; when the broker answers after all, the next publish finds it."""
    with TcpProxy("127.0.0.1", 1) as proxy:
        app = muted_app(proxy, connect_timeout_seconds=600, publish_timeout_seconds=0.3)
        for _ in range(2):
            [thread], errors = sending_threads(app, 1)
            thread.join(10)
            assert [str(error) for error in errors] == ["no connection to the broker within 0.3 s; is it running?"]
        assert proxy.accepted == 1
        app.close_sync()


def test_closing_on_a_silent_link(vhost_url: str) -> None:
    """It takes as long as the server's own close, and leaves nothing pending."""
    parts = urlsplit(vhost_url)
    with TcpProxy(parts.hostname or "", parts.port or 5672) as proxy:
        app = counting_app(f"amqp://{parts.username}:{parts.password}@127.0.0.1:{proxy.port}{parts.path}")
        app.tasks["task"].send_sync(1)
        proxy.stall("both")
        app.close_sync()


def test_an_observer_may_not_wait_for_its_own_thread() -> None:
    """It is called on the thread that would have to connect: that is refused at once, and the send goes on."""
    told: list[Exception] = []

    class Sends:
        def on_event(self, event: AnyEvent) -> None:
            if event.name == "broker.connected":
                try:
                    app.tasks["task"].send_sync(2)
                except ConfigError as error:
                    told.append(error)

    app = Dispatcher("memory://", observers=[Sends()])

    @app.task(name="task")
    def task(number: int) -> None: ...

    task.send_sync(1)
    assert ["by an observer" in str(error) for error in told] == [True]
    app.close_sync()


async def test_a_forked_child_connects_anew(shared_url: str) -> None:
    """The parent is connected when it forks: the child has a loop and a connection of its own."""
    app = counting_app(shared_url)

    async def send() -> None:
        async with app:
            await app.tasks["task"].send(1)

    async with app:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.events._set_running_loop(None)
                asyncio.run(send())
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert (await app.server.inspector.depth("default")).ready == 1
