"""The demonstration's tables: overlap, missing cells, determinism, and the agreement that goes with them."""

import csv
import io
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.datasets import (
    StudyData,
    agreement_text,
    correlated,
    heart_failure,
    identifiers,
    plain_join,
    rand_hie,
    write_csv,
)
from pipeline.errors import ConfigError

URLS = ["https://127.0.0.1:8440", "https://127.0.0.1:8441", "https://127.0.0.1:8442"]


@pytest.fixture(scope="module", params=["rand-hie", "heart-failure"])
def study(request: pytest.FixtureRequest) -> StudyData:
    return rand_hie() if request.param == "rand-hie" else heart_failure()


def complete(study: StudyData) -> list[set[str]]:
    return [set(table.frame.dropna()[table.identifier]) for table in study.tables]


def test_identifiers_are_distinct_text_of_nine_digits_and_some_begin_with_zero() -> None:
    count = 200_000  # with repetition allowed, about twenty would occur twice
    drawn = identifiers(count, np.random.default_rng(0))
    assert len(set(drawn)) == count
    assert all(len(name) == 9 and name.isascii() and name.isdigit() for name in drawn)
    assert sum(name.startswith("0") for name in drawn) / count == pytest.approx(0.1, abs=0.01)


def test_sizes_are_as_asked_and_so_is_the_number_of_complete_matches(study: StudyData) -> None:
    expected = {"rand-hie": (7000, 6500, 5000), "heart-failure": (5000, 6000, 4000)}[study.name]
    left, right = complete(study)
    assert (*(len(table.frame) for table in study.tables), len(left & right)) == expected


def test_some_persons_are_in_one_table_only_and_some_matches_are_incomplete(study: StudyData) -> None:
    left, right = (set(table.frame[table.identifier]) for table in study.tables)
    assert left - right
    assert right - left
    assert len(left & right) > len(plain_join(study)[1])


def test_two_in_a_hundred_cells_of_the_rand_tables_are_missing_and_no_identifier() -> None:
    for table in rand_hie().tables:
        assert table.frame[table.identifier].notna().all()
        assert table.frame[list(table.columns)].isna().to_numpy().mean() == pytest.approx(0.02, abs=0.003)


def test_a_study_is_a_function_of_its_seed() -> None:
    first, again, other = (heart_failure(30, 60, 60, seed=seed) for seed in (1, 1, 2))
    for index in (0, 1):
        pd.testing.assert_frame_equal(first.tables[index].frame, again.tables[index].frame)
    assert not first.tables[0].frame.equals(other.tables[0].frame)


def test_the_place_of_a_row_does_not_tell_whether_it_is_in_the_other_table(study: StudyData) -> None:
    left, right = (table.frame[table.identifier] for table in study.tables)
    for own, other in ((left, right), (right, left)):
        shared = own.isin(set(other)).to_numpy()
        half = len(own) // 2
        assert shared[:half].mean() == pytest.approx(shared[half:].mean(), abs=0.04)
    both = set(left) & set(right)
    assert [name for name in left if name in both] != [name for name in right if name in both]


def test_levels_in_the_tables_are_those_of_the_agreement(study: StudyData) -> None:
    for table in study.tables:
        assert set(table.frame.columns) == {table.identifier, *table.columns}
        for column, levels in table.categories.items():
            assert set(table.frame[column].dropna()) == set(levels)


def test_values_lie_in_the_declared_ranges(study: StudyData) -> None:
    for table in study.tables:
        for column, (low, high) in table.ranges.items():
            assert table.frame[column].dropna().between(low, high).all()


def test_health_of_the_rand_study_comes_from_its_dummies() -> None:
    from statsmodels.datasets import randhie

    source = randhie.load_pandas().data
    shares = rand_hie(5000, 8000, 8000).tables[0].frame["health"].value_counts(normalize=True)
    for level, dummy in (("good", "hlthg"), ("fair", "hlthf"), ("poor", "hlthp")):
        assert shares[level] == pytest.approx(source[dummy].mean(), abs=0.02)


def test_the_outcome_depends_on_columns_of_both_tables(study: StudyData) -> None:
    features, outcome = plain_join(study)
    centred, target = (features - features.mean()).to_numpy(), outcome - outcome.mean()

    def unexplained(prefix: str) -> float:
        columns = centred[:, [name.startswith(prefix) for name in features]]
        residual = target - columns @ np.linalg.lstsq(columns, target)[0]
        return float(residual @ residual / (target @ target))

    assert unexplained("") < min(unexplained("hospital."), unexplained("insurer.")) - 0.015


def test_heart_failure_has_thirty_columns_of_which_some_are_correlated_across_the_tables() -> None:
    study = heart_failure()
    assert sum(len(table.features) + len(table.categories) for table in study.tables) == 30
    features, _ = plain_join(study)
    across = features.corr().loc[
        [name for name in features if name.startswith("hospital.")],
        [name for name in features if name.startswith("insurer.")],
    ]
    assert across.abs().to_numpy().max() > 0.3


