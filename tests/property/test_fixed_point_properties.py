"""Encoding: bounds hold and no finer scale would do, over all of float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.fixed_point import MAX_EXPONENT, OFFSET_BITS, Scale, choose_scale, encode_column
from pipeline.packing import VALUE_BOUND

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(min_value=-1e6, max_value=1e6)


@settings(max_examples=1000, deadline=None)
@given(low=FLOATS, high=FLOATS, share=st.floats(min_value=0, max_value=1))
def test_every_value_of_the_range_is_within_the_bound_and_half_a_unit(low: float, high: float, share: float) -> None:
    low, high = min(low, high), max(low, high)
    scale = choose_scale(low, high)
    if isinstance(scale, str):
        return
    assert abs(scale.exponent) <= MAX_EXPONENT
    assert abs(scale.offset) <= 2**OFFSET_BITS
    values = np.array([low, high, min(max(low * (1 - share) + high * share, low), high)])
    encoded = encode_column(values, scale)
    assert np.abs(encoded).max() <= VALUE_BOUND
    if low == high:
        assert not encoded.any()
        return
    unit = Fraction(2) ** -scale.exponent
    for value, integer in zip(values.tolist(), encoded.tolist(), strict=True):
        error = abs((integer + scale.offset) * unit - Fraction(value))
        assert error <= unit * Fraction(1025, 2048)  # half a unit, and the subtraction's own rounding


@settings(max_examples=500, deadline=None)
@given(low=MODERATE, high=MODERATE)
@example(low=-999625.9999999999, high=-999624.0)
def test_a_finer_scale_would_not_fit(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    scale = choose_scale(low, high)
    if low == high or isinstance(scale, str):
        return
    middle = Fraction(low / 2 + high / 2)  # as a float has it: far from zero, one of the two is a little farther away
    reach = max(Fraction(high) - middle, middle - Fraction(low))
    assert reach * 2 ** (scale.exponent + 1) > VALUE_BOUND - 1


@settings(max_examples=200, deadline=None)
@given(low=MODERATE, spread=st.floats(min_value=1e-3, max_value=1e6))
def test_ordinary_columns_can_be_encoded(low: float, spread: float) -> None:
    assert isinstance(choose_scale(low, low + spread), Scale)
