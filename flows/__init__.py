"""Prefect flows, deployments and the command line."""

import regraft.serving.silence as silence  # noqa: F401
