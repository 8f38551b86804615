"""Tests of the services of OpenRC: its answers in memory, its command lines by a script."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from twisted.internet import reactor  # noqa: TID251  (for the test with real processes)
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mmwagent.host import command
from mmwagent.host.openrc import OpenRC
from mmwagent.host.service import ServiceFailed, ServiceState
from tests.host.commands import Commands, ended


class OpenRCCase(SynchronousTestCase):
    """An OpenRC in memory."""

    def setUp(self) -> None:
        """Let a service be started."""
        self.commands = Commands(
            {
                "--exists": ended(),
                " status": ended(" * status: started\n"),
                "xray restart": ended(),
                "xray start": ended(),
                "xray stop": ended(),
            }
        )
        self.openrc = OpenRC(self.commands)

    def state(self) -> ServiceState:
        """Return its state."""
        return self.successResultOf(Deferred.fromCoroutine(self.openrc.state("xray")))

    def control(self, action: str) -> Deferred[None]:
        """Do `action`."""
        return Deferred.fromCoroutine(self.openrc.control("xray", action))


class StateTests(OpenRCCase):
    """How `rc-service … status` is understood."""

    def test_started(self) -> None:
        """Status 0 is a service that runs; its process is not known."""
        self.assertEqual(self.state(), ServiceState(True, None, "status: started"))

    def test_others(self) -> None:
        """Any other status is one that does not run; starting and stopping pass."""
        for status, words, changing in (
            (3, "stopped", False),
            (32, "crashed", False),
            (8, "starting", True),
            (4, "stopping", True),
        ):
            self.commands.answers[" status"] = ended(f" * status: {words}\n", status=status)
            self.assertEqual(
                self.state(), ServiceState(False, None, f"status: {words}", changing=changing)
            )

    def test_colours(self) -> None:
        """Colours are no part of the words."""
        self.commands.answers[" status"] = ended(
            " \x1b[32;01m*\x1b[0m status: crashed\n", status=32
        )
        self.assertEqual(self.state().detail, "status: crashed")

    def test_no_words(self) -> None:
        """A script that says nothing is told by its status."""
        self.commands.answers[" status"] = ended(status=3)
        self.assertEqual(self.state().detail, "status 3")

    def test_unknown(self) -> None:
        """A service without a script is not known."""
        self.commands.answers["--exists"] = ended(status=1)
        self.assertEqual(
            self.state(), ServiceState(False, None, "no such service script", known=False)
        )

    def test_unreachable(self) -> None:
        """A script that hangs, or an rc-service that is gone, is a failure with words."""
        late = ended(status=None, timed_out=True)
        for part in ("--exists", " status"):
            self.setUp()
            self.commands.answers[part] = late
            state = Deferred.fromCoroutine(self.openrc.state("xray"))
            self.assertIn("within 5 s", str(self.failureResultOf(state, ServiceFailed).value))
        self.commands.answers.clear()
        self.failureResultOf(Deferred.fromCoroutine(self.openrc.state("xray")), ServiceFailed)


class ControlTests(OpenRCCase):
    """Starting and stopping."""

    def test_done(self) -> None:
        """Each action is one call of the script."""
        for action in ("stop", "restart", "start"):
            self.successResultOf(self.control(action))
            self.assertEqual(self.commands.ran[-1], f"rc-service --nocolor xray {action}")

    def test_crashed(self) -> None:
        """A crashed service is restarted where it was to be started: it counts as started."""
        self.commands.answers[" status"] = ended(status=32)
        self.successResultOf(self.control("start"))
        self.assertEqual(self.commands.ran[-1], "rc-service --nocolor xray restart")

    def test_refused(self) -> None:
        """What the script says is told."""
        self.commands.answers["xray stop"] = ended(" * ERROR: xray failed\n", status=1)
        failed = self.failureResultOf(self.control("stop"), ServiceFailed)
        self.assertIn("status 1: * ERROR: xray failed", str(failed.value))

    def test_no_lines(self) -> None:
        """Its services' last lines cannot be had."""
        lines = Deferred.fromCoroutine(self.openrc.last_lines("xray"))
        self.assertEqual(self.successResultOf(lines), [])
        self.assertEqual(self.openrc.name, "OpenRC")


RC_SERVICE = """#!/bin/sh
case "$*" in
    "--exists xray") ;;
    "--exists "*) exit 1 ;;
    "--nocolor xray status")
        [ -e "{started}" ] && {{ echo " * status: started"; exit 0; }}
        echo " * status: stopped"; exit 3 ;;
    "--nocolor xray start") : >"{started}" ;;
    "--nocolor xray stop") rm -f "{started}" ;;
    *) echo "what is $*?" >&2; exit 64 ;;
esac
"""


class ScriptTests(TestCase):
    """Real processes: an `rc-service` of our own, first in PATH."""

    def test_life(self) -> Deferred[None]:
        """A service is started and stopped; another is not known."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        script = directory / "rc-service"
        script.write_text(RC_SERVICE.format(started=directory / "started"))
        script.chmod(0o755)
        self.patch(os, "environ", {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"})
        return Deferred.fromCoroutine(self.live(OpenRC(partial(command.run, reactor))))

    async def live(self, openrc: OpenRC) -> None:
        """Start and stop it."""
        await openrc.control("xray", "start")
        self.assertEqual(await openrc.state("xray"), ServiceState(True, None, "status: started"))
        await openrc.control("xray", "stop")
        self.assertEqual(await openrc.state("xray"), ServiceState(False, None, "status: stopped"))
        self.assertFalse((await openrc.state("nginx")).known)
