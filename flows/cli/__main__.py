"""``python -m flows.cli``: the same as the console script."""

from flows.cli import main

main()
