"""The messages of the wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.messages import (
    Auth,
    AuthResult,
    MalformedMessage,
    Other,
    ScanResult,
    SpeedReport,
    decode,
    encode,
    rfc3339,
    to_json,
)
from tests.uplink.helpers import HEARTBEAT, STATS, TRAFFIC


def sent(message: Any) -> Any:
    """Return what arrives of `message`."""
    return json.loads(encode(message))


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

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_any_payload(self, payload: object) -> None:
        """No payload of auth_result gives another exception than MalformedMessage."""
        try:
            decode(json.dumps({"type": "auth_result", "payload": payload}).encode())
        except MalformedMessage:
            pass
