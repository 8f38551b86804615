"""
Which file a name from outside means, and that it lies where it may.

A name that the master sends may be absolute or relative. It is resolved first, links included,
and only then compared, component by component, with the directories that are known.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

_LONGEST_NAME = 255  # bytes of one component, and of a whole path: limits.h
_LONGEST_PATH = 4095
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Nobody calls a file so: somebody hopes that the name is decoded once more on its way.
_STILL_ENCODED = re.compile("%(?:25)*(?:00|2e|2f|5c)", re.IGNORECASE)


def contained(path: str, directories: Sequence[Path]) -> Path:
    """
    Return the real path of the file `path`, which lies in or below one of `directories`.

    A relative `path` is looked for in each of `directories` in turn, and stands for a new file of
    the first of them where none has it. The file need not exist; the path returned holds no
    symbolic link. Blocks (it asks the file system).

    Raises ValueError, with words that begin with the path, for what leads out (by "..", by a
    symbolic link, or as it is), for the directory itself, and for names that no honest caller
    sends: empty, with NUL or other control characters, still percent-encoded, too long.
    """
    _check_name(path)
    if not directories:
        raise ValueError(f"{_shown(path)}: there is no directory to look in")
    candidates = [os.path.join(directory, path) for directory in directories]
    found = next((one for one in candidates if os.path.lexists(one)), candidates[0])
    real = Path(os.path.realpath(found))
    if not any(_below(real, directory) for directory in directories):
        known = ", ".join(str(directory) for directory in directories)
        raise ValueError(f"{_shown(path)}: not within {known}")
    if any(os.path.islink(step) for step in (real, *real.parents)):
        raise ValueError(f"{_shown(path)}: a symbolic link that leads nowhere")
    return real


def read_regular(path: Path, limit: int) -> bytes:
    """
    Return what is in the file `path`, a path that `contained` gave.

    No symbolic link is followed that has come in its place since, and neither a pipe nor a device
    is opened for longer than it takes to see that. Blocks. Raises OSError, and ValueError for
    what is no regular file or holds more than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path}: not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path}: larger than {limit} bytes")
    return data


def _check_name(path: str) -> None:
    if not path:
        raise ValueError("the path is empty")
    if _CONTROL.search(path):
        raise ValueError(f"{_shown(path)}: a path holds no NUL and no other control characters")
    if _STILL_ENCODED.search(path):
        raise ValueError(f"{_shown(path)}: a path must not be percent-encoded twice")
    parts = path.split("/")
    if ".." in parts:
        raise ValueError(f'{_shown(path)}: ".." is not allowed in a path')
    try:
        too_long = len(os.fsencode(path)) > _LONGEST_PATH or any(
            len(os.fsencode(part)) > _LONGEST_NAME for part in parts
        )
    except UnicodeError:
        raise ValueError(f"{_shown(path)}: not a name that a file can have") from None
    if too_long:
        raise ValueError(f"{_shown(path)}: the path is too long")


def _below(real: Path, directory: Path) -> bool:
    top = Path(os.path.realpath(directory))
    return real != top and real.is_relative_to(top)


def _shown(path: str) -> str:
    """Return `path` fit for a message: in quotes, escaped, and not too long."""
    return ascii(path if len(path) <= 200 else f"{path[:200]}...")
