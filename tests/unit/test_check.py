"""What `check` says about the analysis, and about levels that few records have."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from studies import make_study

from pipeline import joins
from pipeline.analyses import opened_numbers
from pipeline.check import Report, check, described, print_report
from pipeline.config import Agreement, Gate, Model, Open, Study, load_agreement, output_of
from pipeline.preprocess import PreparedTable

ROWS = "".join(f"{row},{row % 2},{row % 7}\n" for row in range(24))
FEW = "".join(f"{row},{int(row == 5)},{row % 7}\n" for row in range(24))
INSURER = "id,income\n1,7\n2,8\n"


def study(folder: Path, rows: str = ROWS, **tables: dict[str, object]) -> Path:
    return make_study(folder, hospital_csv="id,male,days\n" + rows, insurer_csv=INSURER, **tables)


def printed(report: Report) -> str:
    console = Console(file=StringIO(), width=80, markup=False)
    print_report(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> Agreement:
    return load_agreement(study(tmp_path_factory.mktemp("study")))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(0.5), "model: lasso, alpha 0.5"),
        (Model(0, "ols", folds=5), "model: ols, cross-validation with 5 folds"),
        (
            Model(0, alphas=(2.0, 1.0, 0.5), rule="bic"),
            'model: lasso, 3 penalties from 2 down to 0.5, one chosen by the rule "bic"',
        ),
        (
            Model(0, "elastic-net", 0.25, n_alphas=100, folds=10, rule="1se"),
            "model: elastic-net (l1_ratio 0.25), 100 penalties that follow from the data, "
            'one chosen by the rule "1se", cross-validation with 10 folds',
        ),
    ],
)
def test_the_model_is_told_in_one_line(agreement: Agreement, model: Model, words: str) -> None:
    assert described(replace(agreement, model=model))[0] == words


def test_features_that_take_part_are_counted(agreement: Agreement) -> None:
    subset = replace(agreement, model=Model(0.1, features=("insurer.income",)))
    assert described(agreement)[1] == "  all 2 coefficients take part"
    assert described(subset)[1] == "  1 of 2 coefficients take part"


def test_what_is_opened_is_told(agreement: Agreement) -> None:
    assert described(agreement)[2] == "opened to the controllers: the model"
    everything = Open("path", True, True, True, True, True)
    several = Model(0.0, alphas=(0.2, 0.1), folds=5, rule="min")
    assert described(replace(agreement, open=everything, model=several))[2:4] == [
        "opened to the controllers: the models of all penalties, the cross-validated errors of each penalty, "
        "the cross-validated r2 of the chosen one, means and standard deviations of all columns, "
        "the column for which a study is refused",
        "  of other models on the same shares also: standard errors",
    ]


def test_rules_are_told_with_their_limits(agreement: Agreement) -> None:
    assert described(agreement)[3] == "refused on shares, before anything is opened: nothing"
    assert described(replace(agreement, gate=Gate()))[3] == (
        "refused on shares, before anything is opened: fewer residual degrees of freedom than 10, "
        "more parameters per record than 0.33, an r2 above 0.999, a level with fewer records than 10"
    )
    dropped = described(replace(agreement, gate=Gate(rare_levels="drop")))
    assert "a level" not in dropped[3]
    assert dropped[4] == "dropped from the model: levels with fewer records than 10"


def test_how_long_shares_are_kept_is_told(agreement: Agreement) -> None:
    assert described(agreement)[-1] == "shares of the matched records: not kept"
    kept = replace(agreement, study=Study("s", keep_shares=True))
    assert described(kept)[-1] == (
        "shares of the matched records: kept by each party without an end, for at most 20 analyses"
    )
    numbers = opened_numbers(kept)
    limited = described(replace(kept, gate=Gate(max_parameters_ratio=0.0625)))[-1]
    assert limited.endswith(
        f"20 analyses; one like this opens at most {numbers} numbers, so that a second one needs {32 * numbers} "
        "matched records"
    )


def test_a_table_that_has_changed_since_its_join_is_a_fault(tmp_path: Path) -> None:
    path = study(tmp_path)
    assert not check(path, 0).faults
    agreement, output = output_of(path, 0, None)
    other = PreparedTable([("1",)], np.zeros((1, 2)), 1, {}, None)  # type: ignore[arg-type]
    joins.planned(output, agreement.study, other).record()
    [fault] = check(path, 0).faults
    assert "has changed since the study" in fault and "`revision = 2`" in fault


def test_a_rare_level_is_a_fault_where_the_study_would_be_refused(tmp_path: Path) -> None:
    report = check(study(tmp_path, FEW, gate={"min_level_count": 5}), 0)
    [fault] = report.faults
    assert "hospital.csv: column male: too few complete records have one of its two values" in fault
    assert report.table is not None


def test_a_rare_level_is_no_fault_but_said_where_it_would_be_dropped(tmp_path: Path) -> None:
    report = check(study(tmp_path, FEW, gate={"min_level_count": 5, "rare_levels": "drop"}), 0)
    assert not report.faults
    assert (
        "column male: too few complete records have one of its two values (gate.min_level_count = 5): a run drops it"
    ) in printed(report)


def test_a_study_without_rare_levels_is_described_with_its_rules(tmp_path: Path) -> None:
    report = check(study(tmp_path, gate={"min_level_count": 12}), 0)
    assert not report.faults
    assert "a level with fewer records than 12" in printed(report)
    assert "a run drops it" not in printed(report)
