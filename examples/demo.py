"""The whole of Dispatcher on real input, on a bare machine: `make demo`.

Every .py file of this Python installation is one task: read it, count its lines, words and bytes, compute its SHA-256.
The broker is the embedded one, in a temporary folder; three worker processes run under their supervisor. About one
task in fifty fails on its first attempt, one names a file that does not exist, and half-way one worker is killed with
`kill -9`. At the end the totals are compared with those of a plain loop over the same files.

Exits with 1 if a task was lost or a total differs, with 130 after ^C. Needs a Unix system, for the signals.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from demo_ledger import Figures, Ledger

if TYPE_CHECKING:
    from dispatcher import Dispatcher

HERE = Path(__file__).resolve().parent
PROCESSES = 3
LIMIT = 4

STALL_SECONDS = 30.0
"""The demo gives up when nothing at all has happened for so long."""
WHOLE_SECONDS = 600.0
STOP_SECONDS = 20.0
LOOK_EVERY_SECONDS = 0.05


class DemoFailed(Exception):
    """Something did not happen that must; the text says what."""


# --- the input ----------------------------------------------------------------------------------------------------


def python_files() -> list[str]:
    """Every .py file on the path of the interpreter this virtual environment was made from."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    asked = subprocess.run(
        [base, "-I", "-c", "import sys; print('\\n'.join(sys.path))"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    found = {
        path.resolve()
        for folder in asked.stdout.splitlines()
        if Path(folder).is_dir()
        for path in Path(folder).rglob("*.py")
        if path.is_file() and os.access(path, os.R_OK)
    }
    return sorted(str(path) for path in found if _is_text(str(path)))


def _is_text(path: str) -> bool:
    """A task's strings are Unicode; a file name on Unix is bytes, and need not be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- the workers --------------------------------------------------------------------------------------------------


@dataclass
class Workers:
    """The supervisor of the worker processes, and its log."""

    supervisor: subprocess.Popen[bytes]
    log: Path
    exit_code: int | None = None

    def check_alive(self) -> None:
        if self.supervisor.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
            raise DemoFailed(f"the workers ended by themselves with exit code {self.supervisor.returncode}:\n{tail}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The fields of every log line of that event."""
        lines = [line for line in self.log.read_bytes().splitlines(keepends=True) if line.endswith(b"}\n")]
        return [line["fields"] for line in map(msgspec.json.decode, lines) if line.get("event") == name]

    def stop(self) -> None:
        """Drain: one TERM to the supervisor, which passes it on."""
        self.supervisor.terminate()
        try:
            self.exit_code = self.supervisor.wait(STOP_SECONDS)
        except BaseException as error:  # a second ^C too
            self.supervisor.kill()  # its processes notice, drain and end
            self.supervisor.wait(STOP_SECONDS)
            if isinstance(error, subprocess.TimeoutExpired):
                raise DemoFailed(f"the workers had not drained {STOP_SECONDS:g} s after TERM") from None
            raise


@contextmanager
def workers_running(folder: Path) -> Iterator[Workers]:
    log = folder / "workers.log"
    command = [sys.executable, "-m", "dispatcher", "worker", "demo_app:app", "-p", str(PROCESSES), "-c", str(LIMIT)]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [*command, "--log-format", "json"], cwd=HERE, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            process_group=0,  # a ^C in the terminal is ours alone: we stop the workers
        )  # fmt: skip
    workers = Workers(supervisor, log)
    try:
        yield workers
    finally:
        if supervisor.poll() is None:
            workers.stop()


# --- the run ------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What became of the tasks."""

    ledger: Ledger
    paths: dict[str, str] = field(default_factory=dict)  # by task uuid, in the order they were sent
    dead: dict[str, str] = field(default_factory=dict)  # by task uuid, why
    victim: int = 0
    cut_short: set[str] = field(default_factory=set)  # what the victim was running
    sent_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def lost(self) -> list[str]:
        return [path for uuid, path in self.paths.items() if uuid not in self.ledger.figures and uuid not in self.dead]


