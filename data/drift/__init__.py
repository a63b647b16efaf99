"""Drift of a window of production against the reference in the bundle."""
