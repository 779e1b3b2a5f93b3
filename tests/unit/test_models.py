"""Elastic net, ridge, least squares, penalty factors and non-negative coefficients, against scikit-learn."""

from __future__ import annotations

import asyncio
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from clear_arithmetic import ClearArithmetic
from lassos import encode, strongest_penalty, table
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

from pipeline import plain_lasso
from pipeline.bounds import plan
from pipeline.config import Model
from pipeline.errors import Refused
from pipeline.field import FIELD_127
from pipeline.problem import Problem
from pipeline.secure_analysis import Fit, SecureAnalysis
from pipeline.share_convert import GramShare

D = 8


def fitted(x: Any, y: Any, model: Model, factors: tuple[float, ...] = (), alphas: tuple[float, ...] = ()) -> list[Fit]:
    columns = encode(np.column_stack((x, y)))
    d = x.shape[1]
    gram = GramShare(len(y), FIELD_127, FIELD_127.from_ints(columns.gram)[np.newaxis])
    problem = Problem(model, (0,) * (d + 1), d, columns.exponents, columns.offsets, alphas, factors)
    sizes = plan(len(y), d, fit_intercept=model.fit_intercept, max_iterations=model.max_iterations)
    mpc = ClearArithmetic(sizes.solver_field, sizes.statistical_bits)
    return list(asyncio.run(SecureAnalysis(mpc, sizes, gram, problem).fit(lambda _: None)).fits)


def close(found: Fit, x: Any, y: Any, expected: Any) -> None:
    """expected : a fitted estimator of scikit-learn on the standardised features."""
    scaler = StandardScaler().fit(x)
    coefficients = expected.coef_ / scaler.scale_
    assert np.abs((np.array(found.coefficients) - coefficients) * x.std(0)).max() < 1e-7 * y.std()
    assert found.intercept == pytest.approx(y.mean() - coefficients @ x.mean(0), abs=1e-7 * y.std())
    residuals = y - expected.predict(scaler.transform(x))
    assert found.mse == pytest.approx(np.mean(residuals**2), rel=1e-6)


def data(kind: str = "neighbours") -> tuple[Any, Any]:
    x, y = table(kind, 200, D)
    return x * np.logspace(-2, 2, D) + 3, 50 * y + 7


def quiet(estimator: Any, x: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(StandardScaler().fit_transform(x), y)


@pytest.mark.parametrize("kind", ["independent", "neighbours", "pairs"])
@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("strength", [0.3, 0.01])
def test_elastic_nets_are_those_of_scikit_learn(kind: str, l1_ratio: float, strength: float) -> None:
    x, y = data(kind)
    alpha = strongest_penalty(x, y, strength)
    found = fitted(x, y, Model(alpha, kind="elastic-net", l1_ratio=l1_ratio))[0]
    expected = quiet(ElasticNet(alpha, l1_ratio=l1_ratio, tol=1e-14, max_iter=10**6), x, y)
    close(found, x, y, expected)
    assert np.array_equal(np.array(found.coefficients) == 0, expected.coef_ == 0)


@pytest.mark.parametrize("kind", ["independent", "pairs", "sums", "duplicates"])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e4])
def test_a_ridge_is_that_of_scikit_learn_with_alpha_times_the_records(kind: str, alpha: float) -> None:
    x, y = data(kind)
    close(fitted(x, y, Model(alpha, kind="ridge", l1_ratio=0.0))[0], x, y, quiet(Ridge(len(y) * alpha), x, y))


@pytest.mark.parametrize("kind", ["independent", "neighbours"])
def test_ols_is_least_squares(kind: str) -> None:
    x, y = data(kind)
    close(fitted(x, y, Model(0.0, kind="ols"))[0], x, y, quiet(LinearRegression(), x, y))


@pytest.mark.parametrize("kind", ["sums", "duplicates", "few"])
def test_least_squares_without_a_single_solution_are_refused(kind: str) -> None:
    x, y = data("independent" if kind == "few" else kind)
    if kind == "few":
        x, y = x[:6], y[:6]
    with pytest.raises(Refused) as refusal:
        fitted(x, y, Model(0.0, kind="ols"))
    assert refusal.value.rule == "rank" and "combination of the others" in str(refusal.value)


def test_least_squares_give_a_feature_that_is_constant_nothing() -> None:
    x, y = data()
    x[:, 3] = 2.0
    found = fitted(x, y, Model(0.0, kind="ols"))[0]
    assert found.coefficients[3] == 0.0
    close(found, x, y, quiet(LinearRegression(), x, y))


@pytest.mark.parametrize("spread", [1e-2, 2e-3])
def test_nearly_dependent_features_are_not_refused(spread: float) -> None:
    x, y = data("independent")
    x[:, 1] = x[:, 0] + spread * x[:, 1] * x[:, 0].std() / x[:, 1].std()
    found = fitted(x, y, Model(0.0, kind="ols"))[0]
    expected = quiet(LinearRegression(), x, y)
    assert found.mse == pytest.approx(np.mean((y - expected.predict(StandardScaler().fit_transform(x))) ** 2), rel=1e-9)


