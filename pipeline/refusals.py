"""What is said when a rule of the study forbids to go on.

All parties come to such an end, and one of them is a moment earlier and tells
the others. So that nobody seems to be at fault, and nobody learns more than
another, whoever is told says the same as who found it. The words name no
column: which one it is would tell something of its values.
"""

from __future__ import annotations

from pipeline import plain_lasso
from pipeline.agreement import Agreement


def too_few_records(min_records: int) -> str:
    return (
        f"fewer than {min_records} complete records are in both tables, which is what the agreement asks for at least;"
        " the number is told to nobody, so see whether the identifiers of both tables are written alike"
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
    return None
