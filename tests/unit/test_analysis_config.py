"""`[model]`, `[open]` and `[gate]` of the agreement: what is refused and how, and what the rest means."""

from __future__ import annotations

from dataclasses import fields
from datetime import date, datetime, time
from typing import Any

import pytest

from pipeline.agreement import Column, Gate, Model, Open
from pipeline.analysis_config import read_analysis
from pipeline.toml_reader import Table

COLUMNS = (
    Column("hospital", "age", "numeric"),
    Column("hospital", "sex", "category", ("f", "m")),
    Column("hospital", "smoker", "category", ("no", "former", "yes")),
    Column("insurer", "income", "numeric"),
)
SEVERAL = {"alpha": None, "alphas": [0.1, 0.2], "folds": 5}
OLS = {"alpha": None, "kind": "ols"}
ELASTIC = {"kind": "elastic-net", "l1_ratio": 0.5}


def read(
    model: dict[str, Any] | None = None,
    columns: tuple[Column, ...] | None = COLUMNS,
    several: bool = False,
    **tables: Any,
) -> tuple[Model, Open, Gate, list[str]]:
    """A lasso with alpha 0.1 unless `model` says otherwise; None takes a key away."""
    faults: list[str] = []
    values = {key: value for key, value in ({"alpha": 0.1} | (model or {})).items() if value is not None}
    top = Table({"model": values} | tables, "study.toml", "", faults)
    return (*read_analysis(top, columns, 50, several), faults)


def test_what_is_not_given_has_the_default_of_the_agreement() -> None:
    assert read() == (Model(0.1), Open(), Gate(), [])


