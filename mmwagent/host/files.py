"""The one way a file is written: whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """
    Put `data` into the file `path`, which after a crash holds all the old or all the new.

    An existing file keeps its mode and owner, and a symbolic link stays one: what it points to is
    replaced. A new file gets `mode` from its first moment on. Blocks (it waits for the disk), and
    raises OSError, leaving the old file alone and nothing beside it.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _take_after(file.fileno(), target, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    _sync_directory(target.parent)


def _take_after(descriptor: int, target: Path, mode: int) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    # The owner first: changing it takes some bits of the mode away.
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _sync_directory(directory: Path) -> None:
    # Without this a power cut could bring the old content back. Where it cannot be done (no right
    # to read the directory, a network file system) the new file is in place all the same.
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
