"""What step 8 is told: columns, rules and values, from the agreement and what the join has left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.agreement import Agreement, Gate, Join, Model, Open, Party, Study
from pipeline.field import FIELD_127
from pipeline.fixed_point import encode
from pipeline.join_process import JoinResult
from pipeline.rare_levels import two_valued
from pipeline.share_convert import GramShare
from pipeline.study_problem import analysed, problem_of

HOSPITAL = Party(
    0,
    "hospital",
    "controller",
    "https://a:1",
    (),
    features=("age", "ward"),
    categories={"smoker": ("no", "former", "yes")},
    outcome="days",
)
INSURER = Party(1, "insurer", "controller", "https://b:1", (), features=("income",), categories={"sex": ("f", "m")})
THIRD = Party(2, "third-party", "third-party", "https://c:1", ())
AGREEMENT = Agreement(
    Study("study", keep_shares=True, max_analyses=7),
    (HOSPITAL, INSURER, THIRD),
    Join(),
    Model(0.1, penalty_factors={"hospital.smoker": 0.0}),
    Open(table1=True),
    Gate(min_level_count=12),
)
TABLE = np.array([[50.0, -2, 0, 1, 3.5], [61, 7, 1, 0, 4], [70, 7, 0, 0, 9]])  # age, ward, two indicators, days


def joined(party: int) -> JoinResult:
    encoded = encode(TABLE, HOSPITAL)
    columns = HOSPITAL.width + INSURER.width
    gram = np.arange((columns + 1) ** 2, dtype=object).reshape(1, columns + 1, columns + 1)
    exponents = (*encoded.exponents, 5, 43)
    offsets = {0: encoded.offsets, 1: (3, 1 << 42)}.get(party)
    pairs = {0: tuple(two_valued(TABLE, HOSPITAL)), 1: (None, (0.0, 1.0))}.get(party)
    share = GramShare(3, FIELD_127, FIELD_127.from_ints(gram))
    return JoinResult(share, exponents if party < 2 else None, offsets, 3, {}, {}, pairs)


def test_all_columns_take_part_unless_some_are_named() -> None:
    problem = problem_of(AGREEMENT, 0, analysed(AGREEMENT, 0, joined(0)))
    assert problem.owners == (0, 0, 0, 0, 0, 1, 1) and problem.outcome == 4
    assert problem.names == (*AGREEMENT.names, "hospital.days")
    assert problem.factors == (1.0, 1.0, 0.0, 0.0, 1.0, 1.0)
    assert problem.categories == ((2, 3), (5,))
    assert (problem.opened, problem.gate, problem.analyses) == (AGREEMENT.open, AGREEMENT.gate, 7)


@pytest.mark.parametrize("party", [0, 1, 2])
def test_columns_that_take_no_part_are_left_out_of_everything(party: int) -> None:
    model = replace(AGREEMENT.model, features=("hospital.ward", "hospital.smoker=yes", "insurer.sex=m"))
    agreement = replace(AGREEMENT, model=model)
    before, after = joined(party), analysed(agreement, party, joined(party))
    kept = [0, 2, 4, 5, 7]  # the ones, ward, smoker=yes, days, sex=m
    assert np.array_equal(after.gram.gram, before.gram.gram[:, kept][:, :, kept])
    problem = problem_of(agreement, party, after)
    assert problem.owners == (0, 0, 0, 1) and problem.outcome == 2
    assert problem.categories == ((1,), (2,)) and problem.factors == (1.0, 0.0, 1.0)
    own = {0: 3, 1: 1, 2: 0}[party]
    assert len(problem.offsets) == len(problem.two_values) == own
    assert (problem.exponents is None) == (party == 2)


def test_two_values_are_those_of_the_encoded_column() -> None:
    problem = problem_of(AGREEMENT, 0, analysed(AGREEMENT, 0, joined(0)))
    encoded = encode(TABLE, HOSPITAL).values
    assert problem.two_values[0] is None and problem.two_values[4] is None
    assert problem.two_values[1] == (int(encoded[0, 1]), int(encoded[1, 1]))
    assert problem.two_values[2] == (int(encoded[0, 2]), int(encoded[1, 2]))


def test_without_kept_shares_there_is_one_analysis_to_hide() -> None:
    agreement = replace(AGREEMENT, study=Study("study"))
    assert problem_of(agreement, 2, analysed(agreement, 2, joined(2))).analyses == 1
