"""
Where nginx is and where its files are.

A running nginx says it by the arguments it was started with, else its binary by what it was built
with (`nginx -V`), else the places where the master's set-up and the distributions have it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from mmwagent.host.command import CommandNotFound, CommandNotStarted
from mmwagent.host.paths import contained
from mmwagent.host.processes import Process
from mmwagent.host.service import NotInstalled, RunCommand
from mmwagent.nginx.documents import Documents

KNOWN_FILES = ("/usr/local/nginx/nginx.conf", "/etc/nginx/nginx.conf")
BUILD_DEADLINE = 10.0  # seconds

SERVERS = "servers"
STREAM_SERVERS = "stream_servers"

# Directories of configuration, of the master's set-up, the distributions and common custom.
_KNOWN = (
    SERVERS,
    STREAM_SERVERS,
    "conf.d",
    "http.d",
    "stream.d",
    "default.d",
    "sites-available",
    "sites-enabled",
    "streams-available",
    "streams-enabled",
    "modules-available",
    "modules-enabled",
    "snippets",
    "vhost",
    "vhosts",
)
# What stands beside them and is none of it: keys, programs, pages.
_NEVER = frozenset(
    {"cert", "certs", "ssl", "private", "keys", "bin", "sbin", "lib", "modules", "html", "logs"}
)
_NO_CONFIGURATION = frozenset(
    {".key", ".pem", ".crt", ".cer", ".p12", ".pfx", ".so", ".log", ".pid", ".sock"}
)

_MASTER = "nginx: master process "
_OPTION = re.compile(r"(-[cpegshvVtTq])(.*)")


@frozen
class Layout:
    """
    An nginx: its binary (None where only its files are), the prefix for its logs and pages, its
    main file, and the options `-e` and `-g` that it was started with.
    """

    binary: str | None
    prefix: Path
    main: Path
    options: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """The directory of the main file, to which relative includes are relative."""
        return self.main.parent

    def command(self, *arguments: str) -> list[str]:
        """Return the command line for this nginx. Raises NotInstalled."""
        if self.binary is None:
            raise NotInstalled("nginx is not installed")
        own = ["-p", f"{self.prefix}/", "-c", str(self.main)]
        return [self.binary, *own, *self.options, *arguments]

    def places(self) -> Places:
        """Return where its configuration files may lie. Blocks (it reads what they include)."""
        within = self.prefix in self.directory.parents
        bases = [self.directory, self.prefix] if within else [self.directory]
        known = [base / name for base in bases for name in _KNOWN]
        included = [
            pattern.parent
            for pattern in self._include_patterns()
            if any(_may_hold(pattern.parent, base) for base in bases)
        ]
        directories = dict.fromkeys([self.directory, *known, *included])
        return Places(self.main, tuple(bases), tuple(directories))

    def _include_patterns(self) -> Iterator[Path]:
        documents = Documents(self.main)
        for found in documents.directives():
            if found.directive.name == "include" and len(found.directive.words) == 1:
                yield documents.full(found.directive.words[0])


@frozen
class Places:
    """
    Where configuration files of the nginx with the file `main` may lie.

    `directories` are that of the main file, and the known and the included ones below `bases`,
    which are that directory again and the prefix around it. They need not exist.
    """

    main: Path
    bases: tuple[Path, ...]
    directories: tuple[Path, ...]

    def editable(self, name: str) -> Path:
        """
        Return the real path of the configuration file `name`, absolute or relative to the main's.

        It lies right in one of `directories`, and by its name is neither hidden nor a key, a
        certificate, a log or the like. Blocks. Raises ValueError with words.
        """
        if name in (self.main.name, str(self.main)):
            return Path(os.path.realpath(self.main))  # which may be a link to wherever
        real = contained(name, self.bases)
        if real.parent not in {Path(os.path.realpath(path)) for path in self.directories}:
            raise ValueError(f"{name!a}: not in a directory of nginx's configuration files")
        if real.name.startswith(".") or real.suffix.lower() in _NO_CONFIGURATION:
            raise ValueError(f"{name!a}: not the name of a configuration file")
        if real.exists() and not real.is_file():
            raise ValueError(f"{name!a}: not a regular file")
        return real


async def find_layout(
    binary: str | None,
    processes: Sequence[Process],
    run: RunCommand,
    known_files: Sequence[str] = KNOWN_FILES,
) -> Layout:
    """
    Return the nginx of this machine.

    `binary` is the program, None where there is none; `processes` are those of nginx that run.
    Raises NotInstalled where there is neither a program nor one of `known_files`.
    """
    built = await _built_with(binary, run) if binary is not None else {}
    prefix = Path(built.get("prefix", "/usr/local/nginx"))
    main = Path(os.path.join(prefix, built.get("conf-path", "conf/nginx.conf")))
    for process in processes:
        words = _master_words(process)
        if words is not None:
            return _running(binary, process, words, prefix, main)
    existing = (path for path in (main, *map(Path, known_files)) if path.is_file())
    found = next(existing, None)
    if found is None and binary is None:
        raise NotInstalled("nginx is not installed")
    return Layout(binary, prefix, found or main)


async def _built_with(binary: str, run: RunCommand) -> dict[str, str]:
    """Return the paths that `nginx -V` names, by their options without the dashes."""
    try:
        finished = await run([binary, "-V"], timeout=BUILD_DEADLINE)
    except (CommandNotFound, CommandNotStarted):
        return {}
    told = (finished.errors + finished.output).decode("utf-8", "replace")
    words = re.findall(r"--(prefix|conf-path)=(\S+)", told)
    return dict(words)


def _master_words(process: Process) -> list[str] | None:
    """Return the arguments of a master process, None for a worker."""
    title = process.arguments[0] if process.arguments else ""
    if title.startswith(_MASTER):
        # It has written its title over its arguments, in one piece and without quotes.
        return title.removeprefix(_MASTER).split(" ")[1:]
    if title.startswith("nginx: ") or "-s" in process.arguments:
        return None
    return list(process.arguments[1:])


def _running(
    binary: str | None, process: Process, words: list[str], prefix: Path, main: Path
) -> Layout:
    options = dict(_options(words))
    if "-p" in options:
        prefix = Path(os.path.normpath(os.path.join(process.directory, options["-p"])))
    if "-c" in options:
        main = Path(os.path.normpath(prefix / options["-c"]))
    kept = [(name, options[name]) for name in ("-e", "-g") if name in options]
    return Layout(binary, prefix, main, tuple(word for pair in kept for word in pair))


def _options(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Give each option with its value; that of -g may be of several words."""
    name, value = "", ""
    for word in words:
        match = _OPTION.fullmatch(word)
        if match is None:
            value = f"{value} {word}".strip()
        else:
            yield name, value
            name, value = match[1], match[2]
    yield name, value


def _may_hold(directory: Path, base: Path) -> bool:
    """Return whether `directory` is below `base`, and not where something else is kept."""
    if base not in directory.parents:
        return False
    return not _NEVER.intersection(directory.relative_to(base).parts)


Layouts = Callable[[], Awaitable[Layout]]
"""What finds the nginx of this machine, anew each time: it may have been installed meanwhile."""


def layouts(
    binary: Callable[[Sequence[Process]], str | None],
    processes: Callable[[], Awaitable[Sequence[Process]]],
    run: RunCommand,
) -> Layouts:
    """Return what finds it by its processes and by `binary`, as programs.Program.binary does."""

    async def find() -> Layout:
        running = await processes()
        return await find_layout(binary(running), running, run)

    return find
