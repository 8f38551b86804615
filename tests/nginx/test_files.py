"""Tests of files that change together or not at all."""

from __future__ import annotations

import os
from errno import EACCES, ENOSPC, EPERM
from itertools import count
from pathlib import Path
from typing import Any

from mmwagent.host.backups import Backups
from mmwagent.host.files import write_atomically
from mmwagent.nginx.files import FileChange, NotWritten
from tests.nginx.helpers import NginxFiles


class FileChangeTests(NginxFiles):
    """Changes, taken back or not."""

    def setUp(self) -> None:
        """Lay out two files, to be changed and removed beside one that is new."""
        super().setUp()
        self.lay_out({"a": "old a", "b": "old b"})
        (self.home / "a").chmod(0o640)
        self.contents: dict[Path, bytes | None] = {
            self.home / "a": b"new a",
            self.home / "new" / "deep" / "c": b"new c",
            self.home / "b": None,
        }
        self.before = self.state()
        self.after = {"a": "new a", "new/deep/c": "new c"}

    def state(self) -> dict[str, Any]:
        """Return all that there is: files with their inode, mode and content, and directories."""
        return {
            str(path): path.is_dir()
            or (path.stat().st_ino, path.stat().st_mode, path.read_bytes())
            for path in self.home.rglob("*")
        }

    def change(self, write: Any = write_atomically) -> FileChange:
        """Return the change, ready to be made."""
        change = FileChange(self.contents, write)
        self.assertTrue(change.differs())
        return change

    def test_settled(self) -> None:
        """Once settled the new files are all there is; the modes of old ones stay."""
        change = self.change()
        change.make()
        change.settle()
        self.assertEqual(self.laid_out(), self.after)
        self.assertEqual((self.home / "a").stat().st_mode & 0o777, 0o640)
        self.assertEqual((self.home / "new/deep/c").stat().st_mode & 0o777, 0o644)

    def test_put_back(self) -> None:
        """Put back, the very same files are there again, and no directory that was made."""
        change = self.change()
        change.make()
        self.assertNotEqual(self.state(), self.before)
        change.put_back()
        self.assertEqual(self.state(), self.before)

    def test_keys(self) -> None:
        """A new key is for its owner alone."""
        self.contents = {self.home / "x.key": b"key"}
        self.change().make()
        self.assertEqual((self.home / "x.key").stat().st_mode & 0o777, 0o600)

    def test_differs(self) -> None:
        """What is so already is no change, and is neither backed up nor written."""
        self.contents = {self.home / "a": b"old a", self.home / "none": None}
        change = FileChange(self.contents)
        self.assertFalse(change.differs())
        self.assertEqual(change.back_up(Backups(self.home / "backups")), [])
        change.make()
        change.put_back()
        self.assertEqual(self.state(), self.before)

    def test_failed_at_each_step(self) -> None:
        """Whichever write fails, all is as it was, and the words name the file and the reason."""
        for failing in range(2):
            numbers = count()

            def write(path: Path, data: bytes, **options: Any) -> None:
                if next(numbers) == failing:  # noqa: B023 (used within the turn)
                    raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))
                write_atomically(path, data, **options)

            problem = self.assertRaises(NotWritten, self.change(write).make)
            name = ("a", "new/deep/c")[failing]
            self.assertEqual(
                str(problem), f"{self.home}/{name} cannot be written: No space left on device"
            )
            self.assertEqual(self.state(), self.before)

    def test_full_disk_does_not_hinder(self) -> None:
        """Putting back needs no space: it goes by renaming."""
        change = self.change()
        change.make()
        change.write = self.full
        change.put_back()
        self.assertEqual(self.state(), self.before)

    def full(self, path: Path, data: bytes, **options: Any) -> None:
        """Write as a full disk does."""
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))

    def test_without_links(self) -> None:
        """On a file system without links the old content is written again."""

        def link(*arguments: Any) -> None:
            raise PermissionError(EPERM, os.strerror(EPERM))

        self.patch(os, "link", link)
        change = self.change()
        change.make()
        change.put_back()
        self.assertEqual(self.laid_out(), {"a": "old a", "b": "old b"})
        change = self.change()
        change.make()
        change.write = self.full
        problem = self.assertRaises(NotWritten, change.put_back)
        self.assertIn(f"{self.home}/a could not be put back: No space left", str(problem))

    def test_hidden_meanwhile(self) -> None:
        """What is set aside has a name that no star matches, and replaces what was left over."""
        left_over = self.home / ".a.mmw-kept"
        left_over.write_text("of an agent that was killed")
        change = self.change()
        change.make()
        self.assertEqual(left_over.read_text(), "old a")
        names = {path.name for path in self.home.iterdir()} - {"a", "new"}
        self.assertEqual(names, {".a.mmw-kept", ".b.mmw-kept"})
        change.settle()
        self.assertEqual(self.laid_out(), self.after)

    def test_backups(self) -> None:
        """A copy of each file that is to change is kept, none of a new one."""
        backups = Backups(self.home.parent / "backups")
        copies = self.change().back_up(backups)
        self.assertEqual([copy.read_text() for copy in copies], ["old a", "old b"])
        self.assertEqual({copy.parent for copy in copies}, {backups.directory})

    def test_no_backup(self) -> None:
        """Without a backup nothing is changed."""
        (self.home.parent / "file").touch()
        backups = Backups(self.home.parent / "file" / "backups")
        problem = self.assertRaises(NotWritten, self.change().back_up, backups)
        self.assertIn(f"no backup of {self.home}/a can be kept: Not a directory", str(problem))

    def test_unreadable(self) -> None:
        """What cannot be read, or is no file, is not replaced."""
        os.mkfifo(self.home / "pipe")
        self.contents = {self.home / "pipe": b""}
        problem = self.assertRaises(NotWritten, FileChange(self.contents).differs)
        self.assertIn("pipe cannot be read: ", str(problem))

    def test_directory_cannot_be_made(self) -> None:
        """A directory that cannot be made is told, with all as it was."""
        mkdir = Path.mkdir

        def refuse(path: Path, *arguments: Any, **options: Any) -> None:
            if path.name == "deep":
                raise PermissionError(EACCES, os.strerror(EACCES), str(path))
            mkdir(path, *arguments, **options)

        self.patch(Path, "mkdir", refuse)
        problem = self.assertRaises(NotWritten, self.change().make)
        self.assertIn("new/deep/c cannot be written: Permission denied", str(problem))
        self.assertEqual(self.state(), self.before)
