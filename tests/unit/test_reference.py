"""scikit-learn's model of the plain join: each kind of model, on the original scale, and distances from it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.agreement import Model
from pipeline.datasets import correlated, plain_join
from pipeline.reference import fitted_difference, plain_fit, standardised_difference

RECORDS = 60
STUDY = correlated(RECORDS, 0.8, 6, 0.5, seed=3)
MODELS = {
    "lasso": (Model(0.1), Lasso(0.1, tol=1e-12, max_iter=10**6)),
    "elastic-net": (
        Model(0.1, kind="elastic-net", l1_ratio=0.4),
        ElasticNet(0.1, l1_ratio=0.4, tol=1e-12, max_iter=10**6),
    ),
    "ridge": (Model(0.1, kind="ridge", l1_ratio=0.0), Ridge(0.1 * RECORDS)),
    "ols": (Model(0.0, kind="ols"), LinearRegression()),
    "no penalty": (Model(0.0), LinearRegression()),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_kind_is_the_estimator_that_the_documents_name(name: str) -> None:
    model, estimator = MODELS[name]
    features, outcome = plain_join(STUDY)
    pipe = make_pipeline(StandardScaler(), estimator).fit(features.to_numpy(), outcome)
    found = plain_fit(STUDY, model)
    assert found.records == len(outcome) == RECORDS
    fitted = found.intercept + features.to_numpy() @ np.array(list(found.coefficients.values()))
    np.testing.assert_allclose(fitted, pipe.predict(features.to_numpy()), atol=1e-9)
    assert found.r2 == pytest.approx(pipe.score(features.to_numpy(), outcome), abs=1e-12)
    assert list(found.coefficients) == list(features.columns)


def test_distances_are_in_standard_deviations_of_the_outcome() -> None:
    found = plain_fit(STUDY, Model(0.1))
    result = {"coefficients": dict(found.coefficients), "intercept": found.intercept}
    assert standardised_difference(result, found) == fitted_difference(result, found) == 0.0
    moved = result | {"intercept": found.intercept + 2 * found.outcome_sd}
    assert fitted_difference(moved, found) == pytest.approx(2)
    assert standardised_difference(moved, found) == 0.0
    name = "insurer.x5"
    tilted = dict(found.coefficients) | {name: found.coefficients[name] + 1e-3}
    assert standardised_difference({"coefficients": tilted}, found) == pytest.approx(
        1e-3 * found.feature_sd[name] / found.outcome_sd
    )


def test_models_with_the_same_fitted_values_are_apart_in_coefficients_only() -> None:
    study = correlated(RECORDS, 0.8, 4, "duplicates", seed=3)
    found = plain_fit(study, Model(0.01))
    moved = dict(found.coefficients)
    moved["hospital.x1"] -= 0.1
    moved["insurer.x3"] += 0.1
    result = {"coefficients": moved, "intercept": found.intercept}
    assert found.dependent
    assert standardised_difference(result, found) > 0.05
    assert fitted_difference(result, found) < 1e-12


@pytest.mark.parametrize(
    ("correlation", "condition"), [("independent", 1), (0.5, 11), (0.9, 91), (0.99, 991), ("pairs", 199)]
)
def test_many_records_have_the_condition_number_that_was_asked_for(correlation: float | str, condition: float) -> None:
    found = plain_fit(correlated(20_000, 1.0, 10, correlation, seed=1), Model(0.1))
    assert found.condition == pytest.approx(condition, rel=0.1)
    assert not found.dependent
    assert found.outcome_sd == pytest.approx(1, abs=0.02)
