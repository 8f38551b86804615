"""Probing how long connections to domains take (README, 扫描与探测)."""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.web.http import Request

from mmwagent.host.latency import MOST, Prober
from mmwagent.manage.bodies import json_object
from mmwagent.manage.errors import ApiError


@define
class ProbesResource:
    """Answers with what the prober finds."""

    prober: Prober

    async def latency(self, request: Request) -> dict[str, Any]:
        """
        POST domains/latency: {"domains": [str], "timeout_ms": int} -> {"results": [...]}.

        Each result is {"domain", "target", "success", "latency_ms", "error", "nginx_ssl_port"};
        at most 200 distinct domains are probed, and `count` says how many were.
        """
        body = json_object(request)
        domains, timeout_ms = body.get("domains"), body.get("timeout_ms", 0)
        if not isinstance(domains, list) or not all(isinstance(name, str) for name in domains):
            raise ApiError(400, "domains must be a list of texts")
        if not domains:
            raise ApiError(400, f"domains must name at least one domain, and at most {MOST} count")
        if isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int):
            raise ApiError(400, "timeout_ms must be a whole number of milliseconds")
        found = await self.prober.probe(domains, timeout_ms)
        results = [latency.fields() for latency in found]
        return {"success": True, "count": len(results), "results": results}
