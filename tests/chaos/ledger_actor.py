"""One role of the ledger test and the process that plays it: starting it, stopping it, killing it.

It signals no process but its own, and never one that has ended: a process id that was reaped may be another's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

__all__ = ["Actor"]


class Actor:
    """A role and the process that plays it now; the next one is started when that was killed.

    `errors`: the file that takes what any of them writes to standard output and error.
    """

    def __init__(self, role: str, command: list[str], environment: dict[str, str], errors: Path) -> None:
        self.role = role
        self.paused = False
        self._command = command
        self._environment = environment
        self._errors = errors
        self.start()

    def start(self) -> None:
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=errors, stderr=errors)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def freeze(self) -> bool:
        """Stop the process and see it stopped; False where it had ended by itself."""
        if not self.running:
            return False
        os.kill(self.process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: nobody else can learn it
            return False
        self.paused = True
        return True

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.paused = False

    def said(self) -> str:
        """What the processes of this role wrote; none should have anything to say."""
        return self._errors.read_text(errors="replace")
