"""Packing: the vectors, the sizes, what masks cover."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
from attacks import VECTORS

from pipeline import fixed_point
from pipeline.errors import LocalProtocolError, RangeError
from pipeline.packing import (
    VALUE_BOUND,
    ciphertexts_per_row,
    draw_masks,
    pack_values,
    plaintext_bytes,
    slots,
    slots_of,
)

VECTOR = json.loads((VECTORS / "packing.json").read_text())
CASES = [pytest.param(case, id=case["name"]) for case in VECTOR["cases"]]


def _hex(plaintexts: np.ndarray[Any, Any]) -> list[str]:
    return [row.tobytes().hex() for row in plaintexts.reshape(-1, plaintexts.shape[-1])]


@pytest.mark.parametrize("case", CASES)
def test_plaintexts_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    assert _hex(pack_values(np.array(case["values"], np.int64), case["bits"])) == case["plaintexts"]


@pytest.mark.parametrize("case", CASES)
def test_masks_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    rows, width = np.shape(case["values"])
    assert _hex(draw_masks(rows, width, case["bits"], lambda _: bytes.fromhex(case["random"]))) == case["masks"]


@pytest.mark.parametrize("case", CASES)
def test_slots_of_a_sum_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    rows, width = np.shape(case["values"])
    content = bytes.fromhex("".join(case["sums"]))
    sums = np.frombuffer(content, np.uint8).reshape(rows, -1, plaintext_bytes(case["bits"]))
    assert _hex(slots_of(sums, width)) == case["slots"]


def test_slots_take_every_value_the_encoding_makes() -> None:
    assert fixed_point.VALUE_BITS == 44
    column = np.array([0.0, 1.0, -1.0])
    for scale in (fixed_point.Scale(0, 43), fixed_point.Scale(0, 42)):
        values = column * (VALUE_BOUND / 2.0**scale.exponent)
        encoded = fixed_point.encode_column(values, scale)[:, None]
        assert np.abs(encoded).max() == VALUE_BOUND
        pack_values(encoded, 2048)
    with pytest.raises(RangeError):
        fixed_point.encode_column(column * ((VALUE_BOUND + 1) / 2.0**43), fixed_point.Scale(0, 43))


def test_a_plaintext_has_17_slots_at_2048_bits_and_25_at_3072() -> None:
    assert [slots(bits) for bits in (512, 2048, 3072)] == [4, 17, 25]


def test_a_row_takes_another_ciphertext_when_the_slots_are_full() -> None:
    assert [ciphertexts_per_row(width, 2048) for width in (1, 17, 18, 34, 35)] == [1, 1, 2, 2, 3]


def test_masks_of_all_ones_fill_every_slot_and_every_bit_but_the_top_two() -> None:
    for bits in (512, 2048, 3072):
        mask = int.from_bytes(draw_masks(1, 1, bits, lambda k: b"\xff" * k).tobytes(), "little")
        free = sum(1 << (120 * slot + 119) for slot in range(slots(bits)))
        assert mask == (1 << (bits - 2)) - 1 - free


def test_every_bit_of_a_mask_is_drawn_whether_a_column_uses_it_or_not() -> None:
    masks = draw_masks(200, 1, 512, os.urandom)
    bits = np.unpackbits(masks.reshape(200, -1), axis=1, bitorder="little")
    drawn = np.flatnonzero(bits.any(axis=0) & ~bits.all(axis=0))
    assert drawn.tolist() == [i for i in range(510) if i >= 480 or i % 120 != 119]


def test_two_draws_of_masks_differ() -> None:
    masks = draw_masks(50, 6, 512, os.urandom)
    assert len(np.unique(masks.reshape(100, -1), axis=0)) == 100


@pytest.mark.parametrize("value", [VALUE_BOUND + 1, -VALUE_BOUND - 1, 1 << 62, -(1 << 63)])
def test_a_value_beyond_the_bound_is_refused_without_being_quoted(value: int) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        pack_values(np.array([[0, value]]), 512)
    assert str(abs(value)) not in str(caught.value)


def test_no_rows_give_no_plaintexts() -> None:
    assert pack_values(np.zeros((0, 5), np.int64), 512).shape == (0, 2, 64)
    assert draw_masks(0, 5, 512, os.urandom).shape == (0, 2, 64)
    assert slots_of(np.zeros((0, 2, 64), np.uint8), 5).shape == (0, 5, 15)
