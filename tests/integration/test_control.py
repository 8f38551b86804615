"""A real Xray on a machine without a service manager: started, stopped, restarted, killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from mmwagent.host import command, programs
from mmwagent.host.launching import Launch
from mmwagent.host.processes import Process, Processes
from mmwagent.host.services import Busy, Refused, ServiceFailed
from mmwagent.host.unmanaged import Unmanaged
from mmwagent.manage.control import Control
from mmwagent.testing.xray import configuration, serving
from mmwagent.xray.discovery import Discovery
from mmwagent.xray.inspection import Inspection
from mmwagent.xray.start import XrayStart
from tests.integration.helpers import PEERS, USER, ProcessCase, peer, until


async def unreported(act: Callable[[], Awaitable[None]]) -> None:
    """Act without reports."""
    await act()


class XrayTests(ProcessCase):
    """The parts as the agent has them, on a real reactor."""

    def setUp(self) -> None:
        """Install Xray with a configuration; it does not run."""
        super().setUp()
        peer("xray")
        run = partial(command.run, reactor)
        xray = programs.xray(run)
        xray.directories = (str(PEERS),)
        discovery = Discovery((str(self.place.xray_file),), configured=True)
        self.inspection = Inspection(discovery, Processes())
        start = XrayStart(xray, self.inspection, run, deferToThread)

        async def find(service: str) -> Sequence[Process]:
            return tuple((await deferToThread(self.inspection.now)).processes)

        async def first(service: str) -> Launch | None:
            return await start.launch()

        services = Unmanaged(reactor, run, find, first, self.place.directory)
        self.control = Control(
            reactor, services, {"xray": xray}, find, {"xray": start.check}, unreported
        )
        self.write(self.document())
        self.addCleanup(self.kill)

    def document(self) -> dict[str, Any]:
        """Return a configuration with one SOCKS inbound."""
        return configuration(self.place.socks, self.place.metrics, USER)

    def write(self, document: dict[str, Any]) -> None:
        """Write Xray's configuration."""
        self.place.xray_file.write_text(json.dumps(document))

    def pids(self) -> list[int]:
        """Return the processes that serve our configuration."""
        return [process.pid for process in self.inspection.now().processes]

    def kill(self) -> None:
        """End them at once."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)

    async def act(self, action: str) -> float:
        """Do it, and return how many seconds it took."""
        began = reactor.seconds()
        await self.control.act("xray", action)
        return float(reactor.seconds() - began)

    async def serves(self) -> None:
        """Assert that Xray serves."""
        with serving() as content:
            self.assertGreater(await self.fetch(content, 50_000), 50_000)

    def test_life(self) -> Deferred[None]:
        """It starts, restarts as another process, stops; each answer is true at once."""
        return Deferred.fromCoroutine(self.live())

    async def live(self) -> None:
        """Start, restart, stop, each twice."""
        for _ in range(2):
            await self.act("start")
            [first] = self.pids()
            self.assertTrue(await self.control.running("xray"))
            await self.serves()
            self.assertLess(await self.act("start"), 1)
            self.assertEqual(self.pids(), [first])
            await self.act("restart")
            [second] = self.pids()
            self.assertNotEqual(first, second)
            await self.serves()
            state = (await self.control.states())["xray"]
            self.assertEqual((state.installed, state.running), (True, True))
            self.assertTrue(state.version)
            for _ in range(2):
                await self.act("stop")
                self.assertEqual(self.pids(), [])
                self.assertFalse(await self.control.running("xray"))

    def test_refused(self) -> Deferred[None]:
        """A configuration that Xray refuses leaves the old process at work."""
        return Deferred.fromCoroutine(self.refuse())

    async def refuse(self) -> None:
        """Start, break the configuration in two ways, restart."""
        await self.act("start")
        before = self.pids()
        for broken in ('{"inbounds": [{"port": 1, "protocol": "no-such"}]}', "{ no JSON"):
            self.place.xray_file.write_text(broken)
            try:
                await self.act("restart")
            except Refused as refused:
                self.assertIn("failed to", str(refused))
            else:
                self.fail(f"{broken} was not refused")
            self.assertEqual(self.pids(), before)
            await self.serves()
        self.write(self.document())
        await self.act("restart")
        await self.serves()

    def test_port_taken(self) -> Deferred[None]:
        """What only the start finds out is a failure with Xray's own words."""
        return Deferred.fromCoroutine(self.take_port())

    async def take_port(self) -> None:
        """Have somebody else on the port."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", self.place.socks))
            other.listen()
            try:
                await self.act("start")
            except ServiceFailed as failed:
                self.assertIn("xray did not stay up", str(failed))
                self.assertIn("address already in use", str(failed))
            else:
                self.fail("it was said to run")
        self.assertEqual(self.pids(), [])
        await self.act("start")
        await self.serves()

    def test_killed(self) -> Deferred[None]:
        """Killed in between it is seen to be gone, and starts again."""
        return Deferred.fromCoroutine(self.kill_between())

    async def kill_between(self) -> None:
        """Kill it while it runs, and while its restart is watched."""
        await self.act("start")
        self.kill()
        await until(lambda: not self.pids(), "its end")
        self.assertFalse(await self.control.running("xray"))
        await self.act("restart")
        before = self.pids()
        restarting = Deferred.fromCoroutine(self.control.act("xray", "restart"))
        await until(lambda: self.pids() not in ([], before), "the new process")
        self.kill()
        try:
            await restarting
        except ServiceFailed as failed:
            self.assertIn("did not stay up", str(failed))
        else:
            self.fail("it was said to run")
        await self.act("start")
        await self.serves()

    def test_at_once(self) -> Deferred[None]:
        """Of many restarts at once one is done."""
        return Deferred.fromCoroutine(self.hurry())

    async def hurry(self) -> None:
        """Restart ten times at once."""
        await self.act("start")
        busy: list[Busy] = []
        calls = [Deferred.fromCoroutine(self.control.restart("xray")) for _ in range(10)]
        for call in calls:
            call.addErrback(lambda failure: busy.append(failure.check(Busy)))
        await gatherResults(calls)
        self.assertEqual(busy, [Busy] * 9)
        self.assertEqual(len(self.pids()), 1)
        await self.serves()
