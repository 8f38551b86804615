"""
Tests of the routing table and of what becomes of a request.

All through the door as it is served, in memory: bytes in, bytes out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote_from_bytes

from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request

from mmwagent.credentials import Credentials
from mmwagent.host.network import Speed
from mmwagent.host.programs import ProgramState
from mmwagent.manage import routes as routes_module
from mmwagent.manage.errors import ApiError
from mmwagent.manage.gate import Gate
from mmwagent.manage.probes import ProbesResource
from mmwagent.manage.pull import PullResource
from mmwagent.manage.routes import Route, resource, routes
from mmwagent.manage.services import ServicesResource
from mmwagent.manage.silence import RequestHead, SilentSite
from mmwagent.manage.system import SystemResource
from mmwagent.status import Status
from mmwagent.xray.metrics import NoTraffic
from mmwagent.xray.traffic import TrafficSnapshot

STATS = {
    "inbound": {"in": {"uplink": 1, "downlink": 2}},
    "outbound": {"out": {"uplink": 3, "downlink": 4}},
    "user": {"e": {"uplink": 5, "downlink": 6}},
}
SERVER = b"Authorization: Bearer server-token\r\nUser-Agent: miaomiaowux/0.1\r\n"
CHILD = b"Authorization: Bearer child-token\r\nUser-Agent: miaomiaowux/0.1\r\n"


@frozen
class Answer:
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has to be JSON and say so, with its exact length."""
        assert self.headers["content-type"] == "application/json; charset=utf-8", self.headers
        assert int(self.headers["content-length"]) == len(self.body), self.headers
        return json.loads(self.body)


class Caller:
    """One connection to the door."""

    def __init__(self, site: SilentSite) -> None:
        self.transport: Any = StringTransport()
        self._channel: Any = site.buildProtocol(self.transport.getPeer())
        self._channel.makeConnection(self.transport)

    def ask(self, line: str, headers: bytes = b"", host: bytes = b"h") -> None:
        """Send a request; `line` is its method and target."""
        start = line.encode("latin-1") + b" HTTP/1.1\r\nHost: " + host + b"\r\n"
        self._channel.dataReceived(start + headers + b"\r\n")

    def hang_up(self) -> None:
        """Go away."""
        self._channel.connectionLost(Failure(ConnectionLost()))

    @property
    def received(self) -> bytes:
        """All bytes that came back."""
        data: bytes = self.transport.value()
        return data

    @property
    def answer(self) -> Answer:
        """What came back, as one answer."""
        head, _, body = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name.lower() for name, _ in pairs}) == len(pairs), pairs
        return Answer(int(first.split(" ")[1]), {n.lower(): v for n, v in pairs}, body)


def everybody(_: RequestHead) -> bool:
    """Let in whoever comes."""
    return True


def giving(result: Any) -> Callable[[Request], Any]:
    """Return a handler that returns `result`, or raises it when it is an exception."""

    async def handler(request: Request) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    return handler


class RoutesTests(SynchronousTestCase):
    """What the tests share."""

    def setUp(self) -> None:
        """Collect what the routes log, and all errors that anybody logs."""
        self.events: list[Any] = []
        self.patch(routes_module, "log", Logger(observer=self.events.append))
        self.errors: list[Any] = []
        globalLogPublisher.addObserver(self.note_errors)
        self.addCleanup(globalLogPublisher.removeObserver, self.note_errors)
        self.clock = Clock()

    def note_errors(self, event: Any) -> None:
        """Observe the log."""
        if event["log_level"] >= LogLevel.warn:
            self.errors.append(event)

    def site(self, *table: Route) -> SilentSite:
        """Serve `table` to everybody."""
        return SilentSite(resource(table), everybody, self.clock)

    def ask(self, handler: Any, line: str = "GET /a", host: bytes = b"h") -> Answer:
        """Serve `handler` at /a and return what `line` gets."""
        caller = Caller(self.site(Route("GET", "/a", handler)))
        caller.ask(line, host=host)
        return caller.answer


