"""Tests of the tokens and what each of them opens."""

from __future__ import annotations

import hmac
import os
import re
import stat
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.credentials import GRACE, TOKEN_FILE, Credentials, Scope, kept_child_api_token

SERVER, CHILD = "server-token", "child-token"
TOKENS = st.none() | st.text(max_size=3)


class AcceptsTests(SynchronousTestCase):
    """A token opens its scope and nothing else."""

    def opened(self, tokens: Credentials, offered: bytes) -> set[Scope]:
        """Return the scopes that `offered` opens."""
        return {scope for scope in Scope if tokens.accepts(offered, scope)}

    def test_both_tokens(self) -> None:
        """The server token opens everything, the child API token the pull endpoints alone."""
        tokens = Credentials(SERVER, CHILD)
        self.assertEqual(self.opened(tokens, SERVER.encode()), {Scope.PULL, Scope.MANAGE})
        self.assertEqual(self.opened(tokens, CHILD.encode()), {Scope.PULL})

    def test_server_token_alone(self) -> None:
        """Without a child API token the server token opens everything."""
        for absent in (None, ""):
            tokens = Credentials(SERVER, absent)
            self.assertEqual(self.opened(tokens, SERVER.encode()), {Scope.PULL, Scope.MANAGE})

    def test_child_token_alone(self) -> None:
        """A child API token that is the only token there is opens everything."""
        for absent in (None, ""):
            tokens = Credentials(absent, CHILD)
            self.assertEqual(self.opened(tokens, CHILD.encode()), {Scope.PULL, Scope.MANAGE})

    def test_wrong_tokens(self) -> None:
        """Nothing but the very token fits: no other case, blank, part, or bytes of any kind."""
        tokens = Credentials(SERVER, CHILD)
        for offered in (
            b"",
            b"server",
            b"server-tokens",
            b"Server-token",
            b" server-token",
            b"server-token ",
            b"server-token\0",
            b"server-tokenchild-token",
            b"None",
            b"\xff\xfe\x00",
            "sérver-token".encode(),
            "server-token".encode("utf-16"),
        ):
            with self.subTest(offered=offered):
                self.assertEqual(self.opened(tokens, offered), set())

    def test_no_token_no_entry(self) -> None:
        """Where there is no token nothing fits, an empty one least of all."""
        for server in (None, ""):
            for child in (None, ""):
                tokens = Credentials(server, child)
                self.assertFalse(tokens.any())
                for offered in (b"", b"None", b"x"):
                    self.assertEqual(self.opened(tokens, offered), set())

    def test_any(self) -> None:
        """One token of either kind is enough to let somebody in."""
        self.assertTrue(Credentials(SERVER, None).any())
        self.assertTrue(Credentials(None, CHILD).any())

    def test_a_new_token_counts_at_once(self) -> None:
        """A token that is changed holds from the next request on, and the old one no more."""
        tokens = Credentials(SERVER, CHILD)
        tokens.server_token = "new"
        self.assertEqual(self.opened(tokens, b"new"), {Scope.PULL, Scope.MANAGE})
        self.assertEqual(self.opened(tokens, SERVER.encode()), set())

    def test_all_tokens_are_compared(self) -> None:
        """Each token is compared whichever fits, by digests of one length: time tells nothing."""
        compared: list[tuple[int, int]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return one == other

        self.patch(hmac, "compare_digest", compare)
        tokens = Credentials("s", "a-long-child-token")
        for offered in (b"s", b"a-long-child-token", b"", b"x" * 1000):
            compared.clear()
            tokens.accepts(offered, Scope.PULL)
            self.assertEqual(compared, [(32, 32), (32, 32)])

    def test_not_shown(self) -> None:
        """The text form, which a log might show, holds no token."""
        self.assertNotRegex(repr(Credentials(SERVER, CHILD)), "server-token|child-token")

    @given(TOKENS, TOKENS, st.text(max_size=3), st.sampled_from(Scope))
    def test_the_whole_rule(
        self, server: str | None, child: str | None, offered: str, scope: Scope
    ) -> None:
        """For any tokens, of any characters, the rule of the two scopes holds."""
        opens = [server] if scope is Scope.MANAGE and server else [server, child]
        expected = offered != "" and offered in opens
        tokens = Credentials(server, child)
        self.assertEqual(tokens.accepts(offered.encode(), scope), expected)


class KeptTokenTests(SynchronousTestCase):
    """A token is generated once and kept."""

    def setUp(self) -> None:
        """Name a directory that is not there yet."""
        self.directory = Path(self.mktemp()) / "state"
        self.file = self.directory / TOKEN_FILE

    def mode(self, path: Path) -> int:
        """Return the permissions of a file."""
        return stat.S_IMODE(path.stat().st_mode)

    def test_made_once(self) -> None:
        """The first call makes a long random token, each later one gives the same."""
        token, made = kept_child_api_token(str(self.directory))
        self.assertTrue(made)
        self.assertTrue(re.fullmatch(r"[\w-]{43}", token), "32 random bytes, fit for a header")
        self.assertEqual(kept_child_api_token(str(self.directory)), (token, False))
        self.assertEqual(self.file.read_text(), f"{token}\n")
        other, _ = kept_child_api_token(self.mktemp())
        self.assertNotEqual(other, token)

    def test_for_its_owner_alone(self) -> None:
        """File and directory are their owner's alone, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        kept_child_api_token(str(self.directory))
        self.assertEqual(self.mode(self.file), 0o600)
        self.assertEqual(self.mode(self.directory), 0o700)
        self.assertEqual(os.listdir(self.directory), [TOKEN_FILE])

    def test_a_token_put_there_by_hand(self) -> None:
        """What somebody wrote into the file is the token, without the blanks around it."""
        self.directory.mkdir(parents=True)
        self.file.write_text("  by-hand\n\n")
        self.assertEqual(kept_child_api_token(str(self.directory)), ("by-hand", False))

    def test_a_damaged_file(self) -> None:
        """A file that holds no token is replaced, and what it let others read is not."""
        self.directory.mkdir(parents=True)
        for junk in (b"", b" \n", b"\xff\xfe"):
            with self.subTest(junk=junk):
                self.file.write_bytes(junk)
                self.file.chmod(0o644)
                token, made = kept_child_api_token(str(self.directory))
                self.assertTrue(made)
                self.assertEqual(self.file.read_text(), f"{token}\n")
                self.assertEqual(self.mode(self.file), 0o600)

    def test_a_directory_that_cannot_be(self) -> None:
        """Where there can be no such directory it is an OSError, as when it is a file."""
        self.directory.parent.mkdir()
        self.directory.write_text("a file")
        self.assertRaises(OSError, kept_child_api_token, str(self.directory))


class RotationTests(SynchronousTestCase):
    """A new server token, and how long the one before it is let in."""

    def setUp(self) -> None:
        """Take the time from a clock."""
        self.clock = Clock()
        self.tokens = Credentials(SERVER, CHILD, self.clock.seconds)

    def opened(self, offered: str) -> set[Scope]:
        """Return the scopes that `offered` opens."""
        return {scope for scope in Scope if self.tokens.accepts(offered.encode(), scope)}

    def test_at_once(self) -> None:
        """The new token opens everything from the very moment, and the child's stays as it is."""
        self.assertTrue(self.tokens.rotate("new"))
        self.assertEqual(self.opened("new"), set(Scope))
        self.assertEqual(self.opened(CHILD), {Scope.PULL})
        self.assertEqual(self.tokens.server_token, "new")

    def test_grace(self) -> None:
        """The old token opens what it opened for a minute, for what was under way; then not."""
        self.tokens.rotate("new")
        self.clock.advance(GRACE - 0.1)
        self.assertEqual(self.opened(SERVER), set(Scope))
        self.clock.advance(0.1)
        self.assertEqual(self.opened(SERVER), set())
        self.assertEqual(self.opened("new"), set(Scope))

    def test_one_only(self) -> None:
        """Only the last of the old tokens is let in, and its minute begins with its own end."""
        self.tokens.rotate("second")
        self.clock.advance(50)
        self.tokens.rotate("third")
        self.assertEqual(self.opened(SERVER), set())
        self.clock.advance(59)
        self.assertEqual(self.opened("second"), set(Scope))
        self.clock.advance(1)
        self.assertEqual(self.opened("second"), set())

    def test_the_same(self) -> None:
        """The token that is in force changes nothing, and gives no old one another minute."""
        self.tokens.rotate("new")
        self.clock.advance(30)
        self.assertFalse(self.tokens.rotate("new"))
        self.clock.advance(30)
        self.assertEqual(self.opened(SERVER), set())

    def test_there_and_back(self) -> None:
        """A rotation back to the old token makes it count for good."""
        self.tokens.rotate("new")
        self.tokens.rotate(SERVER)
        self.clock.advance(3600)
        self.assertEqual(self.opened(SERVER), set(Scope))
        self.assertEqual(self.opened("new"), set())

    def test_first_token(self) -> None:
        """Where there was no server token none is let in for it."""
        self.tokens = Credentials(None, CHILD, self.clock.seconds)
        self.tokens.rotate("new")
        for offered in ("", "None"):
            self.assertEqual(self.opened(offered), set())
        self.assertEqual(self.opened(CHILD), {Scope.PULL})

    def test_not_shown(self) -> None:
        """The text form holds neither the new token nor the old one."""
        self.tokens.rotate("brand-new")
        self.assertNotRegex(repr(self.tokens), "server-token|child-token|brand-new")

    def test_monotonic_clock(self) -> None:
        """The minute is told by a clock that nobody can set."""
        self.assertIs(Credentials(SERVER).seconds, time.monotonic)
