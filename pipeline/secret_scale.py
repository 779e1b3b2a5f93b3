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

from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.mpc_runtime import Shares
from pipeline.primitives import Arithmetic, fixed

RSQRT_STEPS = 5  # the line is wrong by at most 0.11, relatively; a step takes an error e to 1.5 e^2


@dataclass(frozen=True)
class Scale:
    """The sizes of a vector of integers N, 0 <= N < 2^bits.

    at_least : [N >= 4^i], shape (columns, bits / 2).
    one_hot : 1 at the place; zeros for N = 0. Same shape.
    factor : 2^(bits / 2 - 1 - place), so that N * factor^2 = mantissa * 2^bits; 0 for N = 0.
    mantissa : fixed point, in [1/4, 1); 0 for N = 0.
    rsqrt : fixed point, mantissa^(-1/2); without meaning, but below 2^5, for N = 0.
    """

    bits: int
    at_least: Shares
    one_hot: Shares
    factor: Shares
    mantissa: Shares
    rsqrt: Shares

    @property
    def places(self) -> int:
        return self.bits // 2

    def columns(self, part: slice) -> Scale:
        vectors = (self.at_least, self.one_hot, self.factor, self.mantissa, self.rsqrt)
        return Scale(self.bits, *(vector[part] for vector in vectors))


async def scale(mpc: Arithmetic, numbers: Shares, bits: int) -> Scale:
    """Compare with all powers of 4 at once, bring to [1/4, 1) and take the inverse square root there.

    numbers : integers of degree 1, shape (columns,), 0 <= N < 2^bits; bits is even. 21 rounds.
    """
    places = bits // 2
    powers = mpc.public([4**i for i in range(places)])
    at_least = await mpc.nonnegative(numbers.reshape(-1, 1) - powers, bits + 1)
    one_hot = at_least.value.copy()
    one_hot[:, :-1] -= at_least.value[:, 1:]
    one_hot = mpc.field.array(one_hot)
    factor, squared = (one_hot @ mpc.public([base ** (places - 1 - i) for i in range(places)]) for base in (2, 4))
    mantissa = await mpc.product(numbers, squared, bits - F, bits + 2)
    return Scale(bits, at_least, one_hot, factor, mantissa, await rsqrt(mpc, mantissa))


async def rsqrt(mpc: Arithmetic, x: Shares) -> Shares:
    """The inverse square roots of fixed-point numbers in [1/4, 1), by Newton's iteration from a line. 16 rounds."""
    y = fixed(2.2) - await mpc.truncate(x * fixed(1.3), F, 2 * F + 3)
    for _ in range(RSQRT_STEPS):
        square = await mpc.product(y, y, F, 2 * F + 12)
        y = await mpc.product(y, fixed(3) - await mpc.product(x, square, F, 2 * F + 12), F + 1, 2 * F + 12)
    return y


async def of_places(mpc: Arithmetic, function: Callable[[int], int], left: Shares, right: Shares) -> Shares:
    """Return function(i - j), i the place of `left` and j that of `right`; 0 where there is no place. One round.

    left, right : one-hot vectors, shape (columns, places); a single one is matched with all of the other.
    function : public, integer.
    """
    places = range(left.shape[1])
    table = mpc.public([[function(i - j) for i in places] for j in places])
    return await mpc.reduce((left * (right @ table)).sum(axis=1))
