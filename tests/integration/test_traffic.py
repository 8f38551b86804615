"""Real bytes through a real Xray, and what of them arrives at the master."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from mmwagent.testing.master import StandInMaster
from mmwagent.testing.xray import serving
from tests.integration.helpers import TOKEN, USER, ProcessCase, until

SIZE = 5_000_000


class TrafficTests(ProcessCase):
    """An agent between a real Xray and the stand-in master."""

    def in_mode(self, mode: str) -> Deferred[None]:
        """Run the same test by one door or another."""
        return Deferred.fromCoroutine(self.counted(mode))

    def test_websocket(self) -> Deferred[None]:
        """Over the WebSocket what was fetched arrives as traffic, within 2 %."""
        return self.in_mode("websocket")

    def test_http(self) -> Deferred[None]:
        """Over HTTP it does as well."""
        return self.in_mode("http")

    async def counted(self, mode: str) -> None:
        """Fetch bytes through Xray, and compare them with what the master has added up."""
        master = await self.master()
        self.xray()
        agent = self.agent(self.url, connection_mode=mode)
        record = master.agent("vps")
        with serving() as content:
            came = await self.fetch(content, SIZE)
        traffic = record.traffic

        def arrived() -> bool:
            return traffic.total("user", "downlink", USER) >= came

        await until(
            arrived, lambda: f"{came} bytes as the user's traffic; the agent said {agent.text}"
        )
        for kind, name in (("inbound", "socks-in"), ("outbound", "direct"), ("user", USER)):
            self.within_two_percent(traffic.total(kind, "downlink", name), came)
            self.assertGreater(traffic.total(kind, "uplink", name), 0)
        self.assertEqual(record.listen_port, self.place.listen)
        self.assertIsNotNone(record.xray_boot_time)
        await until(lambda: record.of("speed"), "a speed report")
        self.assertEqual(master.violations, [])
        self.assertEqual({report.door for report in record.reports}, {mode})

    def within_two_percent(self, counted: int, came: int) -> None:
        """Compare what was counted with what came."""
        self.assertLess(abs(counted - came) / came, 0.02)

    def test_installed_later(self) -> Deferred[None]:
        """An Xray that appears after the agent has started is reported without a restart."""
        return Deferred.fromCoroutine(self.later())

    async def later(self) -> None:
        """Start the agent, then Xray."""
        master = await self.master()
        self.agent(self.url)
        record = master.agent("vps")
        await until(lambda: record.heartbeat, "a heartbeat")
        self.assertIsNone(record.xray_boot_time)
        self.xray()
        with serving() as content:
            came = await self.fetch(content, 100_000)
        await until(
            lambda: record.traffic.total("user", "downlink", USER) >= came, "the user's traffic"
        )
        self.assertIsNotNone(record.xray_boot_time)
        await self.asked(master, "/api/child/services/status")

    async def asked(self, master: StandInMaster, path: str) -> None:
        """Have the master ask the agent for its services: the answer knows Xray, too."""
        answer = await self.get(path)
        self.assertTrue(answer["xray"]["running"])
        self.assertEqual(answer["xray"]["version"], "26.3.27")

    async def get(self, path: str) -> Any:
        """Return what the agent's management API answers."""
        import treq

        response = await treq.get(
            f"http://127.0.0.1:{self.place.listen}{path}",
            headers={"User-Agent": "miaomiaowux/0.1", "Authorization": f"Bearer {TOKEN}"},
            persistent=False,
        )
        return await response.json()
