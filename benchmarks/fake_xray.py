"""
The metrics of an Xray with many users, in a process of its own: `fake_xray PORT USERS`.

Says "asked MONOTONIC" for each request. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

from benchmarks.bodies import variables

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Answering(asyncio.Protocol):
    """Answers each request with the same body, in chunks, on a connection that is kept."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is a whole request now; none has a body."""
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            print(f"asked {time.monotonic()}", flush=True)
            _, _, self._asked = self._asked.partition(b"\r\n\r\n")
            self._transport.write(self._answer)


def answer(users: int) -> bytes:
    """Return the whole answer to a request."""
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in variables(users)]
    return HEAD + b"".join(chunks) + b"0\r\n\r\n"


async def serve(port: int, users: int) -> None:
    """Serve until standard input ends."""
    whole = answer(users)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Answering(whole), "127.0.0.1", port)
    print(f"serving {len(whole)} bytes", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main(arguments: Sequence[str]) -> None:
    """Run as a process."""
    port, users = map(int, arguments)
    asyncio.run(serve(port, users))