def test_plain_join_pairs_the_rows_of_one_person() -> None:
    study = heart_failure(20, 40, 40, seed=3)
    left, right = study.tables
    features, outcome = plain_join(study)
    assert list(features) == [
        *(f"hospital.{name}" for name in left.features),
        *("hospital.nyha=III", "hospital.nyha=IV", "hospital.sex=m"),
        *(f"insurer.{name}" for name in right.features),
        *("insurer.deductible=yes", "insurer.region=east", "insurer.region=south", "insurer.region=west"),
        "insurer.supplementary=yes",
    ]
    keys = left.frame.dropna().merge(right.frame.dropna(), left_on="patient_id", right_on="insured_id")
    assert len(outcome) == len(keys) == 20
    assert sorted(outcome) == sorted(keys["hospital_days"].astype(float))
    pairs = set(zip(keys["age"], keys["income"], keys["sex"] == "m", strict=True))
    columns = ("hospital.age", "insurer.income", "hospital.sex=m")
    assert pairs == set(zip(*(features[name] for name in columns), strict=True))


def test_too_many_matches_are_refused_before_anything_is_written() -> None:
    for matches, rows in ((100, 100), (101, 100), (0, 100)):
        with pytest.raises(ConfigError, match="matches"):
            heart_failure(matches, rows, rows)
    with pytest.raises(ConfigError, match="matches"):
        rand_hie(19000, 20000, 20000)


def test_csv_keeps_leading_zeros_whole_numbers_and_empty_cells(tmp_path: Path, study: StudyData) -> None:
    for table, path in zip(study.tables, write_csv(study, tmp_path), strict=True):
        assert path.name == f"{table.party}.csv"
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        assert list(rows[0]) == list(table.frame.columns)
        assert [row[table.identifier] for row in rows] == list(table.frame[table.identifier])
        for column in table.columns:
            empty = [row[column] == "" for row in rows]
            assert empty == list(table.frame[column].isna())
        if table.outcome:
            assert all(row[table.outcome].isdigit() for row in rows if row[table.outcome])


def test_the_agreement_names_every_column_once(study: StudyData) -> None:
    document = tomllib.loads(agreement_text(study, URLS, 2048, "# heading"))
    assert document["join"] == {"paillier_bits": 2048}
    assert document["model"]["alpha"] == study.alpha
    assert [party["role"] for party in document["party"]] == ["controller", "controller", "third-party"]
    assert [party["url"] for party in document["party"]] == URLS
    for table, party in zip(study.tables, document["party"], strict=False):
        used = [*party["identifier"], *party["features"], *party["categories"], party.get("outcome")]
        assert sorted(filter(None, used)) == sorted(table.frame.columns)
        assert party["categories"] == {column: list(levels) for column, levels in table.categories.items()}
        assert party.get("ranges", {}) == {column: list(bounds) for column, bounds in table.ranges.items()}


# --- correlated columns ---------------------------------------------------------------------------


def test_correlated_tables_have_the_records_the_overlap_and_the_features_asked_for() -> None:
    study = correlated(80, 0.4, 5, 0.5, seed=1)
    assert [len(table.frame) for table in study.tables] == [200, 200]
    assert [len(table.features) for table in study.tables] == [2, 3]
    features, outcome = plain_join(study)
    assert features.shape == (80, 5)
    assert len(outcome) == 80
    left, right = (set(table.frame[table.identifier]) for table in study.tables)
    assert len(left & right) == 80


@pytest.mark.parametrize(
    ("correlation", "within", "across"),
    [("independent", 0, 0), (0.9, 0.9, 0.9), ("pairs", 0, 0.99), ("duplicates", 0, 1)],
)
def test_features_are_correlated_within_and_across_the_tables_as_asked(
    correlation: float | str, within: float, across: float
) -> None:
    features, _ = plain_join(correlated(20_000, 1.0, 6, correlation, seed=1))
    found = np.corrcoef(features.to_numpy().T)
    assert found[0, 1] == pytest.approx(within, abs=0.03)
    assert found[0, 3] == pytest.approx(across, abs=0.03)


def test_sections_of_an_agreement_take_the_place_of_those_made_here() -> None:
    study = correlated(20, 1.0, 4, "pairs", seed=1)
    sections = {"model": {"kind": "ols"}, "open": {"table1": True}, "study": {"min_records": 10}}
    read = tomllib.loads(agreement_text(study, URLS, 2048, sections=sections))
    assert read["model"] == {"kind": "ols"}
    assert read["open"] == {"table1": True}
    assert read["study"] == {"name": "correlated", "min_records": 10}
    assert read["join"] == {"paillier_bits": 2048}
