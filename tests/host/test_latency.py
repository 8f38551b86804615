"""Tests of how long connections take (README, 域名延迟探测), all in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionRefusedError,
    NoRouteError,
    TimeoutError,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.names.error import DNSNameError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.latency import (
    AT_ONCE,
    MOST,
    SLACK,
    Latency,
    NoTarget,
    Prober,
    Target,
    clamp_timeout,
    parse_target,
)

NEVER = float("inf")
FIELDS = {"domain", "target", "success", "latency_ms", "error", "nginx_ssl_port"}


class Transport(StringTransport):
    """A connection that knows whether it was reset."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        net.open.append(self)

    def abortConnection(self) -> None:
        """Reset the connection."""
        super().abortConnection()
        self.net.open.remove(self)


@define
class Net:
    """
    Names and hosts in memory.

    `names` are the addresses of each name, after a delay in seconds if given with one; `hosts`
    how long each address takes to answer, or with what it fails. Others answer at once.
    """

    clock: Clock = field(factory=Clock)
    names: dict[str, Any] = field(factory=dict)
    hosts: dict[str, float | Exception] = field(factory=dict)
    asked: list[str] = field(factory=list)
    tried: list[tuple[str, int, float]] = field(factory=list)
    trying: list[str] = field(factory=list)
    given_up: list[str] = field(factory=list)
    most: int = 0
    open: list[Transport] = field(factory=list)

    def resolve(self, name: str) -> Deferred[Sequence[str]]:
        """Give the addresses of `name`."""
        self.asked.append(name)
        found = self.names.get(name, ["127.1.1.1"])
        if isinstance(found, Exception):
            return fail(found)
        if isinstance(found, list):
            return succeed(found)
        addresses, delay = found
        return self.later(delay, addresses, f"name {name}")

    def later(self, delay: float, result: Any, what: str) -> Deferred[Any]:
        """Give `result` after a while, or never; keep book of those still awaited."""

        def cancelled(_: object) -> None:
            self.given_up.append(what)
            if call is not None:
                call.cancel()

        waiting: Deferred[Any] = Deferred(cancelled)
        call = None if delay == NEVER else self.clock.callLater(delay, waiting.callback, result)
        return waiting

    def connect(self, host: str, port: int, timeout: float) -> Endpoint:
        """Give an endpoint."""
        return Endpoint(self, host, port, timeout)


