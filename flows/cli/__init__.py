"""The command line. Exit codes: 0 done, 1 a fault, 2 bad input or usage, 3 a gate said no."""

from flows.cli.app import app
from flows.cli.entry import main

__all__ = ["app", "main"]
