"""`dispatcher dead` on a file and on RabbitMQ: what it filters, edits, paces and deletes, and a kill in the middle of it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cli_run import Cli
from server_bench import DEADLINE_SECONDS, eventually

from dispatcher import Dispatcher, Queue, TaskArgument
from dispatcher.brokers.base import Message, Session
from dispatcher.model import headers as names
from dispatcher.model.codec import encode_body
from dispatcher.model.topology import DEAD_EXCHANGE

pytestmark = pytest.mark.timeout(120)

DAY_MS = 86_400_000
T = TypeVar("T")


@pytest.fixture
def cli(tmp_path: Path, shared_url: str) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    cli.env["DISPATCHER_URL"] = shared_url
    yield cli
    cli.close()


def with_session(cli: Cli, work: Callable[[Session], Awaitable[T]]) -> T:
    """Do `work` on the broker of `cli`, whose queues are `default` and `other`."""

    async def do() -> T:
        queues = [Queue("default", ("default",)), Queue("other", ("other",))]
        async with asyncio.timeout(DEADLINE_SECONDS), Dispatcher(cli.env["DISPATCHER_URL"], init_queues=queues) as app:
            return await work(await app.server.live_session())

    return asyncio.run(do())


def bury(cli: Cli, *uuids: str, days: float = 0, body: bytes | None = None, **notes: Any) -> None:
    """Park letters of the task `note` that died so many days ago."""
    notes = {
        names.REASON: "failed",
        names.REASON_TEXT: "because",
        names.DEAD_AT: int(time.time() * 1000 - days * DAY_MS),
        names.FIRST_PUBLISHED_AT: 1_700_000_000_000,
        names.EXCHANGE: "shop",
        names.ROUTING_KEY: "notes",
        **notes,
    }
    args = (TaskArgument("string", "hello"), TaskArgument("int", 3))

    async def work(session: Session) -> None:
        before = await ready(session, "default.dead")
        letters = [(uuid, body if body is not None else encode_body(uuid, "note", args)) for uuid in uuids]
        await asyncio.gather(
            *(session.publish(Message(DEAD_EXCHANGE, "default", text, uuid, notes)) for uuid, text in letters)
        )
        await counted(session, "default.dead", before + len(uuids))

    with_session(cli, work)


async def ready(session: Session, queue: str) -> int:
    return (await session.inspector.depth(queue)).ready


async def counted(session: Session, queue: str, count: int) -> None:
    """Wait until the queue shows so many: RabbitMQ confirms a message a little before it counts it."""
    await eventually(lambda: ready(session, queue), count)


def browsed(cli: Cli, queue: str, count: int) -> list[Message]:
    """What waits in `queue`, which is `count` messages."""

    async def work(session: Session) -> list[Message]:
        await counted(session, queue, count)
        return [seen.message async for seen in session.inspector.browse(queue)]

    return with_session(cli, work)


def bodies(cli: Cli, queue: str, count: int = 1) -> list[tuple[str, list[Any]]]:
    """Name and arguments' values of what waits in `queue`."""
    decoded = [json.loads(message.body) for message in browsed(cli, queue, count)]
    return [(task["name"], [arg["value"] for arg in task["args"]]) for task in decoded]


def dead(cli: Cli, *filters: str) -> list[str]:
    lines = cli.ok("dead", "list", "tasks:app", "--json", *filters).splitlines()
    return [json.loads(line)["uuid"] for line in lines]


def editor(cli: Cli, code: str) -> dict[str, str]:
    """The environment with an editor that rewrites the file's `text` by a line of Python."""
    script = cli.write(
        "editor.py", f"import sys, json\ntext = open(sys.argv[1]).read()\n{code}\nopen(sys.argv[1], 'w').write(text)\n"
    )
    return {"VISUAL": f"{cli.words()[0]} {script}", "EDITOR": "false"}