# --- [model] --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        # how large the penalty is
        ({"alpha": None}, "alpha is missing; give the penalty, a number of at least 0, or several (alphas or n_alphas"),
        ({"alphas": [1, 2], "folds": 5}, "alpha is there beside alphas; give only one of alpha, alphas, n_alphas"),
        ({"n_alphas": 9, "folds": 5}, "alpha is there beside n_alphas; give only one"),
        (SEVERAL | {"n_alphas": 9}, "alphas is there beside n_alphas; give only one"),
        (SEVERAL | {"alphas": []}, "alphas must hold 2 to 1000 penalties; a single one is alpha"),
        (SEVERAL | {"alphas": [0.1]}, "alphas must hold 2 to 1000 penalties"),
        (SEVERAL | {"alphas": [0.5 + i for i in range(1001)]}, "alphas must hold 2 to 1000 penalties"),
        (SEVERAL | {"alphas": [0.1, 0]}, "alphas must hold penalties above 0 only"),
        (SEVERAL | {"alphas": [0.1, -1.0]}, "alphas must hold penalties above 0 only"),
        (SEVERAL | {"alphas": [1, 0.1, 1.0]}, "alphas holds 1 more than once"),
        (SEVERAL | {"alphas": [0.1, "x"]}, "alphas must hold finite numbers only, not text"),
        (SEVERAL | {"alphas": [0.1, float("nan")]}, "alphas must hold finite numbers only, not one that is infinite"),
        (SEVERAL | {"alphas": [0.1, True]}, "alphas must hold finite numbers only, not true or false"),
        (SEVERAL | {"alphas": 0.1}, "alphas must be a list of numbers, not a number with a decimal point"),
        ({"alpha": None, "n_alphas": 1, "folds": 5}, "n_alphas must be a whole number from 2 to 1000"),
        ({"alpha": None, "n_alphas": 1001, "folds": 5}, "n_alphas must be a whole number from 2 to 1000"),
        ({"alpha": None, "n_alphas": True, "folds": 5}, "n_alphas must be a whole number, not true or false"),
        ({"alpha": None, "n_alphas": 9, "folds": 5, "alpha_min_ratio": 1}, "alpha_min_ratio must be above 0 and below"),
        ({"alpha": None, "n_alphas": 9, "folds": 5, "alpha_min_ratio": 0}, "alpha_min_ratio must be above 0 and below"),
        ({"alpha_min_ratio": 0.1}, "alpha_min_ratio is for n_alphas only"),
        ({"alpha": None, "n_alphas": 9, "rule": "bic", "fit_intercept": False}, "n_alphas needs fit_intercept = true"),
        (SEVERAL | {"fit_intercept": False}, "folds needs fit_intercept = true"),
        (SEVERAL | {"alpha_min_ratio": 0.1}, "alpha_min_ratio is for n_alphas only"),
        # what has no smallest penalty that removes everything
        ({"alpha": None, "n_alphas": 9, "folds": 5, "kind": "ridge"}, "n_alphas is not for a ridge"),
        ({"alpha": None, "n_alphas": 9, "folds": 5} | ELASTIC | {"l1_ratio": 0}, "n_alphas is not for a ridge"),
        ({"alpha": None, "n_alphas": 9, "folds": 5, "standardize": False}, "n_alphas needs standardize = true"),
        (
            {"alpha": None, "n_alphas": 9, "folds": 5, "features": ["insurer.income"]}
            | {"penalty_factors": {"insurer.income": 0}},
            "n_alphas needs a feature whose penalty factor is above 0",
        ),
        (
            {"alpha": None, "n_alphas": 9, "folds": 5, "penalty_factors": {"hospital.age": 1e-8}},
            "n_alphas needs penalty factors above 0 that differ by less than a factor of 16 million",
        ),
        # several penalties of a kind that is for standardised features only
        (SEVERAL | {"kind": "ridge", "fit_intercept": False}, 'kind "ridge" needs standardize = true and fit_interc'),
        (SEVERAL | ELASTIC | {"standardize": False}, 'kind "elastic-net" needs standardize = true and fit_interc'),
        # least squares
        (OLS | {"alphas": [1, 2]}, 'alphas is not for kind = "ols", which has no penalty; leave it out'),
        (OLS | {"n_alphas": 9}, 'n_alphas is not for kind = "ols", which has no penalty; leave it out'),
        (OLS | {"rule": "min"}, "rule is for several penalties"),
        # folds and rule
        ({"folds": 1}, "folds must be a whole number from 2 to 100"),
        ({"folds": 101}, "folds must be a whole number from 2 to 100"),
        ({"folds": 51}, "folds could be more folds than records: it is above min_records = 50"),
        ({"folds": 5, "rule": "min"}, "rule is for several penalties"),
        ({"rule": "aic"}, "rule is for several penalties"),
        (
            SEVERAL | {"folds": None},
            'rule is missing; one of several penalties is chosen by "min" or "1se", with folds',
        ),
        (SEVERAL | {"folds": None, "rule": "min"}, 'rule "min" needs cross-validation; give folds, for example'),
        (SEVERAL | {"folds": None, "rule": "1se"}, 'rule "1se" needs cross-validation; give folds, for example'),
        (SEVERAL | {"rule": "bic"}, 'folds is not for rule = "bic", which needs no cross-validation'),
        (SEVERAL | {"folds": None, "rule": "aic"} | ELASTIC, 'rule "aic" is for kind = "lasso" only'),
        (
            SEVERAL | {"rule": "1es"},
            'rule must be "min" or "1se" or "aic" or "bic", not "1es"; the nearest one is "1se"',
        ),
        (SEVERAL | {"rule": True}, "rule must be text, not true or false"),
        # which features
        ({"features": []}, "features must name at least one; leave it out if all are to take part"),
        ({"features": "hospital.age"}, "features must be a list of texts, not text"),
        ({"features": ["hospital.age", "hospital.age"]}, 'features names "hospital.age" more than once'),
        (
            {"features": ["hospital.agee"]},
            'features names "hospital.agee", which is no coefficient or category of this study; the nearest known one '
            'is "hospital.age"',
        ),
        ({"features": ["hospital.sex=f"]}, 'features names "hospital.sex=f", which is no coefficient'),
        ({"features": ["age"]}, 'features names "age", which is no coefficient'),
        (
            {"features": ["hospital.age"], "penalty_factors": {"insurer.income": 2}},
            "penalty_factors.insurer.income is no feature that takes part; add it to features, or leave it out here",
        ),
        (
            {"features": ["hospital.smoker=yes"], "penalty_factors": {"hospital.smoker=former": 2}},
            'penalty_factors."hospital.smoker=former" is no feature that takes part',
        ),
        (
            {"features": ["hospital.age"], "penalty_factors": {"hospital.smoke": 2}},
            'penalty_factors.hospital.smoke is no coefficient or category of this study; the nearest known one is "hos',
        ),
        ({"feature": ["hospital.age"]}, '"feature" is an unknown key; the nearest known one is "features"'),
        ({"n_alpha": 9}, '"n_alpha" is an unknown key; the nearest known one is "n_alphas"'),
    ],
)
def test_one_wrong_thing_in_the_model_is_one_sentence(model: dict[str, Any], words: str) -> None:
    *_, faults = read(model)
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"study.toml: model.{words}")


