"""What the tasks of `make demo` wrote down, read back while they run. Reads files and counts; starts and stops nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Ledger"]

Figures = tuple[int, int, int, str]


@dataclass
class Ledger:
    """Every line of every process so far; `read` takes in what is new.

    `figures`: by task uuid, of the tasks that ran to their end. `open_runs`: by process id, the runs that were started
    and have not ended, which in a dead process are those it was killed in.
    """

    folder: Path
    figures: dict[str, Figures] = field(default_factory=dict)
    open_runs: dict[int, set[str]] = field(default_factory=dict)
    redelivered: set[str] = field(default_factory=set)
    contradictions: set[str] = field(default_factory=set)
    runs: int = 0
    retries: int = 0
    redeliveries: int = 0
    finished: int = 0
    _offsets: dict[Path, int] = field(default_factory=dict)

    def read(self) -> bool:
        """Take in what was written since the last call; whether there was anything."""
        grew = False
        for path in self.folder.glob("*.ledger"):
            offset = self._offsets.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # a line without its end is being written, or was cut by the kill
            self._offsets[path] = offset + len(whole)
            for line in whole.decode().splitlines():
                self._take(int(path.stem), line.split(" "))
                grew = True
        return grew

    def _take(self, pid: int, words: list[str]) -> None:
        uuid = words[1]
        runs = self.open_runs.setdefault(pid, set())
        match words:
            case ["start", _, attempt, redelivered]:
                runs.add(uuid)
                self.runs += 1
                self.retries += int(attempt) > 1
                if redelivered == "1":
                    self.redeliveries += 1
                    self.redelivered.add(uuid)
            case ["failed", _]:
                runs.discard(uuid)
            case ["done", _, lines, words_, size, digest]:
                runs.discard(uuid)
                self.finished += 1
                figures = int(lines), int(words_), int(size), digest
                if self.figures.setdefault(uuid, figures) != figures:
                    self.contradictions.add(uuid)
