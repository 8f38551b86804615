"""Tests of keeping a new server token, on real files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from difflib import ndiff
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from mmwagent import settings, token_store
from mmwagent.settings_table import Settings
from mmwagent.token_store import STATE_FILE, TokenStore

NEW = "n3w-token"
MASTER = "master_server: https://master.example.com"


class Case(SynchronousTestCase):
    """A settings file and a state directory."""

    def setUp(self) -> None:
        """Make a directory; there is neither file nor state in it yet."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file = self.directory / "config.yaml"
        self.state = self.directory / "state"

    def write(self, content: str, mode: int = 0o600) -> None:
        """Write the settings file, its line ends as they are."""
        self.file.write_bytes(content.encode())
        self.file.chmod(mode)

    def load(self, **environ: str) -> Settings:
        """Load the settings as the agent does at its start."""
        return settings.load(
            str(self.file) if self.file.exists() else None,
            {"STATE_DIRECTORY": str(self.state), **environ},
        )

    def store(self, loaded: Settings) -> TokenStore:
        """Return the store of an agent that has started with these settings."""
        file = loaded.path if loaded.token_from == "file" else None
        return TokenStore(loaded.remote_token, file, loaded.state_directory)

    def token(self, **environ: str) -> str | None:
        """Return the token with which the agent would start now."""
        loaded = self.load(**environ)
        return self.store(loaded).kept() or loaded.remote_token

    def unwritable(self) -> None:
        """Let nothing be written beside the settings file: root may write where it is barred."""
        write = token_store.write_atomically

        def refuse(path: Path, data: bytes, **options: int) -> None:
            if path == self.file:
                raise OSError(30, "Read-only file system", str(path))
            write(path, data, **options)

        self.patch(token_store, "write_atomically", refuse)


class SettingsFileTests(Case):
    """A token that came from the settings file."""

    def test_only_the_value_changes(self) -> None:
        """In every style of file the value alone changes, and the agent loads it again."""
        for content in (
            f"# Top\n{MASTER}\nremote_token: old # the token\nlisten_port: 1234\n\n# End\n",
            f"{MASTER}\ntoken: old\nmode: remote\n",
            f'{MASTER}\nremote_token: "old"\n',
            f"{MASTER}\nremote_token: 'old'\n",
            f"{MASTER}\nremote_token: old",
            f"{MASTER}\r\nremote_token: old # c\r\nlisten_port: 1234\r\n",
            f"\ufeff{MASTER}\r\ntoken: 'old'\r\n",
            '{master_server: "https://m.example.com", remote_token: old, listen_port: 1234}\n',
            '{"master_server":"https://master.example.com","token":"old"}',
            f"{MASTER}\nremote_token:\ntoken: old\n",
            f"---\n{MASTER} # 主控\nremote_token: old\nxray_servers:\n  - config_path: /a.json\n",
        ):
            with self.subTest(content=content):
                self.write(content)
                before = self.load()
                self.assertEqual(before.remote_token, "old")
                saved = self.store(before).save(NEW)
                self.assertEqual(saved, str(self.file))
                written = self.file.read_bytes().decode()
                quoted = next(q for q in ("'old'", '"old"', "old") if q in content)
                self.assertEqual(written, content.replace(quoted, f'"{NEW}"'))
                lines = ndiff(content.splitlines(), written.splitlines())
                self.assertEqual(len([line for line in lines if line[0] in "+-"]), 2)
                after = self.load()
                self.assertEqual(after.remote_token, NEW)
                self.assertEqual(after.listen_port, before.listen_port)
                self.assertEqual(after.warnings, before.warnings)
                self.assertFalse(self.state.exists())

    def test_mode_and_link(self) -> None:
        """The file keeps its mode, a symbolic link stays one, and nothing is left beside it."""
        self.write(f"{MASTER}\nremote_token: old\n", 0o640)
        there = self.directory / "real" / "settings.yaml"
        there.parent.mkdir()
        self.file.rename(there)
        self.file.symlink_to(os.path.join("real", there.name))
        self.store(self.load()).save(NEW)
        self.assertTrue(self.file.is_symlink())
        self.assertEqual(stat.S_IMODE(there.stat().st_mode), 0o640)
        self.assertIn(NEW, there.read_text())
        self.assertEqual(os.listdir(there.parent), [there.name])
        self.assertEqual(self.token(), NEW)

    def test_any_token(self) -> None:
        """A token of any printable characters is the same after a restart."""
        for token in ("a#b'\"\\{}[]&*!|>%@`,", "null", "~", "0x10", "yes", "-", "1e3"):
            self.write(f"{MASTER}\nremote_token: old\n")
            self.store(self.load()).save(token)
            self.assertEqual(self.token(), token)

    def test_again_and_again(self) -> None:
        """Each new token replaces the one before."""
        self.write(f"{MASTER}\nremote_token: old\n")
        store = self.store(self.load())
        for number in range(3):
            store.save(f"token-{number}")
            self.assertEqual(self.token(), f"token-{number}")
        self.assertEqual(self.file.read_text(), f'{MASTER}\nremote_token: "token-2"\n')


