"""Tests of `twistd mmw-agent`: its options, and the service they make."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import twisted.internet
from twisted.application.service import IService, MultiService
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, LogLevel
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from mmwagent import __version__, agent, logs, settings
from mmwagent.host.processes import BootTimeUnknown
from mmwagent.settings import Settings
from mmwagent.tap import Options, makeService

TOKEN = "the-server-token"
GOOD = f"master_server: https://master.test\nremote_token: {TOKEN}\n"


class TapTests(SynchronousTestCase):
    """What the tests share: a directory to start in, no foreign settings, and the two outputs."""

    def setUp(self) -> None:
        """Go to an empty directory."""
        self.directory = os.path.realpath(self.mktemp())
        os.mkdir(self.directory)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        self.environment: dict[str, str] = {}
        self.patch(os, "environ", self.environment)
        self.system_file = os.path.join(self.directory, "etc.yaml")
        self.patch(settings, "SYSTEM_FILE", self.system_file)
        self.levels: list[str] = []
        self.patch(logs, "set_level", self.levels.append)
        self.out, self.err = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def write(self, name: str, text: str = GOOD) -> str:
        """Write a settings file that only its owner may read; return its path."""
        path = Path(self.directory, name)
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def parse(self, *arguments: str) -> Options:
        """Parse a command line."""
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def assert_ends(self, code: int, *arguments: str) -> None:
        """Check that parsing ends the process with `code`."""
        ended = self.assertRaises(SystemExit, self.parse, *arguments)
        self.assertEqual(ended.code, code)


class ConfigTests(TapTests):
    """Where the settings come from."""

    def test_named(self) -> None:
        """The file may be named by -c and by --config, in each way an option may be written."""
        path = self.write("other.yaml", GOOD + "listen_port: 24000\n")
        for arguments in (
            ["-c", path],
            [f"-c{path}"],
            ["--config", path],
            [f"--config={path}"],
            ["-c", "other.yaml"],
        ):
            with self.subTest(arguments=arguments):
                options = self.parse(*arguments)
                self.assertEqual(options.settings.listen_port, 24000)
                self.assertEqual(options.settings.path, path)

    def test_named_one_wins(self) -> None:
        """A file that is named is read instead of those at the usual places."""
        self.write("config.yaml", GOOD + "listen_port: 24001\n")
        self.write("etc.yaml", GOOD + "listen_port: 24002\n")
        path = self.write("other.yaml", GOOD + "listen_port: 24003\n")
        self.assertEqual(self.parse("-c", path).settings.listen_port, 24003)

    def test_beside_us(self) -> None:
        """Without a name it is config.yaml in the working directory, before the one of /etc."""
        self.write("config.yaml", GOOD + "listen_port: 24001\n")
        self.write("etc.yaml", GOOD + "listen_port: 24002\n")
        self.assertEqual(self.parse().settings.listen_port, 24001)

    def test_of_the_system(self) -> None:
        """Without that one it is the one of /etc."""
        self.write("etc.yaml", GOOD + "listen_port: 24002\n")
        self.assertEqual(self.parse().settings.listen_port, 24002)
        self.assertEqual(self.parse().settings.path, self.system_file)

    def test_environment_alone(self) -> None:
        """Without any file the environment must do."""
        self.environment.update(MMWX_MASTER_URL="https://master.test", MMWX_MASTER_TOKEN=TOKEN)
        options = self.parse()
        self.assertEqual(options.settings.remote_token, TOKEN)
        self.assertIsNone(options.settings.path)

    def test_environment_over_file(self) -> None:
        """A variable that is set comes before the file."""
        self.write("config.yaml", GOOD + "listen_port: 24001\n")
        self.environment["MMWX_LISTEN_PORT"] = "24009"
        self.assertEqual(self.parse().settings.listen_port, 24009)

    def test_unknown_option(self) -> None:
        """An option that does not exist, or an argument, is a usage error of twistd's own."""
        self.write("config.yaml")
        self.assertRaises(UsageError, self.parse, "--nonsense")
        self.assertRaises(UsageError, self.parse, "argument")
        self.assertRaises(UsageError, self.parse, "-c")

    def test_help(self) -> None:
        """The help names the options and where the file is looked for."""
        text = str(Options())
        for word in ("--config", "-c", "--check-config", "--version", "/etc/mmw-agent"):
            self.assertIn(word, text)


