"""Processors: what happens to spans on their way."""
