"""Tests of services that nobody looks after: on a machine in memory, and with real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor  # noqa: TID251  (for the tests with real processes)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mmwagent.host import command
from mmwagent.host.command import Finished
from mmwagent.host.launching import Launch
from mmwagent.host.processes import Process, Processes
from mmwagent.host.service import ServiceFailed, ServiceState
from mmwagent.host.unmanaged import GIVE_UP_AFTER, KILL_AFTER, OUTPUT_LIMIT, Unmanaged
from tests.host.commands import ended

START = datetime(2026, 5, 1, tzinfo=UTC)
SHELL = "/bin/sh"  # stands for a program: it is on any machine


class Machine(SynchronousTestCase):
    """A machine in memory; a started service runs at once, and ends when it is signalled."""

    def setUp(self) -> None:
        """Let nothing run."""
        self.clock = Clock()
        self.proc = Path(self.mktemp())
        self.outputs = Path(self.mktemp())
        self.outputs.mkdir()
        self.processes: list[Process] = []
        self.signals: list[tuple[int, int]] = []
        self.deaf_to: set[int] = set()
        self.kill_error: OSError | None = None
        self.started: list[tuple[list[str], Mapping[str, str]]] = []
        self.start_ends = ended()
        self.comes_up = True
        self.first: Launch | None = Launch((SHELL, "run", "-c", "/first.json"), "/etc/first")
        self.unmanaged = Unmanaged(
            self.clock, self.run_shell, self.find, self.launch, self.outputs, self.kill, self.proc
        )

    async def find(self, service: str) -> Sequence[Process]:
        """Return what runs."""
        self.assertEqual(service, "xray")
        return list(self.processes)

    async def launch(self, service: str) -> Launch | None:
        """Return how it is started first."""
        return self.first

    def kill(self, pid: int, number: int) -> None:
        """Take a signal."""
        if self.kill_error is not None:
            raise self.kill_error
        self.signals.append((pid, number))
        if number != signal.SIGHUP and number not in self.deaf_to:
            self.processes = [process for process in self.processes if process.pid != pid]

    def run_shell(
        self, argv: Sequence[str], *, timeout: float, env: Mapping[str, str]
    ) -> Deferred[Finished]:
        """Start what the shell is to start."""
        self.assertEqual(argv[:2], ["/bin/sh", "-c"])
        self.started.append((list(argv[4:]), env))
        if self.comes_up:
            self.runs(100 + len(self.started), *argv[6:])
        return succeed(self.start_ends)

    def runs(self, pid: int, *arguments: str, directory: str = "/srv") -> Process:
        """Let a process run."""
        began = START + timedelta(seconds=pid)
        process = Process(pid, SHELL, arguments or ("xray", "run"), directory, began)
        self.processes.append(process)
        return process

    def control(self, action: str) -> Deferred[None]:
        """Do `action`."""
        return Deferred.fromCoroutine(self.unmanaged.control("xray", action))

    def done(self, action: str) -> None:
        """Do `action`, to its end."""
        self.successResultOf(self.control(action))

    def failed(self, action: str) -> str:
        """Return why `action` failed, after a while."""
        control = self.control(action)
        self.clock.pump([0.1] * 100)
        return str(self.failureResultOf(control, ServiceFailed).value)

    def state(self) -> ServiceState:
        """Return the state."""
        return self.successResultOf(Deferred.fromCoroutine(self.unmanaged.state("xray")))


class StateTests(Machine):
    """Whether it runs."""

    def test_running(self) -> None:
        """It runs where there is a process of it."""
        self.runs(7)
        self.assertEqual(self.state(), ServiceState(True, 7, "process 7"))

    def test_stopped(self) -> None:
        """It does not where there is none, and nobody has heard of it."""
        self.assertEqual(self.state(), ServiceState(False, None, "no process", known=False))


class StartTests(Machine):
    """Starting."""

    def test_first(self) -> None:
        """A service that was never seen is started as it is told, its output kept."""
        self.done("start")
        [(arguments, _)] = self.started
        output = str(self.outputs / "xray.output")
        self.assertEqual(arguments, ["/etc/first", output, SHELL, "run", "-c", "/first.json"])

    def test_runs_already(self) -> None:
        """A service that runs is not started again."""
        self.runs(7)
        self.done("start")
        self.assertEqual((self.started, self.signals), ([], []))

    def test_as_before(self) -> None:
        """A service that was seen is started as it ran: arguments, directory, environment."""
        (self.proc / "7").mkdir(parents=True)
        (self.proc / "7" / "environ").write_bytes(b"XRAY_LOCATION_ASSET=/geo\0PATH=/its/bin\0")
        self.runs(7, "xray", "run", "-confdir", "/srv/x", directory="/srv")
        self.state()
        self.processes.clear()
        self.done("start")
        [(arguments, environment)] = self.started
        self.assertEqual(arguments[0], "/srv")
        self.assertEqual(arguments[2:], [SHELL, "run", "-confdir", "/srv/x"])
        self.assertEqual(environment, {"XRAY_LOCATION_ASSET": "/geo", "PATH": "/its/bin"})

    def test_moved(self) -> None:
        """One whose program is gone since is started as one that was never seen."""
        gone = evolve(self.runs(7), executable="/gone/xray")
        self.processes = [gone]
        self.state()
        self.processes.clear()
        self.done("start")
        self.assertEqual(self.started[0][0][2:], [SHELL, "run", "-c", "/first.json"])

    def test_nothing_to_start(self) -> None:
        """Without a configuration there is nothing to start, and that is said."""
        self.first = None
        self.assertEqual(self.failed("start"), "there is no configuration to start xray with")

    def test_cannot_be_started(self) -> None:
        """What the shell says of a start that fails is told."""
        self.start_ends = ended(status=2, errors="cd: can't cd to /etc/first\n")
        self.assertIn("can't cd to /etc/first", self.failed("start"))

    def test_waits_for_it(self) -> None:
        """A start is not done before the process is there: looked at then, it runs."""
        self.comes_up = False
        start = self.control("start")
        self.clock.advance(0.1)
        self.assertNoResult(start)
        self.runs(7)
        self.clock.advance(0.1)
        self.successResultOf(start)

    def test_does_not_come(self) -> None:
        """One that does not come, or is gone already, is waited for no longer than a moment."""
        self.comes_up = False
        start = self.control("start")
        self.clock.pump([0.1] * 6)
        self.successResultOf(start)


class StopTests(Machine):
    """Ending."""

    def test_asked(self) -> None:
        """All processes are asked to end, once."""
        self.runs(7)
        self.runs(8)
        self.done("stop")
        self.assertEqual(self.signals, [(7, signal.SIGTERM), (8, signal.SIGTERM)])

    def test_stopped_already(self) -> None:
        """Nothing is done where nothing runs."""
        self.done("stop")
        self.assertEqual(self.signals, [])

    def test_waits(self) -> None:
        """It is not done before they are gone."""
        self.deaf_to = {signal.SIGTERM}
        self.runs(7)
        stop = self.control("stop")
        self.clock.advance(1)
        self.assertNoResult(stop)
        self.processes.clear()
        self.clock.advance(0.1)
        self.successResultOf(stop)
        self.assertEqual(self.signals, [(7, signal.SIGTERM)])

    def test_killed(self) -> None:
        """Who does not end when asked to is killed."""
        self.deaf_to = {signal.SIGTERM}
        self.runs(7)
        stop = self.control("stop")
        self.clock.pump([0.1] * int(KILL_AFTER * 10 - 1))
        self.assertEqual(self.signals, [(7, signal.SIGTERM)])
        self.clock.pump([0.1] * 3)
        self.successResultOf(stop)
        self.assertEqual(self.signals, [(7, signal.SIGTERM), (7, signal.SIGKILL)])

    def test_hangs(self) -> None:
        """Who does not even end then is named."""
        self.deaf_to = {signal.SIGTERM, signal.SIGKILL}
        self.runs(7)
        self.assertEqual(self.failed("stop"), "xray does not end, not even killed: process 7")
        self.assertLess(KILL_AFTER + GIVE_UP_AFTER, 10)

    def test_number_used_again(self) -> None:
        """A new process with the number of the old one is not it, and is let alone."""
        self.deaf_to = {signal.SIGTERM}
        old = self.runs(7)
        stop = self.control("stop")
        self.processes = [evolve(old, started=old.started + timedelta(seconds=9))]
        self.clock.advance(0.1)
        self.successResultOf(stop)
        self.assertEqual(self.signals, [(7, signal.SIGTERM)])

    def test_nginx(self) -> None:
        """nginx's master is asked, not its workers: it ends them itself. All would be killed."""
        self.deaf_to = {signal.SIGTERM}
        self.runs(7, "nginx: worker process")
        self.runs(8, "nginx: master process nginx")
        stop = self.control("stop")
        self.assertEqual(self.signals, [(8, signal.SIGTERM)])
        self.clock.pump([0.1] * 55)
        self.successResultOf(stop)
        self.assertEqual(self.signals[1:], [(7, signal.SIGKILL), (8, signal.SIGKILL)])

    def test_gone_in_between(self) -> None:
        """A process that ended by itself meanwhile is no failure."""
        self.kill_error = ProcessLookupError(3, "No such process")
        self.runs(7)
        stop = self.control("stop")
        self.processes.clear()
        self.clock.advance(0.1)
        self.successResultOf(stop)

    def test_not_allowed(self) -> None:
        """A process that we may not signal is named, with the reason."""
        self.kill_error = PermissionError(1, "Operation not permitted")
        self.runs(7)
        self.assertEqual(
            self.failed("stop"), "cannot send SIGTERM to process 7: Operation not permitted"
        )


