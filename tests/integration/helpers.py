"""Real processes for the integration tests, and what they share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from mmwagent.testing.master import StandInMaster
from mmwagent.testing.xray import configuration, fetch, free_port

CHECKOUT = Path(__file__).resolve().parents[2]
PEERS = Path(os.environ.get("MMW_PEERS") or CHECKOUT / ".peers" / "bin")
TOKEN = "a-token-for-integration-tests"
USER = "alice@example.com"
STEP = 0.05
PATIENCE = 30.0


def peer(name: str) -> str:
    """Return the path of a real program. Its absence is an error: no test passes without it."""
    path = PEERS / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run tools/peers {name}")
    return str(path)


class Child(ProcessProtocol):
    """A process of its own, with what it said."""

    def __init__(self, *argv: str, **environment: str) -> None:
        self.said = b""
        self.ended: Deferred[int] = Deferred()
        self.process = reactor.spawnProcess(self, argv[0], argv, env={**os.environ, **environment})

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.said += data

    def processEnded(self, reason: Failure) -> None:
        # As subprocess has it: a signal is a negative number.
        self.ended.callback(-reason.value.signal if reason.value.signal else reason.value.exitCode)

    @property
    def text(self) -> str:
        return self.said.decode("utf-8", "replace")

    def signal(self, name: str) -> None:
        try:
            self.process.signalProcess(name)
        except ProcessExitedAlready:
            pass


async def until(
    true: Callable[[], Any], what: str | Callable[[], str], patience: float = PATIENCE
) -> None:
    """
    Wait until `true()` is true; fail after `patience` seconds, naming what was waited for.

    A text that quotes what a process said is given as a function: it is wanted at the end.
    """
    deadline = reactor.seconds() + patience
    while not true():
        if reactor.seconds() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"not within {patience:.0f} s: {said}")
        await deferLater(reactor, STEP)


@define
class Place:
    """A directory and ports for one test."""

    directory: Path
    socks: int = field(factory=free_port)
    metrics: int = field(factory=free_port)
    listen: int = field(factory=free_port)

    @property
    def xray_file(self) -> Path:
        return self.directory / "xray.json"

    def settings(self, master: str, **others: Any) -> dict[str, Any]:
        """Return the agent's settings, with reports each second."""
        return {
            "master_server": master,
            "remote_token": TOKEN,
            "listen_address": "127.0.0.1",
            "listen_port": self.listen,
            "connection_mode": "websocket",
            "traffic_report_interval": 1,
            "speed_report_interval": 1,
            "heartbeat_interval": 2,
            "state_directory": str(self.directory),
            "xray_servers": [{"config_path": str(self.xray_file)}],
            **others,
        }


class ProcessCase(TestCase):
    """A test that starts processes, and ends them whatever happens."""

    timeout = 120

    def setUp(self) -> None:
        """Make a place of its own."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.place = Place(directory)

    def child(self, *argv: str, **environment: str) -> Child:
        """Start a process that ends with the test."""
        child = Child(*argv, **environment)
        self.addCleanup(lambda: child.ended)
        self.addCleanup(child.signal, "KILL")
        return child

    def xray(self) -> Child:
        """Start a real Xray with one SOCKS inbound."""
        document = configuration(self.place.socks, self.place.metrics, USER)
        self.place.xray_file.write_text(json.dumps(document))
        return self.child(peer("xray"), "run", "-c", str(self.place.xray_file))

    async def master(self, tls: CertificateOptions | None = None) -> StandInMaster:
        """Start a master in this process, which knows one server; `self.url` leads to it."""
        master = StandInMaster(reactor, {"vps": TOKEN})
        if tls is None:
            endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        else:
            endpoint = SSL4ServerEndpoint(reactor, 0, tls, interface="127.0.0.1")
        port = await endpoint.listen(master.site)
        self.addCleanup(port.stopListening)
        self.addCleanup(master.stop)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://localhost:{port.getHost().port}"
        return master

    def agent(
        self, master: str, environment: dict[str, str] | None = None, **others: Any
    ) -> Child:
        """Start the agent as users do."""
        file = self.place.directory / "config.yaml"
        file.touch(0o600)
        file.write_text(json.dumps(self.place.settings(master, **others)))
        return self.child(sys.executable, "-m", "mmwagent", "-c", str(file), **(environment or {}))

    async def fetch(self, content: int, size: int) -> int:
        """Fetch `size` bytes through Xray, once it is ready; return what came."""
        for _ in range(100):
            try:
                return await deferToThread(fetch, self.place.socks, content, USER, size)
            except ConnectionRefusedError:
                await deferLater(reactor, STEP)
        raise AssertionError("Xray did not open its port")