@define
class Endpoint:
    """Behaves as Twisted's for TCP, timeout and cancellation included."""

    net: Net
    host: str
    port: int
    timeout: float

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect, or not, as the host does."""
        net = self.net
        net.tried.append((self.host, self.port, self.timeout))
        outcome = net.hosts.get(self.host, 0.0)
        if isinstance(outcome, Exception):
            return fail(outcome)
        net.trying.append(self.host)
        net.most = max(net.most, len(net.trying))

        def cancelled(one: Deferred[Any]) -> None:
            net.given_up.append(self.host)
            call.cancel()
            net.trying.remove(self.host)
            one.errback(ConnectingCancelledError(f"IPv4Address({self.host})"))

        def over() -> None:
            net.trying.remove(self.host)
            if outcome > self.timeout:
                connecting.errback(TimeoutError())
                return
            protocol: Protocol = factory.buildProtocol(None)
            protocol.makeConnection(Transport(net))
            connecting.callback(protocol)

        connecting: Deferred[Any] = Deferred(cancelled)
        call = net.clock.callLater(min(outcome, self.timeout), over)
        return connecting


def pass_time(clock: Clock, seconds: float) -> None:
    """Let time pass from one timer to the next, so that each finds it as late as it asked for."""
    end = clock.seconds() + seconds
    while any(call.getTime() <= end for call in clock.getDelayedCalls()):
        due = min(call.getTime() for call in clock.getDelayedCalls())
        clock.rightNow = max(due, clock.rightNow)
        clock.advance(0)
    clock.advance(end - clock.seconds())


class TargetTests(SynchronousTestCase):
    """What a text names."""

    def test_forms(self) -> None:
        """Names and addresses are understood with scheme, user, path, port, case and dots."""
        for text, host, port in (
            ("example.com", "example.com", 443),
            ("EXAMPLE.com.", "example.com", 443),
            ("  example.com\n", "example.com", 443),
            ("example.com:8443", "example.com", 8443),
            ("example.com:1", "example.com", 1),
            ("example.com:65535", "example.com", 65535),
            ("https://example.com", "example.com", 443),
            ("http://example.com/path?x=1#y", "example.com", 443),
            ("https://user:pw@Example.com:8443/a@b", "example.com", 8443),
            ("vless+ws://example.com?x=/", "example.com", 443),
            ("*.example.com", "example.com", 443),
            ("_dmarc.a-b.example.com", "_dmarc.a-b.example.com", 443),
            ("[example.com]:80", "example.com", 80),
            ("localhost", "localhost", 443),
            ("127.0.0.1", "127.0.0.1", 443),
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("::1", "::1", 443),
            ("[::1]", "::1", 443),
            ("[::1]:80", "::1", 80),
            ("https://[0:0:0:0:0:0:0:1]:80/", "::1", 80),
            ("2001:DB8::443", "2001:db8::443", 443),
            ("bücher.example", "xn--bcher-kva.example", 443),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah", 443),
            ("a" * 63 + ".example", "a" * 63 + ".example", 443),
            ("a." * 126 + "b", "a." * 126 + "b", 443),
        ):
            with self.subTest(text=text):
                target = parse_target(text)
                self.assertEqual((target.host, target.port), (host, port))

    def test_reported(self) -> None:
        """The domain is reported as it was asked for, the target as it is dialled."""
        self.assertEqual(
            parse_target("https://BÜCHER.example:8443/"),
            Target("bücher.example", "xn--bcher-kva.example", 8443),
        )
        self.assertEqual(str(parse_target("example.com")), "example.com:443")
        self.assertEqual(str(parse_target("::1")), "[::1]:443")

    def test_refused(self) -> None:
        """What names no host is refused, with the reason."""
        for text, words in (
            ("", "no host name"),
            ("   ", "no host name"),
            ("https://", "no host name"),
            ("a..b", "no host name"),
            ("-a.example", "no host name"),
            ("a b", "no host name"),
            ("a\0b", "no host name"),
            ("../../etc/passwd", "no host name"),
            ("\ud800.example", "no host name"),
            ("x" * 64 + ".example", "no host name"),
            ("aa." + "a." * 125 + "b", "no host name"),
            ("example.com:port", "no host name"),
            ("[::1", "no host name"),
            ("[]", "no host name"),
            ("1.2.3", "no address"),
            ("256.1.1.1", "no address"),
            ("example.com:0", "the port must be from 1 to 65535"),
            ("example.com:65536", "the port must be from 1 to 65535"),
            ("[::1]:0", "the port must be from 1 to 65535"),
        ):
            with self.subTest(text=text):
                self.assertEqual(str(self.assertRaises(NoTarget, parse_target, text)), words)

    def test_huge(self) -> None:
        """A huge international name is refused at once: making it ASCII would take minutes."""
        name = "".join(chr(0x4E00 + number) for number in range(8000))
        started = time.process_time()
        self.assertRaises(NoTarget, parse_target, name)
        self.assertLess(time.process_time() - started, 1)

    @given(st.text() | st.text(alphabet="aZ09.:[]@/?#-_*%é。 ", max_size=30))
    def test_any_text(self, text: str) -> None:
        """Any text is a target that names itself again, or is refused."""
        try:
            target = parse_target(text)
        except NoTarget:
            return
        again = parse_target(str(target))
        self.assertEqual((again.host, again.port), (target.host, target.port))
        target.host.encode("ascii")


class TimeoutTests(SynchronousTestCase):
    """How long a connection may take."""

    def test_clamped(self) -> None:
        """2 s where nothing is said, and from 0.2 to 10 s whatever is said."""
        for given_ms, seconds in (
            (0, 2.0),
            (200, 0.2),
            (5000, 5.0),
            (10_000, 10.0),
            (1, 0.2),
            (-5000, 0.2),
            (10_001, 10.0),
            (10**400, 10.0),
        ):
            self.assertEqual(clamp_timeout(given_ms), seconds)


class Case(SynchronousTestCase):
    """A prober on a network in memory."""

    def setUp(self) -> None:
        """Make both."""
        self.net = Net()
        self.clock = self.net.clock
        self.prober = Prober(self.clock, self.net.resolve, self.net.connect)

    def probe(self, texts: Sequence[str], timeout_ms: int = 2000) -> list[Latency]:
        """Probe `texts`, and let all the time pass that this may take, and no more."""
        probing = self.prober.probe(texts, timeout_ms)
        pass_time(self.clock, clamp_timeout(timeout_ms) + 1)
        found: list[Latency] = self.successResultOf(probing)
        self.nothing_left()
        return found

    def one(self, text: str) -> Latency:
        """Probe one name."""
        (latency,) = self.probe([text])
        return latency

    def nothing_left(self) -> None:
        """Check that no connection, attempt or timer is left."""
        self.assertEqual(self.net.open, [])
        self.assertEqual(self.net.trying, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class OutcomeTests(Case):
    """What becomes of one name."""

    def test_answers(self) -> None:
        """A host that answers gives its handshake's milliseconds; the connection is reset."""
        self.net.names["example.com"] = ["127.0.0.5"]
        self.net.hosts["127.0.0.5"] = 1.234
        probing = self.prober.probe(["example.com"], 2000)
        self.clock.advance(1.234)
        (latency,) = self.successResultOf(probing)
        self.assertEqual(latency, Latency("example.com", "example.com:443", True, 1234, ""))
        self.assertEqual(self.net.tried, [("127.0.0.5", 443, 2.0)])
        self.nothing_left()

    def test_at_least_one(self) -> None:
        """A handshake of less than a millisecond is told as one: 0 says there was none."""
        self.assertEqual(self.one("127.0.0.1").latency_ms, 1)

    def test_without_the_name(self) -> None:
        """The time that the name took is no part of the latency."""
        self.net.names["slow.example"] = (["127.0.0.5"], 1.5)
        self.net.hosts["127.0.0.5"] = 0.25
        self.assertEqual(self.one("slow.example").latency_ms, 250)

    def test_addresses_need_no_resolver(self) -> None:
        """An address is dialled as it is, IPv6 without its brackets."""
        self.probe(["127.0.0.1:80", "[::1]:8080"])
        self.assertEqual(self.net.asked, [])
        self.assertEqual(self.net.tried, [("127.0.0.1", 80, 2.0), ("::1", 8080, 2.0)])

    def test_failures(self) -> None:
        """Each failure is told in plain words, with a latency of 0."""
        unknown = "the name cannot be resolved"
        for addresses, host, words in (
            (["127.0.0.5"], ConnectionRefusedError(), "connection refused"),
            (["127.0.0.5"], NoRouteError(), "No route to host."),
            (["127.0.0.5"], NEVER, "no answer within 2000 ms"),
            (DNSNameError(), 0.0, unknown),
            ([], 0.0, unknown),
            (([], 1.0), 0.0, unknown),
            ((["127.0.0.5"], NEVER), 0.0, "the name was not resolved in time"),
            # What is left of the batch's time cuts the connection short.
            ((["127.0.0.5"], 1.9), NEVER, "no answer within 2000 ms"),
            ((["127.0.0.5", "::5"], 1.9), NEVER, "no answer within 2000 ms"),
        ):
            with self.subTest(addresses=addresses, host=host):
                self.net.names["example.com"] = addresses
                self.net.hosts["127.0.0.5"] = self.net.hosts["::5"] = host
                latency = self.one("example.com")
                self.assertEqual(
                    latency, Latency("example.com", "example.com:443", False, 0, words)
                )

    def test_broken_collaborators(self) -> None:
        """Even a resolver or an endpoint that raises is only an outcome."""

        def broken(*_: object) -> Any:
            raise OSError("too many open files")

        self.prober.resolve = broken
        self.assertEqual(self.one("example.com").error, "the name cannot be resolved")
        self.prober.connect = broken
        self.assertEqual(self.one("127.0.0.1").error, "too many open files")

    def test_fields(self) -> None:
        """Every outcome has every field, and JSON can carry it."""
        self.net.hosts["127.0.0.6"] = NEVER
        self.net.names["no.example"] = DNSNameError()
        found = self.probe(["127.0.0.5", "127.0.0.6", "no.example", "a b", "\ud800", ""])
        for latency in found:
            fields = json.loads(json.dumps(latency.fields()))
            self.assertEqual(set(fields), FIELDS)
            self.assertIs(type(fields["latency_ms"]), int)
            self.assertIs(fields["success"], fields["error"] == "")
        self.assertEqual(
            found[0].fields(),
            {
                "domain": "127.0.0.5",
                "target": "127.0.0.5:443",
                "success": True,
                "latency_ms": 1,
                "error": "",
                "nginx_ssl_port": 0,
            },
        )
        self.assertEqual([latency.success for latency in found], [True] + 5 * [False])
        self.assertEqual(found[3], Latency("a b", "", False, 0, "no host name"))