class BadConfigTests(TapTests):
    """Settings that cannot be used."""

    def test_every_problem(self) -> None:
        """Every problem is told on stderr at once, with code 2 and nothing on stdout."""
        self.write("config.yaml", "connection_mode: fast\nlisten_port: 99999\nremote_tokn: x\n")
        self.assert_ends(2)
        told = self.err.getvalue()
        for word in ("connection_mode", "listen_port", "99999", "remote_tokn", "config.yaml"):
            self.assertIn(word, told)
        self.assertGreaterEqual(len(told.splitlines()), 3)
        self.assertNotIn("Traceback", told)
        self.assertEqual(self.out.getvalue(), "")

    def test_missing_file(self) -> None:
        """A file that was named and is not there is told by its name."""
        self.assert_ends(2, "-c", "/nowhere/mmw.yaml")
        self.assertIn("/nowhere/mmw.yaml", self.err.getvalue())

    def test_empty_name(self) -> None:
        """An empty name is no name of a file."""
        self.write("config.yaml")
        self.assert_ends(2, "--config=")

    def test_no_settings_at_all(self) -> None:
        """Without file and environment it is told what is missing, and where to set it."""
        self.assert_ends(2)
        for word in ("master_server", "remote_token", "MMWX_MASTER_URL"):
            self.assertIn(word, self.err.getvalue())

    def test_not_yaml(self) -> None:
        """What is no YAML, or no text, is told too."""
        for content in (b"a: [", b"\xff\xfe\x00", b"\t- x"):
            with self.subTest(content=content):
                self.err.truncate(0)
                Path(self.directory, "config.yaml").write_bytes(content)
                self.assert_ends(2)
                self.assertIn("config.yaml", self.err.getvalue())

    def test_tells_no_token(self) -> None:
        """Whatever is wrong, no token is shown."""
        self.write("config.yaml", f"remote_token: [{TOKEN}]\nchild_api_token: {{a: {TOKEN}}}\n")
        self.assert_ends(2)
        self.assertIn("remote_token", self.err.getvalue())
        self.assertNotIn(TOKEN, self.err.getvalue())


class CheckConfigTests(TapTests):
    """--check-config, and --version."""

    def test_good(self) -> None:
        """A good file is said to be good, by its name, with code 0."""
        path = self.write("config.yaml")
        self.assert_ends(0, "--check-config")
        self.assertEqual(self.out.getvalue(), f"{path}: the configuration is good\n")
        self.assertEqual(self.err.getvalue(), "")

    def test_environment(self) -> None:
        """Without a file it is the environment that is good."""
        self.environment.update(MMWX_MASTER_URL="https://master.test", MMWX_MASTER_TOKEN=TOKEN)
        self.assert_ends(0, "--check-config")
        self.assertEqual(self.out.getvalue(), "the environment: the configuration is good\n")

    def test_warnings(self) -> None:
        """What is only doubtful is a warning, and the file is still good."""
        self.write("config.yaml", GOOD + "zzz_unknown: 1\n")
        self.assert_ends(0, "--check-config")
        first, last = self.out.getvalue().splitlines()
        self.assertTrue(first.startswith("warning: "), first)
        self.assertIn("zzz_unknown", first)
        self.assertIn("is good", last)

    def test_bad(self) -> None:
        """A bad file ends with code 2, and is not said to be good."""
        self.write("config.yaml", "connection_mode: fast\n")
        self.assert_ends(2, "--check-config")
        self.assertNotIn("good", self.out.getvalue())
        self.assertIn("connection_mode", self.err.getvalue())

    def test_version(self) -> None:
        """--version is the agent's, not Twisted's, and needs no settings."""
        self.assert_ends(0, "--version")
        self.assertEqual(self.out.getvalue(), f"mmw-agent {__version__}\n")


