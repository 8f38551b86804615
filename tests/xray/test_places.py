"""Tests of which files of Xray's configuration may be read and written."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.xray.discovery import Discovery
from mmwagent.xray.places import MOST_FILES, NoSuchFile, Places


class PlacesCase(SynchronousTestCase):
    """Two directories for Xray, with a configuration in the second."""

    def setUp(self) -> None:
        """Make them."""
        self.top = Path(os.path.realpath(self.mktemp()))
        self.first, self.second = self.top / "a-xray", self.top / "xray"
        self.second.mkdir(parents=True)
        self.config = self.second / "config.json"
        self.config.write_text("{}")
        (self.top / "secret.json").write_text("{}")
        self.places = self.looking_at(self.first / "config.json", self.config)

    def looking_at(self, *paths: Path) -> Places:
        """Return the places of these configurations."""
        return Places(Discovery([str(path) for path in paths]))

    def names(self) -> list[str]:
        """Return the names of the files that are listed."""
        return [file.name for file in self.places.listed()]


class MainTests(PlacesCase):
    """The configuration that a request means."""

    def test_the_first_that_is_there(self) -> None:
        """Without a path it is the first that is there, to be read or written."""
        self.assertEqual(self.places.main(), self.config)
        self.assertEqual(self.places.main(to_write=True), self.config)

    def test_a_broken_one(self) -> None:
        """One that is no JSON is meant as well: how else could it be mended?"""
        self.config.write_text("broken")
        self.assertEqual(self.places.main(), self.config)

    def test_by_path(self) -> None:
        """Of several, the path says which; a link to it will do."""
        other = self.top / "more" / "x.json"
        other.parent.mkdir()
        other.write_text("{}")
        os.symlink(other, self.second / "link.json")
        self.places = self.looking_at(self.config, other)
        self.assertEqual(self.places.main(str(other)), other)
        self.assertEqual(self.places.main(str(self.second / "link.json")), other)
        self.assertEqual(self.places.main(str(self.config)), self.config)

    def test_another_file(self) -> None:
        """A file beside it is no configuration of an Xray, and which ones are is told."""
        (self.second / "other.json").write_text("{}")
        problem = self.assertRaises(NoSuchFile, self.places.main, str(self.second / "other.json"))
        self.assertIn(str(self.config), str(problem))

    def test_outside(self) -> None:
        """A path that leads out is refused."""
        for path in ("/etc/passwd", "../secret.json", str(self.top / "secret.json"), "a\0"):
            self.assertRaises(ValueError, self.places.main, path)
            self.assertRaises(ValueError, self.places.main, path, to_write=True)

    def test_none(self) -> None:
        """Where there is none, that is told with the paths that were looked at."""
        self.config.unlink()
        problem = self.assertRaises(NoSuchFile, self.places.main)
        self.assertIn(str(self.config), str(problem))
        self.assertIn(str(self.first), str(problem))
        self.assertRaises(NoSuchFile, self.places.main, str(self.config))

    def test_a_new_one(self) -> None:
        """To be written, the first whose directory is there will do."""
        self.config.unlink()
        self.assertEqual(self.places.main(to_write=True), self.config)
        self.assertEqual(self.places.main(str(self.config), to_write=True), self.config)
        self.first.mkdir()
        self.assertEqual(self.places.main(to_write=True), self.first / "config.json")

    def test_no_directory(self) -> None:
        """Without any of the directories there is nowhere to write it."""
        places = self.looking_at(self.first / "config.json")
        self.assertRaises(NoSuchFile, places.main, to_write=True)

    def test_a_link_to_elsewhere(self) -> None:
        """A configuration that is a link means the file it leads to."""
        data = self.top / "data" / "real.json"
        data.parent.mkdir()
        self.config.rename(data)
        os.symlink(data, self.config)
        self.assertEqual(self.places.main(), data)
        self.assertEqual(self.places.main(str(self.config)), data)
        self.assertTrue(self.places.is_main(data))
        self.assertEqual(self.places.directories(), [data.parent, self.second])


class FileTests(PlacesCase):
    """The files beside a configuration."""

    def test_relative_and_absolute(self) -> None:
        """They are named as they are listed, or by their path."""
        for name in ("config.json", "extra file.jsonc", "conf.d/a b/c.json"):
            path = self.second / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            self.assertEqual(self.places.file(name), path)
            self.assertEqual(self.places.file(str(path)), path)

    def test_missing(self) -> None:
        """One that is not there cannot be read, but written where its directory is there."""
        self.assertRaises(NoSuchFile, self.places.file, "new.json")
        self.assertEqual(self.places.file("new.json", to_write=True), self.second / "new.json")
        self.assertRaises(NoSuchFile, self.places.file, "none/new.json", to_write=True)

    def test_other_kinds_of_file(self) -> None:
        """What is no configuration by its name is not read or written: keys, programs, hidden."""
        for name in (
            "key.pem",
            "xray",
            "geoip.dat",
            "config.json.bak",
            ".hidden.json",
            ".d/x.json",
        ):
            path = self.second / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
            with self.subTest(name=name):
                self.assertRaises(ValueError, self.places.file, name)
                self.assertRaises(ValueError, self.places.file, name, to_write=True)

    def test_no_file(self) -> None:
        """Directories and pipes are no files, whatever their names end in."""
        (self.second / "d.json").mkdir()
        os.mkfifo(self.second / "p.json")
        for name in ("d.json", "p.json"):
            self.assertRaises(ValueError, self.places.file, name)
            self.assertRaises(ValueError, self.places.file, name, to_write=True)

    def test_outside(self) -> None:
        """Whatever leads out is refused, for reads and writes."""
        os.symlink(self.top / "secret.json", self.second / "link.json")
        os.symlink(self.top, self.second / "up")
        for name in (
            "../secret.json",
            "link.json",
            "up/secret.json",
            "/etc/x.json",
            "%2e%2e/secret.json",
            "config.json\0",
        ):
            with self.subTest(name=name):
                self.assertRaises(ValueError, self.places.file, name)
                self.assertRaises(ValueError, self.places.file, name, to_write=True)

    def test_a_shared_directory(self) -> None:
        """Below a directory that is not Xray's by its name nothing is read or listed."""
        home = self.top / "home"
        (home / "project").mkdir(parents=True)
        for name in ("x.json", "y.json", "project/package.json"):
            (home / name).write_text("{}")
        self.places = self.looking_at(home / "x.json")
        self.assertEqual(self.names(), ["x.json", "y.json"])
        self.assertEqual(self.places.file("y.json"), home / "y.json")
        self.assertRaises(ValueError, self.places.file, "project/package.json")

    def test_a_configuration_of_another_name(self) -> None:
        """The configuration itself may be called anything."""
        path = self.second / "server.conf"
        path.write_text("{}")
        self.places = self.looking_at(path)
        self.assertEqual(self.places.file("server.conf"), path)
        self.assertEqual(self.names(), ["config.json", "server.conf"])

    def test_directories_without_a_configuration(self) -> None:
        """A default directory without a configuration is not known while another has one."""
        self.first.mkdir()
        (self.first / "x.json").write_text("{}")
        self.assertRaises(ValueError, self.places.file, str(self.first / "x.json"))


