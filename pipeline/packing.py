"""Rows of encoded values <-> Paillier plaintexts.

A plaintext is a row of little-endian bytes. It holds slots of 15 bytes, one
for each column, in order; a row with more columns than slots spreads over
several plaintexts.

    bits of a slot     119      44 43           0
                        0 |  0 ...  | value + 2^43     in the owner's plaintext
                        0 | uniform below 2^119        in the mask holder's
                          | their sum, below 2^120     after the join

The sum cannot carry into the next slot, and no slot borrows, because the
values are offset and masks are added, never subtracted. A mask of 119 bits
hides 44 bits up to a statistical distance of 2^-75 a value. Beyond the last
slot the mask fills all bits below 2^(bits - 2): nothing that stood there
survives to whoever decrypts, and a sum stays below the modulus.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LocalProtocolError
from pipeline.messages import Bytes

SLOT_BYTES = 15
VALUE_BYTES = 6  # bytes the offset value reaches into; its 44 bits end in the sixth
VALUE_OFFSET = 1 << 43
VALUE_BOUND = VALUE_OFFSET - 1  # of |value|; what `fixed_point` encodes to
MASK_BITS = 8 * SLOT_BYTES - 1
SPARE_BITS = 2  # top bits of a plaintext that stay 0: value + mask < 2^(bits - 2) < modulus


def slots(bits: int) -> int:
    """Return the number of slots in one plaintext under a modulus of `bits` bits."""
    return (bits - SPARE_BITS) // (8 * SLOT_BYTES)


def plaintext_bytes(bits: int) -> int:
    """Return the length of a plaintext row."""
    return bits // 8


def ciphertexts_per_row(width: int, bits: int) -> int:
    """Return how many plaintexts, and so ciphertexts, a row of `width` columns takes."""
    return -(-width // slots(bits))


def pack_values(values: NDArray[np.int64], bits: int) -> Bytes:
    """Return the plaintexts of encoded rows, uint8 of shape (k, ciphertexts per row, plaintext bytes).

    values : shape (k, width), |value| <= VALUE_BOUND; beyond it LocalProtocolError,
        for `fixed_point` has promised it. Slots without a column hold 0.
    """
    if values.size and not (-VALUE_BOUND <= values.min() and values.max() <= VALUE_BOUND):
        raise LocalProtocolError("a value to pack exceeds the bound of the encoding")
    rows, width = values.shape
    parts = ciphertexts_per_row(width, bits)
    offset = np.ascontiguousarray(values + VALUE_OFFSET, "<u8")
    packed = np.zeros((rows, parts * slots(bits), SLOT_BYTES), np.uint8)
    packed[:, :width, :VALUE_BYTES] = offset.view(np.uint8).reshape(rows, width, 8)[:, :, :VALUE_BYTES]
    plaintexts = np.zeros((rows, parts, plaintext_bytes(bits)), np.uint8)
    plaintexts[:, :, : slots(bits) * SLOT_BYTES] = packed.reshape(rows, parts, slots(bits) * SLOT_BYTES)
    return plaintexts


def draw_masks(rows: int, width: int, bits: int, rng: Callable[[int], bytes]) -> Bytes:
    """Return fresh masks as plaintexts, uint8 of shape (rows, ciphertexts per row, plaintext bytes).

    Uniform in every slot, with a column or without, and in the bits beyond the
    slots. `rng(k)` gives k random bytes.
    """
    shape = (rows, ciphertexts_per_row(width, bits), plaintext_bytes(bits))
    masks = np.frombuffer(rng(shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape).copy()
    masks[:, :, SLOT_BYTES - 1 : slots(bits) * SLOT_BYTES : SLOT_BYTES] &= 0xFF >> (8 * SLOT_BYTES - MASK_BITS)
    masks[:, :, -1] &= 0xFF >> SPARE_BITS
    return masks


def slots_of(plaintexts: Bytes, width: int) -> Bytes:
    """Return the slots of the columns, little-endian, uint8 of shape (k, width, 15).

    What lies beyond the columns is dropped unread: refusing a plaintext by its
    content would tell a peer that altered a ciphertext something about the row.
    """
    rows, parts, length = plaintexts.shape
    count = slots(8 * length)
    used = plaintexts[:, :, : count * SLOT_BYTES].reshape(rows, parts * count, SLOT_BYTES)
    return used[:, :width].copy()
