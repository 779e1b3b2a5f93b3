"""Order on shares: the smallest of many numbers, the first of many bits. Nothing is opened."""

from __future__ import annotations

import numpy as np

from pipeline.mpc_runtime import Shares
from pipeline.primitives import Arithmetic
from pipeline.residues import Residues


async def largest(mpc: Arithmetic, values: Shares, bits: int) -> Shares:
    """The largest of a vector of numbers of `bits` bits; shape (1,). 11 rounds."""
    one_hot = await first_smallest(mpc, -values, bits)
    return await mpc.reduce((one_hot * values).sum().reshape(1))


async def first_smallest(mpc: Arithmetic, values: Shares, bits: int) -> Shares:
    """1 at the smallest of a vector of numbers, at the first of them if there are several, and 0 elsewhere. 10 rounds.

    All pairs are compared at once; the one that no other is before wins.
    """
    count = len(values)
    i, j = np.triu_indices(count, 1)
    if not len(i):
        return mpc.public(np.ones(count, np.int64))
    before = await mpc.nonnegative(values[j] - values[i], bits + 1)  # the first of a pair is not after the second
    limbs = np.zeros((len(before.limbs), count, count), np.int64)
    after = 1 - before
    limbs[:, i, j], limbs[:, j, i] = before.limbs, after.limbs
    wins = Residues(mpc.field, limbs, max(before.bound, after.bound)).sum()
    return await mpc.nonnegative(wins - (count - 1), count.bit_length() + 2)


async def first_of(mpc: Arithmetic, bits: Shares) -> Shares:
    """1 at the first 1 of a vector of bits, 0 elsewhere. 5 rounds."""
    count = len(bits)
    so_far = bits.reshape(1, -1) @ mpc.public(np.triu(np.ones((count, count), np.int64)))
    reached = await mpc.nonnegative(so_far.reshape(count) - 1, count.bit_length() + 2)
    before = np.concatenate([np.zeros((len(reached.limbs), 1), np.int64), reached.limbs[:, :-1]], axis=1)
    return (reached - Residues(mpc.field, before, reached.bound)).carried()
