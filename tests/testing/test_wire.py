"""What the master makes of payloads: mmwagent.testing.wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.testing import wire
from mmwagent.testing.wire import Heartbeat, Refused, Speed

BOOT = datetime(2026, 5, 1, 11, tzinfo=UTC)
PORT = {"listen_port": 23889}


def rules(seen: wire.Seen[Any]) -> list[str]:
    """The rules a taken payload breaks."""
    return [problem.rule for problem in seen.problems]


class JSONTests(SynchronousTestCase):
    """Reading JSON and its plain values."""

    def refused(self, rule: str, read: Any, *arguments: Any) -> None:
        """See that `read` refuses, for `rule`."""
        error = self.assertRaises(Refused, read, *arguments)
        self.assertEqual(error.problem.rule, rule)

    def test_not_json(self) -> None:
        """Broken text, NaN, Infinity, two values and endless nesting are no JSON."""
        for text in ("", "{", "NaN", '{"a": -Infinity}', "{} {}", "[" * 100_000):
            self.refused("json", wire.load, text.encode())

    def test_broken_utf8(self) -> None:
        """Bytes that are no UTF-8 inside a string are replaced, as Go does."""
        self.assertEqual(wire.load(b'"a\xff"'), "a�")

    def test_integer_refuses(self) -> None:
        """What only looks like an integer, or is too large for 64 bits, is refused."""
        for value in (5.0, 5.5, "5", True, False, [], {}, 2**63, -(2**63) - 1, 1e3):
            self.refused("integer", wire.integer, value, "it")

    @given(st.integers(-(2**63), 2**63 - 1))
    def test_integer_takes(self, value: int) -> None:
        """Every int64 is taken as it is."""
        self.assertEqual(wire.integer(value, "it"), value)

    def test_null_is_zero(self) -> None:
        """Null leaves Go's zero value."""
        self.assertEqual(wire.integer(None, "it"), 0)
        self.assertEqual(wire.text(None, "it"), "")
        self.assertIs(wire.boolean(None, "it"), False)
        self.assertEqual(wire.mapping(None, "it"), {})
        self.assertIsNone(wire.instant(None, "it"))

    def test_shapes(self) -> None:
        """A value of another kind is refused, and the complaint names it."""
        self.refused("shape", wire.text, 5, "it")
        self.refused("shape", wire.boolean, "true", "it")
        self.refused("shape", wire.mapping, [], "it")
        error = self.assertRaises(Refused, wire.mapping, "x", "stats.user")
        self.assertIn("stats.user is a string, not an object", str(error))

    def test_instants_taken(self) -> None:
        """Go's times: Z or an offset with a colon, with or without fractions."""
        for text in (
            "2026-05-01T11:00:00Z",
            "2026-05-01T11:00:00.000000000Z",
            "2026-05-01T11:00:00+00:00",
            "2026-05-01T19:00:00+08:00",
        ):
            self.assertEqual(wire.instant(text, "it"), BOOT)

    def test_instants_refused(self) -> None:
        """No zone, a space, lower case, an offset without colon, a number or nothing: refused."""
        for value in (
            "2026-05-01T11:00:00",
            "2026-05-01 11:00:00Z",
            "2026-05-01t11:00:00z",
            "2026-05-01T11:00:00+0000",
            "2026-05-01T11:00Z",
            "2026-02-30T11:00:00Z",
            1777633200,
            "",
        ):
            self.refused("time", wire.instant, value, "it")