def test_listed_penalties_are_kept_the_largest_first() -> None:
    model, *_, faults = read(SEVERAL | {"alphas": [0.5, 2, 1]})
    assert (model.alphas, model.alpha, model.n_alphas, model.problems, faults) == ((2.0, 1.0, 0.5), 0.0, 0, 3, [])


def test_penalties_may_follow_from_the_data() -> None:
    model, *_, faults = read({"alpha": None, "n_alphas": 100, "folds": 10, "rule": "1se", "alpha_min_ratio": 0.001})
    assert not faults
    assert (model.n_alphas, model.alphas, model.alpha, model.problems) == (100, (), 0.0, 100)
    assert (model.folds, model.rule, model.alpha_min_ratio) == (10, "1se", 0.001)


def test_with_folds_the_rule_is_min_unless_given() -> None:
    assert read(SEVERAL)[0].rule == "min"
    assert read(SEVERAL | {"rule": "1se"})[0].rule == "1se"


@pytest.mark.parametrize("rule", ["aic", "bic"])
def test_an_information_criterion_needs_no_folds(rule: str) -> None:
    model, *_, faults = read(SEVERAL | {"folds": None, "rule": rule})
    assert (model.rule, model.folds, faults) == (rule, 0, [])


@pytest.mark.parametrize("model", [{}, {"kind": "ridge"}, ELASTIC, OLS])
def test_a_single_fit_may_be_cross_validated_and_has_no_rule(model: dict[str, Any]) -> None:
    fitted, opened, _, faults = read(model | {"folds": 5}, open={"cv_r2": True, "cv_curve": True})
    assert (fitted.folds, fitted.rule, opened.cv_r2, faults) == (5, None, True, [])


@pytest.mark.parametrize("kind", [{"kind": "ridge"}, ELASTIC])
def test_ridge_and_elastic_net_may_have_listed_penalties(kind: dict[str, Any]) -> None:
    assert read(SEVERAL | kind)[3] == []


def test_the_bounds_themselves_are_allowed() -> None:
    assert read({"alpha": None, "n_alphas": 2, "folds": 2})[3] == []
    assert read({"alpha": None, "n_alphas": 1000, "folds": 50})[3] == []
    assert read({"alpha": 0})[3] == []


def test_a_column_in_features_means_all_its_coefficients_in_the_order_of_the_study() -> None:
    model, *_, faults = read({"features": ["insurer.income", "hospital.smoker"]})
    assert model.features == ("hospital.smoker=former", "hospital.smoker=yes", "insurer.income")
    assert not faults


def test_a_level_may_take_part_by_itself() -> None:
    assert read({"features": ["hospital.smoker=yes"]})[0].features == ("hospital.smoker=yes",)


def test_features_that_are_all_are_no_subset() -> None:
    everything = ["hospital.age", "hospital.sex", "hospital.smoker", "insurer.income"]
    assert read({"features": everything})[0].features == ()


def test_a_factor_for_a_category_needs_one_of_its_levels_only() -> None:
    assert read({"features": ["hospital.smoker=yes"], "penalty_factors": {"hospital.smoker": 2}})[3] == []


def test_names_are_not_checked_against_columns_that_could_not_be_read() -> None:
    assert read({"features": ["x"], "penalty_factors": {"y": 2}}, columns=None)[3] == []


# --- [open] ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opened", "model", "words"),
    [
        ({"cv_curve": True}, {}, "cv_curve needs cross-validation; give folds in [model]"),
        ({"cv_r2": True}, {}, "cv_r2 needs cross-validation; give folds in [model]"),
        ({"cv_r2": True}, SEVERAL | {"folds": None, "rule": "aic"}, "cv_r2 needs cross-validation; give folds"),
        ({"model": "path"}, {}, 'model "path" needs several penalties; give alphas or n_alphas in [model]'),
        ({"model": "paths"}, {}, 'model must be "chosen" or "path", not "paths"; the nearest one is "path"'),
        ({"standard_errors": True}, {}, 'standard_errors needs kind = "ols"; a penalised model has none'),
        ({"table1": 1}, {}, "table1 must be true or false, not a whole number"),
        ({"refused_column": "yes"}, {}, "refused_column must be true or false, not text"),
        ({"table_1": True}, {}, '"table_1" is an unknown key; the nearest known one is "table1"'),
    ],
)
def test_one_wrong_thing_in_what_is_opened_is_one_sentence(
    opened: dict[str, Any], model: dict[str, Any], words: str
) -> None:
    *_, faults = read(model, open=opened)
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"study.toml: open.{words}")


