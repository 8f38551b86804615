"""The pure parts of the history check: what each rule may and must count, and the silence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.history import Found
from benchmarks.history_checks import USER, Checks
from benchmarks.history_model import Account, JulyLedger, NoRun, Silence, run_of
from benchmarks.history_traffic import Passed
from mmwagent.testing.ledger import TrafficLedger
from mmwagent.testing.records import HTTP, AgentRecord, Report, Violation
from mmwagent.testing.wire import Counter, Heartbeat, Stats

DOWN: Counter = ("user", USER, "downlink")
UP: Counter = ("user", USER, "uplink")
BOOT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def boot(run: int) -> datetime:
    """Return when Xray was started for this run."""
    return BOOT + timedelta(hours=run)


def marker(run: int) -> Counter:
    """Return a counter of the outbound that marks a run."""
    return ("outbound", f"run-{run}", "downlink")


def report(run: int, down: int | None = None) -> Stats:
    """Return a snapshot of a run, with the user's bytes where the user is known."""
    return {marker(run): 0} if down is None else {marker(run): 0, DOWN: down}


class RunTests(SynchronousTestCase):
    """Which run a snapshot is of."""

    def test_marker(self) -> None:
        """It is told by the outbound that marks it; older ones may be there as zero."""
        self.assertEqual(run_of(report(7, 5)), 7)
        self.assertEqual(run_of({**report(9), **report(10)}), 10)

    def test_no_marker(self) -> None:
        """Without a marker it cannot be told; other names that look alike are none."""
        for snapshot in ({}, {DOWN: 5}, {("inbound", "run-1", "uplink"): 0}):
            self.assertRaises(NoRun, run_of, snapshot)


class JulyTests(SynchronousTestCase):
    """The July master's rule."""

    def setUp(self) -> None:
        """Count 100 bytes of a first run."""
        self.ledger = JulyLedger()
        self.ledger.heartbeat(boot(1))
        self.ledger.traffic({DOWN: 100})

    def counted(self, *values: int) -> int:
        """Report these values, and return the sum so far."""
        for value in values:
            self.ledger.traffic({DOWN: value})
        return self.ledger.totals[DOWN]

    def test_growth(self) -> None:
        """A first value counts in full, then what it grew by."""
        self.assertEqual(self.counted(100, 130), 130)
        self.assertEqual(self.ledger.restarts, 0)

    def test_restart_told(self) -> None:
        """After another boot time the value counts in full, above the old one too, and once."""
        self.ledger.heartbeat(boot(2))
        self.assertEqual(self.counted(150, 160), 260)
        self.assertEqual(self.ledger.restarts, 1)

    def test_restart_not_told(self) -> None:
        """Without a new boot time the first value after a fall counts as nothing."""
        self.assertEqual(self.counted(40, 50), 110)

    def test_restart_told_late(self) -> None:
        """Where two reports precede the boot time their bytes count twice."""
        self.counted(40, 50)
        self.ledger.heartbeat(boot(2))
        self.assertEqual(self.counted(60), 100 + 10 + 60)

    def test_heartbeat_without(self) -> None:
        """A heartbeat while Xray is down says nothing of a restart."""
        self.ledger.heartbeat(None)
        self.assertEqual(self.counted(130), 130)

    def test_killed(self) -> None:
        """A master that was killed does not see the restart that came meanwhile."""
        self.ledger.forget()
        self.ledger.heartbeat(boot(2))
        self.assertEqual(self.counted(40, 50), 110)
        self.ledger.heartbeat(boot(3))
        self.assertEqual(self.counted(20), 130)


