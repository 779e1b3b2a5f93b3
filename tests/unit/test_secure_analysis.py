"""Paths, cross-validation, criteria, rules and what is opened, in the clear: against scikit-learn and statsmodels."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from clear_arithmetic import ClearArithmetic
from lassos import encode, reference, strongest_penalty, table
from sklearn.linear_model import ElasticNet, Lasso, LassoLarsIC, LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.agreement import Gate, Model, Open, RareLevels
from pipeline.bounds import HELD_OUT_BITS, largest_operation, masked_openings
from pipeline.errors import Refused
from pipeline.field import FIELD_127
from pipeline.problem import Problem
from pipeline.secure_analysis import Analysis, SecureAnalysis, correction_steps, sizes_of
from pipeline.share_convert import GramShare, fold_sizes

NO_GATE = Gate(None, None, None, "refuse", None)


def prepared(x: Any, y: Any, model: Model, **settings: Any) -> SecureAnalysis:
    """An analysis of one party that owns everything."""
    d, folds = x.shape[1], max(1, model.folds)
    columns = encode(np.column_stack((x, y)))
    z = np.concatenate((np.ones((len(y), 1), dtype=object), columns.values), axis=1)
    grams = np.array([z[fold::folds].T @ z[fold::folds] for fold in range(folds)])
    gram = GramShare(len(y), FIELD_127, FIELD_127.from_ints(grams), folds)
    problem = Problem(model, (0,) * (d + 1), d, columns.exponents, columns.offsets, **settings)
    sizes = sizes_of(problem, len(y))
    return SecureAnalysis(ClearArithmetic(sizes.solver_field, sizes.statistical_bits), sizes, gram, problem)


def analysed(x: Any, y: Any, model: Model, **settings: Any) -> Analysis:
    """What it finds; it opens no more under masks than is planned for, and nothing larger."""
    analysis = prepared(x, y, model, **settings)
    found = asyncio.run(analysis.fit(lambda _: None))
    problem = analysis.problem
    problems = problem.groups * problem.choices
    assert analysis.mpc.opened.masked <= masked_openings(
        problem.features, model.max_iterations, problems, problem.groups, problem.systems
    )
    squares = analysis.sizes.square_bits + HELD_OUT_BITS + analysis.n.bit_length() + 2
    assert analysis.mpc.notes.largest <= max(squares, largest_operation(problem.features))
    return found


def data(kind: str = "neighbours", n: int = 120, d: int = 8) -> tuple[Any, Any]:
    x, y = table(kind, n, d)
    return x * np.logspace(-2, 2, d) + 3, 50 * y + 7


def estimator(model: Model, alpha: float, records: int) -> Any:
    if model.kind == "ridge":
        return Ridge(alpha * records)
    if model.kind == "elastic-net":
        return ElasticNet(alpha, l1_ratio=model.l1_ratio, tol=1e-12, max_iter=10**6)
    return Lasso(alpha, tol=1e-12, max_iter=10**6) if alpha else LinearRegression()


def errors_of_folds(x: Any, y: Any, model: Model, alphas: Any) -> Any:
    """Mean squared errors, shape (folds, alphas), each training part standardised by itself."""
    errors = np.empty((model.folds, len(alphas)))
    for fold in range(model.folds):
        held_out = np.arange(len(y)) % model.folds == fold
        for i, alpha in enumerate(alphas):
            inner = estimator(model, alpha, int((~held_out).sum()))
            fitted = make_pipeline(StandardScaler(with_std=model.standardize), inner).fit(x[~held_out], y[~held_out])
            errors[fold, i] = np.mean((y[held_out] - fitted.predict(x[held_out])) ** 2)
    return errors


def curve(x: Any, y: Any, model: Model, alphas: Any) -> tuple[Any, Any]:
    errors = errors_of_folds(x, y, model, alphas)
    weights = np.array(fold_sizes(len(y), model.folds))[:, None] / len(y)
    mean = (weights * errors).sum(0)
    return mean, np.sqrt((weights * (errors - mean) ** 2).sum(0) / (model.folds - 1))


def grid(x: Any, y: Any, count: int = 6, weakest: float = 1e-2) -> tuple[float, ...]:
    strongest = strongest_penalty(x, y, 1.0)
    return tuple(np.geomspace(strongest, strongest * weakest, count).tolist())


def close_to(x: Any, y: Any, found: Any, model: Model) -> None:
    expected = reference(x, y, model)
    assert np.abs((np.array(found.coefficients) - expected.coefficients) * x.std(0)).max() < 1e-7 * y.std()
    assert found.intercept == pytest.approx(expected.intercept, abs=1e-6 * y.std())
    assert found.r2 == pytest.approx(expected.r2, abs=1e-8)


@pytest.mark.parametrize("kind", ["lasso", "elastic-net", "ridge"])
@pytest.mark.parametrize("records", [120, 123])
def test_the_curve_of_cross_validation_is_that_of_scikit_learn(kind: Any, records: int) -> None:
    x, y = data(n=records)
    alphas = grid(x, y)
    ratio = {"lasso": 1.0, "elastic-net": 0.6, "ridge": 0.0}[kind]
    model = Model(0.0, kind, ratio, alphas=alphas, folds=5, rule="min")
    found = analysed(x, y, model, opened=Open(cv_curve=True, cv_r2=True))
    mean, sd = curve(x, y, model, alphas)
    assert found.cross_validated is not None
    assert found.cross_validated.mean == pytest.approx(mean, rel=1e-6)
    assert found.cross_validated.sd == pytest.approx(sd, rel=1e-6)
    assert found.place == int(np.argmin(mean)) and found.chosen_alpha == alphas[found.place]
    assert found.cross_validated.r2 == pytest.approx(1 - mean.min() / y.var(), abs=1e-7)


def test_the_chosen_model_is_that_of_a_grid_search() -> None:
    x, y = data()
    alphas = grid(x, y, 8, 1e-3)
    model = Model(0.0, alphas=alphas, folds=4, rule="min")
    found = analysed(x, y, model)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Lasso(tol=1e-12, max_iter=10**6)),
        {"lasso__alpha": list(alphas)},
        cv=PredefinedSplit(np.arange(len(y)) % 4),
        scoring="neg_mean_squared_error",
    ).fit(x, y)
    assert found.chosen_alpha == pytest.approx(search.best_params_["lasso__alpha"], rel=1e-12)
    assert len(found.fits) == 1 and found.cross_validated is None
    close_to(x, y, found.fits[0], Model(found.chosen_alpha or 0.0))


@pytest.mark.parametrize("seed", range(3))
def test_one_standard_error_is_counted_as_glmnet_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((90, 6))
    y = x @ [1.0, 0.5, 0, 0, 0.2, 0] + 2 * rng.standard_normal(90)
    alphas = grid(x, y, 12, 1e-2)
    model = Model(0.0, alphas=alphas, folds=6, rule="1se")
    mean, sd = curve(x, y, model, alphas)
    least = int(np.argmin(mean))
    expected = int(np.flatnonzero(mean <= mean[least] + sd[least])[0])
    found = analysed(x, y, model)
    assert found.place == expected and expected < least


@pytest.mark.parametrize("rule", ["aic", "bic"])
@pytest.mark.parametrize("kind", ["independent", "neighbours"])
def test_the_criterion_chooses_what_scikit_learn_chooses(rule: Any, kind: str) -> None:
    x, y = data(kind)
    alphas = grid(x, y, 15, 1e-3)
    found = analysed(x, y, Model(0.0, alphas=alphas, rule=rule))
    scaled, n, d = StandardScaler().fit_transform(x), *x.shape
    noise = LassoLarsIC(rule).fit(scaled, y).noise_variance_
    assert noise == pytest.approx(((y - LinearRegression().fit(scaled, y).predict(scaled)) ** 2).sum() / (n - d - 1))
    weight = 2 if rule == "aic" else np.log(n)
    values = []
    for alpha in alphas:
        fitted = Lasso(alpha, tol=1e-12, max_iter=10**6).fit(scaled, y)
        values.append(((y - fitted.predict(scaled)) ** 2).sum() / noise + weight * (fitted.coef_ != 0).sum())
    assert found.place == int(np.argmin(values))


def test_a_criterion_without_records_to_estimate_the_variance_from_is_refused() -> None:
    x, y = table("independent", 12, 11)
    with pytest.raises(Refused) as refusal:
        analysed(x, y, Model(0.0, alphas=(1.0, 0.1), rule="aic"))
    assert refusal.value.rule == "criterion"


@pytest.mark.parametrize("factors", [(), (0.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 0.5)])
def test_a_grid_begins_with_the_smallest_penalty_that_removes_everything_penalised(factors: tuple[float, ...]) -> None:
    x, y = data()
    model = Model(0.0, n_alphas=5, alpha_min_ratio=0.01, folds=3, rule="min")
    found = analysed(x, y, model, factors=factors, opened=Open(model="path", cv_curve=True))
    assert found.alphas is not None and len(found.fits) == 5
    weights = np.array(factors or (1.0,) * 8)
    scaled = StandardScaler().fit_transform(x)
    free = weights == 0
    rest = y - (LinearRegression().fit(scaled[:, free], y).predict(scaled[:, free]) if free.any() else y.mean())
    gradient = np.abs(scaled.T @ rest / len(y))
    assert found.alphas[0] == pytest.approx((gradient[~free] / weights[~free]).max(), rel=1e-8)
    assert found.alphas == pytest.approx(found.alphas[0] * np.geomspace(1, 0.01, 5), rel=1e-12)
    assert sum(c != 0 for c in found.fits[0].coefficients or ()) <= free.sum() + 1
    if not factors:
        for alpha, fit in zip(found.alphas, found.fits, strict=True):
            close_to(x, y, fit, Model(alpha))
        mean, sd = curve(x, y, model, found.alphas)
        assert found.cross_validated is not None
        assert found.cross_validated.mean == pytest.approx(mean, rel=1e-6)
        assert found.cross_validated.sd == pytest.approx(sd, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize(
    "factors",
    [
        (),
        (0.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 0.5),
        (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        (1e-4, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        (1e-6, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0),
    ],
)
def test_an_elastic_net_has_a_grid_too(scale: float, factors: tuple[float, ...]) -> None:
    """The quadratic part does not scale with the outcome, so its size is secret as well."""
    x, y = data()
    y = y * scale
    model = Model(0.0, "elastic-net", 0.4, n_alphas=4, alpha_min_ratio=1e-4 if 1e-4 in factors else 0.01)
    model = replace(model, folds=3, rule="min")
    found = analysed(x, y, model, factors=factors, opened=Open(model="path", cv_curve=True))
    assert found.alphas is not None and found.cross_validated is not None
    scaled = StandardScaler().fit_transform(x)
    weights = np.array(factors or (1.0,) * 8)
    if not factors:
        assert found.alphas[0] == pytest.approx(np.abs(scaled.T @ (y - y.mean()) / len(y)).max() / 0.4, rel=1e-7)
        mean, sd = curve(x, y, model, found.alphas)
        assert found.cross_validated.mean == pytest.approx(mean, rel=1e-6)
        assert found.cross_validated.sd == pytest.approx(sd, rel=1e-6)
    for alpha, fit in zip(found.alphas, found.fits, strict=True):
        ours = np.array(fit.coefficients) * x.std(0)
        rest = y - y.mean() - scaled @ ours
        gradient = scaled.T @ rest / len(y) - alpha * 0.6 * weights * ours
        limit = alpha * 0.4 * weights
        assert (np.abs(gradient) <= limit + 2e-6 * y.std()).all()
        assert gradient[ours != 0] == pytest.approx((limit * np.sign(ours))[ours != 0], abs=2e-6 * y.std())


def test_a_large_outcome_does_not_cut_the_quadratic_part_of_a_grid() -> None:
    x, y = data("independent")
    y = y * 1e7
    found = analysed(x, y, Model(0.0, "elastic-net", 0.02, n_alphas=3, folds=2, rule="min"), opened=Open(model="path"))
    scaled = StandardScaler().fit_transform(x)
    weakest = np.array(found.fits[-1].coefficients) * x.std(0) / y.std()
    expected = ElasticNet((found.alphas or ())[-1], l1_ratio=0.02, tol=1e-14, max_iter=10**6).fit(scaled, y)
    assert weakest == pytest.approx(expected.coef_ / y.std(), abs=1e-9)
    assert np.abs(weakest).max() > 1e-7


@pytest.mark.parametrize("kind", ["lasso", "elastic-net"])
@pytest.mark.parametrize("case", ["positive", "constant", "explained"])
def test_a_grid_with_nothing_to_remove_has_tiny_penalties_above_zero(kind: Any, case: str) -> None:
    x, y = data("independent")
    factors, positive = (), False
    match case:
        case "positive":
            y = -np.abs(x / x.std(0)).sum(1)
            x, positive = np.abs(x), True
        case "constant":
            x[:] = 1.0
        case "explained":
            y, factors = 2 * x[:, 0], (0.0, *[1.0] * 7)
    model = Model(0.0, kind, 1.0 if kind == "lasso" else 0.5, positive=positive, n_alphas=5, folds=3, rule="min")
    found = analysed(x, y, model, factors=factors, opened=Open(model="path", cv_curve=True))
    assert found.alphas is not None and found.place == 0
    assert all(0 < alpha < 1e-10 * y.std() for alpha in found.alphas)
    for fit in found.fits:
        assert case == "explained" or not any(fit.coefficients or (1.0,))
        assert fit.r2 == pytest.approx(float(case == "explained"), abs=1e-10)


@pytest.mark.parametrize("rule", ["min", "1se", "bic"])
def test_of_equally_good_penalties_the_largest_is_chosen(rule: Any) -> None:
    """All remove everything, and differ by rounding only."""
    x, y = table("independent", 90, 6)
    y = np.random.default_rng(3).standard_normal(90)
    model = Model(0.0, alphas=tuple(range(29, 9, -1)), rule=rule, folds=0 if rule == "bic" else 5)
    found = analysed(x, y, model, opened=Open(cv_curve=rule != "bic"))
    assert found.place == 0


@pytest.mark.parametrize("mean", [100.0, 10000.0])
def test_a_criterion_sees_small_differences_beside_a_large_mean_that_is_not_taken_off(mean: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal((1000.0, 0, 0, 0), 1.0, (80, 4))
    y = x @ [mean / 1000, 0.5, 0.3, 0] + rng.standard_normal(80)
    alphas = tuple(np.geomspace(2.0, 1e-3, 30).tolist())
    found = analysed(x, y, Model(0.0, alphas=alphas, rule="aic", fit_intercept=False, standardize=False))
    noise = ((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum() / 76
    values = []
    for alpha in alphas:
        fitted = Lasso(alpha, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(x, y)
        values.append(((y - fitted.predict(x)) ** 2).sum() / noise + 2 * (fitted.coef_ != 0).sum())
    assert found.place is not None and values[found.place] == pytest.approx(min(values), abs=1e-2)


def test_a_model_of_nothing_explains_nothing() -> None:
    """R² is opened with noise, which would show as a number of 1e-14 on either side of 0."""
    x, y = data()
    found = analysed(x, y, Model(2 * strongest_penalty(x, y, 1.0))).fits[0]
    assert found.r2 == 0.0 and found.mse == pytest.approx(y.var(), rel=1e-7)


def test_an_outcome_that_is_constant_outside_a_fold_is_refused_in_words_that_say_so() -> None:
    x, y = table("independent", 60, 3)
    y[:] = 1.0
    y[0::3] = 2.0
    with pytest.raises(Refused, match="outside one of the folds") as refusal:
        analysed(x, y, Model(0.0, alphas=(0.5, 0.05), folds=3, rule="min"))
    assert refusal.value.rule == "constant-outcome"


def test_features_in_their_own_units_are_cross_validated_too() -> None:
    x, y = data("independent")
    strongest = strongest_penalty(x, y, 1.0, standardize=False)
    model = Model(0.0, standardize=False, alphas=(strongest / 3, strongest / 30), folds=3, rule="min")
    found = analysed(x, y, model, opened=Open(cv_curve=True))
    mean, _ = curve(x, y, model, model.alphas)
    assert found.cross_validated is not None and found.cross_validated.mean == pytest.approx(mean, rel=1e-6)


def test_least_squares_come_with_the_standard_errors_of_statsmodels() -> None:
    x, y = data("neighbours")
    found = analysed(x, y, Model(0.0, "ols"), opened=Open(standard_errors=True))
    expected = sm.OLS(y, sm.add_constant(x)).fit()
    assert found.standard_errors == pytest.approx(expected.bse, rel=1e-6)
    assert found.fits[0].coefficients == pytest.approx(expected.params[1:], rel=1e-7)


@pytest.mark.parametrize("features", [1, 8, 30, 100, 400, 1000])
def test_the_ridge_is_taken_out_of_the_worst_inverse_that_is_admitted(features: int) -> None:
    """Of an eigenvalue as small as the rule on variance inflation lets it be."""
    lowest, ridge = 1 / (features * 2**20), 2.0**-28
    x = 1 / (lowest + ridge)
    for _ in range(correction_steps(features)):
        x = x * (2 - lowest * x)
    assert x * lowest == pytest.approx(1, abs=2.0**-35)
    assert correction_steps(features) <= 9


def test_a_table_of_means_and_deviations_is_opened_when_agreed() -> None:
    x, y = data()
    x[:, 2] = 4.5
    found = analysed(x, y, Model(1.0), opened=Open(table1=True))
    assert found.spreads is not None
    assert [s.mean for s in found.spreads] == pytest.approx([*x.mean(0), y.mean()], rel=1e-7)
    assert [s.sd for s in found.spreads] == pytest.approx([*x.std(0), y.std()], rel=1e-7, abs=1e-12)


def test_nothing_more_is_opened_than_was_agreed() -> None:
    x, y = data()
    lasso = prepared(x, y, Model(0.0, alphas=grid(x, y), folds=3, rule="1se"), gate=NO_GATE)
    asyncio.run(lasso.fit(lambda _: None))
    opened = [name for name in lasso.mpc.runtime.opened if name != "conditions hold"]
    assert opened == [
        "outcome is constant",
        "spread is too small",
        "an error is too large",
        "slopes",
        "intercept",
        "r2",
        "variance of the outcome",
        "place of the penalty",
    ]


@pytest.mark.parametrize(
    ("gate", "rule"),
    [
        (Gate(115, None, None, "refuse", None), "min_residual_df"),
        (Gate(None, 0.02, None, "refuse", None), "max_parameters_ratio"),
        (Gate(None, None, None, "refuse", 0.1), "max_r2"),
        (Gate(115, 0.02, None, "refuse", 0.1), "min_residual_df"),
    ],
)
def test_a_rule_on_the_model_that_fails_is_all_that_is_learnt(gate: Gate, rule: str) -> None:
    x, y = data()
    lasso = prepared(x, y, Model(0.1), gate=gate)
    with pytest.raises(Refused) as refusal:
        asyncio.run(lasso.fit(lambda _: None))
    assert refusal.value.rule == rule
    opened = lasso.mpc.runtime.opened
    assert not {"slopes", "r2", "intercept"} & set(opened) and "a rule on the model fails" in opened


@pytest.mark.parametrize(("margin", "refused"), [(0, False), (1, True)])
def test_the_rules_on_parameters_hold_up_to_the_limit(margin: int, refused: bool) -> None:
    x, y = data("independent")
    free = replace(NO_GATE, min_residual_df=len(y) - 9 + margin)  # 8 coefficients and the intercept
    share = replace(NO_GATE, max_parameters_ratio=(9 - margin) / len(y))
    for gate in (free, share):
        if refused:
            with pytest.raises(Refused):
                analysed(x, y, Model(0.0), gate=gate)
        else:
            assert all(analysed(x, y, Model(0.0), gate=gate).fits[0].coefficients or ())


def test_a_path_is_judged_by_its_largest_model() -> None:
    x, y = data("independent")
    gate = replace(NO_GATE, max_parameters_ratio=5 / len(y))
    model = Model(0.0, alphas=grid(x, y, 3, 1e-3), folds=3, rule="1se")
    with pytest.raises(Refused, match="parameters"):
        analysed(x, y, model, gate=gate, opened=Open(model="path"))


def levels(counts: tuple[int, ...]) -> tuple[Any, Any]:
    """Indicators of the levels but the first, which have so many records, beside one numeric feature."""
    level = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(0)
    x = np.column_stack([(level == k).astype(float) for k in range(1, len(counts))] + [rng.standard_normal(len(level))])
    return x, x @ np.arange(1.0, x.shape[1] + 1) + rng.standard_normal(len(level))


@pytest.mark.parametrize(
    ("counts", "refused"),
    [((20, 10, 30), False), ((20, 9, 30), True), ((9, 20, 30), True), ((10, 20, 30), False), ((20, 0, 30), True)],
)
def test_each_level_needs_its_records(counts: tuple[int, ...], refused: bool) -> None:
    x, y = levels(counts)
    gate = replace(NO_GATE, min_level_count=10)
    settings: dict[str, Any] = {"gate": gate, "categories": ((0, 1),)}
    if not refused:
        assert analysed(x, y, Model(0.01), **settings).fits[0].coefficients
        return
    with pytest.raises(Refused) as refusal:
        analysed(x, y, Model(0.01), **settings)
    assert refusal.value.rule == "min_level_count"


@pytest.mark.parametrize(("count", "refused"), [(10, False), (9, True), (50, False), (51, True)])
def test_a_numeric_feature_with_two_values_counts_as_a_category(count: int, refused: bool) -> None:
    x, y = table("independent", 60, 3)
    x[:, 1] = np.where(np.arange(60) < count, 7.0, -2.0)
    columns = encode(np.column_stack((x, y)))
    low, high = (int(v) for v in np.unique(columns.values[:, 1]))
    gate = replace(NO_GATE, min_level_count=10)
    settings: dict[str, Any] = {"gate": gate, "two_values": (None, (low, high), None, None)}
    if refused:
        with pytest.raises(Refused, match="too few matched records"):
            analysed(x, y, Model(0.01), **settings)
    else:
        assert analysed(x, y, Model(0.01), **settings).fits[0].coefficients


def test_a_rare_level_that_may_be_dropped_counts_with_the_reference() -> None:
    x, y = levels((20, 9, 30))
    gate = Gate(None, None, 10, "drop", None)
    found = analysed(x, y, Model(0.01), gate=gate, categories=((0, 1),))
    assert found.fits[0].coefficients is not None and found.fits[0].coefficients[0] == 0.0
    rest = np.delete(x, 0, axis=1)
    expected = reference(rest, y, Model(0.01))
    assert found.fits[0].coefficients[1:] == pytest.approx(expected.coefficients, abs=1e-8)


def test_of_a_rare_level_that_was_dropped_nothing_is_opened() -> None:
    x, y = levels((20, 9, 30))
    gate, opens = Gate(None, None, 10, "drop", None), Open(table1=True, standard_errors=True)
    found = analysed(x, y, Model(0.0, "ols"), gate=gate, categories=((0, 1),), opened=opens)
    assert found.spreads is not None and found.standard_errors is not None
    assert found.spreads[0].mean == pytest.approx(0, abs=1e-7) and found.spreads[0].sd == 0
    assert found.spreads[1].mean == pytest.approx(30 / 59, rel=1e-7)
    expected = sm.OLS(y, sm.add_constant(x[:, 1:])).fit()
    freedom = (expected.df_resid / (expected.df_resid - 1)) ** 0.5  # what is dropped counts as a parameter
    assert found.standard_errors[1] == 0
    assert found.standard_errors[::2] == pytest.approx(expected.bse[:2] * freedom, rel=1e-6)


@pytest.mark.parametrize(
    ("counts", "rare_levels", "words"),
    [
        ((20, 9, 30), "refuse", " (it is h.c=1)"),
        ((9, 20, 8), "refuse", " (it is the reference of h.c, h.c=2)"),
        ((9, 20, 30), "drop", " (it is the reference of h.c)"),
    ],
)
def test_a_rare_level_is_named_if_agreed(counts: tuple[int, ...], rare_levels: RareLevels, words: str) -> None:
    x, y = levels(counts)
    gate = Gate(None, None, 10, rare_levels, None)
    for agreed in (False, True):
        with pytest.raises(Refused) as refusal:
            analysed(
                x,
                y,
                Model(0.01),
                gate=gate,
                categories=((0, 1),),
                opened=Open(refused_column=agreed),
                names=("h.c=1", "h.c=2", "h.x", "h.y"),
            )
        assert refusal.value.rule == "min_level_count"
        assert str(refusal.value).endswith(words if agreed else 'agree on rare_levels = "drop"')


def test_a_column_of_a_refusal_is_named_only_if_agreed() -> None:
    x, y = table("independent", 100, 3)
    x[:, 1] *= 1e-12
    far = np.vstack((np.column_stack((x, y)), np.full(4, 30.0)))
    columns = encode(far)
    for agreed in (False, True):
        lasso = prepared(x, y, Model(0.1), opened=Open(refused_column=agreed), names=("a", "b", "c", "y"))
        z = np.concatenate((np.ones((100, 1), dtype=object), columns.values[:100]), axis=1)
        lasso.gram = GramShare(100, FIELD_127, FIELD_127.from_ints(z.T @ z)[np.newaxis])
        with pytest.raises(Refused) as refusal:
            asyncio.run(lasso.fit(lambda _: None))
        assert ("(it is b)" in str(refusal.value)) is agreed


@pytest.mark.parametrize("kind", ["sums", "duplicates", "dummies", "pairs"])
def test_singular_features_on_a_path_converge(kind: str) -> None:
    x, y = table(kind, 150, 10)
    alphas = grid(x, y, 10, 1e-4)
    model = Model(0.0, alphas=alphas, folds=3, rule="min")
    found = analysed(x, y, model, opened=Open(model="path", cv_curve=True))
    for alpha, fit in zip(alphas, found.fits, strict=True):
        assert fit.r2 == pytest.approx(reference(x, y, Model(alpha)).r2, abs=1e-8)
    mean, _ = curve(x, y, model, alphas)
    assert found.cross_validated is not None
    assert found.cross_validated.mean == pytest.approx(mean, rel=1e-4 if kind != "pairs" else 1e-6)


@pytest.mark.parametrize("seed", [1, 5, 12])
def test_the_first_late_phase_is_enough_for_copies_and_near_copies_in_all_folds(seed: int) -> None:
    """One polish drops coefficients for their sign; without a second one, some fold or other needed longer phases."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((120, 6))
    x[:, 3:] = 0.995 * x[:, :3] + 0.1 * x[:, 3:]
    x[:, 1] = x[:, 0]
    y = x[:, 0] - 0.6 * x[:, 4]
    assert analysed(x, y, Model(0.0, alphas=grid(x, y, 5, 1e-5), folds=8, rule="min")).iterations <= 270


