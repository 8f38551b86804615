"""Tests of edits of a configuration's text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.nginx.edits import bridge, with_include, without_port
from mmwagent.nginx.grammar import GrammarError, parse
from mmwagent.nginx.listens import listens


class IncludeTests(SynchronousTestCase):
    """An include that is added to a block."""

    def added(self, text: str) -> str:
        """Add one to the last directive of `text`, and check that it is its last directive."""
        edited = with_include(text, parse(text)[-1], "/a/*.conf")
        block = parse(edited)[-1].block
        assert block is not None
        self.assertEqual((block[-1].name, block[-1].words), ("include", ("/a/*.conf",)))
        return edited

    def test_margin(self) -> None:
        """It gets a line of its own, further in than the brace, and nothing else moves."""
        self.assertEqual(
            self.added("http {\n    a;\n}\n"), "http {\n    a;\n    include /a/*.conf;\n}\n"
        )
        self.assertEqual(
            self.added("x;\n  http {\n  }"), "x;\n  http {\n      include /a/*.conf;\n  }"
        )

    def test_one_line(self) -> None:
        """A block on one line is opened up."""
        self.assertEqual(self.added("http { a; }"), "http { a; \n    include /a/*.conf;\n}")
        self.assertEqual(self.added("http {}"), "http {\n    include /a/*.conf;\n}")

    def test_comments_and_quotes(self) -> None:
        """Braces in comments and quotes are not taken for the end of the block."""
        for text in (
            "http {\n a;\n} # }\n#}\n",
            "http {\n a '}';\n # } last\n}",
            "http { # }\n}\n",
            "http {\r\n  a;\r\n}\r\n",
        ):
            edited = self.added(text)
            self.assertEqual(edited.replace("    include /a/*.conf;\n", "").split(), text.split())

    def test_bridge(self) -> None:
        """A file that bridges holds that one include."""
        [directive] = parse(bridge(__import__("pathlib").Path("/a b/*.conf")))
        self.assertEqual((directive.name, directive.words), ("include", ("/a b/*.conf",)))


class WithoutPortTests(SynchronousTestCase):
    """Servers that give a port up."""

    def test_whole_server(self) -> None:
        """A server that listens nowhere else goes with its lines; all else stays to the byte."""
        text = "# a\nupstream u { server x:443; }\nserver {\n  listen 443;\n}\n# b\n"
        self.assertEqual(without_port(text, 443), ("# a\nupstream u { server x:443; }\n# b\n", 1))

    def test_one_listen(self) -> None:
        """A server that listens elsewhere too keeps that."""
        text = "server {\n    listen 443;\n    listen [::]:443;\n    listen 8443;\n    a;\n}\n"
        self.assertEqual(without_port(text, 443), ("server {\n    listen 8443;\n    a;\n}\n", 1))

    def test_in_one_line(self) -> None:
        """What shares a line leaves its neighbours."""
        text = "server { listen 443; a; } server { listen 80; }# c\n"
        self.assertEqual(without_port(text, 443), (" server { listen 80; }# c\n", 1))
        self.assertEqual(
            without_port("server { listen 443; listen 1; }", 443), ("server {  listen 1; }", 1)
        )

    def test_at_the_end_of_a_line(self) -> None:
        """What stands before it in its line stays, and so does the line's end."""
        self.assertEqual(without_port("a; server { listen 443; }\nb;", 443), ("a; \nb;", 1))

    def test_every_address(self) -> None:
        """The port counts on whatever address, in a range, and with options."""
        for listen in (
            "443",
            "*:443",
            "0.0.0.0:443 reuseport",
            "[::]:443 ipv6only=on",
            "127.0.0.1:443",
            "localhost:443 ssl",
            "443 udp",
            "400-500",
            "'443'",
        ):
            text = f"server {{ listen {listen}; }}"
            self.assertEqual(without_port(text, 443), ("", 1), listen)

    def test_others_stay(self) -> None:
        """Other ports, sockets, comments and what is no server are left alone."""
        for text in (
            "server { listen 4433; }",
            "server { listen 444-500; }",
            "server { listen unix:/run/443; }",
            "# server { listen 443; }\n",
            "server { proxy_pass 127.0.0.1:443; listen 1; }",
            "map $a $b { listen 443; }",
            "server 443;",
            "server { }",
            "",
        ):
            self.assertEqual(without_port(text, 443), (text, 0))

    def test_not_understood(self) -> None:
        """A text that cannot be understood is not edited."""
        self.assertRaises(GrammarError, without_port, "server { listen 443;", 443)

    @given(
        st.lists(
            st.lists(st.sampled_from(["80", "443", "[::]:443", "8443"]), max_size=3), max_size=4
        ),
        st.sampled_from([" ", "\n", "\n  # c }\n", ""]),
    )
    def test_any_servers(self, servers: list[list[str]], between: str) -> None:
        """Afterwards nobody listens there, everybody else still does, and it is understood."""
        text = between.join(
            f"server {{{between}{between.join(f'listen {one};' for one in ports)}{between}}}"
            for ports in servers
        )
        edited, removed = without_port(text, 443)
        left = [one.directive.words[0] for server in parse(edited) for one in listens(server)]
        self.assertEqual(
            left,
            [
                one
                for ports in servers
                for one in ports
                if not one.endswith(":443") and one != "443"
            ],
        )
        concerned = [ports for ports in servers if {"443", "[::]:443"} & set(ports)]
        self.assertEqual(removed, len(concerned))
        if not removed:
            self.assertEqual(edited, text)
