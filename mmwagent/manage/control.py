"""
Starting, stopping and restarting services, so that the answer can be believed.

One action at a time for each service. The program checks its configuration first; afterwards the
service is watched until it has stayed up for a while. All of it has a deadline, for the master
waits 30 s for an answer.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mmwagent.host.launching import main
from mmwagent.host.processes import Process
from mmwagent.host.programs import Program, ProgramState
from mmwagent.host.services import (
    Busy,
    NotInstalled,
    Refused,
    ServiceFailed,
    Services,
    ServiceState,
)
from mmwagent.logs import logger

__all__ = ["Busy", "Control", "NotInstalled", "Refused", "ServiceFailed"]

log = logger()

DEADLINE = 25.0  # seconds for the whole of an action
SETTLED = 1.0  # seconds for which a service has to stay up
MOST_SETTLED = 4.0  # the same where its own check took long, as on slow machines
COME_UP = 5.0  # seconds more in which it may die and come up again
GO_DOWN = 3.0  # seconds until a stopped service is gone, or not stopped
STARTS = 4  # of a service within STARTS_WITHIN: one less than systemd's own limit
STARTS_WITHIN = 10.0  # seconds
LAST_LINES_DEADLINE = 2.0  # seconds on top of the whole
STEP = 0.2

PAST = {"start": "started", "stop": "stopped", "restart": "restarted", "reload": "reloaded"}

Action = Callable[[], Awaitable[None]]

_EXPECTED = (NotInstalled, Refused, ServiceFailed)


@define
class Control:
    """
    Acts on services, named as in `programs`.

    `checks` has a service's program test its configuration, and raises Refused; `find` gives the
    running processes of a service; `around_xray` is put around each action on Xray.
    """

    clock: IReactorTime
    services: Services
    programs: Mapping[str, Program]
    find: Callable[[str], Awaitable[Sequence[Process]]]
    checks: Mapping[str, Action]
    around_xray: Callable[[Action], Awaitable[None]]
    _busy: dict[str, str] = field(factory=dict, init=False)
    _starts: dict[str, deque[float]] = field(factory=lambda: defaultdict(deque), init=False)

    async def start(self, service: str) -> None:
        """Start `service`; nothing happens to one that runs. As `act`."""
        await self.act(service, "start")

    async def stop(self, service: str) -> None:
        """Stop `service`. As `act`."""
        await self.act(service, "stop")

    async def restart(self, service: str) -> None:
        """Restart `service`, or start it if it does not run. As `act`."""
        await self.act(service, "restart")

    async def reload(self, service: str) -> None:
        """Have nginx take up its configuration without ending connections. As `act`."""
        await self.act(service, "reload")

    async def act(self, service: str, action: str) -> None:
        """
        Do `action` and return when it is done and seen to be.

        Raises Busy, NotInstalled, Refused (nothing was done then) and ServiceFailed, whose text
        ends with the last lines of the service. Who stops waiting does not stop the action.
        """
        if action == "reload" and service != "nginx":
            raise ValueError(f"{service} cannot be reloaded")  # it would end at that signal
        if service in self._busy:
            raise Busy(f"{service} is being {PAST[self._busy[service]]} already; try again later")
        self._busy[service] = action
        done: Deferred[None] = Deferred(lambda _: None)
        Deferred.fromCoroutine(self._whole(service, action)).addBoth(_hand_on, done)
        await done

    async def running(self, service: str) -> bool:
        """Return whether `service` runs, by its manager's word and by its processes."""
        return await self._running(service, await self.find(service))

    async def states(self) -> dict[str, ProgramState]:
        """Return the state of each service."""
        return {service: await self._state(service) for service in self.programs}

    async def _state(self, service: str) -> ProgramState:
        processes = await self.find(service)
        state = await self.programs[service].state(processes)
        return evolve(state, running=await self._running(service, processes))

    async def _running(self, service: str, processes: Sequence[Process]) -> bool:
        try:
            return (await self.services.state(service)).active
        except ServiceFailed as problem:
            log.warn("the state of {service} is unknown: {why}", service=service, why=str(problem))
            return bool(processes)

    # An action, step by step.

    async def _whole(self, service: str, action: str) -> None:
        try:
            before = await self.find(service)
            # What is removed may run on, and can be stopped.
            binary = self.programs[service].binary(before)
            if binary is None and not (before and action == "stop"):
                raise NotInstalled(f"{service} is not installed on this machine")
            await self._in_time(service, action, before)
            log.info("{service} {done}", service=service, done=PAST[action])
        except (Refused, ServiceFailed) as problem:
            what = f"{service} was not {PAST[action]}"
            log.warn("{what}: {why}", what=what, why=str(problem))
            raise
        finally:
            del self._busy[service]

    async def _in_time(self, service: str, action: str, before: Sequence[Process]) -> None:
        steps = Deferred.fromCoroutine(self._steps(service, action, before))
        try:
            await steps.addTimeout(DEADLINE, self.clock)
        except TimedOut:
            late = ServiceFailed(f"{service} was not {PAST[action]} within {DEADLINE:.0f} s")
            raise await self._with_last_lines(service, late) from None
        except ServiceFailed as failed:
            raise await self._with_last_lines(service, failed) from failed

    async def _steps(self, service: str, action: str, before: Sequence[Process]) -> None:
        if action == "start" and await self._running(service, before):
            return
        settled = SETTLED
        if action != "stop":
            began = self.clock.seconds()
            await self.checks[service]()
            # A start takes as long, and what cannot be done then shows only after that.
            settled = min(SETTLED + 2 * (self.clock.seconds() - began), MOST_SETTLED)
        if action in ("start", "restart"):
            await self._turn(service)
        await self._around(service, action)
        await self._seen(service, action, settled)

    async def _around(self, service: str, action: str) -> None:
        async def act() -> None:
            await self.services.control(service, action)

        if service == "xray":
            await self.around_xray(act)
        else:
            await act()

    async def _turn(self, service: str) -> None:
        """Wait until another start does not make systemd refuse (5 in 10 s)."""
        starts = self._starts[service]
        if len(starts) == STARTS:
            await self._pause(starts.popleft() + STARTS_WITHIN - self.clock.seconds())
        starts.append(self.clock.seconds())

    async def _seen(self, service: str, action: str, settled: float) -> None:
        if action == "stop":
            await self._gone(service)
        elif action == "reload":
            await self._goes_on(service)
        else:
            await self._stays_up(service, settled)

    async def _stays_up(self, service: str, settled: float) -> None:
        """Watch until the same process has run for `settled` seconds."""
        give_up = self.clock.seconds() + settled + COME_UP
        same: object = None
        since = self.clock.seconds()
        while True:
            state, pid = await self._look(service)
            now = self.clock.seconds()
            if not state.active and not state.changing:
                raise ServiceFailed(f"{service} did not stay up: {state.detail}")
            if not state.active or pid != same:
                same, since = pid if state.active else None, now
            elif now - since >= settled:
                return
            if now >= give_up:
                raise ServiceFailed(f"{service} does not stay up: {state.detail}")
            await self._pause(STEP)

    async def _gone(self, service: str) -> None:
        give_up = self.clock.seconds() + GO_DOWN
        while True:
            state, _ = await self._look(service)
            if not state.active and not state.changing:
                return
            if self.clock.seconds() >= give_up:
                raise ServiceFailed(f"{service} did not stop: {state.detail}")
            await self._pause(STEP)

    async def _goes_on(self, service: str) -> None:
        """Look once. Whether it took up what is new is for whoever changed it to find out."""
        state, _ = await self._look(service)
        if not state.active:
            raise ServiceFailed(f"{service} ended instead of reloading: {state.detail}")

    async def _look(self, service: str) -> tuple[ServiceState, object]:
        """Return the state, and what tells this run of the service from another."""
        state = await self.services.state(service)
        if state.pid is not None:
            return state, state.pid
        processes = await self.find(service)
        return state, (main(processes).pid if processes else "unknown")

    async def _with_last_lines(self, service: str, failed: ServiceFailed) -> ServiceFailed:
        await self._pause(STEP)  # they may be on their way still
        asked = Deferred.fromCoroutine(self.services.last_lines(service))
        try:
            lines = await asked.addTimeout(LAST_LINES_DEADLINE, self.clock)
        except (ServiceFailed, TimedOut):
            return failed
        if not lines:
            return failed
        return ServiceFailed("\n".join([f"{failed}; its last lines:", *lines]))

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await deferLater(self.clock, seconds)


def _hand_on(result: object, done: Deferred[None]) -> None:
    """Give the result to whoever still waits. Nobody else hears of a defect, so it is logged."""
    if not done.called:
        done.errback(result) if isinstance(result, Failure) else done.callback(None)
    elif isinstance(result, Failure) and not result.check(*_EXPECTED):
        log.failure("an action on a service failed", failure=result)
