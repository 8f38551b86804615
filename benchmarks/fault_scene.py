"""
One fault between an agent and its master, played and timed: `fault_scene DIRECTORY NAME`.

A real Xray with traffic, the agent as users run it, and the stand-in master behind a line that
misbehaves. Prints the outcome as one line of JSON. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from benchmarks.scene import BIN, HOST, TOKEN, xray_binary
from mmwagent.testing.faultline import (
    Close,
    Condition,
    Cut,
    Drip,
    Faultline,
    Freeze,
    Latency,
    Pass,
    Refuse,
    Reset,
    is_websocket,
)
from mmwagent.testing.master import StandInMaster
from mmwagent.testing.records import HTTP, WEBSOCKET, Report
from mmwagent.testing.xray import configuration, fetch, free_port, serving

NAME = "bench"
USER = "one@example.com"
PIECE = 10_000  # bytes that are fetched through Xray each second
STEP = 0.01
START = 30.0  # seconds for everything to run
RECOVERY = 330.0  # seconds: the cap of the agent's delays, and some
SETTLE = 12.0  # seconds after the recovery for the last bytes, and for what comes twice
END = 20.0  # seconds that a stop may take before it is given up
NOT_DIALLED = "dialling, no answer to the SYN"


@frozen
class Fault:
    """`condition` for `held` seconds, at 0 for an instant, after which reports must come again."""

    name: str
    condition: Condition
    held: float = 0.0
    websocket_alone: bool = False
    new_master: bool = False
    quick: bool = False


@frozen
class Stop:
    """SIGTERM `after` seconds of `condition`, for an agent that was live or just begins."""

    name: str
    condition: Condition
    after: float
    live: bool = True
    quick: bool = False


HELD = 55.0  # not when a dial is due anyway
FAULTS = (
    Fault("black hole for five minutes", Freeze(), 300.0),
    Fault("reset (RST)", Reset(), quick=True),
    Fault("close (FIN)", Close()),
    Fault("cut in a frame of the agent's", Cut(11), quick=True),
    Fault("cut in a frame of the master's", Cut(3, up=False)),
    Fault("latency 200 ms", Latency(0.2), HELD),
    Fault("latency 3 s", Latency(3.0), HELD),
    Fault("slow drip, 5 ms a byte", Drip(0.005), HELD),
    Fault("slow drip, 50 ms a byte", Drip(0.05), HELD),
    Fault("black hole", Freeze(), HELD),
    Fault("black hole, stalled", Freeze(stalled=True), HELD),
    Fault("black hole, WebSocket alone", Freeze(), HELD, websocket_alone=True, quick=True),
    Fault("... stalled", Freeze(stalled=True), HELD, websocket_alone=True),
    Fault("agent to master frozen", Freeze(down=False), HELD),
    Fault("agent to master stalled", Freeze(down=False, stalled=True), HELD),
    Fault("master to agent frozen", Freeze(up=False), HELD),
    Fault("master to agent stalled", Freeze(up=False, stalled=True), HELD),
    Fault("master killed, a new one after 20 s", Refuse(), 20.0, new_master=True),
)
STOPS = (
    Stop("live, in a black hole", Freeze(), 2.0, quick=True),
    Stop("live, in a black hole, stalled", Freeze(stalled=True), 2.0),
    Stop("in a black hole that was noticed", Freeze(), 42.0),
    Stop("live, a byte each 100 ms", Drip(0.1), 3.0),
    Stop("live, latency 3 s", Latency(3.0), 4.0),
    Stop("dialling into a black hole", Freeze(), 2.0, live=False),
    Stop("dialling, refused", Refuse(), 2.0, live=False),
    Stop(NOT_DIALLED, Pass(), 4.0, live=False),
)


class Program(ProcessProtocol):
    """A process, with what it said and when."""

    def __init__(self, reactor: Any, *argv: str) -> None:
        self.said: list[tuple[float, str]] = []
        self.ended: Deferred[int] = Deferred()
        self._reactor = reactor
        self._process = reactor.spawnProcess(self, argv[0], argv, env=os.environ)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep it."""
        now = self._reactor.seconds()
        self.said += [(now, line) for line in data.decode("utf-8", "replace").splitlines()]

    def processEnded(self, reason: Failure) -> None:
        """Tell the status, a signal as a negative number."""
        value: Any = reason.value
        self.ended.callback(-value.signal if value.signal else value.exitCode)

    def signal(self, name: str) -> None:
        """Send a signal, if it still runs."""
        try:
            self._process.signalProcess(name)
        except ProcessExitedAlready:
            pass

    def first_with(self, text: str, since: float) -> float | None:
        """Return when it first said `text` after `since`."""
        return next((at for at, line in self.said if at >= since and text in line), None)


