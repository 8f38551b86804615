"""Tests of mmwagent.nginx."""
