"""Tests of the policy: which head of a request opens what (README, 认证机制; protocol 5.2)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from mmwagent.credentials import Credentials
from mmwagent.manage import gate
from mmwagent.manage.gate import Gate
from mmwagent.manage.heads import RequestHead

SERVER = "the-server-token"
CHILD = "the-child-token"
UA = b"miaomiaowux/0.1"
GO = b"Go-http-client/1.1"
BOTH = Credentials(SERVER, CHILD)
MANAGE = b"/api/child/system/info"
PULLS = (b"/api/child/traffic", b"/api/child/speed")


def bearer(token: str) -> tuple[bytes, bytes]:
    """Return the header the master sends."""
    return (b"Authorization", b"Bearer " + token.encode())


def request(
    target: bytes,
    *headers: tuple[bytes, bytes],
    method: bytes = b"GET",
    agents: tuple[bytes, ...] = (UA,),
) -> RequestHead:
    """Return a head with `headers` and a User-Agent header for each of `agents`."""
    built = Headers()
    for name, value in (*headers, *((b"User-Agent", agent) for agent in agents)):
        built.addRawHeader(name, value)
    return RequestHead(method, target, built, "192.0.2.7")


class GateTests(SynchronousTestCase):
    """What the tests of the gate share."""

    def setUp(self) -> None:
        """Collect what is logged."""
        self.events: list[Any] = []
        self.patch(gate, "log", Logger(observer=self.events.append))

    def assert_in(self, head: RequestHead, credentials: Credentials = BOTH) -> None:
        """Check that a strict gate lets the request in."""
        self.assertIs(Gate(credentials, False).authorise(head), True, head)

    def assert_out(self, head: RequestHead, credentials: Credentials = BOTH) -> None:
        """Check that a strict gate does not let the request in."""
        self.assertIs(Gate(credentials, False).authorise(head), False, head)


class TokenTests(GateTests):
    """Where a token may stand, and how."""

    def test_each_place_and_spelling(self) -> None:
        """A right token is taken from each of the three headers, Authorization in three forms."""
        token = SERVER.encode()
        for header in (
            (b"Authorization", b"Bearer " + token),
            (b"Authorization", b"bearer " + token),
            (b"Authorization", b"BEARER   " + token + b" "),
            (b"Authorization", token),
            (b"X-Remote-Token", token),
            (b"x-remote-token", token),
            (b"MM-Remote-Token", token),
        ):
            with self.subTest(header=header):
                self.assert_in(request(MANAGE, header))

    def test_wrong_ones(self) -> None:
        """A token that is wrong, cut, continued, of another case or scheme lets nobody in."""
        token = SERVER.encode()
        for value in (
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer " + token[:-1],
            b"Bearer " + token + b"x",
            b"Bearer " + token.upper(),
            b"Bearer Bearer " + token,
            b"Bearer" + token,
            b"Basic " + token,
            b"Token " + token,
            token + b", " + token,
            b"\xff\xfe",
        ):
            with self.subTest(value=value):
                self.assert_out(request(MANAGE, (b"Authorization", value)))

    def test_no_token_offered(self) -> None:
        """The right User-Agent alone opens nothing."""
        self.assert_out(request(MANAGE))

    def test_other_places_do_not_count(self) -> None:
        """A token in a cookie, in another header or in the query opens nothing."""
        token = SERVER.encode()
        self.assert_out(request(MANAGE, (b"Cookie", b"token=" + token), (b"X-Token", token)))
        self.assert_out(request(MANAGE + b"?token=" + token))

    def test_any_right_header_is_enough(self) -> None:
        """A Basic Authorization of a proxy in between does not mask a right X-Remote-Token."""
        basic = (b"Authorization", b"Basic dXNlcjpwYXNz")
        self.assert_in(request(MANAGE, basic, (b"X-Remote-Token", SERVER.encode())))
        self.assert_in(request(MANAGE, basic, (b"MM-Remote-Token", SERVER.encode())))
        self.assert_out(request(MANAGE, basic, (b"X-Remote-Token", b"wrong")))

    def test_header_that_is_there_twice(self) -> None:
        """Two headers of one name offer no token, the right one first, last or in both."""
        wrong = (b"Authorization", b"Bearer wrong")
        right = bearer(SERVER)
        for headers in ((right, wrong), (wrong, right), (right, right)):
            with self.subTest(headers=headers):
                self.assert_out(request(MANAGE, *headers))
        twice = [(b"X-Remote-Token", SERVER.encode())] * 2
        self.assert_out(request(MANAGE, *twice))

    def test_rotation_counts_at_once(self) -> None:
        """The token in force is asked for at each request: the master uses a new one at once."""
        credentials = Credentials("old", None)
        door = Gate(credentials, False)
        self.assertTrue(door.authorise(request(MANAGE, bearer("old"))))
        credentials.server_token = "new"
        self.assertFalse(door.authorise(request(MANAGE, bearer("old"))))
        self.assertTrue(door.authorise(request(MANAGE, bearer("new"))))

    @given(st.binary(max_size=40))
    def test_no_bytes_raise(self, value: bytes) -> None:
        """Whatever bytes are offered, the answer is no, not an exception."""
        self.assert_out(request(MANAGE, (b"Authorization", value), (b"X-Remote-Token", value)))


class UserAgentTests(GateTests):
    """The User-Agent has to be the one of the family, exactly."""

    def test_wrong_ones(self) -> None:
        """Another User-Agent, none, an empty one, another case, two: none is let in."""
        for agents in (
            (),
            (b"",),
            (b"curl/8.5.0",),
            (GO,),
            (b"Miaomiaowux/0.1",),
            (b"MIAOMIAOWUX/0.1",),
            (UA + b"0",),
            (UA[:-1],),
            (b"x " + UA,),
            (UA, UA),
            (UA, GO),
            (GO, UA),
        ):
            with self.subTest(agents=agents):
                self.assert_out(request(MANAGE, bearer(SERVER), agents=agents))
                self.assert_out(request(PULLS[0], bearer(SERVER), agents=agents))


class ScopeTests(GateTests):
    """What each of the two tokens opens."""

    def test_server_token(self) -> None:
        """The server token opens everything, by any verb."""
        for target in (MANAGE, *PULLS, b"/", b"*", b"/nothing/there"):
            for method in (b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS"):
                with self.subTest(target=target, method=method):
                    self.assert_in(request(target, bearer(SERVER), method=method))

    def test_child_token_beside_a_server_token(self) -> None:
        """The child token then opens GET of traffic and speed, with a query or not."""
        for target in PULLS:
            with self.subTest(target=target):
                self.assert_in(request(target, bearer(CHILD)))
                self.assert_in(request(target + b"?t=1", bearer(CHILD)))
                self.assert_in(request(target, (b"X-Remote-Token", CHILD.encode())))

    def test_child_token_opens_no_more(self) -> None:
        """It opens no other path, no other verb, and no other way to write those two paths."""
        self.assert_out(request(MANAGE, bearer(CHILD)))
        for target in PULLS:
            for method in (b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"get"):
                with self.subTest(target=target, method=method):
                    self.assert_out(request(target, bearer(CHILD), method=method))
            for other in (
                target.replace(b"child", b"%63hild"),
                target.replace(b"/child/", b"%2Fchild%2F"),
                target[:-1] + b"%%%02x" % target[-1],
                target + b"/",
                b"/" + target,
                target.replace(b"/child/", b"//child/"),
                target.replace(b"/child/", b"/./child/"),
                b"/x/.." + target,
                target.upper(),
                target + b";a",
                target + b"#a",
                target + b"\x00",
                target + b"s",
                b"http://192.0.2.1" + target,
                MANAGE + b"?" + target,
            ):
                with self.subTest(other=other):
                    self.assert_out(request(other, bearer(CHILD)))

    def test_child_token_alone(self) -> None:
        """Where it is the only token there is, it opens everything."""
        alone = Credentials(None, CHILD)
        self.assert_in(request(MANAGE, bearer(CHILD)), alone)
        self.assert_in(request(MANAGE, bearer(CHILD), method=b"POST"), alone)
        self.assert_in(request(PULLS[0], bearer(CHILD)), alone)
        self.assert_out(request(MANAGE, bearer(SERVER)), alone)

    def test_no_token_at_all(self) -> None:
        """Without any token nobody is let in, not even with an empty one."""
        for nothing in (Credentials(None, None), Credentials("", "")):
            self.assert_out(request(MANAGE), nothing)
            self.assert_out(request(MANAGE, (b"Authorization", b"")), nothing)
            self.assert_out(request(PULLS[0], (b"Authorization", b"Bearer ")), nothing)


class AnyUserAgentTests(GateTests):
    """The setting pull_any_user_agent: the master's collector sends Go's own User-Agent."""

    def setUp(self) -> None:
        """Make a gate with the setting on."""
        super().setUp()
        self.lax = Gate(BOTH, True)

    def test_pulls(self) -> None:
        """Either token then opens GET of traffic and speed, whatever the User-Agent, or none."""
        for target in PULLS:
            for token in (SERVER, CHILD):
                for agents in ((GO,), (), (GO, UA), (UA,)):
                    with self.subTest(target=target, token=token, agents=agents):
                        head = request(target, bearer(token), agents=agents)
                        self.assertIs(self.lax.authorise(head), True)

    def test_token_is_still_needed(self) -> None:
        """A wrong token or none is refused."""
        self.assertFalse(self.lax.authorise(request(PULLS[0], bearer("wrong"), agents=(GO,))))
        self.assertFalse(self.lax.authorise(request(PULLS[0], agents=(GO,))))

    def test_nothing_else_is_relaxed(self) -> None:
        """Everything but those two still wants the User-Agent."""
        for head in (
            request(MANAGE, bearer(SERVER), agents=(GO,)),
            request(PULLS[0], bearer(SERVER), agents=(GO,), method=b"POST"),
            request(PULLS[0], bearer(SERVER), agents=(GO,), method=b"HEAD"),
            request(b"/api/child/%74raffic", bearer(SERVER), agents=(GO,)),
        ):
            with self.subTest(head=head):
                self.assertIs(self.lax.authorise(head), False)
        self.assertIs(self.lax.authorise(request(MANAGE, bearer(SERVER))), True)


class HintTests(GateTests):
    """What an operator is told when a master cannot pull for its User-Agent alone."""

    def test_said_once(self) -> None:
        """The first such request gives one warning with the setting's name; later ones nothing."""
        strict = Gate(BOTH, False)
        for target in PULLS:
            self.assertFalse(strict.authorise(request(target, bearer(CHILD), agents=(GO,))))
        [event] = self.events
        self.assertIs(event["log_level"], LogLevel.warn)
        text = event["log_format"].format(**event)
        self.assertIn("pull_any_user_agent: true", text)
        self.assertIn("192.0.2.7", text)
        self.assertIn("miaomiaowux/0.1", text)

    def test_tells_no_secret(self) -> None:
        """No field of the event holds a token."""
        for token in (SERVER, CHILD):
            Gate(BOTH, False).authorise(request(PULLS[0], bearer(token), agents=(GO,)))
        self.assertEqual(len(self.events), 2)
        for secret in (SERVER, CHILD):
            self.assertNotIn(secret, repr(self.events))

    def test_not_said_of_others(self) -> None:
        """A wrong token, another path, or a request that is let in is worth no word."""
        strict = Gate(BOTH, False)
        strict.authorise(request(PULLS[0], bearer("wrong"), agents=(GO,)))
        strict.authorise(request(PULLS[0], agents=(GO,)))
        strict.authorise(request(MANAGE, bearer(SERVER), agents=(GO,)))
        strict.authorise(request(PULLS[0], bearer(SERVER)))
        Gate(BOTH, True).authorise(request(PULLS[0], bearer(SERVER), agents=(GO,)))
        self.assertEqual(self.events, [])