class RestartTests(Machine):
    """Restarting and reloading."""

    def test_restart(self) -> None:
        """It ends before it starts, as it ran before."""
        self.runs(7, "xray", "-c", "/x.json", directory="/srv")
        self.done("restart")
        self.assertEqual(self.signals, [(7, signal.SIGTERM)])
        self.assertEqual(self.started[0][0][2:], [SHELL, "-c", "/x.json"])
        self.assertEqual(self.state().pid, 101)

    def test_restart_of_a_stopped_one(self) -> None:
        """One that does not run is started."""
        self.done("restart")
        self.assertEqual((len(self.started), self.signals), (1, []))

    def test_not_started_twice(self) -> None:
        """Where the old one does not end, no second one is started."""
        self.deaf_to = {signal.SIGTERM, signal.SIGKILL}
        self.runs(7)
        self.failed("restart")
        self.assertEqual(self.started, [])

    def test_reload(self) -> None:
        """A reload is a signal to the main process."""
        self.runs(7, "nginx: worker process")
        self.runs(8, "nginx: master process nginx")
        self.done("reload")
        self.assertEqual(self.signals, [(8, signal.SIGHUP)])

    def test_reload_of_a_stopped_one(self) -> None:
        """What does not run cannot reload."""
        self.assertIn("does not run", self.failed("reload"))


