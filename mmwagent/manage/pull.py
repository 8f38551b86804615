"""What the master pulls: traffic and speed (README, Pull 模式数据接口)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define
from twisted.web.http import Request

from mmwagent.host.network import Speed, SpeedUnavailable
from mmwagent.manage.errors import ApiError
from mmwagent.xray.metrics import NoTraffic
from mmwagent.xray.traffic import TrafficSnapshot


@define
class PullResource:
    """Answers with the same figures that are reported, `success` beside them."""

    counters: Callable[[], Awaitable[TrafficSnapshot]]
    sample: Callable[[], Awaitable[Speed]]

    async def traffic(self, request: Request) -> dict[str, Any]:
        """GET traffic: {"success": true, "stats": {...}}, in bytes since Xray's start, or 503."""
        try:
            snapshot = await self.counters()
        except NoTraffic as reason:
            raise ApiError(503, str(reason)) from reason
        return {"success": True, "stats": snapshot.stats}

    async def speed(self, request: Request) -> dict[str, Any]:
        """GET speed: upload_speed and download_speed, bytes per second; 503 if not known."""
        try:
            speed = await self.sample()
        except SpeedUnavailable as reason:
            raise ApiError(503, str(reason)) from reason
        return {"success": True, "upload_speed": speed.upload, "download_speed": speed.download}
