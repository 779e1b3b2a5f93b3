"""Arithmetic on Shamir shares: multiplication, truncation, comparison, tests for zero.

Three parties, polynomials of degree 1, party i at x = i + 1, semi-honest. The
shares are MPyC's prime-field arrays; sums and public multiples are formed with
their operators, without communication. The product of two such sharings is one
of degree 2; `reduce` and `truncate` bring it back to degree 1.

Pseudorandom secret sharing (Cramer, Damgård, Ishai, TCC 2005): each pair S of
parties has a key the third party lacks. A number r_S drawn from it is shared
without communication by the polynomial r_S * f_S, where f_S is 1 at 0 and 0 at
the third party. Every mask below is a sum over the three pairs, so that each
party lacks exactly one part of it. Draws are bound to the number and the name
of the operation, so no two operations share one.

An operation on numbers below 2^(l-1) in absolute value may open x + mask, where
each part of the mask is uniform below 2^(l+k): the opened number is within
2^-k of one that does not depend on x. `bits` is l. Fixed-point numbers are
integers times 2^-f; `bits` counts the bits of the integer.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.bounds import FRACTIONAL_BITS
from pipeline.errors import LocalProtocolError
from pipeline.field import PrimeField
from pipeline.messages import Words
from pipeline.mpc_runtime import GF, PARTIES, Codec, Runtime, Shares, object_array, unpack_integers

PAIRS = ((0, 1), (0, 2), (1, 2))
RECOMBINE_ALL = (3, -3, 1)  # f(0) = 3 f(1) - 3 f(2) + f(3) for polynomials of degree 2
RECOMBINE_HOLDERS = (2, -1)  # f(0) = 2 f(1) - f(2) for polynomials of degree 1
HOLDERS, HELPER = (0, 1), 2  # roles in a comparison
SMALL_PRIME = 251  # of the bitwise comparison: above the number of bits, an element fits a byte
MATMUL_LIMBS_FROM = 24  # size from which a product of matrices is faster in limbs than in Python integers

Pair: TypeAlias = tuple[int, int]
Masks: TypeAlias = dict[Pair, Any]  # the part of each pair this party belongs to
Bytes: TypeAlias = NDArray[np.uint8]


class Arithmetic:
    """The protocols over one field; counts what it opens under a mask.

    statistical_bits: k of every opening under a bounded mask.
    """

    def __init__(self, runtime: Runtime, field: PrimeField, statistical_bits: int) -> None:
        self.runtime = runtime
        self.prime_field = field
        self.field = GF(field.p)
        self.statistical_bits = statistical_bits
        self.masked_openings = 0
        self._codec = Codec(field.p)
        self._me = runtime.pid
        self._pairs = [pair for pair in PAIRS if self._me in pair]
        self._peers = [i for i in range(PARTIES) if i != self._me]
        self._drawn: set[tuple[str, Pair]] = set()
        self._drawn_at = -1
        runtime.options.sec_param = statistical_bits  # for MPyC's own operations

    # Shares and public numbers

    def public(self, values: Any) -> Shares:
        """A public integer array as shares of degree 0."""
        return self.field.array(np.array(values, dtype=object))

    def concatenate(self, *arrays: Shares) -> Shares:
        """The entries of all arrays, flat: for one round instead of several."""
        return self.field.array(np.concatenate([a.value.ravel() for a in arrays]), check=False)

    def split(self, flat: Shares, *shapes: tuple[int, ...]) -> list[Shares]:
        """The inverse of `concatenate`."""
        ends = np.cumsum([int(np.prod(shape, dtype=int)) for shape in shapes])
        parts = np.split(flat.value, ends[:-1])
        return [self.field.array(x.reshape(s), check=False) for x, s in zip(parts, shapes, strict=True)]

    def matmul(self, a: Shares, b: Shares) -> Shares:
        """The local product of two matrices of shares, of degree 2."""
        if min(*a.shape, *b.shape) < MATMUL_LIMBS_FROM:
            return a @ b
        product = self.prime_field.matmul(self._words(a), self._words(b))
        return self.field.array(self.prime_field.to_ints(product), check=False)

    # Multiplication and truncation

    async def reduce(self, x: Shares) -> Shares:
        """Bring a product (degree 2) to degree 1. One round; opens x under a uniform mask."""
        flat = x.value.ravel()
        masks = {pair: self._elements("reduce", pair, flat.size) for pair in self._pairs}
        opened = await self._open_masked("reduce", flat, masks)
        return self._shares((opened - self._weighted(masks)).reshape(x.shape), x.shape)

    async def truncate(self, x: Shares, shift: int, bits: int) -> Shares:
        """Return x / 2^shift, wrong by less than 2 and by 0 on average, at degree 1, for degree 1 or 2. One round.

        With c = x + 2^(bits-1) + sum of r_S opened, the result is
        floor(c / 2^shift) minus the parts' own floors. What these round off is 0 to
        3 units, 1.5 on average, and what the first rounds off, 0.5: so 1 is taken off.
        """
        self._require_room(bits)
        flat = x.value.ravel()
        size = bits + self.statistical_bits
        masks = {pair: self._integers("truncate", pair, flat.size, size) for pair in self._pairs}
        opened = await self._open_masked("truncate", flat + (1 << bits - 1), masks)
        self.masked_openings += flat.size
        floors = {pair: mask >> shift for pair, mask in masks.items()}
        centre = (1 << bits - 1 - shift) + 1
        return self._shares(((opened >> shift) - self._weighted(floors) - centre).reshape(x.shape), x.shape)

    async def product(self, a: Shares, b: Shares, shift: int, bits: int) -> Shares:
        """Return the entrywise product a * b / 2^shift. One round."""
        return await self.truncate(a * b, shift, bits)

    async def lift(self, values: Any, source: PrimeField, bits: int) -> Shares:
        """Turn shares modulo a smaller prime into shares of the same numbers modulo ours. One round.

        values : integers below source.p, shares of degree 1 or 2 of numbers below 2^(bits-1) in absolute value.

        A truncation by nothing whose result is written in another field: the
        parts of the mask are integers, and may be taken off in any.
        """
        if bits + self.statistical_bits + 2 > source.bits - 1:
            raise LocalProtocolError("a mask does not fit the field")
        flat = values.ravel()
        small = GF(source.p)
        masks = {pair: self._integers("lift", pair, flat.size, bits + self.statistical_bits) for pair in self._pairs}
        opened = await self._open_masked("lift", flat + (1 << bits - 1), masks, small)
        self.masked_openings += flat.size
        return self._shares((opened - self._weighted(masks) - (1 << bits - 1)).reshape(values.shape), values.shape)

    # Comparison

    async def nonnegative(self, x: Shares, bits: int) -> Shares:
        """Return shares of 1 where x >= 0 and of 0 elsewhere. Five rounds.

        Two parties, the holders, know a mask r; the third, the helper, learns
        c = x + 2^(l-1) + r and nothing else. The sign of x is the top bit of
        c - r, that is c_top xor r_top xor [c_low < r_low]. For the last term the
        helper shares the bits of c_low modulo a small prime between the holders
        (Damgård et al., TCC 2006; Wagh et al., SecureNN, PETS 2019). They form one
        number per bit position, of which one at most is 0, and one is if and
        only if c_low < r_low, or c_low >= r_low, whichever of the two a
        common secret coin chose; multiply each by a random nonzero factor, rotate
        them by a random amount and send them back. The helper sees whether a 0 is
        among uniform nonzero numbers: a uniform bit. It shares c_top xor that
        bit; the holders know r_top xor coin; what is left is one product.
        """
        self._require_room(bits)
        flat = x.value.ravel()
        comparison = _Comparison(self, flat.size, bits)
        if self._me == HELPER:
            known, helper = 0, self._shares(await comparison.help(), flat.shape)
        else:
            holder_bits, helper_shares = await comparison.hold(flat)
            known, helper = holder_bits, self._shares(helper_shares, flat.shape)
        self.masked_openings += flat.size
        holders = self._shares(known * self._factor(HOLDERS), flat.shape)
        return await self._xor(helper, holders, x.shape)

    async def _xor(self, a: Shares, b: Shares, shape: tuple[int, ...]) -> Shares:
        return (a + b - 2 * await self.reduce(a * b)).reshape(shape)

    async def is_zero(self, name: str, x: Shares) -> bool:
        """Open to all parties whether the number x is 0, and nothing else about it. Two rounds."""
        masks = {pair: self._elements("is zero", pair, 1) for pair in self._pairs}
        factor = self._shares(self._weighted(masks), (1,))
        blinded = await self.reduce(x * factor)
        return not (await self.runtime.open_to_all(name, blinded)).any()

    def noise(self, count: int, bits: int) -> Shares:
        """Shares of numbers around 0 whose three parts are uniform in a range of 2^bits: added before an opening,
        they take away what is finer.
        """
        masks = {pair: self._integers("noise", pair, count, bits) for pair in self._pairs}
        return self._shares(self._weighted(masks) - (3 << bits - 1), (count,))

    # Inside

    def _words(self, matrix: Shares) -> Words:
        data = self._codec.pack(matrix.value)
        return np.frombuffer(data, "<u8").reshape(*matrix.shape, self.prime_field.words)

    def _require_room(self, bits: int) -> None:
        if bits + self.statistical_bits + 2 > self.prime_field.bits - 1:
            raise LocalProtocolError("a mask does not fit the field")

    def _shares(self, values: Any, shape: tuple[int, ...]) -> Shares:
        return self.field.array(np.broadcast_to(values, shape).astype(object))

    def _factor(self, pair: Pair, modulus: int | None = None) -> int:
        """f_S at this party: 1 - x / (x of the party outside S)."""
        p = modulus or self.prime_field.p
        outside = next(i for i in range(PARTIES) if i not in pair)
        return int((1 - (self._me + 1) * pow(outside + 1, -1, p)) % p)

    def _weighted(self, masks: Masks) -> Any:
        """This party's share of the sum of the parts."""
        return sum(mask * self._factor(pair) for pair, mask in masks.items())

    async def _open_masked(self, operation: str, flat: Any, masks: Masks, field: Any = None) -> Any:
        """Open flat + sum of the masks, re-randomised as a sharing of degree 2, to all parties."""
        field = field or self.field
        p = field.modulus
        codec = self._codec if p == self.prime_field.p else Codec(p)
        total = flat
        for pair, mask in masks.items():
            zero = self._elements(f"{operation} zero", pair, flat.size, p)
            total = total + (mask + zero * (self._me + 1)) * self._factor(pair, p)
        total = total % p
        payload = codec.pack(total)
        arrived = await self.runtime.exchange(
            operation, dict.fromkeys(self._peers, payload), dict.fromkeys(self._peers, len(payload))
        )
        opened = total * RECOMBINE_ALL[self._me]
        for sender, data in arrived.items():
            opened = opened + codec.unpack(data) * RECOMBINE_ALL[sender]
        return opened % p

    def stream(self, operation: str, pair: Pair, size: int) -> Bytes:
        """`size` bytes that only the pair knows, bound to the number of the coming round and to `operation`."""
        counter = self.runtime._program_counter[0]
        if counter != self._drawn_at:
            self._drawn_at, self._drawn = counter, set()
        if (operation, pair) in self._drawn:
            raise LocalProtocolError(f"{operation} would draw the same numbers twice")
        self._drawn.add((operation, pair))
        label = b"secure-lasso-pipeline/prss/v1" + counter.to_bytes(8, "little", signed=True)
        key = self.runtime._prss_keys[pair]
        return np.frombuffer(hashlib.shake_128(key + label + operation.encode()).digest(size), np.uint8)

    def _integers(self, operation: str, pair: Pair, count: int, bits: int) -> Any:
        """Uniform integers below 2^bits."""
        width = (bits + 7) // 8
        data = self.stream(operation, pair, count * width).reshape(count, width).copy()
        data[:, -1] &= 0xFF >> (8 * width - bits)
        return object_array(unpack_integers(data.tobytes(), width))

    def _elements(self, operation: str, pair: Pair, count: int, p: int | None = None) -> Any:
        """Uniform field elements, up to a distance below 2^-180: the primes are that close to a power of two."""
        p = p or self.prime_field.p
        return self._integers(operation, pair, count, p.bit_length()) % p

    def small(self, operation: str, pair: Pair, shape: tuple[int, int], bound: int) -> NDArray[np.int64]:
        """Uniform integers below `bound` <= 256, by rejection; enough bytes are drawn but with probability 2^-80."""
        count = shape[0] * shape[1]
        drawn = self.stream(operation, pair, count + count // 8 + 256)
        drawn = drawn[drawn < 256 // bound * bound][:count] % bound
        return drawn.reshape(shape).astype(np.int64)


class _Comparison:
    """The messages of `Arithmetic.nonnegative`, for `count` numbers of `bits` bits."""

    def __init__(self, arithmetic: Arithmetic, count: int, bits: int) -> None:
        if bits + 2 >= SMALL_PRIME:
            raise LocalProtocolError("too many bits to compare")
        self._arithmetic = arithmetic
        self._runtime = arithmetic.runtime
        self._codec = arithmetic._codec
        self._me = arithmetic.runtime.pid
        self._count, self._bits = count, bits
        self._p = arithmetic.prime_field.p

    async def hold(self, x: Any) -> tuple[Any, Any]:
        """The holders' part: r_top xor coin, known to both, and this party's share of the helper's bit."""
        draw, first = self._arithmetic, self._me == HOLDERS[0]
        mask = draw._integers("compare", HOLDERS, self._count, self._bits + draw.statistical_bits)
        blind = draw._elements("compare blind", HOLDERS, self._count)
        coin = draw.small("compare coin", HOLDERS, (self._count, 1), 2)
        own = x * RECOMBINE_HOLDERS[self._me] + (mask + blind + (1 << self._bits - 1) if first else -blind)
        await self._runtime.exchange("compare", {HELPER: self._codec.pack(own % self._p)}, {})
        shares = await self._shares_of_bits()
        await self._runtime.exchange("compare found", {HELPER: self._blinded(shares, mask, coin, first)}, {})
        top = (mask >> self._bits - 1 & 1).astype(np.int64)
        return (top ^ coin[:, 0]).astype(object), await self._share_of_bit()

    async def help(self) -> Any:
        """The helper's part: its share of the bit it has found."""
        size = self._count * self._codec.width
        arrived = await self._runtime.exchange("compare", {}, dict.fromkeys(HOLDERS, size))
        c = sum(self._codec.unpack(data) for data in arrived.values()) % self._p
        low = binary(c & (1 << self._bits - 1) - 1, self._bits - 1)
        pad = self._arithmetic.small("compare bits", (HOLDERS[0], HELPER), low.shape, SMALL_PRIME)
        await self._runtime.exchange("compare bits", {HOLDERS[1]: small_bytes(low - pad)}, {})
        size = self._count * self._bits
        arrived = await self._runtime.exchange("compare found", {}, dict.fromkeys(HOLDERS, size))
        parts = [np.frombuffer(data, np.uint8).reshape(self._count, self._bits) for data in arrived.values()]
        found = ((parts[0].astype(np.int64) + parts[1]) % SMALL_PRIME == 0).any(axis=1)
        bit = (c >> self._bits - 1 & 1) ^ found.astype(int).astype(object)
        return await self._deal_bit(bit)

    async def _shares_of_bits(self) -> NDArray[np.int64]:
        """A holder's shares, modulo the small prime, of the bits of c_low, highest first."""
        shape = (self._count, self._bits - 1)
        if self._me == HOLDERS[0]:
            pad = self._arithmetic.small("compare bits", (HOLDERS[0], HELPER), shape, SMALL_PRIME)
            await self._runtime.exchange("compare bits", {}, {})
            return pad
        arrived = await self._runtime.exchange("compare bits", {}, {HELPER: shape[0] * shape[1]})
        return np.frombuffer(arrived[HELPER], np.uint8).reshape(shape).astype(np.int64)

    def _blinded(self, shares: NDArray[np.int64], mask: Any, coin: NDArray[np.int64], first: bool) -> bytes:
        """Shares of numbers one of which is 0 where c_low < r_low (coin 0) or r_low <= c_low (coin 1)."""
        one = int(first)  # a constant enters through one of the two shares
        r = binary(mask & (1 << self._bits - 1) - 1, self._bits - 1)
        differs = np.where(r == 1, one - shares, shares)
        above = np.cumsum(differs, axis=1) - differs  # number of higher positions in which c and r differ
        sign = 1 - 2 * coin
        found = sign * (shares - one * r) + one + above
        equal = np.where(coin == 1, differs.sum(axis=1, keepdims=True), one)
        numbers = np.concatenate((found, equal), axis=1)
        draw = self._arithmetic
        factors = draw.small("compare factor", HOLDERS, numbers.shape, SMALL_PRIME - 1) + 1
        zero = draw.small("compare zero", HOLDERS, numbers.shape, SMALL_PRIME) * (1 if first else -1)
        return small_bytes(np.take_along_axis(numbers * factors + zero, self._rotation(), axis=1))

    def _rotation(self) -> NDArray[np.int64]:
        """For each number the positions in an order rotated by a uniform amount, up to a distance of 2^-120."""
        words = self._arithmetic.stream("compare rotation", HOLDERS, 16 * self._count).view("<u8").reshape(-1, 2)
        size = np.uint64(self._bits)
        amount = (words[:, :1] % size * np.uint64(2**64 % self._bits) + words[:, 1:] % size) % size
        return (np.arange(self._bits, dtype=np.int64) + amount.astype(np.int64)) % self._bits

    async def _deal_bit(self, bit: Any) -> Any:
        """Helper: share its bit; the first holder's share comes from their common key."""
        slope = self._arithmetic._elements("compare deal", (HOLDERS[0], HELPER), self._count) - bit
        share = (bit + slope * (HOLDERS[1] + 1)) % self._p
        await self._runtime.exchange("compare deal", {HOLDERS[1]: self._codec.pack(share)}, {})
        return (bit + slope * (HELPER + 1)) % self._p

    async def _share_of_bit(self) -> Any:
        if self._me == HOLDERS[0]:
            share = self._arithmetic._elements("compare deal", (HOLDERS[0], HELPER), self._count)
            await self._runtime.exchange("compare deal", {}, {})
            return share
        size = self._count * self._codec.width
        arrived = await self._runtime.exchange("compare deal", {}, {HELPER: size})
        return self._codec.unpack(arrived[HELPER])


def fixed(x: float, bits: int = FRACTIONAL_BITS) -> int:
    """A public number as a fixed-point number."""
    return round(Fraction(x) * (1 << bits))


def binary(values: Any, bits: int) -> NDArray[np.int64]:
    """The lowest `bits` bits of non-negative integers, highest first; shape (n, bits)."""
    width = (bits + 7) // 8
    data = b"".join([x.to_bytes(width, "big") for x in values.tolist()])
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, width), axis=1)
    return unpacked[:, 8 * width - bits :].astype(np.int64)


def small_bytes(values: NDArray[np.int64]) -> bytes:
    """Elements modulo the small prime, a byte each."""
    return (values % SMALL_PRIME).astype(np.uint8).tobytes()