async def process(app: Dispatcher, files: list[str], workers: Workers, ledger: Ledger) -> Run:
    """Send one task a file, kill a worker half-way, wait until nothing is left."""
    from demo_app import scan

    run = Run(ledger)
    began = time.monotonic()

    async def send() -> None:
        receipts = await app.publish_many(scan.bind(path) for path in files)
        run.paths = {receipt.uuid: path for receipt, path in zip(receipts, files, strict=True)}
        run.sent_seconds = time.monotonic() - began

    async with app:
        sending = asyncio.create_task(send())
        try:
            with progress(len(files)) as show:
                await watch(app, run, workers, sending, len(files), show)
            await sending
        finally:
            sending.cancel()
        run.dead = {
            browsed.message.uuid: browsed.message.headers["x-dispatcher-reason-text"]
            async for browsed in app.server.inspector.browse("files.dead")
            if browsed.message.headers is not None
        }
    run.seconds = time.monotonic() - began
    return run


async def watch(
    app: Dispatcher, run: Run, workers: Workers, sending: asyncio.Task[None], total: int, show: Callable[[int], None]
) -> None:
    """Follow the ledger until the queue is empty; half-way, kill."""
    now = started = moved = time.monotonic()
    while now - moved < STALL_SECONDS and now - started < WHOLE_SECONDS:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        now = time.monotonic()
        workers.check_alive()
        if run.ledger.read():
            moved = now
        show(len(run.ledger.figures))
        if not run.cut_short and len(run.ledger.figures) >= total // 2:
            await kill_one(run, workers)
        if sending.done():
            sending.result()
            depth = await app.server.inspector.depth("files")
            if not (depth.ready or depth.unacked or depth.delayed) and restarted(workers):
                run.ledger.read()
                show(total)
                return
    # What is missing is said by the report: a task that is still queued counts as lost.


async def kill_one(run: Run, workers: Workers) -> None:
    """`kill -9` a worker process in the middle of a task; note what it was running.

    It is stopped for a moment first, because tasks are short: what it has started and not ended is then certain.
    """
    ledger = run.ledger
    victim = max(ledger.open_runs, key=lambda pid: len(ledger.open_runs[pid]))
    os.kill(victim, signal.SIGSTOP)
    try:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        ledger.read()
    finally:
        caught = set(ledger.open_runs[victim])
        os.kill(victim, signal.SIGKILL if caught else signal.SIGCONT)
    if not caught:
        return  # it was between two tasks: the next look tries again
    run.victim, run.cut_short = victim, caught
    deadline = time.monotonic() + STOP_SECONDS
    while not any(ended["pid"] == victim for ended in workers.events("worker_process.ended")):
        if time.monotonic() > deadline:
            raise DemoFailed(f"the supervisor did not notice the end of process {victim} within {STOP_SECONDS:g} s")
        await asyncio.sleep(LOOK_EVERY_SECONDS)


