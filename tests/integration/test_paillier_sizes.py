"""Encryption, masking and decryption at the sizes a study uses."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import phe
import pytest
from attacks import numbers

from pipeline import subgroup_keys
from pipeline.packing import VALUE_BOUND, VALUE_OFFSET, draw_masks, pack_values, slots, slots_of
from pipeline.paillier import (
    Decryptor,
    KeyPair,
    OwnEncryptor,
    PeerEncryptor,
    check_ciphertexts,
    check_modulus,
    multiply,
)

SESSION = b"\x0b" * 32


@pytest.mark.parametrize("bits", [2048, 3072])
@pytest.mark.parametrize(
    "generate", [KeyPair.generate, lambda bits: subgroup_keys.generate(bits, os.urandom)], ids=["standard", "subgroup"]
)
def test_shares_of_full_rows_add_up_to_the_values(generate: Callable[[int], KeyPair], bits: int) -> None:
    pair = generate(bits)
    n = check_modulus(pair.modulus, bits, own=None)
    width = slots(bits) + 1  # two ciphertexts a row
    values = np.random.default_rng(bits).integers(-VALUE_BOUND, VALUE_BOUND, (4, width), endpoint=True)
    values[0], values[1] = VALUE_BOUND, -VALUE_BOUND
    masks = draw_masks(4, width, bits, lambda count: b"\xff" * (count // 2) + os.urandom(count - count // 2))

    own, peer = OwnEncryptor(pair, SESSION, os.urandom), PeerEncryptor(pair.encryption_key(SESSION), os.urandom)
    rows, mask_rows = own.encrypt(pack_values(values, bits)), peer.encrypt(masks)
    masked = multiply(rows, mask_rows, n)
    for ciphertexts in (rows, mask_rows, masked):
        check_ciphertexts(ciphertexts, n)
    plaintexts = Decryptor(pair).decrypt(masked)

    assert _integers(slots_of(plaintexts, width)) == [
        value + VALUE_OFFSET + mask
        for value, mask in zip(values.ravel().tolist(), _integers(slots_of(masks, width)), strict=True)
    ]
    private = phe.PaillierPrivateKey(phe.PaillierPublicKey(n), pair.p, pair.q)
    assert private.raw_decrypt(numbers(masked)[0]) == _integers(plaintexts)[0]
    exponent = os.urandom(pair.encryption_key(SESSION).exponent_bytes)
    assert own.power(exponent) == peer.power(exponent)


def _integers(rows: np.ndarray) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in rows.reshape(-1, rows.shape[-1])]
