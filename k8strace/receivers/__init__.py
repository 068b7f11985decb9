"""Receivers: how spans come in."""
