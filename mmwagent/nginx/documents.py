"""
nginx's configuration as it stands on the disk: the main file and all that it includes.

Relative includes are relative to the directory of the main file, wherever they stand. All of it
blocks, for it reads files.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from attrs import field, frozen

from mmwagent.host.paths import read_regular
from mmwagent.nginx.grammar import MOST_NESTED, Directive, GrammarError, parse

LARGEST_FILE = 1024 * 1024
"""Bytes of one configuration file."""

MOST_FILES = 10_000
"""Files of one configuration, each counted as often as it is included."""

_ANY = ("*", "?", "[")

Context = tuple[str, ...]
"""Names of the blocks around a directive, the outermost first: () is the main level."""


@frozen
class Found:
    """A directive, the file that it stands in, and the blocks around it."""

    file: Path
    context: Context
    directive: Directive


@frozen
class Include:
    """An `include` directive with the absolute pattern that it stands for."""

    file: Path
    context: Context
    pattern: Path

    def takes(self, path: Path) -> bool:
        """Return whether the file `path` would be included, whether it exists or not."""
        names = zip(_settled(self.pattern).parts, _settled(path).parts, strict=False)
        return len(_settled(self.pattern).parts) == len(_settled(path).parts) and all(
            _matches(name, pattern) for pattern, name in names
        )

    @property
    def takes_many(self) -> bool:
        """Whether it is a pattern for the files of one directory."""
        return _wild(self.pattern.name) and not _wild(str(self.pattern.parent))


def read_text(path: Path) -> str:
    """
    Return the text of the configuration file `path`, bytes that are no UTF-8 as lone surrogates.

    Raises OSError, and ValueError for what is no regular file or too large.
    """
    data = read_regular(Path(os.path.realpath(path)), LARGEST_FILE)
    return data.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    """Return what `read_text` has read."""
    return text.encode("utf-8", "surrogateescape")


@frozen
class Documents:
    """
    The configuration that begins with the file `main`.

    `planned` holds texts, by real path, that are to take the place of files or to become some. A
    file that cannot be read or understood counts as empty here: nginx has the last word on it.
    """

    main: Path
    planned: Mapping[Path, str] = field(factory=dict)
    _read: Callable[[Path], str] = read_text

    def text(self, path: Path) -> str:
        """Return the text of `path`, as it will be. Raises OSError or ValueError."""
        planned = self.planned.get(Path(os.path.realpath(path)))
        return self._read(path) if planned is None else planned

    def directives(self) -> Iterator[Found]:
        """Give every directive, from the outside in, each include followed where it stands."""
        return _Walk(self).file(self.main, (), frozenset())

    def includes(self, *context: str) -> Iterator[Include]:
        """Give the includes that stand right in the blocks `context`."""
        for found in self.directives():
            if found.context == context and _is_include(found.directive):
                yield Include(found.file, context, self.full(found.directive.words[0]))

    def files(self) -> list[Path]:
        """Return the files that it is made of, the main one first, each once."""
        return list(dict.fromkeys([self.main, *(found.file for found in self.directives())]))

    def full(self, name: str) -> Path:
        """Return the absolute path of a file name that stands in the configuration."""
        return Path(os.path.normpath(os.path.join(self.main.parent, name)))

    def matching(self, pattern: Path) -> list[Path]:
        """Return the files that an include pattern gives, as nginx sorts them."""
        if not _wild(str(pattern)):
            return [pattern]
        real = (Path(name) for name in glob.iglob(str(pattern)))
        planned = (path for path in self.planned if Include(path, (), pattern).takes(path))
        return sorted({*real, *planned})


class _Walk:
    """One way through all the files, that ends whatever they include."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._read: dict[Path, tuple[Directive, ...]] = {}
        self._left = MOST_FILES

    def file(self, path: Path, context: Context, around: frozenset[Path]) -> Iterator[Found]:
        self._left -= 1
        if self._left < 0 or path in around or len(around) >= MOST_NESTED:
            return
        yield from self._all(path, self._parsed(path), context, around | {path})

    def _all(
        self,
        path: Path,
        directives: tuple[Directive, ...],
        context: Context,
        around: frozenset[Path],
    ) -> Iterator[Found]:
        for directive in directives:
            yield Found(path, context, directive)
            if directive.block is not None:
                inner = (*context, directive.name)
                yield from self._all(path, directive.block, inner, around)
            elif _is_include(directive):
                pattern = self._documents.full(directive.words[0])
                for included in self._documents.matching(pattern):
                    yield from self.file(included, context, around)

    def _parsed(self, path: Path) -> tuple[Directive, ...]:
        if path not in self._read:
            try:
                self._read[path] = parse(self._documents.text(path))
            except (OSError, ValueError, GrammarError):
                self._read[path] = ()
        return self._read[path]


def _is_include(directive: Directive) -> bool:
    return directive.name == "include" and len(directive.words) == 1


def _wild(text: str) -> bool:
    return any(sign in text for sign in _ANY)


def _matches(name: str, pattern: str) -> bool:
    # As glob(3): a leading dot has to be written out.
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatchcase(name, pattern)


def _settled(path: Path) -> Path:
    """Resolve the links of the directory; the last name may be a pattern, or a link itself."""
    if _wild(str(path.parent)):
        return path
    return Path(os.path.realpath(path.parent)) / path.name