class FamiliesTests(Case):
    """Names with addresses of both families."""

    def both(self, four: float | Exception, six: float | Exception) -> Latency:
        """Probe a name with two addresses of each family."""
        self.net.names["example.com"] = ["127.0.0.5", "::5", "127.0.0.6", "::6"]
        self.net.hosts.update({"127.0.0.5": four, "::5": six})
        return self.one("example.com")

    def test_raced(self) -> None:
        """Both are tried at once, the first address of each; the loser is given up."""
        for four, six, loser in ((0.1, 0.3, "::5"), (NEVER, 0.1, "127.0.0.5")):
            self.net.tried.clear()
            self.net.given_up.clear()
            self.assertEqual(self.both(four, six).latency_ms, 100)
            self.assertEqual({host for host, _, _ in self.net.tried}, {"127.0.0.5", "::5"})
            self.assertEqual(self.net.given_up, [loser])

    def test_one_refused(self) -> None:
        """A family that fails at once does not decide: the other may still answer."""
        for four, six in ((ConnectionRefusedError(), 0.2), (0.2, NoRouteError())):
            self.assertEqual(self.both(four, six).latency_ms, 200)

    def test_both_answer(self) -> None:
        """Where both answer at the same moment both connections are reset."""
        self.assertTrue(self.both(0.1, 0.1).success)

    def test_both_fail(self) -> None:
        """Where both fail it is a failure, once both have."""
        latency = self.both(ConnectionRefusedError(), ConnectionRefusedError())
        self.assertEqual((latency.success, latency.error), (False, "connection refused"))


