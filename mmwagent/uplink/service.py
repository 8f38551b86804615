"""Starts and stops the uplink, by the configured mode."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from mmwagent.uplink.link import Link
from mmwagent.uplink.push import Push
from mmwagent.uplink.reporting import Reporting


class Uplink(Service):
    """Runs `link` and `reporting` as `mode` wants it: auto, websocket, http or pull."""

    def __init__(self, mode: str, link: Link, reporting: Reporting, push: Push) -> None:
        self._mode = mode
        self._link = link
        self._reporting = reporting
        self._push = push

    def startService(self) -> None:
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        if self._mode == "pull":
            self._reporting.be_pulled()
        elif self._mode == "http":
            self._reporting.fall_back()
        else:
            self._link.start()

    def stopService(self) -> Deferred[None]:
        """End; fires when the session, if there was one, is closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        over = self._link.ended()
        self._link.stop()
        self._reporting.rest()
        self._push.cut()
        return over
