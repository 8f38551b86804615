"""Tests of the latency probe as the master calls it (README, 扫描与探测)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.latency import Latency, Prober
from mmwagent.manage.errors import ApiError
from mmwagent.manage.probes import ProbesResource

FOUND = [
    Latency("example.com", "example.com:443", True, 12, ""),
    Latency("test.org", "test.org:443", False, 0, "connection refused"),
]


class FakeProber:
    """Notes what it is asked, and gives what the test says."""

    def __init__(self, found: Deferred[list[Latency]]) -> None:
        self.found = found
        self.asked: list[tuple[list[str], int]] = []

    def probe(self, texts: Sequence[str], timeout_ms: int) -> Deferred[list[Latency]]:
        """Probe `texts`."""
        self.asked.append((list(texts), timeout_ms))
        return self.found


def ask(prober: Any, body: Any) -> Deferred[dict[str, Any]]:
    """Ask for what `body` says."""
    request: Any = SimpleNamespace(content=BytesIO(json.dumps(body).encode()))
    return Deferred.fromCoroutine(ProbesResource(prober).latency(request))


class LatencyTests(SynchronousTestCase):
    """POST /api/child/domains/latency."""

    def test_shape(self) -> None:
        """Each outcome stands under results with every field, success and count beside."""
        prober = FakeProber(succeed(FOUND))
        asked = ask(prober, {"domains": ["example.com", "test.org"], "timeout_ms": 5000})
        self.assertEqual(
            self.successResultOf(asked),
            {
                "success": True,
                "count": 2,
                "results": [
                    {
                        "domain": "example.com",
                        "target": "example.com:443",
                        "success": True,
                        "latency_ms": 12,
                        "error": "",
                        "nginx_ssl_port": 0,
                    },
                    {
                        "domain": "test.org",
                        "target": "test.org:443",
                        "success": False,
                        "latency_ms": 0,
                        "error": "connection refused",
                        "nginx_ssl_port": 0,
                    },
                ],
            },
        )
        self.assertEqual(prober.asked, [(["example.com", "test.org"], 5000)])

    def test_waits(self) -> None:
        """It answers when the batch has ended, not before."""
        found: Deferred[list[Latency]] = Deferred()
        asked = ask(FakeProber(found), {"domains": ["example.com"]})
        self.assertNoResult(asked)
        found.callback(FOUND)
        self.assertEqual(self.successResultOf(asked)["count"], 2)

    def test_default_timeout(self) -> None:
        """Without a timeout the prober chooses; it is for the prober to keep it in bounds."""
        for body, timeout_ms in (
            ({}, 0),
            ({"timeout_ms": -1}, -1),
            ({"timeout_ms": 99999}, 99999),
        ):
            prober = FakeProber(succeed([]))
            self.successResultOf(ask(prober, {"domains": ["a.example"], **body}))
            self.assertEqual(prober.asked, [(["a.example"], timeout_ms)])

    def test_refused(self) -> None:
        """Fields of a wrong type are a 400 that names the field, and nothing is probed."""
        names = "domains must be a list of texts"
        number = "timeout_ms must be a whole number of milliseconds"
        for body, words in (
            ({}, names),
            ({"domains": None}, names),
            ({"domains": "example.com"}, names),
            ({"domains": {"a.example": 1}}, names),
            ({"domains": ["a.example", 5]}, names),
            ({"domains": ["a.example", None]}, names),
            ({"domains": []}, "domains must name at least one domain, and at most 200 count"),
            ({"domains": ["a.example"], "timeout_ms": "5000"}, number),
            ({"domains": ["a.example"], "timeout_ms": 5000.5}, number),
            ({"domains": ["a.example"], "timeout_ms": True}, number),
            ({"domains": ["a.example"], "timeout_ms": None}, number),
            (["a.example"], "the body must be a JSON object"),
        ):
            with self.subTest(body=body):
                prober = FakeProber(succeed(FOUND))
                error = self.failureResultOf(ask(prober, body), ApiError).value
                self.assertEqual((error.status, error.error), (400, words))
                self.assertEqual(prober.asked, [])

    def test_with_a_prober(self) -> None:
        """Together with the prober: duplicates are probed once, junk and refusals are results."""

        def resolve(name: str) -> Deferred[Sequence[str]]:
            return succeed(["127.0.0.5"])

        class Refusing:
            def connect(self, factory: Any) -> Deferred[Any]:
                return fail(ConnectionRefusedError())

        clock = Clock()
        prober = Prober(clock, resolve, lambda *_: Refusing())
        domains = ["a.example", "https://A.example:443/", "junk junk", "b.example"] * 100
        answer = self.successResultOf(ask(prober, {"domains": domains}))
        self.assertTrue(answer["success"])
        self.assertEqual(answer["count"], 3)
        self.assertEqual(
            [(result["domain"], result["error"]) for result in answer["results"]],
            [
                ("a.example", "connection refused"),
                ("junk junk", "no host name"),
                ("b.example", "connection refused"),
            ],
        )
        self.assertEqual(clock.getDelayedCalls(), [])
