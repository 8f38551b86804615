"""Scripted faults: mmwagent.testing.faults."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing import faults
from mmwagent.testing.faults import AnswerPush, FaultBoard, HangPush, RefuseAuth, SilentAuth


class BoardTests(SynchronousTestCase):
    """Which fault applies when."""

    def setUp(self) -> None:
        """Start an empty board."""
        self.board = FaultBoard()

    def take(self, token: str | None = "t") -> object:
        """Take the fault that applies to an authentication now."""
        return self.board.take(faults.AUTH_FAULTS, token)

    def test_nothing_scripted(self) -> None:
        """An empty board has no fault."""
        self.assertIsNone(self.take())

    def test_until_cleared(self) -> None:
        """Without a count a fault applies until it is cleared."""
        self.board.add(SilentAuth())
        self.assertEqual([self.take(), self.take()], [SilentAuth()] * 2)
        self.assertEqual(self.board.clear(), 1)
        self.assertIsNone(self.take())

    def test_times(self) -> None:
        """With a count it applies so many times and is gone."""
        self.board.add(SilentAuth(), times=2)
        self.assertEqual([self.take() for _ in range(3)], [SilentAuth(), SilentAuth(), None])
        self.assertEqual(self.board.scripted, [])

    def test_bad_count(self) -> None:
        """A count below one is refused."""
        self.assertRaises(ValueError, self.board.add, SilentAuth(), times=0)

    def test_token(self) -> None:
        """A fault for one token is not for others, nor for nobody."""
        self.board.add(SilentAuth(), "t")
        self.assertIsNone(self.take("other"))
        self.assertIsNone(self.take(None))
        self.assertEqual(self.take("t"), SilentAuth())

    def test_order(self) -> None:
        """What was scripted first applies first; the kind must fit."""
        self.board.add(HangPush())
        self.board.add(RefuseAuth(), times=1)
        self.board.add(SilentAuth())
        self.assertEqual([self.take(), self.take()], [RefuseAuth(), SilentAuth()])

    def test_endpoint(self) -> None:
        """A fault for one push endpoint leaves the others alone."""
        self.board.add(AnswerPush(endpoint="speed"))
        self.assertIsNone(self.board.take(faults.PUSH_FAULTS, "t", "traffic"))
        self.assertIsNotNone(self.board.take(faults.PUSH_FAULTS, "t", "speed"))

    def test_clear_one_token(self) -> None:
        """Clearing for a token leaves what is scripted for all."""
        self.board.add(SilentAuth(), "t")
        self.board.add(RefuseAuth())
        self.assertEqual(self.board.clear("t"), 1)
        self.assertEqual(self.take(), RefuseAuth())

    def test_remove(self) -> None:
        """One entry can be taken back, also when it is gone already."""
        entry = self.board.add(SilentAuth())
        self.board.remove(entry)
        self.board.remove(entry)
        self.assertIsNone(self.take())

    def test_follows_a_rotation(self) -> None:
        """What is scripted for a token follows it to its successor."""
        self.board.add(SilentAuth(), "old")
        self.board.moved("old", "new")
        self.assertIsNone(self.take("old"))
        self.assertEqual(self.take("new"), SilentAuth())


class NamedTests(SynchronousTestCase):
    """Faults from JSON."""

    def test_every_fault_has_a_name(self) -> None:
        """Each fault of the catalogue can be made by its name alone."""
        for name, kind in faults.CATALOGUE.items():
            self.assertEqual(faults.named(name, {}), kind())
        names = (
            "refuse-upgrade silent-upgrade refuse-auth silent-auth delay-auth drop-session"
            " stop-reading delay-answers answer-push hang-push cut-push delay-push"
        )
        self.assertEqual(list(faults.CATALOGUE), names.split())

    def test_endpoints(self) -> None:
        """A push fault can be for each of the four endpoints."""
        for endpoint in ("traffic", "speed", "heartbeat", "token/refresh"):
            fault = faults.named("hang-push", {"endpoint": endpoint})
            self.assertEqual(fault, HangPush(endpoint))

    def test_arguments(self) -> None:
        """Its fields are its arguments."""
        fault = faults.named("answer-push", {"status": 429, "retry_after": 60})
        self.assertEqual(fault, AnswerPush(429, retry_after=60))

    def test_complaints(self) -> None:
        """A wrong name, field or value is named."""
        for name, arguments, words in (
            ("nope", {}, "unknown fault 'nope'"),
            (None, {}, "unknown fault None"),
            ("silent-auth", {"seconds": 1}, "does not take seconds"),
            ("answer-push", {"status": 700}, "status is 700"),
            ("answer-push", {"status": "500"}, "status is '500'"),
            ("answer-push", {"endpoint": "login"}, "endpoint"),
            ("answer-push", {"taken": "yes"}, "taken"),
            ("delay-auth", {"seconds": -1}, "seconds is -1"),
            ("delay-auth", {"seconds": True}, "seconds is True"),
            ("drop-session", {"messages": 1.5}, "messages is 1.5"),
            ("refuse-auth", {"message": 5}, "message"),
        ):
            error = self.assertRaises(ValueError, faults.named, name, arguments)
            self.assertIn(words, str(error))
