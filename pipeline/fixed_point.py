"""Reals to bounded integers: one public scale 2**exponent for each column.

A value x becomes round((x - c) * 2**e) with c = offset * 2**-e, an integer of at most
VALUE_BOUND. With a declared range both c (its middle) and e come from the
agreement. Without one, c is the middle of the column in the party's own table
and stays private, and e, the order of magnitude of the column's spread, is told
to the other controller: `docs/leakage.md` lists it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Party
from pipeline.errors import DataError, RangeError
from pipeline.packing import VALUE_BOUND

VALUE_BITS = VALUE_BOUND.bit_length() + 1  # 44, sign included
MAX_EXPONENT = 1000  # so that 2.0**e and its inverse are ordinary floats
OFFSET_BITS = 80
INDICATOR_RANGE = (0.0, 1.0)

_TOO_FINE = "its values lie too close together to encode; multiply it by a power of ten in the table"
_TOO_WIDE = "its values lie too far apart to encode; divide it by a power of ten in the table"
_TOO_FAR = "its values are too far from zero, compared with their spread, to encode; subtract a constant in the table"


@dataclass(frozen=True, eq=False)
class EncodedTable:
    """Encoded columns in the order of `PreparedTable.values`.

    values    : shape (n, width), int64, at most VALUE_BOUND in absolute value
    offsets   : c * 2**e of each column, at most 2**80; private where no range is declared
    exponents : e of each column; public between the controllers
    """

    values: NDArray[np.int64] = field(repr=False)
    offsets: tuple[int, ...] = field(repr=False)
    exponents: tuple[int, ...]


@dataclass(frozen=True)
class Scale:
    offset: int = field(repr=False)
    exponent: int

    @property
    def centre(self) -> float:
        """c, exactly: below 2**53 the offset is a float, above it came from one."""
        return math.ldexp(float(self.offset), -self.exponent)


def encode(values: NDArray[np.float64], party: Party, offset_bits: int = OFFSET_BITS) -> EncodedTable:
    """Encode a prepared table; `values` has shape (n, width), n > 0, no NaN, and declared ranges hold.

    offset_bits : offsets are at most 2**offset_bits in absolute value; see `bounds.Plan`.

    Raises DataError naming each column that does not fit.
    """
    encoded = np.empty(values.shape, dtype=np.int64)
    scales: list[Scale] = []
    faults: list[str] = []
    for place, (name, declared) in enumerate(encoded_columns(party)):
        column = values[:, place]
        low, high = declared or (float(column.min()), float(column.max()))
        scale = choose_scale(low, high, offset_bits)
        if isinstance(scale, str):
            faults.append(f"column {name}: {scale}")
        else:
            encoded[:, place] = encode_column(column, scale)
            scales.append(scale)
    if faults:
        raise DataError(faults)
    encoded.flags.writeable = False
    return EncodedTable(encoded, tuple(s.offset for s in scales), tuple(s.exponent for s in scales))


def encoded_columns(party: Party) -> list[tuple[str, tuple[float, float] | None]]:
    """Each encoded column's name in the table and its declared range."""
    columns = [
        (column.column, column.range if column.kind == "numeric" else INDICATOR_RANGE)
        for column in party.columns
        for _ in column.names
    ]
    return columns if party.outcome is None else [*columns, (party.outcome, party.ranges.get(party.outcome))]


def choose_scale(low: float, high: float, offset_bits: int = OFFSET_BITS) -> Scale | str:
    """The finest scale at which all of [low, high] is within VALUE_BOUND, or why there is none."""
    if low == high:
        return _constant_scale(low, offset_bits)
    half = high / 2 - low / 2  # high - low could overflow
    _, magnitude = math.frexp(half)
    # 2**(magnitude - 1) <= half < 2**magnitude, so the first fits unless it is rounded up to 2**(VALUE_BITS - 1).
    for exponent in (VALUE_BITS - 1 - magnitude, VALUE_BITS - 2 - magnitude):
        scale = Scale(round(math.ldexp(low / 2 + high / 2, exponent)), exponent)
        if max(abs(encode_value(low, scale)), abs(encode_value(high, scale))) <= VALUE_BOUND:
            break
    if half == 0 or exponent > MAX_EXPONENT:
        return _TOO_FINE
    if exponent < -MAX_EXPONENT:
        return _TOO_WIDE
    return scale if abs(scale.offset) <= 1 << offset_bits else _TOO_FAR


def _constant_scale(value: float, offset_bits: int) -> Scale:
    """Every value becomes 0, whatever the scale; that of a 0/1 column, so that it does not tell, if the offset fits."""
    _, magnitude = math.frexp(value)
    exponent = min(VALUE_BITS - 1, offset_bits - magnitude)
    return Scale(round(math.ldexp(value, exponent)), exponent)


def encode_value(value: float, scale: Scale) -> int:
    """As `encode_column`, of one value, without the bound."""
    return round(math.ldexp(value - scale.centre, scale.exponent))


def encode_column(values: NDArray[np.float64], scale: Scale) -> NDArray[np.int64]:
    """round((x - c) * 2**e), half to even; raises RangeError beyond VALUE_BOUND."""
    scaled = np.rint(np.ldexp(values - scale.centre, scale.exponent))
    if not (np.abs(scaled) <= VALUE_BOUND).all():  # NaN as well
        raise RangeError("a value beyond the scale of its column")
    return scaled.astype(np.int64)
