"""Tests of adding what a configuration lacks."""

from __future__ import annotations

import copy
import json
from collections.abc import Container
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.xray.addresses import Address, metrics_addresses
from mmwagent.xray.completion import SERVICES, api_inbounds, complete
from mmwagent.xray.document import Document, InvalidDocument, user_inbounds

ALL = ("stats", "policy", "api", "api_inbound", "api_routing_rule", "metrics")
USER_FLAGS = {"statsUserUplink": True, "statsUserDownlink": True}
SYSTEM_FLAGS = {
    "statsInboundUplink": True,
    "statsInboundDownlink": True,
    "statsOutboundUplink": True,
    "statsOutboundDownlink": True,
}


def free_port(preferred: int, taken: Container[int]) -> int:
    """Return the first port that the configuration has not taken."""
    return next(port for port in range(preferred, 65536) if port not in taken)


def completed(document: Document) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Complete a document, which must not be altered by it."""
    before = copy.deepcopy(document)
    result, added = complete(document, free_port)
    assert document == before, "the document given was altered"
    return dict(result), added


def whole(**others: Any) -> dict[str, Any]:
    """Return a configuration that lacks nothing, with a way to the API of its own."""
    return {
        "stats": {},
        "policy": {"levels": {"0": USER_FLAGS}, "system": SYSTEM_FLAGS},
        "api": {"tag": "manage", "services": list(SERVICES)},
        "metrics": {"listen": "127.0.0.1:1234"},
        "inbounds": [{"tag": "door", "port": 10085, "protocol": "dokodemo-door"}],
        "routing": {"rules": [{"inboundTag": "door", "outboundTag": "manage"}]},
        **others,
    }


class CompleteTests(SynchronousTestCase):
    """What is lacking is added, nothing else."""

    def unchanged(self, document: Document) -> None:
        """Nothing is lacking in `document`."""
        self.assertEqual(completed(document), (document, ()))

    def added(self, document: Document) -> tuple[str, ...]:
        """Return what is added to `document`; afterwards nothing is lacking."""
        result, added = completed(document)
        self.unchanged(result)
        return added

    def test_everything(self) -> None:
        """An empty configuration gets all of it, as Xray's documentation shows it."""
        document, added = completed({})
        self.assertEqual(added, ALL)
        self.assertEqual(
            document,
            {
                "stats": {},
                "policy": {"system": SYSTEM_FLAGS, "levels": {"0": USER_FLAGS}},
                "api": {"tag": "api", "services": list(SERVICES)},
                "inbounds": [
                    {
                        "tag": "api",
                        "listen": "127.0.0.1",
                        "port": 46736,
                        "protocol": "dokodemo-door",
                        "settings": {"address": "127.0.0.1"},
                    }
                ],
                "routing": {
                    "rules": [{"type": "field", "inboundTag": ["api"], "outboundTag": "api"}]
                },
                "metrics": {"tag": "metrics", "listen": "127.0.0.1:38889"},
            },
        )
        self.assertEqual(metrics_addresses(document), (Address("127.0.0.1", 38889),))
        self.assertEqual(user_inbounds(document), ())
        self.unchanged(document)

    def test_nothing(self) -> None:
        """A configuration that lacks nothing stays as it is, whatever its API is called."""
        self.unchanged(whole())

    def test_each_alone(self) -> None:
        """Each section that is missing is added, and it alone."""
        for name in ("stats", "policy", "metrics"):
            for document in (
                {key: value for key, value in whole().items() if key != name},
                whole(**{name: None}),
            ):
                with self.subTest(name=name):
                    self.assertEqual(self.added(document), (name,))

    def test_users_settings_survive(self) -> None:
        """Policy is added to flag by flag: levels, limits and flags set to false stay."""
        policy = {
            "levels": {
                "0": {"handshake": 2, "statsUserUplink": False, "connIdle": 300},
                "7": {"bufferSize": 64},
                "8": None,
            },
            "system": {"statsOutboundDownlink": False, "statsInboundUplink": True, "more": 1},
            "other": 1,
        }
        document, added = completed(whole(policy=policy))
        self.assertEqual(added, ("policy",))
        self.assertEqual(
            document["policy"],
            {
                "levels": {
                    "0": {
                        "handshake": 2,
                        "statsUserUplink": False,
                        "connIdle": 300,
                        "statsUserDownlink": True,
                    },
                    "7": {"bufferSize": 64, **USER_FLAGS},
                    "8": USER_FLAGS,
                },
                "system": {**SYSTEM_FLAGS, "statsOutboundDownlink": False, "more": 1},
                "other": 1,
            },
        )
        self.unchanged(document)

    def test_levels_of_users(self) -> None:
        """Users of other levels are counted as well."""
        inbounds = [
            *whole()["inbounds"],
            {"settings": {"clients": [{"level": 3}, {"level": 0}, {"level": True}, {}]}},
            {"settings": {"users": [{"level": 4}], "accounts": [{"level": "x"}]}},
            {"settings": {"userLevel": 5}},
            {"settings": None},
        ]
        document, _ = completed(whole(inbounds=inbounds))
        self.assertEqual(list(document["policy"]["levels"]), ["0", "3", "4", "5"])

    def test_order(self) -> None:
        """What is there keeps its order, and what is added to a list of inbounds comes last."""
        document, _ = completed(
            {"outbounds": [{"tag": "a"}], "inbounds": [{"tag": "b"}, {"tag": "c"}], "log": {}}
        )
        self.assertEqual(list(document)[:3], ["outbounds", "inbounds", "log"])
        self.assertEqual([one["tag"] for one in document["inbounds"]], ["b", "c", "api"])

    def test_junk_among_the_inbounds(self) -> None:
        """What nobody understands is left where it is."""
        inbounds = [None, {"tag": ["x"], "protocol": ["y"], "listen": []}, 1]
        document, _ = completed({"inbounds": inbounds, "routing": {"rules": [None, 2]}})
        self.assertEqual(document["inbounds"][:3], inbounds)
        self.assertEqual(document["routing"]["rules"][1:], [None, 2])

    def test_wrong_kinds(self) -> None:
        """Where something else stands in the place, that is told, and nothing is overwritten."""
        for document, place in (
            ({"stats": []}, "stats"),
            ({"policy": 1}, "policy"),
            ({"policy": {"system": "x"}}, "policy.system"),
            ({"policy": {"levels": []}}, "policy.levels"),
            ({"policy": {"levels": {"3": True}}}, "policy.levels.3"),
            ({"api": "api"}, "api"),
            ({"api": {"tag": 1}}, "api.tag"),
            ({"api": {"services": "all"}}, "api.services"),
            ({"inbounds": {}}, "inbounds"),
            ({"routing": []}, "routing"),
            ({"routing": {"rules": {}}}, "routing.rules"),
            ({"metrics": ":38889"}, "metrics"),
        ):
            with self.subTest(document=document):
                problem = self.assertRaises(InvalidDocument, complete, document, free_port)
                self.assertTrue(str(problem).startswith(f"{place} must be"), str(problem))


