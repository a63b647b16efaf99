"""One question to Great Expectations about a table, and its answer as a verdict; which ones are in ``expectations``."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regraft.data.validation.verdict import ExpectationVerdict, Observed

SHOWN = 5


class ExpectationFault(RuntimeError):  # noqa: N818
    """An expectation that could not be evaluated: a fault of the check, which says nothing about the data."""

    exit_code = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a table must fulfil: the name of a class of Great Expectations, and what it is made with."""

    kind: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation on the data, with what is said of it.

    Attributes:
        name: In the verdict; unique.
        rule: What the table must fulfil.
        observed: The figure of these data that the rule looks at.
        threshold: What that figure is held against.
        expected: What is expected of the data, in words that go on from "expected".
        show: Names an offending row.
        advice: What to do about it.
        binding: Whether a failure stops the chain; otherwise it is a remark.
    """

    name: str
    rule: Rule
    observed: Observed
    threshold: Observed
    expected: str
    show: Callable[[Any], str]
    advice: str
    binding: bool = True


def run_checks(checks: list[Check], table: pd.DataFrame) -> list[ExpectationVerdict]:
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
    asked = [getattr(kinds, check.rule.kind)(**check.rule.arguments, meta={"name": check.name}) for check in checks]
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


def _judge(check: Check, result: Any, table: pd.DataFrame) -> ExpectationVerdict:
    """Return the verdict of one check from the answer of Great Expectations."""
    info = result.exception_info or {}
    for told in (info, *info.values()):
        if isinstance(told, dict) and told.get("raised_exception"):
            raise ExpectationFault(
                f"the expectation {check.name} could not be evaluated ({told.get('exception_message')}); "
                "this is a fault of the check in data/validation/expectations.py, not of the data"
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
        check.name,
        bool(result.success),
        check.expected,
        *figures,
        tuple(offenders[:SHOWN]),
        check.advice,
        check.binding,
    )


def _find_missing(check: Check) -> list[str]:
    """Return what a list of values was expected to hold and does not."""
    wanted, found = (value if isinstance(value, list) else [] for value in (check.threshold, check.observed))
    return sorted(set(wanted) - set(found))
