"""Tests of the console command: the original's command line, run by `twistd`."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251  (the command is tried as a person would)
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import mmwagent
from mmwagent import __main__, __version__

ROOT = str(Path(mmwagent.__file__).parent.parent)
TWISTD = ["--nodaemon", "--pidfile=", "mmw-agent"]


class ArgumentsTests(SynchronousTestCase):
    """What `twistd` is given for what a person wrote."""

    def given(self, *arguments: str) -> list[str]:
        """Return the command line that `twistd` sees."""
        seen: list[list[str]] = []
        self.patch(sys, "argv", ["/usr/bin/mmw-agent", *arguments])
        self.patch(__main__, "run", lambda: seen.append(list(sys.argv)))
        __main__.main()
        [[program, *rest]] = seen
        self.assertEqual(program, "/usr/bin/mmw-agent")
        return rest

    def test_plain(self) -> None:
        """It stays in the foreground and writes no file of its process number."""
        self.assertEqual(self.given(), TWISTD)

    def test_passed_on(self) -> None:
        """Options are the agent's own, passed on as they are."""
        for arguments in (["-c", "x"], ["--config=x", "--check-config"], ["--version"], ["-cx"]):
            with self.subTest(arguments=arguments):
                self.assertEqual(self.given(*arguments), [*TWISTD, *arguments])

    def test_one_dash(self) -> None:
        """The original's -config, with its value beside it or behind it, is understood."""
        self.assertEqual(self.given("-config", "x"), [*TWISTD, "--config", "x"])
        self.assertEqual(self.given("-config=x"), [*TWISTD, "--config=x"])
        self.assertEqual(self.given("-config=a=b"), [*TWISTD, "--config=a=b"])

    def test_only_that(self) -> None:
        """What merely looks like it is left alone."""
        for argument in ("-configuration", "config", "-c=-config", "-conf"):
            with self.subTest(argument=argument):
                self.assertEqual(self.given(argument), [*TWISTD, argument])


class CommandTests(SynchronousTestCase):
    """The command as a process."""

    def run_agent(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it in an empty directory, without settings of this machine."""
        directory = self.mktemp()
        os.mkdir(directory)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MMWX_")
        }
        environment["PYTHONPATH"] = ROOT
        return subprocess.run(
            [sys.executable, "-m", "mmwagent", *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def settings(self, text: str) -> str:
        """Write a settings file and return its path."""
        path = Path(self.mktemp()).absolute()
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def test_bad_settings(self) -> None:
        """Bad settings end it with code 2, each problem on stderr and no traceback."""
        path = self.settings("connection_mode: fast\nlisten_port: 99999\n")
        ended = self.run_agent("-config", path)
        self.assertEqual(ended.returncode, 2, ended)
        self.assertIn("connection_mode", ended.stderr)
        self.assertIn("listen_port", ended.stderr)
        self.assertNotIn("Traceback", ended.stderr + ended.stdout)

    def test_check_config(self) -> None:
        """--check-config ends it with code 0 where the settings are good."""
        path = self.settings("connection_mode: pull\n")
        ended = self.run_agent(f"-config={path}", "--check-config")
        self.assertEqual(ended.returncode, 0, ended)
        self.assertEqual(ended.stdout, f"{path}: the configuration is good\n")

    def test_cannot_start(self) -> None:
        """A state directory that cannot be made ends it with code 1 and one line."""
        taken = self.settings("a file")
        path = self.settings(f"connection_mode: pull\nstate_directory: {taken}/state\n")
        ended = self.run_agent("-c", path)
        self.assertEqual(ended.returncode, 1, ended)
        self.assertIn("mmw-agent cannot start:", ended.stderr)
        self.assertIn(taken, ended.stderr)
        self.assertNotIn("Traceback", ended.stderr + ended.stdout)

    def test_version(self) -> None:
        """--version tells the agent's version."""
        ended = self.run_agent("--version")
        self.assertEqual((ended.returncode, ended.stdout), (0, f"mmw-agent {__version__}\n"))