class TrafficAndSpeedTests(SynchronousTestCase):
    """Traffic and speed payloads."""

    def test_snapshot(self) -> None:
        """Every counter of the three maps has its address; unknown fields do not matter."""
        payload = {
            "stats": {
                "inbound": {"in": {"uplink": 1, "downlink": 2}},
                "outbound": None,
                "user": {"a@b": {"uplink": 3, "more": "x"}, "c@d": None},
                "other": 5,
            },
            "more": [],
        }
        self.assertEqual(
            wire.traffic(payload).value,
            {
                ("inbound", "in", "uplink"): 1,
                ("inbound", "in", "downlink"): 2,
                ("user", "a@b", "uplink"): 3,
                ("user", "a@b", "downlink"): 0,
                ("user", "c@d", "uplink"): 0,
                ("user", "c@d", "downlink"): 0,
            },
        )

    def test_no_stats(self) -> None:
        """Without stats there is no snapshot; empty stats are an empty one."""
        self.assertIsNone(wire.traffic({}).value)
        self.assertIsNone(wire.traffic(None).value)
        self.assertIsNone(wire.traffic({"stats": None}).value)
        self.assertEqual(wire.traffic({"stats": {}}).value, {})

    def test_refused(self) -> None:
        """One wrong type anywhere refuses the whole."""
        entries: list[Any] = [5, [], {"uplink": 5.0}, {"downlink": "5"}]
        for entry in entries:
            self.assertRaises(Refused, wire.traffic, {"stats": {"user": {"a@b": entry}}})
        for stats in ([], "x", {"user": []}):
            self.assertRaises(Refused, wire.traffic, {"stats": stats})

    def test_negative(self) -> None:
        """A counter below zero is taken, and is a problem."""
        seen = wire.traffic({"stats": {"user": {"a@b": {"uplink": -1}}}})
        self.assertEqual(rules(seen), ["negative"])

    def test_speed(self) -> None:
        """Both figures are bytes a second."""
        seen = wire.speed({"upload_speed": 1, "download_speed": 2})
        self.assertEqual((seen.value, seen.problems), (Speed(1, 2), []))

    def test_speed_missing(self) -> None:
        """A figure that is missing counts as 0, and is a problem; so is one below zero."""
        seen = wire.speed({"upload_speed": -1})
        self.assertEqual(seen.value, Speed(-1, 0))
        self.assertEqual(rules(seen), ["missing", "negative"])

    def test_speed_refused(self) -> None:
        """A float is refused even where it is whole."""
        payload = {"upload_speed": 5.0, "download_speed": 1}
        self.assertRaises(Refused, wire.speed, payload)


class HeartbeatTests(SynchronousTestCase):
    """Heartbeats of both forms."""

    def test_frame(self) -> None:
        """A good one is stored as it is, with no complaint."""
        payload = {
            "boot_time": "2026-05-01T11:00:00Z",
            "xray_boot_time": "2026-05-01T11:00:00+00:00",
            "listen_port": 23889,
            "local_time": 7,
            "xray_pid": 5,
        }
        seen = wire.frame_heartbeat(payload)
        self.assertEqual(seen.value, Heartbeat(BOOT, BOOT, 23889, 7, 5))
        self.assertEqual(seen.problems, [])

    def test_frame_stops_at_bad_field(self) -> None:
        """Fields after a bad one are lost, those before it stay."""
        seen = wire.frame_heartbeat(
            {"local_time": 7, "boot_time": "yesterday", "listen_port": 23889}
        )
        self.assertEqual(seen.value, Heartbeat(local_time=7))
        self.assertEqual(rules(seen), ["time", "listen-port", "boot-time"])

    def test_frame_bad_port(self) -> None:
        """A port in quotes is stored as 0."""
        seen = wire.frame_heartbeat({"boot_time": "2026-05-01T11:00:00Z", "listen_port": "1"})
        self.assertEqual(seen.value.listen_port, 0)
        self.assertEqual(rules(seen), ["integer", "listen-port"])

    def test_frame_offset(self) -> None:
        """A boot time away from UTC reads back as nothing."""
        seen = wire.frame_heartbeat({"boot_time": "2026-05-01T19:00:00+08:00", **PORT})
        self.assertIsNone(seen.value.boot_time)
        self.assertEqual(rules(seen), ["utc", "boot-time"])

    def test_frame_empty(self) -> None:
        """Without port and boot time zeros are stored, and both are missed."""
        for payload in ({}, None, []):
            seen = wire.frame_heartbeat(payload)
            self.assertEqual(seen.value, Heartbeat())
            self.assertEqual(rules(seen)[-2:], ["listen-port", "boot-time"])

    def test_body(self) -> None:
        """The HTTP form has whole Unix seconds."""
        fields = {
            "boot_time": 1777633200,
            "xray_boot_time": 1777633200,
            "xray_pid": 5,
            "listen_port": 23889,
            "local_time": 7,
        }
        seen = wire.body_heartbeat(json.dumps(fields).encode())
        self.assertEqual(seen.value, Heartbeat(BOOT, BOOT, 23889, 7, 5))
        self.assertEqual(seen.problems, [])

    def test_body_bad_fields(self) -> None:
        """A bad field is ignored and the others are still read, unlike in the frame."""
        for bad in ("2026-05-01T11:00:00Z", 1777633200.0, True):
            body = json.dumps({"boot_time": bad, **PORT}).encode()
            seen = wire.body_heartbeat(body)
            self.assertEqual(seen.value, Heartbeat(listen_port=23889))
            self.assertEqual(rules(seen), ["integer", "boot-time"])

    def test_body_not_json(self) -> None:
        """No JSON, or no object, stores zeros over everything."""
        for body in (b"", b"hello", b"[]"):
            seen = wire.body_heartbeat(body)
            self.assertEqual(seen.value, Heartbeat())
            self.assertIn("listen-port", rules(seen))

    def test_body_impossible_time(self) -> None:
        """Seconds outside the calendar are no time, and no crash."""
        seen = wire.body_heartbeat(json.dumps({"boot_time": 2**62, **PORT}).encode())
        self.assertIsNone(seen.value.boot_time)
        self.assertEqual(rules(seen), ["time", "boot-time"])

    def test_port_range(self) -> None:
        """A port that is none is stored, and is a problem."""
        for port in (0, -1, 65536):
            body = json.dumps({"boot_time": 1777633200, "listen_port": port}).encode()
            seen = wire.body_heartbeat(body)
            self.assertEqual(seen.value.listen_port, port)
            self.assertEqual(rules(seen), ["listen-port"])


