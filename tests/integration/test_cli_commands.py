"""`dispatcher send`, `queues` and `dead` as a person and as a program use them, on a real SQLite file."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_run import DEADLINE_SECONDS, Cli

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.close()


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def on_terminal(cli: Cli, *words: str, **env: str) -> tuple[int, str]:
    """Run with a terminal for its output and error; the exit code and all that was written."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        cli.words(*words), cwd=cli.folder, env={**cli.env, **env}, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = b""
    while True:
        try:
            chunk = os.read(master, 65_536)
        except OSError:  # Linux reports the end of a terminal as an error
            break
        if not chunk:
            break
        written += chunk
    os.close(master)
    return process.wait(DEADLINE_SECONDS), written.decode()


def dead(cli: Cli, *filters: str) -> list[dict[str, Any]]:
    return objects(cli.ok("dead", "list", "--json", *filters))


def test_a_task_is_sent_and_run(cli: Cli) -> None:
    """Arguments are read by the signature, by position or by name; negative numbers are no options."""
    uuid = cli.ok("send", "tasks:app", "note", "hello", "-3").strip()
    sent = json.loads(cli.ok("send", "tasks:app", "note", "number=-4", "text=a b", "--uuid", "mine", "--json"))
    assert sent == {"uuid": "mine", "task": "note", "queue": "default"}
    worker = cli.start("worker", "tasks:app", "--burst", "-l", "debug")
    assert worker.exit_code() == 0
    worker.wait_for(f"task.started uuid={uuid} task=note")
    worker.wait_for("note hello -3\n")
    worker.wait_for("note a b -4\n")


def test_sending_takes_every_option(cli: Cli) -> None:
    """A delayed task is not ready; one for another queue is there."""
    cli.ok("send", "tasks:app", "note", "x", "--delay", "600", "--priority", "9", "--expires", "9000")
    cli.ok("send", "tasks:app", "note", "x", "--eta", (datetime.now(UTC) + timedelta(days=365)).isoformat())
    cli.ok("send", "tasks:app", "note", "x", "--queue", "other")
    found = {line["name"]: line for line in objects(cli.ok("queues", "tasks:app", "--json"))}
    assert (found["default"]["ready"], found["default"]["delayed"], found["other"]["ready"]) == (0, 2, 1)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("nope", "1"), "no task 'nope'", "note"),
        (("note",), "expected 1 to 2 arguments", "--help"),
        (("note", "x", "many"), "expected int, got 'many'", "--help"),
        (("note", "x", "--nope", "1"), "No such option '--nope'", "--help"),
        (("note", "x", "--eta", "2099-01-01"), "time zone", "--help"),
        (("note", "x", "--eta", "soon"), "2026-01-31T12:00:00+01:00", "--help"),
        (("note", "x", "--delay", "1", "--eta", "2099-01-01T00:00:00Z"), "got both", "--help"),
        (("note", "x", "--priority", "10"), "0 to 9", "--help"),
        (("note", "x", "--queue", "othr"), "no queue 'othr'", "did you mean 'other'?"),
    ],
)
def test_a_wrong_send_is_one_line_and_a_hint(cli: Cli, words: tuple[str, ...], message: str, hint: str) -> None:
    """Exit code 2, no traceback, and nothing was sent: not even a broker file was made."""
    done = cli.run("send", "tasks:app", *words)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("dispatcher: error: ") and message in first
    assert second.startswith("hint: ") and hint in second
    assert not cli.broker.exists()


def test_what_begins_with_a_dash_goes_after_two(cli: Cli) -> None:
    """`--` ends the options."""
    cli.ok("send", "tasks:app", "note", "--", "--loud")
    worker = cli.start("worker", "tasks:app", "--burst")
    worker.wait_for("note --loud 0")
    assert worker.exit_code() == 0