class Stage:
    """All that a scene needs; `masters` are those there were, the last is there now."""

    def __init__(self, reactor: Any, directory: Path, stack: ExitStack) -> None:
        self.reactor = reactor
        self.masters: list[StandInMaster] = []
        self.fetched = 0
        self._directory = directory
        self._programs: list[Program] = []
        self._socks, metrics = free_port(), free_port()
        self._content = stack.enter_context(serving())
        self._fetching = LoopingCall(self._fetch)
        self._xray_file = directory / "xray.json"
        self._xray_file.write_text(json.dumps(configuration(self._socks, metrics, USER)))
        reactor.addSystemEventTrigger("before", "shutdown", self.end)

    async def prepare(self) -> None:
        """Start everything but the agent."""
        await self.open_master(0)
        towards = TCP4ClientEndpoint(self.reactor, HOST, self._port.getHost().port)
        listen = partial(TCP4ServerEndpoint, self.reactor, interface=HOST)
        self.line = Faultline(self.reactor, listen, towards)
        await self.line.start()
        self._start(str(xray_binary()), "run", "-c", str(self._xray_file))

    async def open_master(self, port: int) -> None:
        """Start a master that knows nothing but the token."""
        self.masters.append(StandInMaster(self.reactor, {NAME: TOKEN}))
        endpoint = TCP4ServerEndpoint(self.reactor, port, interface=HOST)
        self._port = await endpoint.listen(self.masters[-1].site)

    async def replace_master(self) -> None:
        """Have a new one in place of the master, which is gone as if it was killed."""
        number = self._port.getHost().port
        await self._port.stopListening()
        self.masters[-1].stop()
        await self.open_master(number)

    def start_agent(self, port: int) -> None:
        """Start the agent for the master at `port`."""
        settings = {
            "master_server": f"http://{HOST}:{port}",
            "remote_token": TOKEN,
            "connection_mode": "auto",
            "traffic_report_interval": 5,
            "listen_address": HOST,
            "listen_port": free_port(),
            "xray_servers": [{"config_path": str(self._xray_file)}],
            "state_directory": str(self._directory / "state"),
        }
        file = self._directory / "agent.yaml"
        file.touch(0o600)
        file.write_text(json.dumps(settings))
        self.agent = self._start(str(BIN / "mmw-agent"), "-c", str(file))

    async def live(self) -> None:
        """Start the agent, and wait for its traffic over the WebSocket."""
        self.start_agent(self.line.port)
        self._fetching.start(1.0)
        await self.until(lambda: any(r.type == "traffic" for r in self.reports(WEBSOCKET)), START)

    def reports(self, *doors: str, since: float = 0.0) -> list[Report]:
        """Return the reports that the masters took by these doors, by any for none."""
        return [
            report
            for master in self.masters
            for report in master.agent(NAME).reports
            if report.at > since
            and report.accepted
            and report.type != "auth"
            and report.door in (doors or (WEBSOCKET, HTTP))
        ]

    async def until(self, true: Callable[[], Any], patience: float) -> float:
        """Return when `true` has become so. Raises AssertionError with the agent's last words."""
        deadline = self.reactor.seconds() + patience
        while not true():
            if self.reactor.seconds() > deadline:
                raise AssertionError(f"not within {patience:.0f} s; {self.agent.said[-8:]}")
            await deferLater(self.reactor, STEP)
        return float(self.reactor.seconds())

    def counted(self) -> int:
        """Return the bytes that the present master has added up."""
        return self.masters[-1].agent(NAME).traffic.total("user", "downlink", USER)

    def stop_fetching(self) -> None:
        """Fetch no more; from now on all that there is should arrive."""
        self._fetching.stop()

    def end(self) -> Deferred[Any]:
        """End all processes. Ports and connections end with this one."""
        for program in self._programs:
            program.signal("KILL")
        return gatherResults([program.ended for program in self._programs])

    def _start(self, *argv: str) -> Program:
        program = Program(self.reactor, *argv)
        self._programs.append(program)
        return program

    async def _fetch(self) -> None:
        try:
            self.fetched += await deferToThread(fetch, self._socks, self._content, USER, PIECE)
        except ConnectionRefusedError:
            pass  # Xray is still starting


