"""
A real Xray to try the agent with: its configuration, and traffic through it.

Everything here blocks: it is for threads, and for programs of their own.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PASSWORD = "demo"
PIECE = b"x" * 65536


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def configuration(socks: int, metrics: int, user: str) -> dict[str, Any]:
    """Return an Xray with one SOCKS inbound for `user`, an e-mail, and all counters on."""
    both = ("Uplink", "Downlink")
    return {
        "log": {"loglevel": "warning"},
        "stats": {},
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "policy": {
            "levels": {"0": {f"statsUser{way}": True for way in both}},
            "system": {
                f"stats{kind}{way}": True for kind in ("Inbound", "Outbound") for way in both
            },
        },
        "inbounds": [
            {
                "tag": "socks-in",
                "listen": "127.0.0.1",
                "port": socks,
                "protocol": "socks",
                "settings": {"auth": "password", "accounts": [{"user": user, "pass": PASSWORD}]},
            }
        ],
        "outbounds": [{"tag": "direct", "protocol": "freedom"}],
    }


@contextmanager
def serving() -> Iterator[int]:
    """Serve content to fetch meanwhile, on the port that is given."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Content)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Content(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Serve as many bytes as the path says."""
        left = int(self.path.strip("/"))
        self.send_response(200)
        self.end_headers()
        while left > 0:
            left -= self.wfile.write(PIECE[:left])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def fetch(socks: int, content: int, user: str, size: int) -> int:
    """
    Fetch `size` bytes from the port `content` through the SOCKS inbound, by RFC 1928 and 1929.

    Returns the bytes that came of the answer, headers included. Raises OSError.
    """
    with socket.create_connection(("127.0.0.1", socks), timeout=10) as sock:
        _say(sock, b"\5\1\2", 2)
        _say(sock, b"\1" + _counted(user) + _counted(PASSWORD), 2)
        _say(sock, b"\5\1\0\1\x7f\0\0\1" + content.to_bytes(2, "big"), 10)
        sock.sendall(f"GET /{size} HTTP/1.0\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += _some(sock, 65536)
        came = len(head)
        size += head.index(b"\r\n\r\n") + 4
        # Not to the end of the connection, which Xray keeps open for a while.
        while came < size:
            came += len(_some(sock, 65536))
        return came


def _counted(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _say(sock: socket.socket, data: bytes, answer: int) -> None:
    sock.sendall(data)
    while answer > 0:
        answer -= len(_some(sock, answer))


def _some(sock: socket.socket, most: int) -> bytes:
    data = sock.recv(most)
    if not data:
        raise ConnectionError("Xray closed the connection")
    return data
