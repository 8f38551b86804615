"""Tests of the one way a configuration changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, execute, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.backups import Backups
from mmwagent.host.processes import Process
from mmwagent.host.service import Busy, NotInstalled, Refused, ServiceFailed
from mmwagent.xray import apply as module
from mmwagent.xray.apply import MAX_BYTES, NotWritten, Outcome, TooLarge, XrayApply
from mmwagent.xray.document import Document, InvalidDocument
from mmwagent.xray.inspection import XrayNow
from tests.xray.helpers import log_lines

OLD = '{\n  "a": 1\n}\n'
COMMENTED = '{ "a": 1 } // mine\n'


def process(pid: int) -> Process:
    """Return an Xray that runs."""
    return Process(pid, "/usr/bin/xray", ("xray",), "/", datetime.fromtimestamp(pid, UTC))


def no_space(*arguments: object) -> None:
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device")


class ApplyCase(SynchronousTestCase):
    """An Xray that runs, a configuration, and what happens to them, in order."""

    def setUp(self) -> None:
        """Make them."""
        self.directory = Path(os.path.realpath(self.mktemp()))
        self.directory.mkdir()
        self.file = self.directory / "config.json"
        self.file.write_text(OLD)
        self.file.chmod(0o640)
        self.backups = Backups(self.directory / "state")
        self.processes: tuple[Process, ...] = (process(1),)
        self.happened: list[str] = []
        self.check_with: Callable[[str], Any] = lambda text: ()
        self.restarts: list[Any] = []
        self.apply = XrayApply(self.check, self.inspect, self.restart, self.backups, execute)

    async def check(
        self, path: Path, text: str, *, certificates_may_follow: bool
    ) -> tuple[str, ...]:
        """Check as the test says; the file must not have been touched."""
        self.happened.append("check, certificates may follow" * certificates_may_follow or "check")
        self.assertEqual(path, self.file)
        result = self.check_with(text)
        if isinstance(result, Exception):
            raise result
        return await result if isinstance(result, Deferred) else result

    async def inspect(self) -> XrayNow:
        """Tell what runs."""
        return XrayNow((), self.processes)

    async def restart(self) -> None:
        """Restart Xray as the test says, else well; what stands in the file then is recorded."""
        self.happened.append(f"restart with {self.file.read_text() if self.file.exists() else ''}")
        result = self.restarts.pop(0) if self.restarts else None
        if isinstance(result, Exception):
            raise result
        if isinstance(result, Deferred):
            await result
        self.processes = tuple(process(one.pid + 1) for one in self.processes)

    def write(self, new: str | Document, restart: bool = True, **others: Any) -> Deferred[Outcome]:
        """Write the configuration."""
        return Deferred.fromCoroutine(self.apply.write(self.file, new, restart=restart, **others))

    def edit(self, change: Callable[[Document], Document]) -> Deferred[Outcome]:
        """Edit the configuration, with a restart."""
        return Deferred.fromCoroutine(self.apply.edit(self.file, change, restart=True))

    def kept(self) -> list[str]:
        """Return the copies of old content."""
        return [copy.read_text() for copy in self.backups.of(self.file)]

    def untouched(self) -> None:
        """The file is as it was, and nothing lies beside it."""
        self.assertEqual(self.file.read_text(), OLD)
        self.assertLessEqual(set(os.listdir(self.directory)), {"config.json", "state"})

    def refused(self, made: Deferred[Outcome], *kinds: type[Exception]) -> str:
        """Return why a change was not made."""
        return str(self.failureResultOf(made, *kinds).value)


class WriteTests(ApplyCase):
    """New content in place of the old."""

    def test_in_order(self) -> None:
        """It is checked, the old is kept, the new written, and Xray restarted with it."""
        outcome = self.successResultOf(self.write('{"b": 2}'))
        self.assertEqual(self.happened, ["check", 'restart with {"b": 2}'])
        self.assertEqual(self.file.read_text(), '{"b": 2}')
        self.assertEqual(self.kept(), [OLD])
        self.assertEqual(
            outcome,
            Outcome(self.file, True, self.backups.of(self.file)[0], True, "now"),
        )

    def test_a_text_stays_as_it_is(self) -> None:
        """A text is written letter by letter, comments and all."""
        text = '// 妙\n{"b":1.50,\t"a" : 9007199254740993}\r\n'
        outcome = self.successResultOf(self.write(text))
        self.assertEqual(self.file.read_bytes().decode(), text)
        self.assertFalse(outcome.lost_comments)

    def test_a_document(self) -> None:
        """A document is written in a layout for people; that comments went is told."""
        outcome = self.successResultOf(self.write({"b": "<妙>"}))
        self.assertEqual(self.file.read_text(), '{\n  "b": "<妙>"\n}\n')
        self.assertFalse(outcome.lost_comments)
        self.file.write_text(COMMENTED)
        self.assertTrue(self.successResultOf(self.write({"c": 1})).lost_comments)

    def test_mode(self) -> None:
        """The file keeps its mode; a new one is its owner's alone, as the copies are."""
        self.successResultOf(self.write("{}"))
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o640)
        self.file.unlink()
        outcome = self.successResultOf(self.write("{}"))
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.assertIsNone(outcome.backup)
        self.assertEqual(stat.S_IMODE(self.backups.of(self.file)[0].stat().st_mode), 0o600)

    def test_nothing_new(self) -> None:
        """The same content again is not checked, not kept, not written and starts nothing."""
        before = self.file.stat()
        outcome = self.successResultOf(self.write(OLD))
        self.assertEqual(outcome, Outcome(self.file, False, applied_at="now"))
        self.assertEqual((self.happened, self.kept()), ([], []))
        self.assertEqual(self.file.stat(), before)

    def test_without_restart(self) -> None:
        """Not to be restarted, Xray runs on with the old, and the answer does not hide it."""
        outcome = self.successResultOf(self.write("{}", restart=False))
        self.assertEqual((outcome.restarted, outcome.applied_at), (False, "next start"))
        self.assertEqual(self.happened, ["check"])
        again = self.successResultOf(self.write("{}"))
        self.assertEqual((again.changed, again.applied_at), (False, "next start"))
        self.processes = (process(7),)  # somebody has restarted it
        self.assertEqual(self.successResultOf(self.write("{}")).applied_at, "now")
        self.successResultOf(self.write('{"b": 2}', restart=False))
        self.assertEqual(self.successResultOf(self.write('{"b": 2}')).applied_at, "next start")

    def test_not_running(self) -> None:
        """An Xray that does not run is not started."""
        self.processes = ()
        for text in ("{}", "{}"):
            outcome = self.successResultOf(self.write(text))
            self.assertEqual((outcome.restarted, outcome.applied_at), (False, "next start"))
        self.assertEqual(self.happened, ["check"])

    def test_certificates_that_follow(self) -> None:
        """With certificates still to come Xray could not start, so it is not restarted."""
        self.check_with = lambda text: ("/c.pem",)
        outcome = self.successResultOf(self.write("{}", certificates_may_follow=True))
        self.assertEqual(outcome.missing, ("/c.pem",))
        self.assertEqual((outcome.restarted, outcome.applied_at), (False, "next start"))
        self.assertEqual(self.happened, ["check, certificates may follow"])

    def test_leftovers(self) -> None:
        """What a killed writer left beside the file, keys and all, goes; the rest stays."""
        names = {".config.json.swp", ".config.json.ABCDEFGH", ".other.json.abcdefgh", "x"}
        for name in (*names, ".config.json.ab_d3fgh"):
            (self.directory / name).touch()
        self.successResultOf(self.write("{}"))
        self.assertEqual(set(os.listdir(self.directory)), {"config.json", "state", *names})

    def test_one_at_a_time(self) -> None:
        """A second change waits for the first, and begins with what that has left."""
        first: Deferred[None] = Deferred()
        self.restarts = [first]
        one, two = self.write('{"one": 1}'), self.edit(lambda document: {**document, "two": 2})
        self.assertEqual(self.happened, ["check", 'restart with {"one": 1}'])
        first.callback(None)
        self.successResultOf(one)
        self.successResultOf(two)
        self.assertEqual(self.file.read_text(), '{\n  "one": 1,\n  "two": 2\n}\n')

    def test_after_a_failure(self) -> None:
        """A change that fails does not keep the next from its turn."""
        self.check_with = lambda text: Refused("no")
        self.failureResultOf(self.write("{}"), Refused)
        self.check_with = lambda text: ()
        self.successResultOf(self.write("{}"))


