"""The verdict on the backbones: what may be asked of the selection, what it answers, and its folder on disk."""

import json
import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.network import CONFIG_FILE, WEIGHTS_FILE
from regraft.models.compute.device import DeviceName
from regraft.models.selection.candidates import Fit, SquareFit
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.files.durable import replace_folder, write_json

SELECTION_FILE = "selection.json"
BACKBONE_FOLDER = "backbone"


class SelectConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which backbones compete, on how many images, and within which limits."""

    candidates: Literal["auto"] | list[str] = "auto"
    """Names ``arch.tag``, or "auto": all of the mirror and those that ship with the repository."""
    mirror: str | None = None
    """Folder or http(s) address with one folder per backbone."""
    forbidden_licences: list[str] = ["*-nc-*", "*-nc", "*noncommercial*", "*non-commercial*", "agpl*", "gpl*"]
    """Patterns of licences whose weights may not be used, shell style; case and spelling do not matter. "unknown" and
    "other*" rule out weights of which nobody states a licence."""
    max_parameters: int | None = Field(None, ge=1)
    """Most parameters a candidate may have."""
    max_latency_ms: float | None = Field(None, gt=0)
    """Most milliseconds one image may take on this machine's CPU; measured once for each candidate."""
    track_record: str | None = None
    """File that several workspaces share what their runs found in; by default the workspace keeps its own."""
    max_images: int = Field(300, ge=10, le=1000)
    """Training images, at most, that the candidates are compared on."""
    adapt_images: int = Field(96, ge=0)
    """Images, at most, that BatchNorm statistics are re-estimated on where that helps; 0 never tries."""
    fit: Fit = "auto"
    """How images become square; "auto" squashes nearly square ones and otherwise compares the three ways."""
    folds: int = Field(5, ge=2)
    """Of the cross-validation."""
    halving_budget_s: float = Field(4.0, ge=0)
    """Seconds on the nominal machine, counted, that a candidate is fine-tuned for in the first round of successive
    halving; the second has three times as much. 0 leaves successive halving out."""
    halving_rounds: int = Field(2, ge=0)
    """Rounds of successive halving at most."""
    halving_images: int = Field(150, ge=0)
    """With fewer images than these there is no successive halving: fine-tuning on so few tells backbones apart no
    better than chance, so of the best mean ranks the one is taken that PARC and the probe's log loss
    together like best."""
    settled: float = Field(0.95, gt=0.5, le=1)
    """Probability of being the best that ends successive halving."""
    enough: float = Field(0.98, gt=0, le=1)
    """Accuracy that is enough: where the probe of the candidate with the best evidence reaches it with the lower end of
    its 95 % interval, no candidate is fine-tuned, because none could be better by more than what is left to 1."""
    prefer: Literal["accuracy", "speed"] = "accuracy"
    """ "speed" takes the least work among the candidates within one standard error of the best."""
    seed: int = Field(0, ge=0)
    """Of the sample and the folds."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""

    def count_rounds(self, images: int) -> int:
        """Return how many rounds of halving there are at most where candidates are compared on so many images."""
        wanted = self.prefer == "accuracy" and self.halving_budget_s > 0 and images >= self.halving_images
        return self.halving_rounds if wanted else 0


class Candidate(BaseModel, frozen=True, extra="forbid"):
    """One row of the ranking.

    Attributes:
        score: Cross-validated probe accuracy, 0-1, with its 95 % Wilson interval ``low`` to ``high``.
        rank: Mean rank over all columns that have a value for it; 1 is best.
        chance: How likely it is the best on images like these, 0-1, by bootstrap.
        loss: Mean log loss of that probe, nats.
        merit: Mean of nearest-neighbour hits, ridge hits and the probe's probability of the true class, 0-1.
        prior: Public ImageNet accuracy in percent; None where none is known.
        record: What earlier runs on other data sets say; None where it was never tried.
        last_round: Accuracy out of fold in its last round of successive halving; None where it was in none.
        latency_ms: Measured, only where a limit was asked for.
        nominal_ms: Of one image on the nominal machine, from counted work.
        adapt_images: Training images that BatchNorm statistics are re-estimated on; 0 keeps the source's.
    """

    name: str
    score: float
    low: float
    high: float
    standard_error: float
    rank: float
    chance: float
    loss: float
    merit: float
    knn: float
    ridge: float
    log_evidence: float
    h_score: float
    parc: float
    prior: float | None
    record: float | None
    last_round: float | None
    gflops: float
    nominal_ms: float
    latency_ms: float | None
    parameters: int
    licence: str
    sha256: str
    source: str
    c: float
    adapt_images: int
    preprocess: PreprocessSpec


class FitTrial(BaseModel, frozen=True, extra="forbid"):
    """One way to a square on N images: mean log loss in nats of a cross-validated probe, and its accuracy."""

    fit: SquareFit
    loss: float
    accuracy: float
    n: int


class Rival(BaseModel, frozen=True, extra="forbid"):
    """What another way to choose would have taken, and how much its choice falls short of ours on the sampled images.

    ``regret`` is in merit, 0-1, with its 95 % interval over images, paired; negative where the other is better.
    """

    chooser: str
    chosen: str
    regret: float
    low: float
    high: float
    basis: Literal["halving", "probe"]


class Selection(BaseModel, frozen=True, extra="forbid"):
    """The verdict, with everything it rests on."""

    format: Literal[3] = 3
    chosen: str
    reason: str
    n: int
    classes: int
    aspects: str
    fits: list[FitTrial]
    ranking: list[Candidate]
    trials: list[dict[str, float | int | str]]
    rivals: list[Rival]
    refused: dict[str, str]

    @property
    def winner(self) -> Candidate:
        """Return the row of the chosen backbone."""
        return next(row for row in self.ranking if row.name == self.chosen)


def save_selection(selection: Selection, backbone: Backbone, into: Path) -> None:
    """Write the folder ``into``: ``selection.json`` and a copy of the chosen backbone, replaced as a whole."""
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / BACKBONE_FOLDER).mkdir(parents=True)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(backbone.folder / file, temporary / BACKBONE_FOLDER / file)
    write_json(temporary / SELECTION_FILE, selection.model_dump(mode="json"))
    replace_folder(temporary, into)


def load_selection(folder: Path) -> tuple[Selection, Backbone]:
    """Return the verdict of a selection folder and its backbone; training verifies the weights by building them."""
    selection = Selection.model_validate(json.loads((folder / SELECTION_FILE).read_text()))
    row, weights = selection.winner, folder / BACKBONE_FOLDER
    size = (weights / WEIGHTS_FILE).stat().st_size
    return selection, Backbone(row.name, weights, row.sha256, row.licence, row.source, size)
