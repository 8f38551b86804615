"""
What a Session makes of frames, good and broken, byte by byte (RFC 6455, sections 5, 7 and 8.1).

The cases that tell most of the Autobahn test suite, which benchmarks/autobahn_suite.py runs whole
where there is a Python 2.7.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterable
from typing import Any

import txaio
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink import websocket
from mmwagent.uplink.failures import LinkFailure
from mmwagent.uplink.messages import Other
from mmwagent.uplink.websocket import MAX_MESSAGE_BYTES, Dialer, Session

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
READ = 65536  # bytes that the reactor reads at once
HELLO = '{"type": "κόσμε 💡"}'.encode()
ACCEPTED = b'{"type": "auth_result", "payload": {"success": true}}'
MASK = b"\x01\x02\x03\x04"
BAD_TEXTS = {
    "a byte that never occurs": b"\xff",
    "a stray continuation byte": b"\x80",
    "a byte too few": b"\xce\xba\xe1\xbd",
    "a surrogate": b"\xed\xa0\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xf0\x80\x80\x80",
}


def header(
    opcode: int, length: int, fin: bool = True, reserved: int = 0, mask: bytes = b""
) -> bytes:
    """Return the header of a frame, whose length takes the fewest bytes."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    masked = 0x80 if mask else 0
    if length < 126:
        return bytes([first, masked | length]) + mask
    if length < 2**16:
        return struct.pack("!BBH", first, masked | 126, length) + mask
    return struct.pack("!BBQ", first, masked | 127, length) + mask


def frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """Return a whole frame of the server's."""
    return header(opcode, len(payload), fin) + payload


def fragments(payloads: Iterable[bytes], opcode: int = TEXT) -> list[bytes]:
    """Return the frames of a message, one for each of `payloads`."""
    parts = list(payloads)
    last = len(parts) - 1
    return [
        frame(CONTINUATION if number else opcode, part, fin=number == last)
        for number, part in enumerate(parts)
    ]


def goodbye(code: int, reason: bytes = b"") -> bytes:
    """Return a close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def unmasked(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of the client's frames in `data`, all whole and masked."""
    found = []
    while data:
        opcode, length = data[0] & 0x0F, data[1] & 0x7F
        assert data[0] & 0xF0 == 0x80 and data[1] & 0x80, "not final, or not masked"
        start = 2
        if length == 126:
            (length,) = struct.unpack_from("!H", data, 2)
            start = 4
        mask, end = data[start : start + 4], start + 4 + length
        assert end <= len(data), "a frame that is not whole"
        payload = data[start + 4 : end]
        found.append((opcode, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))))
        data = data[end:]
    return found


class RawMaster(Protocol):
    """Accepts the upgrade by hand, and keeps the bytes that come after it."""

    log = None

    def __init__(self, glued: bytes | None) -> None:
        self.glued = glued
        self.upgrade = b""
        self.got = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer the upgrade, and note the rest."""
        if b"\r\n\r\n" in self.upgrade:
            self.got += data
            return
        self.upgrade += data
        if b"\r\n\r\n" in self.upgrade and self.glued is not None:
            self.transport.write(self.answer() + self.glued)

    def answer(self) -> bytes:
        """Return the answer to the upgrade (RFC 6455, section 4.2.2)."""
        key = self.upgrade.lower().index(b"sec-websocket-key:")
        value = self.upgrade[key:].split(b"\r\n")[0].split(b":", 1)[1].strip()
        digest = hashlib.sha1(value + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )


@define
class Wire:
    """
    An endpoint that leads to a RawMaster, and the Session dialled over it.

    The master answers the upgrade with what is `glued` to the answer, or, where that is None, not
    by itself.
    """

    glued: bytes | None = frame(TEXT, ACCEPTED)
    clock: Clock = field(factory=Clock)
    received: list[Any] = field(factory=list)
    master: RawMaster = field(init=False)
    client: Any = None
    pump: iosim.IOPump = field(init=False)
    dialled: Deferred[Session] = field(init=False)

    def __attrs_post_init__(self) -> None:
        dialer = Dialer(self.clock, "ws://master.test/ws", "test", lambda: self)
        self.master = RawMaster(self.glued)
        self.dialled = dialer.dial("t0k", self.received.append)
        self.pump.flush()

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect in memory."""
        self.client = factory.buildProtocol(None)
        self.pump = iosim.connect(
            self.master,
            iosim.makeFakeServer(self.master),
            self.client,
            iosim.makeFakeClient(self.client),
            greet=True,
        )
        return succeed(self.client)

    def say(self, *pieces: bytes) -> None:
        """Send `pieces`, each of which arrives by itself, as much at once as a reactor reads."""
        for piece in pieces:
            for start in range(0, len(piece), READ):
                self.master.transport.write(piece[start : start + READ])
                self.pump.flush()

    def heard(self) -> list[tuple[int, bytes]]:
        """Return what the client sent since the last call."""
        self.pump.flush()
        sent, self.master.got = self.master.got, b""
        return unmasked(sent)

    @property
    def is_cut(self) -> bool:
        """Whether the client has cut the connection."""
        return bool(self.client.transport.disconnected)


