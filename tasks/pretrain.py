"""Pretrain a small backbone on formula-driven images: what ``regraft pretrain`` runs. Not a stage of the graph."""

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from data.formula import FormulaConfig, render_bank
from models.pretraining import PretrainedBackbone, RecipeConfig, pretrain_backbone

logger = logging.getLogger(__name__)


class PretrainConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Images and training of an embedded backbone."""

    images: FormulaConfig = FormulaConfig()
    """What is rendered."""
    recipe: RecipeConfig = RecipeConfig()
    """What is trained on it."""


def pretrain(
    into: Path, config: PretrainConfig, *, progress: Callable[[int, int], None] | None = None
) -> PretrainedBackbone:
    """Render the images and write ``<into>/<architecture>.<tag>/``; run again after a kill, it continues.

    Args:
        into: Folder of backbones; unfinished work waits in ``<into>/.pretraining-<name>``.
        config: Images and recipe.
        progress: Called with (steps done, steps); rendering comes before the first call.
    """
    recipe = config.recipe
    bank = render_bank(config.images)
    state = into / f".pretraining-{recipe.architecture}.{recipe.tag}"
    return pretrain_backbone(bank.fields, bank.labels, recipe, state=state, into=into, progress=progress)