class ApiTests(SynchronousTestCase):
    """The way to the API, in each of its forms."""

    def ways(self, document: Document) -> list[Any]:
        """Return the ports by which the API of a completed `document` is reached."""
        result, _ = completed(document)
        self.assertEqual(completed(result)[1], ())
        return [one["port"] for one in api_inbounds(result, result["api"]["tag"])]

    def test_direct(self) -> None:
        """An API that listens by itself needs no inbound and no rule."""
        api = {"tag": "any", "listen": "127.0.0.1:8080", "services": list(SERVICES)}
        document = whole(api=api, inbounds=[{"tag": "x"}], routing={"rules": []})
        self.assertEqual(completed(document), (document, ()))

    def test_direct_without_the_rest(self) -> None:
        """Of an API that listens by itself only tag and services are added."""
        document, added = completed(whole(api={"listen": "127.0.0.1:8080"}, inbounds=[]))
        self.assertEqual(added, ("api",))
        self.assertEqual(
            document["api"],
            {"listen": "127.0.0.1:8080", "tag": "api", "services": list(SERVICES)},
        )
        self.assertEqual(document["inbounds"], [])

    def test_services(self) -> None:
        """Services are added to those that are there, in any letters, which stay."""
        api = {"tag": "manage", "services": ["ReflectionService", "statsservice"]}
        document, added = completed(whole(api=api))
        self.assertEqual(added, ("api",))
        self.assertEqual(
            document["api"]["services"],
            ["ReflectionService", "statsservice", "HandlerService", "RoutingService"],
        )

    def test_the_rule_comes_first(self) -> None:
        """A rule that takes everything does not hide the API."""
        everything = {"type": "field", "network": "tcp,udp", "outboundTag": "direct"}
        routing = {"domainStrategy": "AsIs", "rules": [everything]}
        document, _ = completed({"routing": routing})
        self.assertEqual(document["routing"]["domainStrategy"], "AsIs")
        self.assertEqual(document["routing"]["rules"][1:], [everything])
        self.assertEqual(document["routing"]["rules"][0]["outboundTag"], "api")

    def test_any_tag(self) -> None:
        """An inbound and a rule are made for the tag that the API has."""
        document, added = completed(whole(api={"tag": "q", "services": list(SERVICES)}))
        self.assertEqual(added, ("api_inbound", "api_routing_rule"))
        self.assertEqual(document["routing"]["rules"][0]["outboundTag"], "q")

    def test_inbound_missing(self) -> None:
        """A rule without its inbound gets that inbound, and no second rule."""
        document, added = completed(whole(inbounds=[{"tag": "vless", "port": 443}]))
        self.assertEqual(added, ("api_inbound",))
        self.assertEqual(document["inbounds"][1]["tag"], "door")
        self.assertEqual(document["routing"], whole()["routing"])

    def test_rule_missing(self) -> None:
        """An inbound that is plainly the API's gets its rule, and no second inbound."""
        for name, protocol in (("api", "dokodemo-door"), ("manage", "tunnel")):
            inbounds = [{"tag": name, "listen": "127.0.0.1", "port": 1, "protocol": protocol}]
            document, added = completed(whole(inbounds=inbounds, routing=None))
            self.assertEqual(added, ("api_routing_rule",))
            self.assertEqual(document["inbounds"], inbounds)
            self.assertEqual(document["routing"]["rules"][0]["inboundTag"], [name])

    def test_no_door_is_opened(self) -> None:
        """An inbound that others can reach, or that leads elsewhere, does not become the API's."""
        tunnel = {"tag": "api", "listen": "127.0.0.1", "port": 1, "protocol": "tunnel"}
        for inbound, rules in (
            ({**tunnel, "listen": "0.0.0.0"}, []),
            ({**tunnel, "listen": None}, []),
            ({**tunnel, "protocol": "vless"}, []),
            (tunnel, [{"inboundTag": ["api"], "outboundTag": "nowhere"}]),
        ):
            with self.subTest(inbound=inbound, rules=rules):
                document = whole(inbounds=[inbound], routing={"rules": rules})
                result, added = completed(document)
                self.assertEqual(added, ("api_inbound", "api_routing_rule"))
                self.assertEqual([one["tag"] for one in result["inbounds"]], ["api", "api-2"])
                self.assertEqual(result["routing"]["rules"][0]["inboundTag"], ["api-2"])

    def test_users_who_reach_the_api(self) -> None:
        """A rule by which some user's traffic gets to the API is no way for the agent."""
        inbounds = [{"tag": "vless", "protocol": "vless", "port": 443}]
        rules = [{"inboundTag": "vless", "domain": ["api.local"], "outboundTag": "manage"}]
        document, added = completed(whole(inbounds=inbounds, routing={"rules": rules}))
        self.assertEqual(added, ("api_inbound", "api_routing_rule"))
        self.assertEqual(document["routing"]["rules"][1:], rules)

    def test_tags_that_are_taken(self) -> None:
        """Neither API nor metrics take the tag of an outbound, which Xray would refuse."""
        outbounds = [{"tag": "api"}, {"tag": "metrics"}, {"tag": "metrics-2"}]
        document, _ = completed({"outbounds": outbounds})
        self.assertEqual(document["api"]["tag"], "api-2")
        self.assertEqual(document["metrics"]["tag"], "metrics-3")
        self.assertEqual(document["routing"]["rules"][0]["outboundTag"], "api-2")

    def test_ports_that_are_taken(self) -> None:
        """Ports of inbounds are passed over, in each way in which they may be written."""
        inbounds = [{"port": "46736,38889"}, {"port": "46737-46740"}, {"port": 46741}]
        document, _ = completed({"inbounds": inbounds})
        self.assertEqual(document["inbounds"][-1]["port"], 46742)
        self.assertEqual(document["metrics"]["listen"], "127.0.0.1:38890")

    def test_ports_of_its_own_kind(self) -> None:
        """What is added does not take the port of what was added before, or the other has."""
        document, _ = completed({"api": {"tag": "a", "listen": "127.0.0.1:38889"}})
        self.assertEqual(document["metrics"]["listen"], "127.0.0.1:38890")

    def test_a_port_written_as_text(self) -> None:
        """An API inbound whose port is a text is an API inbound."""
        inbounds = [{"tag": "door", "port": "10085", "protocol": "tunnel"}]
        self.assertEqual(self.ways(whole(inbounds=inbounds)), ["10085"])


