"""A task that kills its workers is parked, and its neighbours are not.

Run it: `python examples/quarantine.py`. It starts `dispatcher worker quarantine:app -p 2`, whose supervisor replaces the
processes that die.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from dispatcher import Dispatcher

app = Dispatcher()


@app.task
def bomb() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task
def neighbour(path: str) -> None:
    Path(path).touch()


def dispatcher(*words: str) -> str:
    """Run the command, with this file as the app's module."""
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", *words],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout


def main(folder: Path) -> None:
    os.environ["DISPATCHER_URL"] = f"sqlite:///{folder / 'broker.db'}"
    dispatcher("send", "quarantine:app", "bomb")
    dispatcher("send", "quarantine:app", "neighbour", str(folder / "ran"))
    dispatcher("worker", "quarantine:app", "-p", "2", "--burst")
    for line in dispatcher("dead", "list", "quarantine:app", "--json").splitlines():
        letter = json.loads(line)
        print(f"{letter['task']}: {letter['reason']}, {letter['text'].partition(' (pid')[0]}")
    print("the neighbour ran:", (folder / "ran").exists())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="dispatcher-example-") as temporary:
        main(Path(temporary))
