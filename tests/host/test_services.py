"""Tests of who looks after services, and of the words for what went wrong."""

from __future__ import annotations

from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.openrc import OpenRC
from mmwagent.host.services import (
    Busy,
    ByWhoeverRunsIt,
    NotInstalled,
    Refused,
    ServiceFailed,
    Services,
    ServiceState,
    services,
)
from mmwagent.host.systemd import Systemd
from tests.host.commands import Commands

STOPPED = ServiceState(False, None, "stopped")
RUNNING = ServiceState(True, 7, "running")


@define
class Notes:
    """Services that write down what they are asked for."""

    name: str = "notes"
    stands: ServiceState | Exception = STOPPED
    asked: list[tuple[str, str]] = field(factory=list)

    async def state(self, service: str) -> ServiceState:
        """Return how it stands."""
        if isinstance(self.stands, Exception):
            raise self.stands
        return self.stands

    async def control(self, service: str, action: str) -> None:
        """Note the action."""
        self.asked.append((service, action))

    async def last_lines(self, service: str, count: int = 20) -> list[str]:
        """Return who was asked."""
        return [self.name, str(count)]


class ChoiceTests(SynchronousTestCase):
    """Who looks after services here."""

    def chosen(self, *directories: str) -> Services:
        """Return who is chosen on a machine with these directories."""
        root = Path(self.mktemp())
        for directory in ("run", *directories):
            (root / directory).mkdir(parents=True, exist_ok=True)
        self.unmanaged = Notes()
        return services(Commands({}), unmanaged=self.unmanaged, root=str(root))

    def test_systemd(self) -> None:
        """It is systemd where systemd was booted."""
        chosen = self.chosen("run/systemd/system", "run/openrc")
        assert isinstance(chosen, ByWhoeverRunsIt)
        self.assertIsInstance(chosen.manager, Systemd)
        self.assertIs(chosen.unmanaged, self.unmanaged)
        self.assertEqual(chosen.name, "systemd")

    def test_openrc(self) -> None:
        """It is OpenRC where OpenRC was booted."""
        chosen = self.chosen("run/openrc", "run/systemd")
        assert isinstance(chosen, ByWhoeverRunsIt)
        self.assertIsInstance(chosen.manager, OpenRC)

    def test_nobody(self) -> None:
        """It is nobody where the tools are at most installed."""
        self.assertIs(self.chosen("usr/bin", "etc/init.d"), self.unmanaged)


class ByWhoeverRunsItTests(SynchronousTestCase):
    """A manager, and processes beside it."""

    def setUp(self) -> None:
        """Let the service be stopped on both sides."""
        self.manager, self.unmanaged = Notes("manager"), Notes("unmanaged")
        self.both = ByWhoeverRunsIt(self.manager, self.unmanaged)

    def assert_keeper(self, name: str) -> None:
        """Assert who is asked for everything."""
        keeper = {"manager": self.manager, "unmanaged": self.unmanaged}[name]
        state = Deferred.fromCoroutine(self.both.state("xray"))
        self.assertEqual(self.successResultOf(state), keeper.stands)
        self.successResultOf(Deferred.fromCoroutine(self.both.control("xray", "stop")))
        self.assertEqual(self.manager.asked + self.unmanaged.asked, [("xray", "stop")])
        self.assertEqual(keeper.asked, [("xray", "stop")])
        lines = Deferred.fromCoroutine(self.both.last_lines("xray", 3))
        self.assertEqual(self.successResultOf(lines), [name, "3"])

    def test_manager_runs_it(self) -> None:
        """What the manager runs is the manager's, also where a process was started by hand."""
        self.manager.stands = self.unmanaged.stands = RUNNING
        self.assert_keeper("manager")

    def test_manager_is_at_it(self) -> None:
        """So is what it is about to start or to stop: a process seen then is its own."""
        self.manager.stands = ServiceState(False, None, "activating", changing=True)
        self.unmanaged.stands = RUNNING
        self.assert_keeper("manager")

    def test_by_hand(self) -> None:
        """A service that runs though the manager does not run it was started by hand."""
        self.unmanaged.stands = RUNNING
        self.assert_keeper("unmanaged")

    def test_stopped(self) -> None:
        """A service that nobody runs is the manager's."""
        self.assert_keeper("manager")

    def test_unknown(self) -> None:
        """A service that the manager has never heard of is not."""
        self.manager.stands = ServiceState(False, None, "no such unit", known=False)
        self.assert_keeper("unmanaged")

    def test_unreachable(self) -> None:
        """Where the manager cannot be asked, nothing is done behind its back."""
        self.manager.stands = ServiceFailed("no bus")
        self.unmanaged.stands = RUNNING
        control = Deferred.fromCoroutine(self.both.control("xray", "stop"))
        self.failureResultOf(control, ServiceFailed)
        self.assertEqual(self.unmanaged.asked, [])


class ExceptionTests(SynchronousTestCase):
    """What callers can tell by an exception."""

    def test_nothing_done(self) -> None:
        """What is raised before anything is done can be told from what is raised later."""
        for kind in (Busy, NotInstalled, Refused):
            self.assertTrue(getattr(kind("x"), "nothing_done", False))
        self.assertFalse(getattr(ServiceFailed("x"), "nothing_done", False))
