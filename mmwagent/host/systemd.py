"""Services looked after by systemd, through systemctl(1) and journalctl(1)."""

from __future__ import annotations

from attrs import define

from mmwagent.host.command import Finished
from mmwagent.host.service import (
    JOB_DEADLINE,
    LINES,
    QUERY_DEADLINE,
    RunCommand,
    ServiceFailed,
    ServiceState,
    told,
    why,
)
from mmwagent.host.service import text as text_of

_PROPERTIES = "LoadState,ActiveState,SubState,Result,MainPID,NRestarts,ExecMainStatus"
_STARTING = ("start", "restart")
_CHANGING = ("activating", "deactivating")
_SINCE = "--since=-60s"  # older lines are about something else
_LINES_DEADLINE = 2.0  # seconds: an answer must not wait long for its last words


@define
class Systemd:
    """The system's systemd; the unit of a service is its name with `.service`."""

    run: RunCommand

    @property
    def name(self) -> str:
        """Its name."""
        return "systemd"

    async def state(self, service: str) -> ServiceState:
        """Return what `systemctl show` says. Raises ServiceFailed where it says nothing."""
        shown = await self._show(service)
        active, sub = shown.get("ActiveState", ""), shown.get("SubState", "")
        pid = shown.get("MainPID", "")
        return ServiceState(
            # A unit may count as active though all that it started has ended ("exited").
            active=active in ("active", "reloading") and sub != "exited",
            pid=int(pid) if pid.isdecimal() and int(pid) else None,
            detail=_detail(shown),
            changing=active in _CHANGING,
            known=shown.get("LoadState") != "not-found",
        )

    async def control(self, service: str, action: str) -> None:
        """
        Have systemd do it, and wait for its job to end.

        A unit that failed before is forgiven first: having been started too often, by whomever,
        is else a reason to refuse (systemd.unit(5), StartLimitIntervalSec).
        """
        starting = action in _STARTING
        if starting and (await self._show(service)).get("ActiveState") == "failed":
            await self._forgive(service)
        finished = await self._do(service, action)
        if not finished.succeeded and starting and await self._started_too_often(service):
            await self._forgive(service)
            finished = await self._do(service, action)
        if not finished.succeeded:
            raise why(finished, ["systemctl", action, service], JOB_DEADLINE)

    async def last_lines(self, service: str, count: int = LINES) -> list[str]:
        """Return what it wrote in the last minute, and what systemd wrote about it."""
        unit = f"{service}.service"
        argv = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--unit={unit}"]
        try:
            finished = await told(self.run, [*argv, _SINCE, f"--lines={count}"], _LINES_DEADLINE)
        except ServiceFailed:
            return []
        return text_of(finished.output).splitlines()[-count:]

    async def _show(self, service: str) -> dict[str, str]:
        argv = ["systemctl", "show", f"--property={_PROPERTIES}", "--", f"{service}.service"]
        finished = await told(self.run, argv, QUERY_DEADLINE)
        if not finished.succeeded:
            raise why(finished, ["systemctl", "show", service], QUERY_DEADLINE)
        pairs = (line.partition("=") for line in text_of(finished.output).splitlines())
        return {name: value.strip() for name, _, value in pairs}

    async def _started_too_often(self, service: str) -> bool:
        return (await self._show(service)).get("Result") == "start-limit-hit"

    async def _forgive(self, service: str) -> None:
        argv = ["systemctl", "reset-failed", "--", f"{service}.service"]
        await told(self.run, argv, QUERY_DEADLINE)  # if it cannot, the start says what is wrong

    async def _do(self, service: str, action: str) -> Finished:
        argv = ["systemctl", "--no-ask-password", action, "--", f"{service}.service"]
        return await told(self.run, argv, JOB_DEADLINE)


def _detail(shown: dict[str, str]) -> str:
    """Return as "failed (exit-code, status 23), restarted 2 times"."""
    if shown.get("LoadState") == "not-found":
        return "no such unit"
    parts = [shown.get("SubState", "")]
    result = shown.get("Result", "success")
    if result != "success":
        parts = [result, f"status {shown.get('ExecMainStatus', '?')}"]
    restarts = shown.get("NRestarts", "0")
    often = "" if restarts in ("", "0") else f", restarted by systemd {restarts} times"
    return f"{shown.get('ActiveState', 'unknown')} ({', '.join(parts)}){often}"