def test_letters_are_found_by_error_and_age(cli: Cli) -> None:
    """By list, replay and purge alike."""
    bury(cli, "new", **{names.ERROR_TYPE: "app.Gone", names.ERROR: "no such order"})
    bury(cli, "old", days=8, **{names.ERROR_TYPE: "ValueError", names.ERROR: "Bad Address"})
    bury(cli, "older", days=40)
    assert dead(cli, "--error", "gone: NO") == ["new"]
    assert dead(cli, "--error", "address") == ["old"]
    assert dead(cli, "--older", "7d") == ["old", "older"]
    assert dead(cli, "--newer", "12h") == ["new"]
    assert dead(cli, "--older", "90s", "--newer", "30d") == ["old"]
    assert cli.ok("dead", "replay", "tasks:app", "--all", "--error", "ADDRESS") == "replayed 1\n"
    assert cli.ok("dead", "purge", "tasks:app", "--yes", "--older", "720h") == "deleted 1\n"
    assert dead(cli) == ["new"]


def test_a_letter_tells_where_and_when_it_began(cli: Cli) -> None:
    """To people in local time, to programs in Unix milliseconds, null where nobody noted it."""
    bury(cli, "a")
    shown = cli.ok("dead", "show", "tasks:app", "a")
    assert re.search(r"^exchange +shop$", shown, re.M) and re.search(r"^routing key +notes$", shown, re.M)
    assert re.search(r"^first published +2023-11-1\d \d\d:\d\d:\d\d$", shown, re.M)
    assert re.search(r"^replayed +-$", shown, re.M)
    letter = json.loads(cli.ok("dead", "show", "tasks:app", "a", "--json"))
    assert (letter["first_published_at_ms"], letter["exchange"], letter["routing_key"]) == (
        1_700_000_000_000,
        "shop",
        "notes",
    )
    assert letter["args"] == [{"type": "string", "value": "hello"}, {"type": "int", "value": 3}]
    assert abs(letter["dead_at_ms"] - time.time() * 1000) < DAY_MS and letter["replayed_at_ms"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "--older", "soon"), "expected an age such as 90s, 30m, 12h or 7d, got 'soon'"),
        (("purge", "--yes", "--newer", "-5d"), "expected an age"),
        (("retention", "--yes"), "--older"),
        (("retention", "--older", "1d"), "expected --yes"),
        (("retention", "--yes", "--older", "1d", "--keep", "-1"), "expected a whole number, 0 or more"),
        (("replay", "--all", "--rate", "0"), "expected a number a second, 0.01 or more, got '0'"),
        (("replay", "--all", "--rate", "nan"), "expected a number a second"),
        (("replay", "--all", "--edit"), "--edit: expected exactly one UUID, got --all"),
        (("replay", "a", "b", "--edit"), "--edit: expected exactly one UUID, got 2 of them"),
        (("replay", "a", "--edit", "--set-arg", "0=1"), "expected --edit or --set-arg, got both"),
        (("replay", "a", "--set-arg", "x=1"), "expected INDEX=JSON"),
        (("replay", "a", "--set-arg", "0=text"), "a text has quotes: '0=\"text\"'"),
        (("replay", "a", "--set-arg", "2=1"), "expected an argument's index, 0 to 1, got 2"),
        (("replay", "a", "--set-arg", "0=1"), "argument 1: expected a string, got an integer"),
        (("replay", "--all", "--set-arg", "1=9223372036854775808"), "2 were not accepted and stay"),
        (("replay", "nobody", "--edit"), "no dead letter nobody"),
    ],
)
def test_a_wrong_question_changes_nothing(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """Exit code 2 and what was expected."""
    cli = Cli(tmp_path)
    bury(cli, "a", "b", days=9)
    done = cli.run("dead", words[0], "tasks:app", *words[1:])
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert dead(cli) == ["a", "b"] and browsed(cli, "default", 0) == []


def test_arguments_are_set_without_an_editor(cli: Cli) -> None:
    """For all that fit, several at once, to another queue, at a rate; a letter without such an argument stays."""
    bury(cli, "a", "b")
    bury(cli, "c", body=encode_body("c", "note", (TaskArgument("string", "short"),)))
    done = cli.run(
        *("dead", "replay", "tasks:app", "--all", "--to", "other", "--rate", "100"),
        *("--set-arg", '0="é"', "--set-arg", "1=-7"),
    )
    assert (done.returncode, done.stdout) == (2, "replayed 2\n")
    assert "1 were not accepted and stay" in done.stderr and "index, 0 to 0, got 1" in done.stderr
    assert bodies(cli, "other", 2) == [("note", ["é", -7])] * 2
    assert dead(cli) == ["c"]


def test_a_letter_is_edited_in_an_editor(cli: Cli) -> None:
    """Name and arguments may change; it runs with them."""
    bury(cli, "a", "b")
    env = editor(cli, "task = json.loads(text); task['args'][0]['value'] = 'edited'; text = json.dumps(task, indent=1)")
    assert cli.ok("dead", "replay", "tasks:app", "b", "--edit", **env) == "replayed 1\n"
    worker = cli.start("worker", "tasks:app", "--burst")
    worker.wait_for("note edited 3")
    assert worker.exit_code() == 0
    env = editor(cli, "text = text.replace('note', 'elsewhere').replace('\"args\": [', '\"args\": [], \"was\": [')")
    assert cli.ok("dead", "replay", "tasks:app", "a", "--edit", "--to", "other", **env) == "replayed 1\n"
    assert bodies(cli, "other") == [("elsewhere", [])]
    assert dead(cli) == []


def test_a_body_that_is_no_task_is_mended(cli: Cli) -> None:
    """The editor shows it as it is."""
    bury(cli, "a", body=b'{"uuid":"a","name":"note","args":[{"type":"string","value":"x"},]}')
    env = editor(cli, "text = text.replace(',]', ']')")
    assert cli.ok("dead", "replay", "tasks:app", "a", "--edit", **env) == "replayed 1\n"
    assert bodies(cli, "default") == [("note", ["x"])]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("text = ''", "expected a task as JSON, got an empty text"),
        ("text = text[:-9]", "expected a task as JSON"),
        ("text = text.replace(': 3', ': 3.5')", "argument 2: expected an integer"),
        ("text = text.replace('\"int\"', '\"int8\"').replace(': 3', ': 128')", "from -128 to 127 (int8)"),
        ("text = text.replace('\"int\"', '\"number\"')", "expected one of bool"),
        ("text = text.replace('\"note\"', '\"no name\"')", "expected a name"),
        ("text = text.replace('\"a\"', '\"b\"')", "expected the uuid a, which an edit keeps, got b"),
        ("text = text.replace('{', '{\"name\": \"x\",', 1)", "each key once"),
        ("sys.exit(3)", "expected an editor that runs"),
        ("sys.exit(0)", "left without saving"),
    ],
)
def test_a_wrong_edit_loses_nothing(tmp_path: Path, code: str, message: str) -> None:
    """It says what is wrong, and the letter is as it was."""
    cli = Cli(tmp_path)
    bury(cli, "a")
    done = cli.run("dead", "replay", "tasks:app", "a", "--edit", **editor(cli, code))
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert dead(cli) == ["a"] and browsed(cli, "default", 0) == []


