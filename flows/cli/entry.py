"""The way in: all commands at the application, and how an error becomes a message and an exit code."""

import logging
import os
import sys

import regraft.flows.cli.build
import regraft.flows.cli.doctor
import regraft.flows.cli.run
import regraft.flows.cli.versions  # noqa: F401
from regraft.flows.cli.app import app
from regraft.tasks.graph.progress import ERASE_REST


def main() -> None:
    """Run the command line and leave with its exit code."""
    _log_to_stderr()
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    from regraft.flows.errors.exit_codes import judge_error

    outcome = judge_error(error)
    sys.stderr.write(f"regraft: {outcome.message}\n")
    if os.environ.get("REGRAFT_DEBUG"):
        logging.getLogger("regraft").exception("traceback", exc_info=error)
    elif outcome.fault:
        sys.stderr.write("This is a fault, not your input. REGRAFT_DEBUG=1 shows the traceback.\n")
    return outcome.code


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    # On a terminal a bar may stand in the line: see tasks/graph/progress.py.
    erase = ERASE_REST if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else ""
    handler.setFormatter(logging.Formatter(f"{erase}%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("regraft")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False  # Prefect would say everything a second time
