"""Exporters: where spans go."""
