"""Refreshing a token that runs out."""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.address import MasterAddress
from mmwagent.uplink.push import Push
from mmwagent.uplink.refresh import TokenRefresh
from tests.uplink.helpers import SPEED
from tests.uplink.test_push import Master

SOON = {"success": True, "token_expires_soon": True}


class RefreshTests(SynchronousTestCase):
    """A refresh against a master in memory."""

    def setUp(self) -> None:
        """Make a master that gives the token "new"."""
        self.clock = Clock()
        self.master = Master()
        self.master.answer = b'{"success":true,"new_token":"new","expires_at":1}'
        self.agent = RequestTraversalAgent(self.master)
        self.token = "old"
        self.rotated: list[str] = []
        self.saving: Deferred[None] | None = None
        self.push = Push(
            self.clock,
            HTTPClient(self.agent),
            MasterAddress("http://m.test"),
            lambda: self.token,
            "miaomiaowux/0.1",
        )
        self.refresh = TokenRefresh(self.clock, self.push, self.rotate)

    async def rotate(self, token: str) -> None:
        """Put the token in force, and take as long as the test says."""
        self.token = token
        self.rotated.append(token)
        if self.saving is not None:
            await self.saving

    def hear(self, answer: dict[str, Any]) -> None:
        """Hear an answer, and let the bytes flow."""
        self.refresh.heard(answer)
        self.agent.flush()

    def paths(self) -> list[str]:
        """Return the paths asked so far."""
        return [path for _, path, _, _ in self.master.requests]

    def test_not_soon(self) -> None:
        """As long as the master says nothing of an end, nothing is asked."""
        self.hear({"success": True})
        self.hear({"success": True, "token_expires_soon": False})
        self.assertEqual(self.paths(), [])

    def test_refreshed(self) -> None:
        """The master is asked once, by its own header, and the new token put in force."""
        self.hear(SOON)
        self.assertEqual(self.paths(), ["/api/remote/token/refresh"])
        headers = self.master.requests[0][2]
        self.assertEqual(headers.getRawHeaders("MM-Remote-Token"), ["old"])
        self.assertEqual(self.rotated, ["new"])

    def test_pause(self) -> None:
        """The next answers that say the same change nothing for ten minutes."""
        self.master.status = 400
        with capturedLogs() as events:
            for _ in range(20):
                self.hear(SOON)
                self.clock.advance(30)
        self.assertEqual(len(self.paths()), 1)
        self.assertEqual([event["log_level"].name for event in events], ["warn"])
        self.hear(SOON)
        self.assertEqual(len(self.paths()), 2)
        self.assertEqual(self.rotated, [])

    def test_no_token(self) -> None:
        """An answer without a usable token leaves the present one in force."""
        for answer in (b"{}", b'{"new_token":""}', b'{"new_token":5}', b'{"new_token":"a b"}'):
            with self.subTest(answer=answer):
                self.master.answer = answer
                self.clock.advance(600)
                self.hear(SOON)
        self.assertEqual((self.rotated, self.token), ([], "old"))

    def test_no_report_in_between(self) -> None:
        """A report that waits meanwhile goes out with the new token, never with the dead one."""
        self.saving = Deferred()
        self.hear(SOON)
        sent = self.push.send(SPEED)
        self.agent.flush()
        self.assertEqual(len(self.paths()), 1)
        self.saving.callback(None)
        self.agent.flush()
        self.successResultOf(sent)
        self.assertEqual(self.master.requests[1][2].getRawHeaders("X-Remote-Token"), ["new"])

    def test_broken(self) -> None:
        """An unforeseen failure is logged, and the posts go on."""
        self.saving = Deferred()
        self.hear(SOON)
        self.saving.errback(ZeroDivisionError())
        sent = self.push.send(SPEED)
        self.agent.flush()
        self.successResultOf(sent)