@pytest.mark.parametrize(
    "words", [("queues",), ("delayed",), ("dead", "list"), ("dead", "purge", "--yes"), ("queues", "tasks:app")]
)
def test_looking_never_creates_a_broker(cli: Cli, words: tuple[str, ...]) -> None:
    """It says that there is none, and where it looked."""
    done = cli.run(*words)
    assert done.returncode == 74
    assert f"there is no broker file {cli.broker}" in done.stderr
    assert list(cli.folder.iterdir()) == [cli.folder / "tasks.py"]


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("nonsense", 78, "no '://'"),
        ("redis://user:secret@host/0", 78, "expected the scheme"),
        ("memory://", 2, "inside its own process"),
        ("sqlite:///no/such/folder/x.db", 74, "there is no broker file"),
        ("sqlite:///tasks.py/x.db", 74, "there is no broker file"),
        (f"sqlite:///{'x' * 300}.db", 74, "File name too long"),
    ],
)
def test_a_wrong_url_is_explained(cli: Cli, url: str, code: int, message: str) -> None:
    """Without repeating a password."""
    for words in (("queues",), ("delayed",), ("dead", "list")):
        done = cli.run(*words, "--url", url)
        assert done.returncode == code
        assert message in done.stderr and "Traceback" not in done.stderr and "secret" not in done.stderr


def test_a_task_is_not_sent_into_the_commands_own_memory(cli: Cli) -> None:
    """It would be gone when the command ends: refused in the words that a look at such a broker gets."""
    sent = cli.run("send", "tasks:app", "note", "x", DISPATCHER_URL="memory://")
    looked = cli.run("queues", DISPATCHER_URL="memory://")
    assert (sent.returncode, sent.stdout) == (2, "")
    assert "inside its own process" in sent.stderr and sent.stderr == looked.stderr


def test_a_file_that_is_no_broker_is_left_alone(cli: Cli) -> None:
    """Exit code 74, and the bytes are the same."""
    cli.broker.write_bytes(b"dear diary" * 1000)
    done = cli.run("queues")
    assert done.returncode == 74 and done.stderr.startswith("dispatcher: error: ")
    assert cli.broker.read_bytes() == b"dear diary" * 1000


def test_queues_are_a_table_for_people(cli: Cli) -> None:
    """Names to the left, numbers to the right."""
    cli.ok("send", "tasks:app", "note", "x")
    heads, first, second = cli.ok("queues").splitlines()
    assert heads.split() == ["QUEUE", "READY", "DELAYED", "UNACKED", "CONSUMERS", "DEAD"]
    assert first.split() == ["default", "1", "0", "0", "0", "0"]
    assert second.split()[0] == "other"


def test_what_waits_is_shown_by_when_it_comes_due(cli: Cli) -> None:
    """A line for each queue and band, for people and for programs; nothing of what is ready, and no line for nothing."""
    cli.ok("send", "tasks:app", "note", "ready")
    assert cli.ok("delayed").split() == ["QUEUE", "DUE", "MESSAGES"]
    assert cli.ok("delayed", "tasks:app", "--json") == ""
    for delay in ("500", "550", str(9 * 365 * 86_400)):
        cli.ok("send", "tasks:app", "note", "x", "--delay", delay)
    cli.ok("send", "tasks:app", "elsewhere", "--delay", "550")
    heads, *rows = cli.ok("delayed").splitlines()
    assert [row.split() for row in rows] == [
        ["default", "in", "1", "min", "to", "10", "min", "2"],
        ["default", "in", "1", "y", "to", "10", "y", "1"],
        ["other", "in", "1", "min", "to", "10", "min", "1"],
    ]
    assert heads.endswith("MESSAGES") and {len(row) for row in rows} == {len(heads)}
    url = f"sqlite:///{cli.broker}"
    assert objects(cli.ok("delayed", "--json", "--url", url, DISPATCHER_URL="memory://"))[2] == {
        "from_seconds": 60, "to_seconds": 600, "messages": 1, "queue": "other",
    }  # fmt: skip


def bury(cli: Cli) -> None:
    """Three dead letters: two failed, one rejected for its arguments."""
    cli.ok("send", "tasks:app", "fail", "first\nline \x1b[31m", "--uuid", "one")
    cli.ok("send", "tasks:app", "fail", "--uuid", "two")
    cli.ok("send", "tasks:app", "interrupt", "--uuid", "three")
    assert cli.start("worker", "tasks:app", "--burst", "-c", "1").exit_code() == 0


