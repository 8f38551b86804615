"""The messages of the wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.settings_values import secret
from mmwagent.uplink.messages import (
    MAX_TOKEN,
    Auth,
    AuthResult,
    CertDeploy,
    CertRequest,
    CertUpdate,
    DomainLatencyProbe,
    DomainLatencyResult,
    MalformedMessage,
    Other,
    ScanResult,
    SpeedReport,
    TokenUpdate,
    decode,
    encode,
    parse_time,
    rfc3339,
    to_json,
)
from tests.uplink.helpers import HEARTBEAT, STATS, TRAFFIC

TYPES = ("auth_result", "token_update", "domain_latency_probe", "cert_request", "cert_deploy")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
NAMES = (
    *("success", "message", "server_token", "expires_at", "request_id", "domains", "timeout_ms"),
    *("cert_id", "domain"),
)
PAYLOADS = JSON | st.dictionaries(st.sampled_from(NAMES), JSON | st.lists(st.text()))


def sent(message: Any) -> Any:
    """Return what arrives of `message`."""
    return json.loads(encode(message))


def came(type_: str, payload: object) -> Any:
    """Return what a message of the master is taken for."""
    return decode(json.dumps({"type": type_, "payload": payload}).encode())


class TimeTests(SynchronousTestCase):
    """Times on the wire."""

    def test_utc_with_z(self) -> None:
        """Whatever zone a time has, it goes out in UTC with a Z and whole seconds."""
        east = timezone(timedelta(hours=8))
        when = datetime(2026, 1, 1, 8, 0, 0, 999999, tzinfo=east)
        self.assertEqual(rfc3339(when), "2026-01-01T00:00:00Z")

    @given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1971, 1, 1)))
    def test_reads_back(self, when: datetime) -> None:
        """What goes out reads back as the same second."""
        read = datetime.fromisoformat(rfc3339(when))
        self.assertEqual(read, when.replace(microsecond=0))

    def test_parse(self) -> None:
        """The master's times are read with up to nine digits and any zone."""
        for text, when in (
            ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
            ("2026-01-01T08:00:00+08:00", datetime(2026, 1, 1, tzinfo=UTC)),
            ("2025-12-31T19:00:00.000000000-05:00", datetime(2026, 1, 1, tzinfo=UTC)),
            ("2026-01-01T00:00:00.123456789Z", datetime(2026, 1, 1, 0, 0, 0, 123456, UTC)),
            ("2026-01-01T00:00:00.5Z", datetime(2026, 1, 1, 0, 0, 0, 500000, UTC)),
        ):
            with self.subTest(text=text):
                self.assertEqual(parse_time(text), when)

    def test_parse_nothing(self) -> None:
        """What is no time, or one without a zone, is none."""
        for text in (
            *(None, 5, True, [], "", "soon", "2026-01-01", "2026-01-01T00:00:00"),
            *("2026-13-01T00:00:00Z", "2026-01-01T00:00:00.٣٣٣٣٣٣٣Z"),
        ):
            with self.subTest(text=text):
                self.assertIsNone(parse_time(text))

    @given(st.text() | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*)?(Z|[+-]\d\d:\d\d)?"))
    def test_parse_any_text(self, text: str) -> None:
        """Any text is an aware time or none."""
        when = parse_time(text)
        self.assertTrue(when is None or when.tzinfo is not None)