def restarted(workers: Workers) -> bool:
    """Whether the supervisor has replaced the process that was killed."""
    return len(workers.events("worker_process.started")) > PROCESSES


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, some plain lines elsewhere."""
    if sys.stdout.isatty():
        with click.progressbar(length=total, label="tasks", show_pos=True) as bar:
            yield lambda done: bar.update(min(done, total) - bar.pos)
        return
    shown = 0

    def show(done: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            click.echo(f"tasks  {done:,} of {total:,}")

    yield show


# --- the comparison -----------------------------------------------------------------------------------------------


def totals(figures: Iterable[tuple[str, Figures]]) -> dict[str, str]:
    """The sums over all files, and a digest over every path and SHA-256."""
    rows = sorted(figures)
    digest = hashlib.sha256("".join(f"{path} {one[3]}\n" for path, one in rows).encode()).hexdigest()
    lines = sum(one[0] for _, one in rows)
    words = sum(one[1] for _, one in rows)
    size = sum(one[2] for _, one in rows)
    return {
        "files": f"{len(rows):,}", "lines": f"{lines:,}", "words": f"{words:,}", "bytes": f"{size:,}",
        "digest": digest[:16],
    }  # fmt: skip


def report(run: Run, workers: Workers, files: list[str], missing: str) -> list[str]:
    """Print the tables; return what is wrong."""
    from demo_app import fails_first, measure

    ledger = run.ledger
    table(
        ("tasks sent", len(run.paths), f"in {run.sent_seconds:.1f} s, each on disk before its publish returned"),
        ("runs", ledger.runs, f"by {len(ledger.open_runs)} processes, all done after {run.seconds:.1f} s"),
        ("retried", ledger.retries, "runs after a failed attempt"),
        (
            "redelivered",
            ledger.redeliveries,
            f"after kill -9 of process {run.victim}, in the middle of {len(run.cut_short)}",
        ),
        ("done twice", ledger.finished - len(ledger.figures), "finished, but not acked before the kill"),
        ("dead letters", len(run.dead), ", ".join(run.dead.values()).replace(os.path.dirname(missing) + "/", "")),
        ("lost", len(run.lost), ""),
    )
    by_tasks = totals((run.paths[uuid], figures) for uuid, figures in ledger.figures.items() if uuid in run.paths)
    by_loop = totals((path, measure(path)) for path in files if path != missing)
    click.echo(f"\n{'':8}{'by the tasks':>18}{'by a plain loop':>18}")
    for name, value in by_tasks.items():
        mark = "" if value == by_loop[name] else "   DIFFERENT"
        click.echo(f"{name:8}{value:>18}{by_loop[name]:>18}{mark}")

    expected_retries = sum(fails_first(path) for path in files) + (1 if fails_first(missing) else 2)
    checks = {
        f"{len(run.lost)} tasks were lost, the first: {(run.lost or [''])[0]}": not run.lost,
        "the totals differ": by_tasks == by_loop,
        f"{len(ledger.contradictions)} files gave two different results": not ledger.contradictions,
        "expected the file that does not exist, and nothing else, in the dead letters": (
            [run.paths.get(uuid) for uuid in run.dead] == [missing]
        ),
        f"expected {expected_retries} retries or more, got {ledger.retries}": ledger.retries >= expected_retries,
        "no worker was killed in the middle of a task": bool(run.cut_short),
        "what the killed worker was running was not delivered again": run.cut_short <= ledger.redelivered,
        "the killed worker was not restarted": restarted(workers),
        f"the workers ended with {workers.exit_code}, expected 0": workers.exit_code == 0,
    }
    return [complaint for complaint, well in checks.items() if not well]


def table(*rows: tuple[str, int, str]) -> None:
    click.echo()
    for name, number, remark in rows:
        click.echo(f"{name:<14}{number:>8,}   {remark}".rstrip())


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dispatcher-demo-") as name:
        folder = Path(name)
        ledger = Ledger(folder / "ledger")
        ledger.folder.mkdir()
        os.environ["DISPATCHER_URL"] = f"sqlite:///{folder}/demo.db"
        os.environ["DISPATCHER_DEMO_LEDGER"] = str(ledger.folder)
        from demo_app import app  # reads the environment when it is imported

        missing = str(folder / "no_such_file.py")
        click.echo("looking for the Python files of this installation")
        files = [*python_files(), missing]
        click.echo(f"{len(files) - 1:,} Python files; embedded broker; {PROCESSES} worker processes")
        with workers_running(folder) as workers:
            run = asyncio.run(process(app, files, workers, ledger))
            workers.stop()
        click.echo("reading the same files in a plain loop")
        complaints = report(run, workers, files, missing)
    click.echo()
    for complaint in complaints:
        click.echo(f"FAILED: {complaint}", err=True)
    if not complaints:
        click.echo("Nothing was lost, and the totals are equal.")
    return 1 if complaints else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoFailed as error:
        sys.exit(f"FAILED: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
