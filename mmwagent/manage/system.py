"""Facts of this machine, and the agent's own state of health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define
from twisted.web.http import Request

from mmwagent.status import Status


@define
class SystemResource:
    """`facts` collects the machine's facts; `status` is the agent's own."""

    facts: Callable[[], Awaitable[dict[str, Any]]]
    status: Callable[[], Status]

    async def info(self, request: Request) -> dict[str, Any]:
        """GET system/info: the shape of mmwagent.host.facts, `success` and the version beside."""
        return {"success": True, **await self.facts(), "agent_version": self.status().version}

    async def health(self, request: Request) -> dict[str, Any]:
        """GET /health, open to all: whether the agent does its work, and by which way."""
        status = self.status()
        return {"status": "ok" if status.well else "degraded", "mode": status.door}
