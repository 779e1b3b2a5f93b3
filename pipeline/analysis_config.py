"""`[model]`, `[open]` and `[gate]` of the agreement: what is fitted, what comes out, and under which rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import TypeVar, cast, get_args

from pipeline.agreement import FACTOR_RANGE_BITS, Column, Gate, Model, ModelKind, Open, OpenedPart, RareLevels, Rule
from pipeline.toml_reader import Table, nearest, or_default, repeated, shown

MAX_ITERATIONS = 1_000_000
MAX_PENALTIES = 1000
MAX_FOLDS = 100
MAX_COUNT = 1_000_000  # of records or degrees of freedom, in [gate]

MODEL_KEYS = tuple(field.name for field in fields(Model))
OPEN_KEYS = tuple(field.name for field in fields(Open))
GATE_KEYS = tuple(field.name for field in fields(Gate))
PENALTY_KEYS = ("alpha", "alphas", "n_alphas")

Number = TypeVar("Number", int, float)


def read_analysis(
    top: Table, columns: Sequence[Column] | None, min_records: int, several: bool = False
) -> tuple[Model, Open, Gate]:
    """Read the three tables; faults are noted at `top`.

    columns : of all controllers, in the order of the coefficients; None, if they could not be read, leaves names
        in the tables unchecked.
    several : whether [open] is for several models, so that it may list what this one has not.
    """
    model, opened, gate = (top.table(key, f"write [{key}] on a line of its own") for key in ("model", "open", "gate"))
    fitted = _model(model, columns, min_records)
    return fitted, _open(opened, model, fitted.kind, several), _gate(gate)


# --- [model] --------------------------------------------------------------------------------------


def _model(table: Table, columns: Sequence[Column] | None, min_records: int) -> Model:
    table.refuse_unknown(MODEL_KEYS)
    kind = cast(ModelKind, or_default(table.choice("kind", get_args(ModelKind), hint=True), Model.kind))
    alpha, alphas, n_alphas = _penalties(table, kind)
    folds, rule = _selection(table, kind, min_records)
    features = _features(table, columns)
    model = Model(
        kind=kind,
        alpha=alpha,
        alphas=alphas,
        n_alphas=n_alphas,
        alpha_min_ratio=_alpha_min_ratio(table),
        folds=folds,
        rule=rule,
        l1_ratio=_l1_ratio(table, kind),
        penalty_factors=_penalty_factors(table, columns, features),
        features=features,
        positive=or_default(table.truth("positive"), Model.positive),
        standardize=or_default(table.truth("standardize"), Model.standardize),
        fit_intercept=or_default(table.truth("fit_intercept"), Model.fit_intercept),
        tolerance=_tolerance(table),
        max_iterations=or_default(table.whole("max_iterations", 1, MAX_ITERATIONS), Model.max_iterations),
    )
    for key in ("penalty_factors", "positive") if kind == "ols" else ():
        if key in table.values:
            table.fault(key, 'is not for kind = "ols", which has no penalty')
    if kind in ("elastic-net", "ridge") and not (model.standardize and model.fit_intercept):
        table.fault("kind", f'"{kind}" needs standardize = true and fit_intercept = true')
    if not model.fit_intercept and kind in ("lasso", "ols"):
        for key in ("folds", "n_alphas"):
            if key in table.values:
                table.fault(key, "needs fit_intercept = true, for now")
    if "n_alphas" in table.values and kind != "ols":
        _check_sequence(table, model, columns)
    return model


def _penalties(table: Table, kind: ModelKind) -> tuple[float, tuple[float, ...], int]:
    """alpha, alphas and n_alphas; exactly one of them is given, none for least squares."""
    given = [key for key in PENALTY_KEYS if key in table.values]
    if kind == "ols":
        for key in given:
            table.fault(key, 'is not for kind = "ols", which has no penalty; leave it out')
        return 0.0, (), 0
    if not given:
        table.require("alpha", "give the penalty, a number of at least 0, or several (alphas or n_alphas)")
    if len(given) > 1:
        table.fault(given[0], f"is there beside {' and '.join(given[1:])}; give only one of {', '.join(PENALTY_KEYS)}")
    alpha = table.number("alpha")
    if alpha is not None and alpha < 0:
        table.fault("alpha", "must be at least 0")
    return or_default(alpha, 0.0), _alphas(table), or_default(table.whole("n_alphas", 2, MAX_PENALTIES), 0)


def _alphas(table: Table) -> tuple[float, ...]:
    """The largest first, in whatever order they are written."""
    written = table.values.get("alphas")
    alphas = or_default(table.numbers("alphas"), ())
    if isinstance(written, list) and not 2 <= len(written) <= MAX_PENALTIES:
        table.fault("alphas", f"must hold 2 to {MAX_PENALTIES} penalties; a single one is alpha")
    if any(alpha <= 0 for alpha in alphas):
        table.fault("alphas", "must hold penalties above 0 only")
    for alpha in repeated(alphas):
        table.fault("alphas", f"holds {alpha:g} more than once")
    return tuple(sorted(alphas, reverse=True))


def _alpha_min_ratio(table: Table) -> float | None:
    ratio = table.number("alpha_min_ratio")
    if ratio is not None and not 0 < ratio < 1:
        table.fault("alpha_min_ratio", "must be above 0 and below 1, for example 0.001")
    elif "alpha_min_ratio" in table.values and "n_alphas" not in table.values:
        table.fault("alpha_min_ratio", "is for n_alphas only")
    return ratio


def _check_sequence(table: Table, model: Model, columns: Sequence[Column] | None) -> None:
    """Check that there is a smallest penalty that removes everything penalised, from which n_alphas go down."""
    if model.l1_ratio == 0:
        table.fault("n_alphas", "is not for a ridge, whose penalty removes nothing at any size; list alphas")
    if model.kind == "lasso" and not model.standardize:
        table.fault("n_alphas", "needs standardize = true, for now; or list alphas")
    names = [] if columns is None else [name for column in columns for name in column.names]
    analysed = [name for name in names if not model.features or name in model.features]
    factors = [factor for factor in model.factors(analysed) if factor > 0]
    if analysed and not factors:
        table.fault("n_alphas", "needs a feature whose penalty factor is above 0")
    if factors and max(factors) > min(factors) * 2**FACTOR_RANGE_BITS:
        table.fault("n_alphas", "needs penalty factors above 0 that differ by less than a factor of 16 million")


def _selection(table: Table, kind: ModelKind, min_records: int) -> tuple[int, Rule | None]:
    """folds and rule: how one of several penalties is chosen."""
    folds = or_default(table.whole("folds", 2, MAX_FOLDS), 0)
    if folds > min_records:
        table.fault("folds", f"could be more folds than records: it is above min_records = {min_records}")
    rule = cast("Rule | None", table.choice("rule", get_args(Rule), hint=True))
    several = kind != "ols" and not table.values.keys().isdisjoint(("alphas", "n_alphas"))
    if several and "rule" not in table.values:
        if "folds" in table.values:
            return folds, "min"
        lasso = ', or "aic" or "bic", which need none' if kind == "lasso" else ""
        table.fault("rule", f'is missing; one of several penalties is chosen by "min" or "1se", with folds{lasso}')
    elif rule is not None:
        _check_rule(table, kind, rule, several)
    return folds, rule


def _check_rule(table: Table, kind: ModelKind, rule: Rule, several: bool) -> None:
    if not several:
        table.fault("rule", "is for several penalties (alphas or n_alphas)")
    elif rule in ("min", "1se"):
        if "folds" not in table.values:
            table.fault("rule", f'"{rule}" needs cross-validation; give folds, for example folds = 10')
    elif kind != "lasso":
        table.fault("rule", f'"{rule}" is for kind = "lasso" only; give folds and "min" or "1se"')
    elif "folds" in table.values:
        table.fault("folds", f'is not for rule = "{rule}", which needs no cross-validation')


def _l1_ratio(table: Table, kind: ModelKind) -> float:
    if kind != "elastic-net":
        if "l1_ratio" in table.values:
            table.fault("l1_ratio", 'is for kind = "elastic-net" only')
        return 0.0 if kind == "ridge" else 1.0
    table.require("l1_ratio", "give the lasso's part of the penalty, from 0 to 1, for example 0.5")
    ratio = table.number("l1_ratio")
    if ratio is not None and not 0 <= ratio <= 1:
        table.fault("l1_ratio", "must be from 0 (ridge) to 1 (lasso)")
    return or_default(ratio, 1.0)


def _tolerance(table: Table) -> float:
    tolerance = table.number("tolerance")
    if tolerance is not None and not 0 < tolerance <= 1:
        table.fault("tolerance", f"must be above 0 and at most 1, for example {Model.tolerance}")
    return or_default(tolerance, Model.tolerance)


def _features(table: Table, columns: Sequence[Column] | None) -> tuple[str, ...]:
    """Names of the coefficients that take part, in their order; empty for all, also if all are written."""
    written = table.names("features")
    if table.values.get("features") == []:
        table.fault("features", "must name at least one; leave it out if all are to take part")
    if written is None or columns is None:
        return or_default(written, ())
    known = _coefficients(columns)
    for name in written:
        if name not in known:
            table.fault("features", f"names {shown(name)}, which is {_unknown(name, known)}")
    chosen = {coefficient for name in written for coefficient in known.get(name, ())}
    names = [name for column in columns for name in column.names]
    return () if chosen == set(names) else tuple(name for name in names if name in chosen)


def _penalty_factors(table: Table, columns: Sequence[Column] | None, features: Collection[str]) -> dict[str, float]:
    factors = table.table("penalty_factors", 'write for example { "hospital.age" = 0 }')
    known = None if columns is None else _coefficients(columns)
    found = {}
    for name, key in sorted(factors.columns().items()):
        factor = factors.number(key)
        if factor is not None and factor < 0:
            factors.fault(key, "must be at least 0, which is no penalty")
        if known is not None and name not in known:
            factors.fault(key, f"is {_unknown(name, known)}")
        elif known is not None and features and not set(known[name]) & set(features):
            factors.fault(key, "is no feature that takes part; add it to features, or leave it out here")
        found[name] = or_default(factor, 1.0)
    return found


def _coefficients(columns: Sequence[Column]) -> dict[str, tuple[str, ...]]:
    """What a name in the model stands for: a column all its coefficients, a coefficient itself."""
    return {column.name: column.names for column in columns} | {
        name: (name,) for column in columns for name in column.names
    }


def _unknown(name: str, known: Mapping[str, object]) -> str:
    hint = f'; the nearest known one is "{nearest(name, known)}"' if known else ""
    return f"no coefficient or category of this study{hint}"


# --- [open] ---------------------------------------------------------------------------------------


def _open(table: Table, model: Table, kind: ModelKind, several: bool) -> Open:
    table.refuse_unknown(OPEN_KEYS)
    flags = {key: or_default(table.truth(key), False) for key in OPEN_KEYS if key != "model"}
    part = cast("OpenedPart | None", table.choice("model", get_args(OpenedPart), hint=True))
    opened = Open(or_default(part, Open.model), **flags)
    if several:
        return opened
    for key in ("cv_curve", "cv_r2"):
        if flags[key] and "folds" not in model.values:
            table.fault(key, "needs cross-validation; give folds in [model]")
    if opened.model == "path" and model.values.keys().isdisjoint(("alphas", "n_alphas")):
        table.fault("model", '"path" needs several penalties; give alphas or n_alphas in [model]')
    if opened.standard_errors and kind != "ols":
        table.fault("standard_errors", 'needs kind = "ols"; a penalised model has none')
    return opened


# --- [gate] ---------------------------------------------------------------------------------------


def _gate(table: Table) -> Gate:
    table.refuse_unknown(GATE_KEYS)
    rare_levels = cast("RareLevels | None", table.choice("rare_levels", get_args(RareLevels), hint=True))
    return Gate(
        min_residual_df=_limit(table, "min_residual_df", Gate.min_residual_df, _count(table, 0)),
        max_parameters_ratio=_limit(table, "max_parameters_ratio", Gate.max_parameters_ratio, _part(table)),
        min_level_count=_limit(table, "min_level_count", Gate.min_level_count, _count(table, 1)),
        rare_levels=or_default(rare_levels, Gate.rare_levels),
        max_r2=_limit(table, "max_r2", Gate.max_r2, _part(table)),
    )


def _limit(table: Table, key: str, default: Number | None, read: Callable[[str], Number | None]) -> Number | None:
    """The number of a rule, None for `false`."""
    written = table.values.get(key)
    if written is False:
        return None
    if written is True:
        table.fault(key, f"must be a number, for example {default}, or false for no such rule, not true")
        return default
    return or_default(read(key), default)


def _count(table: Table, low: int) -> Callable[[str], int | None]:
    return lambda key: table.whole(key, low, MAX_COUNT)


def _part(table: Table) -> Callable[[str], float | None]:
    def read(key: str) -> float | None:
        part = table.number(key)
        if part is not None and not 0 < part <= 1:
            table.fault(key, "must be above 0 and at most 1")
        return part

    return read
