"""What the cases need of this machine, found once before the run: a RabbitMQ, a disk, and librabbitmq's client, compiled here."""

from __future__ import annotations

import compileall
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import click
import msgspec

from .catalogue import Case
from .rabbitmq import RabbitMq, rabbitmq_if_any
from .report import file_system

__all__ = ["Surroundings", "compile_package", "disk_folder"]

C_SOURCE = Path(__file__).parent / "amqp" / "peer.c"


class Surroundings(msgspec.Struct):
    """`missing` says for each need that is not met why, in a few words."""

    missing: dict[str, str]
    rabbitmq: RabbitMq | None = None
    c_client: Path | None = None

    @classmethod
    def of(cls, cases: list[Case], scratch: Path) -> Surroundings:
        """Look for what `cases` need. A RabbitMQ that was named but does not answer is a `ClickException`."""
        needs = {need for case in cases for need in case.needs}
        found = cls({})
        if "rabbitmq" in needs:
            found.rabbitmq = rabbitmq_if_any()
            if found.rabbitmq is None:
                found.missing["rabbitmq"] = "no broker"
        if "librabbitmq" in needs and found.rabbitmq is not None:
            found.c_client = _compiled(scratch)
            if found.c_client is None:
                found.missing["librabbitmq"] = "no C compiler, or no librabbitmq-dev"
        return found

    def lacks(self, case: Case) -> str:
        """Why `case` cannot be measured here; empty if it can."""
        return next((self.missing[need] for need in case.needs if need in self.missing), "")

    def variables(self, case: Case, folder: Path, queue: str) -> dict[str, str]:
        """What a measurement reads from its environment. It may make what is named after `queue`, and nothing else."""
        file = folder / "bench.db"
        on_rabbitmq = self.rabbitmq if "rabbitmq" in case.needs else None
        return {
            "BENCH_FILE": str(file),
            "BENCH_URL": on_rabbitmq.url if on_rabbitmq else f"sqlite:///{file}",
            "BENCH_QUEUE": queue,
            "BENCH_QUEUES": " ".join(_queues(case, queue)),
            "BENCH_BROKER_PID": str(on_rabbitmq.pid if on_rabbitmq else 0),
            "BENCH_C_CLIENT": str(self.c_client or ""),
            "BENCH_FSYNC": "1" if case.huey_fsync else "0",
            "BENCH_COUNT": "0",
            "BENCH_PIPE": "-1",
        }

    def clean(self, case: Case, queue: str) -> None:
        """Delete what a measurement may have left in the broker."""
        if self.rabbitmq is not None and "rabbitmq" in case.needs:
            self.rabbitmq.delete(queue, _queues(case, queue))


def _queues(case: Case, queue: str) -> list[str]:
    """All of a case's queues; the first is called `queue`, as is their exchange."""
    return [queue, *(f"{queue}.{number}" for number in range(2, case.queues + 1))]


def _compiled(scratch: Path) -> Path | None:
    """The C client, optimised; None where there is no compiler or no library."""
    compiler = os.environ.get("CC") or "cc"
    program = scratch / "amqp-peer"
    if shutil.which(compiler) is None:
        return None
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(C_SOURCE), "-lrabbitmq"], capture_output=True, text=True
    )
    if done.returncode:
        click.echo(f"librabbitmq is not measured:\n{done.stderr}", err=True)
        return None
    return program


def compile_package() -> None:
    """Write the package's byte code, as installing it would: starting is measured, not compiling."""
    spec = importlib.util.find_spec("dispatcher")
    if spec is None or spec.origin is None:
        raise click.ClickException("the package dispatcher is not installed here; run `make bench`")
    compileall.compile_dir(Path(spec.origin).parent, quiet=1)


def disk_folder() -> Path:
    """Where the database files go: `$TMPDIR`, else /var/tmp, which is on a disk where /tmp may be in memory."""
    folder = Path(os.environ.get("TMPDIR") or "/var/tmp")
    if not folder.is_dir():
        folder = Path(tempfile.gettempdir())
    if file_system(folder) in ("tmpfs", "ramfs"):
        raise click.ClickException(
            f"{folder} is in memory, where fsync costs nothing; set TMPDIR to a folder on a disk"
        )
    return folder