class Timers(Clock):
    """A clock that remembers which calls were asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []

    def callLater(self, *when_and_what: Any, **options: Any) -> Any:
        """Note the call, and schedule it."""
        self.made.append(when_and_what)
        return super().callLater(*when_and_what, **options)


class Case(SynchronousTestCase):
    """A live session on a wire, and a watch on what is logged."""

    def setUp(self) -> None:
        """Watch what Autobahn logs, which nobody hears otherwise, and the timers it makes."""
        self.autobahns: list[Any] = []
        heard = Logger(observer=self.autobahns.append)
        self.patch(websocket._Protocol, "log", heard)
        self.patch(websocket._Factory, "log", heard)
        self.autobahns_timers = Timers()
        self.patch(txaio.config, "loop", self.autobahns_timers)

    def live(self) -> tuple[Wire, Session]:
        """Return a wire, and the session on it once it is authenticated."""
        wire = Wire()
        session: Session = self.successResultOf(wire.dialled)
        self.assertEqual(json.loads(wire.heard()[0][1])["type"], "auth")
        return wire, session

    def assert_refused(self, *pieces: bytes, why: str) -> Wire:
        """Check that a session ends by the last of `pieces`, and by nothing before it."""
        wire, session = self.live()
        with capturedLogs() as ours:
            wire.say(*pieces[:-1])
            self.assertNoResult(session.closed)
            self.assertFalse(wire.is_cut)
            wire.say(pieces[-1])
        self.assertIn(why, self.successResultOf(session.closed).reason)
        self.assertEqual(wire.heard(), [])
        self.assertEqual(wire.received, [])
        self.assert_over(wire, session)
        self.assert_no_exception(ours)
        return wire

    def assert_lives(self, wire: Wire, session: Session) -> None:
        """Check that a session takes messages and pings, and ends well when it is told to."""
        wire.received.clear()
        wire.heard()
        with capturedLogs() as ours:
            wire.say(frame(TEXT, b'{"type": "still there?"}') + frame(PING, b"?"))
            self.assertEqual(wire.received, [Other("still there?")])
            self.assertEqual(wire.heard(), [(PONG, b"?")])
            session.close()
            self.assertEqual(wire.heard(), [(CLOSE, struct.pack("!H", 1000))])
            wire.say(goodbye(1000))
            wire.master.transport.loseConnection()
            wire.pump.flush()
        self.assertEqual(self.successResultOf(session.closed).reason, "closed by this agent")
        self.assert_over(wire, session)
        self.assert_no_exception(ours)

    def assert_over(self, wire: Wire, session: Session) -> None:
        """Check that nothing of a session is left."""
        self.assertFalse(session.live)
        self.assertTrue(wire.is_cut)
        self.assertEqual(wire.clock.getDelayedCalls(), [])
        self.assertEqual(self.autobahns_timers.made, [])

    def assert_no_exception(self, ours: Iterable[Any]) -> None:
        """Check that neither we nor Autobahn logged one, nor anything as an error."""
        heard = [*ours, *self.autobahns]
        self.autobahns.clear()
        wrong = [
            formatEvent(event)
            for event in heard
            if "log_failure" in event or event["log_level"].name in ("error", "critical")
        ]
        self.assertEqual(wrong, [])


class HeaderTests(Case):
    """What a frame's header must not say. It is enough to have read the header (section 5.2)."""

    def test_reserved_bits(self) -> None:
        """With no extension agreed on, each reserved bit ends the session, in any frame."""
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG):
            for bits in range(1, 8):
                with self.subTest(opcode=opcode, bits=bits):
                    self.assert_refused(header(opcode, 5, reserved=bits), why=f"RSV = {bits}")

    def test_reserved_opcodes(self) -> None:
        """An opcode without a meaning ends the session, also between good frames."""
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            with self.subTest(opcode=opcode):
                why = f"reserved opcode {opcode}"
                self.assert_refused(header(opcode, 0), why=why)
                self.assert_refused(frame(PONG), header(opcode, 9) + frame(TEXT, HELLO), why=why)

    def test_fragmented_control_frames(self) -> None:
        """A control frame in fragments ends the session (section 5.5)."""
        for opcode in (CLOSE, PING, PONG):
            with self.subTest(opcode=opcode):
                bad = header(opcode, 2, fin=False)
                self.assert_refused(bad, why="fragmented control frame")

    def test_long_control_frames(self) -> None:
        """A control frame over 125 bytes ends the session before its payload (section 5.5)."""
        for opcode in (CLOSE, PING, PONG):
            for length in (126, 65536):
                with self.subTest(opcode=opcode, length=length):
                    self.assert_refused(header(opcode, length), why="> 125")

    def test_masked(self) -> None:
        """A server's frame that is masked ends the session (section 5.1)."""
        for opcode in (TEXT, PING, CLOSE):
            with self.subTest(opcode=opcode):
                bad = header(opcode, 0, mask=MASK)
                self.assert_refused(bad, why="masked server-to-client frame")

    def test_lengths_written_long(self) -> None:
        """A length in more bytes than it takes, or with its highest bit set, ends the session."""
        for bad, why in (
            (struct.pack("!BBH", 0x81, 126, 125), "minimal"),
            (struct.pack("!BBQ", 0x81, 127, 65535), "minimal"),
            (struct.pack("!BBQ", 0x81, 127, 2**63), "length"),
        ):
            with self.subTest(bad=bad):
                self.assert_refused(bad, why=why)

    def test_before_the_answer(self) -> None:
        """A broken frame in place of the auth_result fails the dial at once."""
        wire = Wire(header(TEXT, 5, reserved=4))
        self.assertIn("RSV = 4", self.failureResultOf(wire.dialled, LinkFailure).value.reason)
        self.assertTrue(wire.is_cut)
        self.assertEqual(wire.clock.getDelayedCalls(), [])


