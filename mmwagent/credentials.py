"""
The secrets in force, and the only place where a token is compared with another.

Two scopes: the server token opens everything; the child API token opens the two pull endpoints
(README, child_api_token), and everything where it is the only token there is.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from enum import Enum
from hashlib import sha256
from pathlib import Path

from attrs import define, field

from mmwagent.host.files import write_atomically

TOKEN_FILE = "child_api_token"
GRACE = 60.0  # seconds


class Scope(Enum):
    """What a request is for."""

    PULL = "the two read-only endpoints of pull mode"
    MANAGE = "everything else"


@define
class Credentials:
    """
    The tokens in force now. Absent ones are None, never empty.

    `seconds` is a monotonic clock; by it the previous server token is let in for a while after a
    rotation, for what the master had sent before.
    """

    server_token: str | None = field(default=None, repr=False)
    child_api_token: str | None = field(default=None, repr=False)
    seconds: Callable[[], float] = field(default=time.monotonic, repr=False)
    _previous: str | None = field(default=None, init=False, repr=False)
    _previous_until: float = field(default=0.0, init=False)

    def any(self) -> bool:
        """Tell whether anybody could be let in at all."""
        return bool(self.server_token or self.child_api_token)

    def rotate(self, token: str) -> bool:
        """Put `token` in force as the server token; False where it is in force already."""
        if token == self.server_token:
            return False
        self._previous, self.server_token = self.server_token, token
        self._previous_until = self.seconds() + GRACE
        return True

    def accepts(self, offered: bytes, scope: Scope) -> bool:
        """
        Tell whether `offered` is a token that opens `scope`.

        The time taken depends neither on the tokens nor on which of them fits: digests of one
        length are compared, and all of them.
        """
        digest = sha256(offered).digest()
        fits = False
        for token in self._that_open(scope):
            fits |= hmac.compare_digest(digest, sha256(token.encode()).digest())
        return fits

    def _that_open(self, scope: Scope) -> list[str]:
        tokens = [self.server_token]
        if self.seconds() < self._previous_until:
            tokens.append(self._previous)
        if scope is Scope.PULL or not self.server_token:
            tokens.append(self.child_api_token)
        return [token for token in tokens if token]


def kept_child_api_token(state_directory: str) -> tuple[str, bool]:
    """
    Return the generated child API token kept in `state_directory`, making one if there is none.

    The second value tells whether it was made just now. The file is readable by its owner alone
    from its first moment. Raises OSError where the directory cannot be written.
    """
    path = Path(state_directory) / TOKEN_FILE
    try:
        kept = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        kept = ""
    if kept:
        return kept, False
    token = secrets.token_urlsafe(32)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a damaged file would hand its mode on
    write_atomically(path, f"{token}\n".encode("ascii"), mode=0o600)
    return token, True
