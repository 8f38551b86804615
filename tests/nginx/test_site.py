"""Tests of the set-up of a site."""

from __future__ import annotations

from typing import Any

from mmwagent.host.service import Refused
from mmwagent.nginx.documents import Documents
from mmwagent.nginx.grammar import parse
from mmwagent.nginx.layout import Layout
from mmwagent.nginx.site import SitePlan, SiteSetup
from tests.nginx.helpers import NGINX, NOW, NginxFiles

DOMAIN = "www.example.com"
PLAIN = "server { listen 80; }\n"


def tls(certificate: str, key: str) -> str:
    """Return a site with a certificate."""
    return f"server {{ ssl_certificate {certificate}; ssl_certificate_key {key}; }}\n"


class SiteCase(NginxFiles):
    """A test that plans."""

    def plan(self, site: str | None = PLAIN, main: str | None = None, **others: Any) -> SitePlan:
        """Return the plan for the nginx of this test."""
        options = {"domain": DOMAIN, "master_certificates": self.home.parent / "m", **others}
        return SiteSetup(now=NOW, site=site, main=main, **options).plan(self.layout)

    def texts(self, plan: SitePlan) -> dict[str, str]:
        """Return the new contents by name."""
        return {
            str(path.relative_to(self.home)): (data or b"").decode("utf-8")
            for path, data in plan.contents.items()
        }

    def included(self, plan: SitePlan) -> bool:
        """Return whether nginx would read the site, once, in its http block."""
        texts = {path: (data or b"").decode("utf-8") for path, data in plan.contents.items()}
        found = list(Documents(self.main, texts).directives())
        mine = [one for one in found if one.file == plan.file and one.directive.name == "server"]
        return len(mine) == 1 and mine[0].context == ("http",)


class SiteTests(SiteCase):
    """Which files a set-up changes."""

    def test_included_already(self) -> None:
        """Where nginx includes servers/ the site is the only file that changes."""
        self.lay_out({"nginx.conf": "http { include servers/*.conf; }"})
        plan = self.plan()
        self.assertEqual(self.texts(plan), {f"servers/{DOMAIN}.conf": PLAIN})
        self.assertEqual((plan.included_by, plan.placeholders), (None, ()))
        self.assertTrue(self.included(plan))

    def test_elsewhere_in_the_prefix(self) -> None:
        """The servers directory that nginx includes is the one, be it beside conf/."""
        (self.home / "conf").mkdir()
        self.main = self.home / "conf" / "nginx.conf"
        self.layout = Layout(NGINX, self.home, self.main)
        self.main.write_text(f"http {{ include {self.home}/servers/*.conf; }}")
        plan = self.plan()
        self.assertEqual(plan.file, self.home / "servers" / f"{DOMAIN}.conf")
        self.assertTrue(self.included(plan))

    def test_servers_of_others(self) -> None:
        """A directory of that name that is none of nginx's own is not written to."""
        self.lay_out({"nginx.conf": f"http {{ include {self.home.parent}/servers/*; }}"})
        self.assertEqual(self.plan().file, self.home / "servers" / f"{DOMAIN}.conf")

    def test_bridge(self) -> None:
        """Without such an include a file in conf.d bridges, and the main file is left alone."""
        self.lay_out({"nginx.conf": "http { include conf.d/*.conf; }", "conf.d/a.conf": "a;"})
        plan = self.plan()
        self.assertEqual(
            set(self.texts(plan)), {f"servers/{DOMAIN}.conf", "conf.d/mmw-servers.conf"}
        )
        self.assertEqual(plan.included_by, self.home / "conf.d" / "mmw-servers.conf")
        self.assertTrue(self.included(plan))

    def test_bridge_is_enough(self) -> None:
        """A second site finds the bridge there."""
        self.lay_out({"nginx.conf": "http { include conf.d/*.conf; }", "conf.d/a.conf": "a;"})
        self.lay_out(self.texts(self.plan()))
        plan = self.plan(domain="other.example.com")
        self.assertEqual(self.texts(plan), {"servers/other.example.com.conf": PLAIN})
        self.assertTrue(self.included(plan))

    def test_no_bridge_to_elsewhere(self) -> None:
        """Patterns that lead out, want other names or lack their directory are no place for it."""
        text = f"http {{ include {self.home.parent}/x/*; include conf.d/a*; include none/*; }}"
        self.lay_out({"nginx.conf": text, "conf.d/a": ""})
        (self.home.parent / "x").mkdir()
        self.assertEqual(self.plan().included_by, self.main)

    def test_include_added(self) -> None:
        """Where nothing else helps the http block gets the include, and that line only."""
        text = "events {}\nhttp {\n    a '}';\n}\n# }\n"
        self.lay_out({"nginx.conf": text})
        plan = self.plan()
        self.assertEqual(plan.included_by, self.main)
        line = f"    include {self.home}/servers/*.conf;\n"
        self.assertEqual(self.texts(plan)["nginx.conf"].replace(line, ""), text)
        self.assertTrue(self.included(plan))

    def test_http_in_another_file(self) -> None:
        """The include goes where the http block is."""
        self.lay_out({"nginx.conf": "include conf.d/h;", "conf.d/h": "http {}"})
        plan = self.plan()
        self.assertEqual(plan.included_by, self.home / "conf.d" / "h")
        self.assertNotIn("nginx.conf", self.texts(plan))
        self.assertTrue(self.included(plan))

    def test_main_file(self) -> None:
        """A main file that is given counts instead of the old one."""
        self.lay_out({"nginx.conf": "http { include servers/*.conf; }", "conf.d/a.conf": ""})
        plan = self.plan(main="http { include conf.d/*.conf; }")
        self.assertEqual(plan.included_by, self.main)
        self.assertTrue(self.included(plan))
        main = "http { include servers/*.conf; } # new"
        plan = self.plan(main=main)
        self.assertEqual(self.texts(plan), {"nginx.conf": main, f"servers/{DOMAIN}.conf": PLAIN})

    def test_no_http(self) -> None:
        """Without an http block there is no place for a site."""
        for text in ("events {}", "http;", "stream { http {} }", "http {"):
            self.lay_out({"nginx.conf": text})
            self.assertRaises(Refused, self.plan)

    def test_wildcard(self) -> None:
        """A wildcard's file has an underscore for the star."""
        self.lay_out({"nginx.conf": "http { include servers/*.conf; }"})
        self.assertEqual(self.plan(domain="*.example.com").file.name, "_.example.com.conf")

    def test_our_own_text(self) -> None:
        """Without a text the site gets one of ours, with nothing older than TLS 1.2."""
        self.lay_out({"nginx.conf": "http { include servers/*.conf; }"})
        plan = self.plan(site=None, domain="*.example.com")
        [server] = parse(self.texts(plan)["servers/_.example.com.conf"])
        words = {one.name: one.words for one in server.block or ()}
        self.assertEqual(words["ssl_protocols"], ("TLSv1.2", "TLSv1.3"))
        self.assertEqual(words["server_name"], ("*.example.com",))
        self.assertEqual(words["ssl_certificate"], (f"{self.home}/cert/_.example.com.pem",))
        self.assertEqual(len(plan.placeholders), 2)

    def test_our_own_text_is_escaped(self) -> None:
        """A path with nginx's signs in it is still one word."""
        home = self.home.parent / "a; b {"
        home.mkdir()
        self.layout = Layout(NGINX, home / "p", home / "nginx.conf")
        self.layout.main.write_text("http { include servers/*.conf; }")
        plan = self.plan(site=None)
        [server] = parse((plan.contents[plan.file] or b"").decode("utf-8"))
        words = {one.name: one.words for one in server.block or ()}
        self.assertEqual(words["root"], (f"{home}/p/html",))