class FragmentTests(Case):
    """Messages in fragments (section 5.4)."""

    def test_nothing_to_continue(self) -> None:
        """A continuation without a beginning ends the session, also after a whole message."""
        for fin in (True, False):
            with self.subTest(fin=fin):
                bad = header(CONTINUATION, 2, fin)
                self.assert_refused(bad, why="outside fragmented message")
                whole = frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"[]")
                self.assert_refused(whole, bad, why="outside fragmented message")

    def test_another_message_within(self) -> None:
        """A message that begins before the last one is complete ends the session."""
        for opcode in (TEXT, BINARY):
            with self.subTest(opcode=opcode):
                started = frame(TEXT, b"{", fin=False)
                bad = header(opcode, 1)
                self.assert_refused(started, bad, why="while inside fragmented message")

    def test_pings_within(self) -> None:
        """Pings between the fragments are answered at once, in order, and the message is whole."""
        wire, session = self.live()
        parts = fragments([HELLO[:5], HELLO[5:9], HELLO[9:]])
        for number, part in enumerate(parts):
            self.assertEqual(wire.received, [])
            wire.say(part[:-1], part[-1:], frame(PING, b"%d" % number))
            self.assertEqual(wire.heard(), [(PONG, b"%d" % number)])
        self.assertEqual(wire.received, [Other("κόσμε 💡")])
        self.assert_lives(wire, session)

    def test_empty_fragments(self) -> None:
        """A hundred thousand empty fragments are borne, and the message around them is whole."""
        wire, session = self.live()
        empty = frame(CONTINUATION, fin=False) * 100_000
        wire.say(frame(TEXT, HELLO[:3], fin=False), empty)
        self.assertEqual(wire.received, [])
        wire.say(frame(PING, b"p"), frame(CONTINUATION, HELLO[3:]))
        self.assertEqual(wire.received, [Other("κόσμε 💡")])
        self.assertEqual(wire.heard(), [(PONG, b"p")])
        self.assert_lives(wire, session)

    def test_split_at_every_byte(self) -> None:
        """Wherever the bytes are split, from the upgrade's answer on, the same comes of them."""
        frames = [frame(TEXT, ACCEPTED), *fragments([HELLO[:11], HELLO[11:]]), frame(PING, b"ab")]
        frames += [frame(BINARY, HELLO + b" " * 200), frame(PONG), frame(PING)]
        for at in range(len(self.answered()) + len(b"".join(frames))):
            self.check_pieces(b"".join(frames), lambda data, at=at: [data[:at], data[at:]])
        self.check_pieces(
            b"".join(frames), lambda data: [data[n : n + 1] for n in range(len(data))]
        )
        self.check_pieces(b"".join(frames), lambda data: [data])

    def answered(self) -> bytes:
        """Return an answer to an upgrade, of which all are of one length."""
        return Wire(None).master.answer()

    def check_pieces(self, data: bytes, split: Any) -> None:
        """Check what comes of the upgrade's answer and `data`, which arrive as `split` says."""
        wire = Wire(None)
        wire.say(*split(wire.master.answer() + data))
        session = self.successResultOf(wire.dialled)
        self.assertEqual(wire.received, [Other("κόσμε 💡")] * 2)
        (auth, _), *rest = wire.heard()
        self.assertEqual(auth, TEXT)
        self.assertEqual(rest, [(PONG, b"ab"), (PONG, b"")])
        self.assert_lives(wire, session)


