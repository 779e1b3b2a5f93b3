"""The result of a run: `result.json`, and the model as a table for the eye."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipeline import __version__
from pipeline.config import Agreement
from pipeline.errors import ConfigError
from pipeline.mpc_runtime import OPENED

RESULT_FILE = "result.json"
COEFFICIENTS_FILE = "coefficients.csv"
PATH_FILE = "path.csv"


@dataclass(frozen=True)
class PathPoint:
    """The model of one penalty, as `OpenedModel` has the chosen one's."""

    alpha: float
    intercept: float
    coefficients: tuple[float, ...]
    r2: float


@dataclass(frozen=True)
class CrossValidation:
    """Parts that were not opened are empty, or None.

    alphas : the largest first.
    mean, sd : of the folds' mean squared errors, for each penalty: their mean, weighted by the sizes of the folds, and
        its standard error.
    alpha_1se : the largest penalty whose error is within one standard error of that of `alpha_min`.
    r2 : 1 − error/variance of the outcome, of the chosen penalty.
    """

    folds: int
    alphas: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()
    alpha_min: float | None = None
    alpha_1se: float | None = None
    r2: float | None = None


@dataclass(frozen=True)
class Inference:
    """Of one coefficient of least squares; `low` and `high` bound its 95 % confidence interval."""

    se: float
    t: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Moments:
    """Of one column over the matched records."""

    mean: float
    sd: float


@dataclass(frozen=True)
class OpenedModel:
    """What the controllers learn, on the original scale.

    coefficients : of the features that take part, in the order of `Agreement.names`.
    alpha : the chosen penalty; None where the agreement has but one.
    path : the models of all penalties, the largest first.
    inference : by name of the coefficient, and "intercept".
    table1 : by name of the coefficient, and "<party>.<outcome>".
    """

    intercept: float
    coefficients: tuple[float, ...]
    r2: float
    mse: float
    alpha: float | None = None
    path: tuple[PathPoint, ...] = ()
    cv: CrossValidation | None = None
    inference: Mapping[str, Inference] = field(default_factory=dict)
    table1: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnRows:
    """A controller's own counts: rows read, and records dropped for a missing value per column."""

    read: int
    dropped: Mapping[str, int]


def fit_measures(model: OpenedModel, records: int) -> dict[str, float | int | None]:
    """R², adjusted R² (None without residual degrees of freedom), MSE with divisor n, its root, non-zeros."""
    nonzero = sum(c != 0.0 for c in model.coefficients)
    residual_df = records - nonzero - 1
    adjusted = 1 - (1 - model.r2) * (records - 1) / residual_df if residual_df > 0 else None
    return {
        "r2": model.r2,
        "adjusted_r2": adjusted,
        "mse": model.mse,
        "rmse": math.sqrt(model.mse),
        "nonzero": nonzero,
    }


