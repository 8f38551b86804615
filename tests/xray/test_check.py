"""Tests of asking Xray whether it would start with a configuration."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.command import CommandNotFound, CommandNotStarted, Finished
from mmwagent.host.processes import Process
from mmwagent.host.programs import Program, xray
from mmwagent.host.service import NotInstalled, Refused
from mmwagent.xray.check import XrayCheck, without_missing, words_of
from mmwagent.xray.inspection import XrayNow

GOOD = Finished(0, None, b"Xray 26.3.27\nConfiguration OK.\n", b"", False)


def finished(output: str, status: int | None = 23, **others: Any) -> Finished:
    """Return the end of a check that failed."""
    values = {"signal": None, "errors": b"", "timed_out": False, **others}
    return Finished(status=status, output=output.encode(), **values)


class CheckTests(SynchronousTestCase):
    """Xray is asked with the configuration on its input."""

    def setUp(self) -> None:
        """Have an Xray that takes everything."""
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.binary = self.directory / "xray"
        self.binary.touch(0o755)
        self.calls: list[tuple[list[str], dict[str, Any]]] = []
        self.answers: list[Any] = []
        self.processes: tuple[Process, ...] = ()
        self.check = XrayCheck(self.program(self.directory), self.run_, self.inspect, execute)

    def program(self, directory: Path) -> Program:
        """Return an Xray that is looked for in `directory` alone."""
        program = xray(self.run_)
        program.directories = [str(directory)]
        self.patch(os, "environ", {"PATH": "/nowhere", "MMWX_MASTER_TOKEN": "secret"})
        return program

    async def inspect(self) -> XrayNow:
        """Tell the processes of the test."""
        return XrayNow((), self.processes)

    def run_(self, argv: Sequence[str], **keywords: Any) -> Deferred[Finished]:
        """Record a command and answer it."""
        self.calls.append((list(argv), keywords))
        answer = self.answers.pop(0) if self.answers else GOOD
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def ask(self, text: str = "{}", may_follow: bool = False) -> Deferred[tuple[str, ...]]:
        """Have a text checked."""
        path = self.directory / "config.json"
        return Deferred.fromCoroutine(
            self.check.check(path, text, certificates_may_follow=may_follow)
        )

    def refused(self, *arguments: Any) -> str:
        """Return why a text is refused."""
        return str(self.failureResultOf(self.ask(*arguments), Refused).value)

    def test_asked(self) -> None:
        """It is asked once, where the configuration lies, by a pipe and with a deadline."""
        self.assertEqual(self.successResultOf(self.ask('{"妙": 1}')), ())
        [(argv, keywords)] = self.calls
        self.assertEqual(
            argv[3:],
            [
                str(self.directory),
                str(self.binary),
                *("run", "-test", "-format", "json", "-config", "stdin:"),
            ],
        )
        self.assertEqual(keywords["stdin"], '{"妙": 1}'.encode())
        self.assertLessEqual(keywords["timeout"], 10)

    def test_no_tokens_for_it(self) -> None:
        """The agent's own variables are not handed on."""
        self.successResultOf(self.ask())
        self.assertEqual(self.calls[0][1]["env"], {"PATH": "/nowhere"})

    def test_the_one_that_runs(self) -> None:
        """The Xray that runs is asked, in its own directory."""
        binary = self.directory / "bin" / "xray"
        binary.parent.mkdir()
        binary.touch(0o755)
        self.processes = (
            Process(-1, str(binary), ("xray",), "/srv", datetime.fromtimestamp(0, UTC)),
        )
        self.successResultOf(self.ask())
        self.assertEqual(self.calls[0][0][3:5], ["/srv", str(binary)])

    def test_refused(self) -> None:
        """What it refuses is refused in its words, without what it says each time."""
        self.answers = [finished("Xray 26\n[Info] reading\nFailed to start: main: no good > x\n")]
        self.assertEqual(self.refused(), "main: no good > x")

    def test_not_installed(self) -> None:
        """Where there is no Xray nobody can check it; nor where it cannot be started."""
        self.binary.unlink()
        self.failureResultOf(self.ask(), NotInstalled)
        self.assertEqual(self.calls, [])
        self.binary.touch(0o755)
        for problem in (CommandNotFound("no file"), CommandNotStarted("no memory")):
            self.answers = [problem]
            failure = self.failureResultOf(self.ask(), NotInstalled)
            self.assertIn(str(problem), failure.getErrorMessage())

    def test_certificates_that_follow(self) -> None:
        """Certificates that are not there yet are left out of a second check, and told."""
        text = json.dumps({"certificates": [{"certificateFile": "/no/c.pem", "keyFile": "no.k"}]})
        self.answers = [finished("Failed to start: no such file")]
        self.assertEqual(self.successResultOf(self.ask(text, True)), ("/no/c.pem", "no.k"))
        self.assertEqual(json.loads(self.calls[1][1]["stdin"]), {"certificates": []})

    def test_certificates_that_may_not_follow(self) -> None:
        """Else a missing certificate is a reason like any other."""
        text = json.dumps({"certificates": [{"certificateFile": "/no/c.pem"}]})
        self.answers = [finished("Failed to start: no such file")]
        self.assertEqual(self.refused(text), "no such file")
        self.assertEqual(len(self.calls), 1)

    def test_wrong_in_another_way(self) -> None:
        """What is wrong without the certificates is refused, for that reason."""
        self.answers = [finished("Failed to start: a"), finished("Failed to start: b")]
        text = json.dumps({"certificates": [{"certificateFile": "/no/c.pem"}]})
        self.assertEqual(self.refused(text, True), "b")
        self.answers = [finished("Failed to start: c")]
        self.assertEqual(self.refused("{}", True), "c")
        self.assertEqual(len(self.calls), 3)

    def test_certificates_that_are_there(self) -> None:
        """Certificates that are there are no excuse: beside Xray, or where it is told to look."""
        text = json.dumps({"certificates": [{"certificateFile": "c.pem", "keyFile": ""}]})
        elsewhere = self.directory / "certificates"
        elsewhere.mkdir()
        for environment, directory in (
            ({}, self.directory),
            ({"XRAY_LOCATION_CERT": str(elsewhere)}, elsewhere),
            ({"xray.location.cert": str(elsewhere)}, elsewhere),
        ):
            with self.subTest(environment=environment):
                self.patch(os, "environ", {"PATH": "/nowhere", **environment})
                self.answers = [finished("Failed to start: a")]
                self.assertEqual(self.successResultOf(self.ask(text, True)), ("c.pem",))
                (directory / "c.pem").touch()
                self.answers = [finished("Failed to start: a")]
                self.assertEqual(self.refused(text, True), "a")
                (directory / "c.pem").unlink()


