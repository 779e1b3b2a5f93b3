"""Shamir shares of numbers for tests of step 8, and the numbers of shares."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.field import FIELD_254, PrimeField
from pipeline.masks import RECOMBINE
from pipeline.residues import Residues


def dealt(values: Any, party: int, degree: int = 1, field: PrimeField = FIELD_254, seed: int = 5) -> Residues:
    """This party's share of `values`; all parties call it with the same arguments."""
    rng = np.random.default_rng(seed)
    numbers = np.array(values, dtype=object)
    result = numbers.copy()
    for power in range(1, degree + 1):
        slope = np.array([int.from_bytes(rng.bytes(40), "little") for _ in range(numbers.size)], dtype=object)
        result = result + slope.reshape(numbers.shape) * (party + 1) ** power
    return Residues.of_integers(field, result)


def opened(shares: list[Any], field: PrimeField = FIELD_254) -> Any:
    """Signed numbers from the integers of three shares, which must lie on a line."""
    p = field.p
    total = sum(x * weight for x, weight in zip(shares, RECOMBINE, strict=True)) % p
    assert np.array_equal(total, (2 * shares[0] - shares[1]) % p), "not a sharing of degree 1"
    return np.where(total > p // 2, total - p, total)
