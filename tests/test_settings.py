"""Settings: where they come from, what they may be, and what is said when they are wrong."""

from __future__ import annotations

import json
import os
import re
from ipaddress import ip_network
from pathlib import Path

import trustme
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import mmwagent
from mmwagent import settings as settings_module
from mmwagent.master_address import master_address
from mmwagent.settings import (
    OPTIONS,
    Settings,
    SettingsError,
    XrayServerSetting,
    find_file,
    known_keys,
    load,
)
from mmwagent.settings_file import exposed_to
from mmwagent.settings_values import Context, Refused, duration, path, printable, shown

MASTER = 'master_server: "https://master.example.com"\nremote_token: "t0ken"\n'
EXAMPLE = Path(mmwagent.__file__).with_name("config.example.yaml")

README_SAMPLE = """\
master_server: "https://master.example.com"
remote_token: "your-server-token"
connection_mode: "auto"        # auto | websocket | http | pull
listen_port: 23889
child_api_token: ""            # 可选,pull模式API认证
traffic_report_interval: 60    # 秒
speed_report_interval: 3       # 秒
heartbeat_interval: 30         # 秒
xray_servers:                  # 可选,不配则自动发现
  - config_path: "/usr/local/etc/xray/config.json"
"""

# name: (as in the file, its value, as in the environment, its value); None: has no variable.
SAMPLES: dict[str, tuple[str, object, str | None, object]] = {
    "master_server": ("http://a.example", "http://a.example", "wss://b.c/x", "https://b.c/x"),
    "remote_token": ("file-token", "file-token", " variable-token ", "variable-token"),
    "connection_mode": ("pull", "pull", "HTTP", "http"),
    "listen_port": ("8080", 8080, "9090", 9090),
    "listen_address": ("127.0.0.1", "127.0.0.1", "::1", "::1"),
    "child_api_token": ("file-pull", "file-pull", "variable-pull", "variable-pull"),
    "traffic_report_interval": ("10", 10.0, "2m", 120.0),
    "speed_report_interval": ("5s", 5.0, "7", 7.0),
    "heartbeat_interval": ("20", 20.0, "45s", 45.0),
    "xray_servers": (
        "[{config_path: /a.json}]",
        (XrayServerSetting("/a.json"),),
        "/b.json:/c.json",
        (XrayServerSetting("/b.json"), XrayServerSetting("/c.json")),
    ),
    "pull_any_user_agent": ("true", True, "off", False),
    "allow_from": ("[192.0.2.0/24]", (ip_network("192.0.2.0/24"),), None, None),
    "tls_ca_file": ("one.pem", "{directory}/one.pem", "two.pem", "{directory}/two.pem"),
    "state_directory": ("/srv/one", "/srv/one", "/srv/two", "/srv/two"),
    "speed_include": ("[eth0]", ("eth0",), None, None),
    "speed_exclude": ("[wg*, docker0]", ("wg*", "docker0"), None, None),
    "log_level": ("debug", "debug", "WARN", "warn"),
}


