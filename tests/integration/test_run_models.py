"""Three real processes over TLS, real tables, and scikit-learn on the plain join as the judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import PARTIES, Ended, run_study
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from studies import make_study

Matrix = NDArray[np.float64]
NEAR = 1e-7  # standard deviations of feature and outcome


def csv(names: Sequence[str], identifiers: Sequence[str], *columns: Sequence[object]) -> str:
    lines = [",".join(names)]
    lines += [",".join(map(str, row)) for row in zip(identifiers, *columns, strict=True)]
    return "\n".join(lines) + "\n"


def columns(matrix: Matrix) -> list[list[str]]:
    return [[repr(float(value)) for value in column] for column in matrix.T]


def judge(result: dict[str, Any], X: Matrix, y: Matrix, alpha: float, *, standardize: bool = True) -> None:
    """Coefficients, intercept, R² and the zeros are scikit-learn's."""
    scaler = StandardScaler(with_std=standardize)
    lasso = Lasso(alpha=alpha, tol=1e-12, max_iter=10**6)
    model = make_pipeline(scaler, lasso).fit(X, y)
    coefficients = lasso.coef_ / (scaler.scale_ if standardize else 1.0)
    intercept = lasso.intercept_ - coefficients @ scaler.mean_
    ours = np.array(list(result["coefficients"].values()))
    sd_y = y.std()
    assert np.abs((ours - coefficients) * X.std(axis=0)).max() <= NEAR * sd_y
    assert abs(result["intercept"] - intercept) <= NEAR * sd_y
    assert result["fit"]["r2"] == pytest.approx(model.score(X, y), abs=NEAR)
    assert result["fit"]["mse"] == pytest.approx(np.mean((y - model.predict(X)) ** 2), rel=NEAR)
    assert ((ours == 0.0) == (lasso.coef_ == 0.0)).all()
    assert result["fit"]["nonzero"] == int((lasso.coef_ != 0).sum())


