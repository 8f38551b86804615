"""
Services that nobody looks after, as in many containers: processes, started and ended by us.

They are started detached, so that they outlive the agent. A service is started as it ran before,
where it was seen running, with its arguments, directory and environment.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mmwagent.host.command import find_executable
from mmwagent.host.launching import Launch, launch_of, main, masters
from mmwagent.host.processes import Process
from mmwagent.host.service import (
    LINES,
    RunCommand,
    ServiceFailed,
    ServiceState,
    told,
    why,
)

OUTPUT_LIMIT = 1024 * 1024
"""Bytes kept of what a service writes, from its start on: why it ended at once, if it did."""

KILL_AFTER = 5.0  # seconds between SIGTERM and SIGKILL
GIVE_UP_AFTER = 2.0  # seconds between SIGKILL and giving up

_STEP = 0.1
_START_DEADLINE = 5.0
_APPEARS_WITHIN = 0.5

# $1 is the directory, $2 the file for the output, the rest the command. `setsid` makes it live on
# without us. What it writes goes through a small companion that keeps the beginning and drops the
# rest: Xray may write a line for each connection, and nobody would empty the file. Both commands
# let go of our pipes, for which else `run` would wait.
_DETACHED = f"""
cd -- "$1" || exit
log=$2
shift 2
umask 077
: >"$log" || exit
umask 022
setsid "$@" </dev/null 2>&1 |
    setsid sh -c 'head -c {OUTPUT_LIMIT} >"$0"; exec cat >/dev/null' "$log" >/dev/null 2>&1 &
"""

Find = Callable[[str], Awaitable[Sequence[Process]]]


@define
class Unmanaged:
    """
    Starts and ends services itself.

    `find` gives the running processes of a service, `first` how one is started that was never
    seen running (None: it cannot be); `outputs` is a directory for what services write.
    """

    clock: IReactorTime
    run: RunCommand
    find: Find
    first: Callable[[str], Awaitable[Launch | None]]
    outputs: Path
    kill: Callable[[int, int], None] = os.kill
    proc: Path = Path("/proc")
    _seen: dict[str, tuple[Process, Launch]] = field(factory=dict, init=False)

    @property
    def name(self) -> str:
        """Its name."""
        return "no service manager"

    async def state(self, service: str) -> ServiceState:
        """Return whether it runs."""
        processes = await self._look(service)
        if not processes:
            return ServiceState(False, None, "no process", known=False)
        pid = main(processes).pid
        return ServiceState(True, pid, f"process {pid}")

    async def control(self, service: str, action: str) -> None:
        """Start it, end it, or have it read its configuration again (SIGHUP)."""
        processes = await self._look(service)
        if action == "reload":
            if not processes:
                raise ServiceFailed(f"{service} does not run, so it cannot be reloaded")
            self._signal(main(processes), signal.SIGHUP)
            return
        if action in ("stop", "restart"):
            await self._end(service, processes)
        if action == "restart" or (action == "start" and not processes):
            await self._start(service)

    async def last_lines(self, service: str, count: int = LINES) -> list[str]:
        """Return the end of what was kept of its output since it was started here."""
        try:
            output = self._output(service).read_bytes()
        except OSError:
            return []
        return output.decode("utf-8", "replace").splitlines()[-count:]

    def _output(self, service: str) -> Path:
        return self.outputs / f"{service}.output"

    async def _look(self, service: str) -> Sequence[Process]:
        processes = await self.find(service)
        if processes:
            self._remember(service, main(processes))
        return processes

    def _remember(self, service: str, process: Process) -> None:
        known = self._seen.get(service)
        if known is None or known[0] != process:
            self._seen[service] = (process, launch_of(process, self.proc))

    async def _start(self, service: str) -> None:
        launch = await self._launch(service)
        try:
            self.outputs.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise ServiceFailed(f"no place for what {service} says: {problem}") from problem
        argv = [_DETACHED, "sh", launch.directory, str(self._output(service)), *launch.argv]
        argv = ["/bin/sh", "-c", *argv]
        finished = await told(self.run, argv, _START_DEADLINE, launch.whole_environment())
        if not finished.succeeded:
            raise why(finished, list(launch.argv), _START_DEADLINE)
        await self._appeared(service)

    async def _appeared(self, service: str) -> None:
        """Wait until it is seen. One that is gone again by then has not stayed up either."""
        until = self.clock.seconds() + _APPEARS_WITHIN
        while not await self._look(service) and self.clock.seconds() < until:
            await deferLater(self.clock, _STEP)

    async def _launch(self, service: str) -> Launch:
        _, launch = self._seen.get(service, (None, None))
        if launch is None or find_executable(launch.argv[0]) is None:
            launch = await self.first(service)
        if launch is None:
            raise ServiceFailed(f"there is no configuration to start {service} with")
        return launch

    async def _end(self, service: str, processes: Sequence[Process]) -> None:
        for number, patience in ((signal.SIGTERM, KILL_AFTER), (signal.SIGKILL, GIVE_UP_AFTER)):
            if not processes:
                return
            # Asked to end, nginx's master ends its workers too; killed, it would leave them.
            for process in masters(processes) if number == signal.SIGTERM else processes:
                self._signal(process, number)
            processes = await self._left(service, processes, patience)
        if processes:
            raise ServiceFailed(f"{service} does not end, not even killed: {_named(processes)}")

    async def _left(
        self, service: str, ending: Sequence[Process], patience: float
    ) -> Sequence[Process]:
        """Return those of `ending` that still run after `patience` seconds, or as soon as none."""
        until = self.clock.seconds() + patience
        while True:
            running = {(process.pid, process.started) for process in await self.find(service)}
            ending = [process for process in ending if (process.pid, process.started) in running]
            if not ending or self.clock.seconds() >= until:
                return ending
            await deferLater(self.clock, _STEP)

    def _signal(self, process: Process, number: signal.Signals) -> None:
        try:
            self.kill(process.pid, number)
        except ProcessLookupError:
            pass  # it ended by itself
        except OSError as error:
            raise ServiceFailed(
                f"cannot send {number.name} to process {process.pid}: {error.strerror}"
            ) from error


def _named(processes: Sequence[Process]) -> str:
    return ", ".join(f"process {process.pid}" for process in processes)
