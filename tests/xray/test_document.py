"""Tests of Xray's configuration as a value."""

from __future__ import annotations

import copy
import json
import pickle
import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.uplink.messages import to_json
from mmwagent.xray.document import (
    MOST_NESTED,
    FloatAsWritten,
    InvalidDocument,
    has_comments,
    inbounds_leading_to,
    objects,
    parse,
    rules,
    section,
    texts,
    to_text,
    user_inbounds,
    without_private_keys,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=string.printable),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='/*#"\\ab\n'), inner),
    max_leaves=20,
)


class ParseTests(SynchronousTestCase):
    """JSON with comments becomes an object, anything else a clear refusal."""

    def refused(self, text: str) -> str:
        """Return why `text` is refused."""
        return str(self.assertRaises(InvalidDocument, parse, text))

    def test_plain_json(self) -> None:
        """Plain JSON is read, with its order of keys and its big numbers."""
        document = parse('{"b": 1, "a": [9007199254740993, 1.5, null, true]}')
        self.assertEqual(list(document), ["b", "a"])
        self.assertEqual(document["a"], [9007199254740993, 1.5, None, True])

    def test_each_style_of_comment(self) -> None:
        """The three styles of comment are passed over, at the ends too."""
        document = parse(
            "// first\n"
            '{ # second, with a " in it\n'
            '  "a": 1, /* third, over\n two lines " */ "b": /**/ 2 // "c": 3\n'
            "} /* * / // */ # last"
        )
        self.assertEqual(document, {"a": 1, "b": 2})

    def test_comment_marks_within_texts_stay(self) -> None:
        """What looks like a comment within a text is part of the text, behind a quote as well."""
        document = parse(
            r'{"url": "https://x/#y", "b": "/* no */", "c": "\"// still\\", "d": "\\" // end'
            "\n}"
        )
        self.assertEqual(
            document,
            {"url": "https://x/#y", "b": "/* no */", "c": '"// still\\', "d": "\\"},
        )

    def test_a_comment_parts_two_words(self) -> None:
        """A comment does not join what stands on its two sides."""
        self.refused('{"a": 1/**/2}')

    @given(value=JSON, style=st.sampled_from(["//{}\n", "#{}\n", "/*{}*/"]))
    def test_any_value_survives_comments(self, value: Any, style: str) -> None:
        """Comments between the tokens change no value, whatever its texts hold."""
        comment = style.format(' " a comment, {with} [all] sorts: of "marks"')
        text = f'{comment}{{{comment}"v"{comment}:{comment}{json.dumps(value)}{comment}}}{comment}'
        self.assertEqual(parse(text), {"v": value})

    def test_an_error_names_the_line(self) -> None:
        """The line of an error is that of the file, comments of several lines before it or not."""
        self.assertIn("line 5 ", self.refused('{ // one\n/* two\nthree */ "a": 1,\n"b": 2,\n]'))
        self.assertIn("line 2 ", self.refused('{"a": 1,\n]'))

    def test_unfinished_text_and_comment(self) -> None:
        """A text or comment without end is refused."""
        for text in ('{"a": "b', '{"a": 1 /* ', '{"a": 1 } /', '{"a" /: 1}', ""):
            with self.subTest(text=text):
                self.assertIn("no JSON", self.refused(text))

    def test_no_object(self) -> None:
        """A configuration that is another JSON value is refused."""
        for text in ("[]", "1", '"{}"', "null", "// {}\n[]"):
            with self.subTest(text=text):
                self.assertEqual(self.refused(text), "the configuration must be a JSON object")

    def test_numbers_that_json_does_not_have(self) -> None:
        """NaN, infinities and numbers too large are refused: no report could carry them."""
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
            for text in (f'{{"a": {number}}}', f'{{"a": {number}}} # with a comment'):
                with self.subTest(text=text):
                    self.assertIn(number, self.refused(text))
        self.assertIn("no JSON", self.refused('{"a": ' + "9" * 5000 + "}"))

    def test_deep_nesting(self) -> None:
        """Nesting beyond any use is refused, be it mild or wild; what is taken can be sent."""
        for depth in (MOST_NESTED, 500, 100_000):
            for opening, closing in (("[", "]"), ('{"a":', "}")):
                with self.subTest(depth=depth, opening=opening):
                    nested = opening * depth + "1" + closing * depth
                    self.assertEqual(self.refused(f'{{"v": {nested}}}'), "nested too deeply")
                    self.assertEqual(self.refused(f'{{"v": {nested}}} //'), "nested too deeply")
        deep = parse('{"v": ' + "[" * (MOST_NESTED - 2) + "1" + "]" * (MOST_NESTED - 2) + "}")
        self.assertIn(b"[1]", to_json(without_private_keys(deep)))


