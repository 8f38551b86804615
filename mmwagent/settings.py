"""
The agent's settings: defaults < YAML file < environment, checked as a whole, then frozen.

What settings there are stands in `settings_table`, how a value is read in `settings_values`, and
how a file is read in `settings_file`. Here they are put together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

from attrs import frozen

from mmwagent import settings_file
from mmwagent.settings_table import OPTIONS, Option, Settings
from mmwagent.settings_values import (
    Context,
    Raw,
    Refused,
    XrayServerSetting,
    named,
    printable,
    shown,
)

__all__ = [
    "OPTIONS",
    "Option",
    "Settings",
    "SettingsError",
    "XrayServerSetting",
    "find_file",
    "known_keys",
    "load",
]

SYSTEM_FILE = "/etc/mmw-agent/config.yaml"
_LOCAL_FILE = "config.yaml"
_PREFIX = "MMWX_"
# The master calls a server offline that it has not heard of for this long.
_OFFLINE_AFTER = 60.0
# How alike (difflib's ratio) an unknown key is to a known one to be called a slip of it.
_NEAR_ENOUGH = 0.75
_FOREIGN_KEYS = {
    "mode": "the agent has only one, see connection_mode",
    "port": "it belongs to another program's web page, see listen_port",
}
_BY_KEY = {key: option for option in OPTIONS for key in (option.name, *option.aliases)}
_BY_VARIABLE = {variable: option for option in OPTIONS for variable in option.variables}


class SettingsError(Exception):
    """Settings cannot be used. `problems` holds every one found, and str() lists one a line."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(*self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


def known_keys() -> tuple[str, ...]:
    """Return every key a settings file may hold: names and aliases."""
    return tuple(_BY_KEY)


def find_file(explicit: str | None, directory: str) -> str | None:
    """
    Return the path of the settings file: `explicit`, else config.yaml in `directory`, else /etc's.

    None says there is no file, and the environment must do. Raises SettingsError when the
    explicit one is missing.
    """
    if explicit is not None:
        chosen = os.path.join(directory, explicit)
        if not explicit or not _may_be_there(chosen):
            raise SettingsError([f"{shown(explicit)}: there is no such settings file"])
        return chosen
    local = os.path.join(directory, _LOCAL_FILE)
    if os.path.lexists(local):
        return local
    return SYSTEM_FILE if _may_be_there(SYSTEM_FILE) else None


def _may_be_there(file: str) -> bool:
    """Say no only when sure: a file that cannot be reached is a problem to be told, not none."""
    try:
        os.lstat(file)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        pass
    return True


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """
    Return the settings of the file at `path` (None: no file) and of `environ`.

    An empty variable counts as not set. Raises SettingsError with every problem of both at once:
    where it stands, the setting, its value unless it is secret, and what it must be.

    An unknown key is a problem when it is close to a known one, since a slip would lose a setting
    in silence. Other unknown keys only warn, with the nearest known one, so that the files of the
    original agent and of the master's child mode can be used as they are. Unknown MMWX_ variables
    only warn as well, as other programs of the family have their own.
    """
    return _Reading(path, environ).settings()


@frozen
class _Found:
    """A value that was set: by which key or variable, and where that stands for a message."""

    key: str
    value: object


