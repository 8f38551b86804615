"""Tests with real peers: Xray, sockets, processes."""
