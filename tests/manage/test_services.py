"""Tests of the states of the services (README, 服务管理; protocol 1.2 row 1)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.programs import ProgramState
from mmwagent.manage.services import ServicesResource

REQUEST: Any = None  # none of these looks at it


class StatusTests(SynchronousTestCase):
    """GET /api/child/services/status."""

    def ask(self, states: Any) -> Deferred[dict[str, Any]]:
        """Ask for the states."""
        resource = ServicesResource(lambda: states)
        return Deferred.fromCoroutine(resource.status(REQUEST))

    def test_shape(self) -> None:
        """Each service stands under its name with what is known of it, success beside."""
        states = {
            "xray": ProgramState(installed=True, running=False, version="26.3.27"),
            "nginx": ProgramState(installed=True, running=True, version="1.22.1"),
        }
        self.assertEqual(
            self.successResultOf(self.ask(succeed(states))),
            {
                "success": True,
                "xray": {"installed": True, "running": False, "version": "26.3.27"},
                "nginx": {"installed": True, "running": True, "version": "1.22.1"},
            },
        )

    def test_unknown_version(self) -> None:
        """A version that is not known is empty text: the panel expects text."""
        states = {"xray": ProgramState(installed=False, running=False, version=None)}
        self.assertEqual(
            self.successResultOf(self.ask(succeed(states)))["xray"],
            {"installed": False, "running": False, "version": ""},
        )

    def test_failure_passes(self) -> None:
        """States that cannot be had are a failure, not services that are missing."""
        self.failureResultOf(self.ask(fail(OSError("no /proc"))), OSError)
