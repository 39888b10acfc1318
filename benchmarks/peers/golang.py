"""The Go package's sender and worker, built from `go/` with the machine's own Go and whatever it is set up to fetch from.

Nothing but the ordinary `go build` in a copy of that folder: where Go or the package is not to be had, the row says so.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click

from .environments import FOLDER, Environments

__all__ = ["build_go"]

SOURCE = Path(__file__).with_name("go")
BUILD_SECONDS = 300.0
PACKAGE = "github.com/gofort/dispatcher"


def build_go(environments: Environments) -> None:
    """Build `.bench/go/bin/go-peer`, and tell `environments` the versions, or what is missing."""
    if shutil.which("go") is None:
        environments.missing["go"] = "no Go toolchain"
        return
    home = FOLDER / "go"
    source = home / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SOURCE, source)
    program = home / "bin" / "go-peer"
    said = ""
    try:
        # `tidy` writes the sums of what it fetches; there is no go.sum of ours, so that any source of the package will do.
        for words in (["go", "mod", "tidy"], ["go", "build", "-o", str(program), "."]):
            done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=BUILD_SECONDS)
            said = done.stderr
            if done.returncode:
                raise ChildProcessError(said)
        listed = _said(["go", "list", "-m", PACKAGE], source).split()
        environments.versions["go"] = {
            "go": _said(["go", "env", "GOVERSION"], source).removeprefix("go"),
            listed[0]: listed[1],
        }
    except (ChildProcessError, subprocess.SubprocessError) as error:
        click.echo(f"the Go package is not measured:\n{said or error}", err=True)
        environments.missing["go"] = "the package could not be fetched or built here"


def _said(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, timeout=BUILD_SECONDS)
    return done.stdout.strip()
