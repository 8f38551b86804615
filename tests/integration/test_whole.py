"""The management API of the whole agent, as it is put together, with a real Xray."""

from __future__ import annotations

import json
from typing import Any

import treq
from twisted.internet.defer import Deferred

from tests.integration.helpers import PEERS, TOKEN, ProcessCase, peer, until

DOCUMENT = {
    "inbounds": [],
    "outbounds": [{"tag": "direct", "protocol": "freedom"}],
}


class WholeTests(ProcessCase):
    """An agent without a master, asked over its port."""

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        response = await treq.request(
            method,
            f"http://127.0.0.1:{self.place.listen}/api/child/{path}",
            headers={"User-Agent": "miaomiaowux/0.1", "Authorization": f"Bearer {TOKEN}"},
            data=b"" if body is None else json.dumps(body).encode(),
            persistent=False,
        )
        return response.code, await response.json()

    def test_xray(self) -> Deferred[None]:
        """Xray's file is read, refused, completed once; Xray itself is started and stopped."""
        return Deferred.fromCoroutine(self.xray_resource())

    async def xray_resource(self) -> None:
        """Go through Xray's endpoints."""
        peer("xray")
        self.place.xray_file.write_text(json.dumps(DOCUMENT))
        agent = self.agent(
            "http://127.0.0.1:1",
            {"PATH": f"{PEERS}:/usr/bin:/bin"},
            connection_mode="pull",
            state_directory=str(self.place.directory / "not-there-yet"),
        )
        await until(lambda: "management API open" in agent.text, lambda: agent.text)
        status, answer = await self.ask("GET", "xray/config")
        self.assertEqual((status, json.loads(answer["config"])), (200, DOCUMENT))
        status, answer = await self.ask("PUT", "xray/config", {"config": "{bad"})
        self.assertIn(status, (400, 422))
        self.assertEqual(json.loads(self.place.xray_file.read_text()), DOCUMENT)
        status, answer = await self.ask("POST", "scan")
        self.assertEqual((status, answer["success"]), (200, True))
        completed = self.place.xray_file.read_text()
        self.assertIn("metrics", json.loads(completed))
        status, answer = await self.ask("POST", "scan")
        self.assertEqual(status, 200)
        self.assertEqual(self.place.xray_file.read_text(), completed)
        for path in ("xray/config/files", "xray/system-config", "services/status"):
            self.assertEqual((await self.ask("GET", path))[0], 200)
        control = {"service": "xray", "action": "start"}
        status, answer = await self.ask("POST", "services/control", control)
        self.assertEqual((status, answer["success"]), (200, True), answer)
        _, states = await self.ask("GET", "services/status")
        self.assertTrue(states["xray"]["running"])
        control = {"service": "xray", "action": "stop"}
        self.assertEqual((await self.ask("POST", "services/control", control))[0], 200)
        self.assertNotIn("Traceback", agent.text)
