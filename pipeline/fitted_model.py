"""An opened model, read from a controller's `result.json`, and what it says of a table.

The one place where a model is read and where levels become indicators: the
`predict` command uses it block by block, `FittedModel.predict` on what Python
has in memory.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.config import Column
from pipeline.errors import ConfigError
from pipeline.preprocess import CellRules, LevelColumn, NumberColumn
from pipeline.tables import Block, Faults, ParquetBlock, ParquetTable, Table, Use, find_columns, normal

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]
Contribution = Callable[[Block, Faults], Values]

SAME_ALPHA = 1e-9  # relative
NEAREST_ALPHAS = 3
ROUNDED_ALPHA = 5.1e-5  # relative: as the report shows it, with five digits
TOO_LARGE = "values whose prediction is too large"


@dataclass(frozen=True)
class Term:
    """A feature and its coefficients: one of a number, one for each level but the reference of a category.

    A level that takes no part in the model has coefficient 0.
    """

    column: Column
    coefficients: tuple[float, ...]

    @property
    def full_name(self) -> str:
        return f"{self.column.party}.{self.column.column}"


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A linear model with the attributes of a fitted scikit-learn estimator.

    names : of the coefficients that take part.
    """

    intercept: float
    terms: tuple[Term, ...]
    names: tuple[str, ...]
    alpha: float | None = None

    @cached_property
    def feature_names_in_(self) -> NDArray[np.object_]:
        return np.array(self.names, dtype=object)

    @cached_property
    def coef_(self) -> Values:
        of = {
            name: value for term in self.terms for name, value in zip(term.column.names, term.coefficients, strict=True)
        }
        return np.array([of[name] for name in self.names], dtype=np.float64)

    @property
    def intercept_(self) -> float:
        return self.intercept

    @property
    def alpha_(self) -> float | None:
        """The penalty of this model; None where the file does not say."""
        return self.alpha

    @property
    def n_features_in_(self) -> int:
        return len(self.names)

    @property
    def known_names(self) -> list[str]:
        """Names a table may give to the features' columns."""
        return [name for term in self.terms for name in (term.full_name, term.column.column)]

    def get_feature_names_out(self) -> NDArray[np.object_]:
        return self.feature_names_in_.copy()

    def predict(self, X: pd.DataFrame | ArrayLike) -> Values:
        """Shape (n,); NaN for a row with a missing value.

        X : a DataFrame with the columns of the tables, by full name or, where
            only one party has such a column, the plain one, categories as levels;
            or numbers of shape (n, n_features_in_), indicators for levels, or a
            DataFrame of these named like `feature_names_in_`.

        Raises ValueError for a table or an array that does not fit the model.
        """
        pandas = sys.modules.get("pandas")  # who has a DataFrame has imported it
        if pandas is None or not isinstance(X, pandas.DataFrame):
            return self._predict_array(X)
        full_names = {term.full_name for term in self.terms}
        if not full_names.issuperset(self.names) and set(self.names) <= set(X.columns):
            return self._predict_array(X[list(self.names)])  # indicators for levels
        return self._predict_frame(X)

    def score(self, X: pd.DataFrame | ArrayLike, y: ArrayLike) -> float:
        """R² of the predictions for X. Raises ValueError as `predict` does, and for missing values."""
        predictions, outcome = self.predict(X), np.asarray(y, dtype=np.float64)
        if outcome.shape != predictions.shape:
            raise ValueError(f"y has shape {outcome.shape}, but X has {len(predictions)} rows")
        if not np.isfinite(predictions + outcome).all():
            raise ValueError("X or y has missing values, so there is no R²; leave these rows out")
        residual = float(((outcome - predictions) ** 2).sum())
        total = float(((outcome - outcome.mean()) ** 2).sum()) if len(outcome) else 0.0
        return 1 - residual / total if total else float(residual == 0.0)

    def _predict_array(self, given: Any) -> Values:
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                "X holds something else than numbers; give levels of categories in a DataFrame with named columns"
            ) from None
        if values.ndim != 2 or values.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has shape {values.shape}, but the model needs {self.n_features_in_} columns,"
                " in the order of feature_names_in_"
            )
        predictions: Values = values @ self.coef_ + self.intercept
        return predictions

    def _predict_frame(self, frame: pd.DataFrame) -> Values:
        faults = Faults(Path("X"), place="row")
        table = _as_table(frame, self.known_names)
        parts = contributions(self, table, CellRules(), faults)
        predictions = [predict_block(self, parts, block, faults) for block in table.blocks(faults)]
        if faults:
            raise ValueError("; ".join(faults.sentences()))
        return np.concatenate(predictions)


# --- the file -------------------------------------------------------------------------------------


def load_model(path: str | Path, alpha: float | None = None) -> FittedModel:
    """The model of a controller's `result.json`: the chosen one, or that of `alpha` where the path was opened.

    Raises ConfigError when the file cannot serve, ValueError when it has no model of this penalty.
    """
    return read_model(Path(path), alpha)


