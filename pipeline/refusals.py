"""What is said when a rule of the study forbids to go on.

All parties come to such an end, and one of them is a moment earlier and tells
the others. So that nobody seems to be at fault, and nobody learns more than
another, whoever is told says the same as who found it. The words name no
column: which one it is would tell something of its values.
"""

from __future__ import annotations

from datetime import date

from pipeline import plain_lasso
from pipeline.agreement import Agreement


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
    return None
