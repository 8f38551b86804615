"""Tests of how Xray servers are found, on files of one's own."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.xray import discovery
from mmwagent.xray.discovery import DEFAULT_PATHS, Discovery, XrayServer
from tests.xray.helpers import log_lines


@contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """Take all file descriptors away, as a process that has too many open files sees it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class DiscoveryCase(SynchronousTestCase):
    """Two paths, `here` and `there`, with nothing at either."""

    configured = False

    def setUp(self) -> None:
        """Make a directory and look into it."""
        self.directory = Path(os.path.realpath(self.mktemp()))
        self.directory.mkdir()
        self.here, self.there = self.directory / "here.json", self.directory / "there.json"
        self.discovery = Discovery([str(self.here), str(self.there)], configured=self.configured)

    def looks(self) -> tuple[XrayServer, ...]:
        """Look, whatever is logged."""
        return self.discovery.look()

    def names(self) -> list[object]:
        """Return what stands under "name" in each configuration found."""
        return [server.document.get("name") for server in self.looks()]

    def said(self, act: Callable[[], object] | None = None) -> list[tuple[str, str]]:
        """Return what looking logs."""
        return log_lines(act or self.discovery.look)


class LookTests(DiscoveryCase):
    """Each look tells what is there at that moment."""

    def test_default_paths(self) -> None:
        """Unless the settings say otherwise the README's three paths are looked at."""
        self.assertEqual(
            DEFAULT_PATHS,
            (
                "/usr/local/etc/xray/config.json",
                "/etc/xray/config.json",
                "/opt/xray/config.json",
            ),
        )
        self.assertEqual(tuple(Discovery().paths), DEFAULT_PATHS)

    def test_a_file_that_appears(self) -> None:
        """A configuration installed later is found, with its real path and content."""
        self.assertEqual(self.looks(), ())
        self.there.write_text('{"name": 1} // a comment')
        self.assertEqual(self.looks(), (XrayServer(str(self.there), {"name": 1}),))
        self.here.write_text('{"name": 2}')
        self.assertEqual(self.names(), [2, 1], "the order of the paths is kept")

    def test_byte_order_mark(self) -> None:
        """A file that begins with a UTF-8 byte order mark is read like any other."""
        self.here.write_bytes('\ufeff{"name": "ü"}'.encode())
        self.assertEqual(self.names(), ["ü"])

    def test_unchanged_is_not_read_again(self) -> None:
        """While nothing changes the very same value is given, and nothing is said."""
        self.here.write_text("{}")
        first = self.looks()
        said = self.said(lambda: self.assertIs(self.looks()[0], first[0]))
        self.assertEqual(said, [])

    def test_replaced_by_one_of_the_same_size_and_time(self) -> None:
        """A file put in the place of another is noticed, were size and time the same."""
        self.here.write_text('{"name": 1}')
        os.utime(self.here, ns=(10**18, 10**18))
        self.assertEqual(self.names(), [1])
        new = self.directory / "new"
        new.write_text('{"name": 2}')
        os.utime(new, ns=(10**18, 10**18))
        new.rename(self.here)
        self.assertEqual(self.names(), [2])

    def test_rewritten_with_the_same_size_and_time(self) -> None:
        """A file written in place is noticed, even when its time is put back after that."""
        self.here.write_text('{"name": 1}')
        os.utime(self.here, ns=(10**18, 10**18))
        self.assertEqual(self.names(), [1])
        before = os.stat(self.here).st_ctime_ns
        while os.stat(self.here).st_ctime_ns == before:  # until the kernel's clock ticks
            self.here.write_text('{"name": 2}')
            os.utime(self.here, ns=(10**18, 10**18))
        self.assertEqual(self.names(), [2])

    def test_a_file_that_vanishes(self) -> None:
        """A configuration that is removed is no longer told, and told again when it is back."""
        self.here.write_text('{"name": 1}')
        self.assertEqual(self.names(), [1])
        self.here.unlink()
        self.assertEqual(self.names(), [])
        self.here.write_text('{"name": 3}')
        self.assertEqual(self.names(), [3])

    def test_moved_behind_a_symbolic_link(self) -> None:
        """A link that is turned to another file leads to that one, under its real path."""
        blue, green = self.directory / "blue.json", self.directory / "green.json"
        blue.write_text('{"name": "blue"}')
        green.write_text('{"name": "green"}')
        self.here.symlink_to(blue)
        self.assertEqual(self.looks(), (XrayServer(str(blue), {"name": "blue"}),))
        self.here.unlink()
        self.here.symlink_to("green.json")
        self.assertEqual(self.looks(), (XrayServer(str(green), {"name": "green"}),))

    def test_two_paths_to_one_file(self) -> None:
        """Two paths that are one file, by a link of file or directory, count once."""
        real = self.directory / "etc"
        real.mkdir()
        (real / "config.json").write_text("{}")
        (self.directory / "link").symlink_to("etc")
        (self.directory / "file").symlink_to("etc/config.json")
        paths = [str(self.directory / name) for name in ("link/config.json", "file")]
        look = Discovery([*paths, str(real / "config.json")]).look
        self.assertEqual([found.config_path for found in look()], [f"{real}/config.json"])

    def test_two_threads_at_once(self) -> None:
        """Who looks while another thread reads a file waits for it, so it is read once."""
        self.here.write_text('{"name": 1}')
        other = Thread(target=self.discovery.look)
        texts: list[str] = []

        def parse_while_another_looks(text: str) -> dict[str, object]:
            texts.append(text)
            if len(texts) == 1:
                other.start()
                other.join(timeout=0.05)
                self.assertTrue(other.is_alive(), "it did not wait")
            return {}

        self.patch(discovery, "parse", parse_while_another_looks)
        self.looks()
        other.join()
        self.assertEqual(len(texts), 1)

    def test_the_document_is_not_shown(self) -> None:
        """The text form of a server holds no part of its configuration, which has keys in it."""
        self.here.write_text('{"privateKey": "SECRET"}')
        self.looks()
        self.assertNotIn("SECRET", repr(self.discovery))


