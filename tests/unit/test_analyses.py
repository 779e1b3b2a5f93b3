"""How analyses of one join are counted, compared and refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from pipeline.agreement import Agreement, Gate, Join, Model, Open, Party, Study
from pipeline.analyses import (
    Statement,
    admitted,
    compared,
    count_in_words,
    is_past,
    opened_limit,
    opened_numbers,
    records_for,
)
from pipeline.errors import Refused, RemoteProtocolError

TODAY = date(2026, 11, 28)


MODEL, OPEN, GATE = Model(alpha=0.1), Open(), Gate()


def agreement(features=15, model=MODEL, opened=OPEN, gate=GATE, **study) -> Agreement:
    names = tuple(f"x{j}" for j in range(features - 5))
    return Agreement(
        Study("small", keep_shares=True, **study),
        (
            Party(0, "hospital", "controller", "https://h:1", (b"h",), ("id",), features=names, outcome="days"),
            Party(1, "insurer", "controller", "https://i:1", (b"i",), ("id",), features=tuple("abcde")),
            Party(2, "third-party", "third-party", "https://t:1", (b"t",)),
        ),
        Join(),
        model,
        opened,
        gate,
    )


def statement(of: Agreement, analyses=1, opened=18, join=b"j" * 32) -> Statement:
    return Statement(join, bytes.fromhex(of.join_digest), analyses, opened)


def rule(function, *arguments) -> str:
    with pytest.raises(Refused) as caught:
        function(*arguments)
    return caught.value.rule


# What an analysis opens


def test_one_model_opens_its_coefficients_the_intercept_r2_and_the_variance():
    assert opened_numbers(agreement(15)) == 15 + 1 + 2


def test_only_coefficients_that_take_part_count():
    assert opened_numbers(agreement(15, Model(alpha=0.1, features=("hospital.x0", "insurer.a")))) == 2 + 1 + 2


def test_what_is_opened_besides_counts():
    model = Model(alpha=0.1, folds=5)
    assert opened_numbers(agreement(15, model, Open(cv_curve=True, cv_r2=True))) == 18 + 2 + 1
    assert opened_numbers(agreement(15, Model(0.0, "ols"), Open(standard_errors=True))) == 18 + 16
    assert opened_numbers(agreement(15, opened=Open(table1=True))) == 18 + 2 * 16


def test_of_what_is_agreed_only_what_the_model_has_is_opened_and_counts():
    everything = Open("path", cv_curve=True, cv_r2=True, standard_errors=True)
    assert agreement(15, opened=everything).opened == Open()
    assert opened_numbers(agreement(15, opened=everything)) == 18
    assert agreement(15, Model(0.0, "ols", folds=5), everything).opened == replace(everything, model="chosen")
    several = Model(0.0, alphas=(0.2, 0.1), rule="aic")
    assert agreement(15, several, everything).opened == Open("path")


@pytest.mark.parametrize("ratio", [0.33, 0.1, 1.0, 7.5])
def test_so_many_records_are_just_enough_for_so_many_analyses(ratio):
    of = agreement(gate=Gate(max_parameters_ratio=ratio))
    records = records_for(of, 2)
    assert opened_limit(of, records) >= 2 * opened_numbers(of) > opened_limit(of, records - 1)
    assert records_for(agreement(gate=Gate(max_parameters_ratio=None)), 2) is None


def test_the_counts_are_told_before_an_analysis_is_admitted():
    of = agreement()
    assert count_in_words(of, 100, statement(of)) == (
        "Analyses of this join so far: 1 of 20, with at most 18 of 33 numbers; this one opens at most 18"
    )
    first = count_in_words(of, 50, statement(of, 0, 0))
    assert first.endswith(
        "at most 0 of 16 numbers; this one opens at most 18, after which the agreement allows no other"
    )
    free = agreement(gate=Gate(max_parameters_ratio=None))
    assert count_in_words(free, 50, statement(free)).endswith("at most 18 numbers; this one opens at most 18")


def test_a_path_counts_every_model_but_never_more_than_the_gram_matrix_has():
    few = agreement(15, Model(alpha=0, alphas=(0.3, 0.2, 0.1), folds=5, rule="min"), Open(model="path"))
    assert opened_numbers(few) == 3 * 17 + 1 + 1
    many = replace(few, model=Model(alpha=0, n_alphas=100, folds=5, rule="min"))
    assert opened_numbers(many) == 17 * 18 // 2 - 1 + 2
    assert opened_numbers(replace(many, open=Open())) == 18 + 2


def test_a_usual_study_has_room_for_usual_analyses():
    limit = opened_limit(agreement(30), 5000)
    assert limit is not None and limit // opened_numbers(agreement(30)) >= Study("x").max_analyses
    assert opened_limit(agreement(15), 100) == 33 >= opened_numbers(agreement(15))
    assert opened_limit(agreement(gate=Gate(max_parameters_ratio=None)), 100) is None


# What is allowed


def test_an_analysis_is_counted_with_what_it_may_open():
    of = agreement()
    assert admitted(of, 500, statement(of), TODAY) == statement(of, 2, 36)


def test_no_more_analyses_than_agreed():
    of = agreement(max_analyses=3)
    assert admitted(of, 5000, statement(of, 2), TODAY).analyses == 3
    assert rule(admitted, of, 5000, statement(of, 3), TODAY) == "analyses-used"


def test_no_more_numbers_than_the_ratio_allows_over_all_analyses():
    of = agreement()
    assert admitted(of, 110, statement(of, 1, 18), TODAY).opened == 36 == opened_limit(of, 110)
    assert rule(admitted, of, 109, statement(of, 1, 18), TODAY) == "opened-used"
    without = replace(of, gate=Gate(max_parameters_ratio=None))
    assert admitted(without, 109, statement(without, 1, 10**6), TODAY).analyses == 2


def test_the_first_analysis_is_left_to_the_rules_of_any_run_and_counted():
    of = agreement()
    first = admitted(of, 50, statement(of, 0, 0), TODAY)
    assert (first.analyses, first.opened) == (1, 18)
    assert rule(admitted, of, 50, first, TODAY) == "opened-used"


def test_shares_are_used_on_their_last_day_and_not_on_the_next():
    of = agreement(keep_until=TODAY)
    assert admitted(of, 500, statement(of), TODAY).analyses == 2
    assert not is_past(of, TODAY) and not is_past(agreement(), date.max)
    assert rule(admitted, of, 500, statement(of), date(2026, 11, 29)) == "expired"


# What the parties tell one another


def test_the_highest_count_of_all_holds():
    of = agreement()
    others = [statement(of, 4, 20), statement(of, 1, 90)]
    assert compared(of, statement(of, 2, 36), others) == statement(of, 4, 90)


def test_shares_of_different_joins_are_refused_at_each_party():
    of = agreement()
    statements = [statement(of), statement(of, join=b"k" * 32), statement(of)]
    for i, own in enumerate(statements):
        assert rule(compared, of, own, statements[:i] + statements[i + 1 :]) == "other-join"


def test_shares_of_a_join_under_other_terms_are_refused():
    of = agreement()
    mine = statement(replace(of, study=replace(of.study, max_analyses=21)))
    assert rule(compared, of, mine, [mine, mine]) == "other-join"
    assert compared(replace(of, model=Model(alpha=7)), statement(of), [statement(of)]) == statement(of)


def test_a_statement_survives_its_bytes_and_has_one_length():
    of = agreement()
    assert Statement.unpack(statement(of, 7, 1 << 40).pack()) == statement(of, 7, 1 << 40)
    assert len(statement(of).pack()) == Statement.SIZE == 80
    with pytest.raises(RemoteProtocolError):
        Statement.unpack(statement(of, 1 << 61).pack())
