"""The documentation as the tests see it: pages, their fenced blocks, their links. Reads files; runs nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def all_pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in _BLOCK.findall(page.read_text()) if name == language]


def local_links(page: Path) -> list[str]:
    """Every link of the page that leads to a file, without its anchor."""
    text = _BLOCK.sub("", page.read_text())
    return [link.partition("#")[0] for link in _LINK.findall(text) if "://" not in link and not link.startswith("#")]


def environment(folder: Path) -> dict[str, str]:
    """That of a reader who has installed Dispatcher, configured nothing, and works in `folder`."""
    chosen = {key: value for key, value in os.environ.items() if not key.startswith("DISPATCHER_")}
    return {**chosen, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder)}
