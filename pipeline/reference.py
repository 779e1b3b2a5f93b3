"""scikit-learn's model of the plain join, and how far a result is from it.

Nobody has a plain join in a real study: for demonstrations and experiments.
scikit-learn is imported where it is used; whoever calls this has made sure of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.agreement import Model
from pipeline.datasets import StudyData, plain_join

Floats = NDArray[np.float64]

TOLERANCE = 1e-14  # of scikit-learn's coordinate descent; its default is good for four digits
MAX_ITERATIONS = 1_000_000


@dataclass(frozen=True, eq=False)
class Reference:
    """scikit-learn's model of the plain join, on the original scale.

    condition : number of the features' correlation matrix; infinite where features are exactly dependent.
    """

    intercept: float
    coefficients: Mapping[str, float]
    feature_sd: Mapping[str, float]  # population standard deviations
    outcome_sd: float
    r2: float
    records: int
    features: pd.DataFrame
    condition: float

    @property
    def dependent(self) -> bool:
        """Whether features are exactly dependent, so that a lasso may have several solutions."""
        return not np.isfinite(self.condition)


def plain_fit(study: StudyData, model: Model) -> Reference:
    """Fit the model's kind with its `alpha` and `l1_ratio` on the plain join; its other keys do not count."""
    from sklearn.preprocessing import StandardScaler

    features, outcome = plain_join(study)
    scaler = StandardScaler().fit(features.to_numpy())
    scaled: Floats = scaler.transform(features.to_numpy())
    fitted = _fitted(scaled, outcome, model)
    slopes = fitted.coef_ / scaler.scale_
    return Reference(
        intercept=float(fitted.intercept_ - slopes @ scaler.mean_),
        coefficients=dict(zip(features.columns, map(float, slopes), strict=True)),
        feature_sd=dict(zip(features.columns, map(float, scaler.scale_), strict=True)),
        outcome_sd=float(np.std(outcome)),
        r2=float(fitted.score(scaled, outcome)),
        records=len(outcome),
        features=features,
        condition=condition_number(scaled),
    )


def _fitted(scaled: Floats, outcome: Floats, model: Model) -> Any:
    """The estimator; scikit-learn's Ridge wants its penalty times the number of records."""
    from sklearn.linear_model import ElasticNet, LinearRegression, Ridge

    if model.kind == "ols" or model.alpha == 0:
        return LinearRegression().fit(scaled, outcome)
    if model.l1_ratio == 0:
        return Ridge(model.alpha * len(outcome)).fit(scaled, outcome)
    estimator = ElasticNet(model.alpha, l1_ratio=model.l1_ratio, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where rounding allows no such tolerance it has come as far as it can
        return estimator.fit(scaled, outcome)


def condition_number(scaled: Floats) -> float:
    """Largest over smallest eigenvalue of the correlations; infinite where the smallest is nothing but rounding."""
    varying = scaled[:, scaled.std(0) > 0]
    values = np.linalg.eigvalsh(varying.T @ varying / len(varying))
    smallest, largest = float(values[0]), float(values[-1])
    return largest / smallest if smallest > largest * len(values) * np.finfo(np.float64).eps else float("inf")


def standardised_difference(result: Mapping[str, Any], reference: Reference) -> float:
    """The largest difference of a coefficient, in standard deviations of the outcome per one of the feature."""
    opened: Mapping[str, float] = result["coefficients"]
    return max(
        abs(opened[name] - value) * reference.feature_sd[name] / reference.outcome_sd
        for name, value in reference.coefficients.items()
    )


def fitted_difference(result: Mapping[str, Any], reference: Reference) -> float:
    """The largest difference of a record's fitted value, in standard deviations of the outcome.

    Means something also where a model has several solutions, which all fit the same.
    """
    opened = np.array([result["coefficients"][name] for name in reference.features.columns])
    slopes = np.array(list(reference.coefficients.values()))
    differences = reference.features.to_numpy() @ (opened - slopes) + (result["intercept"] - reference.intercept)
    return float(np.abs(differences).max()) / reference.outcome_sd
