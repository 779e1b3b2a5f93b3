"""Step 1: a controller's table becomes clean identifiers and numeric columns.

The rules for identifiers, numbers, levels and missing values are the data rules
of the interface, applied to the letter. All faults of a table are found in one
pass and told by file, column and line, never by value.

Numbers are read by `float` where a check of the characters shows that it accepts
exactly our grammar, otherwise cell by cell with the grammar itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.config import MISSING, Column, Local, Party
from pipeline.errors import DataError
from pipeline.messages import MAX_ROWS
from pipeline.tables import Block, Faults, Table, Texts, Use, find_columns, normal, open_table

Values = NDArray[np.float64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]
Kept = NDArray[np.int64]  # numbers of rows, in random order
Permutation = Callable[[int], NDArray[np.int64]]
Number = TypeVar("Number", np.float64, np.int32)

ABSENT = -1  # code of a missing level
NEARLY = 0.99  # share of one value from which a column counts as nearly constant
NOISE = 2.0**-40  # so is one whose spread is a smaller part of its values
LEVELS_NAMED = 8  # a fault names so many of the agreed levels

NOT_A_NUMBER = "not a number"
DECIMAL_COMMA = 'not a number (with a decimal comma? then set `decimal = ","`)'
TOO_LARGE = "a number too large to encode"
INFINITE = "an infinite number"
WRONG_PATTERN = "an identifier that does not fit the agreed pattern"

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


# --- cells ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CellRules:
    """What of a party's local file bears on values; `missing` is compared trimmed and in any case."""

    decimal: str = "."
    missing: tuple[str, ...] = MISSING

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(_fold(token) for token in self.missing)

    @cached_property
    def numbers(self) -> list[float]:
        """Codes for missing that look like a value, such as -9."""
        values = (_number(token, self.decimal) for token in self._folded)
        return [value for value in values if math.isfinite(value)]

    @cached_property
    def usual(self) -> frozenset[str]:
        """How missing is written as a rule; other spellings differ in case and spaces."""
        return frozenset(form for token in self.missing for form in (token, token.lower(), token.upper()))

    def is_missing(self, cell: str) -> bool:
        return _fold(cell) in self._folded


def _fold(cell: str) -> str:
    return normal(cell).casefold()


def _number(cell: str, decimal: str) -> float:
    """The value of a trimmed cell; NaN if it is not a number, infinite if it is too large."""
    if decimal != ".":
        if "." in cell:
            return math.nan
        cell = cell.replace(decimal, ".")
    return float(cell) if _NUMBER.fullmatch(cell) else math.nan


def _plain_numbers(cells: Sequence[str], decimal: str) -> Values | None:
    """All cells at once, or None where some cell needs a closer look.

    With no characters but digits, signs, spaces, `e`, and decimal marks before
    a digit, `float` accepts nothing but the grammar with spaces around it.
    """
    joined = " ".join(cells)
    if not joined.isascii():
        return None
    text = joined.encode("ascii")
    if text.translate(None, b"0123456789+-eE " + decimal.encode("ascii")):
        return None
    octets = np.frombuffer(text + b" ", dtype=np.uint8)
    behind = octets[np.flatnonzero(octets == ord(decimal)) + 1]
    if not ((behind >= ord("0")) & (behind <= ord("9"))).all():
        return None
    plain = cells if decimal == "." else [cell.replace(decimal, ".") for cell in cells]
    try:
        values = np.fromiter(map(float, plain), np.float64, len(plain))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _all_numbers(cells: Sequence[str], rules: CellRules) -> Values | None:
    """`_plain_numbers`, and None as well where one of them is a code for missing."""
    values = _plain_numbers(cells, rules.decimal)
    return None if values is None or np.isin(values, rules.numbers).any() else values


def read_numbers(cells: Sequence[str], rules: CellRules) -> tuple[Values, Mask, Mapping[str, list[int]]]:
    """Values (NaN unless a finite number), which are missing, and the faulty cells by kind of fault."""
    plain = _all_numbers(cells, rules)
    if plain is not None:
        return plain, np.zeros(len(cells), dtype=np.bool_), {}
    missing = np.fromiter((cell in rules.usual for cell in cells), np.bool_, len(cells))
    plain = _all_numbers([cell for cell in cells if cell not in rules.usual], rules)
    if plain is None:
        return _one_by_one(cells, rules)
    values = np.full(len(cells), np.nan)
    values[~missing] = plain
    return values, missing, {}


