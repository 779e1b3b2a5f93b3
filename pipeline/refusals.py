"""What is said when a rule of the study forbids to go on.

All parties come to such an end, and one of them is a moment earlier and tells
the others. So that nobody seems to be at fault, and nobody learns more than
another, whoever is told says the same as who found it. The words name no
column: which one it is would tell something of its values, unless it is agreed
that columns may be named.
"""

from __future__ import annotations

from datetime import date

from pipeline import plain_lasso
from pipeline.agreement import Agreement

_FEWER = "agree on fewer features, a larger penalty or another rule"

# What the rules on what comes out say when they fail; `docs/disclosure-control.md` has their sources.
GATE = {
    "min_level_count": (
        "a level of a category, or a value of a column that has two, has too few matched records; agree on coarser"
        ' levels, leave the column out, or agree on rare_levels = "drop"'
    ),
    "min_residual_df": f"the model would leave too few residual degrees of freedom; {_FEWER}",
    "max_parameters_ratio": f"the model would have too many parameters for the number of records; {_FEWER}",
    "max_r2": "the model explains nearly everything, as if a feature were a copy of the outcome; leave that one out",
    "held-out": (
        "the cross-validated errors are too large to compare, as with a feature that hardly varies outside a fold;"
        " agree on fewer folds, larger penalties, or leave the feature out"
    ),
    "criterion": "the criterion needs more records than features plus one; agree on fewer features or on folds",
}


def too_few_records(min_records: int) -> str:
    return (
        f"fewer than {min_records} complete records are in both tables, which is what the agreement asks for at least;"
        " the number is told to nobody, so see whether the identifiers of both tables are written alike"
    )


def other_join() -> str:
    return (
        "the shares that the parties have kept are not all of the same join, or the agreement differs from that of the"
        " join in more than [model]; use the agreement of the join, or run the study again at all parties"
    )


def expired(until: date | None) -> str:
    return (
        f"the agreement keeps shares until {until}, and that day is over; destroy them with `python -m pipeline forget`"
        " at each party"
    )


def analyses_used(max_analyses: int) -> str:
    times = "one analysis" if max_analyses == 1 else f"{max_analyses} analyses"
    return f"the agreement allows {times} of one join, refused ones included, and they have been made"


def opened_used(ratio: float | None) -> str:
    return (
        "with what earlier analyses of this join have opened, this one could open more numbers than the agreement"
        f" allows (gate.max_parameters_ratio: {ratio} for each matched record); open less, or let fewer features take"
        " part"
    )


def sentence(rule: str, agreement: Agreement) -> str | None:
    """The sentence of a rule of the study; None if `rule` is about a party."""
    match rule:
        case "too-few-records":
            return too_few_records(agreement.study.min_records)
        case "not-converged":
            return plain_lasso.not_converged(agreement.model.max_iterations)
        case "constant-outcome":
            return plain_lasso.constant_outcome()
        case "spread":
            return plain_lasso.too_little_spread()
        case "rank":
            return plain_lasso.dependent_features()
        case "other-join":
            return other_join()
        case "expired":
            return expired(agreement.study.keep_until)
        case "analyses-used":
            return analyses_used(agreement.study.max_analyses)
        case "opened-used":
            return opened_used(agreement.gate.max_parameters_ratio)
    return GATE.get(rule)
