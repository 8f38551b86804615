"""This machine: its processes, commands, network counters and facts."""