def read_model(path: Path, alpha: float | None = None) -> FittedModel:
    """See `load_model`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the model cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not a result.json (no JSON)") from None
    if isinstance(document, dict) and "study" in document and "coefficients" not in document:
        raise ConfigError(f"{path}: holds no coefficients; the third party's result has none, take a controller's")
    try:
        models = _models(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: not a result.json of this pipeline, or damaged") from None
    if alpha is None:
        return models[0]
    by_alpha = {model.alpha: model for model in reversed(models) if model.alpha is not None}
    for tolerance in (SAME_ALPHA, ROUNDED_ALPHA):
        same = [value for value in by_alpha if math.isclose(value, alpha, rel_tol=tolerance)]
        if len(same) == 1:
            return by_alpha[same[0]]
    near = sorted(sorted(by_alpha, key=lambda value: abs(value - alpha))[:NEAREST_ALPHAS], reverse=True)
    there = ", ".join(f"{value:.10g}" for value in near) or "unknown"
    words = "the alphas it has" if len(by_alpha) <= NEAREST_ALPHAS else f"the nearest of its {len(by_alpha)} alphas"
    raise ValueError(f"{path}: has no model with alpha {alpha:.10g}; {words}: {there}")


def _models(document: Mapping[str, Any]) -> list[FittedModel]:
    """The chosen model, then those of the path.

    Raises AttributeError, KeyError, TypeError or ValueError unless everything fits together.
    """
    columns = [_column(entry) for entry in document["features"]]
    settings = document.get("model", {})
    chosen = {"alpha": settings.get("alpha"), **{key: document[key] for key in ("intercept", "coefficients")}}
    return [_model(columns, settings.get("features"), entry) for entry in (chosen, *document.get("path", ()))]


def _model(columns: Sequence[Column], taking_part: Sequence[str] | None, entry: Mapping[str, Any]) -> FittedModel:
    names = [name for column in columns for name in column.names]
    if taking_part:
        names = [name for name in names if name in taking_part]
    coefficients = {str(name): _finite(value) for name, value in dict(entry["coefficients"]).items()}
    if sorted(names) != sorted(coefficients):
        raise ValueError("coefficients and features differ")
    terms = tuple(Term(column, tuple(coefficients.get(name, 0.0) for name in column.names)) for column in columns)
    alpha = entry["alpha"]
    return FittedModel(_finite(entry["intercept"]), terms, tuple(names), None if alpha is None else _finite(alpha))


def _column(entry: Mapping[str, Any]) -> Column:
    party, column, kind = entry["party"], entry["column"], entry["kind"]
    levels = tuple(entry.get("levels", ()))
    if kind not in ("numeric", "category") or not all(isinstance(text, str) for text in (party, column, *levels)):
        raise ValueError("not a feature")
    if (kind == "category") != bool(levels):
        raise ValueError("levels are for categories")
    return Column(party, column, kind, levels)


def _finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a finite number")
    return float(value)


# --- the table ------------------------------------------------------------------------------------


def contributions(model: FittedModel, table: Table, rules: CellRules, faults: Faults) -> list[Contribution]:
    """For each term a function of a block: coefficient times value, NaN where it is missing."""
    named = _named(model, table, faults)
    uses: list[tuple[str, Use]] = [
        (name, "number" if term.column.kind == "numeric" else "level") for term, name in named
    ]
    at = find_columns(table, uses, faults)
    for name, count in Counter(name for _, name in named).items():
        if count > 1:
            faults.add("a column that fits two features of the model; use full names like party.column", name)
    return [_contribution(term, name, at[name], rules) for term, name in named if name in at]


def predict_block(model: FittedModel, parts: Sequence[Contribution], block: Block, faults: Faults) -> Values:
    """Shape (rows of the block,); NaN where a value is missing."""
    predictions = np.full(len(block.lines), model.intercept)
    with np.errstate(over="ignore", invalid="ignore"):
        for part in parts:
            predictions += part(block, faults)
    if (too_large := np.isinf(predictions)).any():
        faults.add(TOO_LARGE, lines=block.lines[too_large])
    return predictions


def _named(model: FittedModel, table: Table, faults: Faults) -> list[tuple[Term, str]]:
    """Each feature with the name under which the table should have, or has, it; not where that is ambiguous."""
    holders = Counter(normal(term.column.column) for term in model.terms)
    named, ambiguous = [], defaultdict[str, list[str]](list)
    for term in model.terms:
        plain = term.column.column
        unique = holders[normal(plain)] == 1
        full = normal(term.full_name) in table.columns
        if not full and not unique and normal(plain) in table.columns:
            ambiguous[plain].append(term.full_name)
        else:
            named.append((term, plain if unique and not full else term.full_name))
    for plain, names in ambiguous.items():
        faults.add(f"two parties have such a column, so its name must be {' or '.join(names)}", plain)
    return named


def _contribution(term: Term, name: str, position: int, rules: CellRules) -> Contribution:
    if term.column.kind == "numeric":
        number = NumberColumn(name, rules)
        return lambda block, faults: term.coefficients[0] * number.read(block, position, faults)
    levels = LevelColumn(name, term.column.levels, rules)
    by_code = np.array([0.0, *term.coefficients, np.nan])  # a missing level has code -1: the last
    return lambda block, faults: by_code[levels.read(block, position, faults)]


@dataclass(frozen=True)
class _Frame(ParquetTable):
    """Columns of a DataFrame, as if they had come from a Parquet file."""

    batch: Any = field(repr=False, compare=False)  # pyarrow.RecordBatch

    def blocks(self, faults: Faults, positions: Sequence[int] = ()) -> Iterator[ParquetBlock]:
        yield ParquetBlock(self.batch, np.arange(1, self.batch.num_rows + 1), self.names)


def _as_table(frame: pd.DataFrame, known: Sequence[str]) -> _Frame:
    """The columns with a known name. Raises ValueError for one with cells of several types."""
    import pyarrow as pa

    wanted = {normal(name) for name in known}
    named = [(i, name) for i, name in enumerate(frame.columns) if isinstance(name, str) and normal(name) in wanted]
    arrays = [_as_array(frame.iloc[:, place], name) for place, name in named]
    names = tuple(name for _, name in named)
    schema = pa.schema([pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)])
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return _Frame(Path("X"), tuple(normal(name) for name in names), names, schema, batch)


def _as_array(column: pd.Series[Any], name: str) -> Any:
    import pyarrow as pa

    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError):
        raise ValueError(f"X: column {name} holds values of several types, or no plain ones") from None
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