def _one_by_one(cells: Sequence[str], rules: CellRules) -> tuple[Values, Mask, Mapping[str, list[int]]]:
    missing = np.fromiter(map(rules.is_missing, cells), np.bool_, len(cells))
    values = np.full(len(cells), np.nan)
    faults: dict[str, list[int]] = {}
    for position in np.flatnonzero(~missing).tolist():
        cell = cells[position].strip()
        value = _number(cell, rules.decimal)
        if math.isfinite(value):
            values[position] = value
        else:
            faults.setdefault(_number_fault(cell, value, rules.decimal), []).append(position)
    return values, missing, faults


def _number_fault(cell: str, value: float, decimal: str) -> str:
    if math.isinf(value):
        return TOO_LARGE
    if decimal == "." and math.isfinite(_number(cell, ",")):
        return DECIMAL_COMMA
    return NOT_A_NUMBER


class _LevelCodes(dict[str, int]):
    """Level as it is spelled in a cell -> code; a spelling is looked into once, faults each time."""

    UNKNOWN = -2

    def __init__(self, levels: Sequence[str], rules: CellRules) -> None:
        super().__init__()
        self._codes = {normal(level): code for code, level in enumerate(levels)}
        self._rules = rules

    def __missing__(self, cell: str) -> int:
        code = ABSENT if self._rules.is_missing(cell) else self._codes.get(normal(cell), self.UNKNOWN)
        if code != self.UNKNOWN:
            self[cell] = code
        return code


# --- columns --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumberColumn:
    name: str
    rules: CellRules
    bounds: tuple[float, float] | None = None

    def read(self, block: Block, position: int, faults: Faults) -> Values:
        """The column's values in a block, NaN where missing or faulty."""
        values, found = self._values(block.numbers(position))
        for what, rows in found.items():
            faults.add(what, self.name, block.lines[rows])
        if self.bounds is not None:
            low, high = self.bounds
            outside = (values < low) | (values > high)
            if outside.any():
                what = f"a number outside the agreed range [{low:g}, {high:g}]"
                faults.add(what, self.name, block.lines[outside])
        return values

    def _values(self, cells: Texts | Values) -> tuple[Values, Mapping[str, list[int]]]:
        if not isinstance(cells, Texts):
            # A code for missing such as -9 is a number in Parquet.
            values = np.where(np.isin(cells, self.rules.numbers), np.nan, cells)
            infinite = np.flatnonzero(np.isinf(values)).tolist()
            values[infinite] = np.nan
            return values, {INFINITE: infinite} if infinite else {}
        if not cells.null.any():
            values, _, found = read_numbers(cells.cells, self.rules)
            return values, found
        present = np.flatnonzero(~cells.null)
        values = np.full(len(cells.cells), np.nan)
        values[present], _, inner = read_numbers([cells.cells[row] for row in present], self.rules)
        return values, {what: present[rows].tolist() for what, rows in inner.items()}


@dataclass(frozen=True)
class LevelColumn:
    name: str
    levels: tuple[str, ...]
    rules: CellRules

    @cached_property
    def _codes(self) -> _LevelCodes:
        return _LevelCodes(self.levels, self.rules)

    def read(self, block: Block, position: int, faults: Faults) -> Codes:
        """Index of each level, ABSENT where missing or faulty."""
        cells = block.texts(position)
        codes = np.fromiter(map(self._codes.__getitem__, cells.cells), np.int32, len(cells.cells))
        codes[cells.null] = ABSENT
        unknown = codes == _LevelCodes.UNKNOWN
        if unknown.any():
            named = ", ".join(self.levels[:LEVELS_NAMED]) + (", ..." if len(self.levels) > LEVELS_NAMED else "")
            faults.add(f"a level that is not agreed (agreed: {named})", self.name, block.lines[unknown])
            codes[unknown] = ABSENT
        return codes


@dataclass(frozen=True)
class IdentifierColumn:
    name: str
    pattern: str = ""  # empty: any text

    def read(self, block: Block, position: int, faults: Faults) -> list[str]:
        """Trimmed, NFC; only the empty one is missing ("Null" and "NA" are surnames)."""
        identifiers = [normal(cell) for cell in block.texts(position).cells]
        if self.pattern:
            fits = re.compile(self.pattern).fullmatch
            wrong = [row for row, identifier in enumerate(identifiers) if identifier and not fits(identifier)]
            if wrong:
                faults.add(WRONG_PATTERN, self.name, block.lines[wrong])
        return identifiers


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IdentifierSummary:
    """What the identifiers of a column look like, over all rows that have one."""

    column: str
    shortest: int  # characters
    longest: int
    digits_only: bool  # ASCII digits
    leading_zeros: int  # how many begin with 0


