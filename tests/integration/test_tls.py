"""TLS to the master: hostnames verified, authorities configurable."""

from __future__ import annotations

import trustme
from twisted.internet.defer import Deferred
from twisted.internet.ssl import PrivateCertificate

from mmwagent.testing.records import AgentRecord
from tests.integration.helpers import TOKEN, Child, ProcessCase, until


class TlsTests(ProcessCase):
    """An agent against a master with a certificate of a test authority."""

    def setUp(self) -> None:
        """Make an authority, and another one."""
        super().setUp()
        self.authority, self.stranger = trustme.CA(), trustme.CA()

    async def start(
        self, name: str, trusted: trustme.CA, mode: str = "websocket"
    ) -> tuple[AgentRecord, Child]:
        """Start a master whose certificate is for `name`, and an agent that dials localhost."""
        issued = self.authority.issue_cert(name)
        pem = issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
        options = PrivateCertificate.loadPEM(pem).options()
        master = await self.master(options)
        ca_file = self.place.directory / "ca.pem"
        trusted.cert_pem.write_to_path(str(ca_file))
        agent = self.agent(
            self.url,
            connection_mode=mode,
            tls_ca_file=str(ca_file),
        )
        return master.agent("vps"), agent

    def test_websocket(self) -> Deferred[None]:
        """With the right authority and name the reports go over wss."""
        return Deferred.fromCoroutine(self.accepted("websocket"))

    def test_http(self) -> Deferred[None]:
        """And over https."""
        return Deferred.fromCoroutine(self.accepted("http"))

    async def accepted(self, mode: str) -> None:
        """See a heartbeat arrive."""
        record, agent = await self.start("localhost", self.authority, mode)
        await until(lambda: record.heartbeat, lambda: f"a heartbeat over TLS; {agent.text}")

    def test_wrong_name(self) -> Deferred[None]:
        """A certificate for another name is refused over wss, and the log says so."""
        return Deferred.fromCoroutine(
            self.refused("other.test", self.authority, "websocket", "for another name")
        )

    def test_wrong_name_https(self) -> Deferred[None]:
        """Over https too."""
        return Deferred.fromCoroutine(
            self.refused("other.test", self.authority, "http", "for another name")
        )

    def test_unknown_authority(self) -> Deferred[None]:
        """A certificate of an unknown authority is refused over wss, and the log says so."""
        return Deferred.fromCoroutine(
            self.refused("localhost", self.stranger, "websocket", "certificate verify failed")
        )

    def test_unknown_authority_https(self) -> Deferred[None]:
        """Over https too."""
        return Deferred.fromCoroutine(
            self.refused("localhost", self.stranger, "http", "certificate verify failed")
        )

    async def refused(self, name: str, trusted: trustme.CA, mode: str, words: str) -> None:
        """See the reason in the log, and nothing at the master."""
        record, agent = await self.start(name, trusted, mode)
        await until(lambda: words in agent.text, lambda: f"{words!r} in the log; {agent.text}")
        self.assertEqual(record.reports, [])
        self.assertEqual(record.auth_attempts, [])
        self.assertNotIn(TOKEN, agent.text)