def test_dead_letters_are_listed_shown_replayed_and_deleted(cli: Cli) -> None:
    """The whole round on one file."""
    bury(cli)
    assert [(letter["uuid"], letter["task"], letter["reason"]) for letter in dead(cli)] == [
        ("one", "fail", "failed"),
        ("two", "fail", "failed"),
        ("three", "interrupt", "failed"),
    ]
    assert [letter["uuid"] for letter in dead(cli, "--task", "interrupt")] == ["three"]
    assert dead(cli, "--reason", "expired") == [] == dead(cli, "-Q", "other")

    shown = cli.ok("dead", "show", "two")
    assert "ValueError" in shown and "as asked" in shown and "Traceback" in shown and "tasks.py" in shown
    (as_object,) = objects(cli.ok("dead", "show", "tasks:app", "one", "--json"))
    assert as_object["args"] == [{"type": "string", "value": "first\nline \x1b[31m"}]
    [failed] = as_object["history"]
    assert (failed["attempt"], failed["error_type"], failed["error"]) == (1, "ValueError", "first\nline \x1b[31m")
    assert f"on {failed['where'].rpartition(':')[0]}:" in shown and "attempt 1" in shown

    assert cli.ok("dead", "replay", "two") == "replayed 1\n"
    assert [letter["uuid"] for letter in dead(cli)] == ["one", "three"]
    assert cli.start("worker", "tasks:app", "--burst").exit_code() == 0
    (again,) = [letter for letter in dead(cli) if letter["uuid"] == "two"]
    assert again["attempt"] == 1

    assert cli.ok("dead", "replay", "--all", "--task", "fail", "--to", "other") == "replayed 2\n"
    assert {line["name"]: line["ready"] for line in objects(cli.ok("queues", "--json"))} == {"default": 0, "other": 2}
    assert cli.ok("dead", "purge", "tasks:app", "--yes") == "deleted 1\n"
    assert dead(cli) == []


def test_a_listing_cannot_be_forged_by_an_error_text(cli: Cli) -> None:
    """Line ends and escape sequences in what a task raised are shown, not obeyed."""
    bury(cli)
    text = cli.ok("dead", "list")
    assert len(text.splitlines()) == 4 and "\x1b" not in text
    assert "\x1b" not in cli.ok("dead", "show", "one")


def test_a_listing_is_bounded_and_says_so(cli: Cli) -> None:
    """The note goes to standard error, so that a program's input stays clean."""
    bury(cli)
    done = cli.run("dead", "list", "--limit", "2", "--json")
    assert len(objects(done.stdout)) == 2
    assert "more than 2" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dead", "show", "nobody"), "no dead letter nobody"),
        (("dead", "replay", "nobody"), "no dead letter nobody"),
        (("dead", "replay"), "expected UUIDs or --all, got neither"),
        (("dead", "replay", "one", "--all"), "expected UUIDs or --all, got both"),
        (("dead", "replay", "--all", "--to", "othr"), "no queue 'othr'"),
        (("dead", "list", "-Q", "defalt"), "no queue 'defalt'"),
        (("dead", "purge"), "expected --yes"),
        (("queues", "tasks:app", "--url", "memory://"), "got both"),
    ],
)
def test_a_wrong_question_is_one_line_and_a_hint(cli: Cli, words: tuple[str, ...], message: str) -> None:
    """Exit code 2, and the letters stay."""
    cli.ok("send", "tasks:app", "note", "x")
    done = cli.run(*words)
    assert done.returncode == 2, done.stderr
    first, second = done.stderr.splitlines()
    assert first.startswith("dispatcher: error: ") and message in first and second.startswith("hint: ")


def test_a_reader_that_has_had_enough_is_no_error(cli: Cli) -> None:
    """`dispatcher dead list | head`: no complaint, exit code 0."""
    bury(cli)
    for words in (("dead", "list"), ("queues", "--json")):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            cli.words(*words), cwd=cli.folder, env=cli.env, stdout=writing, stderr=subprocess.PIPE, check=False
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b""), words


