"""Orders of the master to an agent in a process of its own, and proxies between the two."""

from __future__ import annotations

import socket
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import treq
import trustme
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import PrivateCertificate
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseNeverReceived

from mmwagent.testing.faults import RefuseUpgrade
from mmwagent.testing.master import StandInMaster
from mmwagent.testing.records import AgentRecord
from tests.integration.helpers import TOKEN, Child, ProcessCase, until

NEW = "the-new-token-of-this-server"
STATUS = "/api/child/services/status"
LATENCY = "/api/child/domains/latency"
FIELDS = {"domain", "target", "success", "latency_ms", "error", "nginx_ssl_port"}


class OrdersCase(ProcessCase):
    """An agent, and a master that can call it."""

    async def master(self, *_: Any) -> StandInMaster:
        """Start a master that dials agents; `self.url` leads to it."""
        master = StandInMaster(reactor, {"vps": TOKEN}, web=Agent(reactor))
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(master.site)
        self.addCleanup(port.stopListening)
        self.addCleanup(master.stop)
        self.url = f"http://localhost:{port.getHost().port}"
        return master

    async def started(self) -> tuple[StandInMaster, AgentRecord]:
        """Start both, and wait for the first heartbeat over the WebSocket."""
        master = await self.master()
        self.child_ = self.agent(self.url)
        record = master.agent("vps")
        await until(lambda: record.heartbeat, "a heartbeat")
        return master, record

    def hanging(self, many: int) -> list[str]:
        """Return addresses whose ports never answer: their queues are full."""
        targets = []
        for _ in range(many):
            listening = socket.socket()
            self.addCleanup(listening.close)
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            filling = socket.create_connection(listening.getsockname())
            self.addCleanup(filling.close)
            targets.append(f"127.0.0.1:{listening.getsockname()[1]}")
        return targets

    def answering(self, many: int) -> list[str]:
        """Return addresses whose ports answer."""
        targets = []
        for _ in range(many):
            port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
            self.addCleanup(port.stopListening)
            targets.append(f"127.0.0.1:{port.getHost().port}")
        return targets

    async def status_with(self, token: str) -> int | None:
        """Return the status that a call with `token` gets, None for a closed connection."""
        try:
            response = await treq.get(
                f"http://127.0.0.1:{self.place.listen}{STATUS}",
                headers={"User-Agent": "miaomiaowux/0.1", "Authorization": f"Bearer {token}"},
                persistent=False,
            )
        except ResponseNeverReceived:
            return None
        await response.content()
        return int(response.code)


