"""Whatever is killed comes back to work by itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from signal import SIGTERM

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from mmwagent.testing.xray import free_port, serving
from tests.integration.helpers import PATIENCE, STEP, TOKEN, USER, Child, ProcessCase, until


class RecoveryTests(ProcessCase):
    """kill -9 of each part in turn."""

    def test_xray_killed(self) -> Deferred[None]:
        """After a restart of Xray its traffic is counted on, and its new start comes first."""
        return Deferred.fromCoroutine(self.kill_xray())

    async def kill_xray(self) -> None:
        """Fetch, kill Xray, start it, fetch again."""
        master = await self.master()
        record = master.agent("vps")
        xray = self.xray()
        self.agent(self.url)
        with serving() as content:
            came = await self.fetch(content, 300_000)
            await until(
                lambda: record.traffic.total("user", "downlink", USER) >= came, "the first bytes"
            )
            xray.signal("KILL")
            await xray.ended
            reports = len(record.of("traffic"))
            first_start = record.xray_boot_time
            beats = len(record.of("heartbeat"))
            await until(lambda: len(record.of("heartbeat")) > beats + 1, "heartbeats without Xray")
            self.assertLessEqual(len(record.of("traffic")), reports + 1)
            self.xray()
            came += await self.fetch(content, 200_000)
        await until(
            lambda: record.traffic.total("user", "downlink", USER) >= came, "bytes of both runs"
        )
        self.assertEqual(record.traffic.total("user", "downlink", USER), came)
        self.assertNotEqual(record.xray_boot_time, first_start)
        self.assertEqual(master.violations, [])

    def test_agent_killed(self) -> Deferred[None]:
        """An agent that was killed reports on when it is started again; no byte counts twice."""
        return Deferred.fromCoroutine(self.kill_agent())

    async def kill_agent(self) -> None:
        """Fetch, kill the agent, fetch, start it again."""
        master = await self.master()
        record = master.agent("vps")
        self.xray()
        agent = self.agent(self.url)
        with serving() as content:
            came = await self.fetch(content, 300_000)
            await until(
                lambda: record.traffic.total("user", "downlink", USER) >= came, "the first bytes"
            )
            agent.signal("KILL")
            await agent.ended
            came += await self.fetch(content, 200_000)
        self.agent(self.url)
        await until(
            lambda: record.traffic.total("user", "downlink", USER) >= came, "all of the bytes"
        )
        self.assertEqual(record.traffic.total("user", "downlink", USER), came)
        self.assertEqual(record.boot_count, 1)

    def test_master_killed(self) -> Deferred[None]:
        """A master that was killed gets its reports again once it is back, by each door."""
        return Deferred.fromCoroutine(self.kill_master())

    async def kill_master(self) -> None:
        """Kill the master's process, and start it again on the same port."""
        port = free_port()
        first = self.start_master(port)
        agent = self.agent(f"http://127.0.0.1:{port}")
        await self.heartbeat_at(port, agent)
        first.signal("KILL")
        await first.ended
        self.start_master(port)
        await self.heartbeat_at(port, agent)

    def start_master(self, port: int) -> Child:
        """Start a master in a process of its own."""
        return self.child(
            *(sys.executable, "-m", "twisted", "--log-level=error"),
            *("mmw-standin-master", f"--listen=127.0.0.1:{port}", f"--token=vps={TOKEN}"),
        )

    async def heartbeat_at(self, port: int, agent: Child) -> None:
        """Wait until the master at `port` has the agent connected."""
        deadline = reactor.seconds() + PATIENCE
        while not await self.connected_at(port):
            self.assertLess(reactor.seconds(), deadline, f"not connected; {agent.text}")
            await deferLater(reactor, STEP)

    async def connected_at(self, port: int) -> bool:
        """Ask the master at `port` whether the agent has a session; no while it is away."""
        url = f"http://127.0.0.1:{port}/standin/agents"
        try:
            response = await treq.get(url, persistent=False, timeout=2)
            agents = json.loads(await response.content())["agents"]
        except Exception:
            return False
        return any(agent["name"] == "vps" and agent["websocket"] for agent in agents)

    def test_stops(self) -> Deferred[None]:
        """SIGTERM ends the agent within 5 s, and it says goodbye to the master."""
        return Deferred.fromCoroutine(self.stop_agent())

    async def stop_agent(self) -> None:
        """Stop a live agent."""
        master = await self.master()
        agent = self.agent(self.url)
        record = master.agent("vps")
        await until(lambda: record.heartbeat, "a heartbeat")
        started = reactor.seconds()
        agent.signal("TERM")
        status = await agent.ended
        self.assertIn(status, (0, -SIGTERM))  # twistd ends by the signal that it was sent
        self.assertLess(reactor.seconds() - started, 5)
        await until(lambda: record.connections[0].closed, "the end of the session")
        self.assertIn("1000", str(record.connections[0].closed))
        self.assertNotIn("Traceback", agent.text)
        self.assertNotIn(TOKEN, agent.text)


class ClockTests(ProcessCase):
    """A wall clock that somebody sets."""

    def test_set_back_by_an_hour(self) -> Deferred[None]:
        """Set back by an hour in the middle of it, the clock delays no report."""
        return Deferred.fromCoroutine(self.set_back())

    async def set_back(self) -> None:
        """Run the agent on a clock of its own, and set that back."""
        offset = self.place.directory / "offset"
        offset.write_text("+0")
        library = faketime_library()
        master = await self.master()
        agent = self.agent(
            self.url,
            {
                "LD_PRELOAD": library,
                "FAKETIME_TIMESTAMP_FILE": str(offset),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            },
        )
        record = master.agent("vps")
        await until(
            lambda: record.heartbeat and len(record.of("speed")) > 2,
            lambda: f"reports; {agent.text}",
        )
        told = record.of("heartbeat")[-1].payload["local_time"]
        offset.write_text("-3600")
        # Each within a few of its intervals: 1, 1 and 2 s here.
        for type_ in ("speed", "traffic", "heartbeat"):
            seen = len(record.of(type_))
            await until(lambda t=type_, n=seen: len(record.of(t)) > n + 2, f"more {type_}", 10)
        back = record.of("heartbeat")[-1].payload["local_time"] - told
        self.assertLess(back, -3000, "the clock was not set back, so nothing was tested")


def faketime_library() -> str:
    """Return the library that sets clocks back; tools/peers faketime brings it."""
    for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1"):
        return os.fspath(path)
    raise FileNotFoundError("libfaketime is missing: run tools/peers faketime")
