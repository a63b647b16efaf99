"""A step is work outside the graph (register, gate, watch): a plain call, or a Prefect task inside a flow run."""

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def inside_flow_run() -> bool:
    """Say whether this code runs in a Prefect flow run; Prefect is not imported to find out."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext

    return FlowRunContext.get() is not None


def is_planned(error: BaseException | None) -> bool:
    """Say whether ``error`` is a stop that its class foresees with an ``exit_code``: its message says all there is."""
    return getattr(error, "exit_code", None) is not None


def silence_planned_stops() -> None:
    """Let Prefect's loggers of runs drop records with the traceback of a planned stop: the state has its message."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logger = logging.getLogger(name)
        if _drop_planned not in logger.filters:
            logger.addFilter(_drop_planned)


def _drop_planned(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_planned(record.exc_info[1]))


def step(function: Callable[P, R] | None = None, **task_options: Any) -> Any:
    """Make ``function`` a step; ``task_options`` are those of ``prefect.task``."""
    if function is None:
        return functools.partial(step, **task_options)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not inside_flow_run():
            return function(*args, **kwargs)
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        # The steps change the world outside Prefect (a pointer file, a remote): replaying one from a cache would lie.
        return task(function, task_run_name=function.__name__, cache_policy=NO_CACHE, **task_options)(*args, **kwargs)

    return call
