"""What a dataset must fulfil before anything is learnt from it: Great Expectations on the manifest.

To add a check: a column in ``data/evidence.py`` if it needs one, and a row in a ``_list_..._checks`` below. Verdicts
are in ``data/validation.py``.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field

from data.evidence import Evidence, gather_evidence
from data.validation import DataValidationError as DataValidationError
from data.validation import ExpectationVerdict, Observed, ValidationVerdict
from data.validation import format_failures as format_failures

logger = logging.getLogger(__name__)

SHOWN = 5
EPSILON = 1e-9  # Great Expectations wants 1 - share, which is not exact


class ExpectationFault(RuntimeError):  # noqa: N818
    """An expectation that could not be evaluated: a fault of the check, which says nothing about the data."""


class ValidateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Limits of the expectations."""

    labels: tuple[str, ...] | None = None
    """The only allowed labels, all of which must occur; None takes any."""
    min_images_per_class: int = Field(8, ge=1)
    """Distinct images that each class needs."""
    max_class_ratio: float = Field(20.0, ge=1)
    """Images of the largest class for each image of the smallest."""
    min_side_px: int = Field(16, ge=1)
    """Least length of the shorter side."""
    max_side_px: int = Field(20_000, ge=1)
    """Greatest length of the longer side."""
    max_unreadable_share: float = Field(0.01, ge=0, le=1)
    """Share of the listed files that may be in quarantine."""
    max_duplicate_share: float = Field(0.02, ge=0, le=1)
    """Share of the images that may be exact repetitions of another one."""


@dataclass(frozen=True, slots=True)
class _Check:
    """One expectation: ``kind`` and ``arguments`` are Great Expectations', ``show`` names an offending row."""

    name: str
    kind: str
    arguments: dict[str, Any]
    observed: Observed
    threshold: Observed
    expected: str
    show: Callable[[Any], str]
    advice: str


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
        *_run(_list_file_checks(evidence, config), evidence.files),
        *_run(_list_class_checks(evidence, config), evidence.classes),
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


def _list_file_checks(evidence: Evidence, config: ValidateConfig) -> list[_Check]:
    """Return the expectations on every listed file, in the order of the report."""
    images = evidence.files[evidence.files["readable"].astype(bool)]
    unreadable = round(1 - len(images) / max(len(evidence.files), 1), 6)
    checks = [
        _Check(
            "decodable",
            *_in_set("readable", [True], config.max_unreadable_share),
            *(unreadable, config.max_unreadable_share),
            f"at most {config.max_unreadable_share:.1%} of the files to be unreadable",
            lambda row: f"{row.shown}: {row.reason}",
            "Repair or remove these files, or raise max_unreadable_share; quarantine.json says what each lacks.",
        ),
        _Check(
            "min_side",
            *_between("short_side", low=config.min_side_px),
            *(_number(images["short_side"].min()), config.min_side_px),
            f"every side to be at least {config.min_side_px} px",
            lambda row: f"{row.shown}: {row.short_side:.0f} px",
            "Remove these images, or lower min_side_px if so little is enough to judge them.",
        ),
        _Check(
            "max_side",
            *_between("long_side", high=config.max_side_px),
            *(_number(images["long_side"].max()), config.max_side_px),
            f"every side to be at most {config.max_side_px} px",
            lambda row: f"{row.shown}: {row.long_side:.0f} px",
            "Scale these images down, or raise max_side_px.",
        ),
    ]
    if config.labels is not None:
        checks.append(_check_known_labels(images, sorted(config.labels)))
    return [*checks, *_list_identity_checks(images, config)]


def _check_known_labels(images: pd.DataFrame, known: list[str]) -> _Check:
    return _Check(
        "known_labels",
        *_in_set("label", known, 0),
        *(sorted(images["label"].unique()), known),
        f"every label to be one of {', '.join(known)}",
        lambda row: f"{row.shown}: {row.label}",
        "Correct these labels, or add them to the allowed labels.",
    )


def _list_identity_checks(images: pd.DataFrame, config: ValidateConfig) -> list[_Check]:
    """Return the expectations on images that are the same, or belong together."""
    repeated = round(float(images["repeats"].astype(bool).mean()), 6) if len(images) else 0.0
    return [
        _Check(
            "exact_duplicates",
            *_in_set("repeats", [False], config.max_duplicate_share),
            *(repeated, config.max_duplicate_share),
            f"at most {config.max_duplicate_share:.1%} of the images to repeat another one exactly",
            lambda row: f"{row.shown} = {row.original}",
            "Remove the repetitions, or raise max_duplicate_share; each counts once and never in two parts.",
        ),
        _Check(
            "one_label_per_image",
            *_between("image_labels", high=1),
            *(_number(images["image_labels"].max()), 1),
            "no image to have two labels",
            lambda row: f"{row.shown}: {row.named_image_labels}",
            "Decide which label is right and remove the other copies.",
        ),
        _Check(
            "given_parts_share_no_image",
            *_between("image_parts", high=1),
            *(_number(images["image_parts"].max()), 1),
            "no image to be in two of the given parts",
            lambda row: f"{row.shown}: {row.named_image_parts}",
            "Remove the copies from the part that trains; the measured accuracy would be too good.",
        ),
        _Check(
            "given_parts_share_no_group",
            *_between("group_parts", high=1),
            *(_number(images["group_parts"].max()), 1),
            "no group to be in two of the given parts",
            lambda row: f"{row.shown}: group {row.group}: {row.named_group_parts}",
            "Give all images of a group the same part, or leave it empty for all of them.",
        ),
    ]


