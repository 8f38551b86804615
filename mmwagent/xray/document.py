"""
Xray's JSON configuration as a value: how it is read and written, and what everybody asks of it.

Pure. Order and numbers come out as they went in. Comments are no part of the value: a
configuration that is read, changed and written has lost them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

Document = Mapping[str, Any]

# Texts are matched first and kept, so that a "//" within one is no comment.
_TEXT_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|#[^\n]*|/\*.*?\*/', re.DOTALL)

_HALF_PAIR = re.compile("[\ud800-\udfff]")

# VLESS' `decryption` may hold a key as well as "none"; `key` is a certificate's.
PRIVATE = frozenset(
    {
        "privateKey",
        "secretKey",
        "preSharedKey",
        "mldsa65Seed",
        "echServerKeys",
        "decryption",
        "key",
    }
)

MOST_NESTED = 100
"""Levels of a configuration. Xray needs about ten; all that read it may go down level by level."""


class InvalidDocument(ValueError):
    """A configuration that is not JSON, or not an object; str() says where."""


class FloatAsWritten(float):
    """A number with a fraction or an exponent, which is written again as it was read."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> FloatAsWritten:
        """Return the number that `text` writes; raise ValueError where it is none."""
        value = super().__new__(cls, text)
        value.text = text
        return value

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # float's gives a float
        return (self.text,)


def parse(text: str) -> Document:
    """
    Return the configuration in `text`: JSON, in which Xray allows //, # and /* */ comments.

    The order of keys is kept, whole numbers are exact, and others come as FloatAsWritten. Raises
    InvalidDocument.
    """
    try:
        value = _parse_json_or_commented(text)
    except RecursionError:
        raise InvalidDocument("nested too deeply") from None
    except ValueError as error:
        raise InvalidDocument(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidDocument("the configuration must be a JSON object")
    if _nested_deeper(value, MOST_NESTED):
        raise InvalidDocument("nested too deeply")
    return value


def to_text(document: Document) -> str:
    """
    Return `document` as JSON, two blanks a level, as Xray's own documentation shows it.

    What `parse` gave is written with its order and its numbers as they were. Raises ValueError
    for numbers that JSON does not have.
    """
    return _written(document, "\n") + "\n"


def _written(value: object, line_end: str) -> str:
    inner = line_end + "  "
    if isinstance(value, dict):
        items = [f"{_quoted(str(key))}: {_written(item, inner)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{line_end}}}" if items else "{}"
    if isinstance(value, list | tuple):
        items = [_written(item, inner) for item in value]
        return f"[{inner}{f',{inner}'.join(items)}{line_end}]" if items else "[]"
    if isinstance(value, FloatAsWritten):
        return value.text
    return _quoted(value) if isinstance(value, str) else json.dumps(value, allow_nan=False)


def _quoted(text: str) -> str:
    # Half a surrogate pair has no UTF-8: only an escape can keep it.
    return encode_basestring_ascii(text) if _HALF_PAIR.search(text) else encode_basestring(text)


def has_comments(text: str) -> bool:
    """Return whether `text`, which `parse` takes, holds comments."""
    return any(match[0][0] != '"' for match in _TEXT_OR_COMMENT.finditer(text))


def _parse_json_or_commented(text: str) -> object:
    try:
        return _parse_json(text)
    except ValueError:
        return _parse_json(_TEXT_OR_COMMENT.sub(_without_comment, text))


def _parse_json(text: str) -> object:
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = FloatAsWritten(number)
    if math.isinf(value):
        raise ValueError(f"{number} is too large a number")
    return value


def _nested_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [inner for outer in level for inner in _within(outer)]
    return bool(level)


def _within(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _without_comment(match: re.Match[str]) -> str:
    found = match[0]
    # Line ends stay, so that an error further down names the right line.
    return found if found[0] == '"' else " " + "\n" * found.count("\n")


def section(document: Document, name: str) -> Document:
    """Return the object under `name`, an empty one where there is none."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def objects(document: Document, name: str) -> Iterator[Document]:
    """Give each object of the list under `name`; what is no object is passed over."""
    value = document.get(name)
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def texts(value: object) -> tuple[str, ...]:
    """Return a text, or a list of texts, as a tuple: Xray takes either for tags."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, str))
    return ()


def rules(document: Document) -> Iterator[Document]:
    """Give each routing rule."""
    yield from objects(section(document, "routing"), "rules")


def inbounds_leading_to(document: Document, outbound_tag: str) -> Iterator[Document]:
    """Give each inbound that some rule sends to the outbound `outbound_tag`."""
    tags = [  # no set: a wrong tag may be a list
        tag
        for rule in rules(document)
        if rule.get("outboundTag") == outbound_tag
        for tag in texts(rule.get("inboundTag"))
    ]
    yield from (inbound for inbound in objects(document, "inbounds") if inbound.get("tag") in tags)


def user_inbounds(document: Document) -> tuple[Document, ...]:
    """Return the inbounds that serve users: all but the one that leads to Xray's own API."""
    api_tag = section(document, "api").get("tag")
    api = (
        [id(inbound) for inbound in inbounds_leading_to(document, api_tag)]
        if isinstance(api_tag, str)
        else []
    )
    return tuple(
        inbound
        for inbound in objects(document, "inbounds")
        if id(inbound) not in api and inbound.get("tag") != "api"
    )


def without_private_keys(value: Any) -> Any:
    """Return a copy of `value` in which no private key is left, at any depth."""
    if isinstance(value, dict):
        return {
            name: without_private_keys(item) for name, item in value.items() if name not in PRIVATE
        }
    if isinstance(value, list):
        return [without_private_keys(item) for item in value]
    return value
