"""Xray's counters, read from the /debug/vars of every Xray server here (README, 流量采集)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent

from mmwagent.bodies import read_body
from mmwagent.logs import logger
from mmwagent.xray.addresses import DEFAULT_METRICS, Address, metrics_addresses
from mmwagent.xray.discovery import XrayServer
from mmwagent.xray.traffic import InvalidStats, Tally, TrafficSnapshot, snapshot_of

log = logger()

PATH = "/debug/vars"
DEADLINE = 10.0  # seconds for one address
MAX_BYTES = 64 * 1024 * 1024


class NoTraffic(Exception):
    """The counters cannot be had now; str() says which Xray did not give them and why."""


@define
class Metrics:
    """
    Reads the counters of all Xray servers that `look` finds, and adds them up.

    `look` gives the servers of the moment. `agent` speaks HTTP, directly and never by a proxy.
    """

    clock: IReactorTime
    agent: IAgent
    look: Callable[[], Deferred[Sequence[XrayServer]]]
    _tally: Tally = field(factory=Tally, init=False)
    # One after the other: of two at once the older answer could be counted last, as a restart.
    _turn: DeferredLock = field(factory=DeferredLock, init=False)
    _silent: dict[str, str] = field(factory=dict, init=False)

    async def traffic(self) -> TrafficSnapshot:
        """
        Return the counters of now.

        Where no Xray is set up they are empty, which is true. Fails with NoTraffic where one is
        and none answers: that is never reported as zero. Of several servers, one that does not
        answer stays in the sum with what it counted last.
        """
        return await self._turn.run(lambda: Deferred.fromCoroutine(self._traffic()))

    async def _traffic(self) -> TrafficSnapshot:
        servers = await self.look()
        # An Xray may run from a file nobody told us of: then the README's address is worth a try.
        wanted = {server.config_path: metrics_addresses(server.document) for server in servers}
        heard = await self._scrape_each(wanted or {"": (DEFAULT_METRICS,)})
        if wanted and not heard:
            raise NoTraffic("; ".join(self._silent[path] for path in wanted))
        self._tally.count(heard)
        return self._tally.total()

    async def _scrape_each(
        self, wanted: Mapping[str, Sequence[Address]]
    ) -> dict[Address, TrafficSnapshot]:
        """Scrape each server at the first of its addresses that answers, no address twice."""
        heard: dict[Address, TrafficSnapshot] = {}
        mute: dict[Address, str] = {}
        for path, addresses in wanted.items():
            for address in addresses:
                if address not in heard and address not in mute:
                    try:
                        heard[address] = await self._scrape(address)
                    except NoTraffic as problem:
                        mute[address] = str(problem)
                if address in heard:
                    self._answers(path)
                    break
            else:
                self._gives_none(path, [mute[address] for address in addresses])
        return heard

    def _answers(self, path: str) -> None:
        if self._silent.pop(path, None) is not None and path:
            log.info("the Xray of {path} gives its traffic again", path=path)

    def _gives_none(self, path: str, problems: Sequence[str]) -> None:
        reason = f"the Xray of {path} gives no traffic: {', '.join(problems)}"
        if path and path not in self._silent:
            log.warn("{reason}; it is asked again for each report", reason=reason)
        self._silent[path] = reason

    async def _scrape(self, address: Address) -> TrafficSnapshot:
        """Return the counters that `address` gives, or fail with NoTraffic."""
        url = address.url(PATH)
        asked = Deferred.fromCoroutine(self._get(url))
        try:
            data = await asked.addTimeout(DEADLINE, self.clock, _too_late)
            return snapshot_of(_stats_in(data))
        except Exception as problem:  # whatever is wrong over there, it must not end the reports
            if _was_cancelled(problem):
                raise CancelledError from problem
            reason = str(problem) or type(problem).__name__
            raise NoTraffic(f"{url}: {reason}") from problem

    async def _get(self, url: str) -> bytes:
        response = await self.agent.request(b"GET", url.encode("ascii"))
        data = await read_body(response, MAX_BYTES)
        if response.code != 200:
            raise NoTraffic(f"HTTP status {response.code}")
        return data


def _stats_in(data: bytes) -> object:
    variables = json.loads(data)
    if not isinstance(variables, dict) or "stats" not in variables:
        raise InvalidStats("the answer holds no stats")
    return variables["stats"]


def _too_late(result: object, deadline: float) -> NoReturn:
    raise NoTraffic(f"no answer within {deadline:.0f} s")


def _was_cancelled(problem: Exception) -> bool:
    # What Twisted makes of it depends on how far the request had come.
    within = [reason.value for reason in getattr(problem, "reasons", ())]
    return any(
        isinstance(one, CancelledError | ConnectingCancelledError) for one in [problem, *within]
    )
