"""Xray, the thing managed: where it is, what it is set up to do, what it counts."""
