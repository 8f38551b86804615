"""
The set-up of a site: which files change for a domain. Blocks, for it reads what is there.

The site's own file is servers/NAME.conf. nginx has to include it, and the certificates that it
names have to be there: what is missing of both is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from attrs import frozen

from mmwagent.host.paths import contained
from mmwagent.host.service import Refused
from mmwagent.nginx.documents import Documents, Found, Include, as_bytes
from mmwagent.nginx.edits import bridge, with_include
from mmwagent.nginx.grammar import Directive, GrammarError, parse, quoted
from mmwagent.nginx.layout import SERVERS, Layout
from mmwagent.nginx.names import file_stem
from mmwagent.nginx.placeholder import placeholder

BRIDGE = "mmw-servers.conf"
CERTIFICATES = "cert"
MASTER_CERTIFICATES = Path("/usr/local/nginx/cert")
"""Where the master's templates have certificates, whatever nginx is here."""

_PEM = (".pem", ".crt", ".key")

_TEMPLATE = """\
server {{
    listen 443 ssl;
    listen [::]:443 ssl;
    server_name {name};

    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets off;

    root {root};
    index index.html;
}}
"""


@frozen
class SitePlan:
    """
    What a set-up changes: `contents` of files by path, of which `file` is the site's own.

    `included_by` is the file that got an include, `placeholders` the certificates that stand in.
    """

    file: Path
    contents: dict[Path, bytes | None]
    included_by: Path | None = None
    placeholders: tuple[Path, ...] = ()


@frozen
class SiteSetup:
    """
    A request to set up the host name `domain` with the text `site`, by default one of ours.

    `main` is a new text for the main file; without it that one is left alone if at all possible.
    """

    domain: str
    now: datetime
    site: str | None = None
    main: str | None = None
    master_certificates: Path = MASTER_CERTIFICATES

    def plan(self, layout: Layout) -> SitePlan:
        """Return what changes for the nginx at `layout`. Raises Refused or ValueError."""
        return _Planning(self, layout).plan()


class _Planning:
    """A plan in the making."""

    def __init__(self, setup: SiteSetup, layout: Layout) -> None:
        self._setup = setup
        self._layout = layout
        self._places = layout.places()
        self._texts: dict[Path, str] = {}
        if setup.main is not None:
            self._texts[self._places.editable(str(layout.main))] = setup.main
        self._documents = Documents(layout.main, self._texts)

    def plan(self) -> SitePlan:
        file = self._places.editable(str(self._directory() / self._file_name))
        site = self._setup.site
        self._texts[file] = self._template() if site is None else site
        included_by = None
        if not any(include.takes(file) for include in self._documents.includes("http")):
            included_by = self._include(file.parent / "*.conf")
        contents: dict[Path, bytes | None] = {
            path: as_bytes(text) for path, text in self._texts.items()
        }
        stand_ins = self._placeholders()
        return SitePlan(file, contents | stand_ins, included_by, tuple(stand_ins))

    @property
    def _file_name(self) -> str:
        return f"{file_stem(self._setup.domain)}.conf"

    def _directory(self) -> Path:
        """Return the servers directory that nginx includes, else the one beside the main file."""
        for include in self._documents.includes("http"):
            directory = include.pattern.parent
            known = directory.name == SERVERS and directory in self._places.directories
            if known and include.takes_many:
                return directory
        return self._layout.directory / SERVERS

    def _template(self) -> str:
        directory = self._layout.directory / CERTIFICATES
        stem = file_stem(self._setup.domain)
        return _TEMPLATE.format(
            name=quoted(self._setup.domain),
            certificate=quoted(str(directory / f"{stem}.pem")),
            key=quoted(str(directory / f"{stem}.key")),
            root=quoted(str(self._layout.prefix / "html")),
        )

    def _include(self, pattern: Path) -> Path:
        """Plan an include, by a file of its own where nginx includes such ones."""
        if self._setup.main is None:
            for include in self._documents.includes("http"):
                path = include.pattern.parent / BRIDGE
                if self._may_hold_bridge(include):
                    self._texts[self._places.editable(str(path))] = bridge(pattern)
                    return path
        block = self._http_block()
        path = self._places.editable(str(block.file))
        text = self._documents.text(block.file)
        self._texts[path] = with_include(text, block.directive, str(pattern))
        return path

    def _may_hold_bridge(self, include: Include) -> bool:
        directory = include.pattern.parent
        if not include.takes_many or not include.takes(directory / BRIDGE):
            return False
        return directory in self._places.directories and directory.is_dir()

    def _http_block(self) -> Found:
        for found in self._documents.directives():
            block = found.directive.block
            if not found.context and found.directive.name == "http" and block is not None:
                return found
        raise Refused(f"{self._layout.main} has no http block that could include the site")

    def _placeholders(self) -> dict[Path, bytes | None]:
        """Return a certificate and a key for each pair that is named and is not there."""
        contents: dict[Path, bytes | None] = {}
        pairs = [pair for text in self._texts.values() for pair in _pairs(text)]
        for names in dict.fromkeys(pairs):
            if any("$" in name or ".." in name for name in names):
                continue  # not what it says
            paths = [self._stand_in(self._documents.full(name)) for name in names]
            wanted = [path for path in paths if path is not None and path not in contents]
            if len(wanted) == len(names):
                made = placeholder(self._setup.domain, self._setup.now)
                contents.update(zip(wanted, made, strict=True))
        return contents

    def _stand_in(self, path: Path) -> Path | None:
        """Return where a missing file may be put; None for one that is there or elsewhere."""
        directories = (
            self._layout.directory / CERTIFICATES,
            self._layout.prefix / CERTIFICATES,
            self._setup.master_certificates,
        )
        if path.parent not in directories or path.suffix not in _PEM or path.exists():
            return None
        try:
            return contained(str(path), [path.parent])
        except ValueError:
            return None


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Give the certificates with their keys that the blocks of `text` name."""
    try:
        waiting = [parse(text)]
    except GrammarError:
        return  # nginx says what is wrong with it
    while waiting:
        directives = waiting.pop()
        yield from zip(
            _values(directives, "ssl_certificate"),
            _values(directives, "ssl_certificate_key"),
            strict=False,
        )
        waiting += [directive.block for directive in directives if directive.block]


def _values(directives: Iterable[Directive], name: str) -> list[str]:
    return [one.words[0] for one in directives if one.name == name and len(one.words) == 1]
