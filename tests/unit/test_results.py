"""The result document and how it is written."""

from __future__ import annotations

import io
import json
import math
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.config import Agreement, Join, Model, Party, Study
from pipeline.results import (
    CrossValidation,
    Inference,
    Moments,
    OpenedModel,
    OwnRows,
    PathPoint,
    fit_measures,
    model_table,
    result_document,
    write_result,
)

HOSPITAL = Party(
    0,
    "hospital",
    "controller",
    "https://h:1",
    (),
    identifier=("id",),
    features=("age",),
    categories={"sex": ("f", "m")},
    outcome="days",
)
INSURER = Party(1, "insurer", "controller", "https://i:1", (), identifier=("id",), features=("income",))
THIRD = Party(2, "third-party", "third-party", "https://t:1", ())
AGREEMENT = Agreement(Study("s"), (HOSPITAL, INSURER, THIRD), Join(), Model(alpha=0.1))
MODEL = OpenedModel(1.5, (0.25, 0.0, -2.0), 0.5, 4.0)


def document_of(agreement: Agreement, model: OpenedModel | None, **settings: Any) -> dict[str, Any]:
    return result_document(
        agreement,
        records=60,
        iterations=15,
        rounds=250,
        hiding_bits=42.3456,
        sent_bytes=1234567,
        seconds={"prepare": 0.12345},
        model=model,
        own_rows=None if model is None else OwnRows(70, {"age": 3}),
        **settings,
    )


def with_model(**settings: Any) -> Agreement:
    return replace(AGREEMENT, model=replace(AGREEMENT.model, **settings))


def test_coefficients_have_full_names_in_order_and_features_one_entry_a_column() -> None:
    document = document_of(AGREEMENT, MODEL)
    assert list(document["coefficients"].items()) == [
        ("hospital.age", 0.25),
        ("hospital.sex=m", 0.0),
        ("insurer.income", -2.0),
    ]
    assert document["features"] == [
        {"party": "hospital", "column": "age", "kind": "numeric"},
        {"party": "hospital", "column": "sex", "kind": "category", "levels": ["f", "m"]},
        {"party": "insurer", "column": "income", "kind": "numeric"},
    ]
    assert document["own_rows"] == {"read": 70, "dropped": {"age": 3}}
    assert document["seconds"] == {"prepare": 0.123}
    assert document["rounds"] == 250 and document["hiding_bits"] == 42.3 and document["sent_bytes"] == 1234567
    assert document["outcome"] == "days" and document["agreement"] == AGREEMENT.digest
    json.dumps(document, allow_nan=False)


def test_the_third_partys_document_has_no_model_and_no_rows() -> None:
    document = document_of(with_model(alpha=0.0, n_alphas=2, folds=5, rule="min"), None, opened=["conditions hold"])
    assert not {"coefficients", "intercept", "fit", "own_rows", "opened", "notes", "path", "cv"} & set(document)
    assert document["records"] == 60 and document["converged"] is True
    assert "alpha" not in document["model"] and document["model"]["n_alphas"] == 2


def test_what_is_opened_besides_the_model_stands_in_the_document_and_nothing_else() -> None:
    plain = document_of(AGREEMENT, MODEL, opened=["conditions hold", "slopes"], notes=["A note."])
    assert not {"path", "cv", "inference", "table1"} & set(plain)
    assert plain["opened"] == [
        {"name": "conditions hold", "to": "all parties"},
        {"name": "slopes", "to": "controllers"},
    ]
    assert plain["notes"] == ["A note."]
    more = replace(
        MODEL,
        alpha=0.1,
        path=(PathPoint(0.5, 2.0, (0.0, 0.0, -1.0), 0.25), PathPoint(0.1, *(1.5, MODEL.coefficients), 0.5)),
        cv=CrossValidation(5, r2=0.4),
        inference={"intercept": Inference(1.0, 1.5, 0.1, -0.5, 3.5)},
        table1={"hospital.days": Moments(3.0, 1.0)},
    )
    document = document_of(with_model(alpha=0.0, alphas=(0.5, 0.1), folds=5, rule="1se"), more)
    settings = {key: document["model"][key] for key in ("alpha", "alphas", "folds", "rule")}
    assert settings == {"alpha": 0.1, "alphas": [0.5, 0.1], "folds": 5, "rule": "1se"}
    assert document["path"][0] == {
        "alpha": 0.5,
        "intercept": 2.0,
        "coefficients": {"hospital.age": 0.0, "hospital.sex=m": 0.0, "insurer.income": -1.0},
        "nonzero": 1,
        "r2": 0.25,
    }
    assert document["cv"] == {"folds": 5, "r2": 0.4}
    assert document["inference"]["intercept"] == {"se": 1.0, "t": 1.5, "p": 0.1, "low": -0.5, "high": 3.5}
    assert document["table1"] == {"hospital.days": {"mean": 3.0, "sd": 1.0}}
    json.dumps(document, allow_nan=False)