def test_two_letters_of_one_uuid_are_not_edited_as_one(tmp_path: Path) -> None:
    """Filters tell them apart."""
    cli = Cli(tmp_path)
    bury(cli, "a", days=3)
    bury(cli, "a")
    env = editor(cli, "text = text.replace('hello', 'edited')")
    done = cli.run("dead", "replay", "a", "--edit", **env)
    assert done.returncode == 2 and "2 dead letters have the uuid a" in done.stderr
    assert cli.ok("dead", "replay", "a", "--edit", "--older", "1d", **env) == "replayed 1\n"
    assert bodies(cli, "default") == [("note", ["edited", 3])]


def test_retention_deletes_what_is_old_and_what_is_many(cli: Cli) -> None:
    """And says how many."""
    bury(cli, "old", days=31)
    bury(cli, "a", "b", "c", days=1)
    assert cli.ok("dead", "retention", "tasks:app", "--older", "30d", "-Q", "other", "--yes") == "deleted 0\n"
    assert cli.ok("dead", "retention", "tasks:app", "--older", "30d", "--yes") == "deleted 1\n"
    assert (
        cli.ok("dead", "retention", "tasks:app", "--older", "30d", "--keep", "2", "-Q", "default", "--yes")
        == "deleted 1\n"
    )
    assert dead(cli) == ["b", "c"]