class StateDirectoryTests(Case):
    """A token that cannot be written to a settings file."""

    def test_unwritable_file(self) -> None:
        """Where the file cannot be written the token goes into the state directory, said aloud."""
        self.write(f"{MASTER}\nremote_token: s3cret-old\n")
        self.unwritable()
        with capturedLogs() as events:
            saved = self.store(self.load()).save("s3cret-new")
        self.assertEqual(saved, str(self.state / STATE_FILE))
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.warn)
        self.assertIn("Read-only file system", formatEvent(event))
        self.assertIn(str(self.state), formatEvent(event))
        self.assertNotIn("s3cret", repr(events))
        self.assertEqual(self.token(), "s3cret-new")
        self.assertIn("s3cret-old", self.file.read_text())

    def test_files_that_cannot_be_changed(self) -> None:
        """Nor is the token lost where the file has become something else meanwhile."""
        changes: list[Callable[[], object]] = [
            lambda: self.file.unlink(),
            lambda: self.file.write_bytes(b"remote_token: \xff\xfe\n"),
            lambda: self.file.write_text("remote_token: [\n"),
            lambda: self.file.write_text("? [a]\n: b\n"),
            lambda: self.file.write_text('a: "\\UFFFFFFFF"\nremote_token: old\n'),
            lambda: self.file.write_text("remote_token: &a old\ntoken: *a\n"),
            lambda: (self.file.unlink(), self.file.mkdir()),
        ]
        for change in changes:
            self.setUp()
            self.write(f"{MASTER}\nremote_token: old\n")
            store = self.store(self.load())
            change()
            before = self.file.read_bytes() if self.file.is_file() else None
            self.assertEqual(store.save(NEW), str(self.state / STATE_FILE))
            self.assertEqual(self.file.read_bytes() if self.file.is_file() else None, before)
            self.assertEqual(TokenStore("old", None, str(self.state)).kept(), NEW)

    def test_for_its_owner_alone(self) -> None:
        """File and directory are their owner's alone, whatever the umask."""
        self.addCleanup(os.umask, os.umask(0))
        TokenStore("old", None, str(self.state)).save(NEW)
        self.assertEqual(stat.S_IMODE(self.state.stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE((self.state / STATE_FILE).stat().st_mode), 0o600)
        self.assertEqual(os.listdir(self.state), [STATE_FILE])

    def test_environment(self) -> None:
        """A token of the environment is replaced by the kept one, the file's is left alone."""
        self.write(f"{MASTER}\nremote_token: of-the-file\n")
        before = self.file.read_bytes()
        store = self.store(self.load(MMWX_MASTER_TOKEN="old"))
        self.assertIsNone(store.kept())
        self.assertEqual(store.save(NEW), str(self.state / STATE_FILE))
        self.assertEqual(self.file.read_bytes(), before)
        self.assertEqual(self.token(MMWX_MASTER_TOKEN="old"), NEW)

    def test_later_word(self) -> None:
        """When somebody sets another token after that, that one counts."""
        environ = {"MMWX_MASTER_URL": "https://master.example.com"}
        self.store(self.load(MMWX_MASTER_TOKEN="old", **environ)).save(NEW)
        self.assertEqual(self.token(MMWX_MASTER_TOKEN="newer", **environ), "newer")
        self.store(self.load(MMWX_MASTER_TOKEN="newer", **environ)).save("newest")
        self.assertEqual(self.token(MMWX_MASTER_TOKEN="newer", **environ), "newest")

    def test_later_word_in_the_file(self) -> None:
        """The same holds for a settings file that could not be written."""
        self.write(f"{MASTER}\nremote_token: old\n")
        self.unwritable()
        self.store(self.load()).save(NEW)
        self.assertEqual(self.token(), NEW)
        self.write(f"{MASTER}\nremote_token: newer\n")
        self.assertEqual(self.token(), "newer")

    def test_rotated_twice(self) -> None:
        """Of several rotations the last counts, though the agent did not restart in between."""
        store = TokenStore("old", None, str(self.state))
        for token in ("one", "two"):
            store.save(token)
        self.assertEqual(TokenStore("old", None, str(self.state)).kept(), "two")

    def test_file_then_state(self) -> None:
        """A file that takes the first token and not the second has not the last word."""
        self.write(f"{MASTER}\nremote_token: old\n")
        store = self.store(self.load())
        store.save("one")
        self.unwritable()
        store.save("two")
        self.assertIn("one", self.file.read_text())
        self.assertEqual(self.token(), "two")

    def test_state_then_file(self) -> None:
        """Once the file can be written the state directory is tidied up."""
        self.write(f"{MASTER}\nremote_token: old\n")
        write = token_store.write_atomically
        self.unwritable()
        self.store(self.load()).save("one")
        self.patch(token_store, "write_atomically", write)
        self.assertEqual(self.token(), "one")
        self.store(self.load()).save("two")
        self.assertEqual(self.token(), "two")
        self.assertEqual(os.listdir(self.state), [])

    def test_state_that_cannot_be_tidied(self) -> None:
        """A state directory that cannot be used is no failure where the file took the token."""
        self.write(f"{MASTER}\nremote_token: old\n")
        self.state.write_text("a file")
        self.assertEqual(self.store(self.load()).save(NEW), str(self.file))

    def test_nowhere(self) -> None:
        """Where neither place can be written it is an OSError, and nothing is left behind."""
        self.state.write_text("a file")
        store = TokenStore("old", None, str(self.state))
        self.assertRaises(OSError, store.save, NEW)
        self.assertEqual(self.state.read_text(), "a file")


class KeptTests(Case):
    """Reading the kept token."""

    def kept(self, content: bytes) -> tuple[str | None, list[str]]:
        """Return the token that is kept in `content`, and what the log says."""
        self.state.mkdir(exist_ok=True)
        (self.state / STATE_FILE).write_bytes(content)
        with capturedLogs() as events:
            kept = TokenStore("old", None, str(self.state)).kept()
        return kept, [formatEvent(event) or "" for event in events]

    def test_none(self) -> None:
        """Without a kept token there is none, and that is nothing to talk about."""
        with capturedLogs() as events:
            self.assertIsNone(TokenStore("old", None, str(self.state)).kept())
            self.assertIsNone(TokenStore(None, None, str(self.state)).kept())
        self.assertEqual(events, [])

    def test_no_token_in_it(self) -> None:
        """The file tells which token it replaces without holding that one."""
        TokenStore("s3cret", None, str(self.state)).save(NEW)
        content = json.loads((self.state / STATE_FILE).read_text())
        self.assertEqual(content["token"], NEW)
        self.assertNotIn("s3cret", json.dumps(content))

    def test_damaged(self) -> None:
        """A damaged file is of no use; the log names it, and the configured token counts."""
        for content in (
            b"",
            b"{",
            b"[]",
            b"null",
            b"{}",
            b'{"token": "x"}',
            b"\xff",
            b"[" * 99999,
        ):
            with self.subTest(content=content[:20]):
                kept, said = self.kept(content)
                self.assertIsNone(kept)
                self.assertEqual(len(said), 1)
                self.assertIn(f"{self.state / STATE_FILE} is of no use", said[0])

    def test_no_text(self) -> None:
        """Anything but a text in the place of the token is no token."""
        TokenStore("old", None, str(self.state)).save(NEW)
        content = json.loads((self.state / STATE_FILE).read_text())
        for token in (None, "", 5, ["x"], True):
            kept, _ = self.kept(json.dumps({**content, "token": token}).encode())
            self.assertIsNone(kept)
        kept, said = self.kept(json.dumps(content).encode())
        self.assertEqual((kept, said), (NEW, []))

    @given(st.binary(max_size=40))
    def test_any_content(self, content: bytes) -> None:
        """No content keeps the agent from starting."""
        self.kept(content)