class BadFileTests(DiscoveryCase):
    """What cannot be used is left out, said once, and tried again when it has changed."""

    def assert_refused_once(self, *words: str) -> None:
        """Assert that `here` is refused with one warning of these words; `there` is taken."""
        self.there.write_text('{"name": "fine"}')
        said = self.said(lambda: self.assertEqual(self.names(), ["fine"]))
        warnings = [text for level, text in said if level == "warn"]
        self.assertEqual(len(warnings), 1, said)
        for word in (str(self.here), *words):
            self.assertIn(word, warnings[0])
        self.assertEqual(self.said(), [], "it was said twice")
        self.assertEqual(self.names(), ["fine"])

    def test_a_file_that_becomes_invalid(self) -> None:
        """A file broken by an edit is out until the next edit mends it."""
        self.here.write_text('{"name": 1}')
        self.assertEqual(self.names(), [1])
        self.here.write_text('{"name": 1,\n}')
        self.assert_refused_once("no JSON", "line 2")
        self.here.write_text('{"name": 22}')
        said = self.said(lambda: self.assertEqual(self.names(), [22, "fine"]))
        self.assertEqual(said, [("info", f"Xray configuration read from {self.here}")])

    def test_no_text(self) -> None:
        """Bytes that are no UTF-8 are refused."""
        self.here.write_bytes(b'{"name": "\xff"}')
        self.assert_refused_once("utf-8")

    def test_nested_too_deeply(self) -> None:
        """Nesting without end is refused."""
        self.here.write_text("[" * 100_000)
        self.assert_refused_once("nested too deeply")

    def test_too_large(self) -> None:
        """A file beyond the limit is refused; one at the limit is read."""
        self.patch(discovery, "MAX_BYTES", 2**20)
        self.here.write_text("{}" + " " * (2**20 - 2))
        self.assertEqual(len(self.looks()), 1)
        self.here.write_text("{}" + " " * (2**20 - 1))
        self.assert_refused_once("larger than 1 MiB")

    def test_a_directory(self) -> None:
        """A directory is no configuration."""
        self.here.mkdir()
        self.assert_refused_once("no file")

    def test_a_pipe(self) -> None:
        """A named pipe is refused, for to open it would wait for its other end."""
        os.mkfifo(self.here)
        self.assert_refused_once("no file")

    def test_a_link_to_itself(self) -> None:
        """A link that leads round and round is said, unlike a file that is not there."""
        self.here.symlink_to(self.here.name)
        self.assert_refused_once("symbolic links")

    def test_what_cannot_be_opened_now(self) -> None:
        """A file that cannot be opened is said once and tried at each look, unchanged."""
        self.here.write_text('{"name": 1}')
        with no_file_can_be_opened():
            said = self.said(self.look_three_times)
        self.assertEqual([level for level, _ in said], ["warn"])
        self.assertIn(f"{self.here}: Too many open files", said[0][1])
        self.assertEqual(self.names(), [1])

    def look_three_times(self) -> None:
        """Look, and find nothing."""
        for _ in range(3):
            self.assertEqual(self.looks(), ())


class DefaultPathLogTests(DiscoveryCase):
    """At the default paths a file that is not there is no news."""

    def test_never_there(self) -> None:
        """Where nothing was nothing is said: no file, no directory, or a file in its place."""
        (self.directory / "file").write_text("a file")
        missing = (self.directory / name / "x.json" for name in ("no", "file"))
        self.discovery.paths = [str(self.here), *map(str, missing)]
        self.assertEqual(self.said(), [])

    def test_read_and_gone(self) -> None:
        """A configuration is said when it is read and when it is gone, once each."""
        self.here.write_text("{}")
        read = [("info", f"Xray configuration read from {self.here}")]
        self.assertEqual(self.said(), read)
        self.here.unlink()
        [(level, text)] = self.said()
        self.assertEqual(level, "warn")
        self.assertIn(f"{self.here}: No such file", text)
        self.assertEqual(self.said(), [])
        self.here.write_text("{}")
        self.assertEqual(self.said(), read)


class ConfiguredLogTests(DiscoveryCase):
    """A path that the settings name should be there."""

    configured = True

    def test_missing(self) -> None:
        """A missing one is warned of once, and again after it was there in between."""
        said = self.said()
        self.assertEqual([level for level, _ in said], ["warn", "warn"])
        self.assertIn(str(self.here), said[0][1])
        self.assertIn("No such file", said[0][1])
        self.assertEqual(self.said(), [])
        self.here.write_text(json.dumps({}))
        self.assertEqual([level for level, _ in self.said()], ["info"])
        self.here.unlink()
        self.assertEqual([level for level, _ in self.said()], ["warn"])
