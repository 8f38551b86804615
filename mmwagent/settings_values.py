"""
The values of single settings: from what was written to what the agent uses, or a clear refusal.

Every parser takes a `Raw`, the text or list as it stands in the file or the environment, so both
sources obey the same rules. A refusal says what a value must be; it never falls back to a default.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Callable, Mapping, Sequence
from ipaddress import (
    IPv4Network,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias, TypeVar

from attrs import frozen

T = TypeVar("T")
# A setting as written: text, or a list whose items are texts or small mappings of texts.
Item: TypeAlias = "str | Mapping[str, str]"
Raw: TypeAlias = "str | Sequence[Item]"
Network: TypeAlias = "IPv4Network | IPv6Network"

_CERTIFICATES_LIMIT = 4 * 1024 * 1024
_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"
)
_SECRET_LIMIT = 4096
_SHOWN_LIMIT = 200
# Leading zeros are left out on purpose: YAML 1.1 reads 010 as eight, people read ten.
_NUMBER = r"(?:0|[1-9][0-9]*)"
_AMOUNT = rf"({_NUMBER}(?:\.[0-9]+)?)"
_DURATION = re.compile(rf"(?:{_AMOUNT}h)?(?:{_AMOUNT}m)?(?:{_AMOUNT}s)?(?:{_AMOUNT}ms)?")
_UNIT_SECONDS = (3600.0, 60.0, 1.0, 0.001)
_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@frozen
class Complaint:
    """What is wrong with a value: `value` as it may be shown, `must` what it has to do or be."""

    value: str
    must: str


class Refused(ValueError):
    """A value is not taken. Holds one complaint, or one for each bad item of a list."""

    def __init__(self, *complaints: Complaint) -> None:
        super().__init__("; ".join(f"{each.value}: must {each.must}" for each in complaints))
        self.complaints = complaints


def refused(value: str, must: str) -> Refused:
    """Return the refusal of one `value`, which may be shown."""
    return Refused(Complaint(shown(value) if value else "empty", must))


@frozen
class XrayServerSetting:
    """One entry of `xray_servers`. `config_path` is absolute; the file may come later."""

    config_path: str


@frozen
class Context:
    """Where a value stands: the settings file's directory, if any, and where warnings go."""

    directory: str | None
    warn: Callable[[str], None]


Parse: TypeAlias = Callable[[Raw, Context], object]


