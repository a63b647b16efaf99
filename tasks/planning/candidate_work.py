"""The counted work of the backbones on offer: what a forecast is made of, without computing with one of them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from regraft.models.backbones.hub import embedded_folder, is_address, list_backbones
from regraft.models.backbones.network import build_architecture, read_config, read_input
from regraft.models.compute.cost import GroupWork, count_work, group_by_depth
from regraft.models.selection.candidates import describe_preprocess
from regraft.models.selection.result import SelectConfig
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.tasks.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CandidateWork:
    """What the candidates at hand cost.

    Attributes:
        work: Of each candidate, the counted work of each depth group.
        specs: Their different preprocessings.
        notes: What could not be counted.
    """

    work: tuple[tuple[GroupWork, ...], ...]
    specs: list[PreprocessSpec]
    notes: list[str]


def count_candidates(home: Workspace, select: SelectConfig) -> CandidateWork:
    """Return the counted work of the candidates that are on this machine.

    Raises:
        ValueError: If none is.
    """
    notes, absent = list[str](), list[str]()
    counted, specs = [], dict[str, PreprocessSpec]()
    places = _list_places(home, select)
    for name in _list_names(home, select, notes):
        folder = next((place / name for place in places if (place / name / "config.json").is_file()), None)
        if folder is None:
            absent.append(name)
            continue
        wanted = read_input(folder)
        spec = describe_preprocess(wanted, "squash")
        specs[spec.sha256] = spec
        counted.append(_count_candidate(folder, wanted.size_px))
    if absent:
        notes.append(f"not counted, for they are not here yet: {', '.join(absent)}")
    if not counted:
        raise ValueError("none is on this machine yet")
    return CandidateWork(tuple(counted), list(specs.values()), notes)


def _list_names(home: Workspace, select: SelectConfig, notes: list[str]) -> list[str]:
    if select.candidates != "auto":
        return list(select.candidates)
    remote = select.mirror is not None and is_address(select.mirror)
    if remote:  # asking it could take longer than the forecast may
        notes.append("the candidates of the mirror are counted once they are here")
        here = [path.parent.name for path in home.backbones.glob("*/config.json")]
        return sorted({*list_backbones(None), *here})
    return list_backbones(select.mirror)


def _list_places(home: Workspace, select: SelectConfig) -> list[Path]:
    folder = [Path(select.mirror)] if select.mirror is not None and not is_address(select.mirror) else []
    return [home.backbones, *folder, embedded_folder()]


def _count_candidate(folder: Path, size_px: int) -> tuple[GroupWork, ...]:
    """Return the counted work of a backbone folder; nothing is computed and no weight is read."""
    with torch.device("meta"):
        network = build_architecture(read_config(folder)).eval()
    return tuple(count_work(network, group_by_depth(network), size_px))