def _list_class_checks(evidence: Evidence, config: ValidateConfig) -> list[_Check]:
    """Return the expectations on every class, in the order of the report."""
    classes = evidence.classes
    known = sorted(config.labels or ())
    every = _Check(
        "every_label_occurs",
        *("ExpectColumnDistinctValuesToContainSet", {"column": "label", "value_set": known}),
        *(list(classes["label"]), known),
        f"every one of {', '.join(known)} to have images",
        str,
        "Add images of the missing classes, or take them out of the allowed labels.",
    )
    return [
        *([every] if known else []),
        _Check(
            "two_classes",
            *("ExpectColumnUniqueValueCountToBeBetween", {"column": "label", "min_value": 2}),
            *(len(classes), 2),
            "at least two classes",
            str,
            "Add images of another class; there is nothing to tell apart.",
        ),
        _Check(
            "images_per_class",
            *_between("images", low=config.min_images_per_class),
            *(_number(classes["images"].min()), config.min_images_per_class),
            f"every class to have at least {config.min_images_per_class} distinct images",
            lambda row: f"{row.label}: {row.images} images",
            "Add images of these classes or leave the classes out; min_images_per_class is the limit.",
        ),
        _Check(
            "class_ratio",
            *_between("ratio", high=config.max_class_ratio),
            *(_number(classes["ratio"].max()), config.max_class_ratio),
            f"the largest class to be at most {config.max_class_ratio:g} times as large as any other",
            lambda row: f"{row.label}: {row.images} images, {row.ratio:.1f} times fewer than the largest class",
            "Add images of these classes, or raise max_class_ratio.",
        ),
        _Check(
            "trainable_classes",
            *_between("trainable", low=2),
            *(_number(classes["trainable"].min()), 2),
            "every class to have at least two images outside of the given validation and test parts",
            lambda row: f"{row.label}: {row.trainable} to learn from, {row.images} in all",
            "Move images of these classes to the part that trains; what is never shown cannot be learnt.",
        ),
    ]


def _in_set(column: str, values: list[Any], tolerated_share: float) -> tuple[str, dict[str, Any]]:
    mostly = max(0.0, 1 - tolerated_share - EPSILON) if tolerated_share else 1.0
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": values, "mostly": mostly}


def _between(column: str, *, low: float | None = None, high: float | None = None) -> tuple[str, dict[str, Any]]:
    return "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high}


def _number(value: float) -> float | int:
    """Return a minimum or maximum as a plain number; 0 for a column without values."""
    if pd.isna(value):
        return 0
    return int(value) if float(value).is_integer() else round(float(value), 6)


def _run(checks: list[_Check], table: pd.DataFrame) -> list[ExpectationVerdict]:
    """Return what Great Expectations says about ``table``, in the order of ``checks``.

    Raises:
        ExpectationFault: If one could not be evaluated, or has no result.
    """
    import great_expectations as gx  # seconds to import
    from great_expectations import expectations as kinds

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")  # without a mode, GX_CLOUD_* in the environment choose the cloud
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("data").add_dataframe_asset("rows")
    asked = [getattr(kinds, check.kind)(**check.arguments, meta={"name": check.name}) for check in checks]
    suite = context.suites.add(gx.ExpectationSuite(name="dataset", expectations=asked))
    definition = gx.ValidationDefinition(
        name="dataset", data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
    )
    answer = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": table}, result_format="COMPLETE"
    )
    results = {result.expectation_config.meta["name"]: result for result in answer.results}
    if missing := sorted({check.name for check in checks} - results.keys()):
        raise ExpectationFault(f"no result for the expectations {', '.join(missing)}; nothing is known about the data")
    return [_judge(check, results[check.name], table) for check in checks]


def _judge(check: _Check, result: Any, table: pd.DataFrame) -> ExpectationVerdict:
    """Return the verdict of one check from the answer of Great Expectations."""
    info = result.exception_info or {}
    for told in (info, *info.values()):
        if isinstance(told, dict) and told.get("raised_exception"):
            raise ExpectationFault(
                f"the expectation {check.name} could not be evaluated ({told.get('exception_message')}); "
                "this is a fault of the check in data/expectations.py, not of the data"
            )
    detail = result.result
    if "unexpected_count" in detail:
        count, looked_at = detail["unexpected_count"], detail["element_count"] - detail.get("missing_count", 0)
        offending = table.loc[(detail.get("unexpected_index_list") or [])[:SHOWN]]
        offenders = [check.show(row) for row in offending.itertuples()]
    else:  # an expectation on the column as a whole
        offenders = [] if result.success else _find_missing(check) or list(table["label"])
        count, looked_at = len(offenders), len(offenders) + len(table)
    share = round(count / max(looked_at, 1), 6)
    figures = (check.observed, check.threshold, int(count), share)
    return ExpectationVerdict(
        check.name, bool(result.success), check.expected, *figures, tuple(offenders[:SHOWN]), check.advice
    )


def _find_missing(check: _Check) -> list[str]:
    """Return what a list of values was expected to hold and does not."""
    wanted, found = (value if isinstance(value, list) else [] for value in (check.threshold, check.observed))
    return sorted(set(wanted) - set(found))
