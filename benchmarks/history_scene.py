"""
One history: random traffic through a real Xray, and everything killed at random.

`History` starts and kills, `history_checks` compares.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure
from twisted.web.client import Agent, readBody

from benchmarks.history import Found
from benchmarks.history_checks import USER, Checks
from benchmarks.history_model import MARKER
from benchmarks.history_peers import HOST, Network, Process, low_ports
from benchmarks.history_traffic import Gate, Traffic
from benchmarks.scene import xray_binary
from mmwagent.testing import wire
from mmwagent.testing.master import StandInMaster
from mmwagent.testing.wire import Stats
from mmwagent.testing.xray import configuration

TOKEN = "a-token-for-the-history-check"
STEP = 0.02
PATIENCE = 30.0
APART = 1.1  # seconds between the starts of two Xrays


class HistoryBroken(Exception):
    """A history cannot go on; str() says why."""


class History:
    """
    One history of `seconds`, made with `seed`, in `directory`.

    `xray` is the path of the program. What is killed when follows from the seed; what happens
    between two kills does not.
    """

    def __init__(
        self, reactor: Any, directory: Path, xray: str, seconds: float, seed: int
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._xray_program = xray
        self._seconds = seconds
        self._seed = seed
        self.found = Found(seed, seconds)
        low = low_ports()
        self._metrics, master_port = next(low), next(low)
        self._ports = low
        self._web = Agent(reactor)
        self._master = StandInMaster(reactor, {"vps": TOKEN})
        self._master_port = master_port
        self._listening: IListeningPort | None = None
        self._network = Network(reactor, next(low), master_port)
        self._traffic = Traffic(reactor, USER, self._random("traffic"))
        self._checks = Checks(self.found, self._traffic.passed, self._now)
        self._master.observe(self._checks.observe)
        self._xray: Process | None = None
        self._xray_started = 0.0
        self._agent: Process | None = None

    # The whole.

    async def run(self) -> Found:
        """Make the history, and return what came of it."""
        try:
            for what in ("xray", "agent"):
                self._checks.silence.broke(what, self._now())
            self._open_master()
            await self._network.open("")
            await self._start_xray()
            self._traffic.start()
            self._start_agent()
            await self._until(lambda: self.found.reports["traffic by websocket"], "a first report")
            end = self._now() + self._seconds
            await self._disturb(end)
            await self._settle()
            self._checks.sum_up(self._master.agent("vps"))
            self.found.fetches = self._traffic.fetches
            self.found.fetches_broken = self._traffic.broken
        finally:
            await self._clean_up()
        return self.found

    async def _disturb(self, end: float) -> None:
        """Disturb all, each by its own chance, until `end` at least."""
        disturbing = [
            Deferred.fromCoroutine(self._again_and_again(end, name, mean, act))
            for name, mean, act in (
                ("xray", 8.0, self._disturb_xray),
                ("agent", 14.0, self._disturb_agent),
                ("master", 17.0, self._disturb_master),
                ("network", 9.0, self._disturb_network),
            )
        ]
        try:
            await gatherResults(disturbing, consumeErrors=True)
        except FirstError as first:
            first.subFailure.raiseException()
        finally:
            for each in disturbing:
                each.cancel()

    async def _again_and_again(
        self,
        end: float,
        name: str,
        mean: float,
        act: Callable[[random.Random], Coroutine[Any, Any, None]],
    ) -> None:
        chance = self._random(name)
        while True:
            wait = min(chance.expovariate(1 / mean), 4 * mean)
            if self._now() + wait > end:
                return
            await self._sleep(wait)
            await act(chance)

    async def _settle(self) -> None:
        """Let the last run's bytes arrive: all is whole, and no new ones pass."""
        self._traffic.hold()
        await self._until(lambda: self._traffic.drained(self._checks.run), "the last bytes")
        await self._until(self._checks.whole, "the last bytes at the master")
        await self._sleep(2.5)  # two more reports, which add nothing

    async def _clean_up(self) -> None:
        for process in (self._agent, self._xray):
            if process is not None:
                await process.kill()
        await _maybe(self._traffic.stop())
        await self._close_master()
        await self._network.line.stop()
        await self._sleep(0.1)  # for the ends of all connections

    # What is disturbed, and how.

    async def _disturb_xray(self, chance: random.Random) -> None:
        quiet, down = chance.random() < 0.5, chance.uniform(0, 4)
        if quiet:
            self._traffic.hold()
            await self._until(
                lambda: self._traffic.drained(self._checks.run), "the bytes under way"
            )
        self._checks.read(await self._counters(), exactly=quiet)
        self._checks.silence.broke("xray", self._now())
        self.found.kills["quiet kills of Xray" if quiet else "kills of Xray amid traffic"] += 1
        self._traffic.gate = None
        assert self._xray is not None
        await self._xray.kill()
        self._traffic.go_on()
        await self._sleep(max(down, self._xray_started + APART - self._now()))
        await self._start_xray()

    async def _disturb_agent(self, chance: random.Random) -> None:
        down = chance.uniform(0, 3)
        self._checks.silence.broke("agent", self._now())
        self.found.kills["kills of the agent"] += 1
        assert self._agent is not None
        await self._agent.kill()
        await self._sleep(down)
        self._start_agent()

    async def _disturb_master(self, chance: random.Random) -> None:
        down = chance.uniform(0.2, 8)
        self._checks.silence.broke("master", self._now())
        self.found.kills["kills of the master"] += 1
        await self._close_master()
        if not self._network.frozen:  # else nobody hears of it yet
            await self._network.close("master")
        self._checks.master_killed()
        await self._sleep(down)
        self._open_master()
        await self._network.open("master")
        self._checks.silence.mended("master", self._now())

    async def _disturb_network(self, chance: random.Random) -> None:
        how, long = chance.choice(("freezes", "resets", "refusals")), chance.random() < 0.15
        seconds = chance.uniform(12, 25) if long else chance.uniform(0.3, 8)
        self._checks.silence.broke("network", self._now())
        self.found.kills[f"{how} of the network"] += 1
        if how == "resets":
            await self._network.reset()
        elif how == "refusals":
            await self._network.close("network")
            await self._sleep(seconds)
            await self._network.open("network")
        else:
            await self._network.freeze()
            await self._sleep(seconds)
            await self._network.thaw(lambda: deferLater(self._reactor, 2 * STEP))
        self._checks.silence.mended("network", self._now())

    # What is started.

    async def _start_xray(self) -> None:
        self._checks.run += 1
        socks = next(self._ports)
        document = configuration(socks, self._metrics, USER)
        marker = {"tag": f"{MARKER}{self._checks.run}", "protocol": "blackhole"}
        document["outbounds"].append(marker)
        written = self._directory / "xray.new"
        written.write_text(json.dumps(document))
        written.replace(self._directory / "xray.json")
        self._xray_started = self._now()
        file = str(self._directory / "xray.json")
        self._xray = Process(self._reactor, self._xray_program, "run", "-c", file)
        await self._until_xray_answers()
        self._traffic.gate = Gate(self._checks.run, socks)
        self._checks.silence.mended("xray", self._now())

    async def _until_xray_answers(self) -> None:
        deadline = self._now() + PATIENCE
        while True:
            assert self._xray is not None
            try:
                await self._counters()
                return
            except CancelledError:
                raise
            except Exception as problem:
                if self._now() > deadline or not self._xray.alive:
                    raise HistoryBroken(f"Xray: {problem}; {self._xray.text}") from problem
            await self._sleep(STEP)

    def _start_agent(self) -> None:
        file = self._directory / "config.yaml"
        file.touch(0o600)
        file.write_text(json.dumps(self._settings()))
        self._agent = Process(self._reactor, sys.executable, "-m", "mmwagent", "-c", str(file))
        self._checks.silence.mended("agent", self._now())

    def _settings(self) -> dict[str, Any]:
        return {
            "master_server": f"http://{HOST}:{self._network.line.port}",
            "remote_token": TOKEN,
            "connection_mode": "auto",
            "listen_address": HOST,
            "listen_port": next(self._ports),  # by which the heartbeats tell agents apart
            "traffic_report_interval": 1,
            "speed_report_interval": 1,
            "heartbeat_interval": 2,
            "state_directory": str(self._directory / "state"),
            "xray_servers": [{"config_path": str(self._directory / "xray.json")}],
        }

    def _open_master(self) -> None:
        self._listening = self._reactor.listenTCP(
            self._master_port, self._master.site, interface=HOST
        )

    async def _close_master(self) -> None:
        self._master.stop()
        listening, self._listening = self._listening, None
        if listening is not None:
            await _maybe(listening.stopListening())

    async def _counters(self) -> Stats:
        """Return Xray's counters, or raise."""
        asked = Deferred.fromCoroutine(self._get(f"http://{HOST}:{self._metrics}/debug/vars"))
        document = json.loads(await asked.addTimeout(5, self._reactor))
        return wire.traffic({"stats": document["stats"] or {}}).value or {}

    async def _get(self, url: str) -> bytes:
        body: bytes = await readBody(await self._web.request(b"GET", url.encode()))
        return body

    # Small change.

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    def _now(self) -> float:
        seconds: float = self._reactor.seconds()
        return seconds

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._reactor, max(0.0, seconds))

    async def _until(self, true: Callable[[], Any], what: str) -> None:
        deadline = self._now() + PATIENCE
        while not true():
            if self._now() > deadline:
                said = self._agent.text if self._agent is not None else ""
                raise HistoryBroken(f"{what}: not within {PATIENCE:.0f} s; {said}")
            await self._sleep(STEP)


async def _maybe(result: Deferred[Any] | None) -> None:
    if result is not None:
        await result


class _Until(Protocol):
    """Ends the process when whoever started it ends."""

    def __init__(self, history: Deferred[Any]) -> None:
        self._history = history

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._history.cancel()


async def _print(history: History) -> None:
    print((await history.run()).to_json(), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Make one history in a directory, of so many seconds, with a seed; print what was found."""
    directory, seconds, seed = arguments

    def play(reactor: Any) -> Deferred[None]:
        xray = str(xray_binary())
        history = History(reactor, Path(directory), xray, float(seconds), int(seed))
        playing = Deferred.fromCoroutine(_print(history))
        StandardIO(_Until(playing), reactor=reactor)

        def stop() -> Deferred[None]:
            playing.cancel()
            return playing

        reactor.addSystemEventTrigger("before", "shutdown", stop)
        return playing

    react(play, ())
