"""What a controller makes of the opened numbers: the parts of its result, under the names of the agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.agreement import Agreement
from pipeline.errors import LocalProtocolError
from pipeline.results import CrossValidation, Inference, Moments, OpenedModel, PathPoint
from pipeline.secure_analysis import Analysis, CrossValidated, Fit

CONFIDENCE = 0.95


def opened_model(agreement: Agreement, analysis: Analysis, records: int) -> OpenedModel | None:
    """None at the third party, which learns no model."""
    fitted = analysis.fits[analysis.chosen]
    if fitted.coefficients is None or fitted.intercept is None or fitted.r2 is None or fitted.mse is None:
        return None
    names = agreement.analysed_names
    path: tuple[PathPoint, ...] = ()
    if agreement.opened.model == "path":
        path = tuple(_point(alpha, fit) for alpha, fit in zip(analysis.alphas or (), analysis.fits, strict=True))
    return OpenedModel(
        fitted.intercept,
        fitted.coefficients,
        fitted.r2,
        fitted.mse,
        analysis.chosen_alpha,
        path,
        _cross_validation(agreement, analysis),
        _inference(names, fitted, analysis.standard_errors, records) if analysis.standard_errors else {},
        _table1(agreement, analysis),
    )


def notes(agreement: Agreement, analysis: Analysis) -> list[str]:
    """What a reader should know about the choice of the penalty."""
    place, last = analysis.place, agreement.model.problems - 1
    if place is None:
        return []
    if place == 0 and agreement.model.n_alphas:
        little = " by more than one standard error" if agreement.model.rule == "1se" else ""
        return [f"The chosen penalty is the largest of the grid: no penalised feature helps to predict{little}."]
    if place in (0, last):
        end, other = ("largest", "larger") if place == 0 else ("smallest", "smaller")
        return [f"The chosen penalty is the {end} of the grid; a {other} one may be better."]
    return []


def _point(alpha: float, fit: Fit) -> PathPoint:
    if fit.coefficients is None or fit.intercept is None or fit.r2 is None:
        raise LocalProtocolError("a model of the path was not opened")
    return PathPoint(alpha, fit.intercept, fit.coefficients, fit.r2)


def _cross_validation(agreement: Agreement, analysis: Analysis) -> CrossValidation | None:
    found, alphas, model = analysis.cross_validated, analysis.alphas, agreement.model
    by_error = model.rule in ("min", "1se") and analysis.chosen_alpha is not None
    if found is None and not by_error:
        return None
    if found is None or found.mean is None or found.sd is None or alphas is None:
        r2 = None if found is None else found.r2
        by_rule = {model.rule: analysis.chosen_alpha if by_error else None}
        return CrossValidation(model.folds, alpha_min=by_rule.get("min"), alpha_1se=by_rule.get("1se"), r2=r2)
    least, near = smallest_and_near(found)
    if analysis.place is not None:  # chosen before the errors were rounded
        least, near = (analysis.place, near) if model.rule == "min" else (least, analysis.place)
    return CrossValidation(model.folds, alphas, found.mean, found.sd, alphas[least], alphas[near], found.r2)


def smallest_and_near(found: CrossValidated) -> tuple[int, int]:
    """The place of the least mean error, and that of the largest penalty within one standard error of it; of equally
    good ones the first.
    """
    if found.mean is None or found.sd is None:
        raise LocalProtocolError("the errors of the folds were not opened")
    most = min(found.mean) + found.accuracy
    least = next(i for i, mean in enumerate(found.mean) if mean <= most)
    limit = most + found.sd[least]
    return least, next(i for i, mean in enumerate(found.mean) if mean <= limit)


def _inference(names: Sequence[str], fitted: Fit, errors: Sequence[float], records: int) -> Mapping[str, Inference]:
    """t, p and intervals as of a linear model with normal errors; a coefficient without an error is left out.

    p is two-sided, from Student's distribution with the residual degrees of freedom.
    """
    from scipy.special import stdtr, stdtrit  # takes a while, and few need it

    terms, values = list(names), list(fitted.coefficients or ())
    if len(errors) == len(values) + 1:
        terms, values = ["intercept", *terms], [fitted.intercept or 0.0, *values]
    freedom = records - len(terms)
    width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    found = {}
    for term, value, error in zip(terms, values, errors, strict=True):
        if error > 0 and math.isfinite(error):
            t = value / error
            found[term] = Inference(
                error, t, float(2 * stdtr(freedom, -abs(t))), value - width * error, value + width * error
            )
    return found


def _table1(agreement: Agreement, analysis: Analysis) -> Mapping[str, Moments]:
    if analysis.spreads is None:
        return {}
    party = agreement.outcome_party
    names = (*agreement.analysed_names, f"{party.name}.{party.outcome}")
    return {name: Moments(s.mean, s.sd) for name, s in zip(names, analysis.spreads, strict=True)}
