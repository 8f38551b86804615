"""A stand-in master and fakes: what tests use, and users who want to try the agent."""
