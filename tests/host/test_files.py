"""Tests of the one way a file is written."""

from __future__ import annotations

import itertools
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.files import write_atomically

OLD, NEW = b"old content\n", b"new content, longer\n" * 1000


class DiskFull(OSError):
    """What the system says when nothing goes in any more."""


def disk_full(*arguments: object) -> Any:
    """Fail."""
    raise DiskFull(28, "No space left on device")


class FilesCase(SynchronousTestCase):
    """A directory with one old file in it."""

    def setUp(self) -> None:
        """Make it, readable by the group."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.file = self.directory / "config.json"
        self.file.write_bytes(OLD)
        self.file.chmod(0o640)

    def mode(self, path: Path) -> int:
        """Return the permissions of a file."""
        return stat.S_IMODE(path.stat().st_mode)

    def names(self) -> list[str]:
        """Return what is in the directory."""
        return sorted(os.listdir(self.directory))


class WriteTests(FilesCase):
    """The new content stands where the old one stood, in all else as it was."""

    def test_content(self) -> None:
        """The file holds the new content, shorter, longer or empty, and nothing is beside it."""
        for data in (NEW, b"x", b"", bytes(range(256))):
            write_atomically(self.file, data)
            self.assertEqual(self.file.read_bytes(), data)
            self.assertEqual(self.names(), ["config.json"])

    def test_replaced_not_rewritten(self) -> None:
        """Who has the old file open goes on reading the old content."""
        with self.file.open("rb") as reader:
            write_atomically(self.file, NEW)
            self.assertEqual(reader.read(), OLD)

    def test_mode_is_kept(self) -> None:
        """An existing file keeps its mode, whatever the umask and the mode for new ones."""
        self.addCleanup(os.umask, os.umask(0o077))
        for mode in (0o640, 0o600, 0o664, 0o444):
            self.file.chmod(mode)
            write_atomically(self.file, NEW, mode=0o600)
            self.assertEqual(self.mode(self.file), mode)

    def test_owner_is_kept(self) -> None:
        """An existing file keeps its owner and group, and its mode with them."""
        changed: list[tuple[int, int]] = []
        uid, gid = os.geteuid(), os.getegid()
        self.patch(os, "geteuid", lambda: uid + 1)  # as if another wrote it
        self.patch(os, "fchown", lambda fd, *owner: changed.append(owner))
        write_atomically(self.file, NEW)
        self.assertEqual(changed, [(uid, gid)])
        self.assertEqual(self.mode(self.file), 0o640)

    def test_owner_is_kept_by_root(self) -> None:
        """Root leaves the file to the one it belongs to, with all bits of its mode."""
        if os.geteuid() != 0:
            self.skipTest("only root may give files away")
        os.chown(self.file, 1234, 2345)
        self.file.chmod(0o6750)
        write_atomically(self.file, NEW)
        found = self.file.stat()
        self.assertEqual((found.st_uid, found.st_gid), (1234, 2345))
        self.assertEqual(self.mode(self.file), 0o6750)

    def test_a_new_file(self) -> None:
        """A new file has the mode asked for, by default its owner's alone, whatever the umask."""
        for umask in (0, 0o077):
            self.addCleanup(os.umask, os.umask(umask))
            for name, options, mode in (("a", {}, 0o600), ("b", {"mode": 0o644}, 0o644)):
                path = self.directory / name
                write_atomically(path, NEW, **options)
                self.assertEqual(self.mode(path), mode)
                self.assertEqual(path.read_bytes(), NEW)
                path.unlink()

    def test_never_open_to_more(self) -> None:
        """Not even before it has its name may others read what the old file kept from them."""
        self.addCleanup(os.umask, os.umask(0))
        self.file.chmod(0o600)
        modes: list[int] = []
        fsync = os.fsync

        def look(descriptor: int) -> None:
            modes.extend(self.mode(self.directory / name) for name in self.names())
            fsync(descriptor)

        self.patch(os, "fsync", look)
        write_atomically(self.file, NEW)
        self.assertEqual(set(modes), {0o600})
        self.assertGreater(len(modes), 2, "the new file was never seen beside the old one")

    def test_a_symbolic_link_stays(self) -> None:
        """A link stays a link: the file behind it is replaced, in its own directory."""
        elsewhere = Path(self.mktemp())
        elsewhere.mkdir()
        link = elsewhere / "link.json"
        link.symlink_to(os.path.relpath(self.file, elsewhere))
        inode = link.lstat().st_ino
        write_atomically(link, NEW)
        self.assertTrue(link.is_symlink())
        self.assertEqual(link.lstat().st_ino, inode)
        self.assertEqual(self.file.read_bytes(), NEW)
        self.assertFalse(self.file.is_symlink())
        self.assertEqual(self.mode(self.file), 0o640)
        self.assertEqual(os.listdir(elsewhere), ["link.json"])

    def test_a_link_to_no_file_yet(self) -> None:
        """A link to a file that is not there makes that file."""
        link = self.directory / "link.json"
        link.symlink_to("target.json")
        write_atomically(link, NEW)
        self.assertTrue(link.is_symlink())
        self.assertEqual((self.directory / "target.json").read_bytes(), NEW)

    def test_the_disk_first(self) -> None:
        """The content is on the disk before it gets the name, and the name before the return."""
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def sync(descriptor: int) -> None:
            found = os.fstat(descriptor)
            what = "directory" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes"
            steps.append(what)
            fsync(descriptor)

        def put(source: str, target: Path) -> None:
            steps.append("replace")
            replace(source, target)

        self.patch(os, "fsync", sync)
        self.patch(os, "replace", put)
        for data in (NEW, b"few"):
            steps.clear()
            write_atomically(self.file, data)
            self.assertEqual(steps, [f"{len(data)} bytes", "replace", "directory"])


