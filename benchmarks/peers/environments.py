"""A virtual environment for each peer, from the package index, under `.bench/NAME`: peers' requirements never meet.

An environment is made again when what it was made of changes. Nothing outside its folder is touched.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec

from .catalogue import Peer

__all__ = ["ROOT", "Environments", "folder", "tail"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"
AT_ONCE = 3
INSTALL_SECONDS = 900.0
ASK_SECONDS = 60.0


class Environments(msgspec.Struct):
    """`versions`: of what was asked for, in each environment. `missing`: why there is none, in a few words."""

    versions: dict[str, dict[str, str]] = {}
    missing: dict[str, str] = {}

    @classmethod
    def of(cls, peers: list[Peer]) -> Environments:
        """Make the environments that are not there yet; a peer that cannot be installed is missing, and said so."""
        made = cls()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for peer, failed in zip(peers, pool.map(_prepare, peers), strict=True):
                if failed:
                    click.echo(f"{peer.name} is not measured:\n{failed}", err=True)
                    made.missing[peer.name] = f"it could not be installed: {tail(failed)}"
                else:
                    made.versions[peer.name] = _versions(peer)
        return made


def folder(peer: Peer) -> Path:
    """Where its programs are; Dispatcher's are in the environment that this runs in."""
    return Path(sys.executable).parent if peer.here else FOLDER / peer.name / "bin"


def tail(text: str, length: int = 160) -> str:
    """The last words of a program: its last line that says something, fit for a cell of a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace("|", "/")[-length:] if lines else "it said nothing"


def _prepare(peer: Peer) -> str:
    """Make the peer's environment if it is not there; what went wrong, empty if nothing did."""
    if not peer.requirements:
        return ""
    home = FOLDER / peer.name
    stamp = home / ".ready"
    made_of = "\n".join([sys.version, str(home), *peer.requirements])
    if stamp.exists() and stamp.read_text() == made_of:
        return ""
    click.echo(f"setup: {peer.name} in {home.relative_to(ROOT)}", err=True)
    # Without pip, which needs what Debian's Python leaves out: ours installs into it.
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "--disable-pip-version-check"]
    for words in (
        [sys.executable, "-m", "venv", "--without-pip", "--clear", str(home)],
        [*pip, "install", "--quiet", "--no-input", *peer.requirements],
    ):
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except subprocess.TimeoutExpired:
            return f"`{' '.join(words[1:4])}` was not done within {INSTALL_SECONDS:g} s"
        if done.returncode:
            return done.stderr or done.stdout
    stamp.write_text(made_of)
    return ""


def _versions(peer: Peer) -> dict[str, str]:
    """The versions of the packages whose speed counts."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    words = [str(folder(peer) / "python"), "-c", code, *peer.packages]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=ASK_SECONDS)
    return msgspec.json.decode(done.stdout, type=dict[str, str])
