"""What the figures amount to: the rows of the ranking, the choice, and the regret of other choosers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import scale

from regraft.models.selection.eligibility import EligibleBackbone
from regraft.models.selection.ranking import mean_ranks
from regraft.models.selection.rating import Rating
from regraft.models.selection.result import Candidate, Rival, SelectConfig
from regraft.models.selection.successive_halving import MOST_CANDIDATES, Trial, any_steps
from regraft.models.statistics.intervals import draw_weights, hold_together, percentile_interval

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class SelectionEvidence:
    """What is known of the candidates, by their names, before any of them is fine-tuned.

    Attributes:
        entries: Weights and what an image costs.
        codes: Classes of the images that they were rated on, ``(N,)`` in 0..K-1.
        ratings: What they showed on those.
        ranks: Mean rank over all columns; 1 is best.
        chances: How likely each is the best, 0-1.
        prior: Public ImageNet accuracy in percent, where one is known.
        record: What earlier runs say, where there were any.
    """

    entries: Mapping[str, EligibleBackbone]
    codes: np.ndarray
    ratings: Mapping[str, Rating]
    ranks: Mapping[str, float]
    chances: Mapping[str, float]
    prior: Mapping[str, float]
    record: Mapping[str, float]

    @property
    def favourite(self) -> str | None:
        """Return whom the prior takes."""
        return find_favourite(self.prior, self.entries)


def find_favourite(prior: Mapping[str, float], entries: Mapping[str, EligibleBackbone]) -> str | None:
    """Return the candidate with the best prior, of equals the one of least work; None where none is known."""
    return max(prior, key=lambda name: (prior[name], -entries[name].gflops, name)) if prior else None


def rank_candidates(evidence: SelectionEvidence, trials: Sequence[Trial]) -> list[Candidate]:
    """Return the rows of the ranking: the best mean rank first, of equals the least work."""
    entries = evidence.entries
    ordered = sorted(entries, key=lambda name: (evidence.ranks[name], entries[name].gflops, name))
    return [describe_candidate(name, evidence, trials) for name in ordered]


def describe_candidate(name: str, evidence: SelectionEvidence, trials: Sequence[Trial]) -> Candidate:
    """Return the row of the ranking."""
    entry, rating, codes = evidence.entries[name], evidence.ratings[name], evidence.codes
    score, low, high = rating.interval(codes)
    accuracies = [trial.accuracy for trial in trials if trial.name == name and trial.steps]
    return Candidate(
        name=name,
        score=score,
        low=low,
        high=high,
        standard_error=rating.standard_error(codes),
        rank=evidence.ranks[name],
        chance=evidence.chances[name],
        loss=min(rating.probe.losses.values()),
        merit=float(rating.merit(codes).mean()),
        **rating.scores.to_figures(),
        prior=evidence.prior.get(name),
        record=evidence.record.get(name),
        last_round=accuracies[-1] if accuracies else None,
        gflops=entry.gflops,
        nominal_ms=entry.nominal_ms,
        latency_ms=entry.latency_ms,
        parameters=entry.parameters,
        licence=entry.backbone.licence,
        sha256=entry.backbone.sha256,
        source=entry.backbone.source,
        c=rating.probe.c,
        adapt_images=rating.adapt_images,
        preprocess=rating.spec,
    )


def list_columns(
    ratings: Mapping[str, Rating], prior: Mapping[str, float], record: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """Return the columns that the ranks are averaged over; greater is better in each."""
    figures = {name: rating.scores.to_figures() for name, rating in ratings.items()}
    scores = next(iter(figures.values()), {})
    return {
        "prior": {name: prior.get(name) for name in ratings},
        "record": {name: record.get(name) for name in ratings},
        **{score: {name: one[score] for name, one in figures.items()} for score in scores},
        "probe": {name: -min(rating.probe.losses.values()) for name, rating in ratings.items()},
    }


def decide(
    ranking: Sequence[Candidate], trials: Sequence[Trial], merits: Mapping[str, np.ndarray], config: SelectConfig
) -> tuple[str, str]:
    """Return the chosen candidate and why: who wins successive halving, or of the best mean ranks the best evidence.

    With ``prefer="speed"`` the least work within one standard error of the best is taken (Breiman et al. 1984).
    """
    if config.prefer == "speed":
        best = max(ranking, key=lambda row: (row.score, -row.gflops, row.name))
        near = [row for row in ranking if row.score >= best.score - best.standard_error]
        least = min(near, key=lambda row: (row.gflops, -row.score, row.name))
        return least.name, (
            f"{least.name} needs the least work, {least.gflops:g} billion operations an image, of {len(near)} "
            f"candidates within one standard error of the best, {best.name} ({best.score:.3f}),"
        )
    if not trials:
        return decide_by_evidence(ranking)
    last = max(trial.round for trial in trials)
    rows = {row.name: row for row in ranking}
    final = [trial for trial in trials if trial.round == last]
    # Equal halves: what fine-tuning showed, and the mean rank over everything else, which steadies it on few images.
    places = mean_ranks(
        {
            "halving": {trial.name: float(merits[trial.name].mean()) for trial in final},
            "rank": {trial.name: -rows[trial.name].rank for trial in final},
        }
    )
    winner = min(
        final, key=lambda trial: (places[trial.name], -float(merits[trial.name].mean()), rows[trial.name].gflops)
    )
    compared = len({trial.name for trial in trials})
    if not any_steps(trials):
        return winner.name, (
            f"{winner.name} is ahead of {compared - 1} others of {len(ranking)} candidates by probe and mean rank "
            f"(accuracy {winner.accuracy:.3f}, best with probability {winner.chance:.2f}); select.halving_budget_s="
            f"{config.halving_budget_s:g} affords no step of fine-tuning for any of them,"
        )
    return winner.name, (
        f"{winner.name} wins successive halving among {compared} of {len(ranking)} candidates "
        f"(accuracy {winner.accuracy:.3f}, best with probability {winner.chance:.2f})"
    )


def is_enough(evidence: SelectionEvidence, enough: float) -> bool:
    """Say whether the candidate with the best evidence is so good that fine-tuning others could hardly find better."""
    chosen, _ = decide_by_evidence(rank_candidates(evidence, []))
    low = evidence.ratings[chosen].interval(evidence.codes)[1]
    return low >= enough


def decide_by_evidence(ranking: Sequence[Candidate]) -> tuple[str, str]:
    """Return which of the best mean ranks is ahead in PARC minus log loss, each standardised over them, and why.

    Those two tell candidates apart better than the mean rank where images are few: decision 15 has the figures.
    """
    foremost = ranking[:MOST_CANDIDATES]
    shown = {row.name: f"PARC {row.parc:.3f}, log loss {row.loss:.3f}" for row in foremost}
    sums = scale([[row.parc, -row.loss] for row in foremost]).sum(axis=1)
    places = np.argsort(-sums, kind="stable")  # of equals the better rank
    first = foremost[places[0]]
    probe = f"(probe {first.score:.3f}, {first.low:.3f} to {first.high:.3f})"
    if len(ranking) == 1:
        return first.name, f"{first.name} is the only candidate {probe}"
    second = foremost[places[1]]
    return first.name, (
        f"{first.name} has the best evidence of the {len(foremost)} best mean ranks: {shown[first.name]}; next is "
        f"{second.name}: {shown[second.name]} {probe}"
    )


def list_rivals(
    chosen: str, ranking: Sequence[Candidate], evidence: SelectionEvidence, merits: Mapping[str, np.ndarray], seed: int
) -> list[Rival]:
    """Return what the static prior, the track record and the probe alone would have taken, and their regret.

    Where there is one candidate there was nothing to choose.
    """
    if len(ranking) < 2:
        return []
    choices, record, ratings = {"static prior": evidence.favourite}, evidence.record, evidence.ratings
    tried = {row.name: record[row.name] for row in ranking if record.get(row.name) is not None}
    choices["track record"] = max(tried, key=lambda name: (tried[name], name)) if tried else None
    choices["probe alone"] = max(ranking, key=lambda row: (row.score, -row.gflops, row.name)).name
    rivals = []
    for chooser, name in choices.items():
        if name is None:
            continue
        tuned = chosen in merits and name in merits
        ours, theirs = (merits[each] if tuned else ratings[each].merit(evidence.codes) for each in (chosen, name))
        low, high = resample_mean(ours - theirs, seed, ratings[chosen].groups)
        rivals.append(
            Rival(chooser=chooser, chosen=name, regret=float((ours - theirs).mean()), low=low, high=high,
                  basis="halving" if tuned else "probe")
        )  # fmt: skip
    return rivals


def resample_mean(differences: np.ndarray, seed: int, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``(N,)``, of images in ``groups`` where they come in such."""
    if (held := hold_together(groups)) is not None:
        strata = np.zeros(len(differences), dtype=np.int64)
        means = [block @ differences / len(differences) for block in draw_weights(strata, RESAMPLES, seed, held)]
        return percentile_interval(np.concatenate(means), float(differences.mean()))
    rows = np.random.default_rng(seed).integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
