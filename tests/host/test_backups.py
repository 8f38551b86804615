"""Tests of the copies that are kept of files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.backups import KEPT, Backups

FILE = Path("/etc/xray/config.json")


class BackupsTests(SynchronousTestCase):
    """Copies in a directory of their own."""

    def setUp(self) -> None:
        """Name a directory that is not there yet."""
        self.directory = Path(self.mktemp()) / "state" / "backups"
        self.backups = Backups(self.directory)

    def contents(self, path: Path = FILE) -> list[bytes]:
        """Return what is kept of `path`, the oldest first."""
        return [copy.read_bytes() for copy in self.backups.of(path)]

    def test_kept(self) -> None:
        """A copy holds what it was given, and its place is told."""
        copy = self.backups.keep(FILE, b"old")
        self.assertEqual(copy.read_bytes(), b"old")
        self.assertEqual(copy.parent, self.directory)
        self.assertEqual(self.backups.of(FILE), [copy])
        self.assertTrue(copy.name.startswith("config.json."), copy.name)

    def test_for_nobody_else(self) -> None:
        """The directory and the copies are their owner's alone, whatever the umask."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        copy = self.backups.keep(FILE, b"key")
        self.assertEqual(stat.S_IMODE(copy.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)

    def test_the_oldest_go(self) -> None:
        """Of each file the last ten stay, in their order; the numbers go on."""
        for number in range(KEPT + 5):
            self.backups.keep(FILE, b"%d" % number)
        self.assertEqual(self.contents(), [b"%d" % number for number in range(5, KEPT + 5)])
        self.assertEqual(self.backups.of(FILE)[-1].suffix, f".{KEPT + 5:06}")

    def test_each_file_for_itself(self) -> None:
        """Files of one name in two directories do not take each other's place."""
        other = Path("/opt/xray/config.json")
        self.backups.keep(other, b"other")
        for number in range(KEPT + 1):
            self.backups.keep(FILE, b"%d" % number)
        self.assertEqual(self.contents(other), [b"other"])
        self.assertEqual(len(self.contents()), KEPT)

    def test_none(self) -> None:
        """Where nothing was ever kept there is nothing, and no error."""
        self.assertEqual(self.contents(), [])

    def test_names(self) -> None:
        """A name as long as a file system takes, and one that looks like a copy, are kept too."""
        for name in ("n" * 255, "a b.json", "config.json.000007"):
            path = Path("/x") / name
            self.backups.keep(path, name.encode())
            self.assertEqual(self.contents(path), [name.encode()])

    def test_other_files_stay(self) -> None:
        """What else lies in the directory is let alone."""
        self.backups.keep(FILE, b"1")
        stranger = self.directory / "config.json.backup"
        stranger.write_bytes(b"mine")
        for _ in range(KEPT + 2):
            self.backups.keep(FILE, b"2")
        self.assertEqual(stranger.read_bytes(), b"mine")

    def test_no_room(self) -> None:
        """Where no copy can be made, that is told, and what is kept stays."""
        self.directory.parent.mkdir(parents=True)
        self.directory.write_bytes(b"no directory")
        self.assertRaises(OSError, self.backups.keep, FILE, b"x")