async def play_fault(stage: Stage, fault: Fault) -> dict[str, Any]:
    """Return what a fault does to the reports, in seconds; None for what did not happen."""
    now, line = stage.reactor.seconds, stage.line
    await stage.live()
    began = now()
    only = is_websocket if fault.websocket_alone else None
    if fault.new_master:
        await line.apply(Reset(), new=False)
    existing = list(line.connections)
    await line.apply(fault.condition, new=fault.held > 0, only=only)
    if fault.new_master:
        await stage.replace_master()
    if isinstance(fault.condition, Cut):
        began = await stage.until(lambda: not set(existing) & set(line.connections), 60)
    if fault.held:
        await deferLater(stage.reactor, fault.held)
        await line.apply(Pass())
    ended = now() if fault.held else began
    await stage.until(lambda: stage.reports(WEBSOCKET, since=ended), RECOVERY)
    recovered = stage.reports(WEBSOCKET, since=ended)[0].at
    stage.stop_fetching()
    await deferLater(stage.reactor, SETTLE)
    by_http = [report.at for report in stage.reports(HTTP, since=began)]
    said = stage.agent.first_with("no WebSocket", began)
    signs = [at for at in (said, *by_http[:1]) if at is not None]
    times = [report.at for report in stage.reports() if report.at <= recovered]
    return {
        "noticed": min(signs) - began if signs else None,
        "bridged": any(at <= recovered for at in by_http),
        "any": stage.reports(since=ended)[0].at - ended,
        "recovered": recovered - ended,
        "silence": max(after - before for before, after in pairwise(times)),
        "wrong_bytes": stage.counted() - stage.fetched,
        "violations": [
            f"{violation.rule}: {violation.detail}"
            for master in stage.masters
            for violation in master.violations
        ],
    }


async def play_stop(stage: Stage, stop: Stop) -> dict[str, Any]:
    """Return after how many seconds the agent ended, None for not at all, and its status."""
    with ExitStack() as stack:
        if stop.live:
            await stage.live()
            await stage.line.apply(stop.condition)
        elif stop.name == NOT_DIALLED:
            stage.start_agent(stack.enter_context(_full()))
        else:
            await stage.line.apply(stop.condition)
            stage.start_agent(stage.line.port)
            agent = stage.agent
            await stage.until(
                lambda: stage.line.connections or agent.first_with("no WebSocket", 0), START
            )
        await deferLater(stage.reactor, stop.after)
        began = stage.reactor.seconds()
        stage.agent.signal("TERM")
        try:
            await stage.until(lambda: stage.agent.ended.called, END)
        except AssertionError:
            return {"seconds": None, "status": None, "traceback": False}
        return {
            "seconds": stage.reactor.seconds() - began,
            "status": await stage.agent.ended,
            "traceback": stage.agent.first_with("Traceback", 0) is not None,
        }


class _full:
    """A port whose queue is full: the kernel drops each further SYN."""

    def __enter__(self) -> int:
        self._sockets = [socket.socket()]
        self._sockets[0].bind((HOST, 0))
        self._sockets[0].listen(0)
        port: int = self._sockets[0].getsockname()[1]
        for _ in range(3):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex((HOST, port))
            self._sockets.append(caller)
        return port

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()


class _Until(Protocol):
    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reactor.running:
            self._reactor.stop()


async def _play(reactor: Any, directory: str, name: str) -> None:
    StandardIO(_Until(reactor), reactor=reactor)
    with ExitStack() as stack:
        stage = Stage(reactor, Path(directory), stack)
        await stage.prepare()
        fault = next((fault for fault in FAULTS if fault.name == name), None)
        if fault is not None:
            outcome = await play_fault(stage, fault)
        else:
            outcome = await play_stop(stage, next(stop for stop in STOPS if stop.name == name))
        print(json.dumps(outcome), flush=True)
        await stage.end()


def main(arguments: Sequence[str]) -> None:
    """Run as a process."""
    react(lambda reactor, *rest: Deferred.fromCoroutine(_play(reactor, *rest)), arguments)
