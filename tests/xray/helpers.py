"""What the tests of this room share: counters, an Xray that answers or does not, and the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from mmwagent.xray.discovery import XrayServer

Stats = dict[str, dict[str, dict[str, Any]]]


def stats(
    users: dict[str, tuple[Any, Any]] | None = None,
    inbounds: dict[str, tuple[Any, Any]] | None = None,
) -> Stats:
    """Return counters as Xray gives them, each pair being (uplink, downlink)."""

    def named(pairs: dict[str, tuple[Any, Any]] | None) -> dict[str, dict[str, Any]]:
        return {
            name: {"uplink": up, "downlink": down} for name, (up, down) in (pairs or {}).items()
        }

    return {"inbound": named(inbounds), "outbound": {}, "user": named(users)}


def server(path: str, *listens: str) -> XrayServer:
    """Return a server whose configuration names a metrics address, or none."""
    return XrayServer(path, {"metrics": {"listen": listens[0]}} if listens else {})


def log_lines(act: Callable[[], object]) -> list[tuple[str, str]]:
    """Return what the agent logs while `act` runs, as (level, text)."""
    with capturedLogs() as events:
        act()
    return [line(event) for event in events if event["log_namespace"].startswith("mmwagent")]


def line(event: LogEvent) -> tuple[str, str]:
    """Return an event's level and text."""
    return event["log_level"].name, formatEvent(event)


@implementer(IResponse)
class FakeResponse:
    """An answer whose body comes in `parts` and ends with `end`, or never does."""

    def __init__(
        self,
        *parts: bytes,
        code: int = 200,
        end: Exception | None = None,
        unfinished: bool = False,
        transport: Any = None,
    ) -> None:
        self.version = ("HTTP", 1, 1)
        self.code = code
        self.phrase = b""
        self.headers = self.request = self.previousResponse = None
        self.length = sum(map(len, parts))
        self.transport = StringTransport() if transport is None else transport
        self.protocol: Any = None
        self._parts = parts
        self._end = None if unfinished else (end or ResponseDone())

    def deliverBody(self, protocol: Any) -> None:
        """Give what there is."""
        self.protocol = protocol
        protocol.makeConnection(self.transport)
        for part in self._parts:
            protocol.dataReceived(part)
        if self._end is not None:
            protocol.connectionLost(Failure(self._end))

    def setPreviousResponse(self, response: IResponse) -> None:
        """Do nothing: there are no redirects here."""


Answer = Callable[[], "Deferred[Any]"]


@implementer(IAgent)
@define
class FakeAgent:
    """Answers by URL, as it was told; where nobody listens it is refused."""

    asked: list[str] = field(factory=list)
    answers: dict[str, Answer] = field(factory=dict)

    def gives(self, address: str, counters: object) -> None:
        """Let the Xray at `address` give `counters`."""
        self.says(address, json.dumps({"cmdline": ["xray"], "stats": counters}).encode())

    def says(self, address: str, body: bytes, code: int = 200) -> None:
        """Let what is at `address` answer with `body`."""
        self.does(address, lambda: succeed(FakeResponse(body, code=code)))

    def refuses(self, address: str) -> None:
        """Let nobody listen at `address`."""
        self.answers.pop(address, None)

    def does(self, address: str, answer: Answer) -> None:
        """Let `answer` make the answer of `address`."""
        self.answers[address] = answer

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[Any]:
        """Answer a GET of /debug/vars."""
        assert method == b"GET" and uri.startswith(b"http://") and uri.endswith(b"/debug/vars")
        address = uri.decode("ascii").removeprefix("http://").removesuffix("/debug/vars")
        self.asked.append(address)
        answer = self.answers.get(address)
        return fail(ConnectionRefusedError()) if answer is None else answer()


@define
class Servers:
    """The servers that are found now."""

    found: Sequence[XrayServer] = ()

    def look(self) -> Deferred[Sequence[XrayServer]]:
        """Return them."""
        return succeed(self.found)
