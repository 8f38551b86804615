"""Tests of what servers listen on."""

from __future__ import annotations

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.service import NotInstalled
from mmwagent.nginx.documents import Documents
from mmwagent.nginx.grammar import parse
from mmwagent.nginx.layout import Layout
from mmwagent.nginx.listens import listens, ssl_port_of, ssl_ports, ssl_ports_here
from tests.nginx.helpers import NginxFiles, done


class ListenTests(SynchronousTestCase):
    """`listen` in all its forms."""

    def test_ports(self) -> None:
        """The port is read from every form of address; without one it is 80."""
        for text, ports in (
            ("443", (443, 443)),
            ("*:443", (443, 443)),
            ("10.0.0.1:8443", (8443, 8443)),
            ("[::1]:443", (443, 443)),
            ("[::]", (80, 80)),
            ("10.0.0.1", (80, 80)),
            ("example.com", (80, 80)),
            ("example.com:81", (81, 81)),
            ("5000-5010", (5000, 5010)),
            ("unix:/run/n:443", (0, 0)),
            ("$port", (80, 80)),
        ):
            [server] = parse(f"server {{ listen {text} ssl; }}")
            [found] = listens(server)
            self.assertEqual((found.first, found.last), ports, text)
            self.assertTrue(found.tls)

    def test_tls(self) -> None:
        """Only the parameter `ssl` makes it TLS."""
        [server] = parse("server { listen 443; listen 1 http2 ssl; listen 2 sslx; listen; }")
        self.assertEqual([one.tls for one in listens(server)], [False, True, False])


class SslPortTests(NginxFiles):
    """The TLS ports of the sites."""

    def ports(self, sites: str) -> dict[str, int]:
        """Return the ports that `sites`, in the http block, have."""
        self.lay_out({"nginx.conf": "http { include s/*; }", "s/a": sites})
        return ssl_ports(Documents(self.main))

    def test_names(self) -> None:
        """Each name has the first TLS port of its server, the first server of a name counts."""
        ports = self.ports(
            """
            server { listen 80; server_name plain; }
            server { listen 80; listen [::]:8443 ssl; listen 9443 ssl; server_name A.b c.d; }
            server { listen 443 ssl; server_name c.d *.e.f .g.h; }
            server { listen unix:/x ssl; server_name only.socket; }
            server { listen 7443; ssl on; server_name old.style; }
            # server { listen 1 ssl; server_name comment; }
            """
        )
        self.assertEqual(
            ports, {"a.b": 8443, "c.d": 8443, "*.e.f": 443, ".g.h": 443, "old.style": 7443}
        )

    def test_only_http(self) -> None:
        """A server of another block is none."""
        self.lay_out({"nginx.conf": "stream { server { listen 1 ssl; server_name a.b; } }"})
        self.assertEqual(ssl_ports(Documents(self.main)), {})

    def test_lookup(self) -> None:
        """A name is found itself first, then by the longest wildcard; else there is no port."""
        ports = {"a.b": 1, "*.b": 2, "*.x.b": 3, ".c.d": 4}
        for domain, port in (
            ("a.b", 1),
            ("A.B.", 1),
            ("q.b", 2),
            ("q.x.b", 3),
            ("q.r.x.b", 3),
            ("*.x.b", 3),
            ("c.d", 4),
            ("q.c.d", 4),
            ("b", 0),
            ("../../etc", 0),
            ("", 0),
        ):
            self.assertEqual(ssl_port_of(domain, ports), port, domain)

    def test_here(self) -> None:
        """They are read anew from the nginx of this machine; without nginx there are none."""
        self.ports("server { listen 1 ssl; server_name a.b; }")

        async def find() -> Layout:
            return self.layout

        async def missing() -> Layout:
            raise NotInstalled("no nginx")

        found = self.successResultOf(done(ssl_ports_here(find, execute)))
        self.assertEqual(found, {"a.b": 1})
        self.assertEqual(self.successResultOf(done(ssl_ports_here(missing, execute))), {})
