"""The result document and how it is written."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest

from pipeline.config import Agreement, Join, Model, Party, Study
from pipeline.results import OpenedModel, OwnRows, fit_measures, result_document, write_result

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


def test_coefficients_have_full_names_in_order_and_features_one_entry_a_column() -> None:
    document = result_document(
        AGREEMENT,
        records=60,
        iterations=15,
        rounds=250,
        hiding_bits=42.3456,
        sent_bytes=1234567,
        seconds={"prepare": 0.12345},
        model=MODEL,
        own_rows=OwnRows(70, {"age": 3}),
    )
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
    document = result_document(
        AGREEMENT,
        records=60,
        iterations=15,
        rounds=250,
        hiding_bits=42.0,
        sent_bytes=9,
        seconds={},
        model=None,
        own_rows=None,
    )
    assert not {"coefficients", "intercept", "fit", "own_rows"} & set(document)
    assert document["records"] == 60 and document["converged"] is True


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
