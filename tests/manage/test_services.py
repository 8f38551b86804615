"""Tests of the states of the services, and of control (README, 服务管理; protocol 1.2)."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.test.requesthelper import DummyChannel

from mmwagent.host.programs import ProgramState
from mmwagent.host.services import Busy, NotInstalled, Refused, ServiceFailed
from mmwagent.manage.errors import ApiError
from mmwagent.manage.services import ControlResource, ServicesResource

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


class ControlTests(SynchronousTestCase):
    """POST /api/child/services/control."""

    def setUp(self) -> None:
        """Let all succeed."""
        self.acted: list[tuple[str, str]] = []
        self.problem: Exception | None = None
        self.resource = ControlResource(self.act)

    async def act(self, service: str, action: str) -> None:
        """Note what is to be done."""
        self.acted.append((service, action))
        if self.problem is not None:
            raise self.problem

    def post(self, body: Any) -> Deferred[dict[str, Any]]:
        """Send `body`, text as it is."""
        request: Any = Request(DummyChannel(), False)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.content = BytesIO(text)
        return Deferred.fromCoroutine(self.resource.control(request))

    def refused(self, body: Any) -> tuple[int, str]:
        """Return status and words of an answer to `body` that is an error."""
        error = self.failureResultOf(self.post(body), ApiError).value
        return error.status, error.error

    def test_each(self) -> None:
        """Each action on each service is done and told."""
        for service in ("xray", "nginx"):
            for action, past in (
                ("start", "started"),
                ("stop", "stopped"),
                ("restart", "restarted"),
            ):
                self.acted.clear()
                answer = self.successResultOf(self.post({"service": service, "action": action}))
                self.assertEqual(self.acted, [(service, action)])
                self.assertEqual(
                    answer,
                    {
                        "success": True,
                        "service": service,
                        "action": action,
                        "message": f"{service} {past}",
                    },
                )

    def test_other_fields(self) -> None:
        """Fields beside them are ignored, as everywhere."""
        body = {"service": "xray", "action": "stop", "more": 1}
        self.assertTrue(self.successResultOf(self.post(body))["success"])

    @given(
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()),
        st.sampled_from(["service", "action"]),
    )
    def test_bad_value(self, value: Any, name: str) -> None:
        """Any other value is refused by the name of its field, and nothing is done."""
        assume(value not in ("xray", "nginx", "start", "stop", "restart"))
        self.acted.clear()
        status, words = self.refused({"service": "xray", "action": "stop", name: value})
        self.assertEqual(status, 400)
        self.assertIn(f"{name} must be one of", words)
        self.assertEqual(self.acted, [])

    def test_reload_is_not_for_all(self) -> None:
        """What the agent can do besides is no action of this API."""
        self.assertEqual(
            self.refused({"service": "nginx", "action": "reload"}),
            (400, "action must be one of start, stop, restart"),
        )

    def test_missing(self) -> None:
        """A missing field is named, and so is what is no object."""
        self.assertIn("service must", self.refused({"action": "stop"})[1])
        self.assertIn("action must", self.refused({"service": "xray"})[1])
        for body in ([], "xray", None, b"", b"{", b"\xff"):
            self.assertEqual(self.refused(body)[0], 400)
        self.assertEqual(self.acted, [])

    def test_problems(self) -> None:
        """Each thing that can go wrong has a status of its own, and its words are passed on."""
        body = {"service": "xray", "action": "restart"}
        for problem, status, words in (
            (Busy("at it"), 409, "at it"),
            (Refused("no such protocol"), 422, "xray refuses its configuration: no such protocol"),
            (ServiceFailed("it died\nlast"), 502, "it died\nlast"),
            (NotInstalled("none here"), 503, "none here"),
        ):
            self.problem = problem
            self.assertEqual(self.refused(body), (status, words))

    def test_defects_pass(self) -> None:
        """A defect is none of these, and reaches the routes, which log it."""
        self.problem = RuntimeError("a defect")
        self.failureResultOf(self.post({"service": "xray", "action": "stop"}), RuntimeError)
