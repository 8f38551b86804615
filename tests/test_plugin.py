"""Tests of what is found and what is packed: the plugin, and the wheel."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess  # noqa: TID251  (a build has a process of its own)
import sys
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin, getPlugins
from twisted.python.reflect import namedAny
from twisted.python.usage import Options
from twisted.trial.unittest import SkipTest, SynchronousTestCase

import mmwagent

ROOT = Path(mmwagent.__file__).parent.parent
DATA = {"mmwagent/py.typed", "mmwagent/config.example.yaml"}
PLUGIN = "twisted/plugins/mmw_agent.py"

# Says which files the wheel holds, or null where nothing here can build one.
BUILD_WHEEL = """
import json, sys, zipfile
from setuptools.dist import Distribution
try:
    Distribution().get_command_class("bdist_wheel")
except Exception:
    print("null")
else:
    from setuptools import build_meta
    name = build_meta.build_wheel(".")
    print("\\n" + json.dumps(zipfile.ZipFile(name).namelist()))
"""


class PluginTests(SynchronousTestCase):
    """What `twistd` finds."""

    def makers(self) -> dict[str, IServiceMaker]:
        """Return the service makers of this project by their command."""
        found = [each for each in getPlugins(IServiceMaker) if each.tapname.startswith("mmw-")]
        self.assertEqual(len({each.tapname for each in found}), len(found))
        return {each.tapname: each for each in found}

    def test_both_are_listed(self) -> None:
        """Both commands are found, each with a line for the help."""
        makers = self.makers()
        self.assertEqual(set(makers), {"mmw-agent", "mmw-standin-master"})
        for maker in makers.values():
            self.assertTrue(IPlugin.providedBy(maker))
            self.assertTrue(maker.description.endswith("."), maker.description)

    def test_they_lead_somewhere(self) -> None:
        """Each names a module that has options and makes a service of them."""
        expected = {"mmw-agent": "mmwagent.tap", "mmw-standin-master": "mmwagent.testing.tap"}
        for name, maker in self.makers().items():
            with self.subTest(name=name):
                self.assertEqual(maker.module, expected[name])
                self.assertTrue(issubclass(maker.options, Options))
                self.assertIs(maker.makeService, namedAny(f"{maker.module}.makeService"))

    def test_directory_is_shared(self) -> None:
        """The plugin directory is no package of ours: Twisted's own plugins are found as well."""
        self.assertFalse((ROOT / "twisted" / "__init__.py").exists())
        self.assertFalse((ROOT / "twisted" / "plugins" / "__init__.py").exists())
        self.assertIn("web", {each.tapname for each in getPlugins(IServiceMaker)})


class PackingTests(SynchronousTestCase):
    """What is packed, built from a copy of the tree."""

    def setUp(self) -> None:
        """Copy what the build needs."""
        if importlib.util.find_spec("setuptools") is None:
            raise SkipTest("setuptools is not installed here")
        if not (ROOT / "setup.py").exists():
            raise SkipTest("the agent is not tested from its source tree")
        self.tree = Path(self.mktemp()).absolute()
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "dropin.cache", ".*")
        for name in ("mmwagent", "twisted", "tests"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=ignore)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.tree / name)

    def python(self, *arguments: str) -> str:
        """Run Python in the copy, without a network; return what it wrote."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.tree,
            env={**os.environ, "PIP_NO_INDEX": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return ended.stdout

    def assert_complete(self, packed: set[str]) -> None:
        """Check that all modules and data are there, and one file in what is Twisted's."""
        self.assertEqual({name for name in packed if name.startswith("twisted")}, {PLUGIN})
        modules = {
            str(path.relative_to(self.tree)) for path in (self.tree / "mmwagent").rglob("*.py")
        }
        self.assertIn("mmwagent/manage/gate.py", modules)
        self.assertEqual(packed, {PLUGIN, *modules, *DATA})

    def test_installed_files(self) -> None:
        """An installation has every module, the data files, and one file under twisted/."""
        self.python("setup.py", "-q", "build", "--build-lib", "out")
        out = self.tree / "out"
        self.assert_complete(
            {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        )

    def test_wheel(self) -> None:
        """So has a wheel, with the command and the licence; the tests are not packed."""
        names = json.loads(self.python("-c", BUILD_WHEEL).splitlines()[-1])
        if names is None:
            raise SkipTest("nothing here can build a wheel")
        described = {name for name in names if ".dist-info/" in name}
        self.assert_complete(set(names) - described)
        ends = {name.rpartition("/")[2] for name in described}
        self.assertLessEqual({"entry_points.txt", "LICENSE", "METADATA", "RECORD"}, ends)
