"""Tests of the list of configuration files."""

from __future__ import annotations

import os

from mmwagent.nginx.layout import Layout
from mmwagent.nginx.listing import listing
from tests.nginx.helpers import NGINX, NOW, NginxFiles


class ListingTests(NginxFiles):
    """Files by directory."""

    def test_groups(self) -> None:
        """The main file comes first; directories stand under their names, empty ones too."""
        self.lay_out(
            {
                "nginx.conf": "http { include own/deep/*; }",
                "mime.types": "",
                "conf.d/b.conf": "12345",
                "conf.d/a.conf": "",
                "own/deep/x": "",
                "cert/a.key": "",
                "a.pem": "",
                ".hidden": "",
                "error.log": "",
                "conf.d/sub/x.conf": "",
            }
        )
        (self.home / "sites-enabled").mkdir()
        (self.home / "sites-enabled" / "passwd").symlink_to("/etc/passwd")
        (self.home / "sites-enabled" / "nowhere").symlink_to("none")
        (self.home / "sites-enabled" / "b").symlink_to("../conf.d/b.conf")
        os.mkfifo(self.home / "conf.d" / "pipe")
        found = listing(self.layout)
        self.assertEqual(
            {group: [file.name for file in files] for group, files in found.items()},
            {
                "main": ["nginx.conf", "mime.types"],
                "conf.d": ["a.conf", "b.conf"],
                "sites-enabled": ["b"],
                "own/deep": ["x"],
            },
        )

    def test_facts(self) -> None:
        """Each file has its path, size and time."""
        self.lay_out({"nginx.conf": "12345"})
        os.utime(self.main, (NOW.timestamp(), NOW.timestamp()))
        [file] = listing(self.layout)["main"]
        self.assertEqual((file.path, file.size, file.modified), (self.main, 5, NOW))

    def test_prefix(self) -> None:
        """Directories of the prefix around conf/ are listed too."""
        layout = Layout(NGINX, self.home, self.home / "conf" / "nginx.conf")
        self.lay_out({"conf/nginx.conf": "", "servers/a.conf": "", "nginx.conf": ""})
        found = listing(layout)
        self.assertEqual(set(found), {"main", "servers"})
        self.assertEqual([file.name for file in found["main"]], ["nginx.conf"])

    def test_nothing_there(self) -> None:
        """Without files the list is empty, not an error."""
        self.assertEqual(listing(self.layout), {"main": []})
        missing = Layout(NGINX, self.home, self.home / "none" / "nginx.conf")
        self.assertEqual(listing(missing), {"main": []})