class ServingTests(RoutesTests):
    """What a handler's result becomes."""

    def test_json(self) -> None:
        """A dict becomes JSON with status 200, its type and its length."""
        answer = self.ask(giving({"success": True, "text": 'ü "妙"', "list": [1, None]}))
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json, {"success": True, "text": 'ü "妙"', "list": [1, None]})
        self.assertEqual(self.events, [])

    def test_lone_surrogate(self) -> None:
        """Text that UTF-8 cannot hold, as in the name of a file, still gives an answer."""
        self.assertEqual(self.ask(giving({"name": "\udcff"})).json, {"name": "\udcff"})

    def test_names_no_server(self) -> None:
        """Nothing tells what the agent is made of."""
        answer = self.ask(giving({}))
        self.assertEqual(set(answer.headers), {"date", "content-type", "content-length"})

    def test_request_is_given(self) -> None:
        """The handler sees the request with its query."""

        async def echo(request: Request) -> dict[str, Any]:
            return {"args": {k.decode(): v[0].decode() for k, v in request.args.items()}}

        self.assertEqual(self.ask(echo, "GET /a?tag=x%20y").json, {"args": {"tag": "x y"}})

    def test_waits(self) -> None:
        """An answer that takes a while holds nobody else up."""
        result: Deferred[int] = Deferred()

        async def slow(request: Request) -> dict[str, Any]:
            return {"value": await result}

        site = self.site(Route("GET", "/slow", slow), Route("GET", "/a", giving({})))
        first, second = Caller(site), Caller(site)
        first.ask("GET /slow")
        second.ask("GET /a")
        self.assertEqual(second.answer.status, 200)
        self.assertEqual(first.received, b"")
        result.callback(7)
        self.assertEqual(first.answer.json, {"value": 7})

    def test_head(self) -> None:
        """HEAD gets the head of GET's answer, its length included, and no body."""
        got = self.ask(giving({"a": "b"}))
        head = self.ask(giving({"a": "b"}), "HEAD /a")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.body, b"")
        self.assertEqual(head.headers["content-length"], str(len(got.body)))
        self.assertEqual(head.headers["content-type"], got.headers["content-type"])

    def test_kept_alive(self) -> None:
        """A second request on the same connection is answered as well, after the first."""
        caller = Caller(self.site(Route("GET", "/a", giving({"n": 1}))))
        caller.ask("GET /a")
        caller.transport.clear()
        caller.ask("GET /a")
        self.assertEqual(caller.answer.json, {"n": 1})
        self.assertFalse(caller.transport.disconnecting)

    def test_two_verbs_of_a_path(self) -> None:
        """Each verb of a path has its own handler, the same one at several paths too."""
        same = giving({"is": "same"})
        site = self.site(
            Route("GET", "/a", giving({"is": "got"})),
            Route("PUT", "/a", giving({"is": "put"})),
            Route("GET", "/b", same),
            Route("POST", "/b", same),
        )
        told = []
        for line in ("GET /a", "PUT /a", "GET /b", "POST /b"):
            caller = Caller(site)
            caller.ask(line)
            told.append(caller.answer.json["is"])
        self.assertEqual(told, ["got", "put", "same", "same"])


