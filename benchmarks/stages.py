"""
One traffic report taken to pieces: `stages METRICS_URL MASTER CA COUNT`, a process of its own.

Each stage is the agent's own code, called in the agent's order. The last line is a JSON object:
a list of CPU seconds for each stage.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent, HTTPConnectionPool

from benchmarks.scene import TOKEN, USER_AGENT
from mmwagent.bodies import read_body
from mmwagent.uplink import websocket
from mmwagent.uplink.address import MasterAddress, endpoint_to, trust_root
from mmwagent.uplink.messages import Incoming, Traffic, encode
from mmwagent.uplink.websocket import Dialer, Session
from mmwagent.xray.metrics import MAX_BYTES
from mmwagent.xray.traffic import snapshot_of


class Stages:
    """Makes reports and notes the CPU time of this process between the stages."""

    def __init__(self, reactor: Any, url: str, master: str, ca: str) -> None:
        self._url = url.encode("ascii")
        self._agent = Agent(reactor, pool=HTTPConnectionPool(reactor))
        address = MasterAddress(master)
        endpoint = endpoint_to(reactor, address, trust_root(ca or None))
        self._dialer = Dialer(reactor, address.websocket, USER_AGENT, endpoint)
        self._taken: Deferred[None] = Deferred()
        self.noted: dict[str, list[float]] = {}

    async def run(self, count: int) -> None:
        """Make `count` reports after two that do not count: those fill caches and the heap."""
        session = await self._dialer.dial(TOKEN, self._received)
        for _ in range(count + 2):
            # What is left of the report before is in no stage of this one.
            gc.collect()
            await self._report(session)
        for times in self.noted.values():
            del times[:2]

    async def _report(self, session: Session) -> None:
        self._taken = Deferred()
        lap = _Laps(self.noted)
        response = await self._agent.request(b"GET", self._url)
        data = await read_body(response, MAX_BYTES)
        lap("fetch over HTTP")
        stats = json.loads(data)["stats"]
        lap("json.loads *")
        message = Traffic(snapshot_of(stats).stats)
        lap("snapshot_of *")
        text = encode(message)
        lap("encode *")
        with patch.object(websocket, "encode", lambda message: text):  # not once more
            session.send(message)
        lap("send: frame and mask *")
        await self._taken
        lap("until the master has it")

    def _received(self, message: Incoming) -> None:
        self._taken.callback(None)


class _Laps:
    def __init__(self, noted: dict[str, list[float]]) -> None:
        self._noted = noted
        self._before = time.process_time()

    def __call__(self, stage: str) -> None:
        now = time.process_time()
        self._noted.setdefault(stage, []).append(now - self._before)
        self._before = time.process_time()


async def _measure(reactor: Any, url: str, master: str, ca: str, count: int) -> None:
    stages = Stages(reactor, url, master, ca)
    await stages.run(count)
    print(json.dumps(stages.noted), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run as a process."""
    url, master, ca, count = arguments
    react(lambda reactor: Deferred.fromCoroutine(_measure(reactor, url, master, ca, int(count))))
