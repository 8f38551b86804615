"""
Asks one thing over and over: `load PORT PATH CONNECTIONS SECONDS MOST`, a process of its own.

Each connection is kept and has one request under way: no pipelining. It ends after SECONDS or
MOST answers, and its last line is a JSON object: "latencies" in seconds, "seconds" and "cpu". Only
127.0.0.1 is asked. Raw sockets, so that it costs less than what it measures.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from collections.abc import Sequence

from benchmarks.scene import HOST, TOKEN, USER_AGENT

PATIENCE = 10.0  # seconds without any answer
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.I)


class NoAnswer(Exception):
    """The answer is none that counts; str() says why."""


def request(path: str) -> bytes:
    """Return a request as the master makes it."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {HOST}",
        f"User-Agent: {USER_AGENT}",
        f"Authorization: Bearer {TOKEN}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def is_whole(data: bytes) -> bool:
    """Tell whether `data` is a whole answer. Raises NoAnswer where it is not 200 with a length."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    length = _LENGTH.search(head + b"\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise NoAnswer(f"answered {head[:80]!r}")
    return len(body) >= int(length[1])


def ask(port: int, path: str, connections: int, seconds: float, most: int) -> list[float]:
    """Return the latency of each answer, in seconds."""
    wanted = request(path)
    poll = select.epoll()
    sockets = {}
    for _ in range(connections):
        one = socket.create_connection((HOST, port), timeout=PATIENCE)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[one.fileno()] = one
        poll.register(one, select.EPOLLIN)
    latencies: list[float] = []
    asked = {}
    parts = dict.fromkeys(sockets, b"")
    end = time.monotonic() + seconds
    for number, one in sockets.items():
        asked[number] = time.perf_counter()
        one.sendall(wanted)
    while len(latencies) < most and time.monotonic() < end:
        ready = poll.poll(PATIENCE)
        if not ready:
            raise NoAnswer(f"nothing came within {PATIENCE:.0f} s")
        for number, _ in ready:
            data = sockets[number].recv(1 << 20)
            if not data:
                raise NoAnswer("the connection was closed")
            parts[number] += data
            if is_whole(parts[number]):
                now = time.perf_counter()
                latencies.append(now - asked[number])
                parts[number] = b""
                asked[number] = now
                sockets[number].sendall(wanted)
    for one in sockets.values():
        one.close()
    return latencies


def main(arguments: Sequence[str]) -> None:
    """Run as a process."""
    port, path, connections, seconds, most = arguments
    begun, cpu = time.perf_counter(), time.process_time()
    try:
        latencies = ask(int(port), path, int(connections), float(seconds), int(most))
    except (NoAnswer, OSError) as problem:
        sys.exit(f"GET {path}: {problem}")
    told = {
        "latencies": latencies,
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - cpu,
    }
    print(json.dumps(told))