class MetricsTests(SynchronousTestCase):
    """The place where the counters are read."""

    def test_by_inbound(self) -> None:
        """Metrics that an inbound leads to lack nothing."""
        document = whole(
            metrics={"tag": "counters"},
            inbounds=[*whole()["inbounds"], {"tag": "m", "port": 1, "protocol": "dokodemo-door"}],
            routing={
                "rules": [
                    *whole()["routing"]["rules"],
                    {"inboundTag": ["m"], "outboundTag": "counters"},
                ]
            },
        )
        self.assertEqual(completed(document), (document, ()))

    def test_a_tag_alone(self) -> None:
        """Metrics that nothing leads to listen by themselves, under their own tag."""
        document, added = completed(whole(metrics={"tag": "counters"}))
        self.assertEqual(added, ("metrics",))
        self.assertEqual(document["metrics"], {"tag": "counters", "listen": "127.0.0.1:38889"})

    def test_elsewhere(self) -> None:
        """Wherever they listen already, they stay."""
        for listen in ("[::1]:9", "0.0.0.0:11111", "/run/xray.sock"):
            document = whole(metrics={"listen": listen})
            self.assertEqual(completed(document), (document, ()))


TAGS = st.sampled_from(["api", "a", "b", "metrics"])
INBOUND = st.fixed_dictionaries(
    {},
    optional={
        "tag": TAGS,
        "port": st.sampled_from([443, "46736", 46736, "38889-38891", None]),
        "listen": st.sampled_from(["127.0.0.1", "0.0.0.0", None]),
        "protocol": st.sampled_from(["dokodemo-door", "tunnel", "vless"]),
        "settings": st.just({"clients": [{"level": 2}]}),
    },
)
RULE = st.fixed_dictionaries(
    {}, optional={"inboundTag": TAGS | st.lists(TAGS), "outboundTag": TAGS, "domain": st.just("x")}
)
FLAGS = st.dictionaries(
    st.sampled_from([*USER_FLAGS, *SYSTEM_FLAGS, "connIdle"]), st.sampled_from([True, False, None])
)
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "log": st.just({"loglevel": "none"}),
        "stats": st.sampled_from([{}, None, {"x": 1}]),
        "policy": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "levels": st.none()
                | st.dictionaries(st.sampled_from(["0", "1"]), st.none() | FLAGS),
                "system": st.none() | FLAGS,
            },
        ),
        "api": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "tag": TAGS,
                "listen": st.sampled_from(["127.0.0.1:46736", "", None]),
                "services": st.lists(st.sampled_from([*SERVICES, "LoggerService"]), unique=True),
            },
        ),
        "metrics": st.none()
        | st.fixed_dictionaries({}, optional={"tag": TAGS, "listen": st.just("127.0.0.1:38889")}),
        "inbounds": st.none() | st.lists(INBOUND, max_size=4),
        "outbounds": st.lists(st.fixed_dictionaries({"tag": TAGS}), max_size=3),
        "routing": st.none()
        | st.fixed_dictionaries({}, optional={"rules": st.none() | st.lists(RULE, max_size=4)}),
    },
)