class AccountTests(SynchronousTestCase):
    """What is right, what each rule misses, and which reports are wrong in themselves."""

    def setUp(self) -> None:
        """Take 100 bytes of run 1."""
        self.account = Account()
        self.account.heartbeat(1)
        self.assertEqual(self.account.report(report(1, 100)), [])

    def take(self, *snapshots: Stats) -> list[str]:
        """Take snapshots, and return what is wrong with them."""
        return [problem for each in snapshots for problem in self.account.report(each)]

    def test_right(self) -> None:
        """The right sum is that of the last report of each run."""
        self.assertEqual(self.take(report(1, 130), report(2, 20), report(2, 30)), [])
        self.assertEqual(self.account.right()[DOWN], 160)
        self.assertEqual(self.account.may_misses, {})
        self.assertEqual(self.account.july_misses, {})

    def test_hidden_from_may(self) -> None:
        """A new run at or above the old value hides the restart: the old value is missing."""
        for value in (100, 300):
            with self.subTest(value=value):
                self.setUp()
                self.assertEqual(self.take(report(2, value), report(2, value + 1)), [])
                self.assertEqual(self.account.may_misses, {DOWN: 100})
                self.assertEqual(self.account.hidden_from_may, {2})
                self.assertEqual(self.account.july_misses, {})

    def test_hidden_from_july(self) -> None:
        """After its own kill the July master misses what is no growth, in one report only."""
        self.account.master_killed()
        self.take(report(2, 40), report(2, 50), report(3, 45))
        self.assertEqual(self.account.july_misses, {DOWN: 40})
        self.account.master_killed()
        self.take(report(4, 70))
        self.assertEqual(self.account.july_misses, {DOWN: 40 + 45})
        self.assertEqual(self.account.hidden_from_july, {2, 4})

    def test_killed_in_the_middle_of_a_run(self) -> None:
        """A kill of the master during a run hides nothing."""
        self.account.master_killed()
        self.take(report(1, 120), report(2, 10))
        self.assertEqual(self.account.july_misses, {})

    def test_fall(self) -> None:
        """A counter that falls within a run is wrong."""
        self.assertEqual(self.take(report(1, 90)), [f"user {USER} downlink fell from 100 to 90"])

    def test_old_run(self) -> None:
        """A report of a run that is over, after one of the next, is wrong."""
        self.assertEqual(
            self.take(report(2, 5), report(1, 100)), ["a report of run 1 came after one of run 2"]
        )

    def test_late_user(self) -> None:
        """A user without a zero at the begin of a run is wrong, if the agent knew of the user."""
        self.assertEqual(
            self.take(report(2), report(2, 40)),
            [f"user {USER} downlink came late: it began without a zero"],
        )

    def test_late_user_of_another_agent(self) -> None:
        """An agent that was killed cannot know; what the July master misses by it is known."""
        self.account.heartbeat(2)
        self.assertEqual(self.take(report(2), report(2, 40)), [])
        self.assertEqual((self.account.may_misses, self.account.july_misses), ({}, {DOWN: 40}))

    def test_no_run(self) -> None:
        """A report of no run is wrong, and changes nothing."""
        self.assertEqual(self.take({DOWN: 7}), ["a report with the counters of no run"])
        self.assertEqual(self.account.right()[DOWN], 100)

    def test_differences(self) -> None:
        """A ledger that is above or below what is right, less what it misses, differs."""
        differences = self.account.differences
        self.assertEqual(differences({DOWN: 100}, {}), [])
        self.assertEqual(differences({DOWN: 70}, {DOWN: 30}), [])
        for counted in (99, 101):
            (said,) = differences({DOWN: counted}, {})
            self.assertEqual(said, f"user {USER} downlink: counted {counted}, and right is 100")
        self.assertEqual(len(differences({}, {})), 1)


STEPS = st.one_of(
    st.tuples(st.just("bytes"), st.integers(0, 1000)),
    st.tuples(st.just("report"), st.booleans()),
    st.tuples(st.sampled_from(["xray", "agent", "master"]), st.none()),
)


