"""Tests of acting on services: one at a time, checked, in time, and seen to be done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import Logger, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.command import Finished
from mmwagent.host.processes import Process
from mmwagent.host.programs import Program, ProgramState
from mmwagent.host.service import ServiceState
from mmwagent.manage import control as control_module
from mmwagent.manage.control import (
    COME_UP,
    DEADLINE,
    GO_DOWN,
    LAST_LINES_DEADLINE,
    MOST_SETTLED,
    SETTLED,
    STARTS,
    STARTS_WITHIN,
    STEP,
    Busy,
    Control,
    NotInstalled,
    Refused,
    ServiceFailed,
)

BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
STOPPED = ServiceState(False, None, "inactive (dead)")
FAILED = ServiceState(False, None, "failed (exit-code, status 23)")
AGAIN = ServiceState(False, None, "activating (auto-restart)", changing=True)

Standing = ServiceState | Exception | Callable[[float], ServiceState]


def running(pid: int | None = 7) -> ServiceState:
    """Return the state of a service that runs."""
    return ServiceState(True, pid, "active (running)")


def process(pid: int) -> Process:
    """Return a process of a service."""
    return Process(pid, "/usr/bin/x", ("x",), "/", BEGAN)


class Machine:
    """
    Services in memory, all standing alike.

    `now` is how they stand, and `becomes` how after each action: a state, or what gives one for
    the seconds since. `takes` is how long an action takes, `check_takes` how long a check.
    """

    name = "services in memory"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.events: list[str] = []
        self.now: Standing = running(5)
        self.becomes: dict[str, Standing] = {
            "start": running(6),
            "restart": running(6),
            "reload": running(5),
            "stop": STOPPED,
        }
        self.since = self.takes = self.check_takes = 0.0
        self.refuses: Exception | None = None
        self.fails: Exception | None = None
        self.processes: list[Process] = []
        self.lines: Any = ["one", "two"]

    async def state(self, service: str) -> ServiceState:
        """Return how it stands."""
        if isinstance(self.now, Exception):
            raise self.now
        if isinstance(self.now, ServiceState):
            return self.now
        return self.now(self.clock.seconds() - self.since)

    async def control(self, service: str, action: str) -> None:
        """Do it."""
        self.events.append(f"{action} {service}")
        await deferLater(self.clock, self.takes)
        if self.fails is not None:
            raise self.fails
        self.now, self.since = self.becomes[action], self.clock.seconds()

    async def last_lines(self, service: str, count: int = 20) -> list[str]:
        """Return what it wrote."""
        if isinstance(self.lines, Exception):
            raise self.lines
        lines: list[str] = await (
            self.lines if isinstance(self.lines, Deferred) else succeed(self.lines)
        )
        return lines

    async def find(self, service: str) -> Sequence[Process]:
        """Return its processes."""
        return self.processes

    def check(self, service: str) -> Callable[[], Awaitable[None]]:
        """Return the check of `service`."""

        async def check() -> None:
            self.events.append(f"check {service}")
            await deferLater(self.clock, self.check_takes)
            if self.refuses is not None:
                raise self.refuses

        return check

    async def around(self, act: Callable[[], Awaitable[None]]) -> None:
        """Report around an action."""
        self.events.append("before")
        try:
            await act()
        finally:
            self.events.append("after")


class ControlCase(SynchronousTestCase):
    """A machine with two programs, one of which is treated as Xray."""

    def setUp(self) -> None:
        """Install them."""
        self.clock = Clock()
        self.machine = Machine(self.clock)
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.binaries = {name: directory / name for name in ("xray", "nginx")}
        programs = {}
        for name, path in self.binaries.items():
            path.write_text("")
            path.chmod(0o755)
            programs[name] = Program(str(path), ("v",), r"v(\d+)", (), self.tell)
        checks = {name: self.machine.check(name) for name in programs}
        machine = self.machine
        self.control = Control(self.clock, machine, programs, machine.find, checks, machine.around)

    def tell(self, argv: Sequence[str], *, timeout: float) -> Deferred[Finished]:
        """Tell a version."""
        return succeed(Finished(0, None, b"v42", b"", False))

    def act(self, action: str, service: str = "xray") -> Deferred[None]:
        """Begin to do `action`."""
        acting = Deferred.fromCoroutine(self.control.act(service, action))
        self.clock.advance(0)
        return acting

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([0.1] * round(seconds * 10))

    def done(self, action: str, service: str = "xray", within: float = 3) -> None:
        """Do `action` to its end."""
        acting = self.act(action, service)
        self.wait(within)
        self.successResultOf(acting)

    def failed(self, action: str, within: float = 30) -> str:
        """Return why `action` failed."""
        acting = self.act(action)
        self.wait(within)
        return str(self.failureResultOf(acting, ServiceFailed).value)


class StepsTests(ControlCase):
    """What is done, and in which order."""

    def test_restart(self) -> None:
        """Checked first, then reported, restarted, and reported again."""
        self.done("restart")
        self.assertEqual(self.machine.events, ["check xray", "before", "restart xray", "after"])

    def test_nginx(self) -> None:
        """Nothing is reported around nginx."""
        self.done("restart", "nginx")
        self.assertEqual(self.machine.events, ["check nginx", "restart nginx"])

    def test_stop(self) -> None:
        """A stop needs no check: nothing is to run with the configuration."""
        self.machine.refuses = Refused("bad")
        self.done("stop")
        self.assertEqual(self.machine.events, ["before", "stop xray", "after"])

    def test_start(self) -> None:
        """A start is checked too."""
        self.machine.now = STOPPED
        self.done("start")
        self.assertEqual(self.machine.events, ["check xray", "before", "start xray", "after"])

    def test_start_of_a_running_one(self) -> None:
        """What runs is not started; it is done at once."""
        self.done("start", within=0)
        self.assertEqual(self.machine.events, [])

    def test_reload(self) -> None:
        """A reload is checked, and leaves the process as it is."""
        self.done("reload", "nginx", within=0.1)
        self.assertEqual(self.machine.events, ["check nginx", "reload nginx"])

    def test_reload_of_xray(self) -> None:
        """Xray would end at the signal for it: that is a defect of whoever asks."""
        self.failureResultOf(self.act("reload"), ValueError)
        self.assertEqual(self.machine.events, [])
        self.done("restart")

    def test_by_name(self) -> None:
        """Each action has a method of its own."""
        control = self.control
        for method, action in (
            (control.stop, "stop"),
            (control.start, "start"),
            (control.restart, "restart"),
            (control.reload, "reload"),
        ):
            acting = Deferred.fromCoroutine(method("nginx"))
            self.wait(3)
            self.successResultOf(acting)
            self.assertEqual(self.machine.events[-1], f"{action} nginx")

    def test_refused(self) -> None:
        """A configuration that is refused leaves the service alone; the words are passed on."""
        self.machine.refuses = Refused("no such protocol")
        for action in ("start", "restart"):
            self.machine.now = running(5) if action == "restart" else STOPPED
            refused = self.failureResultOf(self.act(action), Refused)
            self.assertEqual(str(refused.value), "no such protocol")
        self.assertEqual(self.machine.events, ["check xray", "check xray"])

    def test_not_installed(self) -> None:
        """Without a program nothing is done, and that is said."""
        self.binaries["xray"].unlink()
        for action in ("start", "stop", "restart"):
            failure = self.failureResultOf(self.act(action), NotInstalled)
            self.assertIn("xray is not installed", str(failure.value))
        self.assertEqual(self.machine.events, [])

    def test_removed_but_running(self) -> None:
        """What runs though its program is removed can be stopped, and nothing else."""
        self.binaries["xray"].unlink()
        self.machine.processes = [process(5)]
        self.failureResultOf(self.act("restart"), NotInstalled)
        self.done("stop")


class OneAtATimeTests(ControlCase):
    """Two actions on one service."""

    def test_busy(self) -> None:
        """A second one is refused while the first is under way, whatever it is."""
        self.machine.takes = 2
        first = self.act("restart")
        for action in ("start", "stop", "restart"):
            busy = self.failureResultOf(self.act(action), Busy)
            self.assertEqual(str(busy.value), "xray is being restarted already; try again later")
        self.wait(2)
        self.failureResultOf(self.act("stop"), Busy)  # it is watched still
        self.wait(2)
        self.successResultOf(first)
        self.assertEqual(self.machine.events.count("restart xray"), 1)
        self.assertNotIn("stop xray", self.machine.events)

    def test_other_service(self) -> None:
        """Another service is not concerned."""
        self.machine.takes = 2
        first = self.act("restart")
        second = self.act("restart", "nginx")
        self.wait(4)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_free_again(self) -> None:
        """However an action ends, the next one may begin."""
        self.machine.refuses = Refused("bad")
        self.failureResultOf(self.act("restart"), Refused)
        self.machine.refuses = None
        self.machine.fails = ServiceFailed("no")
        self.failed("restart")
        self.machine.fails = RuntimeError("a defect")
        acting = self.act("restart")
        self.wait(1)
        self.failureResultOf(acting, RuntimeError)
        self.machine.fails = None
        self.done("restart")

    def test_asker_goes_away(self) -> None:
        """Who goes away does not stop what is under way; the next has to wait for its end."""
        self.machine.takes = 2
        acting = self.act("restart")
        self.wait(1)
        acting.cancel()
        self.failureResultOf(acting)
        self.failureResultOf(self.act("stop"), Busy)
        self.wait(4)
        self.assertEqual(self.machine.events[-2:], ["restart xray", "after"])
        self.done("stop")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_defect_nobody_hears(self) -> None:
        """A defect that shows after the asker went away is logged."""
        self.patch(control_module, "log", Logger())
        self.machine.takes = 2
        self.machine.fails = RuntimeError("a defect")
        acting = self.act("restart")
        acting.cancel()
        self.failureResultOf(acting)
        self.wait(3)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class StaysUpTests(ControlCase):
    """Whether a started service stays up."""

    def after_restart(self, standing: Standing) -> None:
        """Let a restarted service stand so."""
        self.machine.becomes["restart"] = standing

    def test_watched(self) -> None:
        """It is done when the service has run for a second."""
        acting = self.act("restart")
        self.wait(SETTLED - STEP)
        self.assertNoResult(acting)
        self.wait(2 * STEP)
        self.successResultOf(acting)

    def test_ends_at_once(self) -> None:
        """A service that ends is a failure at once, with how and its last lines."""
        self.after_restart(FAILED)
        self.assertEqual(
            self.failed("restart", within=2 * STEP),
            "xray did not stay up: failed (exit-code, status 23); its last lines:\none\ntwo",
        )

    @given(st.floats(0.0, SETTLED - 2 * STEP))
    def test_ends_soon(self, lives: float) -> None:
        """So is one that ends within the second, whenever."""
        self.setUp()
        self.after_restart(lambda since: running(6) if since < lives else FAILED)
        self.assertIn("did not stay up: failed", self.failed("restart", within=2))

    def test_comes_up_again(self) -> None:
        """One that dies and is brought back by its manager has its second from then on."""

        def standing(since: float) -> ServiceState:
            return running(6) if since < 0.5 else AGAIN if since < 1 else running(8)

        self.after_restart(standing)
        acting = self.act("restart")
        self.wait(1 + SETTLED - STEP)
        self.assertNoResult(acting)
        self.wait(0.5)
        self.successResultOf(acting)

    def test_dies_again_and_again(self) -> None:
        """One that dies and comes up all the time is given up."""
        self.after_restart(lambda since: running(int(since * 2)))
        acting = self.act("restart")
        self.wait(COME_UP)
        self.assertNoResult(acting)
        self.wait(SETTLED + 3 * STEP)
        failed = self.failureResultOf(acting, ServiceFailed)
        self.assertIn("does not stay up: active (running)", str(failed.value))

    def test_never_comes(self) -> None:
        """So is one that is for ever on its way."""
        self.after_restart(AGAIN)
        self.assertIn("does not stay up: activating", self.failed("restart", within=7))

    def test_slow_machine(self) -> None:
        """Where the check took long a service is watched longer, for it fails as slowly."""
        self.machine.check_takes = 1
        self.after_restart(lambda since: running(6) if since < 2 else FAILED)
        self.assertIn("did not stay up", self.failed("restart"))
        self.machine.check_takes = 5
        self.after_restart(running(6))
        acting = self.act("restart")
        self.wait(5 + MOST_SETTLED - STEP)
        self.assertNoResult(acting)
        self.wait(3 * STEP)
        self.successResultOf(acting)

    def test_known_by_its_process(self) -> None:
        """Where the manager knows no process the oldest one found is watched."""

        def standing(since: float) -> ServiceState:
            self.machine.processes = [process(6 if since < 0.5 else 8)]
            return running(None)

        self.after_restart(standing)
        acting = self.act("restart")
        self.wait(SETTLED + 0.3)
        self.assertNoResult(acting)
        self.wait(0.5)
        self.successResultOf(acting)

    def test_no_process_to_see(self) -> None:
        """Where no process may be looked at the manager's word counts."""
        self.after_restart(running(None))
        self.done("restart")

    def test_ends_on_reload(self) -> None:
        """A service that ends instead of reloading is a failure."""
        self.machine.becomes["reload"] = FAILED
        acting = self.act("reload", "nginx")
        self.wait(1)
        failed = self.failureResultOf(acting, ServiceFailed)
        self.assertIn("nginx ended instead of reloading: failed", str(failed.value))


