"""Arithmetic on Shamir shares: multiplication, truncation, comparison, tests for zero.

Three parties, polynomials of degree 1, party i at x = i + 1, semi-honest.
Shares are arrays of `residues.py`; sums and public multiples are formed with
their operators, without communication. The product of two such sharings is one
of degree 2, which the operations below accept and bring back to degree 1.

Pseudorandom secret sharing (Cramer, Damgård, Ishai, TCC 2005): each pair S of
parties has a key the third party lacks. A number r drawn from it is shared
without communication by the polynomial r * (o - x), which is 0 at x = o, the
place of the party outside; what is shared is o * r. Masks are sums over the
three pairs, so that each party lacks exactly one part of them. Draws are bound
to the number and the name of the operation, so no two operations share one.

An operation on numbers below 2^(l-1) in absolute value may open x + mask, where
the part of the mask that a party lacks is uniform in a range of at least
2^(l+k) numbers: the opened number is within 2^-k of one that does not depend on
x. `bits` is l. Fixed-point numbers are integers times 2^-f; `bits` counts the
bits of the integer.

docs/protocol.md has the argument why each opening tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from pipeline.bounds import FRACTIONAL_BITS, RANGE_BITS
from pipeline.errors import LocalProtocolError
from pipeline.field import PrimeField
from pipeline.mpc_runtime import ALL, PARTIES, Runtime, Shares
from pipeline.residues import (
    LIMB_BITS,
    Limbs,
    Residues,
    concatenate,
    element_bytes,
    from_digits,
    limbs_of,
)

Pair: TypeAlias = tuple[int, int]

PAIRS = ((0, 1), (0, 2), (1, 2))
OUTSIDE: Mapping[Pair, int] = {(0, 1): 3, (0, 2): 2, (1, 2): 1}  # x of the party outside
RECOMBINE = (3, -3, 1)  # f(0) = 3 f(1) - 3 f(2) + f(3) for polynomials of degree 2
HOLDERS, HELPER = (0, 1), 2  # roles in a comparison
SMALL_PRIME = 251  # of the bitwise comparison: above the number of bits, an element fits a byte
PIECE = 4096  # elements
ROUNDING = 3  # units that the unknown parts of a truncation add on average

Bytes: TypeAlias = NDArray[np.uint8]


@dataclass
class Opened:
    """How many field elements have been opened under a statistical mask."""

    masked: int = 0


class Arithmetic:
    """The protocols over one field.

    statistical_bits: k of every opening under a bounded mask.
    opened: counts them; operations over several fields of one fit share it.
    """

    def __init__(
        self, runtime: Runtime, field: PrimeField, statistical_bits: int, opened: Opened | None = None
    ) -> None:
        self.runtime = runtime
        self.field = field
        self.statistical_bits = statistical_bits
        self.opened = Opened() if opened is None else opened
        self._me = runtime.pid
        self._x = runtime.pid + 1
        self._pairs = [pair for pair in PAIRS if self._me in pair]
        self._peers = [i for i in range(PARTIES) if i != self._me]
        runtime.options.sec_param = statistical_bits  # for MPyC's own operations

    def over(self, field: PrimeField) -> Arithmetic:
        """The same for another field."""
        return Arithmetic(self.runtime, field, self.statistical_bits, self.opened)

    # Shares and public numbers

    def public(self, values: Any) -> Shares:
        """A public integer array as shares of degree 0."""
        return Residues.of_integers(self.field, values)

    def concatenate(self, *arrays: Shares) -> Shares:
        """The entries of all arrays, flat: for one round instead of several."""
        return concatenate([array.ravel() for array in arrays])

    def split(self, flat: Shares, *shapes: tuple[int, ...]) -> list[Shares]:
        """The inverse of `concatenate`."""
        parts, done = [], 0
        for shape in shapes:
            size = math.prod(shape)
            parts.append(flat[done : done + size].reshape(*shape))
            done += size
        return parts

    async def together(self, *branches: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run them in the same rounds; return their results."""
        return await self.runtime.together(*branches)

    # Multiplication and truncation

    async def reduce(self, x: Shares) -> Shares:
        """Bring a product (degree 2) to degree 1. One round; opens x under a uniform mask."""
        flat = x.ravel()
        tapes = [(self._weight(pair), self._tape("reduce", pair)) for pair in self._pairs]
        masks, masked = [], []
        for piece in _pieces(flat.size):
            mask = Residues.zeros(self.field, 1)
            total = part = flat[piece]
            for weight, tape in tapes:
                drawn = tape.elements(2, part.size)
                mask = mask + drawn[0] * weight
                total = total + (drawn[0] + drawn[1] * self._x) * weight
            masks.append(mask)
            masked.append(total)
        opened = await self._open("reduce", masked)
        parts = [(total - mask).carried() for total, mask in zip(opened, masks, strict=True)]
        return concatenate(parts).reshape(*x.shape)

    async def truncate(self, x: Shares, shift: int, bits: int) -> Shares:
        """Return x / 2^shift, wrong by less than 4 and by 0 on average, at degree 1, for degree 1 or 2. One round."""
        return await self.convert(x, self, shift, bits)

    async def product(self, a: Shares, b: Shares, shift: int, bits: int) -> Shares:
        """Return the entrywise product a * b / 2^shift. One round."""
        return await self.truncate(a * b, shift, bits)

    async def convert(self, x: Shares, target: Arithmetic, shift: int, bits: int) -> Shares:
        """Truncate x, and write the result as shares in another field: `target` is the arithmetic over it. One round.

        With c = x + 2^(bits-1) + 2^(shift-1) + sum of o r_S opened, the result is
        floor(c / 2^shift) minus the parts' own o floor(r_S / 2^shift). What these
        leave out is between 0 and 6 units, 3 on average; that is taken off. The
        parts of the mask are integers, and may be taken off in any field. With
        shift 0 nothing is left out: the result is exact.
        """
        self._require_room(bits)
        if bits + self.statistical_bits + RANGE_BITS - shift >= LIMB_BITS * limbs_of(target.field):
            raise LocalProtocolError("a truncated number does not fit the field")
        flat = x.ravel()
        size, offset = bits + self.statistical_bits, (1 << bits - 1) + (1 << shift - 1 if shift else 0)
        tapes = [(pair, self._weight(pair), self._tape("truncate", pair)) for pair in self._pairs]
        masked, floors = [], []
        for piece in _pieces(flat.size):
            part = flat[piece]
            total, floor = part + offset, Residues.zeros(target.field, 1)
            for pair, weight, tape in tapes:
                mask, digits, rests = tape.integers(part.size, size)
                total = total + (mask + tape.elements(part.size) * self._x) * weight
                taken = _shifted(digits, shift, target.field)
                if not shift:
                    taken = taken + _fractions(target.field, OUTSIDE[pair])[rests]
                floor = floor + taken * weight
            masked.append(total)
            floors.append(floor + ((1 << bits - 1 >> shift) + (ROUNDING if shift else 0)))
        opened = await self._open("truncate", masked)
        self.opened.masked += flat.size
        parts = [
            _shifted(total.canonical(), shift, target.field) - floor
            for total, floor in zip(opened, floors, strict=True)
        ]
        return concatenate(parts).reshape(*x.shape)

    async def lift(self, values: Shares, target: Arithmetic) -> Shares:
        """Turn shares modulo p into shares of the same numbers in `target`, for any below p / 2. Five rounds.

        Nothing is opened but to the helper c = x + r modulo p, under a mask r that
        is uniform there and that the two holders know. Then x = c - r + p [c < r];
        the comparison is that of `Comparison`.
        """
        flat = values.ravel()
        comparison = Comparison(self, target, flat.size, self.field.bits)
        middle = self.field.p // 2
        await comparison.run(flat + middle, uniform=True)
        wrapped = await comparison.bit()
        return (comparison.difference + wrapped * self.field.p - middle).reshape(*values.shape)

    # Comparison

    def comparison(self, count: int, bits: int) -> Comparison:
        """A comparison of `count` numbers of `bits` bits with 0."""
        self._require_room(bits)
        return Comparison(self, self, count, bits)

    async def nonnegative(self, x: Shares, bits: int) -> Shares:
        """Return shares of 1 where x >= 0 and of 0 elsewhere, for degree 1 or 2. Five rounds."""
        comparison = self.comparison(x.size, bits)
        await comparison.run(x.ravel())
        return (await comparison.bit()).reshape(*x.shape)

    async def is_zero(self, name: str, x: Shares) -> bool:
        """Open to all parties whether the number x, shape (1,), is 0, and nothing else about it. One round.

        x times a uniform factor is opened, of degree 2; a factor of 0 has probability 1/p.
        """
        factor = zero = Residues.zeros(self.field, 1)
        for pair in self._pairs:
            drawn = self._tape("is zero", pair).elements(2, 1)
            factor = factor + drawn[0] * self._weight(pair)
            zero = zero + drawn[1] * (self._weight(pair) * self._x)
        self.runtime.note_opening(name, ALL)
        return not (await self._open("is zero", [x.reshape(1) * factor + zero]))[0].canonical().any()

    def noise(self, count: int, bits: int, purpose: str) -> Shares:
        """Shares of numbers around 0 of whose three parts each is uniform in a range of at least 2^bits: added
        before an opening, they take away what is finer. `purpose` tells one noise from another in the same round.
        """
        total = Residues.zeros(self.field, count)
        for pair in self._pairs:
            total = total + self._tape(f"noise {purpose}", pair).integers(count, bits)[0] * self._weight(pair)
        return total - (7 << bits - 2)

    # Inside

    def _require_room(self, bits: int) -> None:
        if bits + self.statistical_bits + RANGE_BITS > self.field.bits - 1:
            raise LocalProtocolError("a mask does not fit the field")

    def _weight(self, pair: Pair) -> int:
        """What a number drawn by the pair is multiplied by to be this party's share of OUTSIDE times the number."""
        return OUTSIDE[pair] - int(self._x)

    async def _open(self, operation: str, pieces: Sequence[Shares]) -> list[Shares]:
        """Open flat sharings of degree 2 to all parties; what they do not hide, they tell."""
        payload = b"".join([piece.to_bytes() for piece in pieces])
        arrived = await self.runtime.exchange(
            operation, dict.fromkeys(self._peers, payload), dict.fromkeys(self._peers, len(payload))
        )
        opened, done = [], 0
        for piece in pieces:
            width = piece.size * element_bytes(self.field)
            both = b"".join([arrived[peer][done : done + width] for peer in self._peers])
            theirs = Residues.received(self.field, both, (2, piece.size))
            first, second = (theirs[i] * RECOMBINE[peer] for i, peer in enumerate(self._peers))
            opened.append(piece * RECOMBINE[self._me] + first + second)
            done += width
        return opened

    def _tape(self, operation: str, pair: Pair) -> Tape:
        """What only the pair knows, for one operation in the coming round."""
        return Tape(self.field, pair, self.runtime.key_of(operation, self.field.name, pair))