class PlaceholderTests(SiteCase):
    """Certificates that are still to come."""

    def setUp(self) -> None:
        """Lay out an nginx that includes servers/."""
        super().setUp()
        self.lay_out({"nginx.conf": "http { include servers/*.conf; }"})

    def stand_ins(self, site: str, **others: Any) -> list[str]:
        """Return the names of what stands in for the certificates of `site`."""
        plan = self.plan(site=site, **others)
        for path in plan.placeholders:
            self.assertIn(b"-----BEGIN ", plan.contents[path] or b"")
        return [str(path.relative_to(self.home.parent)) for path in plan.placeholders]

    def test_missing(self) -> None:
        """A pair that is missing where certificates belong is stood in for, key and all."""
        for directory, where in (
            ("cert", "nginx/cert"),
            (f"{self.home}/cert", "nginx/cert"),
            (f"{self.layout.prefix}/cert", "prefix/cert"),
            (f"{self.home.parent}/m", "m"),
        ):
            names = self.stand_ins(tls(f"{directory}/a.pem", f"{directory}/a.key"))
            self.assertEqual(names, [f"{where}/a.pem", f"{where}/a.key"])

    def test_wherever_it_is_named(self) -> None:
        """Inner blocks and the main file may name one, twice the same is one."""
        inner = f"server {{ listen 1; if (a) {{ {tls('cert/a.pem', 'cert/a.key')} }} }}"
        text = inner + tls("cert/a.pem", "cert/a.key")
        self.assertEqual(len(self.stand_ins(text)), 2)
        main = f"http {{ include servers/*.conf; {tls('cert/b.pem', 'cert/b.key')} }}"
        self.assertEqual(len(self.stand_ins(PLAIN, main=main)), 2)

    def test_there_already(self) -> None:
        """A certificate that is there is never replaced, not even if its key is missing."""
        self.lay_out({"cert/a.pem": "real"})
        self.assertEqual(self.stand_ins(tls("cert/a.pem", "cert/a.key")), [])
        self.lay_out({"cert/b.key": "real"})
        self.assertEqual(self.stand_ins(tls("cert/b.pem", "cert/b.key")), [])

    def test_nowhere_else(self) -> None:
        """No path that a text may name makes a file anywhere else."""
        (self.home / "cert").mkdir()
        (self.home / "cert" / "link.pem").symlink_to("/etc/none.pem")
        for certificate, key in (
            ("/etc/cron.d/a.pem", "/etc/cron.d/a.key"),
            ("cert/../a.pem", "cert/../a.key"),
            ("cert/x/a.pem", "cert/x/a.key"),
            ("cert/a.sh", "cert/a.key"),
            ("cert/$a/../b.pem", "cert/a.key"),
            ("cert/link.pem", "cert/link.key"),
            ("cert/a.pem", "engine:x:a.key"),
            ("data:cert/a.pem", "cert/a.key"),
        ):
            self.assertEqual(self.stand_ins(tls(certificate, key)), [], certificate)

    def test_not_understood(self) -> None:
        """A text that cannot be understood names no certificate: nginx says what is wrong."""
        self.assertEqual(self.stand_ins(tls("cert/a.pem", "cert/a.key") + "}"), [])
