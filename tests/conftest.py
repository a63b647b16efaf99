"""Fixtures that every floor's tests may use."""

from pathlib import Path

import pytest

import regraft.serving.silence as silence  # noqa: F401


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with real data sets and backbones beside the checkout, or skip."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "datasets").is_dir():
        pytest.skip("needs the real data sets and backbones beside the checkout (shared/), which are absent here")
    return folder
