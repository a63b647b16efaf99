"""Switch off every call home of the libraries below us; imported before any of them.

Values are defaults: what the user sets in the environment wins.
"""

import os

SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",  # the string "1" is ignored
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "GX_ANALYTICS_ENABLED": "false",
}


def silence() -> None:
    """Set each switch that the user has not set."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)


silence()
