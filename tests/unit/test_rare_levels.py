"""Levels that few records of one's own have: refused before anything is sent, or said by `check`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_table import controller, prepared

from pipeline.agreement import Agreement, Gate, Join, Model, Open, Party, Study
from pipeline.errors import DataError
from pipeline.rare_levels import check_rare_levels, rare_levels, two_valued

HOSPITAL = controller(
    features=("age", "male"), categories={"smoker": ("no", "former", "yes"), "ward": ("a", "b")}, outcome="days"
)
INSURER = Party(1, "insurer", "controller", "https://127.0.0.1:8441", (), features=("income",))
AGREEMENT = Agreement(Study("s"), (HOSPITAL, INSURER), Join(), Model(0.1), gate=Gate(min_level_count=3))


def table(smokers: str = "nnnfffyyy", males: str = "000111000", wards: str = "aaabbbaaa") -> str:
    """A row for each sign; ages and days all differ."""
    levels = {"n": "no", "f": "former", "y": "yes"}
    rows = zip(smokers, males, wards, strict=True)
    return "id,age,male,smoker,ward,days\n" + "".join(
        f"{row},{row},{male},{levels[smoker]},{ward},{row}.5\n" for row, (smoker, male, ward) in enumerate(rows)
    )


def said(folder: Path, content: str, agreement: Agreement = AGREEMENT) -> tuple[str, ...]:
    return rare_levels(prepared(folder, content, HOSPITAL), agreement, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (table(), ()),
        (table(smokers="nnnnffyyy"), ('column smoker: too few complete records have the level "former"',)),
        (table(smokers="nnffffyyy"), ('column smoker: too few complete records have the level "no"',)),
        (table(smokers="nnnnfffff"), ('column smoker: no complete record has the level "yes"',)),
        (table(smokers="fffffyyyy"), ('column smoker: no complete record has the level "no"',)),
        (
            table(smokers="nnnnnnnny"),
            (
                'column smoker: no complete record has the level "former"',
                'column smoker: too few complete records have the level "yes"',
            ),
        ),
        (table(males="000000011"), ("column male: too few complete records have one of its two values",)),
        (table(males="111111100"), ("column male: too few complete records have one of its two values",)),
        (table(males="000000000"), ()),
        (table(males="001122334"), ()),
        (
            table(males="000000001", wards="aaaaaaaab"),
            (
                "column male: too few complete records have one of its two values",
                'column ward: too few complete records have the level "b"',
            ),
        ),
    ],
)
def test_a_level_that_too_few_have_is_named_without_a_number_of_records(
    tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    assert said(tmp_path, content) == tuple(f"{line} (gate.min_level_count = 3)" for line in words)


def test_records_with_a_missing_value_do_not_count(tmp_path: Path) -> None:
    assert said(tmp_path, table().replace("8,8,0", "8,,0")) == (
        'column smoker: too few complete records have the level "yes" (gate.min_level_count = 3)',
    )


def test_without_the_rule_nothing_is_said(tmp_path: Path) -> None:
    assert said(tmp_path, table(smokers="nnnnnnnny"), replace(AGREEMENT, gate=Gate(min_level_count=None))) == ()


def test_only_features_that_take_part_count_unless_table_1_tells_about_all(tmp_path: Path) -> None:
    content = table(smokers="nnnnnnnfy", males="000000001")
    subset = replace(AGREEMENT, model=Model(0.1, features=("hospital.age", "hospital.ward=b")))
    assert said(tmp_path, content, subset) == ()
    assert len(said(tmp_path, content, replace(subset, open=Open(table1=True)))) == 3


def test_a_level_that_does_not_take_part_counts_as_the_reference(tmp_path: Path) -> None:
    yes = replace(AGREEMENT, model=Model(0.1, features=("hospital.smoker=yes",)))
    assert said(tmp_path, table(smokers="nnfyyyyyy"), yes) == ()
    assert said(tmp_path, table(smokers="nfyyyyyyy"), yes) == (
        'column smoker: too few complete records have the level "no" or "former" (gate.min_level_count = 3)',
    )


def test_where_rare_levels_are_refused_every_one_is_a_fault_with_its_file(tmp_path: Path) -> None:
    own = prepared(tmp_path, table(smokers="nnnnnnnny"), HOSPITAL)
    with pytest.raises(DataError) as caught:
        check_rare_levels(own, AGREEMENT, 0)
    assert len(caught.value.faults) == 2
    assert caught.value.faults[0] == (
        f'{tmp_path / "table.csv"}: column smoker: no complete record has the level "former" '
        '(gate.min_level_count = 3); merge it with another level, or agree on rare_levels = "drop"'
    )


def test_where_they_are_dropped_none_is_a_fault(tmp_path: Path) -> None:
    dropped = replace(AGREEMENT, gate=Gate(min_level_count=3, rare_levels="drop"))
    check_rare_levels(prepared(tmp_path, table(smokers="nnnnnnnny"), HOSPITAL), dropped, 0)


def test_two_values_are_found_and_indicators_always_have_0_and_1() -> None:
    party = controller(features=("x", "y", "z"), categories={"ward": ("a", "b")}, outcome="died")
    values = np.array([[2.5, 1, 7, 0, 1], [-1, 2, 7, 0, 0], [2.5, 3, 7, 0, 1]])
    assert two_valued(values, party) == [(-1.0, 2.5), None, None, (0.0, 1.0), (0.0, 1.0)]
    assert two_valued(values[:, :4], replace(party, outcome=None)) == [(-1.0, 2.5), None, None, (0.0, 1.0)]
