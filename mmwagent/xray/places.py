"""
Which files of Xray's configuration may be read and written, and which one a request means.

They are the configurations that the discovery knows, and the files *.json and *.jsonc beside
them. Only a directory that is Xray's by its name is looked into further down: another may be the
home of anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from mmwagent.host.paths import contained
from mmwagent.xray.discovery import Discovery

ENDINGS = (".json", ".jsonc")
DEEPEST = 3
"""Levels of directories below that of a configuration."""

MOST_FILES = 1000


class NoSuchFile(LookupError):
    """There is no such file among Xray's configuration files; str() says which."""

    def __str__(self) -> str:
        return str(self.args[0])


@frozen
class ConfigFile:
    """A configuration file: `name` is what to ask for, `modified` are seconds since 1970."""

    name: str
    path: Path
    size: int
    modified: float


@frozen
class Places:
    """All of it blocks: it asks the file system."""

    discovery: Discovery

    def main(self, path: str | None = None, *, to_write: bool = False) -> Path:
        """
        Return the configuration that `path` names, by default the first that is there.

        To be written it need not be there yet: then it is the one that the settings name first,
        or of the default ones the first whose directory exists. Raises NoSuchFile, and ValueError
        for a path outside of the known directories.
        """
        known = self._known()
        if path is not None:
            real = contained(path, self.directories())
            if real in known and (to_write or real.is_file()):
                return real
            names = ", ".join(str(one) for one in known if one.is_file()) or "there is none"
            raise NoSuchFile(f"{real} is no configuration of an Xray here ({names})")
        there = [one for one in known if one.is_file()]
        if to_write:
            there += [one for one in known if one.parent.is_dir()]
        if not there:
            raise NoSuchFile("there is no Xray configuration: none of " + self._looked_for())
        return there[0]

    def file(self, name: str, *, to_write: bool = False) -> Path:
        """
        Return the real path of the file `name`, absolute or as `listed` calls it.

        Raises NoSuchFile, and ValueError for one that may not be touched.
        """
        real = contained(name, self.directories())
        if real not in self._known():
            self._check(real)
        if not real.parent.is_dir():
            raise NoSuchFile(f"there is no directory {real.parent}")
        if not to_write and not real.exists():
            raise NoSuchFile(f"there is no file {real}")
        if real.exists() and not real.is_file():
            raise ValueError(f"{real}: not a regular file")
        return real

    def is_main(self, real: Path) -> bool:
        """Return whether the file of this real path is all the configuration of an Xray."""
        return real in self._known()

    def base(self) -> Path | None:
        """Return the directory that names of files hang on, None where there is none."""
        return next(iter(self.directories()), None)

    def listed(self) -> list[ConfigFile]:
        """Return all that can be asked for, by name; those of the first directory come first."""
        base = self.base()
        found: list[ConfigFile] = []
        for directory in self.directories():
            files = sorted(self._in(directory, DEEPEST if _is_xrays(directory) else 0))
            for path in files[: MOST_FILES - len(found)]:
                if any(path == known.path for known in found):
                    continue
                name = path.relative_to(directory) if directory == base else path
                try:
                    stat = path.stat()
                except OSError:
                    continue  # gone meanwhile
                found.append(ConfigFile(str(name), path, stat.st_size, stat.st_mtime))
        return found

    def directories(self) -> list[Path]:
        """Return the known directories: those of the configurations that are there, or may be."""
        there = [path for path in self.discovery.paths if os.path.isfile(path)]
        both = [
            directory
            for path in there or self.discovery.paths
            for directory in (os.path.dirname(os.path.realpath(path)), _directory_of(path))
        ]
        return [Path(one) for one in dict.fromkeys(both) if os.path.isdir(one)]

    def _known(self) -> list[Path]:
        return [Path(os.path.realpath(path)) for path in self.discovery.paths]

    def _looked_for(self) -> str:
        return ", ".join(self.discovery.paths)

    def _check(self, real: Path) -> None:
        """Raise ValueError for a file that is no configuration of Xray's."""
        if real.suffix not in ENDINGS:
            raise ValueError(f"{real}: Xray's configuration files end in {' or '.join(ENDINGS)}")
        within = [one for one in self.directories() if real.is_relative_to(one)]
        for directory in within:
            steps = real.relative_to(directory).parts
            deep = DEEPEST if _is_xrays(directory) else 0
            if len(steps) - 1 <= deep and not any(step.startswith(".") for step in steps):
                return
        raise ValueError(f"{real}: hidden, or too far below {within[0]}")

    def _in(self, directory: Path, deep: int) -> Iterator[Path]:
        known = self._known()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            return
        for entry in entries:
            path = Path(entry.path)
            if entry.is_file(follow_symlinks=False):
                if path in known or (path.suffix in ENDINGS and not entry.name.startswith(".")):
                    yield path
            elif deep and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from self._in(path, deep - 1)


def _directory_of(path: str) -> str:
    """Return the real directory in which `path` stands, be it a link or not."""
    return os.path.realpath(os.path.dirname(os.path.abspath(path)))


def _is_xrays(directory: Path) -> bool:
    return "xray" in directory.name.lower()
