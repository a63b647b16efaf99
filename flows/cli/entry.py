"""The way in: all commands at the application, and how an error becomes a message and an exit code."""

import logging
import os
import sys
from pathlib import Path

import flows.cli.build
import flows.cli.doctor
import flows.cli.run
import flows.cli.versions  # noqa: F401
from flows.cli.app import app
from serving.durable import StorageError, explain_storage
from tasks.refusals import BAD_INPUT, SAID_NO

SPEAKS_FOR_ITSELF = {
    "AskError",
    "DemoFailed",
    "DeviceError",
    "EndpointError",
    "FlowRunFailed",
    "FollowError",
    "LoopStuck",
    "RemoteError",
    "ServiceStartError",
    "StackError",
    "StorageError",
}
TRY_AGAIN = {"WorkspaceBusy"}
"""Neither a fault nor an answer: the same command works when the other process has ended."""


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
    names = {kind.__name__ for kind in type(error).__mro__}
    code = 3 if names & SAID_NO else 2 if names & BAD_INPUT else 4 if names & TRY_AGAIN else 1
    told = explain_storage(error, Path(error.filename or Path.cwd())) if isinstance(error, OSError) else None
    if told and not names & SPEAKS_FOR_ITSELF:  # of a library that writes by itself
        error = StorageError(told)
        names = {"StorageError"}
    plain = code > 1 or names & SPEAKS_FOR_ITSELF
    sys.stderr.write(f"regraft: {error if plain else f'{type(error).__name__}: {error}'}\n")
    if os.environ.get("REGRAFT_DEBUG"):
        logging.getLogger("flows").exception("traceback", exc_info=error)
    elif not plain:
        sys.stderr.write("This is a fault, not your input. REGRAFT_DEBUG=1 shows the traceback.\n")
    return code


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    for floor in ("flows", "tasks", "data", "models", "serving"):
        logger = logging.getLogger(floor)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False  # Prefect would say everything a second time
