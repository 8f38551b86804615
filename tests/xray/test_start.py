"""Tests of how Xray is started and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.command import CommandNotFound, Finished
from mmwagent.host.launching import Launch
from mmwagent.host.processes import Process
from mmwagent.host.programs import Program
from mmwagent.host.service import NotInstalled, Refused
from mmwagent.xray.discovery import Discovery
from mmwagent.xray.inspection import Inspection
from mmwagent.xray.start import XrayStart

BEGAN = datetime(2026, 5, 1, tzinfo=UTC)


def inline(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """Do at once what is for a thread."""
    return succeed(function(*arguments))


class StartTests(SynchronousTestCase):
    """A machine with an Xray in a directory of the test."""

    def setUp(self) -> None:
        """Install Xray with one configuration; it does not run."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.config = self.directory / "config.json"
        self.config.write_text("{}")
        self.binary = self.directory / "xray-of-the-tests"
        self.binary.write_text("")
        self.binary.chmod(0o755)
        self.processes: list[Process] = []
        self.answer: Finished | Exception = Finished(0, None, b"", b"", False)
        self.ran: list[tuple[list[str], dict[str, str]]] = []
        paths = (str(self.directory / "missing.json"), str(self.config))
        self.start = XrayStart(
            Program(self.binary.name, (), "", (str(self.directory),), self.run_command),
            Inspection(Discovery(paths), self),  # type: ignore[arg-type]
            self.run_command,
            inline,
            self.directory,
        )

    def named(self, name: str) -> list[Process]:
        """Return the processes that run."""
        return self.processes

    def run_command(
        self, argv: Sequence[str], *, timeout: float, env: dict[str, str]
    ) -> Deferred[Finished]:
        """Answer as it was told."""
        self.ran.append((list(argv), env))
        return fail(self.answer) if isinstance(self.answer, Exception) else succeed(self.answer)

    def runs(self, *arguments: str) -> None:
        """Let Xray run with these arguments."""
        process = Process(7, str(self.binary), ("xray", *arguments), str(self.directory), BEGAN)
        self.processes = [process]

    def launch(self) -> Launch | None:
        """Return how it is started."""
        return self.successResultOf(Deferred.fromCoroutine(self.start.launch()))

    def check(self) -> Deferred[None]:
        """Check it."""
        return Deferred.fromCoroutine(self.start.check())

    def test_launch_of_a_running_one(self) -> None:
        """It is started as it runs."""
        self.runs("run", "-c", "config.json")
        self.assertEqual(
            self.launch(),
            Launch((str(self.binary), "run", "-c", "config.json"), str(self.directory)),
        )

    def test_first_launch(self) -> None:
        """It is started with the first configuration that is there, be it no JSON."""
        self.config.write_text("{ no JSON")
        expected = (str(self.binary), "run", "-config", str(self.config))
        self.assertEqual(self.launch(), Launch(expected, str(self.directory)))

    def test_no_launch(self) -> None:
        """Without a program, or without a configuration, there is no way to start it."""
        self.config.rename(self.directory / "away")
        self.assertIsNone(self.launch())
        self.successResultOf(self.check())
        (self.directory / "away").rename(self.config)
        self.binary.unlink()
        self.assertIsNone(self.launch())
        self.assertEqual(self.ran, [])

    def test_checked_as_it_runs(self) -> None:
        """It is checked with the arguments, the directory and the environment it runs with."""
        (self.directory / "7").mkdir()
        (self.directory / "7" / "environ").write_bytes(b"XRAY_LOCATION_ASSET=/geo\0PATH=/b\0")
        for arguments in (("run", "-c", "config.json"), ("-c", "config.json")):
            self.ran.clear()
            self.runs(*arguments)
            self.successResultOf(self.check())
            [(argv, env)] = self.ran
            self.assertEqual(argv[:2], ["/bin/sh", "-c"])
            self.assertEqual(
                argv[3:],
                [str(self.directory), str(self.binary), "run", "-test", "-c", "config.json"],
            )
            self.assertEqual(env, {"XRAY_LOCATION_ASSET": "/geo", "PATH": "/b"})

    def test_refused(self) -> None:
        """What it refuses is told in its words."""
        said = b"Xray 26.3.27\nFailed to start: main: failed to load config files: [x] > bad\n"
        self.answer = Finished(23, None, said, b"", False)
        failed = self.failureResultOf(self.check(), Refused)
        self.assertEqual(str(failed.value), "main: failed to load config files: [x] > bad")

    def test_cannot_be_asked(self) -> None:
        """An Xray that cannot be started for the check is as good as none."""
        self.answer = CommandNotFound("no executable file")
        self.failureResultOf(self.check(), NotInstalled)