class RefusalTests(ApplyCase):
    """What is wrong is refused with the old content in place, and Xray left alone."""

    def test_no_json(self) -> None:
        """What is no configuration does not get as far as Xray."""
        for text in ("", "{", "[]", '{"a": NaN}', "\ufeff{}", '{"a": "\ud800"}'):
            with self.subTest(text=text):
                self.refused(self.write(text), InvalidDocument)
        self.assertEqual(self.happened, [])
        self.untouched()
        self.assertEqual(self.kept(), [])

    def test_too_large(self) -> None:
        """There is a limit, in bytes; what is just within is taken."""
        text = '{"a": "' + "ü" * (MAX_BYTES // 2 - 5) + '"}'
        self.assertEqual(len(text.encode()), MAX_BYTES - 1)
        self.assertIn("8 MiB", self.refused(self.write("  " + text), TooLarge))
        self.assertEqual(self.happened, [])
        self.untouched()
        self.successResultOf(self.write(" " + text))

    def test_refused(self) -> None:
        """What Xray refuses is refused in its words."""
        self.check_with = lambda text: Refused("unknown protocol")
        self.assertEqual(self.refused(self.write("{}"), Refused), "unknown protocol")
        self.untouched()
        self.assertEqual(self.kept(), [])

    def test_nobody_to_ask(self) -> None:
        """Without an Xray nothing is written: nobody could say whether it is right."""
        self.check_with = lambda text: NotInstalled("no Xray")
        self.assertEqual(self.refused(self.write("{}"), NotInstalled), "no Xray")
        self.untouched()

    def test_no_copy(self) -> None:
        """Where the old content cannot be kept it is not replaced."""
        self.patch(Backups, "keep", no_space)
        words = self.refused(self.write("{}"), NotWritten)
        self.assertIn("cannot back up", words)
        self.assertIn("No space left on device", words)
        self.assertEqual(self.happened, ["check"])
        self.untouched()

    def test_full_disk(self) -> None:
        """Where the new content does not go in, the old one stays and Xray runs on."""
        self.patch(module, "write_atomically", no_space)
        words = self.refused(self.write("{}"), NotWritten)
        self.assertEqual(
            words, f"cannot write {self.file}: No space left on device; it is as it was"
        )
        self.assertEqual(self.happened, ["check"])
        self.untouched()

    def test_unreadable(self) -> None:
        """What stands there but is no file to read is not replaced."""
        self.file.unlink()
        self.file.mkdir()
        self.refused(self.write("{}"), NotWritten)
        self.file.rmdir()
        os.mkfifo(self.file)
        self.assertIn("not a regular file", self.refused(self.write("{}"), InvalidDocument))


class RollbackTests(ApplyCase):
    """Where Xray does not run with the new content, the old is back."""

    def test_put_back(self) -> None:
        """Xray is restarted with the old content, and all of that is told."""
        self.restarts = [ServiceFailed("port 443 is taken")]
        self.assertEqual(
            self.refused(self.write('{"b": 2}'), Refused),
            "Xray does not run with it: port 443 is taken; the old configuration is back, and "
            "Xray runs with it",
        )
        self.assertEqual(self.happened, ["check", 'restart with {"b": 2}', f"restart with {OLD}"])
        self.untouched()
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o640)

    def test_logged_once(self) -> None:
        """The log tells it once, with the reason."""
        self.restarts = [ServiceFailed("port 443 is taken")]
        lines = log_lines(lambda: self.failureResultOf(self.write("{}")))
        self.assertEqual([level for level, _ in lines], ["info", "warn"])
        self.assertIn("port 443 is taken", lines[1][1])

    def test_bytes(self) -> None:
        """What is put back is the old content to the byte, be it what it may."""
        self.file.write_bytes(b"\xff not even text\r\n")
        self.restarts = [ServiceFailed("no")]
        self.refused(self.write("{}"), Refused)
        self.assertEqual(self.file.read_bytes(), b"\xff not even text\r\n")

    def test_a_new_file_goes(self) -> None:
        """Where there was no file there is none again."""
        self.file.unlink()
        self.restarts = [ServiceFailed("no"), ServiceFailed("no configuration")]
        words = self.refused(self.write("{}"), Refused)
        self.assertFalse(self.file.exists())
        self.assertIn("Xray does not start with it either: no configuration", words)

    def test_the_old_does_not_start_either(self) -> None:
        """Then that is said, and in the log as an error."""
        self.restarts = [ServiceFailed("new"), ServiceFailed("old")]
        results: list[str] = []
        lines = log_lines(lambda: results.append(self.refused(self.write("{}"), Refused)))
        self.assertIn("does not run with it: new; the old configuration is back, but", results[0])
        self.assertTrue(results[0].endswith("does not start with it either: old"))
        self.assertEqual(lines[-1][0], "error")
        self.untouched()

    def test_nothing_was_done(self) -> None:
        """A restart that was not even tried is not tried again; the kind of reason stays."""
        for problem in (Busy("being installed"), NotInstalled("gone"), Refused("no")):
            with self.subTest(problem=problem):
                self.happened.clear()
                self.restarts = [problem]
                words = self.refused(self.write("{}"), type(problem))
                self.assertEqual(words, f"{problem}; the old configuration is back")
                self.assertEqual(self.happened, ["check", "restart with {}"])
                self.untouched()

    def test_a_defect(self) -> None:
        """Whatever else goes wrong with a restart, the old content is back."""
        self.restarts = [RuntimeError()]
        self.assertIn("does not run with it: RuntimeError;", self.refused(self.write("{}")))
        self.untouched()

    def test_cannot_be_put_back(self) -> None:
        """Where the old content cannot be put back it is told where it is kept."""
        self.restarts = [ServiceFailed("no")]
        real = module.write_atomically
        writes: list[None] = []

        def once(path: Path, data: bytes) -> None:
            writes.append(None)
            no_space() if len(writes) > 1 else real(path, data)

        self.patch(module, "write_atomically", once)
        results: list[str] = []
        lines = log_lines(lambda: results.append(self.refused(self.write("{}"), Refused)))
        self.assertIn("could not be put back (No space left on device)", results[0])
        self.assertTrue(results[0].endswith(f"it is kept in {self.backups.of(self.file)[0]}"))
        self.assertEqual(self.kept(), [OLD])
        self.assertEqual(lines[-1][0], "error")

    def test_whose_turn_it_is_after(self) -> None:
        """What was put back is what Xray runs with."""
        self.restarts = [ServiceFailed("no")]
        self.refused(self.write("{}"), Refused)
        self.assertEqual(self.successResultOf(self.write(OLD)).applied_at, "now")