def found_again(cli: Cli, uuids: set[str]) -> tuple[set[str], set[str]]:
    """Which are in the queue, and which among the dead letters, once all of `uuids` are in one of them."""

    async def work(session: Session) -> tuple[set[str], set[str]]:
        sent: set[str] = set()
        left: set[str] = set()

        async def look() -> bool:  # RabbitMQ gives back what a process held once it knows of its end
            sent.update([seen.message.uuid async for seen in session.inspector.browse("default")])
            left.update([seen.message.uuid async for seen in session.inspector.browse("default.dead")])
            return sent | left == uuids

        await eventually(look, True)
        await counted(session, "default.dead", len(left))
        return sent, left

    return with_session(cli, work)


def test_a_replay_that_is_killed_loses_no_letter(cli: Cli) -> None:
    """kill -9 in the middle: each letter is in the queue, among the dead letters, or in both; a second replay does the rest."""
    uuids = {f"u{number}" for number in range(2_000)}
    bury(cli, *uuids)
    replay = cli.start("dead", "replay", "tasks:app", "--all", "--rate", "400")

    async def in_the_middle(session: Session) -> None:
        while (await session.inspector.depth("default")).ready < 100:
            assert replay.process.poll() is None, "it ended before it was killed"
            await asyncio.sleep(0.01)
        replay.process.kill()
        replay.process.wait()

    with_session(cli, in_the_middle)

    sent, left = found_again(cli, uuids)
    assert len(sent) >= 100 and left
    assert cli.ok("dead", "replay", "tasks:app", "--all") == f"replayed {len(left)}\n"
    assert {message.uuid for message in browsed(cli, "default", len(sent) + len(left))} == uuids
    assert dead(cli) == []


def test_an_interrupted_replay_ends_cleanly(cli: Cli) -> None:
    """^C: exit code 130, no letter is both sent and dead, none is lost."""
    uuids = {f"u{number}" for number in range(500)}
    bury(cli, *uuids)
    replay = cli.start("dead", "replay", "tasks:app", "--all", "--rate", "100")

    async def in_the_middle(session: Session) -> None:
        while not (await session.inspector.depth("default")).ready:
            assert replay.process.poll() is None, "it ended before it was interrupted"
            await asyncio.sleep(0.01)

    with_session(cli, in_the_middle)
    replay.signal(signal.SIGINT)
    assert replay.exit_code() == 130 and "Traceback" not in replay.text
    sent, left = found_again(cli, uuids)
    assert sent and left and not sent & left


def test_an_edit_with_a_fault_may_be_edited_again(tmp_path: Path) -> None:
    """On a terminal: what was typed is kept, and the fault is told."""
    cli = Cli(tmp_path)
    bury(cli, "a")
    env = editor(cli, "whole = text.rstrip(); text = whole[:-1] if whole.count('}') == 3 else whole + '}'")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        cli.words("dead", "replay", "a", "--edit"), cwd=cli.folder, env={**cli.env, **env},
        stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(slave)
    os.write(master, b"y\n")
    out, errors = process.communicate(timeout=DEADLINE_SECONDS)
    os.close(master)
    assert process.returncode == 0 and b"Edit it again?" in out and b"replayed 1" in out
    assert b"expected a task as JSON" in errors
