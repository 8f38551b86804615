"""
The grammar of nginx's configuration: words, quotes, braces, semicolons, comments. Pure.

A text becomes a tree of directives that know where they stand, so that an edit can touch them and
nothing else. The rules are those of nginx's own reader (ngx_conf_file.c); what a directive means
is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import Factory, define, frozen

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"[^\n]*")
# "${" belongs to a word, a bare "{" ends it.
_WORD = re.compile(r"(?:\\.|\$\{*|[^ \t\r\n;{\\$])+", re.DOTALL)
_QUOTED = {
    '"': re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL),
    "'": re.compile(r"'((?:\\.|[^'\\])*)'", re.DOTALL),
}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_UNESCAPED = {'"': '"', "'": "'", "\\": "\\", "t": "\t", "r": "\r", "n": "\n"}
_AFTER_QUOTE = frozenset(" \t\r\n;{)")

# What in a block of Lua may hold a brace that does not count.
_LUA = re.compile(
    r"""--\[(=*)\[.*?\]\1\]|--[^\n]*|\[(=*)\[.*?\]\2\]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}]""",
    re.DOTALL,
)
_LUA_BLOCK = "_by_lua_block"

MOST_NESTED = 100
"""Levels of blocks. No configuration needs ten, and those who read a tree go down by recursion."""


class GrammarError(ValueError):
    """A text that is no nginx configuration; str() says what is wrong in which line."""


@frozen
class Directive:
    """
    One directive: its words without quotes, and its block if it has one (empty for Lua's).

    `text[start:end]` is the whole of it, from its first word to its semicolon or closing brace;
    for a block `closing` is where that brace stands.
    """

    name: str
    words: tuple[str, ...]
    start: int
    end: int
    block: tuple[Directive, ...] | None = None
    closing: int = -1


@frozen
class _Token:
    kind: str  # "word", or the character itself for ; { }
    start: int
    end: int
    value: str = ""


@define
class _Open:
    """A block whose end is still to come."""

    words: list[_Token]
    inside: list[Directive] = Factory(list)


def parse(text: str) -> tuple[Directive, ...]:
    """Return the directives of `text`. Raises GrammarError."""
    levels = [_Open([])]
    words: list[_Token] = []
    reader = _Reader(text)
    for token in reader:
        if token.kind == "word":
            words.append(token)
        elif token.kind == "}":
            if words or len(levels) == 1:
                raise _unexpected(text, token.start, '"}"')
            opened = levels.pop()
            levels[-1].inside.append(_directive(opened.words, token, tuple(opened.inside)))
        elif not words:
            raise _unexpected(text, token.start, f'"{token.kind}"')
        elif token.kind == ";":
            levels[-1].inside.append(_directive(words, token))
            words = []
        else:
            if len(levels) > MOST_NESTED:
                raise GrammarError(f"line {_line(text, token.start)}: nested too deeply")
            levels.append(_Open(words))
            if words[0].value.endswith(_LUA_BLOCK):
                reader.skip_lua()
            words = []
    if words or len(levels) > 1:
        raise _unexpected(text, len(text), "end")
    return tuple(levels[0].inside)


def quoted(word: str) -> str:
    """Return `word` as it is to be written, in quotes where it needs them."""
    if word and _WORD.fullmatch(word) and not re.search(r"""[\\"'#{}]""", word):
        return word
    escaped = re.sub(r'(["\\])', r"\\\1", word)
    return f'"{escaped}"'


class _Reader:
    """Cuts a text into tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def __iter__(self) -> Iterator[_Token]:
        while True:
            self._skip(_SPACE)
            if self._at >= len(self._text):
                return
            first = self._text[self._at]
            if first == "#":
                self._skip(_COMMENT)
            elif first in ";{}":
                self._at += 1
                yield _Token(first, self._at - 1, self._at)
            elif first in _QUOTED:
                yield self._quoted(_QUOTED[first])
            else:
                yield self._word()

    def skip_lua(self) -> None:
        """Go to the brace that ends the block of Lua that has just begun."""
        open_braces = 1
        for match in _LUA.finditer(self._text, self._at):
            open_braces += {"{": 1, "}": -1}.get(match[0], 0)
            if open_braces == 0:
                self._at = match.start()
                return
        self._at = len(self._text)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()

    def _quoted(self, pattern: re.Pattern[str]) -> _Token:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise GrammarError(f"line {_line(self._text, self._at)}: a quote without its end")
        after = self._text[match.end() : match.end() + 1]
        if after and after not in _AFTER_QUOTE:
            raise _unexpected(self._text, match.end(), f'"{after}"')
        return self._token(match, match[1])

    def _word(self) -> _Token:
        match = _WORD.match(self._text, self._at)
        if match is None:  # only a backslash at the very end
            raise _unexpected(self._text, self._at, "end")
        return self._token(match, match[0])

    def _token(self, match: re.Match[str], value: str) -> _Token:
        self._at = match.end()
        return _Token("word", match.start(), match.end(), _ESCAPE.sub(_unescape, value))


def _directive(
    words: list[_Token], last: _Token, block: tuple[Directive, ...] | None = None
) -> Directive:
    return Directive(
        name=words[0].value,
        words=tuple(word.value for word in words[1:]),
        start=words[0].start,
        end=last.end,
        block=block,
        closing=last.start if block is not None else -1,
    )


def _unescape(match: re.Match[str]) -> str:
    return _UNESCAPED.get(match[1], match[0])


def _unexpected(text: str, at: int, what: str) -> GrammarError:
    return GrammarError(f"line {_line(text, at)}: unexpected {what}")


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