def all_done(ended: dict[int, Ended]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    for party in PARTIES:
        assert ended[party].state == 0, ended[party].err
    hospital, insurer, third_party = (ended[party].result for party in PARTIES)
    assert hospital is not None and insurer is not None and third_party is not None
    return hospital, insurer, third_party


def test_diabetes_is_as_scikit_learn_has_it_and_the_third_party_gets_no_model(tmp_path: Path) -> None:
    X, y = load_diabetes(return_X_y=True, scaled=False)
    names = [f"x{j}" for j in range(10)]
    ids = [f"{i:05d}" for i in range(len(y))]
    path = make_study(
        tmp_path,
        hospital_csv=csv(["id", *names[:5], "y"], ids, *columns(X[:, :5]), *columns(y[:, None])),
        insurer_csv=csv(["id", *names[5:]], ids[::-1], *columns(X[::-1, 5:])),
        model={"alpha": 2.0},
    )
    hospital, insurer, third_party = all_done(run_study(path))
    judge(hospital, X, y, 2.0)
    for key in ("coefficients", "intercept", "fit", "records", "iterations", "agreement"):
        assert hospital[key] == insurer[key]
    assert list(hospital["coefficients"]) == [f"hospital.{n}" for n in names[:5]] + [f"insurer.{n}" for n in names[5:]]
    assert hospital["own_rows"] == {"read": 442, "dropped": {}}
    assert hospital["converged"] is True and hospital["outcome"] == "y"
    for key in ("coefficients", "intercept", "fit", "own_rows"):
        assert key not in third_party
    assert third_party["iterations"] == hospital["iterations"] and third_party["records"] == 442
    assert hospital["rounds"] == insurer["rounds"] == third_party["rounds"] > 100
    ciphertexts = 2 * 442 * 2048 // 4  # bytes: scrambled dataset and random share, or both masked shares
    for document in (hospital, insurer, third_party):
        assert ciphertexts < document["sent_bytes"] < 4 * ciphertexts
    assert hospital["versions"]["pipeline"] and set(hospital["seconds"]) == {"prepare", "join", "share", "lasso"}


def test_categories_missing_cells_and_persons_of_one_table_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n = 260
    age, smoker = rng.integers(20, 90, n), rng.choice(["no", "former", "yes"], n)
    income, plan = rng.normal(4e4, 9e3, n), rng.choice(["a", "b"], n)
    days = 0.05 * age + 2.0 * (smoker == "yes") - 3e-5 * income + rng.normal(0, 1, n)
    ids = [f"{i:04d}" for i in range(n)]
    gone_age, gone_plan = rng.random(n) < 0.05, rng.random(n) < 0.05
    in_hospital, in_insurer = np.arange(n) < 220, np.arange(n) >= 40
    shown_age = ["" if gone else str(a) for a, gone in zip(age, gone_age, strict=True)]
    shown_plan = ["NA" if gone else p for p, gone in zip(plan, gone_plan, strict=True)]

    def rows(chosen: NDArray[np.bool_], *values: Sequence[object]) -> list[list[object]]:
        return [[value for value, here in zip(column, chosen, strict=True) if here] for column in values]

    hospital_csv = csv(["pid", "age", "smoker", "days"], *rows(in_hospital, ids, shown_age, smoker, days.tolist()))
    insurer_csv = csv(["iid", "income", "plan"], *rows(in_insurer, ids, income.tolist(), shown_plan))
    path = make_study(
        tmp_path,
        hospital_csv=hospital_csv,
        insurer_csv=insurer_csv,
        hospital={
            "identifier": ["pid"],
            "features": ["age"],
            "categories": {"smoker": ["no", "former", "yes"]},
            "ranges": {"age": [0, 120]},
            "outcome": "days",
        },
        insurer={"identifier": ["iid"], "features": ["income"], "categories": {"plan": ["a", "b"]}},
        model={"alpha": 0.05},
    )
    hospital, insurer, _ = all_done(run_study(path))
    kept = in_hospital & in_insurer & ~gone_age & ~gone_plan
    X = np.column_stack([age, smoker == "former", smoker == "yes", income, plan == "b"]).astype(float)[kept]
    assert hospital["records"] == int(kept.sum())
    assert list(hospital["coefficients"]) == [
        "hospital.age",
        "hospital.smoker=former",
        "hospital.smoker=yes",
        "insurer.income",
        "insurer.plan=b",
    ]
    judge(hospital, X, days[kept], 0.05)
    assert hospital["own_rows"] == {"read": 220, "dropped": {"age": int((gone_age & in_hospital).sum())}}
    assert insurer["own_rows"] == {"read": 220, "dropped": {"plan": int((gone_plan & in_insurer).sum())}}
    assert hospital["features"][1] == {
        "party": "hospital",
        "column": "smoker",
        "kind": "category",
        "levels": ["no", "former", "yes"],
    }


@pytest.mark.parametrize("standardize", [True, False])
def test_correlated_features_of_very_different_scales(tmp_path: Path, standardize: bool) -> None:
    rng = np.random.default_rng(11)
    n, d = 150, 8
    X = 0.95**0.5 * rng.normal(size=(n, 1)) + 0.05**0.5 * rng.normal(size=(n, d))
    X *= np.array([1.0, 1e3, 1e-3, 1.0, 1.0, 1e3, 1.0, 10.0])
    X += 2020.0 * X.std(axis=0)
    y = X @ (rng.normal(size=d) / X.std(axis=0)) + rng.normal(size=n)
    ids = [f"Ä{i:04d}" for i in range(n)]
    alpha = 0.02
    path = make_study(
        tmp_path,
        hospital_csv=csv(["id", "a", "b", "c", "d", "y"], ids, *columns(X[:, :4]), *columns(y[:, None])),
        insurer_csv=csv(["id", "e", "f", "g", "h"], ids, *columns(X[:, 4:])),
        model={"alpha": alpha, "standardize": standardize},
    )
    hospital, *_ = all_done(run_study(path))
    judge(hospital, X, y, alpha, standardize=standardize)


def test_dependent_and_constant_features_give_a_minimiser(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n = 120
    a, b = rng.normal(size=(2, n))
    X = np.column_stack([a, b, np.full(n, 3.5), a, a + b])
    y = 2 * a + b + rng.normal(size=n)
    ids = [f"{i:04d}" for i in range(n)]
    alpha = 0.1
    path = make_study(
        tmp_path,
        hospital_csv=csv(["id", "a", "b", "constant", "y"], ids, *columns(X[:, :3]), *columns(y[:, None])),
        insurer_csv=csv(["id", "again", "sum"], ids, *columns(X[:, 3:])),
        model={"alpha": alpha},
    )
    hospital, *_ = all_done(run_study(path))
    Z = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
    theirs = Lasso(alpha=alpha, tol=1e-12, max_iter=10**6).fit(Z, y)
    ours = np.array(list(hospital["coefficients"].values()))

    def objective(fitted: Matrix, coefficients: Matrix) -> float:
        return float(0.5 * np.mean((y - fitted) ** 2) + alpha * np.abs(coefficients * X.std(axis=0)).sum())

    fitted = hospital["intercept"] + X @ ours
    assert hospital["coefficients"]["hospital.constant"] == 0.0
    assert np.abs(fitted - theirs.predict(Z)).max() <= 1e-5 * y.std()
    assert objective(fitted, ours) == pytest.approx(
        0.5 * np.mean((y - theirs.predict(Z)) ** 2) + alpha * np.abs(theirs.coef_).sum(), rel=1e-8
    )
    assert hospital["fit"]["r2"] == pytest.approx(theirs.score(Z, y), abs=1e-6)


def test_subgroup_keys_give_the_same_model_and_every_party_says_that_they_are_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    X = rng.normal(size=(80, 4))
    y = X @ np.array([1.0, 0.0, -2.0, 0.5]) + rng.normal(size=80)
    ids = [f"{i:04d}" for i in range(80)]
    path = make_study(
        tmp_path,
        hospital_csv=csv(["id", "a", "b", "y"], ids, *columns(X[:, :2]), *columns(y[:, None])),
        insurer_csv=csv(["id", "c", "d"], ids, *columns(X[:, 2:])),
        join={"keys": "subgroup"},
    )
    ended = run_study(path)
    judge(all_done(ended)[0], X, y, 0.1)
    for party in PARTIES:
        assert "chose subgroup keys" in ended[party].out + ended[party].err
