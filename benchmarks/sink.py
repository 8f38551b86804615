"""
A master that takes reports and does next to nothing with them: `sink PORT [CERTIFICATE KEY]`.

So that what is measured is the agent, not who listens to it. Says "traffic BYTES MONOTONIC" for
each traffic report, and answers it with a message of a type that agents leave alone. Ends with
its standard input.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

reactor: Any = global_reactor
GREETING = {"type": "auth_result", "payload": {"success": True, "message": "welcome"}}
TAKEN = {"type": "traffic_taken"}


class Sink(WebSocketServerProtocol):
    """One connection. Only the first bytes of a message are looked at."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Take a message."""
        start = payload[:40].replace(b" ", b"")
        if start.startswith(b'{"type":"auth"'):
            self._say(GREETING)
        elif start.startswith(b'{"type":"traffic"'):
            print(f"traffic {len(payload)} {time.monotonic()}", flush=True)
            self._say(TAKEN)

    def _say(self, message: object) -> None:
        send: Any = self.sendMessage  # Autobahn's, without annotations
        send(json.dumps(message).encode("ascii"))


class _Until(Protocol):
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reactor.running:
            reactor.stop()


def main(arguments: Sequence[str]) -> None:
    """Run as a process."""
    port, *tls = arguments
    factory = WebSocketServerFactory(f"ws://127.0.0.1:{port}")
    factory.protocol = Sink
    factory.setProtocolOptions(utf8validateIncoming=False, tcpNoDelay=True)
    if tls:
        certificate, key = tls
        context = DefaultOpenSSLContextFactory(key, certificate)
        reactor.listenSSL(int(port), factory, context, interface="127.0.0.1")
    else:
        reactor.listenTCP(int(port), factory, interface="127.0.0.1")
    StandardIO(_Until())
    reactor.callWhenRunning(print, "serving", flush=True)
    reactor.run()