class SettingsTestCase(SynchronousTestCase):
    """A directory for settings files, and ways to read one."""

    def setUp(self) -> None:
        """Make the directory."""
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.file = os.path.join(self.directory, "config.yaml")

    def write(self, content: str | bytes, mode: int = 0o600) -> None:
        """Write the settings file."""
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        Path(self.file).write_bytes(data)
        os.chmod(self.file, mode)

    def read(self, content: str | bytes, environ: dict[str, str] | None = None) -> Settings:
        """Write and load the settings file."""
        self.write(content)
        return load(self.file, environ or {})

    def problems(
        self, content: str | bytes, environ: dict[str, str] | None = None
    ) -> tuple[str, ...]:
        """Return what is wrong, without the directory."""
        error = self.assertRaises(SettingsError, self.read, content, environ)
        self.assertEqual(str(error), "\n".join(error.problems))
        return tuple(each.replace(self.directory + "/", "") for each in error.problems)

    def warnings(self, content: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
        """Return what is warned of, without the directory."""
        found = self.read(content, environ).warnings
        return tuple(each.replace(self.directory + "/", "") for each in found)


class PrecedenceTests(SettingsTestCase):
    """Defaults give way to the file, and the file to the environment, for every setting."""

    def setUp(self) -> None:
        """Add the certificates that samples name."""
        super().setUp()
        for name in ("one.pem", "two.pem"):
            trustme.CA().cert_pem.write_to_path(os.path.join(self.directory, name))

    def expected(self, value: object) -> object:
        """Return a sample's value, with this test's directory in it."""
        return value.format(directory=self.directory) if isinstance(value, str) else value

    def base(self, *without: str) -> str:
        """Return what is needed for settings to load, but not the keys of one setting."""
        lines = MASTER.splitlines(keepends=True)
        return "".join(line for line in lines if line.split(":")[0] not in without)

    def test_samples_cover_every_setting(self) -> None:
        """A setting that is added must be added to these tests."""
        self.assertEqual(list(SAMPLES), [option.name for option in OPTIONS])
        for option in OPTIONS:
            self.assertEqual(SAMPLES[option.name][2] is None, not option.variables, option)

    def test_file_over_default(self) -> None:
        """Each setting is taken from the file, under its name and under each alias."""
        for option in OPTIONS:
            text, value, _, _ = SAMPLES[option.name]
            for key in (option.name, *option.aliases):
                result = self.read(f"{self.base(option.name)}{key}: {text}\n")
                self.assertEqual(getattr(result, option.name), self.expected(value), key)
                self.assertNotEqual(getattr(result, option.name), option.default, key)
                self.assertEqual(result.warnings, ())

    def test_environment_over_file(self) -> None:
        """Each setting with a variable is taken from it, though the file has a value too."""
        for option in OPTIONS:
            text, _, variable_text, value = SAMPLES[option.name]
            for variable in option.variables:
                assert variable_text is not None
                environ = {variable: variable_text}
                content = f"{self.base(option.name)}{option.name}: {text}\n"
                result = self.read(content, environ)
                self.assertEqual(getattr(result, option.name), self.expected(value), variable)
                self.assertEqual(result.warnings, ())

    def test_environment_over_default(self) -> None:
        """Each variable works when the file is silent."""
        for option in OPTIONS:
            _, _, variable_text, value = SAMPLES[option.name]
            for variable in option.variables:
                assert variable_text is not None
                result = self.read(self.base(option.name), {variable: variable_text})
                self.assertEqual(getattr(result, option.name), self.expected(value), variable)

    def test_empty_variable_is_not_set(self) -> None:
        """A variable that is there but empty or blank leaves the file's value alone."""
        for option in OPTIONS:
            text, value, _, _ = SAMPLES[option.name]
            for variable in option.variables:
                for empty in ("", " \t"):
                    content = f"{self.base(option.name)}{option.name}: {text}\n"
                    result = self.read(content, {variable: empty})
                    self.assertEqual(getattr(result, option.name), self.expected(value), variable)

    def test_defaults(self) -> None:
        """What is set nowhere has the README's default."""
        result = self.read(MASTER)
        expected = Settings(
            master_server="https://master.example.com",
            remote_token="t0ken",
            connection_mode="auto",
            listen_port=23889,
            listen_address="",
            child_api_token=None,
            traffic_report_interval=60.0,
            speed_report_interval=3.0,
            heartbeat_interval=30.0,
            xray_servers=(),
            pull_any_user_agent=False,
            allow_from=(),
            tls_ca_file=None,
            state_directory="/var/lib/mmw-agent",
            speed_include=(),
            speed_exclude=(),
            log_level="info",
            path=self.file,
            token_from="file",
            warnings=(),
        )
        self.assertEqual(result, expected)

    def test_environment_alone(self) -> None:
        """The README's start without a file works."""
        environ = {"MMWX_MASTER_URL": "https://m.example", "MMWX_MASTER_TOKEN": "abc"}
        result = load(None, environ)
        self.assertEqual(
            result,
            Settings(
                master_server="https://m.example", remote_token="abc", token_from="environment"
            ),
        )

    def test_bad_file_value_is_told_though_the_environment_wins(self) -> None:
        """An overridden value is checked too, so that it does not bite later."""
        self.assertEqual(
            self.problems(MASTER + "listen_port: 0\n", {"MMWX_LISTEN_PORT": "80"}),
            ('config.yaml line 3: listen_port is "0"; it must be a whole number from 1 to 65535',),
        )

    def test_token_from(self) -> None:
        """It says where the token in force came from; an empty variable is not the place."""
        self.assertEqual(self.read(MASTER).token_from, "file")
        self.assertEqual(self.read(MASTER, {"MMWX_TOKEN": ""}).token_from, "file")
        self.assertEqual(self.read(MASTER, {"MMWX_TOKEN": "x"}).token_from, "environment")
        self.assertIsNone(self.read("connection_mode: pull").token_from)


class StateDirectoryTests(SettingsTestCase):
    """Where the agent keeps its files."""

    def test_systemd_before_the_default(self) -> None:
        """The first directory of systemd's list is used when nothing else is said."""
        result = self.read(MASTER, {"STATE_DIRECTORY": "/run/a:/run/b"})
        self.assertEqual(result.state_directory, "/run/a")
        self.assertEqual(result.warnings, ())

    def test_settings_before_systemd(self) -> None:
        """File and variable of our own win over systemd's."""
        environ = {"STATE_DIRECTORY": "/run/a"}
        self.assertEqual(self.read(MASTER + "state_directory: /b", environ).state_directory, "/b")
        environ["MMWX_STATE_DIRECTORY"] = "/c"
        self.assertEqual(self.read(MASTER, environ).state_directory, "/c")

    def test_bad_value_is_refused(self) -> None:
        """A relative one is a problem named after its variable; an empty one is not set."""
        self.assertEqual(
            self.problems(MASTER, {"STATE_DIRECTORY": "a"}),
            ('STATE_DIRECTORY: state_directory is "a"; it must be an absolute path',),
        )
        result = self.read(MASTER, {"STATE_DIRECTORY": ""})
        self.assertEqual(result.state_directory, "/var/lib/mmw-agent")


class ForeignFileTests(SettingsTestCase):
    """Files written for the README, by the master's installer and for child mode."""

    def test_readme_sample(self) -> None:
        """The README's sample loads exactly, without a warning."""
        expected = Settings(
            master_server="https://master.example.com",
            remote_token="your-server-token",
            xray_servers=(XrayServerSetting("/usr/local/etc/xray/config.json"),),
            path=self.file,
            token_from="file",
        )
        self.assertEqual(self.read(README_SAMPLE), expected)

    def test_installer_file(self) -> None:
        """The installer's names are understood; its `mode` is ignored, and said so."""
        content = (
            "mode: remote\nmaster_url: https://m.example:8443/\n"
            'token: "0f0e"\nconnection_mode: websocket\n'
        )
        result = self.read(content)
        self.assertEqual(result.master_server, "https://m.example:8443")
        self.assertEqual(result.remote_token, "0f0e")
        self.assertEqual(result.connection_mode, "websocket")
        self.assertEqual(
            self.warnings(content),
            ("config.yaml line 1: mode is ignored: the agent has only one, see connection_mode",),
        )

    def test_original_spans_and_string_port(self) -> None:
        """The original's own file has spans of time and a port in quotes."""
        result = self.read(
            MASTER + 'listen_port: "23890"\ntraffic_report_interval: 1m\n'
            "speed_report_interval: 3s\n"
        )
        self.assertEqual(result.listen_port, 23890)
        self.assertEqual(result.traffic_report_interval, 60.0)
        self.assertEqual(result.speed_report_interval, 3.0)

    def test_child_mode_port(self) -> None:
        """Child mode's `port` is another program's, and does not become listen_port."""
        result = self.read(MASTER + "port: 12889\n")
        self.assertEqual(result.listen_port, 23889)
        self.assertEqual(
            self.warnings(MASTER + "port: 12889\n"),
            (
                "config.yaml line 3: port is ignored: it belongs to another program's web page, "
                "see listen_port",
            ),
        )


class NamesTests(SettingsTestCase):
    """Two names for one setting, and names that are none."""

    def test_readme_name_wins_over_alias(self) -> None:
        """With different values the README's name wins whatever the order, with a warning."""
        names = "token: other\nmaster_url: https://other.example\n"
        for content in (MASTER + names, names + MASTER):
            result = self.read(content)
            self.assertEqual(result.master_server, "https://master.example.com")
            self.assertEqual(result.remote_token, "t0ken")
            self.assertEqual(
                sorted(result.warnings),
                [
                    "master_server and master_url differ; master_server is used",
                    "remote_token and token differ; remote_token is used",
                ],
            )

    def test_same_value_under_both_names(self) -> None:
        """Values that mean the same are no matter for a warning."""
        content = MASTER + "master_url: https://MASTER.example.com/\ntoken: t0ken\n"
        self.assertEqual(self.warnings(content), ())

    def test_empty_name_leaves_the_alias(self) -> None:
        """An empty README name does not hide a filled alias."""
        result = self.read('remote_token: ""\ntoken: abc\nmaster_server: https://a.b\n')
        self.assertEqual(result.remote_token, "abc")
        self.assertEqual(result.warnings, ())

    def test_readme_variable_wins(self) -> None:
        """MMWX_MASTER_TOKEN wins over MMWX_TOKEN, and the warning shows neither value."""
        result = self.read(MASTER, {"MMWX_TOKEN": "old", "MMWX_MASTER_TOKEN": "new"})
        self.assertEqual(result.remote_token, "new")
        self.assertEqual(
            result.warnings,
            ("MMWX_MASTER_TOKEN and MMWX_TOKEN differ; MMWX_MASTER_TOKEN is used",),
        )

    def test_slip_is_a_problem(self) -> None:
        """A key close to a known one would lose a setting in silence, so it is refused."""
        for slip, meant in (
            ("listen_prot", "listen_port"),
            ("Listen_Port", "listen_port"),
            ("heartbeat-interval", "heartbeat_interval"),
            ("remoteToken", "remote_token"),
            ("master_uri", "master_url"),
            ("traffic_interval", "traffic_report_interval"),
        ):
            self.assertEqual(
                self.problems(f"{MASTER}{slip}: 1\n"),
                (f'config.yaml line 3: "{slip}" is no setting; did you mean {meant}?',),
            )

    def test_stranger_is_a_warning(self) -> None:
        """A key like no other is ignored with a warning, with the nearest if there is one."""
        self.assertEqual(
            self.warnings(MASTER + "log_file: /x\nzzz: {a: [1]}\n"),
            (
                'config.yaml line 3: "log_file" is no setting and is ignored; the nearest known '
                "one is log_level",
                'config.yaml line 4: "zzz" is no setting and is ignored',
            ),
        )

    def test_strange_variables_are_warnings(self) -> None:
        """An unknown variable of the family is named with the nearest; others are not ours."""
        environ = {"MMWX_LISTENPORT": "1", "MMWX_QQQ": "s3cret", "PORT": "1", "LISTEN_PORT": "1"}
        self.assertEqual(
            self.warnings(MASTER, environ),
            (
                '"MMWX_LISTENPORT" is no setting of the agent; the nearest known one is '
                "MMWX_LISTEN_PORT",
                '"MMWX_QQQ" is no setting of the agent',
            ),
        )

    def test_odd_key_is_not_repeated(self) -> None:
        """A key that is no plain word may be a secret without its colon: only its line is said."""
        self.assertEqual(
            self.warnings(MASTER + '"remember s3cret": x\n'),
            ("config.yaml line 3: a key is no setting and is ignored",),
        )

    def test_known_keys(self) -> None:
        """Names and aliases are known, each once."""
        keys = known_keys()
        self.assertEqual(len(keys), len(set(keys)))
        self.assertEqual(set(keys), {option.name for option in OPTIONS} | {"master_url", "token"})


class RequiredTests(SettingsTestCase):
    """What must be set, and when."""

    MASTER_MISSING = (
        "master_server is missing: set master_server in the settings file or MMWX_MASTER_URL in "
        "the environment; only connection_mode pull can do without"
    )
    TOKEN_MISSING = (
        "remote_token is missing: set remote_token in the settings file or MMWX_MASTER_TOKEN in "
        "the environment; only connection_mode pull can do without"
    )

    def test_pushing_modes_need_both(self) -> None:
        """Every mode that calls the master needs its address and the token."""
        for mode in ("auto", "websocket", "http"):
            self.assertEqual(
                self.problems(f"connection_mode: {mode}"),
                (self.MASTER_MISSING, self.TOKEN_MISSING),
            )
        self.assertEqual(self.problems("token: abc"), (self.MASTER_MISSING,))
        self.assertEqual(self.problems("master_url: http://a.b"), (self.TOKEN_MISSING,))

    def test_empty_counts_as_missing(self) -> None:
        """Empty values and an empty file set nothing."""
        for content in ("", "# remark\n", "~", "---\n", "remote_token:\nmaster_server: ' '\n"):
            self.assertEqual(self.problems(content), (self.MASTER_MISSING, self.TOKEN_MISSING))

    def test_nothing_at_all(self) -> None:
        """Neither file nor environment: it says what is needed."""
        error = self.assertRaises(SettingsError, load, None, {})
        self.assertEqual(error.problems, (self.MASTER_MISSING, self.TOKEN_MISSING))

    def test_pull_needs_neither(self) -> None:
        """Pull mode starts without master and token, and takes either of them."""
        self.assertIsNone(self.read("connection_mode: pull").remote_token)
        self.assertEqual(self.read("connection_mode: pull\ntoken: a").remote_token, "a")
        self.assertEqual(load(None, {"MMWX_CONNECTION_MODE": "pull"}).path, None)

    def test_wrong_is_not_missing(self) -> None:
        """A wrong value is told once, not also as missing."""
        for content in ("master_server: x\ntoken: a b\n", "master_url: {a: b}\ntoken: [[c]]\n"):
            problems = self.problems(content)
            self.assertEqual(len(problems), 2)
            self.assertFalse(any("missing" in each for each in problems))

    def test_unknown_mode_asks_for_nothing(self) -> None:
        """With a wrong mode nobody can know what is needed."""
        self.assertEqual(
            self.problems("connection_mode: websockets"),
            (
                'config.yaml line 1: connection_mode is "websockets"; it must be one of auto, '
                "websocket, http, pull",
            ),
        )

    def test_unreadable_file_does_not_make_things_missing(self) -> None:
        """Nothing is called missing when a file is broken; the environment is still checked."""
        self.assertEqual(
            self.problems("remote_token: 'abc\n", {"MMWX_LISTEN_PORT": "x"}),
            (
                "config.yaml line 1 column 15: a quote that is opened here is never closed",
                'MMWX_LISTEN_PORT: listen_port is "x"; it must be a whole number from 1 to 65535',
            ),
        )


class RefusalTests(SettingsTestCase):
    """Each wrong value is told with its place, name, value and what it must be."""

    def test_messages(self) -> None:
        """The whole message, for one or more wrong values of every setting."""
        span = "be seconds, or a span such as 90s, 1m30s or 500ms, from"
        pattern = "be an interface name or pattern such as eth0 or wg*"
        network = "be an IP address or network such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        token = "be printable ASCII without spaces inside, at most 4096 characters"
        cases = (
            ("master_server: m.example", '"m.example"', "begin with https:// or http://, for "
             'example "https://m.example"'),
            ("remote_token: a b", "(hidden)", token),
            ("remote_token: é", "(hidden)", token),
            ("remote_token: [abc]", "a list", "be a single value"),
            ("remote_token: {abc: 1}", "a mapping", "be a single value or a plain list"),
            ('child_api_token: "a\\x07"', "(hidden)", token),
            ("connection_mode: yes", '"yes"', "be one of auto, websocket, http, pull"),
            ("connection_mode:", "empty", "be one of auto, websocket, http, pull"),
            ("listen_port: 65536", '"65536"', "be a whole number from 1 to 65535"),
            ("listen_port: 0x5D51", '"0x5D51"', "be a whole number from 1 to 65535"),
            ("listen_port: 1:30", '"1:30"', "be a whole number from 1 to 65535"),
            ("listen_port: ~", "empty", "be a whole number from 1 to 65535"),
            ("listen_port: true", '"true"', "be a whole number from 1 to 65535"),
            ("listen_port: 23889.0", '"23889.0"', "be a whole number from 1 to 65535"),
            ("listen_port: 010", '"010"', "be a whole number from 1 to 65535"),
            ("listen_port: 2_000", '"2_000"', "be a whole number from 1 to 65535"),
            ("listen_port: -1", '"-1"', "be a whole number from 1 to 65535"),
            ("listen_port: ٣", '"٣"', "be a whole number from 1 to 65535"),
            ("listen_address: eth0", '"eth0"', "be an IP address such as 127.0.0.1 or ::1, or "
             "empty for all addresses"),
            ("traffic_report_interval: 0", '"0"', f"{span} 1s to 1h"),
            ("traffic_report_interval: 3601", '"3601"', f"{span} 1s to 1h"),
            ("traffic_report_interval: 1:30", '"1:30"', f"{span} 1s to 1h"),
            ("speed_report_interval: 11m", '"11m"', f"{span} 1s to 10m"),
            ("heartbeat_interval: 241", '"241"', f"{span} 1s to 4m"),
            ("heartbeat_interval: true", '"true"', f"{span} 1s to 4m"),
            ("heartbeat_interval: ''", "empty", f"{span} 1s to 4m"),
            ("xray_servers: [x.json]", '"x.json"', "be an absolute path"),
            ('xray_servers: ["/a\\0b"]', '"/a\\x00b"', "be an absolute path"),
            ("xray_servers: [~]", "empty", "be an absolute path"),
            ("xray_servers: [{}]", "an empty entry", "hold config_path"),
            ("xray_servers: [{config_path: }]", "empty", "be an absolute path"),
            ("xray_servers: [{path: /a}]", 'an entry with "path"', "hold nothing but config_path"),
            ("xray_servers: [[/a]]", "a list in a list", "be a single value or a plain list"),
            ("xray_servers: {config_path: /a}", "a mapping", "be a single value or a plain list"),
            ("pull_any_user_agent: maybe", '"maybe"', "be true or false"),
            ("pull_any_user_agent:", "empty", "be true or false"),
            ("allow_from: []", "empty", "hold at least one entry, or be left out"),
            ("allow_from:", "empty", "hold at least one entry, or be left out"),
            ("allow_from: [10.1.2.3/8]", '"10.1.2.3/8"', f"{network} (did you mean 10.0.0.0/8?)"),
            ("allow_from: [home]", '"home"', network),
            ("allow_from: [{a: b}]", "a mapping", "be a single value"),
            ("state_directory: data", '"data"', "be an absolute path"),
            ("state_directory: ''", "empty", "be an absolute path"),
            ("speed_include: [eth 0]", '"eth 0"', pattern),
            ("speed_exclude: [a/b]", '"a/b"', pattern),
            ("log_level: loud", '"loud"', "be one of debug, info, warn, error"),
            ("log_level: !shout info", "a value with a YAML tag (!)", "be plain text; put it in "
             "quotes"),
            ("log_level: !!null info", "a value with a YAML tag (!)", "be plain text; put it in "
             "quotes"),
            ("speed_include: [" + "a," * 257 + "]", "a very long list",
             "hold at most 256 entries"),
        )  # fmt: skip
        rest = "connection_mode: pull\n"
        for line, value, must in cases:
            name = line.split(":")[0]
            lead = "" if name == "connection_mode" else rest
            number = 1 if not lead else 2
            self.assertEqual(
                self.problems(lead + line + "\n"),
                (f"config.yaml line {number}: {name} is {value}; it must {must}",),
                line,
            )
        self.assertEqual({line.split(":")[0] for line, _, _ in cases} | {"tls_ca_file"},
                         {option.name for option in OPTIONS})  # fmt: skip

    def test_alias_is_named_with_its_setting(self) -> None:
        """A wrong value under an alias is told under the name that was written."""
        self.assertEqual(
            self.problems("token: a b\nmaster_url: https://a.b\n")[0].split(";")[0],
            "config.yaml line 1: token (remote_token) is (hidden)",
        )

    def test_variable_is_named(self) -> None:
        """A wrong value of the environment is told with its variable."""
        self.assertEqual(
            self.problems(MASTER, {"MMWX_SPEED_INTERVAL": "fast"}),
            (
                'MMWX_SPEED_INTERVAL: speed_report_interval is "fast"; it must be seconds, or a '
                "span such as 90s, 1m30s or 500ms, from 1s to 10m",
            ),
        )

    def test_everything_at_once(self) -> None:
        """All problems of file and environment come together, every bad list entry included."""
        problems = self.problems(
            "listen_port: x\nxray_servers: [a, /ok, b]\nlog_levle: info\nlisten_port: 3\n",
            {"MMWX_HEARTBEAT_INTERVAL": "1d", "MMWX_LOG_LEVEL": "?"},
        )
        starts = [each.split(";")[0].split(" is missing")[0] for each in problems]
        self.assertEqual(
            starts,
            [
                'config.yaml line 4: "listen_port" is given twice, first on line 1',
                'config.yaml line 1: listen_port is "x"',
                'config.yaml line 2: xray_servers is "a"',
                'config.yaml line 2: xray_servers is "b"',
                'config.yaml line 3: "log_levle" is no setting',
                'MMWX_HEARTBEAT_INTERVAL: heartbeat_interval is "1d"',
                'MMWX_LOG_LEVEL: log_level is "?"',
                "master_server",
                "remote_token",
            ],
        )

    def test_shown_values_are_tame(self) -> None:
        """Values in messages are one printable line of bounded length."""
        self.assertEqual(shown("a\nb\x1b[31m\ud800"), '"a\\nb\\x1b[31m\\ud800"')
        self.assertEqual(len(shown("x" * 1000)), 205)
        self.assertEqual(printable("主控 é"), "主控 é")


class ValueTests(SettingsTestCase):
    """What the settings take, beyond the samples above."""

    def test_spans(self) -> None:
        """Seconds, fractions and spans of hours, minutes, seconds and milliseconds are read."""
        parse = duration(0, 10_000)
        context = Context(None, self.fail)
        for text, seconds in (
            ("60", 60.0),
            ("2.5", 2.5),
            (" 7 ", 7.0),
            ("60s", 60.0),
            ("1m", 60.0),
            ("1m30s", 90.0),
            ("500ms", 0.5),
            ("1h", 3600.0),
            ("1h1m1s1ms", 3661.001),
            ("1.5m", 90.0),
            ("0", 0.0),
        ):
            self.assertAlmostEqual(parse(text, context), seconds, msg=text)

    def test_no_spans(self) -> None:
        """Text that only looks like a span of time is refused, and so is what no clock takes."""
        parse = duration(0, 10_000)
        for text in (
            *("", " ", "s", "1 s", "s1", "1s1m", "1m1m", "-1", "+1", "1e3", "1_0", "01"),
            *("nan", "inf", ".inf", ".nan", "1:30", "0x10", "1d", "1M", "٣", "1,5", "1.", ".5"),
            *("9" * 400, "9" * 400 + "h", "true", "1h 1m", "1\n2"),
        ):
            self.assertRaises(Refused, parse, text, Context(None, self.fail))

    @given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
    def test_spans_add_up(self, hours: int, minutes: int, seconds: int, thousandths: int) -> None:
        """A span is the sum of its parts."""
        text = f"{hours}h{minutes}m{seconds}s{thousandths}ms"
        expected = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        value = duration(0, 86_400)(text, Context(None, self.fail))
        self.assertAlmostEqual(value, expected)

    def test_interval_limits(self) -> None:
        """The documented ends of each range are inside it."""
        for name, low, high in (
            ("traffic_report_interval", "1", "1h"),
            ("speed_report_interval", "1000ms", "10m"),
            ("heartbeat_interval", "1.0", "4m"),
        ):
            for text in (low, high):
                self.assertTrue(getattr(self.read(f"{MASTER}{name}: {text}\n"), name))

    def test_slow_heartbeat_is_warned_of(self) -> None:
        """Above the master's patience of 60 s there is a warning, at 60 s there is none."""
        self.assertEqual(self.warnings(MASTER + "heartbeat_interval: 60\n"), ())
        self.assertEqual(
            self.warnings(MASTER + "heartbeat_interval: 61\n"),
            ("heartbeat_interval: above 60s the master may show this server offline",),
        )

    def test_heartbeat_warning_follows_the_value_in_force(self) -> None:
        """A slow heartbeat that the environment overrides is no matter."""
        environ = {"MMWX_HEARTBEAT_INTERVAL": "30"}
        self.assertEqual(self.warnings(MASTER + "heartbeat_interval: 90\n", environ), ())

    def test_token_as_written(self) -> None:
        """A token without quotes stays the text it is, whatever YAML would make of it."""
        for token in ("00123", "1e3", "0x10", "1:30", "yes", "true", "2024-01-01", "1_000", ".5"):
            content = f"master_server: https://a.b\nremote_token: {token}\n"
            self.assertEqual(self.read(content).remote_token, token)
        self.assertEqual(
            self.read('master_url: http://a.b\nremote_token: "null"').remote_token, "null"
        )

    def test_token_is_trimmed(self) -> None:
        """Blanks around a token, as pasting leaves them, are dropped."""
        content = 'master_server: https://a.b\nremote_token: "\\t abc \\n"\n'
        self.assertEqual(self.read(content).remote_token, "abc")

    def test_words_in_any_case(self) -> None:
        """Mode and switches are understood in any case, with blanks around."""
        self.assertEqual(self.read(MASTER + 'connection_mode: " WebSocket "').connection_mode,
                         "websocket")  # fmt: skip
        for word, value in (("Yes", True), ("ON", True), ("1", True), ("no", False), ("0", False)):
            result = self.read(f"{MASTER}pull_any_user_agent: {word}\n")
            self.assertIs(result.pull_any_user_agent, value)

    def test_xray_forms(self) -> None:
        """Mappings, plain paths and one text with separators mean the same."""
        expected = (XrayServerSetting("/a.json"), XrayServerSetting("/b.json"))
        for text in (
            "[{config_path: /a.json}, {config_path: /b.json}]",
            "[/a.json, /b.json]",
            "/a.json:/b.json",
            '" /a.json, /b.json, "',
            '[{config_path: " /a.json "}, " /b.json"]',
        ):
            result = self.read(f"{MASTER}xray_servers: {text}\n")
            self.assertEqual(result.xray_servers, expected, text)
        for nothing in ("[]", "", '""', "~"):
            self.assertEqual(self.read(f"{MASTER}xray_servers: {nothing}\n").xray_servers, ())

    def test_xray_repeats(self) -> None:
        """One path written twice, also in another way, is taken once with a warning."""
        content = MASTER + "xray_servers: [/x/a.json, {config_path: //x/./a.json}]\n"
        self.assertEqual(self.read(content).xray_servers, (XrayServerSetting("/x/a.json"),))
        self.assertEqual(
            self.warnings(content),
            (
                'config.yaml line 3: xray_servers: "/x/a.json" is listed more than once, it is '
                "taken once",
            ),
        )

    def test_addresses(self) -> None:
        """Addresses and networks of both families are taken, in one text as well."""
        result = self.read(
            MASTER + "listen_address: 2001:DB8::0:1\n"
            "allow_from: 192.0.2.7, 10.0.0.0/255.0.0.0, 2001:db8::/32, 192.0.2.7/32\n"
        )
        self.assertEqual(result.listen_address, "2001:db8::1")
        expected = ("192.0.2.7/32", "10.0.0.0/8", "2001:db8::/32")
        self.assertEqual(result.allow_from, tuple(ip_network(each) for each in expected))

    def test_last_port(self) -> None:
        """Both ends of the range of ports are inside it."""
        for port in (1, 65535):
            self.assertEqual(self.read(f"{MASTER}listen_port: {port}\n").listen_port, port)

    def test_longest_list(self) -> None:
        """A list may hold 256 entries."""
        names = ", ".join(f"eth{number}" for number in range(256))
        self.assertEqual(len(self.read(f"{MASTER}speed_include: [{names}]\n").speed_include), 256)

    def test_paths_are_tidied(self) -> None:
        """A path loses doubled and trailing slashes."""
        self.assertEqual(path("//srv//x/"), "/srv/x")
        self.assertRaises(Refused, path, "~/x")
        self.assertRaises(Refused, path, "/\ud800")
        self.assertEqual(path("/\udcff"), "/\udcff")


class MasterAddressTests(SynchronousTestCase):
    """The master's address in all its forms."""

    def test_understood(self) -> None:
        """Schemes, ports, sub-paths, IPv6 and international names come out in one form."""
        for text, expected in (
            ("https://master.example.com", "https://master.example.com"),
            ("HTTPS://Master.Example.COM/", "https://master.example.com"),
            ("ws://a.b", "http://a.b"),
            ("wss://a.b/", "https://a.b"),
            ("http://a.b:8080", "http://a.b:8080"),
            ("http://a.b:/", "http://a.b"),
            ("http://localhost/panel/x//", "http://localhost/panel/x"),
            ("http://a.b/%E4%B8%BB", "http://a.b/%E4%B8%BB"),
            ("http://192.0.2.1:81/", "http://192.0.2.1:81"),
            ("http://[2001:DB8::1]:81/x", "http://[2001:db8::1]:81/x"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://主控.example", "https://xn--tiq153c.example"),
            ("http://my_master.lan", "http://my_master.lan"),
        ):
            self.assertEqual(master_address(text), expected)

    def test_refused(self) -> None:
        """What is no base address is refused, with what is wrong about it."""
        scheme = "begin with https:// or http://"
        host = "have a host: a name, an IPv4 address, or an IPv6 address in [ ]"
        brackets = "have a host, and a port as :number; an IPv6 address needs [ ]"
        number = "have a port from 1 to 65535"
        user = "hold no user name or password"
        query = "have no query (?) and no fragment (#)"
        plain = "have a path of plain URL characters, others percent-encoded"
        for text, value, must in (
            ("a.b", "a.b", f'{scheme}, for example "https://a.b"'),
            ("a.b:8080/x", "a.b:8080/x", f'{scheme}, for example "https://a.b:8080/x"'),
            ("ftp://a.b", "ftp://a.b", scheme),
            ("://a.b", "://a.b", scheme),
            ("https://", "https://", host),
            ("https:///x", "https:///x", host),
            ("https://a..b", "https://a..b", host),
            ("https://-a.b", "https://-a.b", host),
            ("https://a b", "https://a b", host),
            ("https://a\tb", "https://a\\tb", host),
            ("https://256.1.1.1", "https://256.1.1.1", host),
            ("https://1.2.3", "https://1.2.3", host),
            ("https://" + "a." * 130 + "b", "https://" + "a." * 96 + "...", host),
            ("https://" + "a" * 64, "https://" + "a" * 64, host),
            ("https://\u2603\u202e.example", "https://\u2603\\u202e.example", host),
            ("https://[::1", "https://[::1", brackets),
            ("https://[::g]", "https://[::g]", host),
            ("https://[fe80::1%eth0]", "https://[fe80::1%eth0]", host),
            ("https://::1", "https://::1", brackets),
            ("https://a.b:0", "https://a.b:0", number),
            ("https://a.b:70000", "https://a.b:70000", number),
            ("https://a.b:x", "https://a.b:x", brackets),
            ("https://u:s3cret@a.b", "https://***@a.b", user),
            ("https://a.b/?s3cret", "https://a.b/?***", query),
            ("https://a.b#s3cret", "https://a.b#***", query),
            ("https://a.b/ü", "https://a.b/ü", plain),
            ("https://a.b/%zz", "https://a.b/%zz", plain),
            ("https://a.b/x y", "https://a.b/x y", plain),
            ("https://a.b\\x", "https://a.b\\x", host),
        ):
            error = self.assertRaises(Refused, master_address, text)
            complaint = error.complaints[0]
            self.assertEqual((complaint.value, complaint.must), (f'"{value}"', must), text)

    @given(
        st.sampled_from(["", "https://", "http:", "https://u?", "://", "x@y://", "https://h/"]),
        st.sampled_from(["s3cret@h", "u:s3cret@h", "?s3cret", "#s3cret", "@s3cret@", "?s3cret@h"]),
        st.text(max_size=5),
    )
    def test_no_secret_is_shown(self, before: str, secret: str, after: str) -> None:
        """User, password, query and fragment never get into a refusal."""
        try:
            master_address(before + secret + after)
        except Refused as error:
            self.assertNotIn("s3cret", str(error))


class CertificatesTests(SettingsTestCase):
    """The file of certificates to trust for the master."""

    def setUp(self) -> None:
        """Make a certificate."""
        super().setUp()
        self.pem = trustme.CA().cert_pem.bytes()

    def refusal(self, name: str) -> str:
        """Return the one problem with the file `name`, without place and directory."""
        (problem,) = self.problems(f"{MASTER}tls_ca_file: {json.dumps(name)}\n")
        return problem.removeprefix("config.yaml line 3: tls_ca_file is ")

    def put(self, name: str, content: bytes) -> None:
        """Write a file beside the settings."""
        Path(self.directory, name).write_bytes(content)

    def test_relative_to_the_settings(self) -> None:
        """A relative path starts at the settings file, in the environment as well."""
        self.put("ca.pem", "# 主控\n".encode() + self.pem + trustme.CA().cert_pem.bytes())
        expected = os.path.join(self.directory, "ca.pem")
        self.assertEqual(self.read(MASTER + "tls_ca_file: ./ca.pem").tls_ca_file, expected)
        self.assertEqual(self.read(MASTER, {"MMWX_TLS_CA_FILE": expected}).tls_ca_file, expected)
        self.assertEqual(self.read(MASTER, {"MMWX_TLS_CA_FILE": "ca.pem"}).tls_ca_file, expected)

    def test_relative_without_settings(self) -> None:
        """Without a settings file a relative path has no meaning."""
        environ = {"MMWX_CONNECTION_MODE": "pull", "MMWX_TLS_CA_FILE": "ca.pem"}
        error = self.assertRaises(SettingsError, load, None, environ)
        self.assertEqual(
            str(error),
            'MMWX_TLS_CA_FILE: tls_ca_file is "ca.pem"; it must be an absolute path, as there is '
            "no settings file it is relative to",
        )

    def test_refused(self) -> None:
        """A file that is missing, no file, or without a sound certificate is refused."""
        self.put("empty.pem", b"")
        self.put("key.pem", trustme.CA().private_key_pem.bytes())
        self.put("broken.pem", self.pem.replace(b"MI", b"AA", 1))
        self.put("huge.pem", self.pem + b"\n" * 4 * 1024 * 1024)
        readable = "it must be a readable PEM file"
        holding = "it must hold a certificate in PEM form, and no broken one"
        for name, must in (
            ("none.pem", f"{readable} (No such file or directory)"),
            (".", f"{readable} (Is a directory)"),
            ("huge.pem", f"{readable} (larger than 4096 KiB)"),
            ("empty.pem", holding),
            ("key.pem", holding),
            ("broken.pem", holding),
        ):
            where = self.directory if name == "." else name
            self.assertEqual(self.refusal(name), f'"{where}"; {must}')
        self.assertEqual(self.refusal("a\0b"), '"a\\x00b"; it must be a path')

    def test_empty_is_none(self) -> None:
        """An empty value means the system's certificates."""
        self.assertIsNone(self.read(MASTER + "tls_ca_file:\n").tls_ca_file)


class FileTests(SettingsTestCase):
    """The settings file itself: what is no YAML, or no file, is told in plain words."""

    def test_syntax(self) -> None:
        """Broken YAML is told with line and column, and without the file's own text."""
        colon = "a colon too many, one missing above, or a wrong indent"
        begin = "a value cannot begin with this character; put it in quotes"
        escape = "a backslash in double quotes begins an escape; use single quotes"
        for content, problem in (
            ("a: 1\n\tb: 2", "line 2 column 1: a tab; YAML is indented with spaces only"),
            ("a: b: c", f"line 1 column 5: {colon}"),
            ("a: @x", f"line 1 column 4: {begin}"),
            ("a: `x", f"line 1 column 4: {begin}"),
            ("a: *s3cret", "line 1 column 4: a value cannot begin with *; put it in quotes"),
            ("a: 1\ns3cret\n", "line 2 column 1: a line that is not `key: value`"),
            ("a:\n  - b\n c: d", "line 3 column 2: this does not fit what stands before it; "
             "check indent and quotes"),
            ('a: 1\nb: "x\n\n', "line 2 column 4: a quote that is opened here is never closed"),
            ("a: [1,\nb", "line 1 column 4: a bracket that is opened here is not closed"),
            ('a: "\\s3cret"', f"line 1 column 6: {escape}"),
            ('a: "\\xzz"', f"line 1 column 7: {escape}"),
            ("a: 1\n---\nb: 2\n", "line 2 column 1: a second document begins here; a file holds "
             "one"),
            ("a: !<s3cret", "line 1 column 12: not valid YAML"),
        ):  # fmt: skip
            self.assertEqual(self.problems(content), (f"config.yaml {problem}",))

    def test_not_yaml_at_all(self) -> None:
        """What the YAML reader stumbles over in other ways is a problem too."""
        for content, problem in (
            (b"a: 1\nb: \x07", " line 2: a control character (code 7)"),
            (b"a: 1\n\xff", " line 2: the file is not UTF-8 text"),
            ("a: 1".encode("utf-16"), " line 1: the file is not UTF-8 text"),
            (b"[" * 100_000, ": brackets or lists are nested too deeply"),
            (b'a: "\\UFFFFFFFF"', ": not valid YAML; look for an escape after a backslash"),
            (b"- a\n", ": the file must be lines of `key: value`"),
            (b"s3cret", ": the file must be lines of `key: value`"),
            (b"x" * (1024 * 1024 + 1), ": larger than 1024 KiB"),
            (
                b"".join(b"k%d: 1\n" % number for number in range(257)),
                ": more than 256 keys, this is no settings file of the agent",
            ),
        ):
            self.assertEqual(self.problems(content), (f"config.yaml{problem}",))

    def test_largest_file(self) -> None:
        """A file of exactly the limit is read."""
        self.assertTrue(self.read(MASTER + "#" * (1024 * 1024 - len(MASTER))))

    def test_most_keys(self) -> None:
        """A file may hold 256 keys, though 254 of them are strangers."""
        strangers = "".join(f"q{number}: 1\n" for number in range(254))
        self.assertEqual(len(self.read(MASTER + strangers).warnings), 254)

    def test_byte_order_mark(self) -> None:
        """A byte order mark and Windows line ends do no harm."""
        content = b"\xef\xbb\xbf" + MASTER.replace("\n", "\r\n").encode()
        self.assertEqual(self.read(content).remote_token, "t0ken")

    def test_repeated_keys(self) -> None:
        """A key given twice is refused with both lines, at the top and deeper."""
        self.assertEqual(
            self.problems(
                MASTER + "log_level: info\n\nlog_level: info\n"
                "xray_servers:\n- config_path: /a\n  config_path: /b\n"
            ),
            (
                'config.yaml line 5: "log_level" is given twice, first on line 3',
                'config.yaml line 8: "config_path" is given twice, first on line 7',
            ),
        )

    def test_odd_keys(self) -> None:
        """Keys that are lists, and merges, are refused."""
        self.assertEqual(
            self.problems(MASTER + "? [a]\n: 1\n<<: {log_level: debug}\n"),
            (
                "config.yaml line 3: a key must be a plain word",
                "config.yaml line 5: merging with << is not supported",
            ),
        )

    def test_aliases_of_yaml(self) -> None:
        """Anchors work; a list that holds itself does not hang."""
        content = MASTER + "speed_include: &a [eth0]\nspeed_exclude: *a\n"
        self.assertEqual(self.read(content).speed_exclude, ("eth0",))
        self.assertEqual(
            self.problems(MASTER + "xray_servers: &a [*a]\n"),
            (
                "config.yaml line 3: xray_servers is a list in a list; it must be a single value "
                "or a plain list",
            ),
        )

    def test_text_of_several_lines(self) -> None:
        """A value that runs on, and may have swallowed a token, is refused and not shown."""
        for text in ('"https://a.b\n\n  s3cret"', "https://a.b\n  s3cret", "|\n  s3cret\n  x"):
            self.assertEqual(
                self.problems(f"connection_mode: pull\nmaster_server: {text}\n"),
                (
                    "config.yaml line 2: master_server is a text of several lines; it must stand "
                    "on one line",
                ),
            )
        following = "master_server: https://a.b\nremote_token:\n  abc\n\n# end\n"
        self.assertEqual(self.read(following).remote_token, "abc")

    def test_no_objects_are_made(self) -> None:
        """A tag that would run code in an unsafe loader is only text with a tag."""
        marker = os.path.join(self.directory, "made")
        content = f"{MASTER}log_level: !!python/object/apply:os.mkdir [{marker}]\n"
        self.problems(content)
        self.assertFalse(os.path.exists(marker))

    def test_no_file(self) -> None:
        """A missing file, a directory and an impossible name are told as what they are."""
        for file, reason in (
            ("none", "No such file or directory"),
            ("", "Is a directory"),
            ("a\0b", "not a possible file name"),
        ):
            where = os.path.normpath(os.path.join(self.directory, file))
            error = self.assertRaises(SettingsError, load, where, {})
            self.assertEqual(error.problems, (f"{printable(where)}: {reason}",))

    def test_pipe(self) -> None:
        """A pipe in the file's place does not stop the start for ever."""
        os.mkfifo(self.file)
        error = self.assertRaises(SettingsError, load, self.file, {})
        self.assertEqual(str(error), f"{self.file}: not a regular file")

    def test_unreadable(self) -> None:
        """A file this user may not read is told so."""
        self.write(MASTER)

        def deny(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "open", deny)
        error = self.assertRaises(SettingsError, load, self.file, {})
        self.assertEqual(str(error), f"{self.file}: Permission denied")

    def test_exposed_token(self) -> None:
        """A file with a token that everybody can read is warned of; without a token it is fine."""
        self.write(MASTER, 0o644)
        self.assertEqual(
            load(self.file, {}).warnings,
            (
                f"{self.file} holds a token and can be read by everybody; "
                f"use chmod 600 {self.file}",
            ),
        )
        self.write("connection_mode: pull\nremote_token: ''\n", 0o644)
        self.assertEqual(load(self.file, {}).warnings, ())
        self.write("connection_mode: pull\nchild_api_token: x\n", 0o604)
        self.assertEqual(len(load(self.file, {}).warnings), 1)

    def test_exposed_to(self) -> None:
        """A group that can read the file is told, but root's own holds nobody else."""

        def status(mode: int, group: int) -> os.stat_result:
            return os.stat_result((mode, 0, 0, 1, 0, group, 0, 0, 0, 0))

        self.assertIsNone(exposed_to(status(0o100600, 1000)))
        self.assertIsNone(exposed_to(status(0o100640, 0)))
        self.assertEqual(exposed_to(status(0o100640, 1000)), "its group")
        self.assertEqual(exposed_to(status(0o100604, 0)), "everybody")


class FindFileTests(SettingsTestCase):
    """Which settings file is used when several are possible."""

    def setUp(self) -> None:
        """Put the system's file into the test's directory."""
        super().setUp()
        self.system = os.path.join(self.directory, "system.yaml")
        self.patch(settings_module, "SYSTEM_FILE", self.system)

    def test_order(self) -> None:
        """An explicit file wins over the local one, that over the system's, else there is none."""
        self.assertIsNone(find_file(None, self.directory))
        Path(self.system).touch()
        self.assertEqual(find_file(None, self.directory), self.system)
        self.write("")
        self.assertEqual(find_file(None, self.directory), self.file)
        Path(self.directory, "mine").touch()
        mine = os.path.join(self.directory, "mine")
        self.assertEqual(find_file("mine", self.directory), mine)
        self.assertEqual(find_file(mine, "/"), mine)

    def test_explicit_must_be_there(self) -> None:
        """A file that was asked for and is missing is an error, never another file."""
        self.write("")
        for name in ("none.yaml", "config.yaml/x", "a\0b", ""):
            error = self.assertRaises(SettingsError, find_file, name, self.directory)
            self.assertEqual(str(error), f"{shown(name)}: there is no such settings file")

    def test_unreachable_system_file_is_not_overlooked(self) -> None:
        """A file that cannot be looked at is handed on, so that loading says why."""

        def deny(*_: object) -> os.stat_result:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "lstat", deny)
        self.assertEqual(find_file(None, self.directory), self.system)

    def test_system_path(self) -> None:
        """The system's file is where the package puts it."""
        self.assertIn('SYSTEM_FILE = "/etc/mmw-agent/config.yaml"',
                      Path(settings_module.__file__).read_text(encoding="utf-8"))  # fmt: skip


class TableTests(SettingsTestCase):
    """The table of settings, and the example file that follows it."""

    def test_rows(self) -> None:
        """Every row has a help of one line, and no key or variable is used twice."""
        variables = [variable for option in OPTIONS for variable in option.variables]
        self.assertEqual(len(variables), len(set(variables)))
        for option in OPTIONS:
            self.assertRegex(option.help, r"^[^\n]{10,100}$")
            self.assertTrue(all(name.startswith("MMWX_") for name in option.variables))

    def test_readme_variables(self) -> None:
        """The README's variables, and the original's, belong to the right settings."""
        owners = {variable: option.name for option in OPTIONS for variable in option.variables}
        for variable, name in {
            "MMWX_MASTER_URL": "master_server",
            "MMWX_MASTER_TOKEN": "remote_token",
            "MMWX_TOKEN": "remote_token",
            "MMWX_CONNECTION_MODE": "connection_mode",
            "MMWX_LISTEN_PORT": "listen_port",
            "MMWX_CHILD_API_TOKEN": "child_api_token",
            "MMWX_TRAFFIC_INTERVAL": "traffic_report_interval",
            "MMWX_SPEED_INTERVAL": "speed_report_interval",
            "MMWX_HEARTBEAT_INTERVAL": "heartbeat_interval",
            "MMWX_XRAY_CONFIG": "xray_servers",
        }.items():
            self.assertEqual(owners[variable], name)

    def test_default_texts(self) -> None:
        """Defaults for people: as they would be written, empty when there is none."""
        texts = {option.name: option.default_text for option in OPTIONS}
        for name, text in {
            "remote_token": "",
            "connection_mode": "auto",
            "listen_port": "23889",
            "speed_report_interval": "3",
            "xray_servers": "",
            "pull_any_user_agent": "false",
        }.items():
            self.assertEqual(texts[name], text)

    def test_default_texts_are_the_defaults(self) -> None:
        """Writing a default's text into the file gives the default."""
        for option in OPTIONS:
            if option.default_text:
                result = self.read(
                    f"connection_mode: pull\n{option.name}: {option.default_text}\n"
                    if option.name != "connection_mode"
                    else f"{MASTER}connection_mode: auto\n"
                )
                self.assertEqual(getattr(result, option.name), option.default, option.name)

    def test_secrets_are_out_of_the_repr(self) -> None:
        """Tokens do not show when settings are printed."""
        result = self.read(MASTER + "child_api_token: pu11\n")
        self.assertNotIn("t0ken", repr(result))
        self.assertNotIn("pu11", repr(result))
        secrets = {option.name for option in OPTIONS if option.secret}
        self.assertEqual(secrets, {"remote_token", "child_api_token"})

    def test_example_loads(self) -> None:
        """The example as shipped has no problem and no warning, and only placeholders."""
        result = self.read(EXAMPLE.read_bytes())
        self.assertEqual(
            result,
            Settings(
                master_server="https://master.example.com",
                remote_token="your-server-token",
                path=self.file,
                token_from="file",
            ),
        )

    def test_example_names_everything(self) -> None:
        """Every setting stands in the example, with its variable beside it."""
        text = EXAMPLE.read_text(encoding="utf-8")
        written = re.findall(r"^#?([a-z_]+):", text, re.MULTILINE)
        self.assertEqual(sorted(written), sorted(option.name for option in OPTIONS))
        for option in OPTIONS:
            for variable in option.variables[:1]:
                self.assertIn(variable, text)
        mentioned = set(re.findall(r"MMWX_[A-Z_]+", text)) - {"MMWX_"}
        self.assertLessEqual(mentioned, {each for option in OPTIONS for each in option.variables})

    def test_example_with_all_settings_on(self) -> None:
        """With its commented settings switched on, the example loads, defaults being defaults."""
        text = re.sub(r"^#(?=[a-z_]+:|  -)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
        trustme.CA().cert_pem.write_to_path(os.path.join(self.directory, "master-ca.pem"))
        result = self.read(text)
        self.assertEqual(result.warnings, ())
        examples = {
            *("master_server", "remote_token", "xray_servers", "allow_from", "tls_ca_file"),
        }
        for option in OPTIONS:
            check = self.assertNotEqual if option.name in examples else self.assertEqual
            check(getattr(result, option.name), option.default, option.name)


def _documents() -> st.SearchStrategy[object]:
    """Return values that YAML can hold, with the agent's own keys often among them."""
    keys = st.sampled_from([*known_keys(), "config_path", "mode", "lsiten_port"]) | st.text()
    texts = st.sampled_from(["1m", "/a", "https://a.b", "auto", "", "::1", "10.0.0.0/8", "\0"])
    scalars = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | texts
    )
    nested = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )
    return st.dictionaries(keys, nested, max_size=8) | nested


