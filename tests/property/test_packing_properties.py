"""Packing holds for all values and masks, the bounds included."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pipeline.packing import (
    SLOT_BYTES,
    VALUE_BOUND,
    VALUE_OFFSET,
    ciphertexts_per_row,
    draw_masks,
    pack_values,
    plaintext_bytes,
    slots_of,
)

BITS = st.sampled_from([512, 2048, 3072])
VALUES = st.sampled_from([-VALUE_BOUND, VALUE_BOUND, -1, 0, 1]) | st.integers(-VALUE_BOUND, VALUE_BOUND)


@st.composite
def tables(draw: st.DrawFn) -> NDArray[np.int64]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 27)))
    return draw(arrays.arrays(np.int64, shape, elements=VALUES))


@st.composite
def generators(draw: st.DrawFn) -> Any:
    """Random bytes with long runs of ones and zeros: the carries' best chance."""
    pattern = draw(st.sampled_from([b"\x00", b"\xff", b"\x7f\xff"]) | st.binary(min_size=1, max_size=300))
    return lambda count: (pattern * (count // len(pattern) + 1))[:count]


def _integers(rows: NDArray[np.uint8]) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in rows.reshape(-1, rows.shape[-1])]


def _added(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    length = left.shape[-1]
    sums = [a + b for a, b in zip(_integers(left), _integers(right), strict=True)]
    assert all(total < 1 << (8 * length - 2) for total in sums)
    return np.frombuffer(b"".join(total.to_bytes(length, "little") for total in sums), np.uint8).reshape(left.shape)


@given(tables(), BITS, generators())
def test_slot_minus_offset_minus_mask_is_the_value(values: NDArray[np.int64], bits: int, rng: Any) -> None:
    rows, width = values.shape
    masks = draw_masks(rows, width, bits, rng)
    masked = slots_of(_added(pack_values(values, bits), masks), width)
    shares = zip(_integers(masked), _integers(slots_of(masks, width)), strict=True)
    assert [own - VALUE_OFFSET - mask for own, mask in shares] == values.reshape(-1).tolist()


@given(tables(), BITS)
def test_without_a_mask_the_slots_hold_the_offset_values(values: NDArray[np.int64], bits: int) -> None:
    packed = pack_values(values, bits)
    assert packed.shape == (len(values), ciphertexts_per_row(values.shape[1], bits), plaintext_bytes(bits))
    slots = slots_of(packed, values.shape[1])
    assert slots.shape == (*values.shape, SLOT_BYTES)
    assert _integers(slots) == [value + VALUE_OFFSET for value in values.reshape(-1).tolist()]


@given(st.integers(1, 3), st.integers(1, 27), BITS, generators())
def test_a_mask_stays_below_two_to_the_119_in_its_slot(rows: int, width: int, bits: int, rng: Any) -> None:
    masks = draw_masks(rows, width, bits, rng)
    assert all(mask < 1 << (bits - 2) for mask in _integers(masks))
    assert all(slot < 1 << 119 for slot in _integers(slots_of(masks, width)))