def test_everything_that_can_be_opened_can_be_asked_for() -> None:
    everything = {"cv_curve": True, "cv_r2": True, "table1": True, "refused_column": True}
    assert read(SEVERAL, open={"model": "path"} | everything)[1] == Open("path", **everything)
    assert read(OLS, open={"standard_errors": True})[1] == Open(standard_errors=True)
    assert {*everything, "model", "standard_errors"} == {field.name for field in fields(Open)}


def test_what_is_agreed_for_several_models_may_list_what_this_one_has_not() -> None:
    everything = {"model": "path", "cv_curve": True, "cv_r2": True, "standard_errors": True}
    assert read(several=True, open=everything)[1:] == (Open("path", True, True, True), Gate(), [])
    assert len(read(several=True, open={"cv_curves": True})[3]) == 1


# --- [gate] ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"min_residual_df": True}, "min_residual_df must be a number, for example 10, or false for no such rule, not"),
        ({"max_r2": True}, "max_r2 must be a number, for example 0.999, or false for no such rule, not true"),
        ({"min_residual_df": -1}, "min_residual_df must be a whole number from 0 to 1000000"),
        ({"min_residual_df": 1_000_001}, "min_residual_df must be a whole number from 0 to 1000000"),
        ({"min_residual_df": 1.5}, "min_residual_df must be a whole number, not a number with a decimal point"),
        ({"min_level_count": 0}, "min_level_count must be a whole number from 1 to 1000000"),
        ({"min_level_count": "10"}, "min_level_count must be a whole number, not text"),
        ({"max_parameters_ratio": 0}, "max_parameters_ratio must be above 0 and at most 1"),
        ({"max_parameters_ratio": 1.1}, "max_parameters_ratio must be above 0 and at most 1"),
        ({"max_r2": 1.001}, "max_r2 must be above 0 and at most 1"),
        ({"max_r2": float("nan")}, "max_r2 must be a finite number"),
        ({"rare_levels": "dorp"}, 'rare_levels must be "refuse" or "drop", not "dorp"; the nearest one is "drop"'),
        ({"rare_levels": False}, "rare_levels must be text, not true or false"),
        ({"min_levels": 10}, '"min_levels" is an unknown key; the nearest known one is "min_level_count"'),
    ],
)
def test_one_wrong_thing_in_the_rules_is_one_sentence(gate: dict[str, Any], words: str) -> None:
    *_, faults = read(gate=gate)
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"study.toml: gate.{words}")


def test_false_switches_a_rule_off() -> None:
    off = dict.fromkeys(("min_residual_df", "max_parameters_ratio", "min_level_count", "max_r2"), False)
    _, _, gate, faults = read(gate=off)
    assert (gate, faults) == (Gate(None, None, None, "refuse", None), [])


def test_rules_at_their_bounds_are_allowed() -> None:
    at_bounds = {"min_residual_df": 0, "max_parameters_ratio": 1, "min_level_count": 1, "max_r2": 1}
    assert read(gate=at_bounds | {"rare_levels": "drop"})[2:] == (Gate(0, 1.0, 1, "drop", 1.0), [])


def test_faults_of_all_three_tables_come_in_one_go() -> None:
    *_, faults = read({"alpha": -1, "folds": 1}, open={"model": "x"}, gate={"max_r2": 2}, extra={})
    assert len(faults) == 4


# --- what the reader hands out --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2031-12-31", "not text"),
        (datetime(2031, 12, 31), "not a date with a time"),
        (time(12), "not a date or time"),
        (2031, "not a whole number"),
    ],
)
def test_a_day_is_a_date_without_a_time(value: object, words: str) -> None:
    faults: list[str] = []
    assert Table({"until": value}, "study.toml", "", faults).day("until") is None
    assert faults == [f"study.toml: until must be a date such as 2031-12-31, without quotes, {words}"]
    assert Table({"until": date(2031, 12, 31)}, "study.toml", "", faults).day("until") == date(2031, 12, 31)