class AnyInputTests(SettingsTestCase):
    """Whatever stands in file and environment, there are settings or a SettingsError."""

    limits = hypothesis_settings(
        deadline=None,
        max_examples=300,
        suppress_health_check=[HealthCheck.too_slow],
    )

    def judge(self, content: bytes, environ: dict[str, str] | None = None) -> None:
        """Load, and check that messages are single printable lines without the secret."""
        try:
            result = self.read(content, environ)
        except SettingsError as error:
            self.assertTrue(error.problems)
            messages = error.problems
        else:
            messages = (*result.warnings, repr(result))
        for message in messages:
            self.assertTrue(message.isprintable(), message)
            self.assertNotIn("s3cret", message)
            self.assertLess(len(message), 2000)

    @limits
    @given(_documents(), st.booleans())
    def test_any_document(self, document: object, flow: bool) -> None:
        """Any YAML document is settled one way or the other."""
        try:
            text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True)
            content = text.encode("utf-8")
        except (yaml.YAMLError, UnicodeEncodeError):
            content = repr(document).encode("utf-8", "replace")
        self.judge(content)

    @limits
    @given(st.binary())
    @example(b"%YAML " + b"9" * 5000 + b".1\n--- a")
    @example(b'a: "\\ud800"')
    @example(b'"\\ud800": 1')
    @example(b'remote_token: "\\ud800"')
    @example(b'log_level: "\\udc80"')
    def test_any_bytes(self, content: bytes) -> None:
        """So are bytes that are no YAML at all."""
        self.judge(content)

    @limits
    @given(st.text(alphabet=st.sampled_from("a:-?[]{}&*!|>'\"%@`#,\\ \n\t~<=0é"), max_size=40))
    def test_any_punctuation(self, text: str) -> None:
        """And texts full of the signs that mean something in YAML."""
        self.judge(text.encode())

    @limits
    @given(
        st.dictionaries(
            st.sampled_from([each for option in OPTIONS for each in option.variables])
            | st.text(max_size=5).map(lambda text: "MMWX_" + text),
            st.text(),
            max_size=5,
        )
    )
    def test_any_environment(self, environ: dict[str, str]) -> None:
        """Variables may hold anything."""
        self.judge(b"", environ)

    @limits
    @given(
        st.sampled_from(["remote_token", "token", "child_api_token", "tokn", "remote_tokne"]),
        st.sampled_from(
            [
                *(
                    "{}",
                    "'{}",
                    "[{}]",
                    "{{{}: 1}}",
                    "!{} x",
                    "*{}",
                    "&{} x",
                    '"\\{}"',
                    "a {}",
                    "é{}",
                ),
                *("{}: 1", "|\n  {}\n  x", "@{}", "- {}", "\n  {}: 1", "\n- {}", "%{}", '"{}'),
            ]
        ),
        st.sampled_from(["", "log_level: x\n", "remote_token: 1\n", "\t"]),
    )
    def test_no_secret_in_any_message(self, key: str, form: str, after: str) -> None:
        """A token never gets into a message, however its line is broken."""
        self.judge(f"{key}: {form.format('s3cret')}\n{after}".encode())
        self.judge(b"", {"MMWX_TOKEN": form.format("s3cret"), "MMWX_MASTER_URL": "x"})
