"""Tests of which Xray processes serve which configuration."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from mmwagent.host.processes import Process
from mmwagent.xray.discovery import Discovery
from mmwagent.xray.inspection import Inspection, XrayNow, serving

START = datetime(2026, 5, 1, tzinfo=UTC)
CONFIG = "/etc/xray/config.json"


def process(*arguments: str, directory: str = "/nowhere", pid: int = 7, age: int = 0) -> Process:
    """Return an Xray with these arguments, begun `age` seconds before START."""
    began = START - timedelta(seconds=age)
    return Process(pid, "/usr/local/bin/xray", ("xray", *arguments), directory, began)


class ServingTests(SynchronousTestCase):
    """Whose process it is tells the file that it was given."""

    def serves(self, *arguments: str, directory: str = "/nowhere", path: str = CONFIG) -> bool:
        """Tell whether a process with these arguments serves `path`."""
        return bool(list(serving([process(*arguments, directory=directory)], [path])))

    def test_each_way_to_name_a_file(self) -> None:
        """The flags may have one dash or two, and their value behind a blank or an equals sign."""
        for arguments in (
            ("run", "-c", CONFIG),
            ("run", "-config", CONFIG),
            ("run", "--config", CONFIG),
            ("-c", CONFIG),
            ("run", f"-c={CONFIG}"),
            ("run", f"--config={CONFIG}"),
            ("run", "-format", "json", "-c", CONFIG),
            ("run", "-c", "/etc/xray/other.json", "-c", CONFIG),
            ("run", "-c", "/etc/xray/../xray//config.json"),
        ):
            with self.subTest(arguments=arguments):
                self.assertTrue(self.serves(*arguments))

    def test_commands_of_a_moment(self) -> None:
        """A process that tests, converts, or tells its version serves nobody."""
        for arguments in (
            ("version",),
            ("convert", "pb", "stdin:"),
            ("api", "lsi"),
            ("run", "-test", "-config", CONFIG),
            ("run", "--test", "-c", CONFIG),
            ("-test", "-c", CONFIG),
        ):
            with self.subTest(arguments=arguments):
                self.assertFalse(self.serves(*arguments))

    def test_somebody_elses(self) -> None:
        """A process of other files, with a name that only looks alike, is not counted."""
        for arguments in (
            ("run", "-c", "/srv/other.json"),
            ("run", "-c", "/etc/xray/config.json.bak"),
            ("run", "-c", "/etc/xray/config"),
            ("run", "-config=/etc/xray/c"),
            ("run", "-confdir", "/etc/xra"),
            ("run", "-confdir", "/etc/xray/conf.d"),
        ):
            with self.subTest(arguments=arguments):
                self.assertFalse(self.serves(*arguments))

    def test_other_arguments_name_no_file(self) -> None:
        """A word that is no flag, and flags of other names, name no file."""
        self.assertTrue(self.serves("run", "-dump", "c", "config", "-cc=/x", "-configs", "/x"))

    def test_a_directory_of_files(self) -> None:
        """A process of a configuration directory serves the files in it."""
        self.assertTrue(self.serves("run", "-confdir", "/etc/xray"))
        self.assertTrue(self.serves("run", "-confdir=/etc/xray/"))

    def test_a_relative_path(self) -> None:
        """A relative path counts from the working directory of the process."""
        self.assertTrue(self.serves("run", "-c", "config.json", directory="/etc/xray"))
        self.assertTrue(self.serves("run", "-c", "../etc/xray/config.json", directory="/usr"))
        self.assertFalse(self.serves("run", "-c", "config.json", directory="/srv"))

    def test_a_symbolic_link(self) -> None:
        """A process that was given a link serves the file behind it."""
        directory = Path(os.path.realpath(self.mktemp()))
        directory.mkdir()
        (directory / "link.json").symlink_to("real.json")
        self.assertTrue(self.serves("-c", f"{directory}/link.json", path=f"{directory}/real.json"))

    def test_no_file_named(self) -> None:
        """Without a flag Xray takes config.json, else config.jsonc, of its working directory."""
        directory = os.path.realpath(self.mktemp())
        os.mkdir(directory)
        Path(directory, "config.jsonc").write_text("{}")
        second = f"{directory}/config.jsonc"
        self.assertTrue(self.serves("run", directory=directory, path=second))
        self.assertFalse(self.serves("run", directory=directory, path=CONFIG))
        Path(directory, "config.json").write_text("{}")
        self.assertFalse(self.serves("run", directory=directory, path=second))
        self.assertTrue(self.serves("run", directory=directory, path=f"{directory}/config.json"))

    def test_what_cannot_be_seen_counts(self) -> None:
        """Of a process that shows no file it is taken that it serves ours."""
        self.assertTrue(self.serves("run"))
        self.assertTrue(self.serves())

    def test_no_configuration_known(self) -> None:
        """Where no configuration is known any Xray counts."""
        other = process("run", "-c", "/srv/other.json")
        self.assertEqual(list(serving([other], [])), [other])

    def test_a_flag_without_value(self) -> None:
        """A flag at the very end, without its value, is no error."""
        self.assertFalse(self.serves("run", "-c", directory="/srv"))


class NowTests(SynchronousTestCase):
    """What is told of the processes together."""

    def test_one(self) -> None:
        """Of one process start and number are told."""
        now = XrayNow((), (process(pid=41),))
        self.assertEqual((now.started, now.pid), (START, 41))

    def test_several(self) -> None:
        """Of several the earliest start is told, and no number."""
        now = XrayNow((), (process(pid=41), process(pid=42, age=5), process(pid=43, age=3)))
        self.assertEqual((now.started, now.pid), (START - timedelta(seconds=5), None))

    def test_none(self) -> None:
        """Where none runs there is nothing to tell."""
        now = XrayNow((), ())
        self.assertEqual((now.started, now.pid), (None, None))


@define
class Running:
    """Processes that run, by name."""

    processes: dict[str, list[Process]]

    def named(self, name: str) -> list[Process]:
        """Return those of a name."""
        return self.processes[name]


class InspectionTests(SynchronousTestCase):
    """Files and processes, looked at together."""

    def test_together(self) -> None:
        """The servers found come with those processes that serve them."""
        path = os.path.realpath(self.mktemp())
        Path(path).write_text("{}")
        ours, other = process("-c", path, pid=1), process("-c", "/srv/x.json", pid=2)
        running: Any = Running({"xray": [other, ours]})
        now = Inspection(Discovery([path]), running).now()
        self.assertEqual([server.config_path for server in now.servers], [path])
        self.assertEqual(now.processes, (ours,))
