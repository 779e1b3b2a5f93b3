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
from collections.abc import Coroutine
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.bounds import FRACTIONAL_BITS, RANGE_BITS
from pipeline.errors import LocalProtocolError
from pipeline.field import PrimeField
from pipeline.masks import (
    OUTSIDE,
    PAIRS,
    RECOMBINE,
    REST_BYTES,
    SMALL_PRIME,
    Masking,
    Pair,
    Tape,
    bit,
    bit_shares,
    blinded,
    compare_mask,
    compare_open,
    found,
    masked,
    unmasked,
)
from pipeline.mpc_runtime import ALL, PARTIES, Runtime, Shares
from pipeline.residues import LIMB_BITS, Bytes, Residues, concatenate, element_bytes, limbs_of

HOLDERS, HELPER = (0, 1), 2  # roles in a comparison
ROUNDING = 3  # units that the unknown parts of a truncation add on average


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
        how = Masking(self.field, self.field, self._x, None)
        return await self._through_masks("reduce", x, how)

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
        half = 1 << bits - 1
        how = Masking(
            self.field,
            target.field,
            self._x,
            bits + self.statistical_bits,
            offset=half + (1 << shift - 1 if shift else 0),
            shift=shift,
            surplus=(half >> shift) + (ROUNDING if shift else 0),
        )
        self.opened.masked += x.size
        return await self._through_masks("truncate", x, how)

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
        return not (await self._open("is zero", x.reshape(1) * factor + zero)).canonical().any()

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

    async def _through_masks(self, operation: str, x: Shares, how: Masking) -> Shares:
        """Open shares of degree 1 or 2 under masks; what is left of them, of degree 1."""
        own = masked(x.ravel(), how, [self._tape(operation, pair) for pair in self._pairs])
        return unmasked(own, how, await self._send_all(operation, own.payload)).reshape(*x.shape)

    async def _open(self, operation: str, x: Shares) -> Shares:
        """Open a flat sharing of degree 2 to all parties; what it does not hide, it tells."""
        arrived = await self._send_all(operation, x.to_bytes())
        total = x * RECOMBINE[self._me]
        for peer, data in arrived.items():
            total = total + Residues.received(self.field, data, x.shape) * RECOMBINE[peer]
        return total

    async def _send_all(self, operation: str, payload: bytes) -> dict[int, bytes]:
        """One round in which all send as much to both others."""
        return await self.runtime.exchange(
            operation, dict.fromkeys(self._peers, payload), dict.fromkeys(self._peers, len(payload))
        )

    def _tape(self, operation: str, pair: Pair) -> Tape:
        """What only the pair knows, for one operation in the coming round."""
        return Tape(self.field, pair, self.runtime.key_of(operation, self.field.name, pair))


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
        mpc, first, count = self._mpc, self._me == HOLDERS[0], self._count
        tape = mpc._tape("compare", HOLDERS)
        if uniform:
            r, size = tape.elements(count).to_bytes(), mpc.field.bits
            offset, low, top = 0, self._bits, bytes(count)
        else:
            size = self._bits + mpc.statistical_bits
            r = tape.raw(count * (-(-size // 8)))
            offset, low = 1 << self._bits - 1, self._bits - 1
            top = bit(r, count, low)
        coins = tape.small(2, count)
        self.holders_bit = self._known_to_holders(np.frombuffer(top, np.uint8) ^ np.frombuffer(coins, np.uint8))
        blinds = tape.raw(count * element_bytes(mpc.field))
        message = compare_mask(x, RECOMBINE[self._me], r, size, offset, blinds, first=first)
        await mpc.runtime.exchange("compare", {HELPER: message}, {})
        shares = await self._shares_of_bits(count * low)
        tape = mpc._tape("compare found", HOLDERS)
        factors, zeros = (tape.small(bound, count * (low + 1)) for bound in (SMALL_PRIME - 1, SMALL_PRIME))
        places = tape.raw(count * REST_BYTES)
        message = blinded(shares, r, count, low, coins, factors, zeros, places, first=first)
        await mpc.runtime.exchange("compare found", {HELPER: message}, {})
        dealt = 2 if uniform else 1
        self._take(await self._receive_dealt(dealt))
        if uniform:
            inverse = pow(OUTSIDE[HOLDERS], -1, self._target.field.p)
            self.difference = self.difference - self._lifted(r) * self._target._weight(HOLDERS) * inverse

    async def _help(self, x: Shares, uniform: bool) -> None:
        mpc, runtime, count = self._mpc, self._mpc.runtime, self._count
        arrived = await runtime.exchange("compare", {}, dict.fromkeys(HOLDERS, count * element_bytes(mpc.field)))
        c = compare_open(x, RECOMBINE[HELPER], arrived[0], arrived[1])
        low = self._bits if uniform else self._bits - 1
        pad = mpc._tape("compare bits", (HOLDERS[0], HELPER)).small(SMALL_PRIME, count * low)
        await runtime.exchange("compare bits", {HOLDERS[1]: bit_shares(c, count, low, pad)}, {})
        arrived = await runtime.exchange("compare found", {}, dict.fromkeys(HOLDERS, count * (low + 1)))
        bits = np.frombuffer(found(arrived[0], arrived[1], count, low + 1), np.uint8)
        if not uniform:
            bits = bits ^ np.frombuffer(bit(c, count, low), np.uint8)
        numbers = Residues.zeros(self._target.field, count) + bits
        if uniform:
            numbers = concatenate([numbers, self._lifted(c)])
        self._take(await self._deal(numbers))

    def _lifted(self, elements: bytes) -> Shares:
        """The same numbers in the target's field, which must hold them."""
        width = element_bytes(self._mpc.field)
        return Residues.of_bytes(self._target.field, np.frombuffer(elements, np.uint8).reshape(-1, width))

    def _take(self, dealt: Shares) -> None:
        self.helper_bit = dealt[: self._count]
        if len(dealt) > self._count:
            self.difference = dealt[self._count :]

    async def _shares_of_bits(self, size: int) -> bytes:
        """A holder's shares, modulo the small prime, of the bits of c_low, highest first."""
        mpc = self._mpc
        if self._me == HOLDERS[0]:
            pad = mpc._tape("compare bits", (HOLDERS[0], HELPER)).small(SMALL_PRIME, size)
            await mpc.runtime.exchange("compare bits", {}, {})
            return pad
        return (await mpc.runtime.exchange("compare bits", {}, {HELPER: size}))[HELPER]

    def _known_to_holders(self, bits: Bytes) -> Shares:
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


def symmetric(entries: Shares, upper: Any, size: int, diagonal: Shares | None = None) -> Shares:
    """The symmetric matrices whose upper triangles, in the last axis, are these entries; what is not there is 0."""
    i, j = upper
    limbs = np.zeros((*entries.limbs.shape[:-1], len(i) + 1), np.int64)
    limbs[..., :-1] = entries.limbs
    place = np.full((size, size), len(i))
    place[i, j] = place[j, i] = np.arange(len(i))
    limbs = limbs.take(place, axis=-1)
    bound = entries.bound
    if diagonal is not None:
        places = np.arange(size)
        limbs[..., places, places] = diagonal.broadcast(*entries.shape[:-1], size).limbs
        bound = max(bound, diagonal.bound)
    return Residues(entries.field, limbs, bound)
