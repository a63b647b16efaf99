"""Prefect flows, deployments and the command line."""

import serving.silence as silence  # noqa: F401
