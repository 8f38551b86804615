"""Outbound: what goes to the master, and what the master orders."""
