"""Numbers whose size is secret: split into a power of 4 and a mantissa, without telling which power.

Variances differ by many orders of magnitude, and fixed-point numbers have one
scale. So a positive integer N < 2^bits is written as mantissa * 4^(place + 1)
with a mantissa in [1/4, 1), and the place is kept as a one-hot vector: bits
with a single 1 at index `place`. A function of the place is then a sum of
public numbers times these bits; a function of two places, one product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.mpc_runtime import Shares
from pipeline.primitives import Arithmetic, fixed
from pipeline.residues import Residues, concatenate

# x^(-1/2) on [1/4, 1), from the constant term on, with the least relative error, 2^-8.9; a step takes e to 1.5 e^2
RSQRT_POLYNOMIAL = (3.49802945, -8.98457961, 14.6576561, -11.97341026, 3.80442202)
RSQRT_STEPS = 3
RSQRT_BITS = 12  # fractional bits of the coefficients


@dataclass(frozen=True)
class Scale:
    """The sizes of integers N, 0 <= N < 2^bits, shape (..., columns).

    bits : even.
    positive : [N >= 1].
    one_hot : 1 at the place; zeros for N = 0, and for N below 4^lowest. Shape (..., columns, bits / 2).
    factor : 2^(bits / 2 - 1 - place), so that N * factor^2 = mantissa * 2^bits; 0 where one_hot is.
    mantissa : fixed point, in [1/4, 1); 0 where one_hot is.
    """

    bits: int
    positive: Shares
    one_hot: Shares
    factor: Shares
    mantissa: Shares

    @property
    def places(self) -> int:
        return self.bits // 2

    def columns(self, part: slice) -> Scale:
        values = (v[..., part] for v in (self.factor, self.mantissa))
        return Scale(self.bits, self.positive[..., part], self.one_hot[..., part, :], *values)

    def at_least(self, place: int) -> Shares:
        """[N >= 4^place]; place must not be below `lowest`."""
        return self.one_hot[..., place:].sum()


async def scale(mpc: Arithmetic, numbers: Shares, bits: int, lowest: int) -> Scale:
    """Compare with powers of 4, all at once, and bring to [1/4, 1).

    numbers : integers of degree 1, shape (..., columns), 0 <= N < 2^bits; bits is even.
    lowest : numbers below 4^lowest have no place. 6 rounds.
    """
    places = bits // 2
    powers = mpc.public([1] + [4**i for i in range(lowest, places)])
    at_least = await mpc.nonnegative(numbers.reshape(*numbers.shape, 1) - powers, bits + 1)
    above = at_least[..., 1:]
    ends = concatenate([above[..., 1:], Residues.zeros(mpc.field, *numbers.shape, 1)], axis=-1)
    below = Residues.zeros(mpc.field, *numbers.shape, lowest)
    one_hot = concatenate([below, above - ends], axis=-1).carried()
    both = mpc.public([[base ** (places - 1 - i) for base in (2, 4)] for i in range(places)])
    factors = (one_hot.reshape(-1, places) @ both).reshape(*numbers.shape, 2)
    mantissa = await mpc.product(numbers, factors[..., 1], bits - F, bits + 2)
    return Scale(bits, at_least[..., 0], one_hot, factors[..., 0], mantissa)


async def rsqrt(mpc: Arithmetic, x: Shares) -> Shares:
    """The inverse square roots of fixed-point numbers in [1/4, 1), by Newton's iteration from a polynomial.

    Without meaning, but below 2^5, for x = 0. 11 rounds.
    """
    a, b, c, d, e = (fixed(k, RSQRT_BITS) for k in RSQRT_POLYNOMIAL)
    square = await mpc.product(x, x, F, 2 * F + 3)
    y = square * (x * d + square * e + (c << F)) + (x * b + (a << F)) * (1 << F)
    y = await mpc.truncate(y, F + RSQRT_BITS, 2 * F + RSQRT_BITS + 8)
    for _ in range(RSQRT_STEPS):
        square = await mpc.product(y, y, F, 2 * F + 12)
        rest = fixed(3) - await mpc.product(x, square, F, 2 * F + 12)
        y = await mpc.product(y, rest, F + 1, 2 * F + 12)
    return y


async def of_places(mpc: Arithmetic, function: Callable[[int], int], left: Shares, right: Shares) -> Shares:
    """Return function(i - j), i the place of `left` and j that of `right`; 0 where there is no place. One round.

    left, right : one-hot vectors, shape (..., places); they broadcast.
    function : public, integer.
    """
    places = left.shape[-1]
    differences = mpc.public([function(k) for k in range(1 - places, places)])
    table = differences[np.arange(places) - np.arange(places)[:, None] + places - 1]
    values = (right.reshape(-1, places) @ table).reshape(*right.shape)
    return await mpc.reduce((left * values).sum())
