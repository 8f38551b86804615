"""
Reading the head of a request, and where its body ends: strictly, and pure (RFC 9112).

The silent door reads them itself, for Twisted's own reading answers whatever is odd.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import define, frozen
from twisted.web.http_headers import Headers

MAX_HEAD = 16 * 1024
"""Bytes of a request line with its header lines, all line ends included."""
MAX_HEADERS = 100
MAX_CHUNK_LINE = 256

_TCHAR = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_TOKEN = re.compile(_TCHAR + rb"+")
_METHOD = rb"(?!PRI )[A-Za-z]" + _TCHAR + rb"{0,31}"
_LINE_START = re.compile(_METHOD + rb"(?: [ -~\x80-\xff]*)?\r?")
REQUEST_LINE = re.compile(
    rb"(" + _METHOD + rb") ([!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?) HTTP/1\.([01])"
)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?\r\n")
PRINTABLE = bytes(range(0x21, 0x7F))


@frozen
class RequestHead:
    """
    What a request says of itself before its body: all that decides whether it is let in.

    `target` is the raw request target, exactly as sent; it may hold spaces and bytes above 127.
    `peer` is the address at the other end (an IPv4-mapped one as IPv4), "" where there is none.
    """

    method: bytes
    target: bytes
    headers: Headers
    peer: str


class Unfit(Exception):
    """These bytes are not, and can never become, a request that we read."""


class TooLarge(Exception):
    """The body of an authorised request is over the limit."""


def head_length(unread: bytes, seen: int) -> int:
    """
    Return the length of the header block at the start of `unread`, 0 while it is not whole.

    The first `seen` bytes were looked at before. Unfit is raised as early as can be told, so that
    a TLS ClientHello, an HTTP/2 preface or plain noise need no line end to be turned away.
    """
    end = unread.find(b"\r\n\r\n", max(0, seen - 3))
    stop = len(unread) if end < 0 else end + 4
    if stop > MAX_HEAD:
        raise Unfit("the header block is too long")
    if _CONTROL.search(unread, max(0, seen - 1), stop):
        raise Unfit("a control character, or a line end that is not CR LF")
    line_end = unread.find(b"\r\n", 0, stop)
    if not (
        _LINE_START.fullmatch(unread)
        if line_end < 0
        else REQUEST_LINE.fullmatch(unread, 0, line_end)
    ):
        raise Unfit("not a request line of HTTP/1.0 or 1.1")
    return 0 if end < 0 else stop


def read_headers(lines: Sequence[bytes]) -> Headers:
    """Return the header lines as Headers; raise Unfit for any that RFC 9112 section 5 forbids."""
    if len(lines) > MAX_HEADERS:
        raise Unfit("too many headers")
    headers = Headers()
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name):
            raise Unfit("not a header line")  # so also a folded one, and a space before the colon
        headers.addRawHeader(name, value.strip(b" \t"))
    return headers


@define
class CountedBody:
    """A body of `left` more bytes, out of `size`."""

    size: int
    left: int

    def take(self, data: bytes) -> int:
        """Return how many bytes at the start of `data` belong to the body."""
        mine = min(self.left, len(data))
        self.left -= mine
        return mine

    def done(self) -> bool:
        """Whether the body has come in whole."""
        return not self.left


@define
class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1), without trailers; `size` is what it announced."""

    limit: int
    size: int = 0
    _left: int = 0
    _line: bytes = b""
    _expects: str = "size"

    def take(self, data: bytes) -> int:
        """
        Return how many bytes at the start of `data` belong to the body.

        Raise Unfit for bad chunks, and TooLarge as soon as the chunks add up to over `limit`.
        """
        at = 0
        while at < len(data) and not self.done():
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
            else:
                step = (data.find(b"\n", at, at + MAX_CHUNK_LINE) + 1 or len(data)) - at
                self._line += data[at : at + step]
                self._line_grew()
            at += step
        return at

    def done(self) -> bool:
        """Whether the body has come in whole."""
        return self._expects == "nothing"

    def _line_grew(self) -> None:
        if len(self._line) > MAX_CHUNK_LINE:
            raise Unfit("a chunk line is too long")
        if not self._line.endswith(b"\n"):
            return
        line, self._line = self._line, b""
        if self._expects == "size":
            self._start_chunk(line)
        elif line != b"\r\n":
            raise Unfit("a chunk is longer than it said, or there are trailers")
        else:
            self._expects = "size" if self._expects == "end of chunk" else "nothing"

    def _start_chunk(self, line: bytes) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise Unfit("not a chunk size")
        self._left = int(match[1], 16)
        self._expects = "end of chunk" if self._left else "end of body"
        self.size += self._left
        if self.size > self.limit:
            raise TooLarge


def choose_body(headers: Headers, version: bytes, limit: int) -> CountedBody | ChunkedBody:
    """
    Return how the body is delimited (RFC 9112 section 6.3).

    Raise Unfit where it is in doubt, as there a second request could be smuggled in, and TooLarge
    when it is announced to be over `limit`.
    """
    lengths = headers.getRawHeaders(b"content-length", [])
    codings = headers.getRawHeaders(b"transfer-encoding", [])
    if codings:
        if lengths or version == b"0" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise Unfit("a transfer encoding that is unknown, or stands beside a length")
        return ChunkedBody(limit)
    if not lengths:
        return CountedBody(0, 0)
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise Unfit("not one content length")
    size = int(lengths[0])
    if size > limit:
        raise TooLarge
    return CountedBody(size, size)