class ProblemTests(RoutesTests):
    """What becomes of a request that cannot be met: one shape of error."""

    def assert_problem(self, answer: Answer, status: int, error: str) -> None:
        """Check the shape."""
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.json, {"success": False, "error": error})

    def test_api_error(self) -> None:
        """An ApiError is told with its status, text and headers; it is no matter for the log."""
        problem = ApiError(409, 'port 443 is taken by "x"', {"Retry-After": "5"})
        answer = self.ask(giving(problem))
        self.assert_problem(answer, 409, 'port 443 is taken by "x"')
        self.assertEqual(answer.headers["retry-after"], "5")
        self.assertEqual(self.events, [])

    def test_api_error_is_an_exception_with_text(self) -> None:
        """Where it ends up in a log it says its text."""
        self.assertEqual(str(ApiError(400, "no tag given")), "no tag given")

    def test_unforeseen(self) -> None:
        """Any other exception is a 500 that tells nothing of it, and one failure in the log."""
        answer = self.ask(giving(ZeroDivisionError("the secret")))
        self.assert_problem(answer, 500, "the agent failed at this; its log says why")
        [event] = self.events
        self.assertIs(event["log_level"], LogLevel.critical)
        self.assertIsInstance(event["log_failure"].value, ZeroDivisionError)
        self.assertEqual(event["log_format"].format(**event), "/a failed")
        self.assertEqual(self.errors, [])

    def test_unforeseen_leaves_the_connection(self) -> None:
        """After it the connection goes on to serve."""
        answers = iter([ZeroDivisionError(), {"n": 2}])

        async def handler(request: Request) -> Any:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        caller = Caller(self.site(Route("GET", "/a", handler)))
        caller.ask("GET /a")
        self.assertEqual(caller.answer.status, 500)
        caller.transport.clear()
        caller.ask("GET /a")
        self.assertEqual(caller.answer.json, {"n": 2})

    def test_what_json_cannot_hold(self) -> None:
        """A result that is no JSON (NaN is none) is a failure of ours, not broken JSON."""
        for result in ({"n": float("nan")}, {"n": float("inf")}, {"n": b"bytes"}):
            with self.subTest(result=result):
                self.events.clear()
                self.assertEqual(self.ask(giving(result)).status, 500)
                self.assertEqual(len(self.events), 1)

    def test_not_found(self) -> None:
        """A path that is not there is a 404 as JSON."""
        for line in ("GET /b", "POST /b", "GET /", "GET /a/", "GET /a/b", "GET /A", "GET /a%20"):
            with self.subTest(line=line):
                answer = self.ask(giving({}), line)
                self.assert_problem(answer, 404, "there is nothing at this path")

    def test_not_allowed(self) -> None:
        """A verb that a path does not take is a 405 as JSON that names those it takes."""
        for verb in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
            with self.subTest(verb=verb):
                answer = self.ask(giving({}), f"{verb} /a")
                self.assert_problem(answer, 405, "this path takes GET, HEAD")
                self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_not_allowed_names_all(self) -> None:
        """All verbs of the path are named, in order."""
        site = self.site(Route("PUT", "/a", giving({})), Route("DELETE", "/a", giving({})))
        caller = Caller(site)
        caller.ask("GET /a")
        self.assertEqual(caller.answer.headers["allow"], "DELETE, PUT")

    def test_head_of_a_problem(self) -> None:
        """HEAD of what is not there has a status and no body."""
        answer = self.ask(giving({}), "HEAD /b")
        self.assertEqual((answer.status, answer.body), (404, b""))

    def test_odd_paths(self) -> None:
        """What is no UTF-8, or would be redirected, is not there; the log stays empty."""
        for target in ("/%ff", "/a%c3", "/\xe4", "/a//", "//", "/a//b", "/%00", "/%2e%2e/a"):
            with self.subTest(target=target):
                answer = self.ask(giving({}), f"GET {target}")
                self.assert_problem(answer, 404, "there is nothing at this path")
        table = [Route("GET", "/a/b", giving({}))]
        for target in ("/a//b", "/a/b/", "/a///b"):
            with self.subTest(target=target):
                caller = Caller(self.site(*table))
                caller.ask(f"GET {target}")
                self.assert_problem(caller.answer, 404, "there is nothing at this path")
                self.assertNotIn("location", caller.answer.headers)
        self.assertEqual((self.events, self.errors), ([], []))

    @given(st.binary(max_size=12).map(quote_from_bytes), st.binary(max_size=12))
    def test_any_path_and_host(self, path: str, host: bytes) -> None:
        """Whatever path and host, the answer is one of ours, and the log stays empty."""
        printable = bytes(byte for byte in host if 0x20 < byte != 0x7F)
        answer = self.ask(giving({}), f"GET /{path}", host=printable)
        self.assertIn(answer.status, (200, 404))
        self.assertIsInstance(answer.json, dict)
        self.assertEqual((self.events, self.errors), ([], []))

    def test_odd_hosts(self) -> None:
        """The Host header decides nothing: the oddest gives the same answer, and no log line."""
        for host in (
            b"",
            b".",
            b"a..b",
            b"\xff",
            b"\xc2\xad",
            b"x" * 300,
            b"a b",
            b"[::1]:80",
            b"h:abc",
            b"xn--\xff",
            b"\xc3\xa4" * 70,
        ):
            with self.subTest(host=host):
                self.assertEqual(self.ask(giving({"n": 1}), host=host).json, {"n": 1})
        self.assertEqual((self.events, self.errors), ([], []))