def test_colour_is_for_terminals_and_may_be_refused(cli: Cli) -> None:
    """NO_COLOR is honoured, and a pipe never gets any."""
    code, text = on_terminal(cli, "worker", "taks:app")
    assert code == 78 and "\x1b[31m" in text and "dispatcher: error:" in text
    _, text = on_terminal(cli, "worker", "taks:app", NO_COLOR="1")
    assert "\x1b[" not in text and "dispatcher: error:" in text
    _, text = on_terminal(cli, "worker", "tasks:app", "--burst", NO_COLOR="1", COLUMNS="100")
    assert "\x1b[32m" not in text
    assert "\x1b" not in cli.run("worker", "taks:app").stderr


def test_progress_is_drawn_on_terminals_only(cli: Cli) -> None:
    """For a burst and for a replay."""
    bury(cli)
    assert "replaying" not in cli.run("dead", "replay", "--all").stderr
    _, text = on_terminal(cli, "worker", "tasks:app", "-p", "2", "--burst")
    assert "tasks  [" in text and "3/3" in text
    _, text = on_terminal(cli, "dead", "replay", "--all")
    assert "replaying  [" in text and "3/3" in text and "replayed 3" in text
    plain = cli.start("worker", "tasks:app", "--burst")
    assert plain.exit_code() == 0
    plain.wait_until_all_gone()
    assert "tasks  [" not in plain.text


def test_purging_with_standard_input_closed_deletes_nothing(cli: Cli) -> None:
    """There is nobody to ask."""
    bury(cli)
    purge = cli.start("dead", "purge", redirect="<&-")
    assert purge.exit_code() == 2
    purge.wait_for("expected --yes")
    assert len(dead(cli)) == 3


def test_purging_asks_on_a_terminal(cli: Cli) -> None:
    """A no leaves every letter where it is; a yes deletes them."""
    bury(cli)
    for answer, left in ((b"n\n", 3), (b"y\n", 0)):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            cli.words("dead", "purge"), cwd=cli.folder, env=cli.env, stdin=slave, stdout=subprocess.PIPE, stderr=slave
        )
        os.close(slave)
        os.write(master, answer)
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
        os.close(master)
        assert b"Delete 3 dead letters for good?" in out
        assert len(dead(cli)) == left


# --- cancel ----------------------------------------------------------------------------------------------------------


def test_a_cancelled_task_is_parked_by_a_worker_that_starts_later(cli: Cli) -> None:
    """Named by an app or by a URL; one that nobody sent is recorded all the same."""
    first, second, third = (cli.ok("send", "tasks:app", "note", text).strip() for text in "abc")
    assert cli.ok("cancel", "tasks:app", first, "nobody's") == "cancelled 2\n"
    assert cli.ok("cancel", "--url", cli.env["DISPATCHER_URL"], second) == "cancelled 1\n"
    assert cli.ok("cancel", "--exchange", "another", third) == "cancelled 1\n"
    assert cli.ok("cancel", "order:17") == "cancelled 1\n"
    worker = cli.start("worker", "tasks:app", "--burst")
    assert worker.exit_code() == 0
    worker.wait_for("note c 0\n")
    assert {letter["uuid"]: letter["reason"] for letter in dead(cli)} == {first: "cancelled", second: "cancelled"}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ((), "expected at least one UUID, got none", "dispatcher send"),
        (("tasks:app", ""), "uuid: expected a non-empty string", "dispatcher send"),
        (("tasks:app", "u" * 256), "expected at most 255 bytes", "dispatcher send"),
        (("tasks:app", "--url", "sqlite:///x.db", "u"), "there is no broker file", "--url"),
    ],
)
def test_a_cancel_that_makes_no_sense(cli: Cli, words: tuple[str, ...], message: str, hint: str) -> None:
    """One line that says what was expected, one that says what to do; no broker file is made."""
    done = cli.run("cancel", *words)
    first, second = done.stderr.splitlines()
    assert done.returncode in (2, 74)
    assert first.startswith("dispatcher: error: ") and message in first
    assert second.startswith("hint: ") and hint in second
    assert not cli.broker.exists()