class ResultTests(SynchronousTestCase):
    """cert_update, scan_result and domain_latency_result."""

    CERTIFICATE: ClassVar[dict[str, Any]] = {"cert_id": 1, "domain": "a.example", "success": True}

    def test_certificate(self) -> None:
        """Dates in UTC are good, and so are none."""
        dates = {"issue_date": "2026-05-01T11:00:00Z", "expiry_date": None}
        self.assertEqual(wire.certificate({**self.CERTIFICATE, **dates}).problems, [])

    def test_certificate_offset(self) -> None:
        """A date away from UTC is taken, and named."""
        seen = wire.certificate({**self.CERTIFICATE, "expiry_date": "2026-05-01T11:00:00+08:00"})
        self.assertEqual(rules(seen), ["certificate-date"])

    def test_certificate_empty_date(self) -> None:
        """An empty date refuses the whole message."""
        error = self.assertRaises(
            Refused, wire.certificate, {**self.CERTIFICATE, "issue_date": ""}
        )
        self.assertEqual(error.problem.rule, "certificate-date")

    def test_certificate_types(self) -> None:
        """A wrong type refuses; a missing field is a problem."""
        self.assertRaises(Refused, wire.certificate, {**self.CERTIFICATE, "cert_id": "1"})
        for name in ("domain", "cert_path", "key_path", "cert_pem", "key_pem", "error"):
            self.assertRaises(Refused, wire.certificate, {**self.CERTIFICATE, name: 5})
        self.assertRaises(Refused, wire.certificate, {**self.CERTIFICATE, "success": 1})
        self.assertEqual(rules(wire.certificate({})), ["missing"] * 3)

    def test_scan(self) -> None:
        """The inbounds may be a list of objects, null or absent."""
        for extra in ({}, {"inbounds": None}, {"inbounds": [{}], "xray_version": "1"}):
            self.assertEqual(wire.scan({"xray_running": True, **extra}).problems, [])
        self.assertEqual(rules(wire.scan({})), ["missing"])
        for inbounds in ({}, [5]):
            self.assertRaises(Refused, wire.scan, {"inbounds": inbounds})
        for name in ("xray_running", "xray_version"):
            error = self.assertRaises(Refused, wire.scan, {name: 5})
            self.assertIn(f"{name} is a number", str(error))

    def test_latency(self) -> None:
        """A result needs its three fields; latency_ms is an integer."""
        result = {"domain": "a.example", "latency_ms": 5, "success": True}
        payload = {"request_id": "1", "success": True, "results": [result]}
        self.assertEqual(wire.latency(payload).problems, [])
        payload["results"] = [{"domain": "a.example"}]
        self.assertEqual(rules(wire.latency(payload)), ["missing"] * 2)
        wrong = {"domain": 5, "target": 5, "error": 5, "success": 1, "latency_ms": 5.0}
        for name, value in {**wrong, "nginx_ssl_port": "443"}.items():
            payload["results"] = [{**result, name: value}]
            error = self.assertRaises(Refused, wire.latency, payload)
            self.assertIn(f"results[0].{name}", str(error))
        for name, value in {"request_id": 5, "success": 1, "error": 5, "results": {}}.items():
            self.assertRaises(Refused, wire.latency, {**payload, name: value})
