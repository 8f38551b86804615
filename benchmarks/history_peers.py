"""What a history disturbs: processes that are killed with -9, and the network that breaks."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from mmwagent.testing.faultline import Faultline, Freeze, Pass, Refuse, Reset

HOST = "127.0.0.1"


class Process(ProcessProtocol):
    """A process of its own, and the end of what it said."""

    def __init__(self, reactor: Any, *argv: str) -> None:
        self.said = b""
        self.alive = True
        self._waiting: list[Deferred[None]] = []
        env = {key: value for key, value in os.environ.items() if not key.startswith("MMWX_")}
        env["XRAY_BUF_SPLICE"] = "disable"  # else the kernel carries, and Xray counts at the end
        self._process = reactor.spawnProcess(self, argv[0], argv, env=env)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep the end of what it says."""
        self.said = (self.said + data)[-20_000:]

    def processEnded(self, reason: Failure) -> None:
        """Tell who waits for it."""
        self.alive = False
        for waiting in self._waiting:
            waiting.callback(None)

    @property
    def text(self) -> str:
        """Return the end of what it said."""
        return self.said.decode("utf-8", "replace")[-3000:]

    async def kill(self) -> None:
        """Kill it with -9."""
        if self.alive:
            ended: Deferred[None] = Deferred()
            self._waiting.append(ended)
            try:
                self._process.signalProcess("KILL")
            except ProcessExitedAlready:
                pass
            await ended


class Network:
    """The way from agent to master, which breaks."""

    def __init__(self, reactor: Any, port: int, master: int) -> None:
        towards = TCP4ClientEndpoint(reactor, HOST, master)

        def listen(port: int) -> TCP4ServerEndpoint:
            return TCP4ServerEndpoint(reactor, port, interface=HOST)

        self.line = Faultline(reactor, listen, towards)
        self.line.port = port
        self.frozen = False
        self._closed_for: set[str] = set()

    async def close(self, reason: str) -> None:
        """Refuse connections and reset those there are."""
        self._closed_for.add(reason)
        await self.reset()
        await self._for_new()

    async def open(self, reason: str) -> None:
        """Take connections again, unless there is another reason not to."""
        self._closed_for.discard(reason)
        await self._for_new()

    async def reset(self) -> None:
        """Reset all connections at both ends."""
        await self.line.apply(Reset(), new=False)

    async def freeze(self) -> None:
        """Let nothing pass; nobody hears of anything."""
        self.frozen = True
        await self.line.apply(Freeze(), new=False)
        await self._for_new()

    async def thaw(self, pause: Callable[[], Deferred[None]]) -> None:
        """Let all pass again, an older connection before the newer: so would a kernel do it."""
        known: set[Any] = set()
        while left := [each for each in self.line.connections if each not in known]:
            left[0].apply(Pass())
            known.add(left[0])
            await pause()
        self.frozen = False
        await self._for_new()
        await self.line.apply(Pass(), new=False)

    async def _for_new(self) -> None:
        if self.frozen:
            await self.line.apply(Freeze(), existing=False)
        elif self._closed_for:
            await self.line.apply(Refuse(), existing=False)
        else:
            await self.line.apply(Pass(), existing=False)


def low_ports() -> Iterator[int]:
    """
    Give free ports of 127.0.0.1 that the kernel gives to no outgoing connection.

    They are other ones each time: histories of one seed may run side by side.
    """
    chance = random.SystemRandom()
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = chance.randrange(max(1024, first - 12_000), first)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        yield port
