"""Make a small backbone from formula-driven images: what ``regraft pretrain`` runs. Not a stage of the graph."""

import logging
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from regraft.data.synthetic.formula import FormulaConfig, render_bank
from regraft.models.pretraining.distillation import (
    DistillationConfig,
    DistilledBackbone,
    build_learner,
    distil_backbone,
)
from regraft.models.pretraining.mobilenet_stages import build_teacher
from regraft.models.pretraining.supervised import PretrainedBackbone, RecipeConfig, pretrain_backbone

logger = logging.getLogger(__name__)


class PretrainConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Images and training of a backbone that learns to name the formula of an image."""

    images: FormulaConfig = FormulaConfig()
    """What is rendered."""
    recipe: RecipeConfig = RecipeConfig()
    """What is trained on it."""


class DistilConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Images and training of a backbone that learns a teacher's features: the embedded one."""

    images: FormulaConfig = FormulaConfig(
        iterated_function=240,
        radial_contour=300,
        grating=160,
        spectral_noise=300,
        warped_bands=160,
        cells=220,
        dead_leaves=400,
        marks=240,
        strokes=160,
        lattice=160,
        reaction_diffusion=24,
        samples_per_class=5,
        size_px=160,
    )
    """What the scenes are made of: many classes, few samples of each, because their labels are not used."""
    recipe: DistillationConfig = DistillationConfig()
    """What learns from the teacher."""


def pretrain(
    into: Path, config: PretrainConfig, *, progress: Callable[[int, int], None] | None = None
) -> PretrainedBackbone:
    """Render the images and write ``<into>/<architecture>.<tag>/``; run again after a kill, it continues.

    Args:
        into: Folder of backbones; unfinished work waits in ``<into>/.pretraining-<name>``.
        config: Images and recipe.
        progress: Called with (steps done, steps); rendering comes before the first call.
    """
    bank = render_bank(config.images)
    state = name_state(into, config.recipe)
    return pretrain_backbone(bank.fields, bank.labels, config.recipe, state=state, into=into, progress=progress)


def distil(
    into: Path, teacher: Path, config: DistilConfig, *, progress: Callable[[int, int], None] | None = None
) -> DistilledBackbone:
    """Render the images and let a small network learn the features of ``teacher``; otherwise as ``pretrain``.

    Args:
        into: Folder of backbones; unfinished work waits in ``<into>/.pretraining-<name>``.
        teacher: Folder of the backbone to learn from, in the hub's format, under Apache-2.0.
        config: Images and recipe.
        progress: Called with (steps done, steps); rendering comes before the first call.

    Raises:
        BackboneError: If the folder is not such a backbone or its stages do not fit, before anything is rendered.
    """
    build_learner(teacher, build_teacher(teacher), config.recipe)  # rendering takes minutes: misfits are told before
    bank = render_bank(config.images)
    return distil_backbone(
        bank.fields, teacher, config.recipe, state=name_state(into, config.recipe), into=into, progress=progress
    )


def name_state(into: Path, recipe: RecipeConfig | DistillationConfig) -> Path:
    """Return where the unfinished work of a recipe waits."""
    return into / f".pretraining-{recipe.architecture}.{recipe.tag}"