class AgreementTests(SynchronousTestCase):
    """A good agent's reports give each ledger exactly what the model says."""

    @settings(deadline=None, max_examples=300)
    @given(st.lists(STEPS, max_size=60))
    def test_agrees(self, steps: list[tuple[str, object]]) -> None:
        """Whatever is killed when, no sum differs, and none is above what passed."""
        run, agent, value, passed = 1, 1, 0, 0
        told: set[Counter] = set()
        account, july, may = Account(), JulyLedger(), TrafficLedger()
        for what, detail in [*steps, ("report", True)]:
            if what == "bytes":
                assert isinstance(detail, int)
                value, passed = value + detail, passed + detail
            elif what == "xray":
                run, value = run + 1, 0
            elif what == "agent":
                agent, told = agent + 1, set()
            elif what == "master":
                account.master_killed()
                july.forget()
            else:
                # The user is known to Xray from the first byte on, to the agent for its life.
                snapshot = {**dict.fromkeys(told, 0), **report(run, value or None)}
                told |= snapshot.keys()
                account.heartbeat(agent)
                july.heartbeat(boot(run))
                july.traffic(snapshot)
                may.take(snapshot)
                self.assertEqual(account.report(snapshot), [])
            self.assertEqual(account.differences(may.totals, account.may_misses), [])
            self.assertEqual(account.differences(july.totals, account.july_misses), [])
            self.assertLessEqual(may.totals.get(DOWN, 0), passed)
            self.assertLessEqual(july.totals.get(DOWN, 0), passed)


class SilenceTests(SynchronousTestCase):
    """How long no report came though all was whole."""

    def setUp(self) -> None:
        """Break the network, mend it at 10."""
        self.silence = Silence()
        self.silence.broke("network", 5)
        self.silence.mended("network", 10)

    def found(self) -> tuple[float, float]:
        """Return both."""
        return self.silence.recovery, self.silence.gap

    def test_both(self) -> None:
        """The first report ends a recovery, later ones end gaps, and the longest count."""
        for at in (14, 15, 17, 17.5):
            self.silence.reported(at)
        self.assertEqual(self.found(), (4, 2))

    def test_broken_off(self) -> None:
        """A wait that something breaks off counts as far as it went, and time broken does not."""
        self.silence.broke("xray", 13)
        self.silence.mended("xray", 50)
        self.silence.reported(51)
        self.assertEqual(self.found(), (3, 0))
        self.silence.broke("xray", 53)
        self.assertEqual(self.found(), (3, 2))

    def test_several(self) -> None:
        """All is whole once the last is mended; a report meanwhile ends nothing."""
        self.silence.broke("agent", 10)
        self.silence.broke("xray", 11)
        self.silence.mended("agent", 20)
        self.silence.reported(25)
        self.silence.mended("xray", 30)
        self.silence.reported(36)
        self.assertEqual(self.found(), (6, 0))


