"""
The HTTP doors of the stand-in master: traffic, speed, heartbeat and token refresh.

Checks come in the real master's order: method, User-Agent, token present, token known, body. Each
door has its own place to look for the token and its own way to say no.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from mmwagent.testing.answers import TEXT, Reply, as_json, finish, header, start, token_headers
from mmwagent.testing.faults import PUSH_FAULTS, AnswerPush, CutPush, DelayPush, Fault, HangPush
from mmwagent.testing.intake import Intake
from mmwagent.testing.panel import Panel
from mmwagent.testing.records import AgentRecord
from mmwagent.testing.wire import USER_AGENT, Problem, Refused

_SOON = timedelta(hours=24)


@frozen
class Door:
    """
    What sets one endpoint apart.

    `sources` are the headers a token may come in, the first present wins. `word` is the key of
    the master's complaints; `timed` adds its time to them.
    """

    name: str
    sources: tuple[str, ...]
    word: str
    missing: str
    unknown: str
    timed: bool = False


_PUSHED = ("X-Remote-Token", "Authorization")
_ALONE = ("MM-Remote-Token",)
_NO_TOKEN = "Missing authentication token"

DOORS = (
    Door("traffic", _PUSHED, "error", _NO_TOKEN, "Invalid token"),
    Door("speed", _PUSHED, "error", _NO_TOKEN, "Invalid token"),
    Door("heartbeat", _ALONE, "message", "缺少认证Token", "无效的Token", timed=True),
    Door("token/refresh", _ALONE, "message", "Missing MM-Remote-Token header", "Invalid token"),
)


class PushDoor(Resource):
    """One endpoint. `silenced` holds the requests a fault left without an answer."""

    isLeaf = True

    def __init__(self, door: Door, panel: Panel, intake: Intake) -> None:
        super().__init__()
        self._door = door
        self._panel = panel
        self._intake = intake
        self._take: Callable[[AgentRecord, Request, bytes], Reply] = {
            "traffic": self._traffic,
            "speed": self._speed,
            "heartbeat": self._heartbeat,
            "token/refresh": self._refresh,
        }[door.name]
        self.silenced: list[Request] = []
        self.late: set[IDelayedCall] = set()

    def render(self, request: Request) -> Any:
        """Answer a push, or do what is scripted."""
        body = request.content.read() if request.content else b""
        record = self._by_any_header(request)
        token = None if record is self._panel.strangers else record.token
        fault = self._panel.faults.take(PUSH_FAULTS, token, self._door.name)
        if fault is not None and not getattr(fault, "taken", True):
            self._intake.untaken(record, self._door.name, body)
            reply = as_json(200, success=True, message="scripted")
        else:
            reply = self._judge(request, record, body)
        return self._deliver(request, reply, fault)

    def _deliver(self, request: Request, reply: Reply, fault: Fault | None) -> int:
        if isinstance(fault, AnswerPush):
            reply = _scripted(fault)
        if isinstance(fault, HangPush):
            self.silenced.append(request)
        elif isinstance(fault, CutPush):
            start(request, reply, len(reply.body) + 100)
            request.write(reply.body)
            request.channel.loseConnection()
        elif isinstance(fault, DelayPush):
            self._later(fault.seconds, request, reply)
        else:
            finish(request, reply)
        return NOT_DONE_YET

    def _later(self, seconds: float, request: Request, reply: Reply) -> None:
        def answer() -> None:
            self.late.discard(call)
            finish(request, reply)

        def gone(_: object) -> None:
            if call.active():
                call.cancel()
            self.late.discard(call)

        call = self._panel.clock.callLater(seconds, answer)
        self.late.add(call)
        request.notifyFinish().addErrback(gone)

    # The checks

    def _judge(self, request: Request, record: AgentRecord, body: bytes) -> Reply:
        if request.method != b"POST":
            return Reply(405, b"Method not allowed\n", TEXT)
        agent = header(request, "User-Agent")
        if agent != USER_AGENT:
            problem = Problem("user-agent", f"{self._door.name} pushed by {agent!r}")
            self._panel.breach(record, problem)
            return self._refuse(record, body, 403, "Forbidden")
        self._check_headers(request, record)
        headers = token_headers(request)
        token = next(filter(None, (headers[name] for name in self._door.sources)), None)
        if token is None:
            return self._refuse(record, body, 401, self._door.missing)
        owner = self._panel.find(token)
        if owner is None:
            return self._refuse(record, body, 401, self._door.unknown)
        return self._take(owner, request, body)

    def _refuse(self, record: AgentRecord, body: bytes, status: int, complaint: str) -> Reply:
        self._intake.untaken(record, self._door.name, body)
        fields: dict[str, object] = {"success": False, self._door.word: complaint}
        if self._door.timed:
            fields["server_time"] = self._server_time()
        return as_json(status, **fields)

    def _check_headers(self, request: Request, record: AgentRecord) -> None:
        """See that a push carries its one token in all three headers."""
        headers = token_headers(request)
        lacking = [name for name, value in headers.items() if not value]
        if lacking:
            self._panel.breach(record, Problem("headers", f"no token in {', '.join(lacking)}"))
        elif len(set(headers.values())) > 1:
            self._panel.breach(record, Problem("headers", "the three tokens differ"))

    def _by_any_header(self, request: Request) -> AgentRecord:
        """Return whose push this is as far as any header tells, for the record."""
        owners = map(self._panel.find, filter(None, token_headers(request).values()))
        return next(filter(None, owners), self._panel.strangers)

    # The bodies

    def _traffic(self, record: AgentRecord, request: Request, body: bytes) -> Reply:
        try:
            taken = self._intake.body_traffic(record, body)
        except Refused:
            return as_json(400, success=False, error="Invalid request body")
        message = "Traffic data received" if taken else "No stats to process"
        return as_json(200, success=True, message=message)

    def _speed(self, record: AgentRecord, request: Request, body: bytes) -> Reply:
        try:
            self._intake.body_speed(record, body)
        except Refused:
            return as_json(400, success=False, error="Invalid request body")
        return as_json(200, success=True, message="Speed data received")

    def _heartbeat(self, record: AgentRecord, request: Request, body: bytes) -> Reply:
        restarted, xray_restarted = self._intake.body_heartbeat(record, body, _peer(request))
        fields: dict[str, object] = {
            "success": True,
            "message": "心跳成功",
            "server_time": self._server_time(),
            "token_expires_at": int(record.expires_at.timestamp()),
        }
        flags = {
            "token_expires_soon": self._expires_soon(record),
            "mmwx_restarted": restarted,
            "xray_restarted": xray_restarted,
        }
        return as_json(200, **fields, **{name: True for name, value in flags.items() if value})

    def _refresh(self, record: AgentRecord, request: Request, body: bytes) -> Reply:
        if not self._expires_soon(record):
            complaint = "token can only be refreshed within 24 hours of expiration"
            return self._refuse(record, body, 400, complaint)
        self._panel.retoken(record, str(uuid.uuid4()))
        self._panel.event(record, "order", "token refreshed by the agent")
        return as_json(
            200,
            success=True,
            message="Token refreshed",
            new_token=record.token,
            expires_at=int(record.expires_at.timestamp()),
        )

    def _expires_soon(self, record: AgentRecord) -> bool:
        return record.expires_at - self._panel.now() <= _SOON

    def _server_time(self) -> int:
        return int(self._panel.now().timestamp())


def _scripted(fault: AnswerPush) -> Reply:
    if fault.body is not None:
        body = fault.body.encode()
        return Reply(fault.status, body, TEXT, fault.retry_after, fault.location)
    reply = as_json(fault.status, success=fault.status < 400, error="scripted")
    return Reply(reply.status, reply.body, reply.content_type, fault.retry_after, fault.location)


def _peer(request: Request) -> str:
    """Return the address of whoever asks: what a proxy says first, else the TCP peer."""
    forwarded = header(request, "X-Forwarded-For").split(",")[0].strip()
    real = header(request, "X-Real-IP").strip()
    return forwarded or real or str(getattr(request.getClientAddress(), "host", ""))
