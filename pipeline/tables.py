"""CSV and Parquet files as blocks of cells, each row with its place in the file.

This module knows files, not what cells mean: encoding, separator, quotes,
records, physical lines, Parquet types. The rules for identifiers, numbers and
levels are in `preprocess`.

CSV is RFC 4180 with three liberties: the separator is a comma, a semicolon or
a tab, whichever the header line shows; a line ends with CR LF, LF or CR; lines
without any character are ignored (a line of spaces is a record). A quote
inside an unquoted field, or text after a closing quote, is an error: taken
literally, ` "00123"` would be another identifier than `"00123"`.

The structure is found with numpy on the bytes (which quotes open, which line
ends are within quotes), the fields are then cut by the `csv` module. So line
numbers are exact, and a million rows take seconds without pyarrow, whose import
alone takes longer than reading 5000 rows.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.toml_reader import shown

Use = Literal["identifier", "number", "level"]
Lines = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SEPARATORS = (",", ";", "\t")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIX = ".parquet"
BLOCK_BYTES = 4 << 20  # bytes of CSV decoded at a time
HEADER_BYTES = 1 << 16  # bytes read at first to find the header
BATCH_ROWS = 1 << 16  # rows of Parquet at a time
LINES_NAMED = 5  # a fault names so many lines and counts the others

_LF, _CR, _QUOTE = b"\n"[0], b"\r"[0], b'"'[0]


class Faults:
    """Everything that is wrong with one file, one sentence for each kind and column."""

    def __init__(self, path: Path, place: str = "") -> None:
        self._file = str(path)
        self._place = place or ("row" if is_parquet(path) else "line")
        self._found: dict[tuple[str, str], list[int]] = {}

    def add(self, what: str, column: str = "", lines: Iterable[int] = ()) -> None:
        """`what` is a noun phrase that holds nothing from the cells of the file."""
        self._found.setdefault((what, column), []).extend(int(line) for line in lines)

    def __bool__(self) -> bool:
        return bool(self._found)

    def sentences(self) -> tuple[str, ...]:
        """By the first line, those about the whole file before all others."""
        ordered = sorted(((sorted(lines), *kind) for kind, lines in self._found.items()), key=lambda f: f[0][:1])
        return tuple(
            f"{self._file}: {what}" + (f" in column {column}" if column else "") + self._where(lines)
            for lines, what, column in ordered
        )

    def _where(self, lines: Sequence[int]) -> str:
        if not lines:
            return ""
        named = [f"{self._place} {line}" for line in lines[:LINES_NAMED]]
        if len(lines) > LINES_NAMED:
            named.append(f"{len(lines) - LINES_NAMED} more")
        return " at " + (", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0])

    def raise_if_any(self) -> None:
        """Raises DataError with all sentences."""
        if self:
            raise DataError(self.sentences())


@dataclass(frozen=True, eq=False)
class Texts:
    """A column of a block as text, untrimmed; where `null` is set the cell is absent (Parquet only)."""

    cells: list[str] = field(repr=False)
    null: Mask = field(repr=False)


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == PARQUET_SUFFIX


def normal(text: str) -> str:
    """NFC and trimmed: the form in which names, levels and identifiers are compared."""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()


def nearest(name: str, existing: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The most similar of the existing names, case aside; None if nothing is similar."""
    folded = {other.casefold(): other for other in existing if other}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def open_table(path: Path, wanted: Sequence[str], encoding: str = "utf-8", decimal: str = ".") -> Table:
    """Read the header of a table; `wanted` are the columns it should have.

    Raises DataError if there is no such file or no header can be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if not is_parquet(path) and path.suffix.lower() not in TEXT_SUFFIXES:
        raise DataError(f"{path}: not a .csv or .parquet file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror})") from None
    if is_parquet(path):
        return _open_parquet(path)
    return _open_csv(path, tuple(normal(name) for name in wanted), encoding, decimal)


def find_columns(table: Table, wanted: Sequence[tuple[str, Use]], faults: Faults) -> dict[str, int]:
    """Where the wanted columns are; one that is missing, occurs twice or has a wrong type is a fault.

    Names of the header are told only when it is one: the first line of a file
    without a header holds values.
    """
    places: dict[str, list[int]] = {}
    for position, name in enumerate(table.columns):
        places.setdefault(name, []).append(position)
    is_header = any(normal(name) in places for name, _ in wanted)
    _find_repeated(places, is_header, faults)
    found: dict[str, int] = {}
    for name, use in wanted:
        match places.get(normal(name), []):
            case []:
                close = nearest(normal(name), places, cutoff=0.5 if is_header else 0.75)
                faults.add(f"no column {shown(name)}" + (f"; the nearest name is {shown(close)}" if close else ""))
            case [position]:
                reason = table.refusal(position, use)
                if reason:
                    faults.add(reason, name)
                else:
                    found[name] = position
    if not is_header and wanted:
        faults.add("none of the columns in the header; the header line, its separator or the encoding may be wrong")
    return found


def _find_repeated(places: Mapping[str, Sequence[int]], is_header: bool, faults: Faults) -> None:
    for name, positions in places.items():
        # A column without a name cannot be used, so several of them do no harm.
        if name and len(positions) > 1:
            what = f"the column name {shown(name)}" if is_header else "a column name"
            numbers = ", ".join(str(position + 1) for position in positions)
            faults.add(f"{what} more than once in the header (columns {numbers})")


# --- CSV: from bytes to records -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Structure:
    """Where lines and records of a text end (positions after the line end), shape (lines,) and (records,)."""

    lines: Lines
    records: Lines
    misplaced: int  # position of the first quote that may not stand there, or -1
    unclosed: bool


@dataclass(frozen=True, eq=False)
class _Piece:
    """Whole records as UTF-8, each with its position and its physical line."""

    text: bytes = field(repr=False)
    starts: Lines
    lines: Lines


def _structure(text: bytes, separator: str, final: bool) -> _Structure:
    """Find lines and records of a text that begins with a record.

    Quotes open and close in turn (of a doubled quote the first closes and the
    second opens again), so a line end is within quotes when an odd number of
    quotes stands before it. An opening quote must stand at the start of a field or after
    a closing quote, a closing one at the end of a field or before a quote. Without
    `separator` (the header is not known yet) this is not checked.
    """
    octets = np.frombuffer(text, dtype=np.uint8)
    after = np.zeros_like(octets)
    after[:-1] = octets[1:]
    is_end = (octets == _LF) | ((octets == _CR) & (after != _LF))
    if not final and text.endswith(b"\r"):
        is_end[-1] = False  # its line feed may be still to come
    lines = np.flatnonzero(is_end) + 1
    quotes = np.flatnonzero(octets == _QUOTE)
    records = lines[np.searchsorted(quotes, lines - 1) % 2 == 0] if quotes.size else lines
    misplaced = _misplaced(octets, after, quotes, separator) if quotes.size and separator else -1
    return _Structure(lines, records, misplaced, quotes.size % 2 == 1)


def _misplaced(octets: NDArray[np.uint8], after: NDArray[np.uint8], quotes: Lines, separator: str) -> int:
    border = np.array([ord(separator), _LF, _CR, _QUOTE], dtype=np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    opening = opening[opening > 0]
    closing = closing[closing < octets.size - 1]
    wrong = np.append(opening[~np.isin(octets[opening - 1], border)], closing[~np.isin(after[closing], border)])
    return int(wrong.min()) if wrong.size else -1


def _line_ends(text: bytes) -> int:
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


def _decoder(path: Path, encoding: str) -> Callable[[bytes, bool], str]:
    """Raises DataError for an encoding Python does not know as one of text."""
    try:
        name = codecs.lookup(encoding).name
        decode = codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)("strict").decode
        "".encode(name)  # refuses rot13, base64 and the like
    except (LookupError, TypeError):
        raise DataError(f'{path}: no text encoding has the name "{encoding}"') from None
    with path.open("rb") as file:
        if file.read(3) == codecs.BOM_UTF8 and not name.startswith("utf-8"):
            raise DataError(f"{path}: the file says that it is UTF-8 (byte order mark) and `encoding` says {encoding}")
    return decode


def _decoded(path: Path, encoding: str, size: int, faults: Faults) -> Iterator[bytes]:
    """The file as UTF-8 in blocks; the last is empty, and is not there if the rest cannot be decoded."""
    decode = _decoder(path, encoding)
    ends, before = 0, b""
    with path.open("rb") as file:
        while True:
            data = file.read(size)
            fault = ""
            try:
                text = decode(data, not data)
            except UnicodeError as error:
                # The text before the culprit is good; nothing of the error itself may be shown.
                good = bytes(error.object[: error.start]) if isinstance(error, UnicodeDecodeError) else b""
                text = good.decode(encoding, "replace")
                fault = f"not {encoding} text (saved in another encoding? then set `encoding`)"
            if not ends and not before:
                text = text.removeprefix("\ufeff")  # utf-16-le and the like keep it
            if "\0" in text:
                text = text[: text.index("\0")]
                fault = f"a NUL character, as in a file that is not {encoding} text"
            raw = text.encode("utf-8", "replace")
            if raw:
                yield raw
            ends += _line_ends(raw) - (before == b"\r" and raw[:1] == b"\n")
            before = raw[-1:] or before
            if fault:
                faults.add(fault, lines=(1 + ends,))
                return
            if not data:
                yield b""
                return


def _pieces(path: Path, encoding: str, separator: str, size: int, faults: Faults) -> Iterator[_Piece]:
    """The records of the file, some at a time; ends with a fault where quotes leave no way to go on."""
    text, line, enough = bytearray(), 1, 1
    for raw in _decoded(path, encoding, size, faults):
        text += raw
        final = not raw
        if len(text) < enough and not final:
            continue
        found = _structure(bytes(text), separator, final)
        records = found.records if found.misplaced < 0 else found.records[found.records <= found.misplaced]
        broken = found.misplaced >= 0 or (final and found.unclosed)
        if final and not broken and len(text) > (records[-1] if records.size else 0):
            records = np.append(records, len(text))  # the last line has no line end
        cut = int(records[-1]) if records.size else 0
        if cut:
            starts = np.concatenate(([0], records[:-1]))
            yield _Piece(bytes(text[:cut]), starts, line + np.searchsorted(found.lines, starts, side="right"))
        line += int(np.searchsorted(found.lines, cut, side="right"))
        if broken:
            what = "a misplaced or unpaired quote" if found.misplaced >= 0 else "a quote that is never closed"
            faults.add(f"{what} in the record", lines=(line,))
            return
        del text[:cut]
        # A record longer than a block is looked at again only when twice as much of it is there.
        enough = 1 if cut else 2 * len(text)


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    lines = io.StringIO(text, newline="")
    if '"' not in text:
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE)
    return csv.reader(lines, delimiter=separator, strict=True)


# --- CSV: header and blocks -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CsvBlock:
    rows: list[list[str]] = field(repr=False)
    lines: Lines

    def texts(self, position: int) -> Texts:
        """The column at `position` of the header."""
        return Texts([row[position] for row in self.rows], np.zeros(len(self.rows), dtype=np.bool_))

    def numbers(self, position: int) -> Texts:
        return self.texts(position)


@dataclass(frozen=True)
class CsvTable:
    path: Path
    encoding: str
    separator: str
    columns: tuple[str, ...]  # trimmed, NFC
    header: tuple[str, ...]  # as it stands in the file
    line_end: str  # of the header

    @property
    def written_encoding(self) -> str:
        """The encoding for a file like this one, byte order mark included."""
        with self.path.open("rb") as file:
            return "utf-8-sig" if file.read(3) == codecs.BOM_UTF8 else self.encoding

    def refusal(self, position: int, use: Use) -> str:
        return ""

    def blocks(self, faults: Faults, positions: Sequence[int] = ()) -> Iterator[CsvBlock]:
        """All columns, whatever `positions` says; ends with a fault where the file cannot be read.

        A record with a wrong number of fields is a fault and left out.
        """
        header_seen = False
        for piece in _pieces(self.path, self.encoding, self.separator, BLOCK_BYTES, faults):
            rows, lines = self._cut(piece, faults)
            if not header_seen and rows:
                header_seen = True
                rows, lines = rows[1:], lines[1:]
            if any(len(row) != len(self.columns) for row in rows):
                rows, lines = self._without_misfits(rows, lines, faults)
            if rows:
                yield CsvBlock(rows, lines)

    def _cut(self, piece: _Piece, faults: Faults) -> tuple[list[list[str]], Lines]:
        rows: list[list[str]] = []
        lines = piece.lines
        try:
            rows.extend(_rows(piece.text.decode(), self.separator))
        except csv.Error:  # after `_structure` only one reason is left
            faults.add(f"a field of more than {csv.field_size_limit()} characters", lines=lines[len(rows) :][:1])
            lines = lines[: len(rows)]
        if not all(rows):
            lines = lines[np.fromiter(map(bool, rows), np.bool_, len(rows))]
            rows = [row for row in rows if row]
        return rows, lines

    def _without_misfits(self, rows: list[list[str]], lines: Lines, faults: Faults) -> tuple[list[list[str]], Lines]:
        fits = np.fromiter((len(row) == len(self.columns) for row in rows), np.bool_, len(rows))
        what = f"a wrong number of fields (the header has {len(self.columns)})"
        faults.add(what, lines=lines[~fits])
        return [row for row in rows if len(row) == len(self.columns)], lines[fits]


def _open_csv(path: Path, wanted: Sequence[str], encoding: str, decimal: str) -> CsvTable:
    faults = Faults(path)
    text = _header_text(path, encoding, faults)
    if not text:
        if not faults:
            faults.add("no header line: the file is empty")
        faults.raise_if_any()
    splits = {separator: _split_header(text, separator) for separator in SEPARATORS}
    readable = {separator: names for separator, names in splits.items() if names}
    if not readable:
        raise DataError(f"{path}: a misplaced or unpaired quote in the header line")

    def rank(separator: str) -> tuple[int, int]:
        names = [normal(name) for name in readable[separator]]
        return sum(name in names for name in wanted), len(names)

    # The separator under which most wanted columns appear, then the one that occurs most often. A single
    # column has none; then a decimal comma must not divide its cells.
    order = sorted(readable, key=lambda separator: separator == decimal)
    separator = max(order, key=rank)
    header = readable[separator]
    line_end = "\r\n" if text.endswith("\r\n") else "\n"
    return CsvTable(path, encoding, separator, tuple(normal(name) for name in header), tuple(header), line_end)


def _header_text(path: Path, encoding: str, faults: Faults) -> str:
    """The first record that is not blank, with its line end; empty if there is none."""
    for piece in _pieces(path, encoding, "", HEADER_BYTES, faults):
        for start, end in zip(piece.starts, [*piece.starts[1:], len(piece.text)], strict=True):
            record = piece.text[start:end]
            if record.strip(b"\r\n"):
                return record.decode()
    return ""


def _split_header(text: str, separator: str) -> list[str] | None:
    if _structure(text.encode(), separator, final=True).misplaced >= 0:
        return None
    try:
        return next(_rows(text, separator), None)
    except csv.Error:
        return None


# --- Parquet --------------------------------------------------------------------------------------
# pyarrow is imported where a Parquet file is read: it takes 60 ms and 30 MB, and CSV does without.


@dataclass(frozen=True, eq=False)
class ParquetBlock:
    batch: Any = field(repr=False)  # pyarrow.RecordBatch
    lines: Lines  # row numbers, from 1
    columns: tuple[str, ...]

    def texts(self, position: int) -> Texts:
        array = self._array(position)
        return Texts(cell_texts(array), np.asarray(array.is_null(nan_is_null=True), dtype=np.bool_))

    def numbers(self, position: int) -> Texts | Floats:
        """As numbers, NaN where absent, if the file stores numbers; else as text."""
        array = self._array(position)
        return self.texts(position) if _is_text(array.type) else _floats(array)

    def _array(self, position: int) -> Any:
        import pyarrow.types as types

        array = self.batch.column(self.batch.schema.get_field_index(self.columns[position]))
        return array.dictionary_decode() if types.is_dictionary(array.type) else array


@dataclass(frozen=True)
class ParquetTable:
    path: Path
    columns: tuple[str, ...]  # trimmed, NFC
    names: tuple[str, ...]  # as they stand in the file
    schema: Any = field(repr=False, compare=False)  # pyarrow.Schema

    def refusal(self, position: int, use: Use) -> str:
        """Why the column's type cannot serve this use; empty if it can."""
        kind = self.schema.field(position).type
        if _serves(kind, use):
            return ""
        wanted = {"identifier": "text, integers or dates", "number": "numbers", "level": "levels"}[use]
        return f"type {kind} instead of {wanted}"

    def without_text(self) -> list[tuple[str, Any]]:
        """Name and type of the columns that have no form as text in CSV."""
        import pyarrow.types as types

        return [
            (normal(column.name), column.type)
            for column in self.schema
            if types.is_nested(column.type) or not (_serves(column.type, "level") or types.is_temporal(column.type))
        ]

    def blocks(self, faults: Faults, positions: Sequence[int]) -> Iterator[ParquetBlock]:
        """The columns at `positions`; ends with a fault where the file cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        first = 1
        try:
            with pq.ParquetFile(self.path) as file:
                wanted = list(dict.fromkeys(self.names[position] for position in positions))
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
                    batch.validate(full=True)  # text in Parquet may be no UTF-8
                    lines = np.arange(first, first + batch.num_rows, dtype=np.int64)
                    first += batch.num_rows
                    yield ParquetBlock(batch, lines, self.names)
        except (pa.ArrowException, OSError):
            faults.add("damaged content or text that is not UTF-8 somewhere from there on", lines=(first,))


def _open_parquet(path: Path) -> ParquetTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError):
        raise DataError(f"{path}: not a Parquet file that can be read") from None
    return ParquetTable(path, tuple(normal(name) for name in schema.names), tuple(schema.names), schema)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _serves(kind: Any, use: Use) -> bool:
    """Whether a Parquet type can be read for a use; a column of nulls only can, as missing."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind) or types.is_integer(kind) or types.is_null(kind):
        return True
    if types.is_decimal(kind):
        return use != "identifier" or kind.scale <= 0
    if types.is_date(kind):
        return use != "number"
    return use != "identifier" and bool(types.is_boolean(kind) or types.is_floating(kind))


def _floats(array: Any) -> Floats:
    import pyarrow as pa

    if pa.types.is_decimal(array.type):
        # pyarrow's own conversion is off by a unit in the last place: 0.1 becomes 0.09999999999999999.
        return np.array([np.nan if v is None else float(v) for v in array.to_pylist()], dtype=np.float64)
    floats: Floats = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return floats


def cell_texts(array: Any) -> list[str]:
    """A pyarrow array as text.

    Integers and whole floats as plain decimals, dates as YYYY-MM-DD, booleans
    as 0/1, null and NaN as empty.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_decimal(kind):
        return ["" if v is None else format(v, "f") for v in array.to_pylist()]
    elif pa.types.is_floating(kind):
        return [_float_text(value) for value in array.to_pylist()]
    return [v or "" for v in array.cast(pa.large_string()).to_pylist()]


def _float_text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.0f}" if value.is_integer() else repr(value)


# What the two kinds of file have in common: a block has `lines` (the place of each record in the file),
# `texts(position)` and `numbers(position)`; a table has `path`, `columns`, `refusal` and `blocks`.
Block: TypeAlias = CsvBlock | ParquetBlock
Table: TypeAlias = CsvTable | ParquetTable
