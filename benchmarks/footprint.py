"""What a process takes of the machine, read from /proc: Linux only. It never stops or asks the process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["Footprint", "file_mb", "footprint"]


class Footprint(msgspec.Struct, frozen=True):
    """`rss_mb`: memory in use. `pss_mb`: the same, with what processes share divided among them. `files`: open descriptors."""

    rss_mb: float
    pss_mb: float
    files: int
    threads: int


def footprint(pid: int) -> Footprint:
    """What `pid` takes now. FileNotFoundError or ProcessLookupError if it has ended."""
    place = Path(f"/proc/{pid}")
    memory = _kilobytes((place / "smaps_rollup").read_text())
    return Footprint(
        rss_mb=round(memory["Rss"] * 1024 / 1e6, 2),
        pss_mb=round(memory["Pss"] * 1024 / 1e6, 2),
        files=sum(1 for _ in (place / "fd").iterdir()),
        threads=sum(1 for _ in (place / "task").iterdir()),
    )


def file_mb(path: Path) -> float:
    """The size of a file in megabytes; zero if there is none."""
    try:
        return round(path.stat().st_size / 1e6, 2)
    except FileNotFoundError:
        return 0.0


def _kilobytes(text: str) -> Mapping[str, int]:
    return {name: int(number) for name, number in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
