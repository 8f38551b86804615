"""Copies of files from before they were changed, kept apart from where programs look for files."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from mmwagent.host.files import write_atomically

KEPT = 10
"""Copies kept of each file; the oldest go."""

_NUMBERED = re.compile(r"(.+)\.([0-9]{6,})")


@frozen
class Backups:
    """
    Keeps copies in `directory`, which is made when it is first needed, for its owner alone.

    A copy is named after its file, with a number that rises: NAME.HASH.000001, where the hash is
    that of the whole path.
    """

    directory: Path
    kept: int = KEPT

    def keep(self, path: Path, data: bytes) -> Path:
        """
        Keep `data`, the present content of the file `path`, and return where; mode 0600.

        Blocks. Raises OSError.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem = _stem(path)
        numbers = self._numbers(stem)
        copy = self._copy(stem, max(numbers, default=0) + 1)
        write_atomically(copy, data)
        for number in numbers[: max(0, len(numbers) + 1 - self.kept)]:
            with suppress(OSError):  # one too many is no reason to fail
                self._copy(stem, number).unlink()
        return copy

    def of(self, path: Path) -> list[Path]:
        """Return the copies of `path`, the oldest first. Blocks."""
        stem = _stem(path)
        return [self._copy(stem, number) for number in self._numbers(stem)]

    def _copy(self, stem: str, number: int) -> Path:
        return self.directory / f"{stem}.{number:06}"

    def _numbers(self, stem: str) -> list[int]:
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        matches = (_NUMBERED.fullmatch(name) for name in names)
        return sorted(int(match[2]) for match in matches if match and match[1] == stem)


def _stem(path: Path) -> str:
    # Names may be as long as a file system takes, and there may be one in several directories.
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return f"{path.name[:40]}.{digest}"
