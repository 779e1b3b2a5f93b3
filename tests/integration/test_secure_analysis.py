"""Cross-validation, criteria and rules in three real processes, folds injected: against scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lassos import deal_folds, strongest_penalty, table
from mpc_processes import run_three
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.agreement import Gate, Model, Open
from pipeline.errors import Refused
from pipeline.mpc_runtime import CONTROLLERS, OPENED, Runtime
from pipeline.secure_analysis import Analysis, analyse

DIABETES = load_diabetes(return_X_y=True, scaled=False)
RECORDS = 440  # folds of equal size, as scikit-learn's mean over folds does not weigh them
X, Y = DIABETES[0][:RECORDS], DIABETES[1][:RECORDS]
ALPHAS = tuple((strongest_penalty(X, Y, 1.0) * np.geomspace(1, 1e-3, 12)).tolist())
FOLDED = Model(0.0, alphas=ALPHAS, folds=10, rule="min")
STRICT = Gate(None, 0.01, None, "refuse", None)
CASES: dict[str, tuple[Any, Any, Model, dict[str, Any]]] = {
    "curve": (X, Y, FOLDED, {"opened": Open(cv_curve=True, cv_r2=True)}),
    "1se": (X, Y, replace(FOLDED, rule="1se"), {}),
    "grid": (X, Y, Model(0.0, n_alphas=10, alpha_min_ratio=1e-2, folds=5, rule="1se"), {"opened": Open(model="path")}),
    "bic": (X, Y, replace(FOLDED, folds=0, rule="bic"), {}),
    "errors": (X, Y, Model(0.0, "ols"), {"opened": Open(standard_errors=True, table1=True)}),
    "sums": (*table("sums", 150, 8), Model(0.0, n_alphas=8, folds=3, rule="min"), {}),
    "refused": (X, Y, replace(FOLDED, rule="1se"), {"gate": STRICT}),
}


async def analyse_all(runtime: Runtime, cases: list[Any]) -> list[tuple[Analysis | str, list[str]]]:
    results: list[tuple[Analysis | str, list[str]]] = []
    for gram, problem in cases:
        before = len(runtime.opened)
        try:
            result: Analysis | str = await analyse(runtime, gram, problem)
        except Refused as refusal:
            result = refusal.rule
        results.append((result, runtime.opened[before:]))
    return results


@pytest.fixture(scope="module")
def results() -> list[dict[str, tuple[Any, list[str]]]]:
    dealt = [deal_folds(x, y, model, **settings) for x, y, model, settings in CASES.values()]
    parties = run_three(analyse_all, [([parties[i] for parties in dealt],) for i in range(3)], timeout=600)
    for party in parties:
        if isinstance(party, BaseException):
            raise party
    return [dict(zip(CASES, party, strict=True)) for party in parties]


@pytest.fixture(scope="module")
def search() -> Any:
    return GridSearchCV(
        make_pipeline(StandardScaler(), Lasso(tol=1e-10, max_iter=10**6)),
        {"lasso__alpha": list(ALPHAS)},
        cv=PredefinedSplit(np.arange(RECORDS) % 10),
        scoring="neg_mean_squared_error",
    ).fit(X, Y)


def test_the_curve_and_the_choice_are_those_of_a_grid_search(results: Any, search: Any) -> None:
    found = results[0]["curve"][0]
    mean = -search.cv_results_["mean_test_score"]
    assert found.cross_validated.mean == pytest.approx(mean, rel=1e-6)
    spread = search.cv_results_["std_test_score"] / 3  # divisor 10 to divisor 9, and that of a mean of ten
    assert found.cross_validated.sd == pytest.approx(spread, rel=1e-6)
    assert found.chosen_alpha == search.best_params_["lasso__alpha"]
    assert found.cross_validated.r2 == pytest.approx(1 - mean.min() / Y.var(), abs=1e-7)
    best = search.best_estimator_
    coefficients = best[-1].coef_ / best[0].scale_
    assert np.abs((np.array(found.fits[0].coefficients) - coefficients) * X.std(0)).max() < 1e-6 * Y.std()


def test_one_standard_error_chooses_a_smaller_model(results: Any, search: Any) -> None:
    mean, error = -search.cv_results_["mean_test_score"], search.cv_results_["std_test_score"] / 3
    least = int(np.argmin(mean))
    expected = int(np.flatnonzero(mean <= mean[least] + error[least])[0])
    assert results[0]["1se"][0].place == expected < least


def test_a_secret_grid_gives_the_models_of_its_penalties(results: Any) -> None:
    found = results[0]["grid"][0]
    assert found.alphas[0] == pytest.approx(strongest_penalty(X, Y, 1.0), rel=1e-7)
    scaled = StandardScaler().fit_transform(X)
    for alpha, fit in zip(found.alphas[1:], found.fits[1:], strict=True):
        expected = Lasso(alpha, tol=1e-12, max_iter=10**6).fit(scaled, Y)
        assert np.abs(np.array(fit.coefficients) * X.std(0) - expected.coef_).max() < 1e-6 * Y.std()


@pytest.mark.parametrize("name", CASES)
def test_both_controllers_learn_the_same_and_the_third_party_only_how_long_it_took(name: str, results: Any) -> None:
    (first, opened), (second, _), (third, its) = (party[name] for party in results)
    assert first == second and opened == its
    assert set(opened) <= set(OPENED)
    if name == "refused":
        assert first == third == "max_parameters_ratio"
        assert not [one for one in opened if OPENED[one] == CONTROLLERS]
        return
    assert third.alphas is third.chosen_alpha is third.place is third.cross_validated is None
    assert third.standard_errors is None and third.spreads is None
    assert all(fit.coefficients is None and fit.r2 is None for fit in third.fits)
    once = [one for one in opened if one != "conditions hold"]
    assert len(once) == len(set(once))


def test_the_chosen_model_alone_is_opened_unless_the_path_is_agreed(results: Any) -> None:
    assert {name: len(results[0][name][0].fits) for name in ("curve", "1se", "bic", "sums")} == {
        "curve": 1,
        "1se": 1,
        "bic": 1,
        "sums": 1,
    }
    assert not {"errors of the folds", "spread of errors"} & set(results[0]["1se"][1])
