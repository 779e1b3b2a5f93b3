from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_links import play
from sharing_numbers import opened

from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField
from pipeline.mpc_runtime import Runtime
from pipeline.primitives import Arithmetic
from pipeline.residues import Residues

P, BITS, K = FIELD_254.p, 120, 60
NARROW_BITS = 62
numbers = st.lists(st.integers(-(2 ** (BITS - 1)) + 1, 2 ** (BITS - 1) - 1), min_size=1, max_size=8)
narrow = st.lists(st.integers(-(2 ** (NARROW_BITS - 1)) + 1, 2 ** (NARROW_BITS - 1) - 1), min_size=1, max_size=8)
slopes = st.tuples(st.integers(0, P - 1), st.just(0) | st.integers(0, P - 1))
HALF = FIELD_127.p // 2


def compute(
    operation: str,
    values: list[int],
    slopes: tuple[int, int],
    *arguments: Any,
    field: PrimeField = FIELD_254,
    to: PrimeField | None = None,
) -> list[int]:
    """Apply an operation of `Arithmetic` to a sharing of `values` by given coefficients, of degree 1 or 2."""

    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, field, K)
        x = runtime.pid + 1
        shares = np.array(values, dtype=object) + slopes[0] * x + slopes[1] * x**2
        target = (mpc.over(to),) if to else ()
        result = await getattr(mpc, operation)(Residues.of_integers(field, shares), *target, *arguments)
        return result.integers()

    return [int(x) for x in opened(play(party), to or field)]


@settings(max_examples=25, deadline=None)
@given(numbers, slopes)
def test_comparison_is_exact(values: list[int], slopes: tuple[int, int]) -> None:
    assert compute("nonnegative", values, slopes, BITS) == [int(x >= 0) for x in values]


@settings(max_examples=25, deadline=None)
@given(numbers, slopes, st.integers(1, BITS - 2))
def test_truncation_is_wrong_by_less_than_four(values: list[int], slopes: tuple[int, int], shift: int) -> None:
    for found, value in zip(compute("truncate", values, slopes, shift, BITS), values, strict=True):
        assert abs((found << shift) - value) < 4 << shift


@settings(max_examples=25, deadline=None)
@given(numbers, slopes)
def test_reduction_keeps_the_number(values: list[int], slopes: tuple[int, int]) -> None:
    assert compute("reduce", values, slopes) == values


@settings(max_examples=25, deadline=None)
@given(narrow, slopes, st.sampled_from([(FIELD_127, FIELD_254), (FIELD_254, FIELD_127), (FIELD_127, FIELD_191)]))
def test_conversion_keeps_the_number(
    values: list[int], slopes: tuple[int, int], fields: tuple[PrimeField, PrimeField]
) -> None:
    assert compute("convert", values, slopes, 0, NARROW_BITS, field=fields[0], to=fields[1]) == values


@settings(max_examples=25, deadline=None)
@given(narrow, slopes, st.integers(1, NARROW_BITS - 2))
def test_conversion_with_truncation_is_wrong_by_less_than_four(
    values: list[int], slopes: tuple[int, int], shift: int
) -> None:
    found = compute("convert", values, slopes, shift, NARROW_BITS, field=FIELD_127, to=FIELD_254)
    assert all(abs((a << shift) - b) < 4 << shift for a, b in zip(found, values, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-HALF, HALF), min_size=1, max_size=8), slopes)
@example([HALF, -HALF, 0] * 10, (0, 0))
def test_lifting_keeps_the_number(values: list[int], slopes: tuple[int, int]) -> None:
    assert compute("lift", values, slopes, field=FIELD_127, to=FIELD_254) == values