class GoneTests(ControlCase):
    """Whether a stopped service is gone."""

    def test_waits(self) -> None:
        """It is waited for."""
        self.machine.becomes["stop"] = lambda since: running(5) if since < 1 else STOPPED
        acting = self.act("stop")
        self.wait(0.9)
        self.assertNoResult(acting)
        self.wait(0.5)
        self.successResultOf(acting)

    def test_on_its_way(self) -> None:
        """One that is being stopped is not gone yet."""
        going = ServiceState(False, 5, "deactivating (stop-sigterm)", changing=True)
        self.machine.becomes["stop"] = going
        self.assertIn("xray did not stop: deactivating", self.failed("stop"))

    def test_stays(self) -> None:
        """One that runs on, or runs beside its manager, is told, soon enough."""
        self.machine.becomes["stop"] = running(9)
        failed = self.failed("stop", within=GO_DOWN + 3 * STEP)
        self.assertIn("xray did not stop: active (running)", failed)


class DeadlineTests(ControlCase):
    """That an answer comes while somebody waits for it."""

    def late(self) -> str:
        """Return what is said after the deadline."""
        acting = self.act("restart")
        self.wait(DEADLINE - 0.1)
        self.assertNoResult(acting)
        self.wait(LAST_LINES_DEADLINE + STEP + 0.3)
        self.assertLess(self.clock.seconds(), 28)
        return str(self.failureResultOf(acting, ServiceFailed).value)

    def test_action(self) -> None:
        """An action that takes too long is given up, with the last lines."""
        self.machine.takes = 60
        self.assertEqual(
            self.late(), "xray was not restarted within 25 s; its last lines:\none\ntwo"
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_check(self) -> None:
        """So is a check; nothing is restarted then."""
        self.machine.check_takes = 60
        self.assertIn("within 25 s", self.late())
        self.assertEqual(self.machine.events, ["check xray"])

    def test_lines_hang(self) -> None:
        """Nor do the last lines keep the answer waiting."""
        self.machine.takes = 60
        self.machine.lines = Deferred()
        self.assertEqual(self.late(), "xray was not restarted within 25 s")

    def test_lines_fail(self) -> None:
        """Without last lines the failure is told as it is."""
        self.machine.becomes["restart"] = FAILED
        for lines in ([], ServiceFailed("no bus")):
            self.machine.lines = lines
            self.assertEqual(
                self.failed("restart"), "xray did not stay up: failed (exit-code, status 23)"
            )

    def test_manager_fails(self) -> None:
        """What the manager says is told, with the last lines, and nothing is watched for."""
        self.machine.fails = ServiceFailed("Unit xray.service is masked.")
        self.assertEqual(
            self.failed("restart", within=2 * STEP),
            "Unit xray.service is masked.; its last lines:\none\ntwo",
        )


class OwnLimitTests(ControlCase):
    """How often a service is started."""

    def test_waits_its_turn(self) -> None:
        """One start more than the limit waits until the first is long enough ago."""
        for _ in range(STARTS):
            self.done("restart", within=1.5)
        restarts = self.machine.events.count
        acting = self.act("restart")
        self.wait(STARTS_WITHIN - STARTS * 1.5 - 0.2)
        self.assertEqual(restarts("restart xray"), STARTS)
        self.wait(0.4)
        self.assertEqual(restarts("restart xray"), STARTS + 1)
        self.wait(2)
        self.successResultOf(acting)

    def test_below_systemds(self) -> None:
        """Over a minute of haste there never are 5 starts within 10 s."""
        times: list[float] = []
        for _ in range(200):
            events = len(self.machine.events)
            acting = self.act("restart")
            while not acting.called:
                self.clock.advance(0.1)
                if "restart xray" in self.machine.events[events:]:
                    times.append(self.clock.seconds())
                    events = len(self.machine.events)
            if self.clock.seconds() > 60:
                break
        self.assertGreater(len(times), 20)
        for first, fifth in zip(times, times[4:], strict=False):
            self.assertGreaterEqual(fifth - first, STARTS_WITHIN - 0.11)

    def test_slow_ones_do_not_wait(self) -> None:
        """Starts with time between them never wait."""
        for _ in range(3 * STARTS):
            self.done("restart", within=3)

    def test_stops_do_not_count(self) -> None:
        """Stopping is free."""
        for _ in range(3 * STARTS):
            self.done("stop", within=0.1)
        self.done("start", within=1.5)


class StatesTests(ControlCase):
    """How the services stand."""

    def is_running(self) -> bool:
        """Return whether Xray runs."""
        return self.successResultOf(Deferred.fromCoroutine(self.control.running("xray")))

    def test_manager_and_processes(self) -> None:
        """The manager's word counts, processes that may not be seen or not."""
        for seen in ([], [process(5)]):
            self.machine.processes = seen
            self.machine.now = running(5)
            self.assertTrue(self.is_running())
            self.machine.now = AGAIN
            self.assertFalse(self.is_running())

    def test_manager_silent(self) -> None:
        """Where it cannot be asked the processes decide, and the log says why."""
        self.patch(control_module, "log", Logger())
        self.machine.now = ServiceFailed("Failed to connect to bus")
        with capturedLogs() as events:
            self.assertFalse(self.is_running())
            self.machine.processes = [process(5)]
            self.assertTrue(self.is_running())
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn] * 2)
        self.assertIn("Failed to connect to bus", formatEvent(events[0]))

    def test_states(self) -> None:
        """Each service is told, with its version."""
        self.machine.now = running(5)
        self.binaries["nginx"].unlink()
        states = self.successResultOf(Deferred.fromCoroutine(self.control.states()))
        self.assertEqual(
            states,
            {
                "xray": ProgramState(installed=True, running=True, version="42"),
                "nginx": ProgramState(installed=False, running=True, version=None),
            },
        )
        self.machine.now = STOPPED
        self.machine.processes = [process(5)]
        states = self.successResultOf(Deferred.fromCoroutine(self.control.states()))
        self.assertFalse(states["xray"].running)


class LogTests(ControlCase):
    """What the log says."""

    def logged(self, action: str) -> list[tuple[LogLevel, str]]:
        """Return what is logged of `action`."""
        self.patch(control_module, "log", Logger())
        with capturedLogs() as events:
            acting = self.act(action)
            self.wait(3)
            acting.addErrback(lambda _: None)
        return [(event["log_level"], formatEvent(event) or "") for event in events]

    def test_done(self) -> None:
        """A restart is a change of state."""
        self.assertEqual(self.logged("restart"), [(LogLevel.info, "xray restarted")])

    def test_failed(self) -> None:
        """A failure is told once, with its reason."""
        self.machine.becomes["restart"] = FAILED
        [(level, text)] = self.logged("restart")
        self.assertEqual(level, LogLevel.warn)
        self.assertIn("xray was not restarted: xray did not stay up", text)
