"""``python -m regraft.flows.cli``: the same as the console script."""

from regraft.flows.cli import main

main()
