"""Analyses by three real processes over TLS, from study.toml to the report."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from running import PARTIES, Ended, run_study
from sklearn.linear_model import Lasso
from sklearn.preprocessing import StandardScaler
from studies import make_study

import pipeline

RECORDS = 240
SMOKERS = ("no", "former", "yes")


def persons() -> tuple[Any, Any, Any]:
    """Five features, the last a category, and an outcome."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((RECORDS, 4)) * [10, 1, 1000, 1] + [50, 25, 3000, 0]
    smokes = rng.integers(0, 3, RECORDS)
    y = x @ [0.1, -0.5, 0.001, 0] + np.array([0, 0.4, 1.5])[smokes] + rng.standard_normal(RECORDS)
    return x, smokes, y


X, SMOKES, Y = persons()
INDICATORS = np.column_stack([SMOKES == 1, SMOKES == 2]).astype(float)
FEATURES = np.column_stack((X[:, :2], INDICATORS, X[:, 2:]))
NAMES = ("hospital.age", "hospital.bmi", "hospital.smoker=former", "hospital.smoker=yes", "insurer.income", "insurer.z")


def table(names: list[str], *columns: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *names])
    writer.writerows([f"{i:04d}", *row] for i, row in enumerate(zip(*columns, strict=True)))
    return text.getvalue()


def study(folder: Path, model: dict[str, Any], **sections: Any) -> Path:
    ages, bmis = (column.tolist() for column in X[:, :2].T)
    smokers = [SMOKERS[k] for k in SMOKES]
    return make_study(
        folder,
        hospital_csv=table(["age", "bmi", "smoker", "days"], ages, bmis, smokers, Y.tolist()),
        insurer_csv=table(["income", "z"], *(column.tolist() for column in X[:, 2:].T)),
        model=model,
        hospital={"features": ["age", "bmi"], "categories": {"smoker": list(SMOKERS)}, "outcome": "days"},
        **sections,
    )


def done(ended: dict[int, Ended]) -> list[dict[str, Any]]:
    for party in PARTIES:
        assert ended[party].state == 0, ended[party].err
    return [ended[party].result or {} for party in PARTIES]


def coefficients(document: dict[str, Any]) -> Any:
    assert tuple(document["coefficients"]) == NAMES
    return np.array(list(document["coefficients"].values()))


def test_a_cross_validated_path_from_agreement_to_report(tmp_path: Path) -> None:
    path = study(
        tmp_path,
        {"alpha": None, "n_alphas": 12, "alpha_min_ratio": 0.01, "folds": 5, "rule": "1se"},
        opened={"model": "path", "cv_curve": True, "cv_r2": True, "table1": True},
        gate={"min_level_count": 10, "max_r2": 0.999, "min_residual_df": 10, "max_parameters_ratio": 0.33},
    )
    hospital, insurer, third_party = done(run_study(path))
    scaler = StandardScaler().fit(FEATURES)
    scaled = scaler.transform(FEATURES)
    alphas = [point["alpha"] for point in hospital["path"]]
    assert alphas[0] == pytest.approx(np.abs(scaled.T @ (Y - Y.mean()) / RECORDS).max(), rel=1e-7)
    assert alphas == pytest.approx(alphas[0] * np.geomspace(1, 0.01, 12), rel=1e-12) == hospital["cv"]["alphas"]
    for point in hospital["path"][1:]:
        expected = Lasso(point["alpha"], tol=1e-12, max_iter=10**6).fit(scaled, Y)
        ours = np.array(list(point["coefficients"].values()))
        assert np.abs(ours * scaler.scale_ - expected.coef_).max() < 1e-6 * Y.std()
        assert point["r2"] == pytest.approx(expected.score(scaled, Y), abs=1e-7)
        assert point["nonzero"] == (expected.coef_ != 0).sum()
    mean, sd = np.array(hospital["cv"]["mean"]), np.array(hospital["cv"]["sd"])
    least = int(mean.argmin())
    assert hospital["cv"]["alpha_min"] == alphas[least]
    chosen = int(np.flatnonzero(mean <= mean[least] + sd[least])[0])
    assert hospital["model"]["alpha"] == hospital["cv"]["alpha_1se"] == alphas[chosen]
    assert hospital["coefficients"] == hospital["path"][chosen]["coefficients"]
    assert hospital["cv"]["r2"] == pytest.approx(1 - mean[chosen] / Y.var(), abs=1e-6)
    assert 0.9 * Y.var() < mean[0] < 1.2 * Y.var()  # nothing but the mean is fitted there
    assert hospital["table1"]["insurer.income"]["mean"] == pytest.approx(X[:, 2].mean(), rel=1e-7)
    assert hospital["table1"]["hospital.days"]["sd"] == pytest.approx(Y.std(), rel=1e-7)
    for part in ("path", "cv", "table1", "coefficients", "opened"):
        assert part not in third_party and hospital[part] == insurer[part]
    assert "alpha" not in third_party["model"]
    results = tmp_path / "results" / "hospital"
    report = (results / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in NAMES) and "://" not in report.replace("http://www.w3.org", "")
    assert len((results / "path.csv").read_text().splitlines()) > 12 * len(NAMES)
    model = pipeline.load_model(results / "result.json")
    predicted = model.predict(FEATURES)
    assert predicted == pytest.approx(FEATURES @ coefficients(hospital) + hospital["intercept"])


