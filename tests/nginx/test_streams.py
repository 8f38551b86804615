"""Tests of freeing a port that stream servers hold."""

from __future__ import annotations

from mmwagent.host.service import Refused
from mmwagent.nginx.streams import clearance
from tests.nginx.helpers import NginxFiles

SERVER = "server { listen 443; proxy_pass a; }\n"
STREAM = "stream { include stream_servers/*.conf; }\n"


class ClearanceTests(NginxFiles):
    """What changes that a port becomes free."""

    def cleared(self, port: int = 443) -> tuple[int, dict[str, str]]:
        """Return how many servers give the port up, and the files' new texts by name."""
        found = clearance(self.layout, port)
        texts = {
            str(path.relative_to(self.home)): (data or b"").decode("utf-8")
            for path, data in found.contents.items()
        }
        return found.removed, texts

    def test_cleared(self) -> None:
        """Servers of all the files in stream_servers count."""
        self.lay_out(
            {
                "nginx.conf": STREAM,
                "stream_servers/a.conf": f"# a\n{SERVER}{SERVER}",
                "stream_servers/b.conf": f"{SERVER}server {{ listen 1; }}\n",
                "stream_servers/c.conf": "server { listen 2; }\n",
            }
        )
        self.assertEqual(
            self.cleared(),
            (
                3,
                {
                    "stream_servers/a.conf": "# a\n",
                    "stream_servers/b.conf": "server { listen 1; }\n",
                },
            ),
        )
        self.assertEqual(self.cleared(2), (1, {"stream_servers/c.conf": ""}))
        self.assertEqual(self.cleared(80), (0, {}))

    def test_others_stay(self) -> None:
        """Stream servers elsewhere, HTTP servers, and files nginx does not read stay."""
        self.lay_out(
            {
                "nginx.conf": (
                    f"stream {{ {SERVER} include stream.d/*; }}"
                    f"http {{ {SERVER} include stream_servers/h.conf; }}"
                ),
                "stream.d/a": SERVER,
                "stream_servers/h.conf": SERVER,
                "stream_servers/unread.conf": SERVER,
            }
        )
        self.assertEqual(self.cleared(), (0, {}))

    def test_nothing_there(self) -> None:
        """Without files there is nothing to free."""
        self.assertEqual(self.cleared(), (0, {}))

    def test_outside(self) -> None:
        """A file that lies elsewhere is not touched, and the words name it."""
        outside = self.home.parent / "stream_servers"
        outside.mkdir()
        (outside / "a.conf").write_text(SERVER)
        self.lay_out({"nginx.conf": f"stream {{ include {outside}/*.conf; }}"})
        problem = self.assertRaises(Refused, self.cleared)
        self.assertIn(f"{outside}/a.conf", str(problem))
