"""Applies an opened model to a table: the same rows with a column `prediction`.

The table may have the model's columns under their full name (`hospital.age`) or,
where only one party has such a column, under the plain one (`age`). A row with a
missing value gets an empty prediction. CSV keeps its separator, decimal mark,
encoding and line ends; the name of the output says which of the two it becomes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from pipeline.config import MISSING, Column
from pipeline.errors import ConfigError, DataError
from pipeline.preprocess import CellRules, LevelColumn, NumberColumn
from pipeline.tables import (
    Block,
    CsvBlock,
    CsvTable,
    Faults,
    ParquetBlock,
    ParquetTable,
    Table,
    Use,
    cell_texts,
    find_columns,
    is_parquet,
    normal,
    open_table,
)

PREDICTION = "prediction"
OUTPUT_SUFFIXES = (".csv", ".parquet")

Values = NDArray[np.float64]


# --- the model ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """A feature and its coefficients: one of a number, one for each level but the reference of a category."""

    column: Column
    coefficients: tuple[float, ...]

    @property
    def full_name(self) -> str:
        return f"{self.column.party}.{self.column.column}"


@dataclass(frozen=True)
class FittedModel:
    intercept: float
    terms: tuple[Term, ...]


def read_model(path: Path) -> FittedModel:
    """Read the model of a controller's `result.json`; raises ConfigError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the model cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not a result.json (no JSON)") from None
    if isinstance(document, dict) and "study" in document and "coefficients" not in document:
        raise ConfigError(f"{path}: holds no coefficients; the third party's result has none, take a controller's")
    try:
        return _model(document)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: not a result.json of this pipeline, or damaged") from None


def _model(document: Mapping[str, Any]) -> FittedModel:
    """Raises KeyError, TypeError or ValueError unless everything fits together."""
    columns = [_column(entry) for entry in document["features"]]
    coefficients = {str(name): _finite(value) for name, value in dict(document["coefficients"]).items()}
    if sorted(name for column in columns for name in column.names) != sorted(coefficients):
        raise ValueError("coefficients and features differ")
    terms = tuple(Term(column, tuple(coefficients[name] for name in column.names)) for column in columns)
    return FittedModel(_finite(document["intercept"]), terms)


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

Contribution = Callable[[Block, Faults], Values]


def _contributions(model: FittedModel, table: Table, rules: CellRules, faults: Faults) -> list[Contribution]:
    """For each term a function of a block: coefficient times value, NaN where it is missing."""
    named = _named(model, table, faults)
    uses: list[tuple[str, Use]] = [
        (name, "number" if term.column.kind == "numeric" else "level") for term, name in named
    ]
    at = find_columns(table, uses, faults)
    for name, count in Counter(name for _, name in named).items():
        if count > 1:
            faults.add("a column that fits two features of the model; use full names like party.column", name)
    if PREDICTION in table.columns:
        faults.add(f"there is a column {PREDICTION} already; rename it")
    return [_contribution(term, name, at[name], rules) for term, name in named if name in at]


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


# --- what is written ------------------------------------------------------------------------------


class _Writer(Protocol):
    def write(self, block: Block, predictions: Values) -> None: ...


