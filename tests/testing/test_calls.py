"""Calls to the agent's management API: mmwagent.testing.calls."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import TimeoutError
from twisted.web.client import ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from mmwagent.testing.calls import CannotCall
from mmwagent.testing.memory import MemoryNetwork
from tests.testing.scene import BEAT, NAME, TOKEN, Scene


class Management(Resource):
    """An agent's API that keeps what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.mode = "answer"

    def render(self, request: Any) -> Any:
        """Answer, hang or close."""
        headers = {
            name.decode().lower(): values
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        self.asked.append((request.method, request.uri, headers, request.content.read()))
        if self.mode == "answer":
            request.setResponseCode(418)
            return b'{"success": true}'
        if self.mode == "close":
            request.channel.transport.abortConnection()
        return NOT_DONE_YET


class CallTests(Scene):
    """What the agent gets, and what comes back."""

    def setUp(self) -> None:
        """Put an agent's API behind the master's client."""
        super().setUp()
        self.api = Management()
        self.nodes = MemoryNetwork(self.clock, Site(self.api, reactor=self.clock))
        self.master = self.make_master(web=self.nodes.agent(persistent=False))
        self.network = MemoryNetwork(self.clock, self.master.site)

    def asked(self) -> tuple[bytes, bytes, dict[str, Any], bytes]:
        """Let the call arrive, and return it."""
        self.nodes.flush()
        request: tuple[bytes, bytes, dict[str, Any], bytes] = self.api.asked[-1]
        return request

    def test_call(self) -> None:
        """A call is plain http to address and port of the agent, with its token, as JSON."""
        peer = self.login(ip="198.51.100.7")
        self.tell(peer, "heartbeat", {**BEAT, "listen_port": 40000})
        answer = self.master.call(NAME, "POST", "/api/child/scan?x=1", {"a": 1})
        method, uri, headers, body = self.asked()
        self.assertEqual((method, uri, body), (b"POST", b"/api/child/scan?x=1", b'{"a": 1}'))
        self.assertEqual(headers["host"], [b"198.51.100.7:40000"])
        self.assertEqual(headers["user-agent"], [b"miaomiaowux/0.1"])
        self.assertEqual(headers["authorization"], [f"Bearer {TOKEN}".encode()])
        self.assertEqual(headers["content-type"], [b"application/json"])
        self.assertEqual(headers["accept-encoding"], [b"gzip"])
        self.assertEqual(headers["content-length"], [b"8"])
        result = self.successResultOf(answer)
        self.assertEqual((result.status, result.json()), (418, {"success": True}))

    def test_get(self) -> None:
        """A GET has no body, but the Content-Type all the same."""
        self.running()
        self.master.call(NAME, "GET", "/api/child/inbounds")
        method, _, headers, body = self.asked()
        self.assertEqual((method, body), (b"GET", b""))
        self.assertEqual(headers["content-type"], [b"application/json"])

    def test_default_port(self) -> None:
        """Where the last heartbeat told no port, it is 23889; IPv6 gets its brackets."""
        self.login(ip="2001:db8::7")
        self.master.call(NAME, "GET", "/")
        self.assertEqual(self.asked()[2]["host"], [b"[2001:db8::7]:23889"])

    def test_token_of_the_moment(self) -> None:
        """The call right after a rotation carries the new token."""
        self.running()
        self.master.rotate_token(NAME, "new")
        self.master.call(NAME, "GET", "/")
        self.assertEqual(self.asked()[2]["authorization"], [b"Bearer new"])

    def test_not_connected(self) -> None:
        """An agent that is pending or offline is not dialled."""
        self.assertRaises(CannotCall, self.master.call, NAME, "GET", "/")
        self.running()
        self.network.advance(180)
        self.assertRaises(CannotCall, self.master.call, NAME, "GET", "/")
        self.assertRaises(CannotCall, self.master.pull, NAME, "/api/child/speed")

    def test_no_client(self) -> None:
        """Without a client there is nothing to dial with."""
        self.master = self.make_master()
        self.network = MemoryNetwork(self.clock, self.master.site)
        self.running()
        self.assertRaises(CannotCall, self.master.call, NAME, "GET", "/")

    def test_silence(self) -> None:
        """A call that is not answered fails after 30 s."""
        self.running()
        self.api.mode = "hang"
        answer = self.master.call(NAME, "GET", "/")
        self.nodes.advance(29)
        self.assertNoResult(answer)
        self.nodes.advance(1)
        self.failureResultOf(answer, TimeoutError)

    def test_closed(self) -> None:
        """An agent that closes without a word fails the call."""
        self.running()
        self.api.mode = "close"
        answer = self.master.call(NAME, "GET", "/")
        self.nodes.flush()
        self.failureResultOf(answer, ResponseNeverReceived)

    def test_pull(self) -> None:
        """A pull has Go's User-Agent and the pull token, else the server's."""
        self.running()
        self.master.pull(NAME, "/api/child/speed", "pull-token")
        _, uri, headers, _ = self.asked()
        self.assertEqual(uri, b"/api/child/speed")
        self.assertEqual(headers["user-agent"], [b"Go-http-client/1.1"])
        self.assertEqual(headers["authorization"], [b"Bearer pull-token"])
        self.assertNotIn("content-type", headers)
        self.master.pull(NAME, "/api/child/traffic")
        self.assertEqual(self.asked()[2]["authorization"], [f"Bearer {TOKEN}".encode()])