class ProbeTests(OrdersCase):
    """domain_latency_probe, and its way over HTTP."""

    def test_half_hang(self) -> Deferred[None]:
        """200 targets of which a half hangs: the answer comes within timeout and a second."""
        return Deferred.fromCoroutine(self.half_hang())

    async def half_hang(self) -> None:
        """Probe by both ways."""
        master, _ = await self.started()
        pairs = list(zip(self.answering(100), self.hanging(100), strict=True))
        domains = [target for pair in pairs for target in pair]
        for by in (self.by_websocket, self.by_http):
            started = reactor.seconds()
            answer = await by(master, domains, 1000)
            self.assertLess(reactor.seconds() - started, 1 + 1)
            self.assertTrue(answer["success"])
            results = answer["results"]
            self.assertEqual([result["target"] for result in results], domains)
            self.assertEqual([result["success"] for result in results], [True, False] * 100)
            for result in results:
                self.assertEqual(set(result), FIELDS)
                words = "" if result["success"] else "no answer within 1000 ms"
                self.assertEqual(result["error"], words)
        self.assertEqual(master.violations, [])

    async def by_websocket(
        self, master: StandInMaster, domains: list[str], timeout_ms: int
    ) -> Any:
        """Order a probe."""
        return await master.probe_domains("vps", domains, timeout_ms)

    async def by_http(self, master: StandInMaster, domains: list[str], timeout_ms: int) -> Any:
        """Call the management API."""
        body = {"domains": domains, "timeout_ms": timeout_ms}
        answer = await master.call("vps", "POST", LATENCY, body)
        self.assertEqual(answer.status, 200)
        return answer.json()

    def test_odd_lists(self) -> Deferred[None]:
        """Duplicates, junk, more than 200 and wrong types are answered, each as it should be."""
        return Deferred.fromCoroutine(self.odd_lists())

    async def odd_lists(self) -> None:
        """Send such lists."""
        master, record = await self.started()
        (target,) = self.answering(1)
        port = target.split(":")[1]
        domains = [target, f"http://{target}/x", f" {target}", "junk junk", f"LOCALHOST.:{port}"]
        domains += [f"localhost:{port}"]
        answer = await master.probe_domains("vps", domains)
        self.assertEqual(
            [(result["target"], result["success"]) for result in answer["results"]],
            [(target, True), ("", False), (f"localhost:{port}", True)],
        )
        many = [f"127.0.{number // 250}.{number % 250 + 1}:{port}" for number in range(300)]
        answer = await master.probe_domains("vps", many, 500)
        self.assertEqual(len(answer["results"]), 200)
        for payload in ({"domains": "x"}, {"domains": [], "timeout_ms": 500}, {}):
            master.send("vps", "domain_latency_probe", {"request_id": "x-1", **payload})
        answers = record.of("domain_latency_result")
        await until(lambda: len(answers) + 3 <= len(record.of("domain_latency_result")), "answers")
        for report in record.of("domain_latency_result")[-3:]:
            self.assertIs(report.payload["success"], False)
            self.assertTrue(report.payload["error"])
        self.assertEqual(master.violations, [])

    def test_hundred_orders(self) -> Deferred[None]:
        """A hundred orders at once are all answered, slow ones among them hold up nobody."""
        return Deferred.fromCoroutine(self.hundred_orders())

    async def hundred_orders(self) -> None:
        """Send them in one go."""
        master, _ = await self.started()
        (slow,), (fast,) = self.hanging(1), self.answering(1)
        done: list[str] = []
        answers = []
        for number in range(50):
            target = slow if number % 10 == 0 else fast
            answer = master.probe_domains("vps", [target], 1500)
            answer.addCallback(lambda result, target=target: (done.append(target), result)[1])
            answers.append(answer)
            answers.append(master.request_certificate("vps", "a.example", cert_id=number))
        results = await gatherResults(answers)
        self.assertEqual([result["success"] for result in results[1::2]], [False] * 50)
        self.assertEqual([result["cert_id"] for result in results[1::2]], list(range(50)))
        self.assertEqual(done, [fast] * 45 + [slow] * 5)
        self.assertEqual(master.violations, [])


class CertificateTests(OrdersCase):
    """cert_request and cert_deploy, as long as there is nothing to serve them."""

    def test_honest(self) -> Deferred[None]:
        """An order for a certificate is answered as failed, with the reason."""
        return Deferred.fromCoroutine(self.honest())

    async def honest(self) -> None:
        """Order certificates, good and bad, and a deployment."""
        master, record = await self.started()
        answer = await master.request_certificate("vps", "a.example", cert_id=4)
        self.assertEqual((answer["cert_id"], answer["domain"]), (4, "a.example"))
        self.assertIs(answer["success"], False)
        self.assertIn("cannot obtain certificates", answer["error"])
        self.assertEqual(set(answer), {"cert_id", "domain", "success", "error"})
        master.send("vps", "cert_request", {"cert_id": 5})
        await until(lambda: len(record.of("cert_update")) == 2, "the answer to the bad order")
        self.assertEqual(record.of("cert_update")[1].payload["cert_id"], 5)
        master.deploy_certificate(
            "vps",
            "a.example",
            cert_pem="PEM",
            key_pem="s3cret",
            cert_path=str(self.place.directory / "a.pem"),
            key_path=str(self.place.directory / "a.key"),
        )
        await until(lambda: "not deployed" in self.child_.text, "a line in the log")
        self.assertNotIn("s3cret", self.child_.text)
        self.assertNotIn("Traceback", self.child_.text)
        self.assertEqual(master.violations, [])