class OutgoingTests(SynchronousTestCase):
    """What goes to the master, exactly."""

    def test_auth(self) -> None:
        """`auth` carries the token, and its repr does not show it."""
        self.assertEqual(sent(Auth("t0k")), {"type": "auth", "payload": {"token": "t0k"}})
        self.assertNotIn("t0k", repr(Auth("t0k")))

    def test_heartbeat_websocket(self) -> None:
        """Over the WebSocket boot times are RFC 3339 text and the rest whole numbers."""
        self.assertEqual(
            sent(HEARTBEAT),
            {
                "type": "heartbeat",
                "payload": {
                    "boot_time": "2026-01-02T03:04:05Z",
                    "listen_port": 23889,
                    "local_time": 1795370400,
                    "xray_boot_time": "2026-11-01T00:00:00Z",
                },
            },
        )

    def test_heartbeat_http(self) -> None:
        """Over HTTP all times are Unix seconds, and whole numbers."""
        body = json.loads(to_json(HEARTBEAT.body()))
        self.assertEqual(
            body,
            {
                "boot_time": 1767323045,
                "listen_port": 23889,
                "local_time": 1795370400,
                "xray_boot_time": 1793491200,
                "xray_pid": 4711,
            },
        )
        self.assertTrue(all(type(value) is int for value in body.values()))

    def test_heartbeat_without_xray(self) -> None:
        """Where no Xray runs its fields are left out: null or zero would be a statement."""
        heartbeat = evolve(HEARTBEAT, xray_boot_time=None, xray_pid=None)
        self.assertEqual(
            set(heartbeat.payload()), set(heartbeat.body()) & set(heartbeat.payload())
        )
        self.assertNotIn("xray_boot_time", heartbeat.payload())
        self.assertEqual(set(heartbeat.body()), {"boot_time", "listen_port", "local_time"})

    def test_traffic(self) -> None:
        """Traffic carries the counters alone, the same over both doors."""
        self.assertEqual(sent(TRAFFIC), {"type": "traffic", "payload": {"stats": STATS}})
        self.assertEqual(TRAFFIC.body(), {"stats": STATS})

    def test_speed(self) -> None:
        """Speed carries two whole numbers by the README's names."""
        self.assertEqual(
            sent(SpeedReport(1, 2)),
            {"type": "speed", "payload": {"upload_speed": 1, "download_speed": 2}},
        )

    def test_scan_result(self) -> None:
        """Without inbounds the list is empty, not null; an unknown version is left out."""
        self.assertEqual(
            sent(ScanResult(False, None, ()))["payload"], {"xray_running": False, "inbounds": []}
        )
        self.assertEqual(
            sent(ScanResult(True, "1.2.3", ({"tag": "a"},)))["payload"],
            {"xray_running": True, "xray_version": "1.2.3", "inbounds": [{"tag": "a"}]},
        )

    def test_certificate(self) -> None:
        """An obtained certificate goes out with everything, dates in UTC with a Z."""
        east = timezone(timedelta(hours=8))
        issued, expires = datetime(2026, 1, 1, 8, tzinfo=east), datetime(2026, 4, 1, tzinfo=UTC)
        update = CertUpdate(4, "a.example", True, "", "PEM", "KEY", issued, expires)
        self.assertEqual(
            sent(update),
            {
                "type": "cert_update",
                "payload": {
                    "cert_id": 4,
                    "domain": "a.example",
                    "success": True,
                    "cert_pem": "PEM",
                    "key_pem": "KEY",
                    "issue_date": "2026-01-01T00:00:00Z",
                    "expiry_date": "2026-04-01T00:00:00Z",
                },
            },
        )
        self.assertNotRegex(repr(update), "PEM|KEY")

    def test_certificate_failed(self) -> None:
        """A failure has its reason and no empty field: the master would drop it for one."""
        self.assertEqual(
            sent(CertUpdate(4, "a.example", False, "no answer on port 80"))["payload"],
            {
                "cert_id": 4,
                "domain": "a.example",
                "success": False,
                "error": "no answer on port 80",
            },
        )

    def test_latency(self) -> None:
        """The results of a probe go out as they are; the list is there though it is empty."""
        result = {"domain": "a.example", "latency_ms": 0}
        self.assertEqual(
            sent(DomainLatencyResult("7-1", True, (result,))),
            {
                "type": "domain_latency_result",
                "payload": {"request_id": "7-1", "success": True, "results": [result]},
            },
        )
        self.assertEqual(
            sent(DomainLatencyResult("7-1", False, error="why"))["payload"],
            {"request_id": "7-1", "success": False, "results": [], "error": "why"},
        )

    def test_no_nan(self) -> None:
        """A number that JSON does not have cannot be sent."""
        self.assertRaises(ValueError, to_json, {"x": float("nan")})

    def test_one_line_of_ascii(self) -> None:
        """A message is compact ASCII, whatever the names in it."""
        data = encode(ScanResult(True, None, ({"tag": "入站\n"},)))
        self.assertTrue(data.isascii())
        self.assertNotIn(b"\n", data)


