"""
Calls of the master to an agent's management API, as the real master dials them.

Always plain http, to the address of the agent's connection and the port of its last heartbeat,
with the agent's token as it is at this moment. Source: README "认证机制" and "API 文档".
"""

from __future__ import annotations

import json
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.python.failure import Failure
from twisted.web.client import ContentDecoderAgent, GzipDecoder, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from mmwagent.testing.bodies import WholeBody
from mmwagent.testing.panel import Panel
from mmwagent.testing.records import AgentRecord
from mmwagent.testing.wire import USER_AGENT

DEFAULT_PORT = 23889
CALL_TIMEOUT = 30.0
PULL_TIMEOUT = 10.0
PULL_USER_AGENT = "Go-http-client/1.1"


class CannotCall(Exception):
    """The master would not even dial: the agent is not connected, or its address is unknown."""


@frozen
class Answer:
    """What the agent answered."""

    status: int
    headers: Headers
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON value."""
        return json.loads(self.body)


class Calls:
    """
    Dials agents through `web`, twisted.web's Agent or the like.

    Not through treq: that cannot dial an IPv6 address (hyperlink takes it for a name).
    """

    def __init__(self, panel: Panel, web: IAgent | None) -> None:
        self._panel = panel
        self._web = web and ContentDecoderAgent(web, [(b"gzip", GzipDecoder)])

    def call(self, who: str, method: str, path: str, body: object = None) -> Deferred[Answer]:
        """
        Make a management call, within 30 s in all.

        `body` is sent as JSON, None as no body at all. Fails with CannotCall, or with whatever
        the agent fails with: one that closes without an answer is a ResponseNeverReceived.
        """
        record = self._panel.look_up(who)
        if self._panel.status(record) != "connected" or not record.ip_address:
            status = self._panel.status(record)
            raise CannotCall(f"{record.name} is {status}, its address {record.ip_address!r}")
        headers = {"User-Agent": [USER_AGENT], "Content-Type": ["application/json"]}
        return self._dial(record, method, path, body, headers, record.token, CALL_TIMEOUT)

    def pull(self, who: str, path: str, pull_token: str | None = None) -> Deferred[Answer]:
        """
        Pull "/api/child/traffic" or "/api/child/speed", within 10 s, as the master's collector.

        It sends Go's own User-Agent and the pull token, else the server's.
        """
        record = self._panel.look_up(who)
        if self._panel.status(record) == "offline" or not record.ip_address:
            raise CannotCall(f"{record.name} is offline or its address is unknown")
        headers = {"User-Agent": [PULL_USER_AGENT]}
        token = pull_token or record.token
        return self._dial(record, "GET", path, None, headers, token, PULL_TIMEOUT)

    def _dial(
        self,
        record: AgentRecord,
        method: str,
        path: str,
        body: object,
        headers: dict[str, list[str]],
        token: str,
        limit: float,
    ) -> Deferred[Answer]:
        if self._web is None:
            raise CannotCall("this stand-in master was given nothing to dial with")
        headers = {**headers, "Authorization": [f"Bearer {token}"]}
        host = f"[{record.ip_address}]" if ":" in record.ip_address else record.ip_address
        url = f"http://{host}:{record.listen_port or DEFAULT_PORT}{path}"
        data = None if body is None else WholeBody(json.dumps(body).encode())
        exchange = Deferred.fromCoroutine(
            _exchange(self._web, method.encode(), url.encode(), Headers(headers), data)
        )
        return exchange.addTimeout(limit, self._panel.clock, _gave_up)


async def _exchange(
    web: IAgent, method: bytes, url: bytes, headers: Headers, data: WholeBody | None
) -> Answer:
    response = await web.request(method, url, headers, data)
    return Answer(response.code, response.headers, await readBody(response))


def _gave_up(_: object, limit: float) -> Failure:
    """Say that time is up, whatever the cancelled request says."""
    return Failure(TimeoutError(f"no answer within {limit} s"))
