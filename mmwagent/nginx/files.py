"""
Several files that change together, or not at all. Everything here blocks.

What was there is kept twice: as a backup where no include of nginx can match it, and until the
change is settled under a hidden name beside the file. From there it comes back with a rename,
which works on a full disk too and gives back the very same file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from mmwagent.host.backups import Backups
from mmwagent.host.files import write_atomically
from mmwagent.host.paths import read_regular

_MODE = 0o644  # of a new file
_KEY_MODE = 0o600
_LARGEST = 64 * 1024 * 1024  # bytes of a file that is there, whatever made it so large
_DIRECTORY_MODE = 0o755

Write = Callable[..., None]


class NotWritten(Exception):
    """The file system did not take a change; str() says which and why. Nothing was changed."""


@define
class FileChange:
    """
    A change of files: their new contents by path, None for one that is to be removed.

    `make` does it, then exactly one of `settle` and `put_back` ends it.
    """

    contents: Mapping[Path, bytes | None]
    write: Write = write_atomically
    _olds: dict[Path, bytes | None] = field(factory=dict, init=False)
    _made: list[Path] = field(factory=list, init=False)
    _directories: list[Path] = field(factory=list, init=False)

    def differs(self) -> bool:
        """Return whether it changes anything; reads what there is. Raises NotWritten."""
        for path, new in self.contents.items():
            old = self._old(path)
            if old != new:
                self._olds[path] = old
        return bool(self._olds)

    def back_up(self, backups: Backups) -> list[Path]:
        """Keep a copy of each file that is to change; return the copies. Raises NotWritten."""
        copies = []
        for path, old in self._olds.items():
            if old is not None:
                with _said(f"no backup of {path} can be kept"):
                    copies.append(backups.keep(path, old))
        return copies

    def make(self) -> None:
        """Change the files. Raises NotWritten, with everything as it was."""
        for path in self._olds:
            try:
                with _said(f"{path} cannot be written"):
                    self._change(path)
            except NotWritten:
                self.put_back()
                raise

    def settle(self) -> None:
        """Make it last."""
        for path in self._made:
            with suppress(FileNotFoundError):
                os.unlink(_aside(path))

    def put_back(self) -> None:
        """Bring back what was there, as far as it goes. Raises NotWritten if something stays."""
        problems = []
        for path in reversed(self._made):
            try:
                self._restore(path)
            except OSError as problem:
                problems.append(f"{path} could not be put back: {problem.strerror}")
        for directory in reversed(self._directories):
            with suppress(OSError):
                directory.rmdir()
        self._made, self._directories = [], []
        if problems:
            raise NotWritten("; ".join(problems))

    def _old(self, path: Path) -> bytes | None:
        with _said(f"{path} cannot be read"):
            try:
                return read_regular(path, _LARGEST)
            except FileNotFoundError:
                return None

    def _change(self, path: Path) -> None:
        new = self.contents[path]
        self._make_directory(path.parent)
        if self._olds[path] is not None:
            _set_aside(path)
        # From here on it has to be put back, even if the write failed half way.
        self._made.append(path)
        if new is None:
            path.unlink()
        else:
            self.write(path, new, mode=_mode(path))

    def _make_directory(self, directory: Path) -> None:
        missing = [one for one in (directory, *directory.parents) if not one.exists()]
        for one in reversed(missing):
            one.mkdir(mode=_DIRECTORY_MODE)
            self._directories.append(one)

    def _restore(self, path: Path) -> None:
        old = self._olds[path]
        if old is None:
            path.unlink(missing_ok=True)
        elif _aside(path).exists():
            # Two links to one file: then nothing has been replaced, and rename(2) does nothing.
            os.replace(_aside(path), path)
            with suppress(FileNotFoundError):
                os.unlink(_aside(path))
        else:
            self.write(path, old, mode=_mode(path))


def _mode(path: Path) -> int:
    return _KEY_MODE if path.suffix == ".key" else _MODE


def _aside(path: Path) -> Path:
    """Return the name that a file has meanwhile: hidden, so that no `*` of nginx matches it."""
    return path.with_name(f".{path.name[:200]}.mmw-kept")


def _set_aside(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_aside(path))  # from an agent that was killed
    with suppress(OSError):  # a file system without links: then it is written again
        os.link(path, _aside(path))


class _said:
    """Turns OSError and ValueError into NotWritten that begins with `what`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        if isinstance(problem, OSError):
            raise NotWritten(f"{self._what}: {problem.strerror or problem}") from problem
        if isinstance(problem, ValueError):
            raise NotWritten(f"{self._what}: {problem}") from problem


def names(paths: Iterable[Path]) -> str:
    """Return `paths` as a message names them."""
    return ", ".join(str(path) for path in paths)
