"""Everything killed at random: no byte counts twice, and none is lost but with its Xray."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from benchmarks.history_scene import History
from tests.integration.helpers import peer

SEED = 21  # all sorts of kills and cuts; without the zeros of the tally it breaks
SECONDS = 35.0


class HistoryTests(TestCase):
    """A short history; `python -m benchmarks history` makes long ones."""

    timeout = 150

    def test_short(self) -> Deferred[None]:
        """A May and a July master count what passed, exactly as their rules have it."""
        return Deferred.fromCoroutine(self.short())

    async def short(self) -> None:
        """Make the history, and print what it came to."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        found = await History(reactor, directory, peer("xray"), SECONDS, SEED).run()
        print(f"\n{found}")
        self.assertEqual(found.broken, {})
        for way in ("uplink", "downlink"):
            self.assertGreater(found.passed[way], 0)
        for what in ("kills of the agent", "kills of the master"):
            self.assertGreater(found.kills[what], 0)
