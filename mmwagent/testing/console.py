"""
The JSON API for people who watch the stand-in master, under /standin/.

    GET    /standin/agents                  a summary of each agent
    GET    /standin/agents/NAME             one agent's record; a token does as well
    POST   /standin/agents/NAME/orders      {"type": ..., "payload": {...}}
    GET    /standin/faults                  what is scripted now
    POST   /standin/faults                  {"fault": "refuse-upgrade", "agent": NAME, "times": 1,
                                            and the fault's own fields}
    DELETE /standin/faults                  clear them all

Errors are {"success": false, "error": ...}. Orders and faults are taken from this machine only.
No answer shows a token, nor a private key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote

from attrs import asdict
from twisted.web.resource import Resource
from twisted.web.server import Request

from mmwagent.testing import faults, wire
from mmwagent.testing.answers import Reply, as_json, finish, header
from mmwagent.testing.ledger import summed
from mmwagent.testing.orders import NotConnected, Orders
from mmwagent.testing.panel import Panel, UnknownAgent
from mmwagent.testing.records import AgentRecord, Report
from mmwagent.testing.wire import DIRECTIONS, KINDS, Refused

_BODY_LIMIT = 1024 * 1024
_SECRETS = frozenset({"token", "server_token", "key_pem", "dns_credentials"})


class _Complaint(Exception):
    """A request that cannot be served: status and words."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class Console(Resource):
    """Serves every path under /standin/."""

    isLeaf = True

    def __init__(self, panel: Panel, orders: Orders) -> None:
        super().__init__()
        self._panel = panel
        self._orders = orders

    def render(self, request: Request) -> int:
        """Answer; whatever goes wrong is said as JSON."""
        try:
            reply = self._serve(request)
        except _Complaint as complaint:
            reply = as_json(complaint.status, success=False, error=complaint.error)
        except UnknownAgent as unknown:
            reply = as_json(404, success=False, error=str(unknown))
        return finish(request, reply)

    def _serve(self, request: Request) -> Reply:
        path = request.path.decode("utf-8", "replace")
        method = request.method.decode("ascii", "replace")
        match [unquote(part) for part in path.split("/")[2:]]:
            case ["agents"]:
                return self._one_of(method, GET=self._agents)
            case ["agents", who]:
                return self._one_of(method, GET=lambda: self._agent(who))
            case ["agents", who, "orders"]:
                return self._one_of(method, POST=lambda: self._order(who, request))
            case ["faults"]:
                return self._one_of(
                    method,
                    GET=self._scripted,
                    POST=lambda: self._script(request),
                    DELETE=lambda: self._clear(request),
                )
        raise _Complaint(404, f"nothing is served at {path}")

    def _one_of(self, method: str, **verbs: Callable[[], Reply]) -> Reply:
        if method not in verbs:
            raise _Complaint(405, f"{method} is not served here, but {', '.join(verbs)}")
        return verbs[method]()

    # Reading

    def _agents(self) -> Reply:
        everyone = [*self._panel.records, self._panel.strangers]
        return as_json(200, success=True, agents=[self._summary(record) for record in everyone])

    def _agent(self, who: str) -> Reply:
        record = self._panel.look_up(who)
        details = {
            "events": [asdict(event) for event in record.events],
            "connections": [asdict(connection) for connection in record.connections],
            "handshakes": record.handshakes,
            "auth_attempts": record.auth_attempts,
            "reports": [_shown(report) for report in record.reports],
            "counters": [
                {"kind": kind, "name": name, "direction": direction, "bytes": count}
                for (kind, name, direction), count in sorted(record.traffic.totals.items())
            ],
        }
        return as_json(200, success=True, agent={**self._summary(record), **details})

    def _summary(self, record: AgentRecord) -> dict[str, object]:
        return {
            "name": record.name,
            "status": self._panel.status(record),
            "websocket": record.token in self._panel.sessions,
            "ip_address": record.ip_address,
            "listen_port": record.listen_port,
            "boot_time": _time(record.boot_time),
            "boot_count": record.boot_count,
            "xray_boot_time": _time(record.xray_boot_time),
            "xray_boot_count": record.xray_boot_count,
            "token_expires_at": _time(record.expires_at),
            "speed": record.speed and asdict(record.speed),
            "traffic": {
                kind: {way: summed(record.traffic.totals, kind, way) for way in DIRECTIONS}
                for kind in KINDS
            },
            "messages": {f"{door} {kind}": n for (door, kind), n in record.counts.items()},
            "violations": [asdict(violation) for violation in record.violations],
        }

    # Doing

    def _order(self, who: str, request: Request) -> Reply:
        self._only_here(request)
        record = self._panel.look_up(who)
        body = self._body(request)
        kind, payload = body.get("type"), body.get("payload", {})
        if not isinstance(kind, str) or not kind:
            raise _Complaint(400, "type is missing; it must be a text such as cert_deploy")
        if not isinstance(payload, dict):
            raise _Complaint(400, "payload must be an object")
        try:
            sent = self._orders.give(record.token, kind, payload)
        except NotConnected as error:
            raise _Complaint(409, str(error)) from error
        except ValueError as error:
            raise _Complaint(400, str(error)) from error
        return as_json(200, success=True, sent={"type": kind, "payload": _redacted(sent)})

    def _scripted(self) -> Reply:
        return as_json(
            200, success=True, faults=[self._entry(e) for e in self._panel.faults.scripted]
        )

    def _script(self, request: Request) -> Reply:
        self._only_here(request)
        body = dict(self._body(request))
        name, who, times = (body.pop(key, None) for key in ("fault", "agent", "times"))
        if who is not None and not isinstance(who, str):
            raise _Complaint(400, "agent must be a text: a name or a token")
        if times is not None and (isinstance(times, bool) or not isinstance(times, int)):
            raise _Complaint(400, "times must be a whole number, or left out")
        token = None if who is None else self._panel.look_up(who).token
        try:
            entry = self._panel.faults.add(faults.named(name, body), token, times)
        except ValueError as error:
            raise _Complaint(400, str(error)) from error
        return as_json(200, success=True, fault=self._entry(entry))

    def _clear(self, request: Request) -> Reply:
        self._only_here(request)
        return as_json(200, success=True, removed=self._panel.faults.clear())

    def _entry(self, entry: faults.Scripted) -> dict[str, object]:
        agent = None if entry.token is None else self._panel.look_up(entry.token).name
        fields = asdict(entry.fault)
        return {"fault": entry.fault.name, "agent": agent, "times": entry.left, **fields}

    # What a request must be

    def _only_here(self, request: Request) -> None:
        """See that whoever gives orders sits on this machine, and is no web page in a browser."""
        host = str(getattr(request.getClientAddress(), "host", ""))
        try:
            here = ip_address(host.split("%")[0]).is_loopback
        except ValueError:
            here = False
        if not here or any(header(request, name) for name in ("X-Forwarded-For", "Origin")):
            raise _Complaint(403, "orders and faults are taken from this machine only")

    def _body(self, request: Request) -> Mapping[str, Any]:
        data = request.content.read() if request.content else b""
        if len(data) > _BODY_LIMIT:
            raise _Complaint(413, "the body is larger than 1 MiB")
        try:
            return wire.mapping(wire.load(data), "the body")
        except Refused as refusal:
            raise _Complaint(400, refusal.problem.detail) from refusal


def _shown(report: Report) -> dict[str, Any]:
    return {**asdict(report, recurse=False), "payload": _redacted(report.payload)}


def _redacted(payload: Any) -> Any:
    if not isinstance(payload, dict):
        return payload
    return {name: "..." if name in _SECRETS else value for name, value in payload.items()}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