def test_a_model_of_some_features_names_these_and_their_columns_alone() -> None:
    agreement = with_model(features=("hospital.sex", "insurer.income"))
    document = document_of(agreement, replace(MODEL, coefficients=(0.5, -2.0)))
    assert document["coefficients"] == {"hospital.sex=m": 0.5, "insurer.income": -2.0}
    assert [feature["column"] for feature in document["features"]] == ["sex", "income"]
    assert document["model"]["features"] == ["hospital.sex=m", "insurer.income"]


def test_fit_measures_are_those_of_the_textbook() -> None:
    fit = fit_measures(MODEL, 60)
    assert fit["rmse"] == 2.0 and fit["nonzero"] == 2
    assert fit["adjusted_r2"] == pytest.approx(1 - 0.5 * 59 / 57)


def test_without_residual_degrees_of_freedom_there_is_no_adjusted_r2() -> None:
    assert fit_measures(MODEL, 3)["adjusted_r2"] is None
    assert fit_measures(MODEL, 4)["adjusted_r2"] is not None


def test_a_result_replaces_an_older_one_whole_and_is_for_its_owner(tmp_path: Path) -> None:
    write_result(tmp_path / "new" / "folder", {"a": 1})
    path = write_result(tmp_path / "new" / "folder", {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_what_cannot_be_written_leaves_the_older_result_and_nothing_else(tmp_path: Path) -> None:
    path = write_result(tmp_path, {"a": 1})
    with pytest.raises(ValueError):
        write_result(tmp_path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def shown(document: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(model_table(document))
    return console.export_text()


def test_the_table_for_the_terminal_names_the_penalty_and_how_it_was_chosen() -> None:
    assert "s: lasso with alpha 0.1 for days" in shown(document_of(AGREEMENT, MODEL))
    chosen = document_of(with_model(alpha=0.0, n_alphas=50, folds=5, rule="1se"), replace(MODEL, alpha=0.025))
    assert "s: lasso with alpha 0.025 (1se out of 50) for days" in " ".join(shown(chosen).split())
    assert "standard error" not in shown(chosen)


def test_the_table_for_the_terminal_has_standard_errors_where_they_were_opened() -> None:
    inference = {
        "intercept": Inference(1.0, 1.5, 0.1234, -0.5, 3.5),
        "insurer.income": Inference(0.2, -10, 1e-9, -3, -1),
    }
    text = shown(document_of(with_model(kind="ols", alpha=0.0), replace(MODEL, inference=inference)))
    lines = {line.split()[1]: line.split() for line in text.splitlines() if len(line.split()) > 3}
    assert "standard error" in text and "s: ols for days" in text
    assert [lines["(intercept)"][i] for i in (3, 5, 7)] == ["1.5", "1", "0.1234"]
    assert "<" in lines["insurer.income"] and "0.0001" in lines["insurer.income"]


def test_levels_with_brackets_are_shown_as_they_are() -> None:
    sexes = replace(HOSPITAL, categories={"sex": ("f", "[red]m[/red]")})
    agreement = replace(AGREEMENT, parties=(sexes, INSURER, THIRD))
    assert "hospital.sex=[red]m[/red]" in shown(document_of(agreement, MODEL))
