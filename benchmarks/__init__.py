"""Measurements on real data sets; each writes its figures to ``docs/benchmarks``."""
