"""Tests of the services of systemd: its answers in memory, its command lines by a script."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor  # noqa: TID251  (for the tests with real processes)
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mmwagent.host import command
from mmwagent.host.service import JOB_DEADLINE, ServiceFailed, ServiceState
from mmwagent.host.systemd import Systemd
from tests.host.commands import Commands, ended


def shown(**properties: object) -> str:
    """Return what `systemctl show` prints of a unit that runs, but for these properties."""
    whole = {
        "MainPID": 7,
        "NRestarts": 0,
        "Result": "success",
        "ExecMainStatus": 0,
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        **properties,
    }
    return "".join(f"{name}={value}\n" for name, value in whole.items())


class SystemdCase(SynchronousTestCase):
    """A systemd in memory."""

    def setUp(self) -> None:
        """Let a unit run, and all succeed."""
        self.commands = Commands(
            {
                " show ": ended(shown()),
                " reset-failed ": ended(),
                " start ": ended(),
                " stop ": ended(),
                " restart ": ended(),
                " reload ": ended(),
            }
        )
        self.systemd = Systemd(self.commands)

    def state(self, **properties: object) -> ServiceState:
        """Return the state of a unit with these properties."""
        self.commands.answers[" show "] = ended(shown(**properties))
        return self.successResultOf(Deferred.fromCoroutine(self.systemd.state("xray")))

    def control(self, action: str) -> Deferred[None]:
        """Do `action`."""
        return Deferred.fromCoroutine(self.systemd.control("xray", action))

    def refused(self, action: str) -> str:
        """Return why `action` failed."""
        return str(self.failureResultOf(self.control(action), ServiceFailed).value)


class StateTests(SystemdCase):
    """How `systemctl show` is understood."""

    def test_running(self) -> None:
        """A unit that runs is active, with its main process."""
        self.assertEqual(self.state(), ServiceState(True, 7, "active (running)"))

    def test_reloading(self) -> None:
        """A unit that reloads runs."""
        self.assertTrue(self.state(ActiveState="reloading", SubState="reload").active)

    def test_exited(self) -> None:
        """A unit that is active though its process has ended does not run."""
        state = self.state(SubState="exited", MainPID=0)
        self.assertEqual(state, ServiceState(False, None, "active (exited)"))

    def test_stopped(self) -> None:
        """A unit that nobody started does not run."""
        state = self.state(ActiveState="inactive", SubState="dead", MainPID=0)
        self.assertEqual(state, ServiceState(False, None, "inactive (dead)"))

    def test_failed(self) -> None:
        """Of a unit that failed it is told how, and how often systemd tried."""
        state = self.state(
            ActiveState="failed",
            SubState="failed",
            MainPID=0,
            Result="exit-code",
            ExecMainStatus=23,
            NRestarts=4,
        )
        self.assertEqual(
            state,
            ServiceState(
                False, None, "failed (exit-code, status 23), restarted by systemd 4 times"
            ),
        )

    def test_on_its_way(self) -> None:
        """A unit that systemd is about to start again, or to stop, is changing, not active."""
        for active in ("activating", "deactivating"):
            state = self.state(ActiveState=active, SubState="x")
            self.assertEqual((state.active, state.changing), (False, True), active)

    def test_unknown(self) -> None:
        """A unit that systemd has never heard of is not known."""
        state = self.state(LoadState="not-found", ActiveState="inactive", MainPID=0)
        self.assertEqual(state, ServiceState(False, None, "no such unit", known=False))

    def test_old_systemd(self) -> None:
        """A systemd that does not know all the properties is understood as well."""
        self.commands.answers[" show "] = ended("MainPID=\nActiveState=active\nSubState=running\n")
        state = self.successResultOf(Deferred.fromCoroutine(self.systemd.state("xray")))
        self.assertEqual(state, ServiceState(True, None, "active (running)"))

    def test_unreachable(self) -> None:
        """Where systemd cannot be asked, or does not answer, that is said, not made up."""
        for answer, words in (
            (ended(status=1, errors="Failed to connect to bus: No such file\n"), "Failed to conn"),
            (ended(status=None, timed_out=True), "not done within 5 s"),
            (command.CommandNotFound("no executable file 'systemctl'"), "no executable file"),
            (command.CommandNotStarted("cannot start it: EAGAIN"), "cannot start it"),
        ):
            self.commands.answers[" show "] = answer
            state = Deferred.fromCoroutine(self.systemd.state("xray"))
            self.assertIn(words, str(self.failureResultOf(state, ServiceFailed).value))

    def test_name(self) -> None:
        """It says what it is."""
        self.assertEqual(self.systemd.name, "systemd")


class ControlTests(SystemdCase):
    """Starting and stopping."""

    def test_done(self) -> None:
        """Each action is one job, with time enough, ended when systemctl is."""
        for action in ("start", "stop", "restart", "reload"):
            self.commands.ran.clear()
            running: Deferred[Any] = Deferred()
            self.commands.answers[f" {action} "] = running
            done = self.control(action)
            self.assertNoResult(done)
            running.callback(ended())
            self.successResultOf(done)
            self.assertEqual(
                self.commands.ran[-1], f"systemctl --no-ask-password {action} -- xray.service"
            )
            self.assertEqual(self.commands.timeouts[-1], JOB_DEADLINE)
            self.assertNotIn("systemctl reset-failed -- xray.service", self.commands.ran)

    def test_forgiven(self) -> None:
        """A unit that failed is forgiven before it is started, not before it is stopped."""
        self.commands.answers[" show "] = ended(shown(ActiveState="failed"))
        for action, expected in (("start", True), ("restart", True), ("stop", False)):
            self.commands.ran.clear()
            self.successResultOf(self.control(action))
            forgiven = "systemctl reset-failed -- xray.service" in self.commands.ran
            self.assertEqual(forgiven, expected, action)

    def test_started_too_often(self) -> None:
        """A start that systemd refuses for being one too many is tried again, forgiven."""
        self.commands.answers[" show "] = [
            ended(shown()),
            ended(shown(ActiveState="failed", Result="start-limit-hit")),
        ]
        self.commands.answers[" restart "] = [ended(status=1, errors="too often"), ended()]
        self.successResultOf(self.control("restart"))
        self.assertEqual(
            [line.split(" -")[0] for line in self.commands.ran],
            [f"systemctl{verb}" for verb in (" show", "", " show", " reset-failed", "")],
        )

    def test_not_tried_again(self) -> None:
        """A start that fails for another reason is not tried again; systemctl's words are told."""
        self.commands.answers[" start "] = ended(status=1, errors="Unit xray.service is masked.\n")
        self.assertEqual(
            self.refused("start"),
            "`systemctl start xray` ended with status 1: Unit xray.service is masked.",
        )
        self.assertEqual(sum(" start " in line for line in self.commands.ran), 1)

    def test_too_often_still(self) -> None:
        """It is tried once again, not for ever."""
        self.commands.answers[" show "] = ended(shown(Result="start-limit-hit"))
        self.commands.answers[" start "] = ended(status=1, errors="too often")
        self.assertIn("too often", self.refused("start"))
        self.assertEqual(sum(" start " in line for line in self.commands.ran), 2)

    def test_late(self) -> None:
        """A job that takes too long is told as that."""
        self.commands.answers[" stop "] = ended(status=None, timed_out=True)
        self.assertEqual(self.refused("stop"), "`systemctl stop xray` was not done within 20 s")

    def test_silent_failure(self) -> None:
        """A failure without a word is told with its status."""
        self.commands.answers[" stop "] = ended(status=4)
        self.assertIn("status 4: it said nothing", self.refused("stop"))


