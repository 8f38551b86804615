"""Tests of the facts of the machine and of /health (README, 系统信息 and 健康检查)."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.facts import Facts
from mmwagent.manage.system import SystemResource
from mmwagent.status import Status

REQUEST: Any = None  # none of these looks at it


def system(facts: Any = None, status: Status | None = None) -> SystemResource:
    """Return the resource."""
    return SystemResource(lambda: facts, lambda: status or Status("9.8.7", "auto", "websocket"))


class InfoTests(SynchronousTestCase):
    """GET /api/child/system/info."""

    def ask(self, resource: SystemResource) -> Deferred[dict[str, Any]]:
        """Ask for the facts."""
        return Deferred.fromCoroutine(resource.info(REQUEST))

    def test_shape(self) -> None:
        """The facts come as they are, with success and the agent's version beside."""
        facts = {"hostname": "h", "memory_bytes": {"total": 1}}
        self.assertEqual(
            self.successResultOf(self.ask(system(succeed(facts)))),
            {
                "success": True,
                "hostname": "h",
                "memory_bytes": {"total": 1},
                "agent_version": "9.8.7",
            },
        )
        self.assertEqual(set(facts), {"hostname", "memory_bytes"})

    def test_real_facts(self) -> None:
        """The facts of this machine hold what the README promises, and fit into JSON."""
        answer = self.successResultOf(self.ask(system(succeed(Facts().collect()))))
        self.assertLessEqual({"os", "cpu", "memory", "disks", "success"}, set(answer))
        self.assertIs(answer["success"], True)
        self.assertEqual(json.loads(json.dumps(answer, allow_nan=False)), answer)

    def test_failure_passes(self) -> None:
        """Facts that cannot be collected are a failure, not half an answer."""
        self.failureResultOf(self.ask(system(fail(OSError("no /proc")))), OSError)


class HealthTests(SynchronousTestCase):
    """GET /health."""

    def ask(self, status: Status) -> dict[str, Any]:
        """Ask an agent in `status`."""
        resource = system(status=status)
        answer: dict[str, Any] = self.successResultOf(
            Deferred.fromCoroutine(resource.health(REQUEST))
        )
        return answer

    def test_well(self) -> None:
        """An agent that reports is ok; the mode told is the way the reports really go."""
        self.assertEqual(self.ask(Status("1", "auto", "http")), {"status": "ok", "mode": "http"})
        self.assertEqual(
            self.ask(Status("1", "auto", "websocket")), {"status": "ok", "mode": "websocket"}
        )
        self.assertEqual(self.ask(Status("1", "pull", "pull")), {"status": "ok", "mode": "pull"})

    def test_degraded(self) -> None:
        """One that reaches nobody says so."""
        self.assertEqual(
            self.ask(Status("1", "auto", "connecting")),
            {"status": "degraded", "mode": "connecting"},
        )

    def test_tells_strangers_nothing_more(self) -> None:
        """Neither the version nor the configured mode is told: anybody may ask."""
        self.assertEqual(set(self.ask(Status("1", "auto", "pull"))), {"status", "mode"})

    def test_asks_anew_each_time(self) -> None:
        """The state told is that of the moment."""
        states = iter([Status("1", "auto", "connecting"), Status("1", "auto", "websocket")])
        resource = SystemResource(lambda: succeed({}), lambda: next(states))
        told = [
            self.successResultOf(Deferred.fromCoroutine(resource.health(REQUEST)))
            for _ in range(2)
        ]
        self.assertEqual([answer["status"] for answer in told], ["degraded", "ok"])
