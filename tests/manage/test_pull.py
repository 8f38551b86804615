"""Tests of what the master pulls (README, Pull 模式数据接口; protocol 0.12)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.network import Speed, SpeedUnavailable
from mmwagent.manage.errors import ApiError
from mmwagent.manage.pull import PullResource
from mmwagent.xray.metrics import NoTraffic
from mmwagent.xray.traffic import NOTHING, TrafficSnapshot

REQUEST: Any = None  # none of these looks at it
STATS = {
    "inbound": {"vless-in": {"uplink": 1024, "downlink": 2048}},
    "outbound": {"direct": {"uplink": 512, "downlink": 1024}},
    "user": {"a@example.com": {"uplink": 256, "downlink": 2**53}},
}


def pull(counters: Any = None, sample: Any = None) -> PullResource:
    """Return the resource on two sources, each a Deferred that is given out once."""
    return PullResource(counters=lambda: counters, sample=lambda: sample)


class TrafficTests(SynchronousTestCase):
    """GET /api/child/traffic."""

    def ask(self, resource: PullResource) -> Deferred[dict[str, Any]]:
        """Ask for the traffic."""
        return Deferred.fromCoroutine(resource.traffic(REQUEST))

    def test_shape(self) -> None:
        """The three maps stand under stats, with success beside, as the master wants it."""
        answer = self.successResultOf(self.ask(pull(succeed(TrafficSnapshot(STATS)))))
        self.assertEqual(answer, {"success": True, "stats": STATS})

    def test_no_xray(self) -> None:
        """Where there is nothing to count all three maps are there, empty."""
        answer = self.successResultOf(self.ask(pull(succeed(NOTHING))))
        self.assertEqual(
            answer, {"success": True, "stats": {"inbound": {}, "outbound": {}, "user": {}}}
        )

    def test_silent_xray(self) -> None:
        """An Xray that does not answer is a 503 that says why, never zeros."""
        failing = self.ask(pull(fail(NoTraffic("the Xray of /etc/x.json gives no traffic"))))
        error = self.failureResultOf(failing, ApiError).value
        self.assertEqual(error.status, 503)
        self.assertEqual(error.error, "the Xray of /etc/x.json gives no traffic")
        self.assertEqual(error.headers, {})

    def test_other_failures_pass(self) -> None:
        """A failure that nobody foresaw is not made to look like a lack of traffic."""
        self.failureResultOf(self.ask(pull(fail(ZeroDivisionError()))), ZeroDivisionError)


class SpeedTests(SynchronousTestCase):
    """GET /api/child/speed."""

    def ask(self, resource: PullResource) -> Deferred[dict[str, Any]]:
        """Ask for the speed."""
        return Deferred.fromCoroutine(resource.speed(REQUEST))

    def test_shape(self) -> None:
        """Both speeds are whole numbers of bytes per second, each under its own name."""
        answer = self.successResultOf(
            self.ask(pull(sample=succeed(Speed(upload=102400, download=204800))))
        )
        self.assertEqual(
            answer, {"success": True, "upload_speed": 102400, "download_speed": 204800}
        )

    def test_waits_for_the_first(self) -> None:
        """Asked before the first speed is measured, it answers when that is there."""
        first: Deferred[Speed] = Deferred()
        asked = self.ask(pull(sample=first))
        self.assertNoResult(asked)
        first.callback(Speed(1, 2))
        self.assertEqual(self.successResultOf(asked)["download_speed"], 2)

    def test_unavailable(self) -> None:
        """A speed that cannot be told is a 503 that says why."""
        failing = self.ask(pull(sample=fail(SpeedUnavailable("cannot read the counters"))))
        error = self.failureResultOf(failing, ApiError).value
        self.assertEqual((error.status, error.error), (503, "cannot read the counters"))

    def test_other_failures_pass(self) -> None:
        """A failure that nobody foresaw stays what it is."""
        self.failureResultOf(self.ask(pull(sample=fail(ZeroDivisionError()))), ZeroDivisionError)
