"""Where a database file may live, and whether it is still the one that was opened. Looks at paths only.

It must never open the database file itself: closing it would drop every POSIX lock this process holds on it
(sqlite.org/howtocorrupt.html, section 2.2).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from pathlib import Path

from ...errors import ConfigError, StorageError, StorageGone, StorageUnsupported
from .faults import os_error

__all__ = ["WRITE_LOCK", "Place", "file_system_of"]

WRITE_LOCK = "write.lock"
"""The file in the companion folder that is locked for every write."""

NETWORK_FILE_SYSTEMS = frozenset(
    "9p acfs afs afpfs beegfs ceph cifs coda curlftpfs davfs drvfs fuse.ceph fuse.gcsfuse fuse.glusterfs fuse.rclone"
    " fuse.s3fs fuse.sshfs fuse.vmhgfs-fuse gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs prl_fs pvfs2"
    " smb2 smb3 smbfs vboxsf virtiofs webdav".split()
)
"""File systems that other machines may write to: WAL needs memory that all its users share (sqlite.org/wal.html)."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system_of(path: str, mountinfo: str) -> str:
    """The type of the file system that holds the absolute `path`, by the text of `/proc/self/mountinfo`; or empty.

    The last of the longest mount points wins, because a later mount covers an earlier one. See proc(5).
    """
    best, found = -1, ""
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ", 1)[0]
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, found = len(point), kind
    return found


class Place:
    """A database file's path, its companion folder, and the identity of what lies there."""

    def __init__(self, path: str | Path) -> None:
        """`ConfigError` where `path` cannot name a file."""
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text or text == ":memory:":
            raise ConfigError(f"sqlite broker: expected the path of a file, got {path!r}; for tests there is memory://")
        # Resolved, because two processes must find the same companion folder whichever link they came by.
        self.path = os.path.realpath(text)
        self.wal = self.path + "-wal"
        self.companion = self.path + "-dispatcher"
        self._write_lock = self.inside(WRITE_LOCK)
        self._identities: dict[str, tuple[int, int] | None] = {}

    def inside(self, name: str) -> str:
        """The path of `name` in the companion folder."""
        return self.companion + os.sep + name  # os.path.join costs a microsecond, at each wake-up of another session

    def prepare(self) -> None:
        """Check that the file may live here, create it (0600) if it is absent, and the companion folder (0700).

        `StorageError` where the folder is missing or the path is no file, `StorageUnsupported` for a network file
        system or a file that everybody may write, `StorageReadOnly` where this user may not write what is there,
        the system's own `OSError` where something cannot be created.
        """
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise StorageError(f"{self.path}: the folder {folder} does not exist; create it first", path=self.path)
        self._refuse_network()
        self._create()
        os.makedirs(self.companion, mode=0o700, exist_ok=True)
        self._refuse_unsafe()
        self._refuse_foreign()

    def _refuse_network(self) -> None:
        if sys.platform != "linux":
            return
        kind = file_system_of(os.path.dirname(self.path), Path("/proc/self/mountinfo").read_text("utf-8", "replace"))
        if kind in NETWORK_FILE_SYSTEMS:
            raise StorageUnsupported(
                f"{self.path}: expected a local file system, got {kind}: SQLite's write-ahead log is not safe there;"
                " put the file on a local disk",
                path=self.path,
            )

    def _create(self) -> None:
        try:
            # Opening and closing it is safe only here: a file that was not there holds none of our locks.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass  # it is looked at next

    def _refuse_unsafe(self) -> None:
        found = os.stat(self.path)
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{self.path}: expected a regular file, got something else", path=self.path)
        if os.name == "posix" and found.st_mode & stat.S_IWOTH:
            raise StorageUnsupported(
                f"{self.path}: every user may write it, so anyone could give your workers tasks;"
                f" run: chmod o-rwx {self.path}",
                path=self.path,
            )

    def _refuse_foreign(self) -> None:
        # SQLite says only that it cannot open the file, which could mean anything.
        effective = os.access in os.supports_effective_ids
        for path, rights in ((self.path, os.R_OK | os.W_OK), (self.companion, os.R_OK | os.W_OK | os.X_OK)):
            if not os.access(path, rights, effective_ids=effective):
                raise os_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES), path), self.path)

    def remember(self) -> None:
        """Note which files lie here now. Call once the database is open and its log and the write lock exist."""
        self._identities = {path: _identity(path) for path in (self.path, self.wal, self._write_lock)}

    def check(self) -> None:
        """`StorageGone` unless the same files still lie here."""
        for path, identity in self._identities.items():
            if identity is None or _identity(path) != identity:
                raise StorageGone(f"{path} was deleted or replaced while open; {self._advice(path)}", path=self.path)

    def _advice(self, path: str) -> str:
        if path == self._write_lock:
            # Who starts now would lock the new one, and neither would keep the other from a checkpoint.
            return f"nothing is lost, but {self.path} cannot be shared safely now. Restart every process that uses it"
        return "what was in it is lost to this process. Restart once the right file is in place"


def _identity(path: str) -> tuple[int, int] | None:
    """What tells this file from any other; None where there is none, or none that can be reached."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
