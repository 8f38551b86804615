"""What `twistd mmw-agent` asks for: the options, and the service they make."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.python import usage

from mmwagent import __version__, logs
from mmwagent.settings import Settings, SettingsError, find_file, load

EXIT_BAD_SETTINGS = 2


class Options(usage.Options):
    """The options of `twistd mmw-agent`."""

    longdesc = "The node agent of the miaomiaowux panel: reports to a master, is managed by it."

    optParameters: ClassVar = [
        [
            "config",
            "c",
            None,
            "The configuration file. Without it ./config.yaml, then /etc/mmw-agent/config.yaml,"
            " then the environment alone.",
        ]
    ]
    optFlags: ClassVar = [
        ["check-config", None, "Check the configuration, say what is wrong, and end."]
    ]

    settings: Settings

    def opt_version(self) -> None:
        """Show the agent's version and end."""
        print(f"mmw-agent {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read the settings. Where they are bad, say all that is wrong and end with code 2."""
        try:
            file = find_file(self["config"], os.getcwd())
            self.settings = load(file, os.environ)
        except SettingsError as error:
            print(error, file=sys.stderr)
            raise SystemExit(EXIT_BAD_SETTINGS) from None
        if self["check-config"]:
            for warning in self.settings.warnings:
                print(f"warning: {warning}")
            print(f"{file or 'the environment'}: the configuration is good")
            raise SystemExit(0)


def makeService(options: Options) -> IService:
    """Return the agent that `options` describe."""
    from twisted.internet import reactor
    from twisted.internet.protocol import Factory

    from mmwagent import agent
    from mmwagent.host.processes import BootTimeUnknown

    # Twisted's timers follow the wall clock: set back by an hour, they stand still for that hour.
    # From here on they follow a clock that nobody can set.
    clock: Any = reactor
    clock.seconds = time.monotonic

    # A line in the log for each connection that is made helps nobody.
    Factory.noisy = False

    settings = options.settings
    logs.set_level(settings.log_level)
    for warning in settings.warnings:
        agent.log.warn("{warning}", warning=warning)
    try:
        service = agent.build(settings, reactor, lambda text: print(text, file=sys.stderr))
    except (OSError, BootTimeUnknown) as error:
        print(f"mmw-agent cannot start: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    # What is there now stays. Looked through again and again, it would hold up the biggest
    # reports for 20 ms each.
    gc.collect()
    gc.freeze()
    return service