class Tape:
    """Pseudorandom numbers that one pair of parties knows, drawn one after another in the same order by both.

    AES-256 in counter mode; the key serves one operation in one round.
    """

    def __init__(self, field: PrimeField, pair: Pair, key: bytes) -> None:
        self._field = field
        self._outside = OUTSIDE[pair]
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def _bytes(self, size: int) -> Bytes:
        return np.frombuffer(self._encryptor.update(bytes(size)), np.uint8)

    def bits(self, count: int, size: int) -> Shares:
        """Numbers uniform below 2^size."""
        width = -(-size // 8)
        rows = np.frombuffer(bytearray(self._bytes(count * width)), np.uint8).reshape(count, width)
        rows[:, -1] &= 0xFF >> 8 * width - size
        return Residues.of_bytes(self._field, rows)

    def elements(self, *shape: int) -> Shares:
        """Uniform field elements, up to a distance below 2^-120: the primes are that close to a power of two."""
        return self.bits(math.prod(shape), self._field.bits).reshape(*shape)

    def integers(self, count: int, bits: int) -> tuple[Shares, Limbs, NDArray[np.intp]]:
        """Numbers uniform in a range of at least 2^bits, as multiples of OUTSIDE = o: return them divided by o in the
        field, to be weighted; the digits of their quotients by o, which differ from that by less than 1; their rests.

        A number is o r' + g with g below o. The range of r' is halved where o > 1.
        """
        outside = self._outside
        quotients = self.bits(count, bits if outside == 1 else bits - 1)
        if outside == 1:
            return quotients, quotients.limbs, np.zeros(count, np.intp)
        rests = self.below(outside, count)
        return quotients + _fractions(self._field, outside)[rests], quotients.limbs, rests

    def below(self, bound: int, count: int) -> NDArray[np.intp]:
        """Integers below a small `bound`, uniform up to bound / 2^128."""
        words = self._bytes(16 * count).view("<u8").reshape(count, 2)
        by = np.uint64(bound)
        high = words[:, 0] % by * np.uint64(2**64 % bound)
        return ((high + words[:, 1] % by) % by).astype(np.intp)

    def small(self, bound: int, *shape: int) -> NDArray[np.int32]:
        """Uniform integers below `bound` <= 256, by rejection; enough bytes are drawn but with probability 2^-80."""
        count = math.prod(shape)
        drawn = self._bytes(count + count // 8 + 256)
        if 256 % bound:
            drawn = drawn[drawn < 256 // bound * bound]
        return (drawn[:count] % np.uint8(bound)).reshape(shape).astype(np.int32)


class Comparison:
    """Whether numbers are at least 0, in four rounds and one more for what is made of it.

    Two parties, the holders, know a mask r; the third, the helper, learns
    c = x + 2^(l-1) + r and nothing else. The sign of x is the top bit of
    c - r, that is c_top xor r_top xor [c_low < r_low]. For the last term the
    helper shares the bits of c_low modulo a small prime between the holders
    (Damgård et al., TCC 2006; Wagh et al., SecureNN, PETS 2019). They form one
    number per bit position, of which one at most is 0, and one is if and
    only if c_low < r_low, or c_low >= r_low, whichever of the two a
    common secret coin chose; multiply each by a random nonzero factor, rotate
    them by a random amount and send them back. The helper sees whether a 0 is
    among uniform nonzero numbers: a uniform bit. It shares the bit c_top xor
    that; the holders know r_top xor coin; the sign is one xor the other.

    After `run`:
    helper_bit : shares of the helper's bit.
    holders_bit : shares of the holders' bit; there from the first round on, so that products with it can be formed
        meanwhile.
    difference : shares of c - r; only if asked for.
    """

    def __init__(self, mpc: Arithmetic, target: Arithmetic, count: int, bits: int) -> None:
        if bits + 2 >= SMALL_PRIME:
            raise LocalProtocolError("too many bits to compare")
        self._mpc = mpc
        self._target = target
        self._me = mpc.runtime.pid
        self._count, self._bits = count, bits
        self.helper_bit = self.holders_bit = self.difference = Residues.zeros(target.field, count)

    async def run(self, x: Shares, *, uniform: bool = False) -> None:
        """Compare x, flat, of degree 1 or 2. Four rounds; opens x under a mask to the helper.

        uniform : the mask is uniform modulo p, of which all bits take part, and the bit is [c < r].
        """
        if not uniform:
            self._mpc.opened.masked += self._count
        if self._me == HELPER:
            await self._help(x, uniform)
        else:
            await self._hold(x, uniform)

    async def bit(self) -> Shares:
        """Shares of 1 where x >= 0 and of 0 elsewhere, at degree 1. One round."""
        return await self._target.reduce(self.times())

    def times(self, values: Shares | None = None, known: Shares | None = None) -> Shares:
        """The bit, or the bit times `values`, at degree 2.

        known : holders_bit times values, brought to degree 1 beforehand.
        """
        helper, holders = self.helper_bit, self.holders_bit
        if values is None or known is None:
            return helper + holders - helper * holders * 2
        return helper * values + known - helper * known * 2

    # The three roles

    async def _hold(self, x: Shares, uniform: bool) -> None:
        mpc, first = self._mpc, self._me == HOLDERS[0]
        tape = mpc._tape("compare", HOLDERS)
        if uniform:
            r = tape.elements(self._count).canonical()
            offset, top = 0, np.zeros(self._count, np.int32)
            low = _bits(r, self._bits)
        else:
            r = tape.bits(self._count, self._bits + mpc.statistical_bits).limbs
            bits = _bits(r, self._bits)
            offset, top, low = 1 << self._bits - 1, bits[:, 0], bits[:, 1:]
        coin = tape.small(2, self._count, 1)
        self.holders_bit = self._known_to_holders(top ^ coin[:, 0])
        blind = tape.elements(self._count)
        mask = from_digits(mpc.field, r) + offset
        own = x * RECOMBINE[self._me] + (mask + blind if first else -blind)
        await mpc.runtime.exchange("compare", {HELPER: own.to_bytes()}, {})
        shares = await self._shares_of_bits(low.shape)
        await mpc.runtime.exchange("compare found", {HELPER: self._blinded(shares, low, coin, first)}, {})
        dealt = 2 if uniform else 1
        self._take(await self._receive_dealt(dealt))
        if uniform:
            inverse = pow(OUTSIDE[HOLDERS], -1, self._target.field.p)
            r_shares = _shifted(r, 0, self._target.field) * self._target._weight(HOLDERS) * inverse
            self.difference = self.difference - r_shares

    async def _help(self, x: Shares, uniform: bool) -> None:
        mpc, runtime = self._mpc, self._mpc.runtime
        size = self._count * element_bytes(mpc.field)
        arrived = await runtime.exchange("compare", {}, dict.fromkeys(HOLDERS, size))
        theirs = Residues.received(mpc.field, b"".join(arrived[i] for i in HOLDERS), (2, self._count))
        c = (theirs[0] + theirs[1] + x * RECOMBINE[HELPER]).canonical()
        bits = _bits(c, self._bits)
        top, low = (0, bits) if uniform else (bits[:, 0], bits[:, 1:])
        pad = mpc._tape("compare bits", (HOLDERS[0], HELPER)).small(SMALL_PRIME, *low.shape)
        await runtime.exchange("compare bits", {HOLDERS[1]: _small_bytes(low - pad)}, {})
        columns = low.shape[1] + 1
        arrived = await runtime.exchange("compare found", {}, dict.fromkeys(HOLDERS, self._count * columns))
        parts = [np.frombuffer(data, np.uint8).reshape(self._count, columns) for data in arrived.values()]
        # The sum of two bytes is 0 modulo the prime if and only if it is 0 or the prime.
        sums = parts[0].astype(np.int16) + parts[1]
        bit = top ^ ((sums == 0) | (sums == SMALL_PRIME)).any(axis=1)
        numbers = Residues.zeros(self._target.field, self._count) + bit.astype(np.int32)
        if uniform:
            numbers = concatenate([numbers, _shifted(c, 0, self._target.field)])
        self._take(await self._deal(numbers))

    def _take(self, dealt: Shares) -> None:
        self.helper_bit = dealt[: self._count]
        if len(dealt) > self._count:
            self.difference = dealt[self._count :]

    async def _shares_of_bits(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """A holder's shares, modulo the small prime, of the bits of c_low, highest first."""
        mpc = self._mpc
        if self._me == HOLDERS[0]:
            pad = mpc._tape("compare bits", (HOLDERS[0], HELPER)).small(SMALL_PRIME, *shape)
            await mpc.runtime.exchange("compare bits", {}, {})
            return pad
        arrived = await mpc.runtime.exchange("compare bits", {}, {HELPER: shape[0] * shape[1]})
        return np.frombuffer(arrived[HELPER], np.uint8).reshape(shape).astype(np.int32)

    def _blinded(self, shares: NDArray[np.int32], r: NDArray[np.int32], coin: NDArray[np.int32], first: bool) -> bytes:
        """Shares of numbers one of which is 0 where c_low < r_low (coin 0) or r_low <= c_low (coin 1)."""
        tape = self._mpc._tape("compare found", HOLDERS)
        one = int(first)  # a constant enters through one of the two shares
        sign = 1 - 2 * r
        differs = sign * shares
        if first:
            differs += r
        above = np.cumsum(differs, axis=1, dtype=np.int32)
        numbers = np.empty((self._count, r.shape[1] + 1), np.int32)
        numbers[:, -1] = np.where(coin[:, 0] == 1, above[:, -1], one)
        above -= differs  # number of higher positions in which c and r differ
        numbers[:, :-1] = (shares - r if first else shares) * (1 - 2 * coin) + above + one
        factors = tape.small(SMALL_PRIME - 1, *numbers.shape)
        factors += 1
        numbers *= factors
        zero = tape.small(SMALL_PRIME, *numbers.shape)
        numbers += zero if first else -zero
        size = numbers.shape[1]
        order = np.arange(size) + tape.below(size, self._count)[:, None]  # rotated by a uniform amount
        order -= size * (order >= size)
        order += size * np.arange(self._count)[:, None]
        return _small_bytes(np.take(numbers.ravel(), order))

    def _known_to_holders(self, bits: NDArray[np.int32]) -> Shares:
        """Shares of bits both holders know: they lie on bit * (1 - x/3)."""
        target = self._target
        factor = target._weight(HOLDERS) * pow(OUTSIDE[HOLDERS], -1, target.field.p)
        constant = Residues.of_integers(target.field, [factor])
        return Residues(target.field, constant.limbs * bits, constant.bound)

    async def _deal(self, numbers: Shares) -> Shares:
        """Helper: share its numbers; the first holder's share comes from their common key."""
        slope = self._target._tape("compare deal", (HOLDERS[0], HELPER)).elements(*numbers.shape) - numbers
        share = numbers + slope * (HOLDERS[1] + 1)
        await self._mpc.runtime.exchange("compare deal", {HOLDERS[1]: share.to_bytes()}, {})
        return (numbers + slope * (HELPER + 1)).carried()

    async def _receive_dealt(self, arrays: int) -> Shares:
        target, count = self._target, arrays * self._count
        if self._me == HOLDERS[0]:
            share = target._tape("compare deal", (HOLDERS[0], HELPER)).elements(count)
            await self._mpc.runtime.exchange("compare deal", {}, {})
            return share
        size = count * element_bytes(target.field)
        arrived = await self._mpc.runtime.exchange("compare deal", {}, {HELPER: size})
        return Residues.received(target.field, arrived[HELPER], (count,))


def fixed(x: float | Fraction, bits: int = FRACTIONAL_BITS) -> int:
    """A public number as a fixed-point number."""
    return round(Fraction(x) * (1 << bits))


@cache
def _fractions(field: PrimeField, divisor: int) -> Shares:
    """0 / divisor, 1 / divisor, ... in the field."""
    return Residues.of_integers(field, [g * pow(divisor, -1, field.p) for g in range(divisor)])


def _pieces(count: int) -> list[slice]:
    """Parts of a flat array that stay in the cache while they are worked on."""
    return [slice(first, min(first + PIECE, count)) for first in range(0, count, PIECE)] or [slice(0, 0)]


def symmetric(entries: Shares, upper: Any, size: int, diagonal: Shares | None = None) -> Shares:
    """The symmetric matrices whose upper triangles, in the last axis, are these entries."""
    limbs = np.zeros((*entries.limbs.shape[:-1], size, size), np.int64)
    i, j = upper
    limbs[..., i, j] = entries.limbs
    limbs[..., j, i] = entries.limbs
    bound = entries.bound
    if diagonal is not None:
        places = np.arange(size)
        limbs[..., places, places] = diagonal.broadcast(*entries.shape[:-1], size).limbs
        bound = max(bound, diagonal.bound)
    return Residues(entries.field, limbs, bound)


def _shifted(digits: Limbs, shift: int, field: PrimeField) -> Shares:
    """floor(x / 2^shift) of numbers given by digits, in `field`, whose limbs must hold it."""
    place, bits = divmod(shift, LIMB_BITS)
    digits = digits[place:]
    if bits:
        above = np.zeros_like(digits)
        above[:-1] = digits[1:] << LIMB_BITS - bits & (1 << LIMB_BITS) - 1
        digits = (digits >> bits) + above
    count = limbs_of(field)
    limbs = np.zeros((count, *digits.shape[1:]), np.int64)
    kept = digits[:count]
    limbs[: len(kept)] = kept
    return from_digits(field, limbs)


def _bits(digits: Limbs, count: int) -> NDArray[np.int32]:
    """The lowest `count` bits of numbers given by their digits, highest first; shape (n, count)."""
    words = np.ascontiguousarray(digits.T, "<u4").view(np.uint8).reshape(digits.shape[1], -1, 4)
    rows = np.ascontiguousarray(words[..., :3]).reshape(digits.shape[1], -1)
    bits = np.unpackbits(rows, axis=1, bitorder="little", count=count)
    return bits[:, ::-1].astype(np.int32)


def _small_bytes(values: NDArray[np.int32]) -> bytes:
    """Elements modulo the small prime, a byte each."""
    return (values % SMALL_PRIME).astype(np.uint8).tobytes()
