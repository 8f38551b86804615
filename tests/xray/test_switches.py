"""Tests of the switches that the master's page shows."""

from __future__ import annotations

import copy
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mmwagent.xray.document import Document
from mmwagent.xray.switches import PortTaken, Switches, Wanted, switched, switches
from tests.xray.test_completion import USER_FLAGS, free_port, whole

OFF = Switches(False, "", False, False, 0)


def switch(document: Document, **fields: Any) -> dict[str, Any]:
    """Set switches of a document, which must not be altered by it."""
    before = copy.deepcopy(document)
    result = switched(document, Wanted.of(fields), free_port)
    assert document == before, "the document given was altered"
    return dict(result)


class SwitchesTests(SynchronousTestCase):
    """How the switches of a configuration stand."""

    def test_all_off(self) -> None:
        """An empty configuration has all of them off; so has one of null, and one of junk."""
        self.assertEqual(switches({}), OFF)
        self.assertEqual(switches(dict.fromkeys(("stats", "api", "metrics", "routing"))), OFF)
        self.assertEqual(switches({"api": 1, "inbounds": "x", "routing": []}), OFF)

    def test_all_on(self) -> None:
        """The port of the API is that of the inbound that leads to it."""
        self.assertEqual(switches(whole()), Switches(True, "127.0.0.1:1234", True, True, 10085))

    def test_the_api_listens(self) -> None:
        """Or it is that of its own address."""
        api = {"tag": "a", "listen": "[::1]:8080"}
        self.assertEqual(switches({"api": api}), Switches(False, "", False, True, 8080))

    def test_a_port_written_as_text(self) -> None:
        """A port that is a text is a port; several, or none, are none, and none is guessed."""
        for port, expected in (("10085", 10085), ("1-9", 0), ("env:X", 0), (None, 0)):
            inbounds = [{"tag": "door", "port": port, "protocol": "tunnel"}]
            self.assertEqual(switches(whole(inbounds=inbounds)).grpc_port, expected)

    def test_metrics_by_inbound(self) -> None:
        """Metrics behind an inbound are where that listens."""
        document = {
            "metrics": {"tag": "m"},
            "inbounds": [{"tag": "in", "listen": "127.0.0.1", "port": 7}],
            "routing": {"rules": [{"inboundTag": ["in"], "outboundTag": "m"}]},
        }
        self.assertEqual(switches(document).metrics_listen, "127.0.0.1:7")

    def test_fields(self) -> None:
        """They are told as the five fields of the master."""
        self.assertEqual(
            OFF.fields(),
            {
                "metrics_enabled": False,
                "metrics_listen": "",
                "stats_enabled": False,
                "grpc_enabled": False,
                "grpc_port": 0,
            },
        )


class WantedTests(SynchronousTestCase):
    """What a request names."""

    def test_nothing(self) -> None:
        """Other fields, and null, name no switch."""
        for fields in ({}, {"server_id": 7, "x": []}, {"stats_enabled": None, "grpc_port": None}):
            self.assertTrue(Wanted.of(fields).nothing())
        self.assertFalse(Wanted.of({"stats_enabled": False}).nothing())
        self.assertFalse(Wanted.of({"grpc_port": 0}).nothing())

    def test_wrong_kinds(self) -> None:
        """A value that cannot be is refused, and the field named."""
        for name, values in (
            ("metrics_enabled", (1, "true", [])),
            ("stats_enabled", (0, "", {})),
            ("grpc_enabled", ("yes", 1.0)),
            ("metrics_listen", (38889, True, "x", "::1:80", "host:0", "a b:80", "h:99999")),
            ("grpc_port", ("80", True, 1.5, -1, 65536)),
        ):
            for value in values:
                with self.subTest(name=name, value=value):
                    problem = self.assertRaises(ValueError, Wanted.of, {name: value})
                    self.assertTrue(str(problem).startswith(f"{name} must be"), str(problem))


