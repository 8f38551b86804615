"""The services that this agent looks after (README, 服务管理)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define
from twisted.web.http import Request

from mmwagent.host.programs import ProgramState


@define
class ServicesResource:
    """`states` gives the state of each service by its name."""

    states: Callable[[], Awaitable[dict[str, ProgramState]]]

    async def status(self, request: Request) -> dict[str, Any]:
        """GET services/status: {"xray": {"installed", "running", "version"}, "nginx": {...}}."""
        states = await self.states()
        return {"success": True, **{name: _shown(state) for name, state in states.items()}}


def _shown(state: ProgramState) -> dict[str, Any]:
    return {
        "installed": state.installed,
        "running": state.running,
        "version": state.version or "",
    }
