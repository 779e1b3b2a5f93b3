"""The steps of `secure_lasso` on numbers in the clear: against scikit-learn, with every bound checked."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from clear_arithmetic import ClearArithmetic
from lassos import KINDS, encode, objective, reference, strongest_penalty, table

from pipeline.bounds import COARSE_BITS, masked_openings, plan, smallest_tolerance
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.config import Model
from pipeline.errors import LocalProtocolError, RangeError, Refused
from pipeline.field import FIELD_127, FIELD_191
from pipeline.mpc_runtime import OPENED
from pipeline.primitives import fixed
from pipeline.problem import Problem
from pipeline.schedule import COARSE_RIDGE_BITS, RIDGE_BITS
from pipeline.secret_scale import of_places, rsqrt, scale
from pipeline.secure_analysis import Fit, SecureAnalysis
from pipeline.share_convert import GramShare


def arithmetic(seed: int = 0) -> ClearArithmetic:
    sizes = plan(1000, 30, fit_intercept=True, max_iterations=1000)
    return ClearArithmetic(sizes.solver_field, sizes.statistical_bits, seed)


def solver(x, y, model: Model) -> tuple[SecureAnalysis, ClearArithmetic]:
    columns = encode(np.column_stack((x, y)))
    d = x.shape[1]
    gram = GramShare(len(y), FIELD_127, FIELD_127.from_ints(columns.gram)[np.newaxis])
    problem = Problem(model, (0,) * (d + 1), d, columns.exponents, columns.offsets)
    sizes = plan(len(y), d, fit_intercept=model.fit_intercept, max_iterations=model.max_iterations)
    mpc = ClearArithmetic(sizes.solver_field, sizes.statistical_bits)
    return SecureAnalysis(mpc, sizes, gram, problem), mpc


def fitted(x, y, model: Model) -> tuple[Fit, ClearArithmetic]:
    lasso, mpc = solver(x, y, model)
    return asyncio.run(lasso.fit(lambda _: None)).fits[0], mpc


def close_to_scikit_learn(x, y, model: Model, found: Fit, unique: bool = True) -> None:
    """Everything reported agrees; coefficients only where the minimiser is unique."""
    expected = reference(x, y, model)
    ours = np.array(found.coefficients)
    assert objective(x, y, model, ours, found.intercept) == pytest.approx(
        objective(x, y, model, expected.coefficients, expected.intercept), rel=1e-8
    )
    assert found.r2 == pytest.approx(expected.r2, abs=1e-8)
    assert found.mse == pytest.approx(expected.mse, rel=1e-7)
    if unique:
        assert np.abs((ours - expected.coefficients) * x.std(0)).max() < 1e-8 * y.std()
        assert found.intercept == pytest.approx(expected.intercept, abs=1e-7 * y.std())
        assert np.array_equal(ours == 0, expected.coefficients == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.5, 0.1, 0.01])
def test_difficult_tables_give_what_scikit_learn_gives(kind: str, strength: float) -> None:
    x, y = table(kind, 200, 10)
    x = x * np.logspace(-3, 3, 10) + np.arange(10) * 30
    model = Model(strongest_penalty(x, y, strength))
    found, mpc = fitted(x, y * 1e4 + 3e4, model)
    assert mpc.masked_openings <= masked_openings(10, model.max_iterations)
    model = Model(model.alpha)
    close_to_scikit_learn(x, y * 1e4 + 3e4, model, found, kind not in ("sums", "duplicates", "dummies", "rare"))


@pytest.mark.parametrize("kind", ["independent", "neighbours", "heavy tails"])
@pytest.mark.parametrize("strength", [0.5, 0.02])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("mean", [0.0, 5.0, 300.0])
def test_without_an_intercept_large_means_do_no_harm(
    kind: str, strength: float, standardize: bool, mean: float
) -> None:
    x, y = table(kind, 200, 8)
    x, y = (x + mean * np.linspace(0.5, 1, 8)) * np.logspace(-1, 1, 8), y + mean
    alpha = strongest_penalty(x, y, strength, standardize, False)
    model = Model(alpha, standardize=standardize, fit_intercept=False)
    close_to_scikit_learn(x, y, model, fitted(x, y, model)[0])


@pytest.mark.parametrize("kind", ["independent", "pairs"])
@pytest.mark.parametrize("strength", [0.5, 0.02])
def test_features_in_their_own_units_give_what_scikit_learn_gives(kind: str, strength: float) -> None:
    x, y = table(kind, 200, 8)
    x = x * np.logspace(-2, 2, 8) + 7
    model = Model(strongest_penalty(x, y, strength, False), standardize=False)
    close_to_scikit_learn(x, y, model, fitted(x, y, model)[0])


@pytest.mark.parametrize("kind", ["independent", "duplicates", "sums", "dummies"])
def test_fewer_records_than_features_are_no_error(kind: str) -> None:
    x, y = table(kind, 15, 24)
    model = Model(strongest_penalty(x, y, 0.1))
    close_to_scikit_learn(x, y, model, fitted(x, y, model)[0], kind == "independent")


@pytest.mark.parametrize("kind", ["independent", "sums"])
def test_without_a_penalty_it_is_least_squares(kind: str) -> None:
    x, y = table(kind, 100, 6)
    found, _ = fitted(x, y, Model(0.0))
    expected = reference(x, y, Model(0.0))
    assert found.mse == pytest.approx(expected.mse, rel=1e-8)
    if kind == "independent":
        assert found.coefficients == pytest.approx(expected.coefficients, abs=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 1e-300])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_feature_that_has_nothing_to_do_with_the_outcome_does_no_harm(alpha: float, standardize: bool) -> None:
    a, b = np.array([1.0, 1, -1, -1] * 20), np.array([1.0, -1, 1, -1] * 20)
    for seed in range(5):
        lasso, _ = solver(np.column_stack((a, b)), 3 * a + 2 * a * b, Model(alpha, standardize=standardize))
        lasso.mpc = ClearArithmetic(lasso.mpc.field, lasso.mpc.statistical_bits, seed)
        found = asyncio.run(lasso.fit(lambda _: None)).fits[0]
        assert found.coefficients == pytest.approx([3, 0], abs=1e-10)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_penalty_of_nothing_is_not_negative_by_rounding(standardize: bool, fit_intercept: bool) -> None:
    lasso, _ = solver(*table("independent", 60, 20), Model(0.0, standardize=standardize, fit_intercept=fit_intercept))

    async def penalties() -> list[int]:
        standardised = await lasso.standardise(await lasso.moments())
        return (await lasso.thresholds(standardised)).tau.integers(signed=True).ravel().tolist()

    assert all(0 <= x < 100 for x in asyncio.run(penalties()))


def test_a_single_feature_is_enough() -> None:
    x, y = table("independent", 100, 1)
    close_to_scikit_learn(x, y, Model(0.1), fitted(x, y, Model(0.1))[0])


def test_a_perfect_fit_has_no_residuals() -> None:
    x, _ = table("independent", 100, 3)
    found, _ = fitted(x, x @ [1.0, -2.0, 0.5], Model(0.0))
    assert found.coefficients == pytest.approx([1, -2, 0.5], abs=1e-10)
    assert found.r2 == pytest.approx(1, abs=1e-8) and abs(found.mse) < 1e-8


def test_a_penalty_that_removes_everything_leaves_the_mean() -> None:
    x, y = table("independent", 100, 5)
    for alpha in (strongest_penalty(x, y, 1.01), 1e300):
        found, _ = fitted(x, y, Model(alpha))
        assert found.coefficients == (0.0,) * 5
        assert found.intercept == pytest.approx(y.mean(), abs=1e-8) and found.r2 == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
def test_a_constant_feature_gets_a_coefficient_of_exactly_zero(fit_intercept: bool, standardize: bool) -> None:
    x, y = table("independent", 100, 4)
    x[:, 2] = 3.25
    model = Model(0.01, fit_intercept=fit_intercept, standardize=standardize)
    found, _ = fitted(x, y, model)
    assert found.coefficients[2] == 0.0
    close_to_scikit_learn(x, y, model, found)


def test_the_intercept_is_exact_for_columns_far_from_zero() -> None:
    x, y = table("independent", 200, 3)
    x, y = x * [1, 1e3, 3] + [0, 1.6e9, 2020], y + 1e6
    model = Model(0.01)
    found, expected = fitted(x, y, model)[0], reference(x - [0, 1.6e9, 2020], y - 1e6, model)
    # A prediction is what matters: the intercept itself is far away from the records.
    at = np.array([0.5, 1.6e9 + 500, 2021])
    predicted = found.intercept + at @ found.coefficients
    assert predicted == pytest.approx(
        1e6 + expected.intercept + (at - [0, 1.6e9, 2020]) @ expected.coefficients, abs=3e-6
    )


def test_a_column_with_little_of_its_range_among_the_matches_keeps_its_accuracy() -> None:
    x, y = table("independent", 200, 3)
    with_outliers = np.vstack((np.column_stack((x, y)), [8e3, -8e3, 0, 8e3]))
    columns = encode(with_outliers)
    z = np.concatenate((np.ones((200, 1), dtype=object), columns.values[:200]), axis=1)
    lasso, mpc = solver(x, y, Model(0.01))
    gram = GramShare(200, FIELD_127, FIELD_127.from_ints(z.T @ z)[np.newaxis])
    problem = Problem(Model(0.01), (0,) * 4, 3, columns.exponents, columns.offsets)
    found = asyncio.run(SecureAnalysis(mpc, lasso.sizes, gram, problem).fit(lambda _: None)).fits[0]
    expected = reference(x, y, Model(0.01))
    assert found.coefficients == pytest.approx(expected.coefficients, abs=1e-7)
    assert found.mse == pytest.approx(expected.mse, rel=1e-7)


def test_a_constant_outcome_is_refused_and_nothing_else_is_opened() -> None:
    x, _ = table("independent", 100, 4)
    lasso, mpc = solver(x, np.full(100, 2.0), Model(0.1))
    with pytest.raises(Refused) as refusal:
        asyncio.run(lasso.fit(lambda _: None))
    assert refusal.value.rule == "constant-outcome" and mpc.runtime.opened == ["outcome is constant"]


@pytest.mark.parametrize("share_of_range", [1e-12, 1e-9])
def test_a_column_that_varies_by_a_few_steps_of_its_scale_is_refused(share_of_range: float) -> None:
    x, y = table("independent", 100, 4)
    x[:, 1] = share_of_range * x[:, 1]
    columns = encode(np.vstack((np.column_stack((x, y)), np.full(5, 30.0))))
    z = np.concatenate((np.ones((100, 1), dtype=object), columns.values[:100]), axis=1)
    lasso, mpc = solver(x, y, Model(0.1))
    gram = GramShare(100, FIELD_127, FIELD_127.from_ints(z.T @ z)[np.newaxis])
    with pytest.raises(Refused) as refusal:
        asyncio.run(SecureAnalysis(mpc, lasso.sizes, gram, lasso.problem).fit(lambda _: None))
    assert refusal.value.rule == "spread"
    assert mpc.runtime.opened == ["outcome is constant", "spread is too small"]


def test_an_outcome_that_varies_too_little_for_the_step_of_the_intercept_is_refused() -> None:
    x, y = table("independent", 100, 3)
    columns = encode(np.vstack((np.column_stack((x, y * 1e-5)), [0, 0, 0, 30.0])))
    z = np.concatenate((np.ones((100, 1), dtype=object), columns.values[:100]), axis=1)
    lasso, mpc = solver(x, y, Model(0.0))
    gram = GramShare(100, FIELD_127, FIELD_127.from_ints(z.T @ z)[np.newaxis])
    with pytest.raises(Refused) as refusal:
        asyncio.run(SecureAnalysis(mpc, lasso.sizes, gram, lasso.problem).fit(lambda _: None))
    assert refusal.value.rule == "spread"


def test_a_mean_far_beyond_the_spread_is_refused_without_an_intercept() -> None:
    x, y = table("independent", 100, 3)
    x[:, 1] += 1e5
    fitted(x, y, Model(0.1))
    with pytest.raises(Refused, match="too far from zero"):
        fitted(x, y, Model(0.1, fit_intercept=False))


def test_columns_of_sizes_too_far_apart_are_refused() -> None:
    x, y = table("independent", 100, 3)
    columns = encode(np.vstack((np.column_stack((x + np.array([0, 1e4, 0]), y * 1e-7)), [0, 1e4, 0, 30])))
    z = np.concatenate((np.ones((100, 1), dtype=object), columns.values[:100]), axis=1)
    lasso, mpc = solver(x, y, Model(0.0, fit_intercept=False))
    gram = GramShare(100, FIELD_127, FIELD_127.from_ints(z.T @ z)[np.newaxis])
    problem = Problem(lasso.model, (0,) * 4, 3, columns.exponents, columns.offsets)
    with pytest.raises(Refused, match="too far from zero"):
        asyncio.run(SecureAnalysis(mpc, lasso.sizes, gram, problem).fit(lambda _: None))


def test_without_convergence_only_failed_conditions_are_opened() -> None:
    x, y = table("pairs", 400, 20)
    lasso, mpc = solver(x, y, Model(strongest_penalty(x, y, 0.3), max_iterations=2))
    with pytest.raises(Refused) as refusal:
        asyncio.run(lasso.fit(lambda _: None))
    assert refusal.value.rule == "not-converged" and "2 iterations" in str(refusal.value)
    assert mpc.runtime.opened == ["outcome is constant", "spread is too small", "conditions hold"]


class NeverContent(ClearArithmetic):
    async def is_zero(self, name: str, x: Any) -> bool:
        return await super().is_zero(name, x) and name != "conditions hold"


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_longest_run_opens_no_more_than_was_counted_and_not_much_less(fit_intercept: bool) -> None:
    lasso, mpc = solver(*table("independent", 50, 3), Model(0.1, max_iterations=300, fit_intercept=fit_intercept))
    lasso.mpc = NeverContent(mpc.field, mpc.statistical_bits)
    with pytest.raises(Refused, match="300 iterations"):
        asyncio.run(lasso.fit(lambda _: None))
    counted = masked_openings(3, 300)
    assert counted / 8 < lasso.mpc.masked_openings <= counted


@pytest.mark.parametrize(("features", "problems"), [(24, 1), (60, 200)])
def test_a_rough_inverse_of_features_that_are_all_the_same_stays_in_its_range(features: int, problems: int) -> None:
    """One eigenvalue as large as can be, all others the ridge: what rounding does to one, the other multiplies.

    The clear arithmetic checks the range of each product.
    """
    sizes = plan(1000, features, fit_intercept=True, max_iterations=1000, problems=problems)
    mpc = ClearArithmetic(sizes.solver_field, sizes.statistical_bits, seed=3)
    problem = Problem(Model(0.1), (0,) * (features + 1), features, (0,) * (features + 1), (0,) * (features + 1))
    nothing = np.zeros((features + 2, features + 2), dtype=object)
    lasso = SecureAnalysis(mpc, sizes, GramShare(1000, FIELD_127, FIELD_127.from_ints(nothing)[np.newaxis]), problem)
    ridge = 2.0**-COARSE_RIDGE_BITS
    matrix = 1 + ridge * np.eye(features)
    entries = mpc.public([[fixed(entry) for entry in row] for row in matrix.tolist()])
    found = asyncio.run(lasso.rough_inverse(entries, ridge / 2, features + 1)).integers(signed=True)
    inverse = (found / 2**COARSE_BITS).astype(float)
    assert np.abs(np.linalg.eigvals(np.eye(features) - matrix @ inverse)).max() < 0.5


def test_the_strongest_penalty_of_all_stays_within_the_bounds() -> None:
    x, y = table("independent", 50, 3)
    for standardize in (True, False):
        for fit_intercept in (True, False):
            found, _ = fitted(x, y + 5, Model(1e300, standardize=standardize, fit_intercept=fit_intercept))
            assert found.coefficients == (0.0,) * 3


def test_what_is_opened_is_what_is_listed_and_nothing_twice() -> None:
    x, y = table("independent", 100, 4)
    _, mpc = fitted(x, y, Model(0.1))
    always = ["outcome is constant", "spread is too small", "conditions hold"]
    assert mpc.runtime.opened == [*always, "slopes", "intercept", "r2", "variance of the outcome"]
    assert set(mpc.runtime.opened) <= set(OPENED)


def test_the_finest_tolerance_is_reached() -> None:
    for kind in ("independent", "neighbours", "duplicates"):
        x, y = table(kind, 200, 10)
        model = Model(strongest_penalty(x, y, 0.05), tolerance=smallest_tolerance(10))
        found, _ = fitted(x, y, model)
        close_to_scikit_learn(x, y, model, found, kind != "duplicates")


def test_progress_is_told_the_iterations_of_each_phase() -> None:
    x, y = table("pairs", 400, 20)
    lasso, _ = solver(x, y, Model(strongest_penalty(x, y, 0.3)))
    told: list[int] = []
    found = asyncio.run(lasso.fit(told.append)).fits[0]
    assert told and told[-1] == found.iterations and told == sorted(told)


def test_the_outcome_may_stand_anywhere_among_the_columns() -> None:
    x, y = table("independent", 100, 4)
    columns = encode(np.column_stack((x[:, :1], y, x[:, 1:])))
    lasso, mpc = solver(x, y, Model(0.1))
    gram = GramShare(100, FIELD_127, FIELD_127.from_ints(columns.gram)[np.newaxis])
    problem = Problem(Model(0.1), (0,) * 5, 1, columns.exponents, columns.offsets)
    moved = asyncio.run(SecureAnalysis(mpc, lasso.sizes, gram, problem).fit(lambda _: None)).fits[0]
    close_to_scikit_learn(x, y, Model(0.1), moved)


def test_a_gram_matrix_in_another_field_is_a_bug() -> None:
    lasso, mpc = solver(*table("independent", 20, 2), Model(0.1))
    gram = GramShare(20, FIELD_191, FIELD_191.zeros(1, 4, 4))
    with pytest.raises(LocalProtocolError):
        SecureAnalysis(mpc, lasso.sizes, gram, lasso.problem)


def test_an_offset_beyond_the_plan_is_refused_by_its_owner() -> None:
    lasso, mpc = solver(*table("independent", 20, 2), Model(0.1))
    far = Problem(Model(0.1), (0, 0, 0), 2, lasso.problem.exponents, (1 << 80, 0, 0))
    with pytest.raises(RangeError):
        asyncio.run(SecureAnalysis(mpc, lasso.sizes, lasso.gram, far).fit(lambda _: None))


@pytest.mark.parametrize("highest", [4.0, 30.0])
def test_the_inverse_serves_its_purpose_up_to_the_smallest_eigenvalues(highest: float) -> None:
    lasso, mpc = solver(*table("independent", 20, 8), Model(0.1))
    lowest = 2.0 ** -(RIDGE_BITS + 1)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))
    matrix = rotation * np.geomspace(lowest * 1.01, highest, 8) @ rotation.T
    fixed_point = np.array(
        [[round(v * 2.0**F) for v in row] for row in ((matrix + matrix.T) / 2).tolist()], dtype=object
    )
    found = asyncio.run(lasso.inverse(mpc.public(fixed_point), lowest, highest))
    signed = found.integers(signed=True)
    product = (signed @ fixed_point).astype(float) / 4.0**F
    assert np.abs(product - np.eye(8)).max() < 1e-5


def test_numbers_of_any_size_are_scaled_and_their_roots_exact() -> None:
    mpc, bits = arithmetic(), 120
    numbers = [0, 1, 3, 4, 5, 15, 16, 2**60 - 1, 2**60, 4**59, 4**60 - 1]
    lowest = 1
    found = asyncio.run(scale(mpc, mpc.public(numbers), bits, lowest))
    one_hot, factors = found.one_hot.integers(), found.factor.integers()
    mantissas = found.mantissa.integers(signed=True)
    for i, number in enumerate(numbers):
        assert found.positive.integers()[i] == int(number > 0)
        for place in (lowest, 30, 59):
            assert int(found.at_least(place).integers()[i]) == int(number >= 4**place)
        if number >= 4**lowest:
            place = one_hot[i].tolist().index(1)
            assert sum(one_hot[i]) == 1 and 4**place <= number < 4 ** (place + 1)
            assert factors[i] == 2 ** (59 - place)
            assert mantissas[i] / 2**F == pytest.approx(number / 4 ** (place + 1), rel=1e-15)
        else:
            assert not any(one_hot[i]) and factors[i] == 0 and abs(mantissas[i]) < 4


def test_the_inverse_square_root_is_right_to_the_last_bits() -> None:
    mpc = arithmetic()
    x = np.linspace(0.25, 0.9999999, 200)
    found = asyncio.run(rsqrt(mpc, mpc.public([round(v * 2.0**F) for v in x]))).integers()
    exact = [v.astype(np.longdouble) ** -0.5 for v in x]
    assert max(abs(int(a) - int(b * np.longdouble(2.0**F))) for a, b in zip(found, exact, strict=True)) < 1 << 12


def test_a_function_of_two_places_is_zero_where_there_is_none() -> None:
    mpc = arithmetic()
    left = mpc.public([[0, 0, 1], [0, 0, 0]])
    right = mpc.public([[1, 0, 0]])
    assert asyncio.run(of_places(mpc, lambda i: 10 + i, left, right)).integers().tolist() == [12, 0]