class ChecksTests(SynchronousTestCase):
    """Each claim breaks when it has to."""

    def setUp(self) -> None:
        """Have a master's record of an agent, and 100 bytes that passed in run 1."""
        self.found = Found(1, 60.0)
        self.passed = Passed()
        self.checks = Checks(self.found, self.passed, lambda: 0.0)
        self.checks.run = 1
        self.passed.handed[1, "downlink"] = 100
        self.record = AgentRecord("vps", "token", BOOT)
        self.told(1)

    def told(self, run: int) -> None:
        """Have a heartbeat."""
        self.record.beat(Heartbeat(BOOT, boot(run), 23889), HTTP, 0.0)
        self.checks.observe(self.record, Report(HTTP, "heartbeat", {}, 0.0))

    def reported(self, run: int, down: int) -> None:
        """Have a report, as the master notes it."""
        payload = {
            "stats": {
                "outbound": {f"run-{run}": {"uplink": 0, "downlink": 0}},
                "user": {USER: {"uplink": 0, "downlink": down}},
            }
        }
        both = {**report(run, down), UP: 0, ("outbound", f"run-{run}", "uplink"): 0}
        self.record.traffic.take(both)
        self.checks.observe(self.record, Report(HTTP, "traffic", payload, 0.0))

    def broken(self) -> list[str]:
        """Sum up, and return the claims that do not hold."""
        self.checks.sum_up(self.record)
        return sorted(self.found.broken)

    def test_all_is_well(self) -> None:
        """With all that passed reported, every claim holds and nothing is lost."""
        self.reported(1, 100)
        self.assertEqual(self.broken(), [])
        self.assertEqual(self.found.lost_at_most, {"uplink": 0, "downlink": 0})
        self.assertEqual((self.found.may["downlink"], self.found.july["downlink"]), (100, 100))
        self.assertIn("all claims hold", str(self.found))

    def test_more_than_passed(self) -> None:
        """One byte more than passed breaks three claims, and the end is not right either."""
        self.reported(1, 101)
        self.assertEqual(
            self.broken(),
            [
                "no more is reported than passed",
                "the July master never counts too much",
                "the May master never counts too much",
                "the end is whole",
            ],
        )

    def test_less_at_the_end(self) -> None:
        """One byte of the last run that is not reported breaks the end."""
        self.reported(1, 99)
        self.assertEqual(self.broken(), ["the end is whole"])

    def test_killed_xray(self) -> None:
        """What a killed Xray took along is lost, and no claim breaks for it."""
        self.reported(1, 60)
        self.checks.read({DOWN: 90}, exactly=False)
        self.checks.run = 2
        self.passed.handed[2, "downlink"] = 50
        self.told(2)
        self.reported(2, 50)
        self.assertEqual(self.broken(), [])
        self.assertEqual(self.found.lost_at_least["downlink"], 30)
        self.assertEqual(self.found.lost_at_most["downlink"], 40)

    def test_zeros_sent(self) -> None:
        """A failed scrape sent as zeros, and the truth after it, makes the May master wrong."""
        self.reported(1, 100)
        self.reported(1, 0)
        self.reported(1, 100)
        self.assertIn("reports follow each other", self.broken())
        self.assertIn("the May master never counts too much", self.found.broken)

    def test_no_heartbeat(self) -> None:
        """A restart that no heartbeat told makes the July master wrong."""
        self.reported(1, 100)
        self.checks.run = 2
        self.passed.handed[2, "downlink"] = 50
        self.reported(2, 50)
        self.assertEqual(self.broken(), ["the July master counts what its rule has to give"])

    def test_violation(self) -> None:
        """A violation of the wire breaks a claim, and the first one is told."""
        for rule in ("order", "shape"):
            self.checks.observe(self.record, Violation(rule, "seen", 0.0))
        self.reported(1, 100)
        self.assertEqual(self.broken(), ["the wire is kept to"])
        self.assertIn("BROKEN: the wire is kept to; first: order: seen", str(self.found))

    def test_reading(self) -> None:
        """A reading may be below what passed while bytes are under way, never above."""
        for read, exactly, breaks in ((99, False, 0), (99, True, 1), (101, False, 1)):
            with self.subTest(read=read, exactly=exactly):
                self.found.broken.clear()
                self.checks.read({DOWN: read}, exactly)
                self.assertEqual(len(self.found.broken), breaks)

    def test_silence(self) -> None:
        """Too long a silence breaks a claim."""
        self.reported(1, 100)
        self.checks.silence.gap = 5.1
        self.assertEqual(self.broken(), ["no silence while all is whole"])

    def test_refused_report(self) -> None:
        """A report that the master did not take counts for nothing."""
        self.checks.observe(self.record, Report(HTTP, "traffic", {"stats": {}}, 0.0, False))
        self.reported(1, 100)
        self.assertEqual(self.broken(), [])
        self.assertEqual(self.found.reports["traffic by http"], 1)

    def test_json(self) -> None:
        """What was found goes from one process to the other as one line."""
        self.reported(1, 100)
        self.broken()
        line = self.found.to_json()
        self.assertNotIn("\n", line)
        self.assertEqual(str(Found.from_json(line)), str(self.found))