class SwitchedTests(SynchronousTestCase):
    """Only what is named is touched."""

    def test_nothing_named(self) -> None:
        """Naming nothing, or what is so already, changes nothing."""
        for fields in (
            {},
            {
                "metrics_enabled": True,
                "metrics_listen": "127.0.0.1:1234",
                "stats_enabled": True,
                "grpc_enabled": True,
                "grpc_port": 10085,
                "server_id": 3,
            },
            {"grpc_port": 0, "metrics_listen": ""},
        ):
            self.assertEqual(switch(whole(), **fields), whole())

    def test_off_twice(self) -> None:
        """To switch off what is off changes nothing."""
        off = {"metrics_enabled": False, "stats_enabled": False, "grpc_enabled": False}
        document = switch(whole(), **off)
        self.assertEqual(switches(document), OFF)
        self.assertEqual(switch(document, **off), document)

    def test_stats_off(self) -> None:
        """The counters go; the policy, with the users' levels, stays."""
        document = switch(whole(), stats_enabled=False)
        expected = whole()
        del expected["stats"]
        self.assertEqual(document, expected)

    def test_stats_on(self) -> None:
        """The counters come with the flags that are missing, and no flag that is there changes."""
        policy = {"levels": {"0": {"connIdle": 9, "statsUserUplink": False}}}
        document = switch({"policy": policy}, stats_enabled=True)
        self.assertEqual(document["stats"], {})
        self.assertEqual(
            document["policy"]["levels"]["0"],
            {"connIdle": 9, **USER_FLAGS, "statsUserUplink": False},
        )
        self.assertEqual(list(document), ["policy", "stats"])

    def test_metrics(self) -> None:
        """Metrics come on at the address that is named, or at the README's."""
        for fields, listen in (
            ({}, "127.0.0.1:38889"),
            ({"metrics_listen": ""}, "127.0.0.1:38889"),
            ({"metrics_listen": "0.0.0.0:5000"}, "0.0.0.0:5000"),
            ({"metrics_listen": "5000"}, "127.0.0.1:5000"),
            ({"metrics_listen": "[::1]:5000"}, "[::1]:5000"),
        ):
            with self.subTest(fields=fields):
                document = switch({}, metrics_enabled=True, **fields)
                self.assertEqual(document, {"metrics": {"tag": "metrics", "listen": listen}})
        self.assertEqual(switch(whole(), metrics_enabled=False).get("metrics"), None)

    def test_metrics_moved(self) -> None:
        """The address alone moves metrics that are on; what else stands there stays."""
        document = whole(metrics={"tag": "m", "listen": "127.0.0.1:1234", "x": 1})
        moved = switch(document, metrics_listen="127.0.0.1:99")
        self.assertEqual(moved["metrics"], {"tag": "m", "listen": "127.0.0.1:99", "x": 1})
        moved = switch(document, metrics_listen="0.0.0.0:1234")
        self.assertEqual(moved["metrics"]["listen"], "0.0.0.0:1234")

    def test_api_on(self) -> None:
        """The API comes with its inbound and its rule, on the port that is named."""
        document = switch({}, grpc_enabled=True, grpc_port=10085)
        self.assertEqual(switches(document), Switches(False, "", False, True, 10085))
        self.assertEqual(switches(switch({}, grpc_enabled=True, grpc_port=0)).grpc_port, 46736)

    def test_api_moved(self) -> None:
        """The port of an API moves in each way to set it up, and its host stays."""
        moved = switch(whole(), grpc_port=9)
        self.assertEqual(moved["inbounds"], [{**whole()["inbounds"][0], "port": 9}])
        for listen, expected in (("127.0.0.1:8080", "127.0.0.1:9"), ("[::1]:80", "[::1]:9")):
            moved = switch({"api": {"tag": "a", "listen": listen}}, grpc_port=9)
            self.assertEqual(moved["api"], {"tag": "a", "listen": expected})

    def test_api_off(self) -> None:
        """The API goes with the inbound and the rule that led to it; the rest stays."""
        rules = [{"domain": ["x"], "outboundTag": "a"}, *whole()["routing"]["rules"]]
        inbounds = [{"tag": "vless", "port": 443}, *whole()["inbounds"]]
        document = whole(inbounds=inbounds, routing={"rules": rules, "domainStrategy": "AsIs"})
        off = switch(document, grpc_enabled=False)
        expected = {name: value for name, value in document.items() if name != "api"}
        expected["inbounds"] = [{"tag": "vless", "port": 443}]
        expected["routing"] = {"rules": rules[:1], "domainStrategy": "AsIs"}
        self.assertEqual(off, expected)
        self.assertEqual(list(off), [name for name in document if name != "api"])

    def test_users_inbounds_stay(self) -> None:
        """An inbound that serves users stays, though a rule led some of it to the API."""
        inbounds = [{"tag": "vless", "protocol": "vless"}, {"tag": "door", "protocol": "tunnel"}]
        rules = [
            {"inboundTag": ["vless", "door"], "domain": ["x"], "outboundTag": "manage"},
            {"inboundTag": ["door"], "outboundTag": "elsewhere"},
        ]
        document = whole(inbounds=inbounds, routing={"rules": rules})
        off = switch(document, grpc_enabled=False)
        self.assertEqual(off["inbounds"], inbounds)
        self.assertEqual(off["routing"], {"rules": rules[1:]})

    def test_rules_to_an_outbound_of_that_name(self) -> None:
        """Rules that lead to a real outbound are not the API's."""
        document = whole(outbounds=[{"tag": "manage"}])
        off = switch(document, grpc_enabled=False)
        self.assertEqual(off["routing"], document["routing"])
        self.assertEqual(off["inbounds"], document["inbounds"])

    def test_alone(self) -> None:
        """An address for what is off is refused by its name: it would be lost."""
        for fields in ({"grpc_port": 9}, {"metrics_listen": "127.0.0.1:9"}):
            problem = self.assertRaises(ValueError, switch, {}, **fields)
            self.assertIn(next(iter(fields)), str(problem))

    def test_off_with_an_address(self) -> None:
        """The page sends all five: the address of what is switched off does not matter."""
        fields = {"metrics_enabled": False, "grpc_enabled": False}
        document = switch(whole(), **fields, metrics_listen="127.0.0.1:9", grpc_port=9)
        self.assertEqual(switches(document), Switches(False, "", True, False, 0))

    def test_ports_that_are_taken(self) -> None:
        """A port that another part of the configuration has is refused, and its owner named."""
        document = whole(inbounds=[*whole()["inbounds"], {"tag": "web", "port": "440-450"}])
        for fields, owner in (
            ({"grpc_port": 443}, "'web'"),
            ({"grpc_port": 1234}, "metrics.listen"),
            ({"metrics_listen": "127.0.0.1:443"}, "'web'"),
            ({"metrics_listen": "127.0.0.1:10085"}, "'door'"),
        ):
            with self.subTest(fields=fields):
                problem = self.assertRaises(PortTaken, switch, document, **fields)
                self.assertIn(owner, str(problem))
                self.assertIn(next(iter(fields)), str(problem))

    def test_an_api_on_no_port(self) -> None:
        """An API that listens on a socket of the file system has no port to set."""
        document = {"api": {"tag": "a", "listen": "/run/x.sock"}}
        problem = self.assertRaises(ValueError, switch, document, grpc_port=9)
        self.assertIn("no TCP port", str(problem))
