"""The services that this agent looks after (README, 服务管理; protocol 1.2 rows 1 and 2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define
from twisted.web.http import Request

from mmwagent.host.programs import ProgramState
from mmwagent.host.services import Busy, NotInstalled, Refused, ServiceFailed
from mmwagent.manage.bodies import json_object
from mmwagent.manage.control import PAST
from mmwagent.manage.errors import ApiError

SERVICES = ("xray", "nginx")
ACTIONS = ("start", "stop", "restart")


@define
class ServicesResource:
    """`states` gives the state of each service by its name."""

    states: Callable[[], Awaitable[dict[str, ProgramState]]]

    async def status(self, request: Request) -> dict[str, Any]:
        """GET services/status: {"xray": {"installed", "running", "version"}, "nginx": {...}}."""
        states = await self.states()
        return {"success": True, **{name: _shown(state) for name, state in states.items()}}


@define
class ControlResource:
    """`act` does an action, its second argument, on a service, its first."""

    act: Callable[[str, str], Awaitable[None]]

    async def control(self, request: Request) -> dict[str, Any]:
        """
        POST services/control: {"service": "xray"|"nginx", "action": "start"|"stop"|"restart"}.

        Answered when it is done, with {"service", "action", "message"}. ApiError: 400 for other
        values, 409 while something is being done with that service, 422 with the words of a
        program that refuses its configuration (nothing was done then), 502 with the last lines
        of a service that does not come up or stop, 503 where it is not installed.
        """
        body = json_object(request)
        service, action = _one_of(body, "service", SERVICES), _one_of(body, "action", ACTIONS)
        try:
            await self.act(service, action)
        except Busy as problem:
            raise ApiError(409, str(problem)) from problem
        except Refused as problem:
            raise ApiError(422, f"{service} refuses its configuration: {problem}") from problem
        except ServiceFailed as problem:
            raise ApiError(502, str(problem)) from problem
        except NotInstalled as problem:
            raise ApiError(503, str(problem)) from problem
        message = f"{service} {PAST[action]}"
        return {"success": True, "service": service, "action": action, "message": message}


def _one_of(body: dict[str, Any], name: str, values: tuple[str, ...]) -> str:
    value = body.get(name)
    if not isinstance(value, str) or value not in values:
        raise ApiError(400, f"{name} must be one of {', '.join(values)}")
    return value


def _shown(state: ProgramState) -> dict[str, Any]:
    return {
        "installed": state.installed,
        "running": state.running,
        "version": state.version or "",
    }