# As a person or a program may write them: with exponents, needless zeros, any number of digits.
FLOATS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
).filter(lambda text: not text.lstrip("-").isdecimal())


class WriteTests(SynchronousTestCase):
    """A configuration is written as it was read."""

    def test_layout(self) -> None:
        """Two blanks a level, texts as they are, nothing where there is nothing."""
        text = (
            '{\n  "b": [\n    1,\n    {\n      "c": "妙<&>"\n    }\n  ],\n'
            '  "a": {},\n  "d": [],\n  "e": null,\n  "f": true\n}\n'
        )
        self.assertEqual(to_text(parse(text)), text)
        self.assertEqual(to_text({}), "{}\n")

    def test_as_json_writes_it(self) -> None:
        """It is what Python's json writes with that layout."""
        value = {"a": [1, 'x"\\\n\x00\x7f', {"b": None}], "c": {"d": [[], {}]}, "e": -1.5}
        self.assertEqual(to_text(value), json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def test_order(self) -> None:
        """Keys keep their order, which is not that of the alphabet."""
        names = ["z", "a", "10", "9", "B"]
        document = parse(json.dumps(dict.fromkeys(names, 0)))
        self.assertEqual(list(json.loads(to_text(document))), names)

    def test_numbers(self) -> None:
        """Whole numbers are exact, and others keep each digit that was written."""
        for number in (
            "9007199254740993",
            "123456789012345678901234567890",
            "1.50",
            "1E5",
            "-0.0",
        ):
            with self.subTest(number=number):
                self.assertEqual(
                    to_text(parse(f'{{"a": {number}}}')), f'{{\n  "a": {number}\n}}\n'
                )

    @given(text=FLOATS)
    def test_any_float(self, text: str) -> None:
        """A number with a fraction or an exponent is the same number, and is written again so."""
        value = parse(f'{{"a": {text}}}')["a"]
        self.assertEqual(value, float(text))
        self.assertIsInstance(value, float)
        self.assertIn(f" {text}\n", to_text({"a": value}))

    def test_float_copies(self) -> None:
        """A copy of such a number is written as the number was, however it is made."""
        value = FloatAsWritten("1.50")
        for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            self.assertEqual(to_text({"a": other}), '{\n  "a": 1.50\n}\n')

    def test_half_a_pair(self) -> None:
        """A text with half of a surrogate pair stays an escape, for UTF-8 has no such thing."""
        text = to_text(parse(r'{"a": "\ud800 妙", "b": "\ud83d\ude00"}'))
        text.encode("utf-8")
        self.assertEqual(json.loads(text), {"a": "\ud800 妙", "b": "😀"})
        self.assertIn("😀", text)

    def test_no_json(self) -> None:
        """What JSON cannot say is not written."""
        for value in (float("nan"), float("inf")):
            self.assertRaises(ValueError, to_text, {"a": value})
        self.assertRaises(TypeError, to_text, {"a": object()})

    @given(value=JSON)
    def test_any_value(self, value: Any) -> None:
        """Whatever is written is read again as the same."""
        self.assertEqual(parse(to_text({"v": value})), {"v": value})


class CommentTests(SynchronousTestCase):
    """Whether there are comments to lose."""

    def test_comments(self) -> None:
        """Each style counts, and none within a text does."""
        for text in ("{} // x", "{} # x", "/* x */ {}", '{"a": "//" /**/}'):
            self.assertTrue(has_comments(text), text)
        for text in ("{}", '{"a": "// x"}', '{"http://x": "# /* */"}', r'{"a": "\"//"}'):
            self.assertFalse(has_comments(text), text)


class SectionTests(SynchronousTestCase):
    """Whatever stands where an object or a list should, the answer has the right shape."""

    JUNK = (None, 1, "x", True, 1.5)

    def test_section(self) -> None:
        """A section is its object, or an empty one for anything else."""
        self.assertEqual(section({"api": {"tag": "a"}}, "api"), {"tag": "a"})
        self.assertEqual(section({}, "api"), {})
        for junk in (*self.JUNK, [1]):
            self.assertEqual(section({"api": junk}, "api"), {})

    def test_objects(self) -> None:
        """Of a list only the objects are given, of anything else nothing."""
        self.assertEqual(list(objects({"i": [{"a": 1}, None, "x", [], {}]}, "i")), [{"a": 1}, {}])
        for junk in (*self.JUNK, {"a": {}}):
            self.assertEqual(list(objects({"i": junk}, "i")), [])

    def test_texts(self) -> None:
        """A text or a list of texts becomes a tuple; the rest falls away."""
        self.assertEqual(texts("a"), ("a",))
        self.assertEqual(texts(["a", 1, None, "b"]), ("a", "b"))
        for junk in (None, 1, {"a": "b"}):
            self.assertEqual(texts(junk), ())

    def test_rules(self) -> None:
        """The routing rules come in their order."""
        document = {"routing": {"rules": [{"outboundTag": "a"}, 7, {"outboundTag": "b"}]}}
        self.assertEqual([rule["outboundTag"] for rule in rules(document)], ["a", "b"])
        self.assertEqual(list(rules({"routing": []})), [])


def with_rule(inbound_tag: object, outbound_tag: object, *inbounds: object) -> dict[str, Any]:
    """Return a configuration of one rule, whose API has the tag "management"."""
    rule = {"inboundTag": inbound_tag, "outboundTag": outbound_tag}
    return {
        "api": {"tag": "management"},
        "routing": {"rules": [rule]},
        "inbounds": list(inbounds),
    }


class InboundTests(SynchronousTestCase):
    """Which inbounds lead where."""

    def test_by_text_and_by_list(self) -> None:
        """A rule may name its inbounds by one text or by a list."""
        a, b, c = {"tag": "a"}, {"tag": "b"}, {"tag": "c"}
        for tag, expected in (("a", [a]), (["b", "c"], [b, c]), ([], []), (None, [])):
            with self.subTest(tag=tag):
                document = with_rule(tag, "out", a, b, c)
                self.assertEqual(list(inbounds_leading_to(document, "out")), expected)
        self.assertEqual(list(inbounds_leading_to(with_rule("a", "out", a), "other")), [])

    def test_wrong_tags_lead_nowhere(self) -> None:
        """Tags that are no texts are passed over."""
        wrong = [{"tag": []}, {"tag": {}}, {"tag": None}, {"tag": 1}, {}, "a"]
        document = with_rule(["a", [], None, 1], "out", *wrong, {"tag": "a"})
        self.assertEqual(list(inbounds_leading_to(document, "out")), [{"tag": "a"}])
        self.assertEqual(
            list(inbounds_leading_to(with_rule("a", ["out"], {"tag": "a"}), "out")), []
        )

    def test_the_api_serves_no_users(self) -> None:
        """The inbound that leads to the API is left out, whatever its tag; so is one named api."""
        document = with_rule(
            "door", "management", {"tag": "door"}, {"tag": "vless"}, {"tag": "api"}
        )
        self.assertEqual(user_inbounds(document), ({"tag": "vless"},))

    def test_a_rule_without_outbound(self) -> None:
        """Without an API tag a rule that names no outbound does not lead to the API."""
        document = {**with_rule("a", None, {"tag": "a"}), "api": {}}
        self.assertEqual(user_inbounds(document), ({"tag": "a"},))

    def test_inbounds_without_tag_serve_users(self) -> None:
        """An inbound without a tag is somebody's; two equal ones are two."""
        document = with_rule("door", "management", {"port": 1}, {"port": 1})
        self.assertEqual(user_inbounds(document), ({"port": 1}, {"port": 1}))

    def test_no_api(self) -> None:
        """Without an API all inbounds serve users, a wrong tag of it included."""
        for api in ({}, {"api": {"tag": ["x"]}}, {"api": None}):
            self.assertEqual(user_inbounds({"inbounds": [{"tag": "a"}], **api}), ({"tag": "a"},))


class PrivateKeyTests(SynchronousTestCase):
    """What is told of a configuration holds no private key."""

    def test_each_private_key_is_left_out(self) -> None:
        """The keys of REALITY, WireGuard, TLS, ECH and VLESS go; all the rest stays as it is."""
        inbound = {
            "tag": "a",
            "settings": {
                "secretKey": "SECRET",
                "decryption": "SECRET",
                "peers": [{"publicKey": "p", "preSharedKey": "SECRET"}],
                "clients": [{"id": "u", "email": "e"}],
            },
            "streamSettings": {
                "realitySettings": {
                    "privateKey": "SECRET",
                    "mldsa65Seed": "SECRET",
                    "shortIds": ["", "a"],
                },
                "tlsSettings": {
                    "echServerKeys": "SECRET",
                    "certificates": [
                        {"certificate": ["c"], "key": ["SECRET"], "keyFile": "/k.pem"},
                        [{"key": "SECRET", "n": 1}],
                    ],
                },
            },
        }
        before = json.dumps(inbound)
        self.assertEqual(
            without_private_keys(inbound),
            {
                "tag": "a",
                "settings": {
                    "peers": [{"publicKey": "p"}],
                    "clients": [{"id": "u", "email": "e"}],
                },
                "streamSettings": {
                    "realitySettings": {"shortIds": ["", "a"]},
                    "tlsSettings": {
                        "certificates": [{"certificate": ["c"], "keyFile": "/k.pem"}, [{"n": 1}]]
                    },
                },
            },
        )
        self.assertEqual(json.dumps(inbound), before, "the configuration itself was changed")