class TokenTests(OrdersCase):
    """token_update, from the master's rotation to the agent's next life."""

    @property
    def file(self) -> Path:
        """The agent's settings file."""
        return self.place.directory / "config.yaml"

    def start(self, **environment: str) -> Child:
        """Start the agent with the settings file as it is."""
        self.child_ = self.child(
            sys.executable, "-m", "mmwagent", "-c", str(self.file), **environment
        )
        return self.child_

    def write(self) -> str:
        """Write a settings file by hand, without the token, and return it."""
        settings = self.place.settings(self.url)
        del settings["remote_token"]
        servers = settings.pop("xray_servers")
        text = "# The agent's settings\n"
        text += "".join(f"{name}: {value}\n" for name, value in settings.items())
        text += f"xray_servers: [{servers[0]}]  # one\n"
        self.file.touch(0o640)
        self.file.write_text(text)
        return text

    async def connected(self, record: AgentRecord, times: int) -> None:
        """Wait until the agent has authenticated for the n-th time."""
        await until(lambda: len(record.connections) == times, "a connection")
        beats = len(record.of("heartbeat"))
        await until(lambda: len(record.of("heartbeat")) > beats, "a heartbeat")

    async def stop(self, agent: Child) -> None:
        """End the agent as an init system does."""
        agent.signal("TERM")
        await agent.ended
        for token in (TOKEN, NEW):
            self.assertNotIn(token, agent.text)

    def test_from_the_file(self) -> Deferred[None]:
        """A token from the file: in force at once, one value of the file changed, for good."""
        return Deferred.fromCoroutine(self.from_the_file())

    async def from_the_file(self) -> None:
        """Rotate, call, restart."""
        master = await self.master()
        text = self.write() + "token: 'OLD' # keep it secret\r\n"
        self.file.write_bytes(text.replace("OLD", TOKEN).encode())
        self.file.chmod(0o640)
        agent = self.start()
        record = master.agent("vps")
        await self.connected(record, 1)
        master.rotate_token("vps", NEW)
        answer = await master.call("vps", "GET", STATUS)
        self.assertEqual(answer.status, 200)
        # What was under way with the old one is let in for a minute; a stranger is not.
        self.assertEqual(await self.status_with(TOKEN), 200)
        self.assertIsNone(await self.status_with("another"))
        written = text.replace("'OLD'", f'"{NEW}"').encode()
        await until(lambda: self.file.read_bytes() == written, "the new token in the file")
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o640)
        self.assertEqual(len(record.connections), 1)
        await self.stop(agent)
        agent = self.start()
        await self.connected(record, 2)
        self.assertEqual((await master.call("vps", "GET", STATUS)).status, 200)
        self.assertIsNone(await self.status_with(TOKEN))
        self.assertEqual(len(record.auth_attempts), 2)
        self.assertEqual(master.violations, [])
        await self.stop(agent)

    def test_from_the_environment(self) -> Deferred[None]:
        """A token from the environment: the kept one counts, until another one is set."""
        return Deferred.fromCoroutine(self.from_the_environment())

    async def from_the_environment(self) -> None:
        """Rotate, restart with the same variable, then with another."""
        master = await self.master()
        text = self.write()
        agent = self.start(MMWX_MASTER_TOKEN=TOKEN)
        record = master.agent("vps")
        await self.connected(record, 1)
        master.rotate_token("vps", NEW)
        self.assertEqual((await master.call("vps", "GET", STATUS)).status, 200)
        await until(lambda: "in force and kept" in agent.text, "the token kept")
        await self.stop(agent)
        self.assertEqual(self.file.read_text(), text)
        agent = self.start(MMWX_MASTER_TOKEN=TOKEN)
        await self.connected(record, 2)
        self.assertEqual((await master.call("vps", "GET", STATUS)).status, 200)
        await self.stop(agent)
        master.rotate_token("vps", "set-by-hand")
        agent = self.start(MMWX_MASTER_TOKEN="set-by-hand")
        await self.connected(record, 3)
        self.assertEqual((await master.call("vps", "GET", STATUS)).status, 200)
        self.assertEqual(len(record.auth_attempts), 3)
        await self.stop(agent)

    def test_both_doors(self) -> Deferred[None]:
        """After a rotation the reports over HTTP and the next dial have the new token."""
        return Deferred.fromCoroutine(self.both_doors())

    async def both_doors(self) -> None:
        """Rotate, cut the WebSocket, and refuse one before the next is let in."""
        master, record = await self.started()
        master.rotate_token("vps", NEW)
        master.script(RefuseUpgrade(status=503), times=1)
        master.drop("vps")

        def pushed() -> bool:
            return any(report.door == "http" and report.accepted for report in record.reports)

        await until(pushed, "a report over HTTP")
        await until(lambda: len(record.connections) == 2, "a session")
        self.assertTrue(all(report.accepted for report in record.reports))
        self.assertEqual(len(record.auth_attempts), 2)
        self.assertEqual((master.strangers.reports, master.strangers.auth_attempts), ([], []))
        self.assertEqual(master.violations, [])

    def test_malformed(self) -> Deferred[None]:
        """A token_update that holds no token changes nothing, neither now nor on the disk."""
        return Deferred.fromCoroutine(self.malformed())

    async def malformed(self) -> None:
        """Send some, then see that everything is as before."""
        master, record = await self.started()
        before = self.file.read_bytes()
        for token in (None, "", " ", 5, "two words", "x" * 5000, "é"):
            master.send("vps", "token_update", {"server_token": token})
        master.send("vps", "token_update", {})
        said = "the present one stays"
        await until(lambda: self.child_.text.count(said) == 8, "8 lines")
        self.assertEqual((await master.call("vps", "GET", STATUS)).status, 200)
        self.assertEqual(await self.status_with(TOKEN), 200)
        self.assertEqual(self.file.read_bytes(), before)
        self.assertEqual([path.name for path in self.place.directory.iterdir()], ["config.yaml"])
        master.drop("vps")
        await until(lambda: len(record.connections) == 2, "the next session")
        self.assertEqual(len(record.auth_attempts), 2)


