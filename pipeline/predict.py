"""Applies an opened model to a table: the same rows with a column `prediction`.

The table may have the model's columns under their full name (`hospital.age`) or,
where only one party has such a column, under the plain one (`age`). A row with a
missing value gets an empty prediction. CSV keeps its separator, decimal mark,
encoding and line ends; the name of the output says which of the two it becomes.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from pipeline.config import MISSING
from pipeline.errors import DataError
from pipeline.fitted_model import Contribution, FittedModel, Values, contributions, predict_block, read_model
from pipeline.preprocess import CellRules
from pipeline.tables import (
    Block,
    CsvBlock,
    CsvTable,
    Faults,
    ParquetBlock,
    ParquetTable,
    Table,
    cell_texts,
    is_parquet,
    open_table,
)

PREDICTION = "prediction"
OUTPUT_SUFFIXES = (".csv", ".parquet")


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
    known = model.known_names
    table = open_table(data_path, known, encoding, decimal)
    if PREDICTION in table.columns:
        faults.add(f"there is a column {PREDICTION} already; rename it")
    parts = contributions(model, table, rules, faults)
    if isinstance(table, ParquetTable) and not is_parquet(output_path):
        for name, kind in table.without_text():
            faults.add(f"type {kind}, which has no form in CSV (let the name of the output end in .parquet),", name)
    try:
        return _predict(model, table, parts, faults, output_path, decimal)
    except OSError as error:
        raise DataError(f"{output_path}: cannot be written ({error.strerror})") from None


def _predict(
    model: FittedModel,
    table: Table,
    parts: Sequence[Contribution],
    faults: Faults,
    output: Path,
    decimal: str,
) -> Prediction:
    rows = incomplete = 0
    with _whole_or_nothing(output) as temporary, _writer(table, temporary, decimal) as writer:
        for block in table.blocks(faults, range(len(table.columns))):
            predictions = predict_block(model, parts, block, faults)
            rows += len(predictions)
            incomplete += int(np.isnan(predictions).sum())
            if not faults:
                writer.write(block, predictions)
        faults.raise_if_any()
    return Prediction(output, rows, incomplete)