class LastLinesTests(SystemdCase):
    """What a service wrote."""

    def lines(self, answer: Any, count: int = 20) -> list[str]:
        """Return the last lines where journalctl ends so."""
        self.commands.answers["journalctl"] = answer
        return self.successResultOf(Deferred.fromCoroutine(self.systemd.last_lines("xray", count)))

    def test_lines(self) -> None:
        """The lines of the unit, bare, and no more than asked for."""
        self.assertEqual(self.lines(ended("one\ntwo\nthree\n"), 2), ["two", "three"])
        self.assertIn("--unit=xray.service --since=-60s --lines=2", self.commands.ran[0])

    def test_none(self) -> None:
        """Where the journal cannot be read there are no lines, and no failure."""
        self.assertEqual(self.lines(command.CommandNotFound("no journalctl")), [])
        self.assertEqual(self.lines(ended(status=1, errors="no journal")), [])


# It keeps the state of a unit in a file, and refuses what it has not learned.
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"{log}"
case "$*" in
    "show --property="*" -- xray.service")
        read -r state <"{state}"
        printf 'ActiveState=%s\\nSubState=x\\nMainPID=5\\nLoadState=loaded\\n' "$state" ;;
    "--no-ask-password start -- xray.service") echo active >"{state}" ;;
    "--no-ask-password stop -- xray.service") echo inactive >"{state}" ;;
    "reset-failed -- xray.service") echo inactive >"{state}" ;;
    *) echo "what is $*?" >&2; exit 64 ;;
esac
"""


class ScriptTests(TestCase):
    """Real processes: a `systemctl` of our own, first in PATH."""

    def setUp(self) -> None:
        """Install it."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.log, self.unit = directory / "log", directory / "state"
        self.unit.write_text("failed\n")
        script = directory / "systemctl"
        script.write_text(SYSTEMCTL.format(log=self.log, state=self.unit))
        script.chmod(0o755)
        self.patch(os, "environ", {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"})
        self.systemd = Systemd(partial(command.run, reactor))

    def test_life(self) -> Deferred[None]:
        """A unit that failed is forgiven, started and stopped, by command lines as documented."""
        return Deferred.fromCoroutine(self.live())

    async def live(self) -> None:
        """Start and stop it."""
        await self.systemd.control("xray", "start")
        self.assertTrue((await self.systemd.state("xray")).active)
        await self.systemd.control("xray", "stop")
        self.assertFalse((await self.systemd.state("xray")).active)
        verbs = [line.replace("--no-ask-password ", "").split()[0] for line in self.lines()]
        self.assertEqual(verbs, ["show", "reset-failed", "start", "show", "stop", "show"])

    def lines(self) -> list[str]:
        """Return how systemctl was called."""
        return self.log.read_text().splitlines()

    def test_words(self) -> Deferred[None]:
        """What systemctl refuses is told in its words."""
        return Deferred.fromCoroutine(self.refuse())

    async def refuse(self) -> None:
        """Ask for what it has not learned."""
        try:
            await self.systemd.control("xray", "reload")
        except ServiceFailed as failed:
            self.assertIn("what is --no-ask-password reload -- xray.service?", str(failed))
        else:
            self.fail("nothing was raised")