def is_within(old: Any, new: Any) -> bool:
    """Return whether all of `old` is found in `new`, in its order; null may become anything."""
    if old is None:
        return True
    if isinstance(old, dict):
        names = [name for name in new if name in old]
        return names == list(old) and all(is_within(old[name], new[name]) for name in old)
    if isinstance(old, list):
        left = iter(new)
        return all(any(one == other for other in left) for one in old)
    return type(old) is type(new) and bool(old == new)


class AnyDocumentTests(SynchronousTestCase):
    """What holds for whatever people have written."""

    @given(document=DOCUMENT)
    def test_any(self, document: dict[str, Any]) -> None:
        """All that stood there stands there still, all is there, and a second time adds none."""
        result, added = completed(document)
        # An empty text is no address, so metrics and API may get one in its place.
        old = json.loads(json.dumps(document).replace('"listen": ""', '"listen": null'))
        self.assertTrue(is_within(old, result), f"{document} became {result}")
        self.assertEqual(completed(result), (result, ()))
        self.assertEqual(added == (), result == document)
        api = result["api"]
        self.assertTrue(api.get("listen") or any(api_inbounds(result, api["tag"])))
        self.assertTrue(set(SERVICES) <= set(api["services"]))
        for level in result["policy"]["levels"].values():
            self.assertLessEqual(USER_FLAGS.keys(), level.keys())
        self.assertLessEqual(SYSTEM_FLAGS.keys(), result["policy"]["system"].keys())
        self.assertIsInstance(result["stats"], dict)
