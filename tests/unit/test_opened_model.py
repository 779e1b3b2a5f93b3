"""What a controller makes of the opened numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import Agreement, Join, Model, Party, Study
from pipeline.opened_model import notes, opened_model
from pipeline.secure_analysis import Analysis, CrossValidated, Fit

HOSPITAL = Party(
    0, "hospital", "controller", "https://h:1", (), identifier=("id",), features=("age", "bmi"), outcome="days"
)
INSURER = Party(1, "insurer", "controller", "https://i:1", (), identifier=("id",), features=("income",))
AGREEMENT = Agreement(Study("s"), (HOSPITAL, INSURER), Join(), Model(alpha=0.1))
ALPHAS = (8.0, 4.0, 2.0, 1.0)
NONE_BETTER = "no penalised feature helps to predict"


def analysis(mean: tuple[float, ...], place: int) -> Analysis:
    fit = Fit(15, (0.0,) * len(AGREEMENT.names), 1.0, 0.5, 0.5, 40.0)
    errors = CrossValidated(mean, (0.25,) * 4, None, accuracy=1e-9)
    return Analysis(15, 40.0, (fit,), 0, ALPHAS, ALPHAS[place], place, errors, None, None)


def choosing(rule: Any) -> Agreement:
    return replace(AGREEMENT, model=Model(0.0, alphas=ALPHAS, folds=5, rule=rule))


@pytest.mark.parametrize("rule", ["min", "1se"])
@pytest.mark.parametrize(
    ("mean", "least", "near"),
    [
        ((1.0 + 1e-10, 1.0 + 2e-10, 1.0, 1.0 + 3e-10), 0, 0),  # the noise with which errors are opened is no reason
        ((2.0, 1.2, 1.0, 1.0 - 1e-10), 2, 1),
        ((2.0, 1.25, 1.0, 1.1), 2, 1),
    ],
)
def test_the_penalties_of_both_rules_agree_with_the_chosen_one(
    rule: Any, mean: tuple[float, ...], least: int, near: int
) -> None:
    place = least if rule == "min" else near
    model = opened_model(choosing(rule), analysis(mean, place), 100)
    assert model is not None and model.cv is not None and model.alpha == ALPHAS[place]
    assert (model.cv.alpha_min, model.cv.alpha_1se) == (ALPHAS[least], ALPHAS[near])


def test_the_chosen_penalty_is_that_of_its_rule_though_noise_says_another() -> None:
    model = opened_model(choosing("min"), analysis((1.0 + 1e-6, 1.0, 1.5, 1.6), 0), 100)
    assert model is not None and model.cv is not None and model.cv.alpha_min == ALPHAS[0]


def test_a_note_says_that_the_best_penalty_may_lie_beyond_the_grid() -> None:
    errors = (1.0, 1.0, 1.0, 1.0)
    assert notes(choosing("min"), analysis(errors, 1)) == []
    assert "a smaller one may be better" in notes(choosing("min"), analysis(errors, 3))[0]
    assert "a larger one may be better" in notes(choosing("min"), analysis(errors, 0))[0]


def test_the_largest_penalty_of_a_sequence_that_follows_from_the_data_is_the_end() -> None:
    for rule, words in (("min", f"{NONE_BETTER}."), ("1se", f"{NONE_BETTER} by more than one standard error.")):
        agreement = choosing(rule)
        agreement = replace(agreement, model=replace(agreement.model, alphas=(), n_alphas=4))
        assert notes(agreement, analysis((1.0,) * 4, 0))[0].endswith(words)
