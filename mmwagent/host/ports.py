"""Which TCP ports of this machine are free."""

from __future__ import annotations

import socket
from collections.abc import Callable, Container

HIGHEST = 65535
_TRIED = 1000


class NoFreePort(Exception):
    """All ports that were tried are taken."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """
    Return whether a program could listen on `port` of `host` now.

    Does not block. Somebody may take the port right after.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger from before are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def first_free(
    preferred: int, taken: Container[int], free: Callable[[int], bool] = is_free
) -> int:
    """
    Return the first port from `preferred` on that is not in `taken` and is `free`.

    Raises NoFreePort after a thousand.
    """
    for port in range(preferred, min(preferred + _TRIED, HIGHEST + 1)):
        if port not in taken and free(port):
            return port
    raise NoFreePort(f"no free port from {preferred} on")