def test_least_squares_with_standard_errors(tmp_path: Path) -> None:
    path = study(tmp_path, {"kind": "ols", "alpha": None}, opened={"standard_errors": True})
    hospital, _, third_party = done(run_study(path))
    expected = sm.OLS(Y, sm.add_constant(FEATURES)).fit()
    assert coefficients(hospital) == pytest.approx(expected.params[1:], rel=1e-6)
    inference = hospital["inference"]
    assert tuple(inference) == ("intercept", *NAMES) and "inference" not in third_party
    for column, part in (("bse", "se"), ("tvalues", "t"), ("pvalues", "p")):
        ours = [of[part] for of in inference.values()]
        assert ours == pytest.approx(getattr(expected, column), rel=1e-5, abs=1e-12)
    limits = [[of["low"], of["high"]] for of in inference.values()]
    assert np.array(limits) == pytest.approx(expected.conf_int(), rel=1e-5)


def test_some_features_and_unpenalised_ones(tmp_path: Path) -> None:
    path = study(
        tmp_path,
        {
            "alpha": 0.2,
            "features": ["hospital.age", "hospital.smoker", "insurer.income"],
            "penalty_factors": {"hospital.smoker": 0},
        },
    )
    hospital, *_ = done(run_study(path))
    assert tuple(hospital["coefficients"]) == (NAMES[0], NAMES[2], NAMES[3], NAMES[4])
    taken = FEATURES[:, [0, 2, 3, 4]]
    ours = np.array(list(hospital["coefficients"].values()))
    assert (ours[1:3] != 0).all()
    gradient = StandardScaler().fit_transform(taken).T @ (Y - hospital["intercept"] - taken @ ours) / RECORDS
    assert gradient[1:3] == pytest.approx([0, 0], abs=1e-6) and np.abs(gradient).max() <= 0.2 + 1e-6


@pytest.mark.parametrize(
    ("gate", "rule"),
    [
        ({"max_parameters_ratio": 0.01}, "too many parameters"),
        ({"max_r2": 0.05}, "explains nearly everything"),
        ({"min_residual_df": 236}, "too few residual degrees of freedom"),
    ],
)
def test_a_rule_that_fails_ends_all_parties_with_state_3_and_its_sentence(
    tmp_path: Path, gate: dict[str, Any], rule: str
) -> None:
    ended = run_study(study(tmp_path, {"alpha": 0.01}, gate=gate))
    for party in PARTIES:
        assert ended[party].state == 3 and rule in ended[party].last_line, ended[party].err
        assert ended[party].result is None
        assert not any((tmp_path / "results").rglob("result.json"))


def test_a_level_with_too_few_matched_records_is_not_named(tmp_path: Path) -> None:
    """The hospital has enough smokers; among the matched ones are too few."""
    path = study(tmp_path, {"alpha": 0.01}, gate={"min_level_count": 10})
    insurer = tmp_path / "data" / "insurer.csv"
    lines = insurer.read_text().splitlines()
    former = [i for i in range(RECORDS) if SMOKES[i] == 1]
    kept = [lines[0], *(line for i, line in enumerate(lines[1:]) if i not in former[9:])]
    insurer.write_text("\n".join(kept) + "\n")
    ended = run_study(path)
    for party in PARTIES:
        assert ended[party].state == 3 and "too few matched records" in ended[party].last_line, ended[party].err
        assert not [word for word in (*SMOKERS[1:], "smoker") if word in ended[party].last_line]


def test_the_result_says_what_was_opened_to_whom(tmp_path: Path) -> None:
    hospital, *_ = done(run_study(study(tmp_path, {"alpha": 0.1})))
    opened = {each["name"]: each["to"] for each in hospital["opened"]}
    assert opened["slopes"] == "controllers" and opened["conditions hold"] == "all parties"
    assert not {"means", "errors of the folds", "standard errors", "largest penalty"} & set(opened)
    assert json.loads((tmp_path / "results" / "hospital" / "result.json").read_text()) == hospital
