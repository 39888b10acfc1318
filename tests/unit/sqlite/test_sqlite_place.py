"""Files that the embedded broker must refuse, and that it must leave as they are."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlite_rig import QUEUE, Rig, publish, soon, take

from dispatcher.brokers.sqlite import SqliteBroker, faults, file, place
from dispatcher.brokers.sqlite.place import Place, file_system_of
from dispatcher.brokers.sqlite.schema import SCHEMA_VERSION, STEPS
from dispatcher.errors import (
    ConfigError,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageGone,
    StorageReadOnly,
    StorageUnsupported,
)

MOUNTINFO = r"""
22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
51 27 0:45 / /mnt/share rw,relatime shared:200 - nfs4 server:/export rw,vers=4.2
52 27 0:46 / /mnt/with\040space rw - cifs //server/share rw
53 51 0:47 / /mnt/share/local rw - tmpfs tmpfs rw
54 27 0:48 / /home/me/cloud rw - fuse.sshfs me@host:/ rw
55 27 0:49 / /mnt/share2 rw - ext4 /dev/vdb rw
56 27 0:50 / /twice rw - nfs server:/a rw
57 56 0:51 / /twice rw - xfs /dev/vdc rw
a line that means nothing
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/app", "ext4"),
        ("/", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/er", "nfs4"),
        ("/mnt/share/local/x", "tmpfs"),
        ("/mnt/share2/x", "ext4"),
        ("/mnt/with space/x", "cifs"),
        ("/home/me/cloud", "fuse.sshfs"),
        ("/twice/x", "xfs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    """The mount that holds a path is the last of the longest that lead to it."""
    assert file_system_of(path, MOUNTINFO) == kind


def test_without_mounts_nothing_is_known() -> None:
    """An empty table must not be taken for a network."""
    assert file_system_of("/x", "") == ""


async def refused(path: Path, error: type[StorageError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        await soon(SqliteBroker(path).connect(name="t", on_event=lambda event: None))
    assert caught.value.path == os.path.realpath(path)


async def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that other machines write to must be refused before anything is created there."""
    monkeypatch.setattr(place, "file_system_of", lambda path, mountinfo: "nfs4")
    await refused(tmp_path / "broker.db", StorageUnsupported, "expected a local file system, got nfs4")
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    """A typing error in a path must not scatter folders."""
    await refused(tmp_path / "no" / "broker.db", StorageError, "does not exist; create it first")
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A path that leads to a folder must be refused."""
    await refused(tmp_path, StorageError, "expected a regular file")


async def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    """Who can write the file can give the workers any registered task."""
    path = tmp_path / "broker.db"
    path.touch()
    path.chmod(0o666)
    await refused(path, StorageUnsupported, "chmod o-rwx")


@pytest.mark.parametrize(
    "content", [b"not a database at all, but some text that is long enough to be one" * 99, b"\0" * 5000]
)
async def test_something_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A file that is no database must be refused and not changed by a byte."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    await refused(path, StorageCorrupt, "left as it (is|was)")
    assert path.read_bytes() == content


async def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    """An SQLite file with other tables must be refused and not changed."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    content = path.read_bytes()
    await refused(path, StorageCorrupt, "of another program")
    assert path.read_bytes() == content


async def test_a_damaged_file_is_refused_and_kept(rig: Rig) -> None:
    """Damage must be said, and nothing of the file thrown away."""
    session = await rig.connect(QUEUE)
    await publish(session, *[b"%04d" % n * 500 for n in range(50)])
    await session.close()
    content = bytearray(rig.path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    rig.path.write_bytes(content)
    await refused(rig.path, StorageCorrupt, "left as it (is|was)")
    assert rig.path.read_bytes() == content


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1])
async def test_another_schema_is_refused(rig: Rig, version: int) -> None:
    """A file of an unknown schema version must be refused, with a word on what can read it."""
    await (await rig.connect(QUEUE)).close()
    with closing(sqlite3.connect(rig.path)) as other:
        other.execute(f"PRAGMA user_version = {version}")
    await refused(rig.path, StorageUnsupported, f"expected schema version 1 to {SCHEMA_VERSION}, got {version}")


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_a_file_of_an_older_version_is_brought_up_to_date(
    rig: Rig, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in a file of an earlier Dispatcher must be delivered by this one."""
    with monkeypatch.context() as earlier:
        earlier.setattr(file, "STEPS", STEPS[:version])
        earlier.setattr(file, "SCHEMA_VERSION", version)
        session = await rig.connect(QUEUE)
        await publish(session, b"m")
        await session.close()
    session = await rig.connect(QUEUE)
    [delivery] = await take(await session.consume("q", prefetch=1), 1)
    assert delivery.body == b"m"
    delivery.ack()
    await session.close()
    with closing(sqlite3.connect(rig.path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


async def test_an_empty_file_is_made_ours(tmp_path: Path) -> None:
    """A file that `touch` made, or a crash before the first table, must be usable."""
    rig = Rig(tmp_path / "broker.db")
    rig.path.touch(mode=0o600)
    session = await rig.connect(QUEUE)
    await publish(session, b"m")
    await session.close()


async def test_a_link_leads_to_the_same_broker(rig: Rig, tmp_path: Path) -> None:
    """Two processes that come by different links must share one companion folder, or they would not wake each other."""
    session = await rig.connect(QUEUE)
    link = tmp_path / "link.db"
    link.symlink_to(rig.path)
    other = Rig(link)
    second = await other.connect()
    consumer = await soon(second.consume("q", prefetch=1))
    await publish(session, b"m")
    assert (await take(consumer, 1))[0].body == b"m"
    assert not Path(f"{link}-dispatcher").exists()
    await second.close()


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Any:
    """A folder in which this user cannot write: for root, who may write anywhere, on a disk mounted read-only."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    (folder / "broker.db").touch(mode=0o600)
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_folder_that_cannot_be_written_is_read_only(read_only_folder: Path) -> None:
    """A read-only disk or folder must be said to be that."""
    await refused(read_only_folder / "broker.db", StorageReadOnly, "can be written")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (faults.READONLY, StorageReadOnly),
        (faults.CORRUPT, StorageCorrupt),
        (faults.NOTADB, StorageCorrupt),
        (faults.CANTOPEN, StorageError),
        (faults.IOERR, StorageError),
        (faults.BUSY, StorageUnsupported),
        (faults.FULL, faults.StorageFull),
        (faults.IOERR_SHMSIZE, faults.StorageFull),
    ],
)
def test_each_of_sqlites_errors_has_ours(code: int, error: type[StorageError]) -> None:
    """No error of SQLite may reach a user as such."""
    fault = sqlite3.OperationalError("it says why")
    fault.sqlite_errorcode = code
    translated = faults.storage_error(fault, "/a/b.db")
    assert type(translated) is error
    assert translated.path == "/a/b.db"
    assert "/a/b.db: it says why" in str(translated)