class DecodeTests(SynchronousTestCase):
    """What comes from the master."""

    def test_auth_result(self) -> None:
        """Both outcomes are understood, with and without words."""
        self.assertEqual(
            decode(b'{"type":"auth_result","payload":{"success":true,"message":"Authenticated"}}'),
            AuthResult(True, "Authenticated"),
        )
        self.assertEqual(
            decode(b'{"type":"auth_result","payload":{"success":false}}'), AuthResult(False, "")
        )

    def test_unknown_types(self) -> None:
        """A type of a newer master is no error, whatever its payload."""
        for payload in (b"", b',"payload":null', b',"payload":[1]', b',"payload":{"a":1}'):
            self.assertEqual(
                decode(b'{"type":"limiter_config"' + payload + b"}"), Other("limiter_config")
            )

    def test_malformed(self) -> None:
        """What is no message is refused with words that say what is wrong with it."""
        for data, words in (
            (b"", "no JSON"),
            (b"\xff\xfe", "no JSON"),
            (b"[]", "must be an object, not a list"),
            (b"null", "absent or null"),
            (b'{"payload":{}}', "type must be a text"),
            (b'{"type":5}', "type must be a text, not a number"),
            (b'{"type":"auth_result"}', "payload of auth_result must be an object"),
            (
                b'{"type":"auth_result","payload":{"success":"yes"}}',
                "success must be true or false",
            ),
            (b'{"type":"auth_result","payload":{"success":NaN}}', "NaN is not JSON"),
            (b"[" * 100_000, "nested too deeply"),
        ):
            with self.subTest(data=data[:60]):
                error = self.assertRaises(MalformedMessage, decode, data)
                self.assertIn(words, str(error))

    @given(st.binary() | st.text().map(str.encode))
    def test_never_another_exception(self, data: bytes) -> None:
        """Bytes give a message or MalformedMessage, nothing else."""
        try:
            decode(data)
        except MalformedMessage:
            pass

    @given(st.sampled_from(TYPES), PAYLOADS)
    def test_any_payload(self, type_: str, payload: object) -> None:
        """No payload gives another exception than MalformedMessage, whose answer can be sent."""
        try:
            came(type_, payload)
        except MalformedMessage as problem:
            if problem.answer is not None:
                encode(problem.answer)