@define
class ConnectProxy:
    """A proxy that takes whatever it is asked for to one port here."""

    port: int
    answer: bytes = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n"
    heads: list[tuple[str, dict[str, str]]] = field(factory=list)
    links: set[Any] = field(factory=set)

    def factory(self) -> Factory:
        """Return what takes connections."""
        return Factory.forProtocol(lambda: Near(self))


class Near(LineReceiver):
    """The agent's side of a tunnel."""

    def __init__(self, proxy: ConnectProxy) -> None:
        self.proxy = proxy
        self.lines: list[str] = []
        self.far: Far | None = None

    def connectionMade(self) -> None:
        """Keep book."""
        self.proxy.links.add(self.transport)

    def lineReceived(self, line: bytes) -> None:
        """Gather the head, and act on it."""
        if line:
            self.lines.append(line.decode("ascii"))
            return
        headers = dict(line.lower().split(": ", 1) for line in self.lines[1:])
        self.proxy.heads.append((self.lines[0], headers))
        self.setRawMode()
        self.transport.pauseProducing()
        Deferred.fromCoroutine(self.dig()).addErrback(lambda _: self.transport.loseConnection())

    async def dig(self) -> None:
        """Connect to the master, and tell."""
        if b" 200 " in self.proxy.answer:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.proxy.port)
            self.far = await endpoint.connect(Factory.forProtocol(lambda: Far(self)))
        self.transport.write(self.proxy.answer)
        self.transport.resumeProducing()

    def rawDataReceived(self, data: bytes) -> None:
        """Hand on."""
        if self.far is not None:
            self.far.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the other side too."""
        self.proxy.links.discard(self.transport)
        if self.far is not None:
            self.far.transport.loseConnection()


class Far(Protocol):
    """The master's side of a tunnel."""

    def __init__(self, near: Near) -> None:
        self.near = near

    def connectionMade(self) -> None:
        """Keep book."""
        self.near.proxy.links.add(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Hand on."""
        self.near.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the other side too."""
        self.near.proxy.links.discard(self.transport)
        self.near.transport.loseConnection()


class ProxyTests(ProcessCase):
    """
    A proxy between the agent and the master.

    The agent is given an address of the master's where nobody listens, so that whatever arrives
    came through the proxy.
    """

    ELSEWHERE = "127.0.0.77"

    def test_http_websocket(self) -> Deferred[None]:
        """ws goes through HTTP_PROXY."""
        return Deferred.fromCoroutine(self.reported("HTTP_PROXY", "http", "websocket"))

    def test_http_push(self) -> Deferred[None]:
        """Reports over http go through HTTP_PROXY, by a tunnel too."""
        return Deferred.fromCoroutine(self.reported("HTTP_PROXY", "http", "http"))

    def test_https_websocket(self) -> Deferred[None]:
        """wss goes through HTTPS_PROXY, and the master's certificate is still verified."""
        return Deferred.fromCoroutine(self.reported("HTTPS_PROXY", "https", "websocket"))

    def test_https_push(self) -> Deferred[None]:
        """Reports over https go through HTTPS_PROXY."""
        return Deferred.fromCoroutine(self.reported("HTTPS_PROXY", "https", "http"))

    async def through(
        self, variable: str, scheme: str, mode: str, answer: bytes | None = None
    ) -> tuple[StandInMaster, ConnectProxy, Child]:
        """Start master, proxy and agent."""
        options = None
        others: dict[str, Any] = {}
        if scheme == "https":
            authority = trustme.CA()
            issued = authority.issue_cert(self.ELSEWHERE)
            pem = issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
            options = PrivateCertificate.loadPEM(pem).options()
            others["tls_ca_file"] = str(self.place.directory / "ca.pem")
            authority.cert_pem.write_to_path(others["tls_ca_file"])
        master = await self.master(options)
        port = int(self.url.rsplit(":", 1)[1])
        proxy = ConnectProxy(port)
        if answer is not None:
            proxy.answer = answer
        listening = reactor.listenTCP(0, proxy.factory(), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.addCleanup(
            lambda: Deferred.fromCoroutine(
                until(lambda: not proxy.links, "the end of all tunnels")
            )
        )
        self.addCleanup(lambda: [link.abortConnection() for link in set(proxy.links)])
        # What this machine has set must not count.
        names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        environment = {form: "" for name in names for form in (name, name.upper())}
        where = f"127.0.0.1:{listening.getHost().port}"
        environment[variable] = f"http://user:p%40ss@{where}"
        url = f"{scheme}://{self.ELSEWHERE}:{port}"
        agent = self.agent(url, environment, connection_mode=mode, **others)
        return master, proxy, agent

    async def reported(self, variable: str, scheme: str, mode: str) -> None:
        """See reports arrive, all of them through the proxy."""
        master, proxy, agent = await self.through(variable, scheme, mode)
        record = master.agent("vps")
        await until(lambda: len(record.of("speed")) > 1, "reports")
        self.assertEqual({report.door for report in record.reports}, {mode})
        self.assertEqual(master.violations, [])
        target = f"{self.ELSEWHERE}:{proxy.port}"
        credentials = b64encode(b"user:p@ss").decode().lower()
        for line, headers in proxy.heads:
            self.assertEqual(line, f"CONNECT {target} HTTP/1.1")
            self.assertEqual(
                headers, {"host": target, "proxy-authorization": f"basic {credentials}"}
            )
        # One tunnel for the WebSocket, or one kept for the reports.
        self.assertEqual(len(proxy.heads), 1)
        self.assertNotIn("p@ss", agent.text)
        self.assertNotIn("p%40ss", agent.text)
        agent.signal("TERM")
        await agent.ended
        self.assertNotIn("Traceback", agent.text)

    def test_refused(self) -> Deferred[None]:
        """A proxy that wants other credentials is named as the reason, by both doors."""
        return Deferred.fromCoroutine(self.refused())

    async def refused(self) -> None:
        """Have a proxy refuse the agent."""
        answer = b"HTTP/1.1 407 No\r\nContent-Length: 4\r\n\r\nhaha"
        master, _, agent = await self.through("ALL_PROXY", "http", "auto", answer)
        words = "the proxy refused the way to the master: 407"
        await until(lambda: agent.text.count(words) >= 2, "the reason twice")
        await deferLater(reactor, 0.2)
        self.assertEqual(master.agent("vps").reports, [])
        self.assertNotIn("Traceback", agent.text)