def result_document(
    agreement: Agreement,
    *,
    records: int,
    iterations: int,
    rounds: int,
    hiding_bits: float,
    sent_bytes: int,
    seconds: Mapping[str, float],
    model: OpenedModel | None,
    own_rows: OwnRows | None,
    opened: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of `result.json`; the third party has no `model` and no `own_rows`, and so no part that is opened.

    rounds : of communication in step 8, one after another.
    hiding_bits : of all numbers opened under masks in step 8 together, see `secure_analysis.Fit`.
    sent_bytes : by this party to both others in all steps.
    opened : names out of `mpc_runtime.OPENED`, in order.
    notes : sentences for the reader of the result.
    """
    names = model_names(agreement)
    document: dict[str, Any] = {
        "study": agreement.study.name,
        "agreement": agreement.digest,
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "records": records,
        "outcome": agreement.outcome_party.outcome,
        **_outcome_unit(agreement),
        "model": _settings(agreement, model),
    }
    if model is not None:
        document["intercept"] = model.intercept
        document["coefficients"] = dict(zip(names, model.coefficients, strict=True))
    document["features"] = [
        _feature(column)
        for party in agreement.controllers
        for column in party.columns
        if not set(names).isdisjoint(column.names)
    ]
    if model is not None:
        document["fit"] = fit_measures(model, records)
        document |= _opened_parts(model, names)
        document["open"] = asdict(agreement.open)
        document["gate"] = asdict(agreement.gate) | {"min_records": agreement.study.min_records}
        document["opened"] = [{"name": name, "to": OPENED[name]} for name in opened]
        document["notes"] = list(notes)
    document |= {"iterations": iterations, "converged": True}
    if own_rows is not None:
        document["own_rows"] = {"read": own_rows.read, "dropped": dict(own_rows.dropped)}
    document["versions"] = {"pipeline": __version__} | {
        name: metadata.version(name) for name in ("mpyc", "phe", "numpy")
    }
    document |= {"rounds": rounds, "hiding_bits": round(hiding_bits, 1), "sent_bytes": sent_bytes}
    document["seconds"] = {step: round(value, 3) for step, value in seconds.items()}
    return document


def model_names(agreement: Agreement) -> tuple[str, ...]:
    """The names of the coefficients that take part, in the order of `Agreement.names`."""
    wanted = agreement.model.features
    return tuple(name for name in agreement.names if not wanted or name in wanted or name.partition("=")[0] in wanted)


def _settings(agreement: Agreement, model: OpenedModel | None) -> dict[str, Any]:
    settings = agreement.model
    chosen = {"alpha": settings.alpha} if settings.problems == 1 else {}
    if model is not None and model.alpha is not None:
        chosen = {"alpha": model.alpha}
    choice = {
        "alphas": list(settings.alphas),
        "n_alphas": settings.n_alphas,
        "alpha_min_ratio": settings.alpha_min_ratio,
        "folds": settings.folds,
        "rule": settings.rule,
        "features": list(model_names(agreement)) if settings.features else [],
    }
    return {
        "kind": settings.kind,
        **chosen,
        **{key: value for key, value in choice.items() if value},
        "l1_ratio": settings.l1_ratio,
        "penalty_factors": dict(settings.penalty_factors),
        "positive": settings.positive,
        "standardize": settings.standardize,
        "fit_intercept": settings.fit_intercept,
        "tolerance": settings.tolerance,
    }


def _opened_parts(model: OpenedModel, names: Sequence[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if model.path:
        parts["path"] = [_path_point(point, names) for point in model.path]
    if model.cv is not None:
        parts["cv"] = {key: value for key, value in asdict(model.cv).items() if value is not None and value != ()}
    if model.inference:
        parts["inference"] = {name: asdict(of) for name, of in model.inference.items()}
    if model.table1:
        parts["table1"] = {name: asdict(of) for name, of in model.table1.items()}
    return parts


def _path_point(point: PathPoint, names: Sequence[str]) -> dict[str, Any]:
    return {
        "alpha": point.alpha,
        "intercept": point.intercept,
        "coefficients": dict(zip(names, point.coefficients, strict=True)),
        "nonzero": sum(c != 0.0 for c in point.coefficients),
        "r2": point.r2,
    }


def _outcome_unit(agreement: Agreement) -> dict[str, str]:
    party = agreement.outcome_party
    unit = party.units.get(party.outcome or "", "")
    return {"outcome_unit": unit} if unit else {}


def _feature(column: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"party": column.party, "column": column.column, "kind": column.kind}
    if column.kind == "category":
        entry["levels"] = list(column.levels)
    if column.unit:
        entry["unit"] = column.unit
    return entry


# --- files ----------------------------------------------------------------------------------------


def result_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def coefficients_csv(document: Mapping[str, Any]) -> str:
    """RFC 4180: term, coefficient and, where standard errors were opened, these and what follows from them."""
    inference = document.get("inference", {})
    parts = [part.name for part in fields(Inference)] if inference else []
    rows = [
        [term, value, *(inference.get(term, {}).get(part) for part in parts)]
        for term, value in _terms(document).items()
    ]
    return _csv(["term", "coefficient", *parts], rows)


def path_csv(document: Mapping[str, Any]) -> str:
    """RFC 4180: one line for each penalty and term."""
    rows = [[point["alpha"], term, value] for point in document["path"] for term, value in _terms(point).items()]
    return _csv(["alpha", "term", "coefficient"], rows)


def _terms(model: Mapping[str, Any]) -> dict[str, float]:
    return {"intercept": model["intercept"], **model["coefficients"]}


def _csv(header: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """Floats in the fewest digits that read back as the same number; None is empty."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def write_result(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `result.json` whole or not at all, readable by its owner alone. Raises ConfigError."""
    return write_files(folder, {RESULT_FILE: result_text(document)})[RESULT_FILE]


def write_files(folder: Path, texts: Mapping[str, str], stale: Sequence[str] = ()) -> dict[str, Path]:
    """Write all files or none, readable by their owner alone, and remove stale ones of an earlier result.

    The last of `texts` takes its place last: once it is there, so are the others.

    Raises ConfigError; then what was there before is there still.
    """
    try:
        return _write_files(folder, texts, stale)
    except OSError as error:
        raise ConfigError(
            f"the result cannot be written to {folder} ({error.strerror}); mend that, then start again at all parties"
        ) from error


def _write_files(folder: Path, texts: Mapping[str, str], stale: Sequence[str]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    targets = {name: folder / name for name in texts}
    temporaries: dict[str, Path] = {}
    earlier: dict[Path, bytes | None] = {}
    try:
        for name, text in texts.items():
            temporaries[name] = _temporary(folder, text.encode("utf-8"))
        for name, target in targets.items():
            earlier[target] = target.read_bytes() if target.exists() else None
            temporaries[name].replace(target)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    except BaseException:
        for target, content in earlier.items():
            with contextlib.suppress(OSError):
                _restore(target, content)
        raise
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    return targets


def _temporary(folder: Path, content: bytes) -> Path:
    """A file of mode 0600 whose content is on the disk."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".result-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _restore(target: Path, content: bytes | None) -> None:
    if content is None:
        target.unlink()
    else:
        _temporary(target.parent, content).replace(target)


# --- for the terminal -----------------------------------------------------------------------------


def model_table(document: Mapping[str, Any]) -> Table:
    """The opened model as a table: intercept and coefficients on the original scale, standard errors if opened."""
    inference = document.get("inference", {})
    table = Table(title=f"{document['study']}: {_model_words(document['model'])} for {document['outcome']}")
    table.add_column("term")
    for heading in ("coefficient", *(("standard error", "p") if inference else ())):
        table.add_column(heading, justify="right")
    for name, value in _terms(document).items():
        term = "(intercept)" if name == "intercept" else name
        of = inference.get(name)
        cells = [f"{of['se']:.4g}", f"{of['p']:.4f}" if of["p"] >= 0.0001 else "< 0.0001"] if of else []
        removed = value == 0.0 and name != "intercept"
        table.add_row(escape(term), f"{value:.6g}", *cells, style="dim" if removed else None)
    return table


def _model_words(settings: Mapping[str, Any]) -> str:
    several = len(settings.get("alphas", ())) or settings.get("n_alphas", 0)
    if settings["kind"] == "ols":
        return "ols"
    chosen = f" ({settings['rule']} out of {several})" if several else ""
    return f"{settings['kind']} with alpha {settings['alpha']:.6g}{chosen}"


def summary_lines(document: Mapping[str, Any]) -> Sequence[str]:
    """Fit and size of the study in words."""
    lines = [f"{document['records']} matched records, {document['iterations']} iterations"]
    if "fit" in document:
        fit = document["fit"]
        lines.append(f"R² {fit['r2']:.4f}, RMSE {fit['rmse']:.6g} (in-sample), {fit['nonzero']} coefficients not zero")
    return lines