class LastLinesTests(Machine):
    """What it wrote."""

    def lines(self, count: int = 20) -> list[str]:
        """Return the last lines."""
        return self.successResultOf(
            Deferred.fromCoroutine(self.unmanaged.last_lines("xray", count))
        )

    def test_lines(self) -> None:
        """The end of its output, be it no text."""
        (self.outputs / "xray.output").write_bytes(b"one\ntwo\n\xff three")
        self.assertEqual(self.lines(2), ["two", "\N{REPLACEMENT CHARACTER} three"])

    def test_none(self) -> None:
        """A service that was not started here has none."""
        self.assertEqual(self.lines(), [])


class RealTests(TestCase):
    """Real processes: copies of the shell, under a name of their own."""

    timeout = 60

    def setUp(self) -> None:
        """Install a program that does what its first argument says."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.program = self.directory / "service-of-the-tests"
        self.program.write_bytes(Path(SHELL).read_bytes())
        self.program.chmod(0o755)
        self.script = ""
        processes = Processes()

        async def find(service: str) -> Sequence[Process]:
            found = processes.named(self.program.name)
            return [process for process in found if process.executable == str(self.program)]

        async def first(service: str) -> Launch | None:
            return Launch((str(self.program), "-c", self.script, "x"), str(self.directory))

        self.run = partial(command.run, reactor)
        self.find = find
        self.unmanaged = Unmanaged(reactor, self.run, find, first, self.directory)
        self.addCleanup(self.end_all)

    def end_all(self) -> Deferred[None]:
        """Leave nothing behind."""
        return Deferred.fromCoroutine(self.unmanaged.control("x", "stop"))

    def play(self, scene: Callable[[], Any]) -> Deferred[None]:
        """Run a coroutine."""
        return Deferred.fromCoroutine(scene())

    def test_life(self) -> Deferred[None]:
        """It starts detached in its directory, restarts as another process, and ends."""
        return self.play(self.live)

    async def live(self) -> None:
        """Start, restart, stop."""
        self.script = "pwd; while :; do sleep 0.1; done"
        await self.unmanaged.control("x", "start")
        first = (await self.unmanaged.state("x")).pid
        assert first is not None
        self.assertNotEqual(os.getsid(first), os.getsid(0))
        self.assertEqual(os.readlink(f"/proc/{first}/cwd"), str(self.directory))
        self.assertEqual(os.readlink(f"/proc/{first}/fd/0"), "/dev/null")
        await self.unmanaged.control("x", "restart")
        second = (await self.unmanaged.state("x")).pid
        self.assertNotIn(second, (None, first))
        await self.unmanaged.control("x", "stop")
        self.assertFalse((await self.unmanaged.state("x")).active)

    def test_why_it_ended(self) -> Deferred[None]:
        """What it said on either output before it ended is kept, for its owner only."""
        return self.play(self.end)

    async def end(self) -> None:
        """Start what ends at once."""
        self.script = "echo one; echo two >&2; exit 23"
        await self.unmanaged.control("x", "start")
        for _ in range(200):  # on a busy machine it takes its time to begin, and to end
            ended = not (await self.unmanaged.state("x")).active
            if ended and len(await self.unmanaged.last_lines("x")) == 2:
                break
            await deferLater(reactor, 0.05)
        self.assertFalse((await self.unmanaged.state("x")).active)
        self.assertEqual(await self.unmanaged.last_lines("x"), ["one", "two"])
        self.assertEqual((self.directory / "x.output").stat().st_mode & 0o777, 0o600)

    def test_much_output(self) -> Deferred[None]:
        """A service that writes without end runs on, and fills no disk."""
        return self.play(self.write)

    async def write(self) -> None:
        """Start what writes 8 MB."""
        done = self.directory / "done"
        self.script = f"head -c 8000000 /dev/zero && : >{done} && while :; do sleep 0.1; done"
        await self.unmanaged.control("x", "start")
        for _ in range(300):
            if done.exists():
                break
            await deferLater(reactor, 0.05)
        self.assertTrue(done.exists())
        self.assertTrue((await self.unmanaged.state("x")).active)
        self.assertEqual((self.directory / "x.output").stat().st_size, OUTPUT_LIMIT)

    def test_no_directory(self) -> Deferred[None]:
        """Where the output cannot be kept, nothing is started."""
        return self.play(self.refuse)

    async def refuse(self) -> None:
        """Have no place for the output."""
        self.script = "while :; do sleep 0.1; done"
        (self.directory / "taken").write_text("")
        self.unmanaged.outputs = self.directory / "taken" / "missing"
        try:
            await self.unmanaged.control("x", "start")
        except ServiceFailed as failed:
            self.assertIn("taken/missing", str(failed))
        else:
            self.fail("nothing was raised")
        self.assertFalse((await self.unmanaged.state("x")).active)
