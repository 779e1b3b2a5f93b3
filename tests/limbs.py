"""Numbers modulo a prime in many forms of `Residues`, and what they are as Python integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.field import PrimeField
from pipeline.residues import CARRIED, LIMB_BITS, LIMB_MASK, LIMIT, PAIRABLE, Residues, limbs_of

BOUNDS = (1, 1000, CARRIED, CARRIED + 1, LIMB_MASK, PAIRABLE - 1, PAIRABLE, 1 << 40, (1 << 53) + 1, LIMIT // 2, LIMIT)


def value(x: Residues) -> Any:
    """The numbers in [0, p), straight from the limbs, none of which may be beyond the bound."""
    limbs = x.limbs.astype(object)
    assert x.limbs.dtype == np.int64 and len(limbs) == limbs_of(x.field)
    assert all(abs(limb) <= x.bound for limb in limbs.ravel().tolist()), "a limb beyond the bound"
    return np.asarray(sum(limb << LIMB_BITS * t for t, limb in enumerate(limbs)) % x.field.p, dtype=object)


def agrees(x: Residues, expected: Any) -> bool:
    """Whether these are the numbers, read in both ways."""
    p, expected = x.field.p, np.asarray(expected, dtype=object)
    assert x.shape == expected.shape
    return np.array_equal(value(x), expected % p) and np.array_equal(x.integers(), expected % p)


def extremes(field: PrimeField) -> list[int]:
    p = field.p
    powers = [(1 << k) + i for k in (23, 24, 48, 71, 72, 96, field.bits - 1) for i in (-1, 0, 1)]
    return [0, 1, 2, p - 1, p - 2, p // 2, p // 2 + 1, *(x % p for x in powers), *(-x % p for x in powers)]


def elements(field: PrimeField, *shape: int, seed: int = 1) -> Any:
    """Uniform numbers below p, after the extreme ones."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    drawn = [int.from_bytes(rng.bytes(40), "little") % field.p for _ in range(count)]
    result = np.empty(count, dtype=object)
    result[:] = (extremes(field)[: count // 2] + drawn)[:count]
    return rng.permutation(result).reshape(shape)


def with_limbs_at(field: PrimeField, bound: int) -> Residues:
    """Numbers all of whose limbs are as large as the bound allows, with every pattern of signs that matters."""
    count = limbs_of(field)
    rng = np.random.default_rng(bound % 1000)
    signs = [np.ones(count), -np.ones(count), (-1.0) ** np.arange(count), -((-1.0) ** np.arange(count))]
    signs += [np.where(np.arange(count) == t, s, 0) for t in range(count) for s in (1, -1)]
    signs += list(rng.integers(-1, 2, (8, count)))
    return Residues(field, np.array(signs).T.astype(np.int64) * bound, bound)


def forms(field: PrimeField, numbers: Any) -> list[Residues]:
    """The same numbers in forms that came about in different ways."""
    x = Residues.of_integers(field, numbers)
    lazy = x
    for _ in range(40):
        lazy = lazy + x
    back = lazy - x * 40
    limbs = x.limbs.copy()
    limbs[0] += field.p % (1 << LIMB_BITS)  # p itself, limb by limb: a number above p with limbs that are no digits
    for t in range(1, len(limbs)):
        limbs[t] += field.p >> LIMB_BITS * t & LIMB_MASK
    above = Residues(field, limbs, 2 * LIMB_MASK)
    return [x, x.carried(), back, back.carried(), (x << 100) * pow(2, -100, field.p), above, x - 0]
