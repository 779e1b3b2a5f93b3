"""A result read back as an estimator."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Lasso

import pipeline
from pipeline.config import Agreement, Join, Model, Party, Study
from pipeline.errors import ConfigError
from pipeline.fitted_model import load_model, read_model
from pipeline.predict import predict
from pipeline.results import OpenedModel, PathPoint, result_document, write_result

SEX = ("f", "m", "x")
HOSPITAL = Party(
    0, "hospital", "controller", "https://h:1", (), ("id",), (), ("age", "bmi"), {"sex": SEX}, outcome="days"
)
INSURER = Party(1, "insurer", "controller", "https://i:1", (), ("id",), (), ("age", "income"))
THIRD = Party(2, "third-party", "third-party", "https://t:1", ())
AGREEMENT = Agreement(Study("s"), (HOSPITAL, INSURER, THIRD), Join(), Model(alpha=0.1))
ALPHAS = (0.5, 0.1, 1 / 30)
NAMES = ["hospital.age", "hospital.bmi", "hospital.sex=m", "hospital.sex=x", "insurer.age", "insurer.income"]


def table(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "income": rng.normal(size=rows),
            "sex": rng.choice(SEX, rows),
            "hospital.age": rng.integers(20, 90, rows),
            "id": np.arange(rows),
            "bmi": rng.normal(25, 3, rows),
            "insurer.age": rng.integers(0, 2, rows).astype(bool),
        }
    )


def encoded(frame: pd.DataFrame) -> NDArray[np.float64]:
    frame = frame.assign(m=frame["sex"] == "m", x=frame["sex"] == "x")
    return frame[["hospital.age", "bmi", "m", "x", "insurer.age", "income"]].to_numpy(np.float64)


def outcome(frame: pd.DataFrame) -> NDArray[np.float64]:
    noise = np.random.default_rng(2).normal(size=len(frame))
    values: NDArray[np.float64] = encoded(frame) @ [0.1, 0.2, 1.0, -1.0, 0.5, 2.0] + noise
    return values


def fitted(alpha: float) -> Lasso:
    frame = table()
    return Lasso(alpha=alpha).fit(encoded(frame), outcome(frame))


def model_file(folder: Path, *, path: bool = True, **settings: Any) -> Path:
    """The document of scikit-learn's models; the second penalty is the chosen one."""
    fits = [fitted(alpha) for alpha in ALPHAS]
    points = tuple(PathPoint(fit.alpha, float(fit.intercept_), tuple(fit.coef_.tolist()), 0.5) for fit in fits)
    chosen = points[1]
    opened = OpenedModel(
        chosen.intercept, chosen.coefficients, 0.5, 1.0, alpha=chosen.alpha, path=points if path else ()
    )
    agreement = replace(AGREEMENT, model=Model(alpha=0.0, alphas=ALPHAS, folds=5, rule="min"))
    document = result_document(
        agreement,
        records=200,
        iterations=9,
        rounds=9,
        hiding_bits=41.0,
        sent_bytes=9,
        seconds={},
        model=opened,
        own_rows=None,
    )
    return write_result(folder, document | settings)


def test_predictions_are_those_of_scikit_learn_for_a_table_and_for_an_array(tmp_path: Path) -> None:
    model, frame, reference = load_model(model_file(tmp_path)), table(), fitted(0.1)
    expected = reference.predict(encoded(frame))
    assert model.predict(frame) == pytest.approx(expected, rel=1e-12)
    assert model.predict(encoded(frame)) == pytest.approx(expected, rel=1e-12)
    assert model.predict(encoded(frame).tolist()) == pytest.approx(expected, rel=1e-12)
    named = pd.DataFrame(encoded(frame), columns=model.get_feature_names_out())[::-1]
    assert model.predict(named) == pytest.approx(expected[::-1], rel=1e-12)
    assert model.score(frame, outcome(frame)) == pytest.approx(reference.score(encoded(frame), outcome(frame)))


def test_the_attributes_are_those_of_scikit_learn(tmp_path: Path) -> None:
    model, reference = pipeline.load_model(str(model_file(tmp_path))), fitted(0.1)
    assert model.feature_names_in_.tolist() == model.get_feature_names_out().tolist() == NAMES
    assert model.coef_.tolist() == reference.coef_.tolist()
    assert (model.intercept_, model.n_features_in_, model.alpha_) == (reference.intercept_, 6, 0.1)


def test_every_point_of_an_opened_path_is_a_model(tmp_path: Path) -> None:
    file, frame = model_file(tmp_path), table()
    for alpha in (*ALPHAS, 0.0333333333333):
        model = load_model(file, alpha=alpha)
        assert model.predict(frame) == pytest.approx(fitted(model.alpha_ or 0.0).predict(encoded(frame)), rel=1e-12)
        assert model.alpha_ == pytest.approx(alpha, rel=1e-9)


