"""The command line. Exit codes: 0 done, 1 a fault, 2 bad input or usage, 3 a gate said no, 4 somebody is at work.

What a command does is in ``flows``; here are its options and what it prints. Read first: ``build.train``.
"""

from regraft.flows.cli.app import app
from regraft.flows.cli.entry import main

__all__ = ["app", "main"]
