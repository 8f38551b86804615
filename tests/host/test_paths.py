"""Tests of which file a name from outside means."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.paths import contained, read_regular


class PathsCase(SynchronousTestCase):
    """Two known directories side by side with a secret that lies in neither."""

    def setUp(self) -> None:
        """Make them."""
        self.top = Path(os.path.realpath(self.mktemp()))
        self.one, self.two = self.top / "xray", self.top / "more"
        for directory in (self.one / "conf.d", self.two, self.top / "xray-evil"):
            directory.mkdir(parents=True)
        for file in ("xray/config.json", "more/other.json", "secret", "xray-evil/secret"):
            (self.top / file).write_bytes(b"{}")

    def contained(self, path: str) -> Path:
        """Resolve `path` against both directories."""
        return contained(path, [self.one, self.two])

    def refused(self, path: str) -> str:
        """Return why `path` is refused."""
        return str(self.assertRaises(ValueError, self.contained, path))


class ContainedTests(PathsCase):
    """What lies in a known directory is found, all else is refused."""

    def test_absolute(self) -> None:
        """An absolute path in or below a known directory is taken, be it there or not."""
        for path in ("xray/config.json", "more/other.json", "xray/conf.d/new.json", "xray/a b"):
            with self.subTest(path=path):
                self.assertEqual(self.contained(str(self.top / path)), self.top / path)

    def test_relative(self) -> None:
        """A relative one means the directory that has it, and the first one for a new file."""
        self.assertEqual(self.contained("config.json"), self.one / "config.json")
        self.assertEqual(self.contained("other.json"), self.two / "other.json")
        self.assertEqual(self.contained("conf.d/x.json"), self.one / "conf.d/x.json")
        self.assertEqual(self.contained("./new file.json"), self.one / "new file.json")

    def test_outside(self) -> None:
        """What lies elsewhere is refused, a neighbour whose name begins alike as well."""
        for path in ("/etc/passwd", f"{self.top}/secret", f"{self.one}-evil/secret", "/"):
            with self.subTest(path=path):
                self.assertIn("not within", self.refused(path))

    def test_the_directory_itself(self) -> None:
        """A directory is no file in itself."""
        for path in (str(self.one), f"{self.one}/", ".", "./", f"{self.two}/."):
            with self.subTest(path=path):
                self.assertIn("not within", self.refused(path))

    def test_dots(self) -> None:
        """No path may climb, even if it came down within again."""
        for path in ("../secret", "conf.d/../config.json", f"{self.one}/../secret", ".."):
            with self.subTest(path=path):
                self.assertIn('".."', self.refused(path))
        self.assertEqual(self.contained("..config"), self.one / "..config")

    def test_encoded(self) -> None:
        """A name that is still percent-encoded is refused, once or several times over."""
        for path in ("%2e%2e%2fsecret", "%2E./x", "a%00.json", "..%5cx", "%252e%252e/x"):
            with self.subTest(path=path):
                self.assertIn("percent-encoded", self.refused(path))
        self.assertEqual(self.contained("100%.json"), self.one / "100%.json")

    def test_control_characters(self) -> None:
        """NUL, line ends and the like are refused, and told escaped."""
        for path in ("a\0.json", "\0", "a\nb", "\x1b[2J", "config.json\r"):
            with self.subTest(path=path):
                reason = self.refused(path)
                self.assertIn("control characters", reason)
                self.assertTrue(reason.isprintable(), reason)

    def test_no_name(self) -> None:
        """The empty path is refused, and so is any where no directory is known."""
        self.assertIn("empty", self.refused(""))
        problem = self.assertRaises(ValueError, contained, "a", [])
        self.assertIn("no directory", str(problem))

    def test_too_long(self) -> None:
        """What no file system takes is refused here, in bytes and not in letters."""
        for path in ("a" * 256, "ü" * 128, "a/" * 2048 + "a"):
            with self.subTest(length=len(path)):
                reason = self.refused(path)
                self.assertIn("too long", reason)
                self.assertLess(len(reason), 1000)
        self.contained("ü" * 127)

    def test_not_a_name(self) -> None:
        """A text that is no name in UTF-8 is refused."""
        self.assertIn("not a name", self.refused("\ud800"))

    def test_links_out(self) -> None:
        """A symbolic link that leads out is refused, be it a file, a directory or a new file."""
        os.symlink(self.top / "secret", self.one / "link")
        os.symlink("../xray-evil", self.one / "away")
        os.symlink(self.top / "new", self.one / "dangling")
        for path in ("link", "away/secret", "away/new", "dangling"):
            with self.subTest(path=path):
                self.assertIn("not within", self.refused(path))
                self.assertIn("not within", self.refused(str(self.one / path)))

    def test_links_within(self) -> None:
        """One that stays within the known directories gives what it points to."""
        os.symlink(self.two / "other.json", self.one / "link")
        self.assertEqual(self.contained("link"), self.two / "other.json")

    def test_a_known_directory_may_be_a_link(self) -> None:
        """The known directories are resolved as well."""
        os.symlink(self.one, self.top / "etc")
        self.assertEqual(
            contained(f"{self.top}/etc/config.json", [self.top / "etc"]), self.one / "config.json"
        )

    def test_a_loop_of_links(self) -> None:
        """A link to itself is refused, alone and as a directory."""
        os.symlink("loop", self.one / "loop")
        self.assertIn("leads nowhere", self.refused("loop"))
        self.assertIn("leads nowhere", self.refused("loop/config.json"))

    @given(
        parts=st.lists(
            st.sampled_from(["..", ".", "", "xray", "more", "secret", "%2e%2e", "out", "\0", "x"]),
            min_size=1,
            max_size=6,
        ),
        absolute=st.booleans(),
        encode=st.booleans(),
    )
    def test_nothing_leads_out(self, parts: list[str], absolute: bool, encode: bool) -> None:
        """Whatever is put together: it is refused, or is truly within."""
        if not os.path.lexists(self.one / "out"):
            os.symlink(self.top, self.one / "out")
        name = "/".join(parts)
        path = f"{self.one}/{name}" if absolute else name
        try:
            found = self.contained(quote(path) if encode else path)
        except ValueError:
            return
        real = os.path.realpath(found)
        self.assertTrue(
            real.startswith((f"{self.one}/", f"{self.two}/")), f"{path!r} leads to {real}"
        )


class ReadTests(PathsCase):
    """A regular file of a decent size is read, and nothing else."""

    def test_read(self) -> None:
        """All of it is given, up to the limit and including it."""
        self.assertEqual(read_regular(self.one / "config.json", 2), b"{}")
        problem = self.assertRaises(ValueError, read_regular, self.one / "config.json", 1)
        self.assertIn("larger than 1 bytes", str(problem))

    def test_what_is_no_file(self) -> None:
        """Pipes, devices and directories are refused at once: nobody waits for their other end."""
        os.mkfifo(self.one / "pipe")
        for path in (self.one / "pipe", Path("/dev/zero")):
            problem = self.assertRaises(ValueError, read_regular, path, 10)
            self.assertIn("not a regular file", str(problem))
        self.assertRaises(IsADirectoryError, read_regular, self.one, 10)

    def test_a_link_that_came_in_between(self) -> None:
        """What became a symbolic link after it was looked at is not followed."""
        found = self.contained("config.json")
        found.unlink()
        os.symlink(self.top / "secret", found)
        self.assertRaises(OSError, read_regular, found, 10)

    def test_missing(self) -> None:
        """What is not there raises as open does."""
        self.assertRaises(FileNotFoundError, read_regular, self.one / "none", 10)