def printable(text: str) -> str:
    """Return `text` on one line, with everything escaped that a terminal or log may not take."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shown(value: str) -> str:
    """Return `value` in quotes, printable and cut to a length that fits a message."""
    cut = value if len(value) <= _SHOWN_LIMIT else value[:_SHOWN_LIMIT] + "..."
    return f'"{printable(cut)}"'


def one(parse: Callable[[str], T]) -> Callable[[Raw, Context], T]:
    """Return a parser of a single value. It is given the text without blanks around it."""

    def single(raw: Raw, context: Context) -> T:
        return parse(_text(raw))

    return single


def several(
    parse: Callable[[str], T], separators: str = ","
) -> Callable[[Raw, Context], tuple[T, ...]]:
    """Return a parser of a list, or of one text split at `separators`. Repeats are dropped."""

    def every(raw: Raw, context: Context) -> tuple[T, ...]:
        return _each(lambda item: parse(_text(item)), raw, separators)

    return every


def _each(parse: Callable[[Item], T], raw: Raw, separators: str) -> tuple[T, ...]:
    items: Sequence[Item] = raw if not isinstance(raw, str) else _split(raw, separators)
    if not items:
        raise Refused(Complaint("empty", "hold at least one entry, or be left out"))
    values: dict[T, None] = {}
    complaints: list[Complaint] = []
    for item in items:
        try:
            values[parse(item)] = None
        except Refused as error:
            complaints.extend(error.complaints)
    if complaints:
        raise Refused(*complaints)
    return tuple(values)


def _split(text: str, separators: str) -> list[str]:
    return [part for part in re.split(f"[{separators}]", text) if part.strip()]


def _text(raw: Item | Raw) -> str:
    if not isinstance(raw, str):
        kind = "a mapping" if isinstance(raw, Mapping) else "a list"
        raise Refused(Complaint(kind, "be a single value"))
    return raw.strip()


def duration(low: float, high: float) -> Callable[[Raw, Context], float]:
    """
    Return a parser of spans of time, in seconds from `low` to `high`.

    Plain numbers are seconds, as in the README. Spans such as `1h`, `1m30s` and `500ms` are those
    of the original agent's files.
    """

    def seconds(text: str) -> float:
        value = _seconds(text)
        if value is None or not low <= value <= high:
            limits = f"from {_span(low)} to {_span(high)}"
            raise refused(text, f"be seconds, or a span such as 90s, 1m30s or 500ms, {limits}")
        return value

    return one(seconds)


def _seconds(text: str) -> float | None:
    if re.fullmatch(_AMOUNT, text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    parts = zip(match.groups("0"), _UNIT_SECONDS, strict=True)
    return sum(float(amount) * unit for amount, unit in parts)


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def port(text: str) -> int:
    """Return a TCP port, 1 to 65535."""
    if re.fullmatch(r"[1-9][0-9]{0,4}", text) and int(text) <= 65535:
        return int(text)
    raise refused(text, "be a whole number from 1 to 65535")


def choice(*words: str) -> Callable[[Raw, Context], str]:
    """Return a parser that takes one of `words`, in any case."""

    def chosen(text: str) -> str:
        if text.lower() in words:
            return text.lower()
        raise refused(text, f"be one of {', '.join(words)}")

    return one(chosen)


def switch(text: str) -> bool:
    """Return what a word such as true, yes, on or 1, or its opposite, says."""
    if (value := _WORDS.get(text.lower())) is not None:
        return value
    raise refused(text, "be true or false")


def secret(text: str) -> str:
    """Return a token, fit for an HTTP header. A refusal does not hold it."""
    if re.fullmatch(rf"[!-~]{{1,{_SECRET_LIMIT}}}", text):
        return text
    must = f"be printable ASCII without spaces inside, at most {_SECRET_LIMIT} characters"
    raise Refused(Complaint("(hidden)", must))


def path(text: str) -> str:
    """Return an absolute path, tidied. Nothing need be there yet."""
    if not text.startswith("/") or not _is_path(text):
        raise refused(text, "be an absolute path")
    return "/" + os.path.normpath(text).lstrip("/")


def _is_path(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return not any(ord(c) < 32 or ord(c) == 127 for c in text)


def xray_servers(raw: Raw, context: Context) -> tuple[XrayServerSetting, ...]:
    """
    Return Xray's configuration files: README's list of mappings, a list of paths, or one text.

    Paths in one text are split at `:` or `,`. A path that comes again is dropped with a warning.
    """
    seen: set[str] = set()

    def entry(item: Item) -> XrayServerSetting:
        config_path = path(_config_path(item))
        if config_path in seen:
            context.warn(f"{shown(config_path)} is listed more than once, it is taken once")
        seen.add(config_path)
        return XrayServerSetting(config_path)

    return _each(entry, raw, ":,")


def _config_path(item: Item) -> str:
    if not isinstance(item, Mapping):
        return _text(item)
    strangers = [key for key in item if key != "config_path"]
    if strangers:
        must = "hold nothing but config_path"
        raise Refused(*(Complaint(f"an entry with {named(key)}", must) for key in strangers))
    if not item:
        raise Refused(Complaint("an empty entry", "hold config_path"))
    return item["config_path"].strip()


def named(key: str) -> str:
    """Return a key for a message. One that is no plain word may be a misplaced secret."""
    return f'"{key}"' if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}", key) else "a key"


def address(text: str) -> str:
    """Return an IP address to listen on, in its usual form."""
    try:
        return str(ip_address(text))
    except ValueError:
        must = "be an IP address such as 127.0.0.1 or ::1, or empty for all addresses"
        raise refused(text, must) from None


def network(text: str) -> Network:
    """Return an IP network; a single address is a network of one."""
    try:
        return ip_network(text)
    except ValueError:
        must = "be an IP address or network such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
    try:
        must += f" (did you mean {ip_network(text, strict=False)}?)"
    except ValueError:
        pass
    raise refused(text, must)


def interface_glob(text: str) -> str:
    """Return a pattern of network interface names, such as `eth*`."""
    if re.fullmatch(r"[!-.0-~]{1,64}", text):
        return text
    raise refused(text, "be an interface name or pattern such as eth0 or wg*")


def read_regular(file: str, limit: int) -> tuple[bytes, os.stat_result]:
    """
    Return the content and status of a regular file of at most `limit` bytes.

    Raises OSError, its `strerror` fit for a message, also for a directory, a pipe, a file that is
    too large and an impossible name.
    """
    try:
        # Without O_NONBLOCK, a pipe in the file's place would stop the start for ever.
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise OSError(None, "not a possible file name") from None
    with open(number, "rb") as stream:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "not a regular file")
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(None, f"larger than {limit // 1024} KiB")
    return content, status


def certificates_file(raw: Raw, context: Context) -> str:
    """Return the absolute path of a PEM file that holds a certificate, now."""
    text = _text(raw)
    if not text or not _is_path(text):
        raise refused(text, "be a path")
    if not os.path.isabs(text) and context.directory is None:
        raise refused(text, "be an absolute path, as there is no settings file it is relative to")
    file = os.path.normpath(os.path.join(context.directory or "/", text))
    try:
        content, _ = read_regular(file, _CERTIFICATES_LIMIT)
    except OSError as error:
        raise refused(file, f"be a readable PEM file ({error.strerror})") from None
    blocks = _CERTIFICATE.findall(content)
    try:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trust.load_verify_locations(cadata=b"\n".join(blocks).decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise refused(file, "hold a certificate in PEM form, and no broken one") from None
    return file