class MakeServiceTests(TapTests):
    """The service."""

    def setUp(self) -> None:
        """Put a reactor in memory in the place of the global one; take note of what is built."""
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.patch(twisted.internet, "reactor", self.reactor)
        self.patch(Factory, "noisy", True)
        self.events: list[Any] = []
        self.patch(agent, "log", Logger(observer=self.events.append))
        self.built: list[Any] = []
        self.patch(agent, "build", self.build)
        self.service = MultiService()

    def build(self, settings: Settings, reactor: Any, show: Any) -> MultiService:
        """Stand in for the composition."""
        self.built.append((settings, reactor, show))
        return self.service

    def test_builds_the_agent(self) -> None:
        """It is the composition's, from the settings read and the reactor that will run."""
        self.write("config.yaml")
        options = self.parse()
        self.assertIs(makeService(options), self.service)
        [(given, reactor, _)] = self.built
        self.assertIs(given, options.settings)
        self.assertIs(reactor, self.reactor)

    def test_clock_that_nobody_can_set(self) -> None:
        """From before anything is built the reactor's time is monotonic, not the wall's."""
        self.write("config.yaml")
        seen: list[float] = []

        def build(settings: Settings, reactor: Any, show: Any) -> MultiService:
            before = time.monotonic()
            seen.extend([before, reactor.seconds(), time.monotonic()])
            return self.service

        self.patch(agent, "build", build)
        makeService(self.parse())
        self.assertEqual(seen, sorted(seen))
        self.assertEqual(len(seen), 3)

    def test_quiet_factories(self) -> None:
        """Twisted's lines for each connection that is made are off."""
        self.write("config.yaml")
        makeService(self.parse())
        self.assertIs(Factory.noisy, False)

    def test_log_level(self) -> None:
        """The level of the settings is the level of the log."""
        self.write("config.yaml", GOOD + "log_level: debug\n")
        makeService(self.parse())
        self.assertEqual(self.levels, ["debug"])

    def test_warnings_are_logged(self) -> None:
        """What is doubtful in the settings is a warning in the log, text with braces too."""
        options = Options()
        options.settings = Settings(warnings=("one {thing}", "another"))
        makeService(options)
        said = [event["log_format"].format(**event) for event in self.events]
        self.assertEqual(said, ["one {thing}", "another"])
        self.assertEqual({event["log_level"] for event in self.events}, {LogLevel.warn})

    def test_shows_on_stderr(self) -> None:
        """What a person has to see once goes to stderr, and not into the log."""
        self.write("config.yaml")
        makeService(self.parse())
        [(_, _, show)] = self.built
        show("see this")
        self.assertEqual(self.err.getvalue(), "see this\n")
        self.assertEqual((self.out.getvalue(), self.events), ("", []))

    def test_cannot_start(self) -> None:
        """What makes a start impossible is one line on stderr and code 1."""
        for problem in (
            PermissionError(13, "Permission denied", "/var/lib/mmw-agent"),
            BootTimeUnknown("no btime line in /proc/stat"),
        ):
            with self.subTest(problem=problem):
                self.write("config.yaml")
                self.err.truncate(0)
                self.err.seek(0)

                def fail(*_: Any, problem: Exception = problem) -> None:
                    raise problem

                self.patch(agent, "build", fail)
                ended = self.assertRaises(SystemExit, makeService, self.parse())
                self.assertEqual(ended.code, 1)
                self.assertEqual(self.err.getvalue(), f"mmw-agent cannot start: {problem}\n")

    def test_programming_errors_are_not_hidden(self) -> None:
        """Any other exception is ours, and is not dressed up."""
        self.write("config.yaml")

        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        self.patch(agent, "build", fail)
        self.assertRaises(ZeroDivisionError, makeService, self.parse())


class WholeTests(TapTests):
    """The same without a stand-in for the composition."""

    def test_real_agent(self) -> None:
        """A command line makes a service that can be started and stopped."""
        reactor = MemoryReactorClock()
        self.patch(twisted.internet, "reactor", reactor)
        self.patch(Factory, "noisy", True)
        self.write(
            "config.yaml",
            f"connection_mode: pull\nchild_api_token: {TOKEN}\nlisten_port: 24000\n",
        )
        service: Any = makeService(self.parse())
        self.assertTrue(IService.providedBy(service))
        service.startService()
        [(port, _, _, _)] = reactor.tcpServers
        self.assertEqual(port, 24000)
        self.successResultOf(service.stopService())
        self.assertEqual(reactor.getDelayedCalls(), [])
