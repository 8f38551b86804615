"""Tests of how nginx's files change."""

from __future__ import annotations

import os
from errno import ENOSPC
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from mmwagent.host.command import CommandNotFound, Finished
from mmwagent.host.files import write_atomically
from mmwagent.host.service import Busy, NotInstalled, Refused, ServiceFailed
from mmwagent.nginx import apply as module
from mmwagent.nginx.apply import Outcome
from mmwagent.nginx.files import NotWritten
from mmwagent.nginx.layout import Layout
from tests.nginx.helpers import GOOD, NGINX, FakeNginx, NginxFiles, done, process, refusal


class ApplyTests(NginxFiles):
    """Changes that nginx takes or refuses."""

    def setUp(self) -> None:
        """Lay two files out."""
        super().setUp()
        self.lay_out({"nginx.conf": "old", "conf.d/a.conf": "old a"})
        self.before = self.laid_out()
        self.nginx = FakeNginx(self.layout, self.home.parent / "backups")
        self.contents: dict[Path, bytes | None] = {
            self.main: b"new",
            self.home / "servers" / "b.conf": b"new b",
            self.home / "conf.d" / "a.conf": None,
        }
        self.after = {"nginx.conf": "new", "servers/b.conf": "new b"}

    def write(self, **options: Any) -> Deferred[Outcome]:
        """Begin the change."""
        return self.nginx.apply.write(self.contents, **options)

    def refused(self, kind: type[Exception], **options: Any) -> str:
        """Check that the change fails with `kind` and all files are as they were."""
        failure = self.failureResultOf(self.write(**options), kind)
        self.assertEqual(self.laid_out(), self.before)
        return failure.getErrorMessage()

    def test_not_running(self) -> None:
        """Where nginx does not run the new state is tested and kept."""
        self.nginx.on_test = lambda: self.assertLessEqual(
            self.after.items(), self.laid_out().items()
        )
        outcome = self.successResultOf(self.write())
        self.assertEqual((outcome.changed, outcome.reloaded), (True, False))
        self.assertEqual(self.laid_out(), self.after)
        prefix = f"{self.layout.prefix}/"
        self.assertEqual(
            self.nginx.commands, [[NGINX, "-p", prefix, "-c", str(self.main), "-t", "-q"]]
        )
        self.assertEqual(sorted(path.read_text() for path in outcome.backups), ["old", "old a"])

    def test_taken_over(self) -> None:
        """Where it runs it is reloaded, and new workers show that it took the change."""
        self.nginx.start()
        outcome = self.successResultOf(self.write())
        self.assertTrue(outcome.reloaded)
        self.assertEqual(self.nginx.reloads, 1)
        self.assertEqual(self.laid_out(), self.after)

    def test_no_reload_wanted(self) -> None:
        """Asked to leave the running one alone it does."""
        self.nginx.start()
        outcome = self.successResultOf(self.write(reload=False))
        self.assertEqual((outcome.changed, outcome.reloaded), (True, False))
        self.assertEqual(self.nginx.reloads, 0)

    def test_unchanged(self) -> None:
        """What is so already is neither tested nor reloaded nor backed up."""
        self.nginx.start()
        self.contents = {self.main: b"old", self.home / "none": None}
        self.assertEqual(self.successResultOf(self.write()), Outcome(changed=False))
        self.assertEqual((self.nginx.commands, self.nginx.reloads), ([], 0))
        self.assertFalse((self.home.parent / "backups").exists())

    def test_refused(self) -> None:
        """What the test refuses is put back, and the running nginx never hears of it."""
        self.nginx.start()
        self.nginx.answers = [refusal("nginx: [emerg] no\n")]
        self.assertEqual(self.refused(Refused), "nginx: [emerg] no")
        self.assertFalse((self.home / "servers").exists())

    def test_refused_without_words(self) -> None:
        """A test that says nothing, or too much, or does not end, is told so."""
        for answer, words in (
            (refusal(""), "nginx -t failed and said nothing"),
            (refusal("x" * 10_000), "x" * 4000),
            (Finished(None, 15, b"", b"", True), "nginx -t was not done within 15 s"),
        ):
            self.nginx.answers = [answer]
            self.assertEqual(self.refused(Refused), words)

    def test_binary_gone(self) -> None:
        """A program that is gone by the time of the test leaves all as it was."""
        self.nginx.answers = [CommandNotFound("no executable file")]
        self.refused(NotInstalled)

    def test_not_installed(self) -> None:
        """Without a program, or any nginx, nothing is written that could not be tested."""
        for layout in (None, Layout(None, self.home, self.main)):
            self.nginx.layout = layout
            self.nginx.put = lambda *arguments, **options: self.fail("written")
            self.refused(NotInstalled)

    def test_kept_its_workers(self) -> None:
        """A reload that shows nothing has failed: files back, and the old state reloaded."""
        self.nginx.start()
        self.nginx.takes_over = False
        writing = self.write()
        self.nginx.clock.pump([0.1] * 49)
        self.assertNoResult(writing)
        self.assertNotEqual(self.laid_out(), self.before)
        self.nginx.clock.pump([0.1] * 100)
        words = self.failureResultOf(writing, Refused).getErrorMessage()
        self.assertIn("its error log says why", words)
        self.assertEqual(self.laid_out(), self.before)
        self.assertEqual(self.nginx.reloads, 2)

    def test_way_back_is_seen_through(self) -> None:
        """The next change does not begin while workers with the old state are on their way."""
        self.nginx.start()
        self.nginx.takes_over = False
        writing = self.write()
        self.nginx.clock.pump([0.1] * 60)
        self.assertEqual((self.laid_out(), self.nginx.reloads), (self.before, 2))
        self.assertNoResult(writing)
        self.nginx.running[1:] = [process(99, "nginx: worker process")]
        self.nginx.clock.pump([0.1])
        self.failureResultOf(writing, Refused)

    def test_words_of_the_error_log(self) -> None:
        """Why a reload failed is what nginx has written to its log since."""
        log = self.home.parent / "error.log"
        self.lay_out({"nginx.conf": f"error_log {log};"})
        log.write_text("1 [emerg] 1#1: long ago\n")
        self.nginx.start()
        self.nginx.takes_over = False
        self.nginx.on_reload = lambda: log.write_text(
            log.read_text() + "1 [emerg] 1#1: bind() failed\n1 [notice] 1#1: x\n" * 2
        )
        writing = self.write()
        self.nginx.clock.pump([0.1] * 200)
        words = self.failureResultOf(writing, Refused).getErrorMessage()
        self.assertEqual(words, "bind() failed")

    def test_late(self) -> None:
        """New workers may take their time."""
        self.nginx.start()
        self.nginx.takes_over = False
        writing = self.write()
        self.nginx.clock.pump([0.1] * 20)
        self.nginx.running.append(process(20, "nginx: worker process"))
        self.nginx.clock.pump([0.1])
        self.assertNoResult(writing)  # the old ones still listen
        self.nginx.running = [self.nginx.running[0], self.nginx.running[-1]]
        self.nginx.clock.pump([0.1])
        self.assertTrue(self.successResultOf(writing).reloaded)
        self.assertEqual(self.laid_out(), self.after)

    def test_old_workers_stay(self) -> None:
        """New workers beside old ones that linger count when the time is over."""
        self.nginx.start()
        self.nginx.takes_over = False
        writing = self.write()
        self.nginx.running.append(process(20, "nginx: worker process"))
        self.nginx.clock.pump([0.1] * 60)
        self.assertTrue(self.successResultOf(writing).reloaded)

    def test_one_process(self) -> None:
        """An nginx that runs as one process shows nothing, so its reload counts as done."""
        self.nginx.running = [process(10, "nginx", "-g", "master_process off;")]
        self.nginx.takes_over = False
        self.assertTrue(self.successResultOf(self.write()).reloaded)

    def test_reload_fails(self) -> None:
        """What the control raises comes through, with the files back."""
        self.nginx.start()
        for problem in (Busy("busy"), ServiceFailed("no"), Refused("no")):
            self.nginx.reload_fails = problem
            self.assertEqual(self.refused(type(problem)), str(problem))

    def test_disk_full(self) -> None:
        """A disk that is full is told, and neither a test nor a reload follows."""
        self.nginx.start()

        def put(path: Path, data: bytes, **options: Any) -> None:
            if path.name == "b.conf":
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            write_atomically(path, data, **options)

        self.nginx.put = put
        self.assertIn("b.conf cannot be written: No space left", self.refused(NotWritten))
        self.assertEqual((self.nginx.commands, self.nginx.reloads), ([], 0))

    def test_cannot_be_put_back(self) -> None:
        """If something stays, the words have both the reason and what stayed."""

        def break_it() -> None:
            (self.home / ".nginx.conf.mmw-kept").unlink()
            self.nginx.put = self.full

        self.nginx.answers = [refusal("[emerg] no")]
        self.nginx.on_test = break_it
        failure = self.failureResultOf(self.write(), NotWritten)
        self.assertIn("[emerg] no; and ", failure.getErrorMessage())
        self.assertIn("nginx.conf could not be put back", failure.getErrorMessage())
        self.assertEqual((self.home / "conf.d" / "a.conf").read_text(), "old a")

    def full(self, *arguments: Any, **options: Any) -> None:
        """Write as a full disk does."""
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    def test_one_at_a_time(self) -> None:
        """A second change waits for the first, and sees what that one has made."""
        self.nginx.start()
        self.nginx.takes_over = False
        first = self.write()
        seen: list[str] = []

        def compute(layout: Layout) -> dict[Path, bytes | None]:
            seen.append(layout.main.read_text())
            return {layout.main: b"newer"}

        second = self.nginx.apply.change(compute, reload=False)
        self.nginx.clock.pump([0.1] * 10)
        self.assertEqual(seen, [])
        self.nginx.clock.pump([0.1] * 200)
        self.failureResultOf(first, Refused)
        self.successResultOf(second)
        self.assertEqual(seen, ["old"])
        self.assertEqual(self.main.read_text(), "newer")

    def test_compute_fails(self) -> None:
        """What the computing of a change raises comes through, and the next one goes on."""

        def compute(layout: Layout) -> dict[Path, bytes | None]:
            raise ValueError("no")

        self.failureResultOf(self.nginx.apply.change(compute), ValueError)
        self.successResultOf(self.write())

    def test_nobody_waits(self) -> None:
        """When whoever asked goes away the change goes on to its end, good or bad."""
        for takes_over, state in ((True, self.after), (False, self.before)):
            for name, text in self.before.items():
                (self.home / name).write_text(text)
            (self.home / "servers" / "b.conf").unlink(missing_ok=True)
            self.nginx.start()
            self.nginx.takes_over = False
            writing = self.write()
            self.nginx.clock.pump([0.1] * 3)
            writing.cancel()
            self.failureResultOf(writing, CancelledError)
            if takes_over:
                self.nginx.running[1:] = [process(99, "nginx: worker process")]
            self.nginx.clock.pump([0.1] * 200)
            self.assertEqual(self.laid_out(), state)

    def test_check(self) -> None:
        """The files as they stand are tested for whoever wants to start nginx."""
        self.successResultOf(done(self.nginx.apply.check()))
        self.nginx.answers = [refusal("[emerg] no")]
        self.failureResultOf(done(self.nginx.apply.check()), Refused)
        self.nginx.layout = None
        self.failureResultOf(done(self.nginx.apply.check()), NotInstalled)

    def test_deadlines(self) -> None:
        """Test, reload and the way back fit into the 30 s that the master waits."""
        self.assertLess(module.TEST_DEADLINE + 2 * module.TAKEOVER_DEADLINE, 30)
        self.assertTrue(GOOD.succeeded)