class HealthTests(GateTests):
    """What is open to all."""

    def test_open(self) -> None:
        """GET and HEAD of /health need neither token nor User-Agent, nor any token to exist."""
        for method in (b"GET", b"HEAD"):
            with self.subTest(method=method):
                self.assert_in(request(b"/health", method=method, agents=()))
                self.assert_in(request(b"/health", method=method, agents=(GO, GO)))
                self.assert_in(request(b"/health", method=method), Credentials(None, None))
        self.assert_in(request(b"/health", (b"Content-Length", b"0"), agents=()))

    def test_open_in_this_form_only(self) -> None:
        """Any other way to write it, and any other verb, needs all that others need."""
        for target in (
            b"/health?",
            b"/health?a=b",
            b"//health",
            b"/health/",
            b"/Health",
            b"/healthz",
            b"/health#",
            b"/health;a",
            b"/%68ealth",
            b"/x/../health",
            b"/./health",
            b"health",
            b"http://192.0.2.1/health",
            b"*",
            b"/",
        ):
            with self.subTest(target=target):
                self.assert_out(request(target, agents=()))
        for method in (b"POST", b"PUT", b"OPTIONS", b"get", b"Head", b"TRACE"):
            with self.subTest(method=method):
                self.assert_out(request(b"/health", method=method, agents=()))

    def test_not_with_a_body(self) -> None:
        """Who shows no token cannot have a body kept in memory, however it is announced."""
        for headers in (
            ((b"Content-Length", b"1"),),
            ((b"Content-Length", b"8388608"),),
            ((b"Content-Length", b"0"), (b"Content-Length", b"0")),
            ((b"Transfer-Encoding", b"chunked"),),
            ((b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked")),
        ):
            with self.subTest(headers=headers):
                self.assert_out(request(b"/health", *headers))
                self.assert_in(request(b"/health", *headers, bearer(SERVER)))