class _CsvWriter:
    """Writes RFC 4180; quotes where the content needs it.

    The writer of the `csv` module leaves a CR without quotes when lines end in LF.
    """

    def __init__(self, file: TextIO, header: Sequence[str], separator: str, line_end: str, decimal: str) -> None:
        self._file = file
        self._separator = separator
        self._line_end = line_end
        self._decimal = decimal
        self._special = re.compile(f'["\r\n{separator}]')
        self._line([*header, PREDICTION])

    def write(self, block: Block, predictions: Values) -> None:
        texts = ("" if math.isnan(value) else repr(value) for value in predictions.tolist())
        for row, text in zip(_text_rows(block), texts, strict=True):
            self._line([*row, text.replace(".", self._decimal)])

    def _line(self, cells: Sequence[str]) -> None:
        self._file.write(self._separator.join([self._field(cell) for cell in cells]) + self._line_end)

    def _field(self, cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if self._special.search(cell) else cell


class _ParquetWriter:
    """Columns as they are; those of a CSV file as text."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer = writer
        self._schema = schema

    def write(self, block: Block, predictions: Values) -> None:
        import pyarrow as pa

        match block:
            case ParquetBlock(batch):
                columns = list(batch.columns)
            case CsvBlock(rows):
                columns = [pa.array(cells, pa.string()) for cells in zip(*rows, strict=True)]
        columns.append(pa.array(predictions, mask=np.isnan(predictions)))
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))


def _text_rows(block: Block) -> Iterator[Sequence[str]]:
    match block:
        case CsvBlock(rows):
            return iter(rows)
        case ParquetBlock(batch):
            return zip(*(cell_texts(column) for column in batch.columns), strict=True)


@contextlib.contextmanager
def _writer(table: Table, output: Path, decimal: str) -> Iterator[_Writer]:
    """Opens `output` for rows like those of `table`."""
    if is_parquet(output):
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = table.header if isinstance(table, CsvTable) else ()
        schema = table.schema if isinstance(table, ParquetTable) else pa.schema([(name, pa.string()) for name in names])
        schema = schema.append(pa.field(PREDICTION, pa.float64()))
        with pq.ParquetWriter(output, schema) as writer:
            yield _ParquetWriter(writer, schema)
    elif isinstance(table, CsvTable):
        with output.open("w", encoding=table.written_encoding, newline="") as file:
            yield _CsvWriter(file, table.header, table.separator, table.line_end, decimal)
    else:
        with output.open("w", encoding="utf-8", newline="") as file:
            yield _CsvWriter(file, table.names, ",", "\n", ".")


@contextlib.contextmanager
def _whole_or_nothing(output: Path) -> Iterator[Path]:
    """A file beside `output` (mode 0600) that takes its place when the body succeeds; else nothing is left."""
    absent = [folder for folder in output.parents if not folder.exists()]  # the innermost is the first
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.stem}-", suffix=output.suffix)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        temporary.replace(output)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        for folder in absent:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _refuse_output(output: Path, read: Iterable[Path], encoding: str) -> None:
    """Raise DataError unless `output` is a new file or earlier predictions, which are replaced."""
    if output.is_dir():
        raise DataError(f"{output}: is a folder; name a file")
    for path in read:
        if path.exists() and output.exists() and path.samefile(output):
            raise DataError(f"{output}: is read by this command, so it cannot be its output; choose another name")
    if output.suffix.lower() not in OUTPUT_SUFFIXES:
        raise DataError(f"{output}: the name of the output must end in {' or '.join(OUTPUT_SUFFIXES)}")
    if output.exists() and not _has_predictions(output, encoding):
        raise DataError(f"{output}: is there already and holds no column {PREDICTION}; choose another name")


def _has_predictions(path: Path, encoding: str) -> bool:
    try:
        return PREDICTION in open_table(path, [PREDICTION], encoding).columns
    except DataError:
        return False


# --- the command ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """What was written; `incomplete` rows have a missing value and so no prediction."""

    output: Path
    rows: int
    incomplete: int

    @property
    def sentence(self) -> str:
        without = "row has" if self.incomplete == 1 else "rows have"
        rest = f"; {self.incomplete} {without} a missing value and no prediction" if self.incomplete else ""
        made = self.rows - self.incomplete
        return f"{made} prediction{'' if made == 1 else 's'} written to {self.output}{rest}"


def predict(
    model_path: Path,
    data_path: Path,
    output_path: Path,
    *,
    decimal: str = ".",
    encoding: str = "utf-8",
    missing: Sequence[str] = MISSING,
) -> Prediction:
    """Write the table with its predictions.

    Raises ConfigError for the model and DataError, with every fault, for the
    table or the output; then an older output is left as it was.
    """
    model = read_model(model_path)
    _refuse_output(output_path, (model_path, data_path), encoding)
    rules = CellRules(decimal, tuple(missing))
    faults = Faults(data_path)
    known = [name for term in model.terms for name in (term.full_name, term.column.column)]
    table = open_table(data_path, known, encoding, decimal)
    contributions = _contributions(model, table, rules, faults)
    if isinstance(table, ParquetTable) and not is_parquet(output_path):
        for name, kind in table.without_text():
            faults.add(f"type {kind}, which has no form in CSV (let the name of the output end in .parquet),", name)
    try:
        return _predict(model, table, contributions, faults, output_path, decimal)
    except OSError as error:
        raise DataError(f"{output_path}: cannot be written ({error.strerror})") from None


def _predict(
    model: FittedModel,
    table: Table,
    contributions: Sequence[Contribution],
    faults: Faults,
    output: Path,
    decimal: str,
) -> Prediction:
    rows = incomplete = 0
    with _whole_or_nothing(output) as temporary, _writer(table, temporary, decimal) as writer:
        for block in table.blocks(faults, range(len(table.columns))):
            predictions = np.full(len(block.lines), model.intercept)
            with np.errstate(over="ignore", invalid="ignore"):
                for contribution in contributions:
                    predictions += contribution(block, faults)
            if (too_large := np.isinf(predictions)).any():
                faults.add("values whose prediction is too large", lines=block.lines[too_large])
            rows += len(predictions)
            incomplete += int(np.isnan(predictions).sum())
            if not faults:
                writer.write(block, predictions)
        faults.raise_if_any()
    return Prediction(output, rows, incomplete)
