"""regraft: from a raw folder of images to a served model that keeps itself right, with evidence at every step.

    import regraft

    run = regraft.train("photos/", workspace="W", backbones="mirror/", time_budget="10m")
    model = regraft.load("W")
    model.predict("a.jpg")

In this folder is what notebooks and scripts use: ``runs.py`` (train, watch, retrain, promote, rollback), ``model.py``
(a version in this process), ``client.py`` (a running endpoint). The same functions stand behind the command line. The
floors are ``regraft.flows`` (start there), ``tasks``, ``models``, ``data`` and ``serving``. Nothing heavy is imported
before it is used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.client import AsyncClient as AsyncClient
    from regraft.client import Client as Client
    from regraft.model import Model as Model
    from regraft.model import load as load
    from regraft.runs import Run as Run
    from regraft.runs import promote as promote
    from regraft.runs import retrain as retrain
    from regraft.runs import rollback as rollback
    from regraft.runs import train as train
    from regraft.runs import watch as watch

PLACES = {
    **dict.fromkeys(("Run", "promote", "retrain", "rollback", "train", "watch"), "regraft.runs"),
    **dict.fromkeys(("Model", "load"), "regraft.model"),
    **dict.fromkeys(("AsyncClient", "Client"), "regraft.client"),
}
__all__ = sorted(PLACES)

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