def test_a_penalty_may_be_given_as_the_report_rounds_it(tmp_path: Path) -> None:
    model = load_model(model_file(tmp_path), alpha=0.033333)
    assert model.alpha_ == pytest.approx(1 / 30, rel=1e-12)
    with pytest.raises(ValueError, match=r"no model with alpha 0\.0333;"):
        load_model(model_file(tmp_path), alpha=0.0333)


def test_a_penalty_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model with alpha 0.3; the alphas it has: 0.5, 0.1, 0.03333333333$"):
        load_model(model_file(tmp_path), alpha=0.3)
    with pytest.raises(ValueError, match=r"no model with alpha 0.5; the alphas it has: 0.1$"):
        load_model(model_file(tmp_path, path=False), alpha=0.5)
    assert load_model(model_file(tmp_path, path=False), alpha=0.1).alpha_ == 0.1


def test_the_predict_command_says_the_same(tmp_path: Path) -> None:
    file, frame = model_file(tmp_path), table()
    frame.loc[3, "sex"] = None
    frame.astype({"insurer.age": int}).to_csv(tmp_path / "table.csv", index=False)
    predict(file, tmp_path / "table.csv", tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv")["prediction"].to_numpy()
    assert load_model(file).predict(frame) == pytest.approx(written, rel=1e-15, nan_ok=True)
    assert np.flatnonzero(np.isnan(written)).tolist() == [3]


@pytest.mark.parametrize("kind", ["category", "string", "object"])
def test_levels_may_be_of_any_type_of_text(tmp_path: Path, kind: str) -> None:
    model, frame = load_model(model_file(tmp_path)), table()
    assert model.predict(frame.astype({"sex": kind})).tolist() == model.predict(frame).tolist()


def test_a_missing_value_gives_no_prediction_and_no_score(tmp_path: Path) -> None:
    model, frame = load_model(model_file(tmp_path)), table(4)
    frame.loc[1, "bmi"] = np.nan
    frame.loc[2, "sex"] = None
    assert np.isnan(model.predict(frame)).tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="missing values"):
        model.score(frame, [1, 2, 3, 4])


def test_a_table_without_rows_has_no_predictions(tmp_path: Path) -> None:
    assert load_model(model_file(tmp_path)).predict(table(1)[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns="bmi"), '^X: no column "bmi"$'),
        (lambda frame: frame.rename(columns={"insurer.age": "age"}), "must be insurer.age in column age"),
        (lambda frame: frame.assign(sex="q"), r"not agreed \(agreed: f, m, x\) in column sex at row 1 and row 2"),
        (lambda frame: frame.assign(bmi=["thin", "1"]), "^X: not a number in column bmi at row 1$"),
        (lambda frame: frame.assign(bmi=["thin", 1]), "column bmi holds values of several types"),
        (lambda frame: frame.assign(bmi=[1.0, np.inf]), "infinite number in column bmi at row 2"),
        (lambda frame: pd.concat((frame, frame[["bmi"]]), axis=1), "more than once"),
        (lambda frame: frame.set_axis(range(6), axis=1), "none of the columns in the header"),
        (lambda frame: frame.to_numpy(), "something else than numbers"),
        (lambda frame: encoded(frame)[:, 1:], r"shape \(2, 5\), but the model needs 6 columns"),
        (lambda frame: encoded(frame)[0], r"shape \(6,\), but the model needs 6 columns"),
    ],
)
def test_a_table_that_does_not_fit_is_one_clear_sentence(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_model(model_file(tmp_path)).predict(change(table(2)))


def test_a_score_needs_as_many_outcomes_as_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"y has shape \(3,\), but X has 2 rows"):
        load_model(model_file(tmp_path)).score(table(2), [1, 2, 3])


def test_a_level_that_takes_no_part_counts_as_the_reference(tmp_path: Path) -> None:
    document = json.loads(model_file(tmp_path, path=False).read_text())
    del document["coefficients"]["hospital.sex=x"]
    with pytest.raises(ConfigError, match="damaged"):
        read_model(write_result(tmp_path, document))
    document["model"]["features"] = [name for name in NAMES if name != "hospital.sex=x"]
    model, frame = load_model(write_result(tmp_path, document)), table(6)
    assert model.feature_names_in_.tolist() == document["model"]["features"]
    assert model.predict(frame.assign(sex="x")).tolist() == model.predict(frame.assign(sex="f")).tolist()


@pytest.mark.parametrize(
    "path", [[{}], [{"alpha": "a", "intercept": 1, "coefficients": {}}], {"alpha": 1}, 1, [[]], ["text"]]
)
def test_a_damaged_path_is_told(tmp_path: Path, path: Any) -> None:
    with pytest.raises(ConfigError, match="damaged"):
        load_model(_with(tmp_path, path))


def _with(folder: Path, path: Any) -> Path:
    document = json.loads(model_file(folder, path=False).read_text())
    return write_result(folder, document | {"path": path})


def test_the_package_is_imported_without_its_libraries() -> None:
    code = "import sys, pipeline; assert not {'numpy', 'pandas', 'json'} & set(sys.modules); pipeline.load_model"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        pipeline.load  # noqa: B018