class EditTests(ApplyCase):
    """A part of the content is changed."""

    def test_edit(self) -> None:
        """The change is made to what stands there; order and numbers stay."""
        self.file.write_text('{"z": 1.50, "a": 9007199254740993}')
        outcome = self.successResultOf(self.edit(lambda document: {**document, "n": True}))
        self.assertEqual(
            self.file.read_text(), '{\n  "z": 1.50,\n  "a": 9007199254740993,\n  "n": true\n}\n'
        )
        self.assertTrue(outcome.restarted)
        self.assertFalse(outcome.lost_comments)

    def test_no_change(self) -> None:
        """A change that changes nothing leaves the file as it is, with its comments."""
        self.file.write_text(COMMENTED)
        outcome = self.successResultOf(self.edit(lambda document: {**document}))
        self.assertEqual(outcome, Outcome(self.file, False, applied_at="now"))
        self.assertEqual(self.file.read_text(), COMMENTED)
        self.assertEqual(self.happened, [])

    def test_comments_go(self) -> None:
        """One that changes something loses the comments, and says so; the copy has them."""
        self.file.write_text(COMMENTED)
        outcome = self.successResultOf(self.edit(lambda document: {**document, "b": 2}))
        self.assertTrue(outcome.lost_comments)
        self.assertEqual(self.kept(), [COMMENTED])

    def test_missing(self) -> None:
        """A file that is not there yet begins empty."""
        self.file.unlink()
        self.successResultOf(self.edit(lambda document: {"was": dict(document)}))
        self.assertEqual(self.file.read_text(), '{\n  "was": {}\n}\n')

    def test_a_change_that_fails(self) -> None:
        """What the change raises is raised, and nothing has happened."""

        def change(document: Document) -> Document:
            raise ValueError("grpc_port must be free")

        self.assertEqual(self.refused(self.edit(change), ValueError), "grpc_port must be free")
        self.assertEqual(self.happened, [])
        self.untouched()

    def test_what_is_no_configuration(self) -> None:
        """A file that is no configuration cannot be edited, and stays as it is."""
        for data in (b"{", b"[]", b"\xff"):
            self.file.write_bytes(data)
            self.refused(self.edit(lambda document: {"a": 2}), InvalidDocument)
            self.assertEqual(self.file.read_bytes(), data)

    def test_byte_order_mark(self) -> None:
        """A mark that some editors put at the start does no harm."""
        self.file.write_bytes(b"\xef\xbb\xbf{}")
        self.successResultOf(self.edit(lambda document: {"a": 2}))
        self.assertEqual(self.file.read_text(), '{\n  "a": 2\n}\n')


class CancelTests(ApplyCase):
    """Who asked may go away; what has begun goes on to its end."""

    def test_during_the_restart(self) -> None:
        """The restart goes on, and if it fails the old content is put back all the same."""
        going: Deferred[None] = Deferred()
        self.restarts = [going]
        made = self.write("{}")
        made.cancel()
        self.failureResultOf(made, CancelledError)
        lines = log_lines(lambda: going.errback(ServiceFailed("no")))
        self.untouched()
        self.assertEqual(self.happened[-1], f"restart with {OLD}")
        self.assertIn("nobody waits for any more failed", lines[-1][1])

    def test_during_the_check(self) -> None:
        """A change that nobody waits for any more is made, and the next has its turn."""
        checked: Deferred[tuple[str, ...]] = Deferred()
        self.check_with = lambda text: checked
        made = self.write('{"b": 2}')
        made.cancel()
        self.failureResultOf(made, CancelledError)
        self.untouched()
        checked.callback(())
        self.assertEqual(self.file.read_text(), '{"b": 2}')
        self.check_with = lambda text: succeed(())
        self.successResultOf(self.write("{}"))
