"""The console command `mmw-agent`: `twistd mmw-agent`, in the foreground."""

from __future__ import annotations

import sys

from twisted.scripts.twistd import run


def main() -> None:
    """Run the agent with this process's arguments until it is told to stop."""
    # Programs of Go take a long option with one dash, and so do the unit files written for one.
    arguments = [
        f"-{argument}" if argument.partition("=")[0] == "-config" else argument
        for argument in sys.argv[1:]
    ]
    sys.argv = [sys.argv[0], "--nodaemon", "--pidfile=", "mmw-agent", *arguments]
    run()


if __name__ == "__main__":
    main()
