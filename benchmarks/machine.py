"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import scene
from benchmarks.processes import CannotMeasure

PACKAGES = ("mmw-agent", "Twisted", "autobahn", "treq", "klein", "pyOpenSSL", "cryptography")


def described() -> str:
    """Return some lines: processor, kernel, Python, versions, and how busy it is by itself."""
    cores = os.cpu_count() or 1
    lines = [
        f"machine    {cores} cores, {_processor()}",
        f"kernel     {platform.system()} {platform.release()}, {platform.machine()}",
        f"Python     {platform.python_version()} ({sys.executable})",
        f"packages   {', '.join(f'{name} {_version(name)}' for name in PACKAGES)}",
        f"Autobahn   {_native()}",
        f"Xray       {_xray()}",
        f"{load()} before the first measurement",
    ]
    if os.getloadavg()[0] > 0.3 * cores:
        lines.append(
            "           OTHERS ARE BUSY HERE: wall times are too long; CPU times suffer less"
        )
    return "\n".join(lines)


def load() -> str:
    """Return how many wanted to run over the last minute."""
    return f"load       {os.getloadavg()[0]:.2f} on {os.cpu_count() or 1} cores"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return "processor not known"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _native() -> str:
    import autobahn.websocket

    uses = getattr(autobahn.websocket, "USES_NVX", None)
    if uses is None:
        return "does not tell whether it uses native code"
    return "with native code" if uses else "without native code: big reports take longer"


def _xray() -> str:
    try:
        binary = scene.xray_binary()
        said = subprocess.run(
            [binary, "version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (CannotMeasure, OSError, subprocess.SubprocessError) as problem:
        return str(problem)
    return said.stdout.partition("\n")[0]