class BatchTests(Case):
    """Many names at once."""

    def test_half_hang(self) -> None:
        """Of 200 names a half hangs, in DNS or in TCP: the batch ends in timeout and a second."""
        names = [f"n{number}.example" for number in range(200)]
        for number, name in enumerate(names):
            address = f"127.0.1.{number}"
            hangs_in_dns, hangs_in_tcp = number % 4 == 1, number % 4 == 3
            self.net.names[name] = ([address], NEVER) if hangs_in_dns else [address]
            self.net.hosts[address] = NEVER if hangs_in_tcp else 0.05
        probing = self.prober.probe(names, 1500)
        pass_time(self.clock, 1.5 + SLACK - 0.01)
        self.assertNoResult(probing)
        pass_time(self.clock, 0.01)
        self.assertLessEqual(self.clock.seconds(), 1.5 + 1)
        found = self.successResultOf(probing)
        self.assertEqual([latency.domain for latency in found], names)
        for number, latency in enumerate(found):
            words = {1: "the name was not resolved in time", 3: "no answer within 1500 ms"}
            self.assertEqual(latency.error, words.get(number % 4, ""))
            self.assertEqual(latency.latency_ms, 50 if number % 2 == 0 else 0)
        self.nothing_left()

    def test_all_at_once(self) -> None:
        """No name waits for another: all are dialled at once."""
        hosts = [f"127.0.1.{number}" for number in range(200)]
        self.net.hosts = dict.fromkeys(hosts, 0.1)
        self.assertTrue(all(latency.latency_ms == 100 for latency in self.probe(hosts)))
        self.assertEqual(self.net.most, 200)

    def test_same_targets(self) -> None:
        """Ways to write one target give one outcome, another port another."""
        found = self.probe(
            [
                "example.com",
                "EXAMPLE.com",
                "example.com.",
                "https://example.com/",
                "http://example.com",
                "example.com:443",
                "*.example.com",
                " example.com ",
                "example.com:8443",
                "::1",
                "[::1]",
                "[0::1]:443",
                "bücher.example",
                "xn--bcher-kva.example",
                "a b",
                "a b",
            ]
        )
        self.assertEqual(
            [latency.target for latency in found],
            [
                "example.com:443",
                "example.com:8443",
                "[::1]:443",
                "xn--bcher-kva.example:443",
                "",
            ],
        )
        self.assertEqual(len(self.net.tried), 4)

    def test_most(self) -> None:
        """Of more than 200 the first 200 are probed, no matter how often each is named."""
        hosts = [f"127.0.{number // 250}.{number % 250}" for number in range(500)]
        found = self.probe([host for host in hosts for _ in range(3)])
        self.assertEqual([latency.domain for latency in found], hosts[:200])
        self.assertEqual([host for host, _, _ in self.net.tried], hosts[:200])

    def test_no_more_are_read(self) -> None:
        """What is beyond the first 200 is not even looked at."""

        def endless() -> Any:
            yield from (f"127.0.0.{number}" for number in range(MOST))
            raise AssertionError("one more was read")

        probing = self.prober.probe(endless(), 200)
        pass_time(self.clock, 1)
        self.assertEqual(len(self.successResultOf(probing)), MOST)

    def test_none(self) -> None:
        """An empty batch is done at once."""
        self.assertEqual(self.probe([]), [])

    def test_order(self) -> None:
        """Outcomes come in the order of the names, junk among them, whoever answers first."""
        self.net.hosts = {"127.0.0.1": 1.0, "127.0.0.2": 0.1}
        texts = ["127.0.0.1", "junk junk", "127.0.0.2", "127.0.0.3"]
        self.assertEqual([latency.domain for latency in self.probe(texts)], texts)

    def test_junk_costs_no_connection(self) -> None:
        """Junk is told from names before anything is asked or dialled."""
        found = self.probe(["", "a b", "1.2.3", "x:0", "[", "\0", "é" * 5000])
        self.assertEqual([latency.success for latency in found], [False] * 7)
        self.assertEqual((self.net.asked, self.net.tried), ([], []))

    def test_two_batches(self) -> None:
        """A second batch ends in its own time, though the first took up all there may be."""
        hosts = [f"127.{batch}.0.{number}" for batch in (1, 2) for number in range(AT_ONCE)]
        self.net.hosts = dict.fromkeys(hosts, NEVER)
        first = self.prober.probe(hosts[:AT_ONCE], 10_000)
        second = self.prober.probe(hosts[AT_ONCE:], 500)
        pass_time(self.clock, 0.5 + SLACK)
        found = self.successResultOf(second)
        self.assertEqual(
            {latency.error for latency in found}, {"too many other probes are under way"}
        )
        self.assertNoResult(first)
        self.assertEqual(self.net.most, AT_ONCE)
        pass_time(self.clock, 10)
        self.assertEqual(len(self.successResultOf(first)), AT_ONCE)
        self.nothing_left()
        self.assertTrue(self.one("127.0.0.1").success)

    def test_failure_of_one(self) -> None:
        """A name that fails in an unforeseen way leaves the others' outcomes alone."""
        self.net.names["odd.example"] = ZeroDivisionError()
        self.net.hosts["127.0.0.5"] = ValueError("odd")
        found = self.probe(["127.0.0.1", "odd.example", "127.0.0.5", "127.0.0.2"])
        self.assertEqual([latency.success for latency in found], [True, False, False, True])
        self.assertEqual(self.flushLoggedErrors(), [])


