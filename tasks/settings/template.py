"""``params.yaml`` as it is written into a new workspace: every knob with its default and what its docstring says.

``make params`` writes the file of the repository anew after a knob was added or changed.
"""

import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, Field

from regraft.models.compute.device import DeviceName
from regraft.models.training.optimizer import LoopConfig
from regraft.tasks.settings.inheritance import COMMON, INHERITED
from regraft.tasks.settings.params import Params

WIDTH = 120
INDENT = "  "
HEAD = "Every knob of this workspace. `regraft train --set section.key=value` changes one and keeps the comments."


class CommonConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What several stages share. A section inherits these keys; one that is written in the section itself
    (finetune.seed, certify.loop.head_lr) counts for that section only."""

    seed: int = Field(0, ge=0)
    """Of all that is drawn at random: parts, samples, folds, orders, augmentation, dropout, resamples. Another seed is
    another split of the images that are not decided yet."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""
    loop: LoopConfig = LoopConfig()
    """Rates, regularisation and augmentation: of fine-tuning, and of the training trials of the certificate."""


def render_params() -> str:
    """Return the text of a ``params.yaml`` that says every knob once, at its default."""
    heirs = " · ".join(f"{section}: {', '.join(keys)}" for section, keys in INHERITED.items())
    lines = [*_comment(HEAD, ""), "", *_comment(str(CommonConfig.__doc__), ""), *_comment(heirs, ""), f"{COMMON}:"]
    lines += _write(CommonConfig(), INDENT)
    params = Params()
    for name, field in Params.model_fields.items():
        section, key = getattr(params, name), field.alias or name
        lines += ["", *_comment(str(field.description), ""), f"{key}:"]
        lines += _write(section, INDENT, INHERITED.get(key, ()))
    return "\n".join(lines) + "\n"


def _write(group: BaseModel, indent: str, inherited: tuple[str, ...] = ()) -> Iterator[str]:
    for name, field in type(group).model_fields.items():
        key, value = field.alias or name, getattr(group, name)
        if key in inherited:
            continue
        yield from _comment(str(field.description), indent)
        if isinstance(value, BaseModel):
            yield f"{indent}{key}:"
            yield from _write(value, indent + INDENT)
        else:
            shown = yaml.safe_dump(_plain(value), default_flow_style=True, width=10 * WIDTH)
            yield f"{indent}{key}: {shown.removesuffix('...' + chr(10)).strip()}"


def _comment(text: str, indent: str) -> list[str]:
    # A backtick of reStructuredText is none of YAML's readers' business.
    words = " ".join(text.replace("``", "`").split())
    return [f"{indent}# {line}" for line in textwrap.wrap(words, WIDTH - len(indent) - 2)]


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    sys.stdout.write(render_params())
