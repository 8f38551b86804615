"""Tests of the programs that the agent looks after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.command import CommandNotFound, CommandNotStarted, Finished
from mmwagent.host.processes import Process
from mmwagent.host.programs import (
    VERSION_DEADLINE,
    Program,
    ProgramState,
    nginx,
    xray,
)

NAME = "program-of-the-tests"  # on no machine
XRAY_SAYS = (
    b"Xray 26.3.27 (Xray, Penetrates Everything.) 1234567 (go1.26 linux/amd64)\nA unified\n"
)
NGINX_SAYS = b"nginx version: nginx/1.22.1 (Debian)\n"


def running(executable: str) -> Process:
    """Return a process of the file `executable`."""
    return Process(7, executable, (NAME,), "/", datetime(2026, 5, 1, tzinfo=UTC))


class ProgramCase(SynchronousTestCase):
    """A program "version 1.2" whose binaries are in a directory of their own."""

    def setUp(self) -> None:
        """Let it be not installed."""
        self.directory = Path(os.path.abspath(self.mktemp()))
        self.directory.mkdir()
        self.asked: list[tuple[list[str], float]] = []
        self.answer: Any = None
        self.says(b"version 1.2\n")
        self.program = Program(
            NAME, ("--tell", "-v"), r"version (\S+)", (str(self.directory),), self.run_command
        )

    def run_command(self, argv: Sequence[str], *, timeout: float) -> Deferred[Finished]:
        """Answer as it was told."""
        self.asked.append((list(argv), timeout))
        if isinstance(self.answer, Exception):
            return fail(self.answer)
        return succeed(self.answer)

    def says(self, output: bytes = b"", errors: bytes = b"", status: int | None = 0) -> None:
        """Let the program write this when it is asked."""
        timed_out = status is None
        self.answer = Finished(status, 15 if timed_out else None, output, errors, timed_out)

    def install(self, name: str = NAME, mode: int = 0o755) -> str:
        """Put a binary there and return its path."""
        path = self.directory / name
        path.write_text("#!/bin/false\n")
        path.chmod(mode)
        return str(path)

    def state(self, *processes: Process) -> ProgramState:
        """Return what is said of the program."""
        return self.successResultOf(Deferred.fromCoroutine(self.program.state(processes)))


class StateTests(ProgramCase):
    """Whether it is installed, whether it runs, and its version."""

    def test_not_installed(self) -> None:
        """A program that is not there has no version, and is not asked for one."""
        self.assertEqual(self.state(), ProgramState(False, False, None))
        self.assertEqual(self.asked, [])

    def test_installed(self) -> None:
        """A binary in one of the program's own directories is found and asked in time."""
        path = self.install()
        self.assertEqual(self.state(), ProgramState(True, False, "1.2"))
        self.assertEqual(self.asked, [([path, "--tell", "-v"], VERSION_DEADLINE)])

    def test_not_executable(self) -> None:
        """A file that cannot be executed is no binary."""
        self.install(mode=0o644)
        self.assertEqual(self.state(), ProgramState(False, False, None))

    def test_running(self) -> None:
        """Of a running program the binary that runs is asked, wherever it is."""
        self.install()
        other = self.install("elsewhere")
        self.assertEqual(self.state(running(other)), ProgramState(True, True, "1.2"))
        self.assertEqual(self.asked[0][0][0], other)

    def test_running_without_its_binary(self) -> None:
        """A process whose binary is removed runs; another binary, if there is one, is asked."""
        gone = running(str(self.directory / "gone"))
        self.assertEqual(self.state(gone), ProgramState(False, True, None))
        path = self.install()
        self.assertEqual(self.state(gone, running(path)), ProgramState(True, True, "1.2"))
        self.assertEqual(self.state(gone), ProgramState(True, True, "1.2"))
        self.assertEqual({argv[0] for argv, _ in self.asked}, {path})

    def test_installed_and_removed_later(self) -> None:
        """Each look tells what is there then."""
        path = self.install()
        self.assertTrue(self.state().installed)
        os.unlink(path)
        self.assertEqual(self.state(), ProgramState(False, False, None))


class VersionTests(ProgramCase):
    """How the version is asked for."""

    def test_asked_once(self) -> None:
        """The same binary is asked once."""
        self.install()
        for _ in range(3):
            self.assertEqual(self.state().version, "1.2")
        self.assertEqual(len(self.asked), 1)

    def test_asked_again_when_replaced(self) -> None:
        """A binary that was replaced is asked again, be its time or its size another."""
        path = self.install()
        os.utime(path, ns=(1, 1))
        self.state()
        self.says(b"version 1.3\n")
        os.utime(path, ns=(2, 2))
        self.assertEqual(self.state().version, "1.3")
        self.says(b"version 1.4\n")
        Path(path).write_text("#!/bin/false longer\n")
        os.utime(path, ns=(2, 2))
        self.assertEqual(self.state().version, "1.4")
        self.assertEqual(len(self.asked), 3)

    def test_either_output_counts(self) -> None:
        """The version is found in either output, whatever the exit status."""
        self.install()
        self.says(errors=b"\xff junk\nversion 2.0-rc1 (x)\n", status=1)
        self.assertEqual(self.state().version, "2.0-rc1")

    def test_not_told(self) -> None:
        """A binary that does not tell is installed all the same, and asked again next time."""
        self.install()
        for answer in (
            Finished(0, None, b"", b"", False),
            Finished(1, None, b"usage: ...\n", b"", False),
            Finished(None, 15, b"", b"", True),
            CommandNotFound("no executable file"),
            CommandNotStarted("cannot start: Exec format error"),
        ):
            with self.subTest(answer=answer):
                self.answer = answer
                self.assertEqual(self.state(), ProgramState(True, False, None))
        self.says(b"version 1.2\n")
        self.assertEqual(self.state().version, "1.2")
        self.assertEqual(len(self.asked), 6)

    def test_gone_in_between(self) -> None:
        """A binary that is removed while it is looked at has no version."""
        path = self.install()
        self.patch(Program, "binary", lambda *_: path)
        os.unlink(path)
        self.assertIsNone(self.state().version)
        self.assertEqual(self.asked, [])


class KnownProgramTests(ProgramCase):
    """Xray and nginx, as they answer."""

    def test_xray(self) -> None:
        """`xray version` tells the version after its name."""
        self.program = xray(self.run_command)
        self.says(XRAY_SAYS)
        path = self.install("xray")
        self.assertEqual(self.state(running(path)), ProgramState(True, True, "26.3.27"))
        self.assertEqual(self.asked[0][0], [path, "version"])
        self.assertEqual(self.program.name, "xray")

    def test_nginx(self) -> None:
        """`nginx -v` tells the version on its errors, without the distribution's word."""
        self.program = nginx(self.run_command)
        self.says(errors=NGINX_SAYS)
        path = self.install("nginx")
        self.assertEqual(self.state(running(path)), ProgramState(True, True, "1.22.1"))
        self.assertEqual(self.asked[0][0], [path, "-v"])
        self.assertIn("/usr/local/nginx/sbin", self.program.directories)
