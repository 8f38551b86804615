"""Inbound: the management API behind silent authentication."""