class FailureTests(FilesCase):
    """What fails leaves the old file alone, and nothing beside it."""

    def assert_untouched(self) -> None:
        """Assert that nothing has happened."""
        self.assertEqual(self.names(), ["config.json"])
        self.assertEqual(self.file.read_bytes(), OLD)
        self.assertEqual(self.mode(self.file), 0o640)

    def test_each_step(self) -> None:
        """Whichever step fails, the error is told and the old file stays as it was."""
        self.patch(os, "geteuid", lambda: -2)  # so that the owner is set as well
        for step in ("fchown", "fchmod", "fsync", "replace"):
            with self.subTest(step=step):
                patch = self.patch(os, step, disk_full)
                self.assertRaises(DiskFull, write_atomically, self.file, NEW)
                patch.restore()
                self.assert_untouched()

    def test_a_new_file(self) -> None:
        """A new file that cannot be written is not there at all."""
        self.patch(os, "fsync", disk_full)
        self.assertRaises(DiskFull, write_atomically, self.directory / "new", NEW)
        self.assert_untouched()

    def test_interrupted(self) -> None:
        """Even an interrupt from the keyboard leaves nothing behind."""

        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        self.patch(os, "replace", interrupt)
        self.assertRaises(KeyboardInterrupt, write_atomically, self.file, NEW)
        self.assert_untouched()

    def test_no_directory(self) -> None:
        """Where the directory is missing, or is a file, it is an OSError."""
        for path in (self.directory / "no" / "file", self.file / "file"):
            self.assertRaises(OSError, write_atomically, path, NEW)
            self.assert_untouched()

    def test_onto_a_directory(self) -> None:
        """A directory is not replaced."""
        (self.directory / "sub").mkdir()
        self.assertRaises(OSError, write_atomically, self.directory / "sub", NEW)
        self.assertEqual(self.names(), ["config.json", "sub"])

    def test_a_link_to_itself(self) -> None:
        """A link that leads round and round is refused, and stays."""
        link = self.directory / "link"
        link.symlink_to("link")
        self.assertRaises(OSError, write_atomically, link, NEW)
        self.assertTrue(link.is_symlink())
        self.assertEqual(self.names(), ["config.json", "link"])

    def test_a_directory_that_cannot_be_synced(self) -> None:
        """When all is in place but the directory cannot be synced, that is no failure."""
        fsync = os.fsync

        def sync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                disk_full()
            fsync(descriptor)

        self.patch(os, "fsync", sync)
        before = set(os.listdir("/proc/self/fd"))
        write_atomically(self.file, NEW)
        self.assertEqual(self.file.read_bytes(), NEW)
        self.assertEqual(set(os.listdir("/proc/self/fd")), before, "a descriptor was left open")


def killing(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Return `function`, but its `call`th call kills this process instead."""
    calls = itertools.count(1)

    def instead(*arguments: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return instead


class KilledTests(FilesCase):
    """A process that is killed in the middle leaves a whole file."""

    def write_killed_at(self, step: str, call: int = 1) -> None:
        """Write in a child process that is killed as it comes to a call of `step`."""
        child = os.fork()
        if child == 0:
            try:
                setattr(os, step, killing(getattr(os, step), call))
                write_atomically(self.file, NEW)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        self.assertEqual(os.WTERMSIG(status), signal.SIGKILL, "it was not killed")

    def test_whole(self) -> None:
        """Killed before the name is given all is old, after it all is new."""
        for step in ("fchmod", "fsync", "replace"):
            self.write_killed_at(step)
            self.assertEqual(self.file.read_bytes(), OLD)
            self.assertEqual(self.mode(self.file), 0o640)
        self.write_killed_at("fsync", call=2)  # that of the directory: the file has its name
        self.assertEqual(self.file.read_bytes(), NEW)
        self.assertEqual(self.mode(self.file), 0o640)
