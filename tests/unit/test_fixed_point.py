"""Reals to bounded integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from own_table import controller

from pipeline.errors import DataError, RangeError
from pipeline.fixed_point import (
    MAX_EXPONENT,
    OFFSET_BITS,
    EncodedTable,
    Scale,
    choose_scale,
    encode,
    encode_column,
)
from pipeline.packing import VALUE_BOUND


def encoded(values: list[float], **settings: object) -> EncodedTable:
    return encode(np.array(values, dtype=np.float64)[:, None], controller(**settings))


def decoded(table: EncodedTable, column: int = 0) -> list[float]:
    offset, exponent = table.offsets[column], table.exponents[column]
    return [math.ldexp(float(int(value) + offset), -exponent) for value in table.values[:, column]]


def test_an_indicator_is_encoded_as_the_range_from_0_to_1() -> None:
    party = controller(features=(), categories={"sex": ("f", "m")})
    table = encode(np.array([[0.0], [1.0]]), party)
    assert table.exponents == (43,)
    assert table.offsets == (2**42,)
    assert table.values.ravel().tolist() == [-(2**42), 2**42]
    assert encode(np.array([[1.0], [1.0]]), party).values.ravel().tolist() == [2**42, 2**42]


def test_a_declared_range_fixes_the_scale_whatever_the_values_are() -> None:
    party = {"ranges": {"age": (0.0, 120.0)}}
    for values in ([0.0, 120.0], [50.0, 51.0], [60.0]):
        table = encoded(values, **party)
        assert table.exponents == (37,)
        assert table.offsets == (60 * 2**37,)
        assert decoded(table) == values


def test_the_range_of_the_outcome_counts_and_it_comes_last() -> None:
    party = controller(features=("age",), categories={"sex": ("f", "m")}, outcome="days", ranges={"days": (0.0, 120.0)})
    table = encode(np.array([[1.0, 0.0, 60.0], [3.0, 1.0, 120.0]]), party)
    assert table.exponents == (42, 43, 37)
    assert table.values[:, 2].tolist() == [0, 60 * 2**37]


def test_without_a_range_the_scale_is_the_finest_that_fits() -> None:
    assert encoded([0.0, 1.0]).exponents == (43,)
    assert encoded([-1.0, 1.0]).exponents == (42,)
    assert encoded([10.0, 12.0, 18.0]).exponents == (40,)
    assert encoded([1e6, 3e6]).exponents == (23,)


@pytest.mark.parametrize(
    "values",
    [
        [2020.0, 2021.0, 2026.0],
        [1.6e9, 1.6e9 + 1000],
        [-1e-9, 2e-9],
        [1e300, 1.5e300],
        [-1.7e308, 1.7e308],
        [1e15, 1e15 + 1e6],
        [5.0, 5.0000001],
    ],
)
def test_values_survive_within_half_a_unit(values: list[float]) -> None:
    table = encoded(values)
    unit = 2.0 ** -table.exponents[0]
    assert np.abs(table.values).max() <= VALUE_BOUND
    assert np.abs(table.values).max() > VALUE_BOUND // 2 - 1
    for value, back in zip(values, decoded(table), strict=True):
        assert abs(value - back) <= unit / 2 + abs(value) * 2**-52


@pytest.mark.parametrize("value", [0.0, 3.7, 3.5, 2.5, -1e300, 1e-300, 5e-324, 1e25, 2.0**80, 1.7e308])
def test_a_constant_column_is_all_zeros(value: float) -> None:
    table = encoded([value] * 3)
    assert table.values.ravel().tolist() == [0, 0, 0]
    assert abs(table.offsets[0]) <= 2**OFFSET_BITS
    assert abs(decoded(table)[0] - value) <= max(0.5, abs(value) * 2**-50)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, 1e-300], "too close together"),
        ([0.0, 5e-324], "too close together"),
        ([1e15, 1e15 + 1], "too far from zero"),
        ([0.3, 0.1 + 0.2], "too far from zero"),
    ],
)
def test_what_cannot_be_encoded_names_its_column(values: list[float], words: str) -> None:
    with pytest.raises(DataError, match=f"column age: .*{words}"):
        encoded(values)


def test_every_column_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(DataError) as caught:
        encode(np.array([[0.0, 1.0, 1e15], [1e-300, 2.0, 1e15 + 1]]), controller(features=("a", "b", "c")))
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["column a", "column c"]


def test_a_range_that_cannot_be_encoded_names_its_column() -> None:
    with pytest.raises(DataError, match="column age"):
        encoded([0.0, 0.0], ranges={"age": (0.0, 1e-300)})


@pytest.mark.parametrize("value", [2.0, -1.0, math.nan, math.inf])
def test_a_value_beyond_its_scale_is_never_encoded(value: float) -> None:
    scale = choose_scale(0.0, 1.0)
    assert isinstance(scale, Scale)
    with pytest.raises(RangeError):
        encode_column(np.array([0.5, value]), scale)


def test_exponents_stay_within_their_bounds() -> None:
    widest, finest = choose_scale(-1.79e308, 1.79e308), choose_scale(0.0, 2.0**-957)
    assert isinstance(widest, Scale)
    assert isinstance(finest, Scale)
    assert widest.exponent >= -MAX_EXPONENT
    assert finest.exponent == MAX_EXPONENT
    assert isinstance(choose_scale(0.0, 2.0**-958), str)


def test_offsets_are_in_no_representation() -> None:
    table = encoded([123456.0, 123457.0])
    assert str(table.offsets[0]) not in repr(table)
    assert str(table.offsets[0]) not in repr(choose_scale(123456.0, 123457.0))