@pytest.mark.parametrize("kind", ["independent", "neighbours"])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("strength", [0.3, 0.01])
def test_coefficients_that_must_not_be_negative_are_not(kind: str, l1_ratio: float, strength: float) -> None:
    x, y = data(kind)
    alpha = strongest_penalty(x, y, strength)
    model = Model(alpha, kind="elastic-net", l1_ratio=l1_ratio, positive=True)
    found = fitted(x, y, model)[0]
    expected = quiet(ElasticNet(alpha, l1_ratio=l1_ratio, positive=True, tol=1e-14, max_iter=10**6), x, y)
    assert (expected.coef_ == 0).any() and (expected.coef_ > 0).any()
    close(found, x, y, expected)
    assert min(found.coefficients) == 0.0


@pytest.mark.parametrize("standardize", [True, False])
def test_penalty_factors_are_used_as_given(standardize: bool) -> None:
    """A penalty times f is the penalty of the feature divided by f; scikit-learn has no factors."""
    x, y = table("neighbours", 200, D)
    y = y * 20
    factors = (1.0, 2.0, 0.5, 4.0, 1.0, 0.25, 1.0, 10.0)
    alpha = strongest_penalty(x, y, 0.1)
    found = fitted(x, y, Model(alpha, standardize=standardize), factors)[0]
    scale = (x.std(0) if standardize else 1) * np.array(factors)
    expected = Lasso(alpha, tol=1e-14, max_iter=10**6).fit(x / scale, y)
    assert np.array(found.coefficients) * scale == pytest.approx(expected.coef_, abs=1e-7 * y.std())
    assert found.intercept == pytest.approx(expected.intercept_, abs=1e-7 * y.std())


def test_a_factor_of_zero_keeps_a_feature_in_the_model_whatever_alpha_is() -> None:
    x, y = data()
    model = Model(strongest_penalty(x, y, 100.0))
    found = fitted(x, y, model, (0.0, *[1.0] * (D - 1)))[0]
    alone = quiet(LinearRegression(), x[:, :1], y).coef_[0] / x[:, 0].std()
    assert found.coefficients[1:] == (0.0,) * (D - 1)
    assert found.coefficients[0] == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_penalty_times_a_factor_beyond_the_largest_number_removes_the_feature(
    standardize: bool, fit_intercept: bool
) -> None:
    x, y = table("independent", 60, 3)
    model = Model(1e305, standardize=standardize, fit_intercept=fit_intercept)
    assert fitted(x, y, model, (1e6, 1.0, 1e300))[0].coefficients == (0.0,) * 3


@pytest.mark.parametrize("kind", ["lasso", "elastic-net"])
@pytest.mark.parametrize("positive", [True, False])
def test_the_steps_in_the_clear_say_the_same(kind: Any, positive: bool) -> None:
    x, y = data()
    alpha, factors = strongest_penalty(x, y, 0.05), (0.0, 2.0, *[1.0] * (D - 2))
    l1_ratio = 1.0 if kind == "lasso" else 0.4
    found = fitted(x, y, Model(alpha, kind=kind, l1_ratio=l1_ratio, positive=positive), factors)[0]
    columns = encode(np.column_stack((x, y)))
    steps = 2.0 ** np.array(columns.exponents)
    if kind == "elastic-net":  # in the units of the data: the two parts of the penalty depend on them differently
        settings = plain_lasso.Settings(alpha, l1_ratio=l1_ratio, factors=factors, positive=positive)
        z = np.concatenate((np.ones((len(y), 1)), x, y[:, None]), axis=1)
        plain = plain_lasso.fit((z.T @ z).astype(object), settings)
        assert plain.coefficients == pytest.approx(found.coefficients, rel=1e-5, abs=1e-7)
    else:
        settings = plain_lasso.Settings(alpha * steps[-1], factors=factors, positive=positive)
        plain = plain_lasso.fit(columns.gram, settings)
        ours = np.array(found.coefficients) / steps[:-1] * steps[-1]
        assert plain.coefficients == pytest.approx(ours, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("positive", [True, False])
def test_rounding_makes_no_coefficient_negative_that_must_not_be(positive: bool) -> None:
    x, y = data()
    columns = encode(np.column_stack((x, y)))
    model = Model(0.1, positive=positive)
    gram = GramShare(len(y), FIELD_127, FIELD_127.from_ints(columns.gram)[np.newaxis])
    problem = Problem(model, (0,) * (D + 1), D, columns.exponents, columns.offsets)
    sizes = plan(len(y), D, fit_intercept=True, max_iterations=1000)
    lasso = SecureAnalysis(ClearArithmetic(sizes.solver_field, sizes.statistical_bits), sizes, gram, problem)
    found = lasso.on_original_scale(15, [-3, 5, *[0] * (D - 2)], 0, 0, Fraction(1))
    assert (found.coefficients[0] < 0) is not positive and found.coefficients[1] > 0


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_several_penalties_with_a_quadratic_part_are_fitted_together(l1_ratio: float) -> None:
    x, y = data()
    alphas = (3.0, 0.3, 0.01)
    kind: Any = "elastic-net" if l1_ratio else "ridge"
    found = fitted(x, y, Model(1.0, kind=kind, l1_ratio=l1_ratio), alphas=alphas)
    for one, alpha in zip(found, alphas, strict=True):
        estimator = (
            ElasticNet(alpha, l1_ratio=l1_ratio, tol=1e-13, max_iter=10**6) if l1_ratio else Ridge(alpha * len(y))
        )
        close(one, x, y, quiet(estimator, x, y))
