"""Tests of nginx's grammar."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.nginx.grammar import MOST_NESTED, Directive, GrammarError, parse, quoted


def shape(directives: tuple[Directive, ...]) -> list[Any]:
    """Return the tree without places."""
    return [
        [one.name, *one.words] + ([] if one.block is None else [shape(one.block)])
        for one in directives
    ]


class ParseTests(SynchronousTestCase):
    """Texts that become directives."""

    def parsed(self, text: str, *expected: Any) -> None:
        """Check the tree of `text`."""
        self.assertEqual(shape(parse(text)), list(expected))

    def test_words(self) -> None:
        """Words end at white space and at the semicolon."""
        self.parsed("a  b\tc\r\n d;e;", ["a", "b", "c", "d"], ["e"])

    def test_blocks(self) -> None:
        """Blocks may hold directives and blocks, or nothing."""
        self.parsed("a { b c { d; } e; } f {}", ["a", [["b", "c", [["d"]]], ["e"]]], ["f", []])

    def test_comments(self) -> None:
        """A comment goes to the end of its line, whatever stands in it, and begins a word."""
        self.parsed("# } { ; \"\na b#c; # '\n", ["a", "b#c"])

    def test_quotes(self) -> None:
        """In quotes nothing ends a word but the same quote."""
        self.parsed("""a "b ; { } # ' c" 'd " e' "";""", ["a", "b ; { } # ' c", 'd " e', ""])

    def test_escapes(self) -> None:
        """A backslash keeps the next sign from ending the word; before some it goes away."""
        self.parsed(r"""a b\;c "d\"e" \{ \\ \d\n;""", ["a", "b\\;c", 'd"e', "\\{", "\\", "\\d\n"])

    def test_variables(self) -> None:
        """The brace of a variable begins no block."""
        self.parsed("a ${b}c $d;", ["a", "${b}c", "$d"])
        self.parsed("if ($a) { b; }", ["if", "($a)", [["b"]]])

    def test_word_after_a_quote(self) -> None:
        """A closing parenthesis may follow a quote, as in `if`."""
        self.parsed('if ($a = "b") {}', ["if", "($a", "=", "b", ")", []])
        self.parsed('a ("b" "c");', ["a", '("b"', "c", ")"])

    def test_lua(self) -> None:
        """Lua in a block may hold braces in texts and comments, and nginx's signs anywhere."""
        code = """t = { "}", '}', [[ } ]], [==[ ]] } ]==] } -- }\n --[[ } ]] x; """
        self.parsed(f"content_by_lua_block {{ {code} }} a;", ["content_by_lua_block", []], ["a"])

    def test_places(self) -> None:
        """Each directive knows where it stands in the text, its closing brace too."""
        text = "  ä b;\n c { 'd' e ; }\n"
        first, second = parse(text)
        self.assertEqual(text[first.start : first.end], "ä b;")
        self.assertEqual(text[second.start : second.end], "c { 'd' e ; }")
        self.assertEqual((text[second.closing], first.closing), ("}", -1))
        assert second.block is not None
        self.assertEqual(text[second.block[0].start : second.block[0].end], "'d' e ;")

    def test_errors(self) -> None:
        """What nginx's reader does not take is told with its line."""
        for text, words in (
            ("a;\nb", "line 2: unexpected end"),
            ("a {\n b;\n", "line 3: unexpected end"),
            ("a;\n}", 'line 2: unexpected "}"'),
            ("a { b }", 'unexpected "}"|unexpected end'),
            (";", 'line 1: unexpected ";"'),
            ("\n{ }", 'line 2: unexpected "{"'),
            ("a\n'b", "line 2: a quote without its end"),
            ('a "b"c;', 'line 1: unexpected "c"'),
            ('a "b"', "line 1: unexpected end"),
            ("a \\", "line 1: unexpected end"),
            ("x_by_lua_block { {", "line 1: unexpected end"),
        ):
            problem = str(self.assertRaises(GrammarError, parse, text))
            self.assertTrue(any(one in problem for one in words.split("|")), (text, problem))

    def test_depth(self) -> None:
        """Deep nesting is an error, not the end of the agent."""
        self.assertEqual(len(parse("a {" * MOST_NESTED + "}" * MOST_NESTED)), 1)
        for text in ("a {" * (MOST_NESTED + 1) + "}" * (MOST_NESTED + 1), "a {" * 100_000):
            self.assertRaises(GrammarError, parse, text)

    @given(st.text(alphabet="ab ;{}\"'\\$#\n()", max_size=40))
    def test_any_text(self, text: str) -> None:
        """Any text is a tree whose directives lie in order within it, or an error."""
        try:
            directives = parse(text)
        except GrammarError:
            return
        end = 0
        for one in directives:
            self.assertLessEqual(end, one.start)
            self.assertEqual(shape(parse(text[one.start : one.end])), shape((one,)))
            end = one.end
        self.assertEqual(shape(parse(text[end:])), [])


class QuotedTests(SynchronousTestCase):
    """Words that are written into a text."""

    def test_plain(self) -> None:
        """What needs no quotes gets none."""
        for word in ("a", "/etc/nginx/conf.d/*.conf", "*.example.com", "[::]:443"):
            self.assertEqual(quoted(word), word)

    @given(st.text(alphabet="ab ;{}\"'\\#\n()tr", max_size=12))
    def test_any_word(self, word: str) -> None:
        """Whatever a word holds, it is one word again when it is read."""
        self.assertEqual(shape(parse(f"x {quoted(word)} y;")), [["x", word, "y"]])
