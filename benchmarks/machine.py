"""The machine that is measured: what it is, where its disk is, and the package as installing it would leave it."""

from __future__ import annotations

import compileall
import importlib.util
import os
import platform
import tempfile
from pathlib import Path

import click

__all__ = ["compile_package", "disk", "file_system", "processor"]


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on, as /proc says; `unknown` where there is none."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except FileNotFoundError:
        return "unknown"
    found = [line.split()[1:3] for line in mounts if folder.resolve().is_relative_to(line.split()[1])]
    return max(found, key=lambda mount: len(mount[0]))[1]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def disk() -> Path:
    """Where the database files go: `$TMPDIR`, else /var/tmp, which is on a disk where /tmp may be in memory."""
    folder = Path(os.environ.get("TMPDIR") or "/var/tmp")
    if not folder.is_dir():
        folder = Path(tempfile.gettempdir())
    if file_system(folder) in ("tmpfs", "ramfs"):
        raise click.ClickException(
            f"{folder} is in memory, where fsync costs nothing; set TMPDIR to a folder on a disk"
        )
    return folder


def compile_package() -> None:
    """Write the package's byte code, as installing it would: starting is measured, not compiling."""
    spec = importlib.util.find_spec("dispatcher")
    if spec is None or spec.origin is None:
        raise click.ClickException("the package dispatcher is not installed here; run `make bench`")
    compileall.compile_dir(Path(spec.origin).parent, quiet=1)
