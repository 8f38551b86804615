"""Whoever looks after the services of this machine: systemd, OpenRC, or nobody."""

from __future__ import annotations

from pathlib import Path

from attrs import define

from mmwagent.host.openrc import OpenRC
from mmwagent.host.service import (
    LINES,
    Busy,
    NotInstalled,
    Refused,
    RunCommand,
    ServiceFailed,
    Services,
    ServiceState,
)
from mmwagent.host.systemd import Systemd

__all__ = [
    "Busy",
    "ByWhoeverRunsIt",
    "NotInstalled",
    "Refused",
    "ServiceFailed",
    "ServiceState",
    "Services",
    "services",
]


@define
class ByWhoeverRunsIt:
    """
    A manager, and beside it services that it does not run.

    A service that was started by hand is stopped and started as it was, whatever unit lies unused
    beside it; one that nobody runs is the manager's, if it has heard of it.
    """

    manager: Services
    unmanaged: Services

    @property
    def name(self) -> str:
        """The name of the manager."""
        return self.manager.name

    async def state(self, service: str) -> ServiceState:
        """Return how it stands with whoever runs it."""
        return (await self._look(service))[1]

    async def control(self, service: str, action: str) -> None:
        """Have whoever runs it do it."""
        keeper, _ = await self._look(service)
        await keeper.control(service, action)

    async def last_lines(self, service: str, count: int = LINES) -> list[str]:
        """Return what whoever runs it has kept."""
        keeper, _ = await self._look(service)
        return await keeper.last_lines(service, count)

    async def _look(self, service: str) -> tuple[Services, ServiceState]:
        state = await self.manager.state(service)
        if state.active or state.changing:
            return self.manager, state
        by_hand = await self.unmanaged.state(service)
        if by_hand.active or not state.known:
            return self.unmanaged, by_hand
        return self.manager, state


def services(run: RunCommand, *, unmanaged: Services, root: str = "/") -> Services:
    """
    Return whoever looks after services here; `unmanaged` does it where there is nobody.

    What is booted counts, not what is installed: a container may hold systemd's tools and run
    without it. See sd_booted(3); OpenRC makes its directory when it boots.
    """
    base = Path(root)
    if (base / "run/systemd/system").is_dir():
        return ByWhoeverRunsIt(Systemd(run), unmanaged)
    if (base / "run/openrc").is_dir():
        return ByWhoeverRunsIt(OpenRC(run), unmanaged)
    return unmanaged
