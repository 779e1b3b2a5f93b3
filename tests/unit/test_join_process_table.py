"""What the join's process keeps of its own table after step 1."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from studies import make_study

from pipeline import join_process
from pipeline.config import load
from pipeline.errors import DataError
from pipeline.preprocess import PreparedTable

HOSPITAL = "patient_id,age,days\n" + "".join(f"{row},{20 + row},{row % 5}\n" for row in range(30))
INSURER = "insured_id,income\n1,7\n2,8\n"


def test_encoded_rows_take_the_place_of_the_prepared_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[object]] = []

    def prepare(*arguments: object, **more: object) -> PreparedTable:
        prepared = real(*arguments, **more)
        made.extend([weakref.ref(prepared), weakref.ref(prepared.values)])
        return prepared

    real = join_process.prepare
    monkeypatch.setattr(join_process, "prepare", prepare)
    study = make_study(tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER)
    remains, table = join_process._prepare(*load(study, 0), 0)
    gc.collect()
    assert [reference() for reference in made] == [None, None]
    assert table is not None and remains is not None
    assert table.values.shape == (30, 2) and table.values.dtype == np.int64
    assert (remains.read, remains.exponents) == (30, table.exponents)


def test_the_third_party_has_none(tmp_path: Path) -> None:
    study = make_study(tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER)
    assert join_process._prepare(*load(study, 2), 2) == (None, None)


def test_a_level_that_too_few_have_ends_the_run_before_anything_is_sent(tmp_path: Path) -> None:
    rows = "".join(f"{row},{int(row < 4)},{row % 5}\n" for row in range(30))
    tables = {"hospital_csv": "patient_id,male,days\n" + rows, "insurer_csv": INSURER}
    study = make_study(tmp_path / "refused", **tables, gate={"min_level_count": 5})
    with pytest.raises(DataError, match=r"column male: too few complete records have one of its two values"):
        join_process._prepare(*load(study, 0), 0)
    study = make_study(tmp_path / "enough", **tables, gate={"min_level_count": 4})
    assert join_process._prepare(*load(study, 0), 0)[1] is not None
