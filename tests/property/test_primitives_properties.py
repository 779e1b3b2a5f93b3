from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_links import play

from pipeline.field import FIELD_254
from pipeline.mpc_runtime import Runtime
from pipeline.primitives import RECOMBINE_ALL, Arithmetic

P, BITS, K = FIELD_254.p, 120, 60
numbers = st.lists(st.integers(-(2 ** (BITS - 1)) + 1, 2 ** (BITS - 1) - 1), min_size=1, max_size=8)
slopes = st.integers(0, P - 1)


def opened(parties: list[Any]) -> list[int]:
    total = sum(x * weight for x, weight in zip(parties, RECOMBINE_ALL, strict=True)) % P
    return [int(x) - P if x > P // 2 else int(x) for x in total]


def compute(operation: str, values: list[int], slope: int, *arguments: int) -> list[int]:
    """Apply an operation of `Arithmetic` to a sharing of `values` with a given slope."""

    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        shares = (np.array(values, dtype=object) + slope * (runtime.pid + 1)) % P
        return (await getattr(mpc, operation)(mpc.field.array(shares), *arguments)).value

    return opened(play(party))


@settings(max_examples=25, deadline=None)
@given(numbers, slopes)
def test_comparison_is_exact(values: list[int], slope: int) -> None:
    assert compute("nonnegative", values, slope, BITS) == [int(x >= 0) for x in values]


@settings(max_examples=25, deadline=None)
@given(numbers, slopes, st.integers(1, BITS - 2))
def test_truncation_is_wrong_by_less_than_two(values: list[int], slope: int, shift: int) -> None:
    for found, value in zip(compute("truncate", values, slope, shift, BITS), values, strict=True):
        assert abs((found << shift) - value) < 2 << shift


@settings(max_examples=25, deadline=None)
@given(numbers, slopes)
def test_reduction_keeps_the_number(values: list[int], slope: int) -> None:
    assert compute("reduce", values, slope) == values
