"""Shared by tests: a local cloud, a fork server for jobs, replacements of servers, leaks to plant, label tables."""