class ListTests(PlacesCase):
    """What can be asked for."""

    def test_listed(self) -> None:
        """Each file is told with its size and its age, in order, further down as well."""
        for name in ("b.jsonc", "a.json", "conf.d/x.json", "one/two/three/deep.json"):
            (self.second / name).parent.mkdir(parents=True, exist_ok=True)
            (self.second / name).write_text("{ }")
        os.utime(self.second / "a.json", (7, 7))
        self.assertEqual(
            self.names(),
            ["a.json", "b.jsonc", "conf.d/x.json", "config.json", "one/two/three/deep.json"],
        )
        first = self.places.listed()[0]
        self.assertEqual((first.path, first.size), (self.second / "a.json", 3))
        self.assertEqual(first.modified, 7)
        for file in self.places.listed():
            self.assertEqual(self.places.file(file.name), file.path)

    def test_not_listed(self) -> None:
        """What could not be read is not listed: too deep, hidden, linked, of another kind."""
        for name in ("1/2/3/4/x.json", ".git/x.json", ".x.json", "x.txt"):
            (self.second / name).parent.mkdir(parents=True, exist_ok=True)
            (self.second / name).write_text("{}")
        os.symlink(self.top / "secret.json", self.second / "link.json")
        os.symlink(self.top, self.second / "up")
        os.mkfifo(self.second / "p.json")
        self.assertEqual(self.names(), ["config.json"])

    def test_several_directories(self) -> None:
        """Names hang on the first directory; the files of another are named by their path."""
        self.first.mkdir()
        (self.first / "config.json").write_text("{}")
        self.assertEqual(self.places.base(), self.first)
        self.assertEqual(self.names(), ["config.json", str(self.config)])
        self.assertEqual(self.places.file("config.json"), self.first / "config.json")

    def test_one_within_the_other(self) -> None:
        """A file is listed once, though two known directories hold it."""
        inner = self.second / "xray" / "config.json"
        inner.parent.mkdir()
        inner.write_text("{}")
        self.places = self.looking_at(self.config, inner)
        self.assertEqual(self.names(), ["config.json", "xray/config.json"])

    def test_many(self) -> None:
        """There is an end to the list."""
        for number in range(MOST_FILES + 5):
            (self.second / f"{number}.json").touch()
        self.assertEqual(len(self.names()), MOST_FILES)

    def test_none(self) -> None:
        """Where there is no directory there is nothing, and no error."""
        self.places = self.looking_at(self.top / "none" / "config.json")
        self.assertEqual(self.names(), [])
        self.assertIsNone(self.places.base())