def test_a_feature_that_does_not_vary_outside_one_fold_does_no_harm() -> None:
    x, y = table("independent", 60, 4)
    x[:, 1] = 0
    x[0::3, 1] = np.linspace(-1, 1, 20)
    model = Model(0.0, alphas=(0.5, 0.05), folds=3, rule="min")
    found = analysed(x, y, model, opened=Open(cv_curve=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, _ = curve(x, y, model, model.alphas)
    assert found.cross_validated is not None and found.cross_validated.mean == pytest.approx(mean, rel=1e-6)


def test_a_fold_that_is_nothing_like_the_rest_is_refused() -> None:
    x, y = table("independent", 60, 3)
    x[:, 1] = np.random.default_rng(1).standard_normal(60) * 1e-3
    x[0, 1] = 1.0
    with pytest.raises(Refused) as refusal:
        analysed(x, y, Model(0.0, alphas=(0.5, 0.05), folds=3, rule="min"))
    assert refusal.value.rule == "spread"


@pytest.mark.parametrize("mean", [30.0, 3e3, 1e4])
def test_the_rule_on_r2_holds_for_a_model_far_worse_than_the_mean(mean: float) -> None:
    x, y = table("independent", 120, 3)
    y = y / y.std() + mean
    model = Model(1e300, fit_intercept=False)
    found = analysed(x, y, model, gate=Gate(None, None, None, "refuse", 0.999)).fits[0]
    assert found.coefficients == (0.0,) * 3
    assert found.r2 == pytest.approx(-((y.mean() / y.std()) ** 2), rel=1e-8)


@pytest.mark.parametrize("records", [40, 2000])
def test_an_outcome_that_varies_almost_only_in_one_fold_keeps_within_the_bounds(records: int) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((records, 2)), rng.standard_normal(records)
    x[::2, 0] *= 180
    y[::2] = x[::2, 0]
    model = Model(0.0, n_alphas=3, alpha_min_ratio=0.1, folds=2, rule="min")
    assert analysed(x, y, model, gate=NO_GATE).place is not None


@pytest.mark.parametrize("seed", range(8))
def test_a_feature_without_a_penalty_stays_in_the_models_of_a_secret_grid(seed: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3))
    y = x @ [1.0, 0.5, 0.3] + 0.1 * rng.standard_normal(200)
    model = Model(0.0, "elastic-net", 0.5, n_alphas=3, alpha_min_ratio=0.1, folds=2, rule="min")
    analysis = prepared(x, y, model, factors=(0.0, 1.0, 1.0), gate=NO_GATE)
    analysis.mpc = ClearArithmetic(analysis.mpc.field, analysis.mpc.statistical_bits, seed)
    found = asyncio.run(analysis.fit(lambda _: None)).fits[0]
    assert found.coefficients is not None and found.coefficients[0] > 0.9


def test_quadratic_penalties_too_small_to_be_seen_are_none() -> None:
    x, y = data()
    alphas = (1e-8, 1e-9)
    model = Model(0.0, "elastic-net", 1 - 1e-9, alphas=alphas, folds=3, rule="min")
    found = analysed(x, y, model).fits[0]
    assert found.coefficients == pytest.approx(analysed(x, y, Model(1e-8)).fits[0].coefficients, abs=1e-6 * y.std())


def test_last_digits_of_r2_do_not_tell_how_far_the_outcome_is_from_zero() -> None:
    x, y = table("independent", 120, 3)
    analysis = prepared(x, y / y.std() + 1e4, Model(0.1, fit_intercept=False))

    async def unexplained() -> list[int]:
        sizes = (await analysis.standardise(await analysis.moments())).sizes.of_group(0)
        shares = analysis.mpc.public([3**k for k in range(20)])
        return (await analysis.per_variance(shares, sizes)).integers().tolist()

    steps = np.array(asyncio.run(unexplained()), dtype=object)
    assert len({int(step) % (1 << 20) for step in steps}) == len(steps)


def opened(analysis: SecureAnalysis) -> dict[str, Any]:
    found: dict[str, Any] = {}
    take = analysis.mpc.runtime.open_to_controllers

    async def open_to_controllers(shares: Any, controllers: Any) -> Any:
        found.update(await take(shares, controllers))
        return found

    analysis.mpc.runtime.open_to_controllers = open_to_controllers  # type: ignore[method-assign]
    asyncio.run(analysis.fit(lambda _: None))
    return found


def test_the_noise_of_numbers_opened_again_is_not_fresh() -> None:
    x, y = data()
    model = Model(0.0, alphas=tuple(0.1 * 1.0000000001**k for k in reversed(range(40))), folds=3, rule="min")
    analysis = prepared(x, y, model, opened=Open(model="path", cv_curve=True, table1=True))
    drawn: dict[str, Any] = {}
    noise = analysis.mpc.noise
    analysis.mpc.noise = lambda count, bits, purpose: drawn.setdefault(purpose, noise(count, bits, purpose))  # type: ignore[method-assign]
    found = opened(analysis)
    assert found["variances"][8] == found["variance of the outcome"][0]
    assert {f"{name} of all" for name in ("intercept", "r2", "errors", "spread")} <= drawn.keys()
