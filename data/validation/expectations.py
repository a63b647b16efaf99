"""What a dataset must fulfil before anything is learnt from it: Great Expectations on the manifest.

To add a check: a column in ``data/validation/tables.py`` if it needs one, and a row in a ``_list_..._checks`` below.
Verdicts are in ``data/validation/verdict.py``.
"""

import logging
from collections.abc import Sequence
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field

from regraft.data.validation.checking import Check, Rule, run_checks
from regraft.data.validation.checking import ExpectationFault as ExpectationFault
from regraft.data.validation.tables import DatasetTables, gather_evidence
from regraft.data.validation.verdict import DataValidationError as DataValidationError
from regraft.data.validation.verdict import ValidationVerdict
from regraft.data.validation.verdict import format_failures as format_failures

logger = logging.getLogger(__name__)

EPSILON = 1e-9  # Great Expectations wants 1 - share, which is not exact


class ValidateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Limits of the expectations."""

    labels: tuple[str, ...] | None = None
    """The only allowed labels, all of which must occur; None takes any."""
    min_images_per_class: int = Field(8, ge=1)
    """Distinct images that each class needs."""
    max_class_ratio: float = Field(20.0, ge=1)
    """Images of the largest class for each image of the smallest above which it is remarked; nothing stops for it."""
    min_side_px: int = Field(16, ge=1)
    """Least length of the shorter side."""
    max_side_px: int = Field(20_000, ge=1)
    """Greatest length of the longer side."""
    max_unreadable_share: float = Field(0.01, ge=0, le=1)
    """Share of the listed files that may be in quarantine."""
    max_duplicate_share: float = Field(0.02, ge=0, le=1)
    """Share of the images that may be exact repetitions of another one."""


def validate_dataset(
    manifest: pd.DataFrame, quarantine: Sequence[dict[str, Any]], config: ValidateConfig
) -> ValidationVerdict:
    """Return the verdict on a dataset; data that fail an expectation are a verdict, not an error.

    Args:
        manifest: As ``read_manifest`` returns it.
        quarantine: The rows of ``quarantine.json``.
        config: Limits.

    Raises:
        ExpectationFault: If Great Expectations could not evaluate an expectation.
    """
    evidence = gather_evidence(manifest, quarantine)
    verdicts = (
        *run_checks(_list_file_checks(evidence, config), evidence.files),
        *run_checks(_list_class_checks(evidence, config), evidence.classes),
    )
    counts = {
        "images": len(manifest),
        "distinct": int(manifest["sha256"].nunique()),
        "classes": len(evidence.classes),
        "quarantined": len(quarantine),
        "expectations": len(verdicts),
    }
    verdict = ValidationVerdict(verdicts, counts)
    logger.info("validate done expectations=%d failed=%d images=%d", len(verdicts), len(verdict.failed), len(manifest))
    return verdict


def _list_file_checks(evidence: DatasetTables, config: ValidateConfig) -> list[Check]:
    """Return the expectations on every listed file, in the order of the report."""
    images = evidence.files[evidence.files["readable"].astype(bool)]
    unreadable = round(1 - len(images) / max(len(evidence.files), 1), 6)
    checks = [
        Check(
            name="decodable",
            rule=in_set("readable", [True], config.max_unreadable_share),
            observed=unreadable,
            threshold=config.max_unreadable_share,
            expected=f"at most {config.max_unreadable_share:.1%} of the files to be unreadable",
            show=lambda row: f"{row.shown}: {row.reason}",
            advice="Repair or remove these files, or raise max_unreadable_share; quarantine.json says what each lacks.",
        ),
        *_list_size_checks(images, config),
        Check(
            name="constant_images",
            rule=in_set("constant", [False], 0),
            observed=int(images["constant"].astype(bool).sum()),
            threshold=0,
            expected="no image to have equal pixels throughout",
            show=lambda row: str(row.shown),
            advice="Nothing can be learned from them; remove those that show nothing, and look at what wrote them.",
            binding=False,
        ),
    ]
    if config.labels is not None:
        checks.append(_check_known_labels(images, sorted(config.labels)))
    return [*checks, *_list_identity_checks(images, config)]


def _list_size_checks(images: pd.DataFrame, config: ValidateConfig) -> list[Check]:
    """Return the expectations on the sides of the images."""
    return [
        Check(
            name="min_side",
            rule=between("short_side", low=config.min_side_px),
            observed=_number(images["short_side"].min()),
            threshold=config.min_side_px,
            expected=f"every side to be at least {config.min_side_px} px",
            show=lambda row: f"{row.shown}: {row.short_side:.0f} px",
            advice="Remove these images, or lower min_side_px if so little is enough to judge them.",
        ),
        Check(
            name="max_side",
            rule=between("long_side", high=config.max_side_px),
            observed=_number(images["long_side"].max()),
            threshold=config.max_side_px,
            expected=f"every side to be at most {config.max_side_px} px",
            show=lambda row: f"{row.shown}: {row.long_side:.0f} px",
            advice="Scale these images down, or raise max_side_px.",
        ),
    ]


def _check_known_labels(images: pd.DataFrame, known: list[str]) -> Check:
    return Check(
        name="known_labels",
        rule=in_set("label", known, 0),
        observed=sorted(images["label"].unique()),
        threshold=known,
        expected=f"every label to be one of {', '.join(known)}",
        show=lambda row: f"{row.shown}: {row.label}",
        advice="Correct these labels, or add them to the allowed labels.",
    )


def _list_identity_checks(images: pd.DataFrame, config: ValidateConfig) -> list[Check]:
    """Return the expectations on images that are the same, or belong together."""
    repeated = round(float(images["repeats"].astype(bool).mean()), 6) if len(images) else 0.0
    return [
        Check(
            name="exact_duplicates",
            rule=in_set("repeats", [False], config.max_duplicate_share),
            observed=repeated,
            threshold=config.max_duplicate_share,
            expected=f"at most {config.max_duplicate_share:.1%} of the images to repeat another one exactly",
            show=lambda row: f"{row.shown} = {row.original}",
            advice="Remove the repetitions, or raise max_duplicate_share; each counts once and never in two parts.",
        ),
        Check(
            name="one_label_per_image",
            rule=between("image_labels", high=1),
            observed=_number(images["image_labels"].max()),
            threshold=1,
            expected="no image to have two labels",
            show=lambda row: f"{row.shown}: {row.named_image_labels}",
            advice="Decide which label is right and remove the other copies.",
        ),
        Check(
            name="given_parts_share_no_image",
            rule=between("image_parts", high=1),
            observed=_number(images["image_parts"].max()),
            threshold=1,
            expected="no image to be in two of the given parts",
            show=lambda row: f"{row.shown}: {row.named_image_parts}",
            advice="Remove the copies from the part that trains; the measured accuracy would be too good.",
        ),
        Check(
            name="given_parts_share_no_group",
            rule=between("group_parts", high=1),
            observed=_number(images["group_parts"].max()),
            threshold=1,
            expected="no group to be in two of the given parts",
            show=lambda row: f"{row.shown}: group {row.group}: {row.named_group_parts}",
            advice="Give all images of a group the same part, or leave it empty for all of them.",
        ),
    ]


def _list_class_checks(evidence: DatasetTables, config: ValidateConfig) -> list[Check]:
    """Return the expectations on every class, in the order of the report."""
    classes = evidence.classes
    return [
        *([_check_labels_occur(classes, sorted(config.labels))] if config.labels else []),
        Check(
            name="two_classes",
            rule=Rule("ExpectColumnUniqueValueCountToBeBetween", {"column": "label", "min_value": 2}),
            observed=len(classes),
            threshold=2,
            expected="at least two classes",
            show=str,
            advice="Add images of another class; there is nothing to tell apart.",
        ),
        Check(
            name="images_per_class",
            rule=between("images", low=config.min_images_per_class),
            observed=_number(classes["images"].min()),
            threshold=config.min_images_per_class,
            expected=f"every class to have at least {config.min_images_per_class} distinct images",
            show=lambda row: f"{row.label}: {row.images} images",
            advice="Add images of these classes or leave the classes out; min_images_per_class is the limit.",
        ),
        Check(
            name="class_ratio",
            rule=between("ratio", high=config.max_class_ratio),
            observed=_number(classes["ratio"].max()),
            threshold=config.max_class_ratio,
            expected=f"the largest class to be at most {config.max_class_ratio:g} times as large as any other",
            show=lambda row: f"{row.label}: {row.images} images, {row.ratio:.1f} times fewer than the largest class",
            advice=(
                "Read the scores by class: accuracy says little about a rare one. More images of it help most; "
                "--set finetune.loop.rare_weight=0.5 makes each of them count for more."
            ),
            binding=False,
        ),
        Check(
            name="trainable_classes",
            rule=between("trainable", low=2),
            observed=_number(classes["trainable"].min()),
            threshold=2,
            expected="every class to have at least two images outside of the given validation and test parts",
            show=lambda row: f"{row.label}: {row.trainable} to learn from, {row.images} in all",
            advice="Move images of these classes to the part that trains; what is never shown cannot be learnt.",
        ),
    ]


def _check_labels_occur(classes: pd.DataFrame, known: list[str]) -> Check:
    return Check(
        name="every_label_occurs",
        rule=Rule("ExpectColumnDistinctValuesToContainSet", {"column": "label", "value_set": known}),
        observed=list(classes["label"]),
        threshold=known,
        expected=f"every one of {', '.join(known)} to have images",
        show=str,
        advice="Add images of the missing classes, or take them out of the allowed labels.",
    )


def in_set(column: str, values: list[Any], tolerated_share: float) -> Rule:
    """Return the rule that a column holds only ``values``, but for a share of its rows."""
    mostly = max(0.0, 1 - tolerated_share - EPSILON) if tolerated_share else 1.0
    return Rule("ExpectColumnValuesToBeInSet", {"column": column, "value_set": values, "mostly": mostly})


def between(column: str, *, low: float | None = None, high: float | None = None) -> Rule:
    """Return the rule that every value of a column lies between ``low`` and ``high``, ends included."""
    return Rule("ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high})


def _number(value: float) -> float | int:
    """Return a minimum or maximum as a plain number; 0 for a column without values."""
    if pd.isna(value):
        return 0
    return int(value) if float(value).is_integer() else round(float(value), 6)