class OrdersTests(SynchronousTestCase):
    """The master's orders."""

    def refused(self, type_: str, payload: object) -> MalformedMessage:
        """Return why a message was refused."""
        error: MalformedMessage = self.assertRaises(MalformedMessage, came, type_, payload)
        self.assertTrue(str(error).startswith((type_, f"the payload of {type_}")), str(error))
        return error

    def test_token(self) -> None:
        """A new token is taken without blanks around it; its repr does not show it."""
        until = "2026-01-01T00:00:00.123456789+08:00"
        update = came("token_update", {"server_token": " s3cret= \n", "expires_at": until})
        self.assertEqual(update, TokenUpdate("s3cret=", parse_time(until)))
        self.assertIsNotNone(parse_time(until))
        self.assertNotIn("s3cret", repr(update))

    def test_token_without_end(self) -> None:
        """A date that cannot be read, or none, is no reason to lose the token."""
        for extra in ({}, {"expires_at": "never"}, {"expires_at": 5}, {"expires_at": None}):
            self.assertEqual(
                came("token_update", {"server_token": "new", **extra}), TokenUpdate("new", None)
            )

    def test_no_token(self) -> None:
        """What is no token for a header is refused, and nobody is told what it was."""
        for token in (
            *(None, 5, True, [], {}, "", "   ", "s3cret two", "s3cret\r\nX: y", "s3cret\0"),
            *("s3crét", "s3cret\x7f", "s3cret\u2028x", "s3cret" + "x" * MAX_TOKEN),
        ):
            with self.subTest(token=token):
                error = self.refused("token_update", {"server_token": token})
                self.assertIn("the present one stays", str(error))
                self.assertNotIn("s3", str(error))
                self.assertIsNone(error.answer)
        self.refused("token_update", {})
        self.refused("token_update", None)

    def test_longest_token(self) -> None:
        """A token may have up to 512 characters, all of which a settings file may hold too."""
        self.assertEqual(MAX_TOKEN, 512)
        token = "x" * MAX_TOKEN
        self.assertEqual(came("token_update", {"server_token": token}), TokenUpdate(token))
        self.assertEqual(secret(token), token)

    def test_probe(self) -> None:
        """A probe is taken; without a timeout the default is for the prober to choose."""
        payload = {"request_id": "7-1", "domains": ["a.example", ""], "timeout_ms": 500, "x": 1}
        probe = DomainLatencyProbe("7-1", ("a.example", ""), 500)
        self.assertEqual(came("domain_latency_probe", payload), probe)
        del payload["timeout_ms"]
        self.assertEqual(came("domain_latency_probe", payload), evolve(probe, timeout_ms=0))

    def test_bad_probe(self) -> None:
        """A probe that is no probe is answered by its request_id, as far as it has one."""
        for changes, words in (
            ({"domains": None}, "domains must be a list of texts"),
            ({"domains": "a.example"}, "domains must be a list of texts"),
            ({"domains": ["a.example", 5]}, "domains must be a list of texts"),
            ({"timeout_ms": "500"}, "timeout_ms must be a whole number, not a text"),
            ({"timeout_ms": 500.0}, "timeout_ms must be a whole number, not a number"),
            ({"timeout_ms": True}, "timeout_ms must be a whole number, not true or false"),
            ({"timeout_ms": None}, "timeout_ms must be a whole number, not absent or null"),
        ):
            with self.subTest(changes=changes):
                payload = {"request_id": "7-1", "domains": ["a.example"], **changes}
                error = self.refused("domain_latency_probe", payload)
                self.assertEqual(error.answer, DomainLatencyResult("7-1", False, error=words))
        for request_id in (None, 7, []):
            payload = {"request_id": request_id, "domains": ["a.example"]}
            self.assertIsNone(self.refused("domain_latency_probe", payload).answer)

    def test_certificate(self) -> None:
        """An order for a certificate has its number, its domain and all of its fields."""
        payload = {"cert_id": 4, "domain": "*.a.example", "dns_credentials": "s3cret"}
        request = came("cert_request", payload)
        self.assertEqual(request, CertRequest(4, "*.a.example", payload))
        self.assertNotIn("s3cret", repr(request))

    def test_bad_certificate(self) -> None:
        """Without a domain it is answered as failed; without a number nobody could be told."""
        for domain in (None, "", 5, ["a.example"]):
            error = self.refused("cert_request", {"cert_id": 4, "domain": domain})
            words = "domain must be a text, and not empty"
            self.assertEqual(error.answer, CertUpdate(4, "", False, words))
        for cert_id in (None, "4", 4.0, True):
            error = self.refused("cert_request", {"cert_id": cert_id, "domain": "a.example"})
            self.assertIsNone(error.answer)

    def test_deployment(self) -> None:
        """A deployment has its domain and all of its fields; no repr shows its key."""
        payload = {"domain": "a.example", "key_pem": "s3cret"}
        deploy = came("cert_deploy", payload)
        self.assertEqual(deploy, CertDeploy("a.example", payload))
        self.assertNotIn("s3cret", repr(deploy))
        for domain in (None, "", 5):
            error = self.refused("cert_deploy", {"domain": domain, "key_pem": "s3cret"})
            self.assertNotIn("s3cret", str(error))
            self.assertIsNone(error.answer)

    def test_absent_payload(self) -> None:
        """An order without a payload is refused by its name."""
        for type_ in TYPES:
            error = self.assertRaises(MalformedMessage, decode, f'{{"type":"{type_}"}}'.encode())
            self.assertIn(f"the payload of {type_} must be an object", str(error))