class ClientGoneTests(RoutesTests):
    """Whoever asked is gone before the answer."""

    def test_handler_is_cancelled(self) -> None:
        """The work is given up, and that is no matter for the log."""
        cancelled: list[object] = []
        work: Deferred[Any] = Deferred(cancelled.append)

        async def handler(request: Request) -> Any:
            return await work

        caller = Caller(self.site(Route("GET", "/a", handler)))
        caller.ask("GET /a")
        self.assertEqual(cancelled, [])
        caller.hang_up()
        self.assertEqual(cancelled, [work])
        self.assertEqual(caller.received, b"")
        self.assertEqual((self.events, self.errors), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late_result(self) -> None:
        """Work that could not be given up may end later, well or badly, without harm."""
        for late in (lambda d: d.callback({}), lambda d: d.errback(ZeroDivisionError())):
            work: Deferred[Any] = Deferred()

            async def handler(request: Request, work: Deferred[Any] = work) -> Any:
                return await work

            caller = Caller(self.site(Route("GET", "/a", handler)))
            caller.ask("GET /a")
            caller.hang_up()
            late(work)
            self.assertEqual(caller.received, b"")
        self.assertEqual((self.events, self.errors), ([], []))

    def test_after_the_answer(self) -> None:
        """Who goes after the answer cancels nothing."""
        caller = Caller(self.site(Route("GET", "/a", giving({}))))
        caller.ask("GET /a")
        caller.hang_up()
        self.assertEqual(caller.answer.status, 200)
        self.assertEqual((self.events, self.errors), ([], []))


class TableTests(RoutesTests):
    """The whole stack: door, policy, table and resources on figures that are made up."""

    def setUp(self) -> None:
        """Build it, with a server token and a child token."""
        super().setUp()
        self.traffic: Callable[[], Any] = lambda: succeed(TrafficSnapshot(STATS))
        states = {
            "xray": ProgramState(True, True, "26.3.27"),
            "nginx": ProgramState(False, False, None),
        }
        nobody: Any = None  # no test here lets it probe
        self.table = routes(
            pull=PullResource(lambda: self.traffic(), lambda: succeed(Speed(102400, 204800))),
            services=ServicesResource(lambda: succeed(states)),
            control=Mock(),
            xray=Mock(),
            nginx=Mock(),
            sites=Mock(),
            probes=ProbesResource(nobody),
            system=SystemResource(
                lambda: succeed({"hostname": "h"}), lambda: Status("1.2.3", "auto", "websocket")
            ),
        )
        gate = Gate(Credentials("server-token", "child-token"), False)
        self.whole = SilentSite(resource(self.table), gate.authorise, self.clock)

    def call(self, line: str, headers: bytes = SERVER) -> Caller:
        """Send one request and return the connection."""
        caller = Caller(self.whole)
        caller.ask(line, headers)
        return caller

    def test_table(self) -> None:
        """The table holds what the README lists, so far, and nothing twice."""
        listed = [(route.method, route.path) for route in self.table]
        self.assertEqual(len(listed), len(set(listed)))
        self.assertLessEqual(
            {
                ("GET", "/health"),
                ("GET", "/api/child/services/status"),
                ("GET", "/api/child/system/info"),
                ("GET", "/api/child/traffic"),
                ("GET", "/api/child/speed"),
                ("POST", "/api/child/domains/latency"),
            },
            set(listed),
        )

    def test_nothing_else_is_open(self) -> None:
        """Of all routes only /health is answered without a token."""
        for route in self.table:
            with self.subTest(route=route):
                answered = self.call(f"{route.method} {route.path}", b"").received != b""
                self.assertEqual(answered, route.path == "/health")

    def test_answers(self) -> None:
        """Each route answers with its own shape."""
        expected: dict[str, Any] = {
            "/health": {"status": "ok", "mode": "websocket"},
            "/api/child/services/status": {
                "success": True,
                "xray": {"installed": True, "running": True, "version": "26.3.27"},
                "nginx": {"installed": False, "running": False, "version": ""},
            },
            "/api/child/system/info": {
                "success": True,
                "hostname": "h",
                "agent_version": "1.2.3",
            },
            "/api/child/traffic": {"success": True, "stats": STATS},
            "/api/child/speed": {
                "success": True,
                "upload_speed": 102400,
                "download_speed": 204800,
            },
        }
        for path, value in expected.items():
            with self.subTest(path=path):
                answer = self.call(f"GET {path}").answer
                self.assertEqual((answer.status, answer.json), (200, value))

    def test_health_is_open(self) -> None:
        """GET /health is answered without a token, HEAD too and without a body."""
        got = self.call("GET /health", b"").answer
        self.assertEqual((got.status, got.json["status"]), (200, "ok"))
        head = self.call("HEAD /health", b"").answer
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.headers["content-length"], str(len(got.body)))

    def test_silence(self) -> None:
        """Whoever lacks the right gets not one byte, and the connection is closed."""
        for line, headers in (
            ("GET /api/child/system/info", b""),
            ("GET /api/child/system/info", CHILD),
            ("GET /api/child/traffic", SERVER.replace(b"0.1", b"0.2")),
            ("GET /api/child/%74raffic", CHILD),
            ("HEAD /api/child/traffic", CHILD),
            ("GET /nothing/there", b""),
            ("GET /health?", b""),
            ("GET //health", b""),
            ("GET /health/", b""),
            ("GET http://h/health", b""),
            ("POST /health", b"Content-Length: 0\r\n"),
            ("GET /health", b"Content-Length: 5\r\n"),
            ("GET /health", b"Transfer-Encoding: chunked\r\n"),
        ):
            with self.subTest(line=line, headers=headers):
                caller = self.call(line, headers)
                self.assertEqual(caller.received, b"")
                self.assertTrue(caller.transport.disconnecting)

    def test_child_token(self) -> None:
        """The child token gets the two figures of pull mode."""
        self.assertEqual(self.call("GET /api/child/traffic", CHILD).answer.json["stats"], STATS)
        speed = self.call("GET /api/child/speed?x=1", CHILD).answer.json
        self.assertEqual(speed["upload_speed"], 102400)

    def test_health_opens_no_door(self) -> None:
        """After /health, what follows on the connection needs its own token."""
        caller = self.call("GET /health", b"")
        caller.transport.clear()
        caller.ask("GET /api/child/traffic")
        self.assertEqual(caller.received, b"")
        self.assertTrue(caller.transport.disconnecting)

    def test_no_traffic(self) -> None:
        """Counters that cannot be had are a 503 that says why; the log is left to its source."""
        self.traffic = lambda: fail(NoTraffic("the Xray of /x gives no traffic: refused"))
        answer = self.call("GET /api/child/traffic").answer
        self.assertEqual(answer.status, 503)
        self.assertEqual(
            answer.json,
            {"success": False, "error": "the Xray of /x gives no traffic: refused"},
        )
        self.assertEqual(self.events, [])

    def test_authorised_mistakes(self) -> None:
        """Who holds the token is told about wrong paths and verbs, with a body or without."""
        self.assertEqual(self.call("GET /api/child/traffics").answer.status, 404)
        posted = self.call("POST /api/child/traffic", SERVER + b"Content-Length: 0\r\n").answer
        self.assertEqual((posted.status, posted.headers["allow"]), (405, "GET, HEAD"))
        self.assertIs(posted.json["success"], False)

    def test_leaves_no_timer(self) -> None:
        """A connection that is over leaves nothing to do."""
        caller = self.call("GET /api/child/traffic")
        caller.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])
