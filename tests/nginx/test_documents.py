"""Tests of the files that a configuration is made of."""

from __future__ import annotations

import os
from pathlib import Path

from mmwagent.nginx.documents import Documents, Include, as_bytes, read_text
from tests.nginx.helpers import NginxFiles


class DocumentsTests(NginxFiles):
    """The main file and what it includes."""

    def names(self, planned: dict[Path, str] | None = None) -> list[str]:
        """Return the files by name."""
        files = Documents(self.main, planned or {}).files()
        return [str(path.relative_to(self.home)) for path in files]

    def test_includes(self) -> None:
        """Includes are followed, patterns in order of names, relative to the main file's place."""
        self.lay_out(
            {
                "nginx.conf": f"include a/x; http {{ include {self.home}/b/*.conf; }}",
                "a/x": "include a/y;",
                "a/y": "",
                "b/2.conf": "c;",
                "b/1.conf": "c;",
                "b/.hidden.conf": "c;",
                "b/3.txt": "c;",
            }
        )
        self.assertEqual(self.names(), ["nginx.conf", "a/x", "b/1.conf", "b/2.conf"])
        found = list(Documents(self.main).directives())
        self.assertEqual(
            [(one.file.name, one.context, one.directive.name) for one in found],
            [
                ("nginx.conf", (), "include"),
                ("x", (), "include"),
                ("nginx.conf", (), "http"),
                ("nginx.conf", ("http",), "include"),
                ("1.conf", ("http",), "c"),
                ("2.conf", ("http",), "c"),
            ],
        )

    def test_planned(self) -> None:
        """A text that is planned counts instead of the file, and as a file where there is none."""
        self.lay_out({"nginx.conf": "include old/*;", "old/x": "a;", "new/x": "b;"})
        planned = {self.main: "include new/*;", self.home / "new" / "y": "c;"}
        self.assertEqual(self.names(planned), ["nginx.conf", "new/x", "new/y"])

    def test_circles(self) -> None:
        """Files that include each other, or a great many, come to an end."""
        self.lay_out({"nginx.conf": "include a; include a;", "a": "include nginx.conf; b;"})
        self.assertEqual(self.names(), ["nginx.conf", "a"])
        self.lay_out({f"{n:02}": f"include {n + 1:02}; include {n + 1:02};" for n in range(60)})
        self.lay_out({"nginx.conf": "include 00;"})
        self.assertLess(len(list(Documents(self.main).directives())), 100_000)

    def test_unreadable(self) -> None:
        """What cannot be read or understood counts as empty."""
        self.lay_out({"nginx.conf": "include a; include none; include pipe; b;", "a": "{"})
        os.mkfifo(self.home / "pipe")
        found = list(Documents(self.main).directives())
        self.assertEqual([one.directive.name for one in found], ["include"] * 3 + ["b"])

    def test_includes_of_a_context(self) -> None:
        """The includes of one kind of block are found wherever they stand."""
        self.lay_out(
            {
                "nginx.conf": "include m; http { include h/*; server { include s; } include i; }",
                "i": "include j/*;",
            }
        )
        patterns = [one.pattern for one in Documents(self.main).includes("http")]
        self.assertEqual(patterns, [self.home / "h/*", self.home / "i", self.home / "j/*"])

    def test_bytes(self) -> None:
        """A text that is no UTF-8 comes out as it went in."""
        self.main.write_bytes(b"# \xff\xe4 \xc3\xa4")
        self.assertEqual(as_bytes(read_text(self.main)), b"# \xff\xe4 \xc3\xa4")


class IncludeTests(NginxFiles):
    """What a pattern takes."""

    def takes(self, pattern: str, name: str) -> bool:
        """Return whether `pattern` includes `name`."""
        return Include(self.main, (), self.home / pattern).takes(self.home / name)

    def test_takes(self) -> None:
        """A pattern takes files of its own directory by glob(3)'s rules."""
        self.assertTrue(self.takes("a/*.conf", "a/b.conf"))
        self.assertTrue(self.takes("a/b.conf", "a/b.conf"))
        self.assertTrue(self.takes("*/b.conf", "a/b.conf"))
        self.assertTrue(self.takes("a/[bc].conf", "a/b.conf"))
        self.assertTrue(self.takes("a/.*", "a/.b"))

    def test_does_not_take(self) -> None:
        """A star stands neither for a slash nor for the dot of a hidden file."""
        self.assertFalse(self.takes("a/*.conf", "a/.b.conf"))
        self.assertFalse(self.takes("*", "a/b"))
        self.assertFalse(self.takes("a/*.conf", "a/b.conf.bak"))
        self.assertFalse(self.takes("a/*.conf", "c/b.conf"))
        self.assertFalse(self.takes("a/*", "A/b"))

    def test_links(self) -> None:
        """A directory counts by what it is, not by its name."""
        (self.home / "real").mkdir()
        (self.home / "link").symlink_to("real")
        self.assertTrue(self.takes("link/*", "real/x"))
        self.assertTrue(self.takes("real/*", "link/x"))

    def test_takes_many(self) -> None:
        """A pattern for one directory is told from a file and from one for many directories."""
        many = [
            Include(self.main, (), Path(pattern)).takes_many
            for pattern in ("/a/*.conf", "/a/b.conf", "/*/b*.conf")
        ]
        self.assertEqual(many, [True, False, False])
