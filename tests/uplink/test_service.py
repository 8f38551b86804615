"""The uplink as a service, mode by mode."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.service import Uplink
from tests.uplink.helpers import FakePush


class Noted:
    """In place of Link and Reporting: notes each input."""

    def __init__(self) -> None:
        self.inputs: list[str] = []
        self.over: Deferred[None] = Deferred()

    def ended(self) -> Deferred[None]:
        """Return what the test fires."""
        return self.over

    def __getattr__(self, name: str) -> Any:
        return lambda: self.inputs.append(name)


class UplinkTests(SynchronousTestCase):
    """What is started, and how it stops."""

    def uplink(self, mode: str) -> Uplink:
        """Start an uplink in `mode`."""
        self.link, self.reporting = Noted(), Noted()
        self.push = FakePush(Clock())
        uplink = Uplink(mode, self.link, self.reporting, self.push)
        uplink.startService()
        return uplink

    def test_modes(self) -> None:
        """Only auto and websocket dial; http posts at once; pull waits to be asked."""
        for mode, link, reporting in (
            ("auto", ["start"], []),
            ("websocket", ["start"], []),
            ("http", [], ["fall_back"]),
            ("pull", [], ["be_pulled"]),
        ):
            with self.subTest(mode=mode):
                self.uplink(mode)
                self.assertEqual(self.link.inputs, link)
                self.assertEqual(self.reporting.inputs, reporting)

    def test_stop(self) -> None:
        """Stopping ends both, cuts posts, and waits for the session to be closed."""
        stopping = self.uplink("auto").stopService()
        self.assertEqual(self.link.inputs[-1], "stop")
        self.assertEqual(self.reporting.inputs[-1], "rest")
        self.assertEqual(self.push.cuts, 1)
        self.assertNoResult(stopping)
        self.link.over.callback(None)
        self.successResultOf(stopping)