class WordsTests(SynchronousTestCase):
    """Why Xray ended."""

    def test_its_own(self) -> None:
        """Its reason is looked for in both of its outputs; without one its last line counts."""
        for output, errors, words in (
            ("Failed to start: a\nmore\n", b"", "a"),
            ("x\n", b"Failed to start: b", "b"),
            ("Xray 1\nflag provided but not defined\n\n", b"", "flag provided but not defined"),
            ("\xff", b"panic: \xff", "panic: \ufffd"),
        ):
            self.assertEqual(words_of(finished(output, errors=errors)), words)

    def test_none(self) -> None:
        """Where it said nothing, how it ended is told; and that it took too long."""
        killed = finished("", None, signal=int(signal.SIGKILL))
        self.assertIn("signal 9", words_of(killed))
        self.assertIn("within 10 s", words_of(finished("x", None, timed_out=True)))

    def test_long(self) -> None:
        """There is an end to what is told."""
        self.assertEqual(len(words_of(finished("Failed to start: " + "x" * 100_000))), 2000)


class WithoutMissingTests(SynchronousTestCase):
    """The certificates whose files are missing."""

    def setUp(self) -> None:
        """Have one certificate."""
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        for name in ("c.pem", "k.pem"):
            Path(self.directory, name).touch()

    def missing(self, *certificates: Any) -> tuple[Any, list[str]]:
        """Return the certificates that are left, and the files that are missing."""
        document = {"inbounds": [{"tls": {"certificates": [*certificates], "x": 1.50}}]}
        text, missing = without_missing(json.dumps(document), self.directory)
        tls = json.loads(text)["inbounds"][0]["tls"]
        self.assertEqual(tls["x"], 1.5)
        return tls["certificates"], missing

    def test_left(self) -> None:
        """One that is there, or stands in the configuration itself, stays."""
        there = {"certificateFile": "c.pem", "keyFile": f"{os.path.abspath(self.directory)}/k.pem"}
        within = {"certificate": ["c"], "key": ["k"]}
        for one in (there, within, {"certificateFile": 1}, "junk", {"certificateFile": "a\0b"}):
            self.assertEqual(self.missing(one), ([one], []))

    def test_gone(self) -> None:
        """One of which either file is missing goes; each file is told once."""
        one, two = {"certificateFile": "c.pem", "keyFile": "n"}, {"certificateFile": "n"}
        self.assertEqual(self.missing(one, {"key": []}, two), ([{"key": []}], ["n"]))

    def test_no_configuration(self) -> None:
        """What is no configuration is given back as it is."""
        self.assertEqual(without_missing("[", "/"), ("[", []))