@dataclass(frozen=True)
class ColumnSummary:
    """`levels` has the number of complete rows of each agreed level of a category."""

    column: str
    kind: str  # "numeric" or "category"
    missing: int
    levels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableSummary:
    """A party's own table in figures, for its own eyes; it holds no value of a person.

    `dropped` counts incomplete rows under each column in which a value is
    missing, so a row may count twice. `constant` and `nearly_constant` name
    columns and indicators ("smoker=former") over the complete rows.
    """

    file: Path
    read: int
    complete: int
    dropped: Mapping[str, int]
    identifiers: tuple[IdentifierSummary, ...]
    columns: tuple[ColumnSummary, ...]
    outcome: str | None
    constant: tuple[str, ...]
    nearly_constant: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """The complete rows in random order.

    `values` has shape (n, width), float64: numeric features, then the indicators
    of each category without its reference level, then the outcome if this party
    has it; the order of `Party.names`.
    """

    identifiers: list[tuple[str, ...]] = field(repr=False)
    values: Values = field(repr=False)
    read: int
    dropped: Mapping[str, int]
    summary: TableSummary


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of the file, before any is dropped."""

    identifiers: Mapping[str, list[str]] = field(repr=False)
    numbers: Mapping[str, Values] = field(repr=False)
    codes: Mapping[str, Codes] = field(repr=False)
    read: int

    def missing(self) -> dict[str, Mask]:
        found = {name: np.array([not text for text in texts], np.bool_) for name, texts in self.identifiers.items()}
        found |= {name: np.isnan(values) for name, values in self.numbers.items()}
        return found | {name: codes == ABSENT for name, codes in self.codes.items()}


def prepare(party: Party, local: Local, *, permutation: Permutation) -> PreparedTable:
    """Read, check and clean a controller's table.

    `permutation` maps n to a permutation of n rows, shape (n,), which must come
    from a cryptographic generator: the order of the file would tell the third
    party which rows are neighbours there.

    Raises DataError with every fault of the table.
    """
    if local.data is None:
        raise DataError("no table: set `data` in the local file")
    rules = CellRules(local.decimal, local.missing)
    faults = Faults(local.data)
    table = open_table(local.data, _used(party), local.encoding, local.decimal)
    rows = _read(party, rules, table, faults)
    if len(rows.identifiers) == len(party.identifier):
        _check_duplicates(rows, faults)
    faults.raise_if_any()

    missing = rows.missing()
    complete = np.flatnonzero(~np.any(list(missing.values()), axis=0))
    if not rows.read:
        faults.add("no rows below the header")
    elif not complete.size:
        faults.add("no row without a missing value")
    elif complete.size > MAX_ROWS:
        faults.add(f"more than {MAX_ROWS} complete rows")
    elif party.outcome is not None and _variety(rows.numbers[party.outcome][complete]) == "constant":
        faults.add("the same outcome in every complete row, so nothing can be explained,", party.outcome)
    faults.raise_if_any()

    dropped = {name: count for name, mask in missing.items() if (count := int(mask.sum()))}
    order = permutation(complete.size)
    if not np.array_equal(np.sort(order), np.arange(complete.size)):
        raise ValueError("not a permutation of the rows")
    chosen = complete[order]
    values = _matrix(party, rows, chosen)
    summary = _summary(party, local.data, rows, dropped, values, chosen)
    columns = [[texts[row] for row in chosen.tolist()] for texts in rows.identifiers.values()]
    return PreparedTable(list(zip(*columns, strict=True)), values, rows.read, dropped, summary)


def _read(party: Party, rules: CellRules, table: Table, faults: Faults) -> _Rows:
    keys, numbers, levels = _columns(party, rules)
    wanted: list[tuple[str, Use]] = [(column.name, "identifier") for column in keys]
    wanted += [(column.name, "number") for column in numbers]
    wanted += [(column.name, "level") for column in levels]
    at = find_columns(table, wanted, faults)
    texts: dict[str, list[str]] = {column.name: [] for column in keys if column.name in at}
    values: dict[str, list[Values]] = {column.name: [np.empty(0)] for column in numbers if column.name in at}
    codes: dict[str, list[Codes]] = {column.name: [np.empty(0, np.int32)] for column in levels if column.name in at}
    read = 0
    for block in table.blocks(faults, list(at.values())):
        read += len(block.lines)
        for key in keys:
            if key.name in at:
                texts[key.name] += key.read(block, at[key.name], faults)
        for number in numbers:
            if number.name in at:
                values[number.name].append(number.read(block, at[number.name], faults))
        for level in levels:
            if level.name in at:
                codes[level.name].append(level.read(block, at[level.name], faults))
    return _Rows(texts, _joined(values), _joined(codes), read)


def _used(party: Party) -> list[str]:
    return [*party.identifier, *(column.column for column in party.columns), *_outcome(party)]


def _outcome(party: Party) -> list[str]:
    return [] if party.outcome is None else [party.outcome]


def _columns(party: Party, rules: CellRules) -> tuple[list[IdentifierColumn], list[NumberColumn], list[LevelColumn]]:
    patterns = party.identifier_pattern or ("",) * len(party.identifier)
    keys = [IdentifierColumn(name, pattern) for name, pattern in zip(party.identifier, patterns, strict=True)]
    numbers = [NumberColumn(n, rules, party.ranges.get(n)) for n in (*party.features, *_outcome(party))]
    levels = [LevelColumn(c.column, c.levels, rules) for c in party.columns if c.kind == "category"]
    return keys, numbers, levels


def _joined(parts: Mapping[str, list[NDArray[Number]]]) -> dict[str, NDArray[Number]]:
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def _check_duplicates(rows: _Rows, faults: Faults) -> None:
    """Over all rows that have an identifier, whatever else they lack; says how many, not which."""
    identifiers = [parts for parts in zip(*rows.identifiers.values(), strict=True) if all(parts)]
    if len(set(identifiers)) == len(identifiers):
        return
    repeated = sum(count > 1 for count in Counter(identifiers).values())
    several = "1 identifier that occurs" if repeated == 1 else f"{repeated} identifiers that occur"
    faults.add(f"{several} more than once (before rows are dropped for missing values)", ", ".join(rows.identifiers))


def _matrix(party: Party, rows: _Rows, chosen: NDArray[np.int64]) -> Values:
    values = np.empty((chosen.size, party.width))
    place = 0
    for column in party.columns:
        if column.kind == "numeric":
            values[:, place] = rows.numbers[column.column][chosen]
            place += 1
            continue
        codes = rows.codes[column.column][chosen]
        for code in range(1, len(column.levels)):
            values[:, place] = codes == code
            place += 1
    if party.outcome is not None:
        values[:, place] = rows.numbers[party.outcome][chosen]
    values.flags.writeable = False
    return values


# --- figures about one's own table ----------------------------------------------------------------


def _summary(
    party: Party, file: Path, rows: _Rows, dropped: Mapping[str, int], matrix: Values, kept: Kept
) -> TableSummary:
    names = [name.removeprefix(f"{party.name}.") for name in party.names]
    variety = {name: _variety(matrix[:, place]) for place, name in enumerate(names + _outcome(party))}
    return TableSummary(
        file=file,
        read=rows.read,
        complete=len(matrix),
        dropped=dropped,
        identifiers=tuple(_identifier_summary(name, texts) for name, texts in rows.identifiers.items()),
        columns=tuple(_column_summary(column, rows, dropped, kept) for column in party.columns),
        outcome=party.outcome,
        constant=tuple(name for name, what in variety.items() if what == "constant"),
        nearly_constant=tuple(name for name, what in variety.items() if what == "nearly constant"),
    )


def _column_summary(column: Column, rows: _Rows, dropped: Mapping[str, int], kept: Kept) -> ColumnSummary:
    levels: dict[str, int] = {}
    if column.kind == "category":
        counts = np.bincount(rows.codes[column.column][kept], minlength=len(column.levels))
        levels = dict(zip(column.levels, counts.tolist(), strict=True))
    return ColumnSummary(column.column, column.kind, dropped.get(column.column, 0), levels)


def _variety(values: Values) -> Literal["constant", "nearly constant", "varied"]:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return "constant"
    if high / 2 - low / 2 <= NOISE * max(abs(low), abs(high)):
        return "nearly constant"
    # A value that most rows have is the median.
    median = np.partition(values, values.size // 2)[values.size // 2]
    return "nearly constant" if float((values == median).mean()) >= NEARLY else "varied"


def _identifier_summary(column: str, texts: Sequence[str]) -> IdentifierSummary:
    present = [text for text in texts if text]
    lengths = [len(text) for text in present]
    return IdentifierSummary(
        column=column,
        shortest=min(lengths),
        longest=max(lengths),
        digits_only=all(text.isascii() and text.isdigit() for text in present),
        leading_zeros=sum(text.startswith("0") for text in present),
    )
