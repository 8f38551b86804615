"""Where a new server token is kept, so that the next start of the agent finds it."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from attrs import define

from mmwagent.host.files import write_atomically
from mmwagent.logs import logger
from mmwagent.settings_edit import CannotEdit, with_value
from mmwagent.settings_table import OPTIONS

log = logger()

STATE_FILE = "server_token.json"
KEYS = next((row.name, *row.aliases) for row in OPTIONS if row.name == "remote_token")


@define
class TokenStore:
    """
    Keeps tokens for an agent that was configured with `configured`.

    `file` is the settings file that token came from, None where it came from the environment. It
    is changed in place. Where there is none, or it cannot be changed, the token goes into the
    state directory, with a mark of the configured one: when somebody configures another token,
    that is the later word, and the kept one is forgotten.
    """

    configured: str | None
    file: str | None
    state_directory: str

    def kept(self) -> str | None:
        """Return the token kept in the state directory for the configured one, if any."""
        try:
            kept = json.loads(self._path.read_bytes())
            replaces, token = kept["replaces"], kept["token"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as problem:
            log.warn("{path} is of no use: {problem}", path=str(self._path), problem=repr(problem))
            return None
        return token if replaces == self._mark() and token and isinstance(token, str) else None

    def save(self, token: str) -> str:
        """
        Keep `token` and return the path of the file it is in. Blocks.

        Raises OSError where neither place can be written.
        """
        if self.file is not None:
            try:
                self._edit(Path(self.file), token)
            except (OSError, UnicodeError, CannotEdit) as problem:
                log.warn(
                    "the new token cannot be written to {file} ({problem}): it is kept in {state}",
                    file=self.file,
                    problem=str(problem),
                    state=self.state_directory,
                )
            else:
                self.configured = token
                with suppress(OSError):
                    # It is forgotten in any case: what it replaced is configured no more.
                    self._path.unlink()
                return self.file
        content = json.dumps({"replaces": self._mark(), "token": token})
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path, f"{content}\n".encode("ascii"), mode=0o600)
        return str(self._path)

    def _edit(self, file: Path, token: str) -> None:
        # Read as bytes: in text mode the line ends of the file would not survive.
        text = file.read_bytes().decode("utf-8")
        write_atomically(file, with_value(text, KEYS, token).encode("utf-8"))

    @property
    def _path(self) -> Path:
        return Path(self.state_directory) / STATE_FILE

    def _mark(self) -> str:
        return sha256((self.configured or "").encode()).hexdigest()
