"""Measures the agent: `python -m benchmarks`."""