class NeverFailsTests(SynchronousTestCase):
    """A batch gives outcomes whatever it is given."""

    @given(
        st.lists(st.sampled_from(["a.example", "b.example", "127.0.0.5", "::5", "junk junk"])),
        st.sampled_from([[], ["127.0.0.5"], ["::5", "127.0.0.5"], DNSNameError()]),
        st.sampled_from([0.0, 0.1, 2.0, NEVER]),
        st.sampled_from([0.0, 0.3, NEVER, ConnectionRefusedError(), NoRouteError()]),
        st.integers(),
    )
    def test_never_fails(
        self, texts: list[str], names: Any, delay: float, host: Any, timeout_ms: int
    ) -> None:
        """Whatever names and hosts do, there is one outcome for each, in time, and no remains."""
        net = Net()
        found = names if isinstance(names, Exception) else (names, delay)
        net.names = {"a.example": found, "b.example": found}
        net.hosts = {"127.0.0.5": host, "::5": host}
        prober = Prober(net.clock, net.resolve, net.connect)
        probing = prober.probe(texts, timeout_ms)
        pass_time(net.clock, clamp_timeout(timeout_ms) + 1)
        outcomes = self.successResultOf(probing)
        self.assertEqual([outcome.domain for outcome in outcomes], list(dict.fromkeys(texts)))
        self.assertEqual((net.open, net.trying), ([], []))
        self.assertNotIsInstance(outcomes, Failure)