class SizeTests(Case):
    """Messages that are too big, of which no more is read than the header (section 10.4)."""

    def test_announced(self) -> None:
        """A frame over the limit ends the session by its header, whatever its kind."""
        for opcode in (TEXT, BINARY):
            for size in (MAX_MESSAGE_BYTES + 1, 16 * 2**20, 2**62):
                with self.subTest(opcode=opcode, size=size):
                    why = f"size {size} exceeds"
                    self.assert_refused(
                        header(opcode, size)[:-1], header(opcode, size)[-1:], why=why
                    )

    def test_announced_in_fragments(self) -> None:
        """A fragment that takes the message over the limit ends the session by its header."""
        half = frame(BINARY, bytes(MAX_MESSAGE_BYTES // 2), fin=False)
        rest = frame(CONTINUATION, bytes(MAX_MESSAGE_BYTES // 2), fin=False)
        over = header(CONTINUATION, 1)
        self.assert_refused(half, rest, over, why=f"size {MAX_MESSAGE_BYTES + 1} exceeds")

    def test_as_big_as_may_be(self) -> None:
        """A message of the limit, to the byte, is taken, in one frame and in several."""
        text = b'{"type": "big", "payload": "'
        text += b"x" * (MAX_MESSAGE_BYTES - len(text) - 2) + b'"}'
        third = len(text) // 3
        wire, session = self.live()
        wire.say(frame(TEXT, text))
        wire.say(*fragments([text[:third], text[third : 2 * third], text[2 * third :]]))
        self.assertEqual(wire.received, [Other("big")] * 2)
        self.assert_lives(wire, session)


class TextTests(Case):
    """Texts, which are UTF-8 (section 8.1)."""

    def test_invalid_at_once(self) -> None:
        """Invalid UTF-8 ends the session, at the beginning of a text and at its end."""
        for name, bad in BAD_TEXTS.items():
            with self.subTest(name):
                self.assert_refused(frame(TEXT, bad), why="UTF-8")
                self.assert_refused(frame(TEXT, HELLO + bad), why="UTF-8")

    def test_invalid_over_frames(self) -> None:
        """Invalid UTF-8 over fragments, a byte each, ends the session as well."""
        for name, bad in BAD_TEXTS.items():
            with self.subTest(name):
                parts = fragments(bytes([byte]) for byte in HELLO + bad)
                self.assert_refused(b"".join(parts), why="UTF-8")

    def test_invalid_before_the_end(self) -> None:
        """It ends at the byte that is wrong: neither the frame nor the message is waited for."""
        start = header(TEXT, 1000) + HELLO
        self.assert_refused(start, b"\xe1\xbd", b"a", why="UTF-8")
        unfinished = frame(TEXT, HELLO + b"\xf4", fin=False)
        self.assert_refused(unfinished, header(CONTINUATION, 9), b"\x90", why="UTF-8")

    def test_valid_over_frames(self) -> None:
        """A character may be split over frames, with empty ones in it, and pings."""
        wire, session = self.live()
        for at in range(len(HELLO) + 1):
            before, none, after = fragments([HELLO[:at], b"", HELLO[at:]])
            wire.say(before + frame(PING) + none + after)
        self.assertEqual(wire.received, [Other("κόσμε 💡")] * (len(HELLO) + 1))
        self.assert_lives(wire, session)

    def test_binary_need_not_be(self) -> None:
        """Binary that is no UTF-8 is no message, which is said, and the session lives on."""
        wire, session = self.live()
        with capturedLogs() as logged:
            wire.say(frame(BINARY, b"\xff\xfe"), *fragments([b"\xff", b"\x80"], BINARY))
        self.assertEqual([event["log_level"].name for event in logged], ["warn", "warn"])
        self.assertEqual(wire.received, [])
        self.assert_lives(wire, session)

    @settings(max_examples=60, deadline=None)
    @given(
        pieces=st.lists(
            st.one_of(st.binary(max_size=4), st.text(max_size=4).map(str.encode)), max_size=6
        ).filter(len)
    )
    def test_as_python_sees_it(self, pieces: list[bytes]) -> None:
        """Any bytes, however split, end the session if and only if Python cannot decode them."""
        wire, session = self.live()
        wire.say(b"".join(fragments(pieces)))
        try:
            b"".join(pieces).decode("utf-8")
        except UnicodeDecodeError:
            self.assertIn("UTF-8", self.successResultOf(session.closed).reason)
            self.assert_over(wire, session)
        else:
            self.assert_lives(wire, session)


class PingTests(Case):
    """Pings and pongs of the master's (sections 5.5.2 and 5.5.3)."""

    def test_answered(self) -> None:
        """Each ping has its pong, with the same bytes, up to 125 of any kind, and in order."""
        wire, session = self.live()
        payloads = [b"", b"p", bytes(range(130, 255)), b"\xff" * 125]
        wire.say(b"".join(frame(PING, payload) for payload in payloads))
        self.assertEqual(wire.heard(), [(PONG, payload) for payload in payloads])
        self.assert_lives(wire, session)

    def test_pongs_nobody_asked_for(self) -> None:
        """They are not answered, and do no harm."""
        wire, session = self.live()
        wire.say(frame(PONG), frame(PONG, b"unasked"), frame(PONG, b"\xff" * 125))
        self.assertEqual(wire.heard(), [])
        self.assertEqual(len(wire.clock.getDelayedCalls()), 1)
        self.assert_lives(wire, session)


class GoodbyeTests(Case):
    """Close frames of the master's (sections 5.5.1 and 7.4)."""

    def assert_answered(self, farewell: bytes, *said: str) -> None:
        """Check that a close frame is answered by one, and the master's cut is awaited."""
        wire, session = self.live()
        with capturedLogs() as ours:
            wire.say(farewell)
            self.assertEqual(wire.heard(), [(CLOSE, struct.pack("!H", 1000))])
            self.assertNoResult(session.closed)
            self.assertFalse(wire.is_cut)
            self.assertFalse(session.live)
            wire.master.transport.loseConnection()
            wire.pump.flush()
        reason = self.successResultOf(session.closed).reason
        for words in said:
            self.assertIn(words, reason)
        self.assert_over(wire, session)
        self.assert_no_exception(ours)

    def test_valid_codes(self) -> None:
        """Each code a master may send is answered, and told in the reason."""
        codes = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013)
        for code in (*codes, 3000, 3999, 4000, 4999):
            with self.subTest(code=code):
                self.assert_answered(goodbye(code), str(code))
                self.assert_answered(goodbye(code, "später".encode()), str(code), "später")

    def test_no_code(self) -> None:
        """A close frame without a code is as good as one with."""
        self.assert_answered(frame(CLOSE), "closed the WebSocket")

    def test_longest_reason(self) -> None:
        """A reason of 123 bytes is taken whole."""
        self.assert_answered(goodbye(1000, b"r" * 123), "1000", "r" * 123)

    def test_invalid_codes(self) -> None:
        """A code that must not be sent ends the session without an answer."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
            with self.subTest(code=code):
                self.assert_refused(goodbye(code), why=f"invalid close code {code}")

    def test_half_a_code(self) -> None:
        """A code of one byte ends the session."""
        self.assert_refused(frame(CLOSE, b"\x03"), why="payload len 1")

    def test_invalid_reason(self) -> None:
        """A reason that is no UTF-8 ends the session, also where only its end is missing."""
        for name, bad in BAD_TEXTS.items():
            with self.subTest(name):
                self.assert_refused(goodbye(1000, b"why" + bad), why="close reason")

    def test_nothing_after_it(self) -> None:
        """What comes after the goodbye is not heard: no message, no ping, no second goodbye."""
        wire, session = self.live()
        wire.say(
            frame(TEXT, HELLO[:4], fin=False) + goodbye(1000) + frame(CONTINUATION, HELLO[4:])
        )
        wire.say(frame(PING, b"late"), frame(TEXT, HELLO), goodbye(1001))
        self.assertEqual(wire.heard(), [(CLOSE, struct.pack("!H", 1000))])
        self.assertEqual(wire.received, [])
        wire.clock.advance(1)
        wire.pump.flush()
        self.successResultOf(session.closed)
        self.assert_over(wire, session)

    def test_in_the_midst_of_a_message(self) -> None:
        """A goodbye between two fragments is answered at once, and the message is let go."""
        self.assert_answered(frame(TEXT, HELLO[:4], fin=False) + goodbye(1001), "1001")