class _Reading:
    """One pass over file and environment, which gathers problems and warnings on its way."""

    def __init__(self, path: str | None, environ: Mapping[str, str]) -> None:
        self._path = None if path is None else os.path.abspath(path)
        self._environ = environ
        self._problems: list[str] = []
        self._warnings: list[str] = []
        # Settings that somebody tried to set, well or not: these are not missing.
        self._tried: set[str] = set()

    def settings(self) -> Settings:
        from_file, complete = self._file()
        from_environment = self._environment()
        values = {**from_file, **from_environment}
        self._state_directory(values)
        if complete:
            self._require_master(values)
        if values.get("heartbeat_interval", 0.0) > _OFFLINE_AFTER:
            self._warnings.append(
                "heartbeat_interval: above 60s the master may show this server offline"
            )
        if self._problems:
            raise SettingsError(self._problems)
        token_from = "file" if "remote_token" in from_file else None
        if "remote_token" in from_environment:
            token_from = "environment"
        return Settings(
            **values, path=self._path, token_from=token_from, warnings=tuple(self._warnings)
        )

    def _file(self) -> tuple[dict[str, Any], bool]:
        """Return the values of the file, and whether it could be read to its end."""
        if self._path is None:
            return {}, True
        document = settings_file.read(self._path)
        self._problems.extend(document.problems)
        found: dict[Option, list[_Found]] = {}
        for entry in document.entries:
            place = f"{printable(self._path)} line {entry.line}"
            option = _BY_KEY.get(entry.key)
            if option is None:
                self._unknown_key(place, entry.key)
            else:
                self._take(found, option, entry.key, place, entry.raw)
        self._exposure(document, found)
        return self._settled(found), document.complete

    def _environment(self) -> dict[str, Any]:
        found: dict[Option, list[_Found]] = {}
        for variable, option in _BY_VARIABLE.items():
            if text := self._environ.get(variable, "").strip():
                self._take(found, option, variable, variable, partial(str, text))
        for variable in sorted(self._environ):
            if variable.startswith(_PREFIX) and variable not in _BY_VARIABLE:
                near, _ = _nearest(variable.removeprefix(_PREFIX), _short_variables())
                hint = f"; the nearest known one is {_PREFIX}{near}" if near else ""
                self._warnings.append(f"{named(variable)} is no setting of the agent{hint}")
        return self._settled(found)

    def _take(
        self,
        found: dict[Option, list[_Found]],
        option: Option,
        key: str,
        place: str,
        read: Callable[[], Raw],
    ) -> None:
        """Parse one value into `found`, or note what is wrong with it."""
        context = Context(
            None if self._path is None else os.path.dirname(self._path),
            lambda warning: self._warnings.append(f"{place}: {key}: {warning}"),
        )
        try:
            raw = read()
            if option.may_be_empty and not (raw.strip() if isinstance(raw, str) else raw):
                return
            self._tried.add(option.name)
            value = _Found(key, option.parse(raw, context))
            found.setdefault(option, []).append(value)
        except Refused as error:
            self._tried.add(option.name)
            subject = option.name if key in (option.name, place) else f"{key} ({option.name})"
            for each in error.complaints:
                # Parsers of secrets hide them; what they quote nevertheless is hidden here.
                hide = option.secret and each.value.startswith('"')
                written = "(hidden)" if hide else each.value
                self._problems.append(f"{place}: {subject} is {written}; it must {each.must}")

    def _settled(self, found: dict[Option, list[_Found]]) -> dict[str, Any]:
        """Choose between a setting's names, with a warning when their values differ."""
        values: dict[str, Any] = {}
        for option, candidates in found.items():
            order = (option.name, *option.aliases, *option.variables)
            first, *others = sorted(candidates, key=lambda each: order.index(each.key))
            values[option.name] = first.value
            self._warnings.extend(
                f"{first.key} and {other.key} differ; {first.key} is used"
                for other in others
                if other.value != first.value
            )
        return values

    def _unknown_key(self, place: str, key: str) -> None:
        if key in _FOREIGN_KEYS:
            self._warnings.append(f"{place}: {key} is ignored: {_FOREIGN_KEYS[key]}")
            return
        near, is_near = _nearest(key, _BY_KEY)
        if is_near:
            self._problems.append(f"{place}: {named(key)} is no setting; did you mean {near}?")
        else:
            hint = f"; the nearest known one is {near}" if near else ""
            self._warnings.append(f"{place}: {named(key)} is no setting and is ignored{hint}")

    def _exposure(
        self, document: settings_file.Document, found: dict[Option, list[_Found]]
    ) -> None:
        if document.exposed_to is not None and any(option.secret for option in found):
            file = printable(str(self._path))
            self._warnings.append(
                f"{file} holds a token and can be read by {document.exposed_to}; "
                f"use chmod 600 {file}"
            )

    def _state_directory(self, values: dict[str, Any]) -> None:
        """Put systemd's directory, the first of its list, before the built-in default."""
        given = self._environ.get("STATE_DIRECTORY", "").strip()
        if not given or "state_directory" in self._tried:
            return
        found: dict[Option, list[_Found]] = {}
        option = _BY_KEY["state_directory"]
        self._take(found, option, option.name, "STATE_DIRECTORY", lambda: given.split(":")[0])
        values.update(self._settled(found))

    def _require_master(self, values: dict[str, Any]) -> None:
        """Every mode but pull calls the master, so it needs its address and the token."""
        mode = values.get("connection_mode")
        if mode == "pull" or (mode is None and "connection_mode" in self._tried):
            return
        for name in ("master_server", "remote_token"):
            if name not in self._tried:
                variable = _BY_KEY[name].variables[0]
                self._problems.append(
                    f"{name} is missing: set {name} in the settings file or {variable} in the "
                    f"environment; only connection_mode pull can do without"
                )


def _short_variables() -> list[str]:
    return [variable.removeprefix(_PREFIX) for variable in _BY_VARIABLE]


def _nearest(key: str, known: Iterable[str]) -> tuple[str | None, bool]:
    """Return the known name nearest to `key`, if any is, and whether `key` is a slip of it."""
    names = {name.lower(): name for name in known}
    # Only the beginning of a key counts: comparing a huge one would take minutes.
    plain = key[:80].lower().replace("-", "_")
    close = get_close_matches(plain, names, n=1, cutoff=0.5)
    if not close:
        return None, False
    return names[close[0]], bool(get_close_matches(plain, close, cutoff=_NEAR_ENOUGH))