def test_a_file_that_moved_under_sqlite_is_gone() -> None:
    """SQLite's own word for a moved file must be ours for a file that is gone."""
    fault = sqlite3.OperationalError("attempt to write a readonly database")
    fault.sqlite_errorcode = 1032
    fault.sqlite_errorname = "SQLITE_READONLY_DBMOVED"
    assert type(faults.storage_error(fault, "/a/b.db")) is StorageGone


def library(*version: int) -> Any:
    return SimpleNamespace(sqlite_version_info=version)


def test_the_first_sqlite_that_is_new_enough_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's SQLite is used if it can be, the extra's if only that can, and else the extra is named."""
    old, new, newer = library(3, 36, 0), library(3, 37, 0), library(3, 51, 3)
    assert faults.choose_library(new, newer) is new
    assert faults.choose_library(old, newer) is newer
    assert faults.choose_library(old, None) is None
    monkeypatch.setattr(faults, "_LIBRARY", None)
    with pytest.raises(ConfigError, match=r"install dispatcher-queue\[sqlite\]"):
        faults.sqlite()


@pytest.mark.parametrize("which", ["broker.db", "broker.db-wal", "broker.db-dispatcher/write.lock"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_vanished_is_noticed(tmp_path: Path, which: str, replaced: bool) -> None:
    """What is written to a deleted log is seen by nobody, and a deleted lock keeps nobody out: each must be noticed."""
    here = Place(tmp_path / "broker.db")
    Path(here.companion).mkdir()
    for name in (here.path, here.wal, here.inside("write.lock")):
        Path(name).touch()
    here.remember()
    here.check()
    if replaced:
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(tmp_path / which)
    else:
        (tmp_path / which).unlink()
    with pytest.raises(StorageGone, match=f"{which} was deleted or replaced") as caught:
        here.check()
    assert caught.value.path == here.path


@pytest.fixture
def visited_folder() -> Iterator[Path]:
    """A folder that every user may write, for a test as another user: those that pytest makes are closed to others."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        os.seteuid(user)


def become_another_user(path: Path) -> None:
    """Lose the rights to `path`: root by being nobody from now on, anyone else by taking them from itself."""
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        path.chmod(0)


@pytest.mark.parametrize("which", ["broker.db", "broker.db-dispatcher", "broker.db-dispatcher/write.lock"])
async def test_files_of_another_user_are_read_only(visited_folder: Path, which: str) -> None:
    """What another user left here must be said to be that at once: trying again would not help."""
    path = visited_folder / "broker.db"
    await (await Rig(path).connect(QUEUE)).close()
    if os.geteuid() == 0:
        for name in {"broker.db", "broker.db-dispatcher"} - {which}:
            os.chown(visited_folder / name, 65534, 65534)
    become_another_user(visited_folder / which)
    await refused(path, StorageReadOnly, "check the owner")


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, StorageReadOnly),
        (errno.EPERM, StorageReadOnly),
        (errno.EROFS, StorageReadOnly),
        (errno.ENOENT, StorageGone),
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EMFILE, StorageError),
    ],
)
async def test_each_error_of_the_system_has_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[StorageError]
) -> None:
    """An error of the operating system while opening must be a typed one of ours, never a lost connection."""

    def fails(self: Place) -> None:
        raise OSError(number, os.strerror(number), "some file")

    monkeypatch.setattr(Place, "prepare", fails)
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        await soon(SqliteBroker(tmp_path / "broker.db").connect(name="t", on_event=lambda event: None))
    assert type(caught.value) is error
    assert caught.value.path == str(tmp_path / "broker.db")


async def test_an_sqlite_that_is_too_old_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a usable SQLite connecting must fail with the error that names the extra, not wait for its deadline."""
    monkeypatch.setattr(faults, "_LIBRARY", None)
    with pytest.raises(ConfigError, match="expected SQLite"):
        await SqliteBroker(tmp_path / "broker.db").connect(name="t", on_event=lambda event: None)
