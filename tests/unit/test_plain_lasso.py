"""The plain twin against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from lassos import KINDS, Encoded, encode, objective, reference, strongest_penalty, table

from pipeline.config import Model
from pipeline.errors import Refused
from pipeline.plain_lasso import Fit, Settings, fit, inverse, schedule, soft_threshold


def settings(model: Model, exponent: int) -> Settings:
    """The model with alpha in steps of the outcome, and steps as large for every feature."""
    alpha = model.alpha * 2.0**exponent * (1 if model.standardize else 2.0**exponent)
    return Settings(alpha, model.standardize, model.fit_intercept, model.tolerance, model.max_iterations)


def fitted(x, y, model: Model) -> Fit:
    """Encode with one scale for all columns and no offset, so that results need no scaling."""
    exponent = 24
    values = [[round(v * 2.0**exponent) for v in row] for row in np.column_stack((x, y)).tolist()]
    encoded = Encoded(np.array(values, dtype=object), (), ())
    found = fit(encoded.gram, settings(model, exponent))
    return Fit(found.iterations, found.coefficients, found.intercept / 2**exponent, found.r2, found.mse / 4**exponent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("shape", [(200, 10), (15, 24)])
def test_the_objective_is_that_of_scikit_learn(kind: str, strength: float, shape: tuple[int, int]) -> None:
    x, y = table(kind, *shape)
    model = Model(strongest_penalty(x, y, strength))
    found, expected = fitted(x, y, model), reference(x, y, model)
    assert objective(x, y, model, found.coefficients, found.intercept) == pytest.approx(
        objective(x, y, model, expected.coefficients, expected.intercept), rel=1e-9
    )
    assert found.r2 == pytest.approx(expected.r2, abs=1e-7)
    assert found.mse == pytest.approx(expected.mse, rel=1e-6)


@pytest.mark.parametrize("kind", ["independent", "pairs", "neighbours", "heavy tails"])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("strength", [0.3, 0.01, 0.0])
def test_coefficients_equal_those_of_scikit_learn(
    kind: str, standardize: bool, fit_intercept: bool, strength: float
) -> None:
    x, y = table(kind, 300, 12)
    x, y = x + np.arange(12) / 4, y + 2
    alpha = strongest_penalty(x, y, strength, standardize, fit_intercept)
    model = Model(alpha, standardize=standardize, fit_intercept=fit_intercept)
    found, expected = fitted(x, y, model), reference(x, y, model)
    difference = (np.array(found.coefficients) - expected.coefficients) * x.std(0) / y.std()
    assert np.abs(difference).max() < 1e-7
    assert found.intercept == pytest.approx(expected.intercept, abs=1e-6 * y.std())
    assert np.array_equal(np.array(found.coefficients) == 0, expected.coefficients == 0) or strength == 0


def test_a_penalty_above_the_strongest_removes_everything() -> None:
    x, y = table("independent", 100, 5)
    found = fitted(x, y, Model(strongest_penalty(x, y, 1.01)))
    assert found.coefficients == (0.0,) * 5 and found.r2 == pytest.approx(0, abs=1e-12)


def test_a_single_feature_is_enough() -> None:
    x, y = table("independent", 100, 1)
    model = Model(0.01)
    assert fitted(x, y, model).coefficients == pytest.approx(reference(x, y, model).coefficients)


def test_a_constant_feature_gets_a_coefficient_of_exactly_zero() -> None:
    x, y = table("independent", 100, 4)
    x[:, 2] = 3.5
    for fit_intercept in (True, False):
        assert fitted(x, y, Model(0.01, fit_intercept=fit_intercept)).coefficients[2] == 0.0


def test_a_constant_outcome_is_refused() -> None:
    x, _ = table("independent", 100, 4)
    with pytest.raises(Refused, match="outcome is the same"):
        fitted(x, np.full(100, 2.5), Model(0.1))


def test_too_few_iterations_are_refused_and_the_sentence_says_how_many() -> None:
    x, y = table("pairs", 400, 20)
    with pytest.raises(Refused, match="within 1 iterations"):
        fitted(x, y, Model(strongest_penalty(x, y, 0.3), max_iterations=1))


@pytest.mark.parametrize("limit", [1, 14, 15, 16, 300, 1000])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_phases_end_at_the_limit(limit: int, fit_intercept: bool) -> None:
    phases = list(schedule(limit, fit_intercept))
    assert sum(phase.iterations for phase in phases) == limit
    assert all(phase.iterations > 0 for phase in phases)


@pytest.mark.parametrize("lowest", [1.0, 1e-2, 1e-4])
def test_newtons_iteration_inverts_matrices_with_eigenvalues_in_the_interval(lowest: float) -> None:
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    for highest in (1.0, 20.0):
        eigenvalues = np.geomspace(lowest, highest, 8)
        matrix = rotation * eigenvalues @ rotation.T
        assert np.abs(inverse(matrix, lowest, highest) @ matrix - np.eye(8)).max() < 2e-6


def test_the_soft_threshold_moves_towards_zero_and_tells_the_support() -> None:
    z, support = soft_threshold(np.array([3.0, 0.5, -0.5, -3.0]), np.full(4, 1.0))
    assert z.tolist() == [2, 0, 0, -2]
    assert support.active.tolist() == [1, 0, 0, 1] and support.sign.tolist() == [1, 0, 0, -1]


def test_step_one_leaves_the_values_within_their_bound() -> None:
    x, _ = table("heavy tails", 50, 3)
    assert max(abs(v) for v in encode(x).values.ravel()) < 1 << 43
