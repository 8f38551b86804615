"""Services looked after by OpenRC, through rc-service(8)."""

from __future__ import annotations

import re

from attrs import define

from mmwagent.host.service import (
    JOB_DEADLINE,
    LINES,
    QUERY_DEADLINE,
    RunCommand,
    ServiceState,
    told,
    why,
)
from mmwagent.host.service import text as text_of

# How a service script ends when it is asked for its status (openrc-run(8), rc-service(8)).
_STARTED = 0
_CRASHED = 32
_CHANGING = (4, 8)  # stopping, starting
_COLOUR = re.compile("\x1b\\[[0-9;]*[A-Za-z]")


@define
class OpenRC:
    """OpenRC; a service script has the name of its service. It knows no main process."""

    run: RunCommand

    @property
    def name(self) -> str:
        """Its name."""
        return "OpenRC"

    async def state(self, service: str) -> ServiceState:
        """Return what its script says. Raises ServiceFailed where it is not told in time."""
        exists = await told(self.run, ["rc-service", "--exists", service], QUERY_DEADLINE)
        if exists.timed_out:
            raise why(exists, ["rc-service", "--exists", service], QUERY_DEADLINE)
        if not exists.succeeded:
            return ServiceState(False, None, "no such service script", known=False)
        argv = ["rc-service", "--nocolor", service, "status"]
        finished = await told(self.run, argv, QUERY_DEADLINE)
        if finished.timed_out:
            raise why(finished, ["rc-service", service, "status"], QUERY_DEADLINE)
        said = _COLOUR.sub("", text_of(finished.output + finished.errors)).strip(" *\n")
        return ServiceState(
            active=finished.status == _STARTED,
            pid=None,
            detail=said or f"status {finished.status}",
            changing=finished.status in _CHANGING,
        )

    async def control(self, service: str, action: str) -> None:
        """Have its script do it, and wait for the end."""
        if action == "start" and await self._crashed(service):
            action = "restart"  # for OpenRC it is started still, and a start would do nothing
        argv = ["rc-service", "--nocolor", service, action]
        finished = await told(self.run, argv, JOB_DEADLINE)
        if not finished.succeeded:
            raise why(finished, argv, JOB_DEADLINE)

    async def last_lines(self, service: str, count: int = LINES) -> list[str]:
        """Return nothing: where a service writes is its script's own affair."""
        return []

    async def _crashed(self, service: str) -> bool:
        argv = ["rc-service", "--nocolor", service, "status"]
        return (await told(self.run, argv, QUERY_DEADLINE)).status == _CRASHED
