"""What a party does by itself between two rounds: it draws masks, adds them, and takes its parts of them off again.

Numbers, on shares and drawn, go in; messages come out, and the other way round.
No function here communicates. Each does the same with and without the compiled
functions of `kernels.py`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from pipeline import kernels
from pipeline.errors import RemoteProtocolError
from pipeline.field import PrimeField
from pipeline.residues import (
    LIMB_BITS,
    LIMB_MASK,
    NO_ELEMENT,
    Bytes,
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
SMALL_PRIME = 251  # of the bitwise comparison: above the number of bits, an element fits a byte
PIECE = 4096  # elements worked on at a time: they stay in the cache
REST_BYTES = 16  # drawn for an integer below a small bound
_AES_BLOCK = 16  # bytes
_ZEROS = memoryview(bytes(1 << 16))  # what is encrypted for a stream of AES in counter mode
_FROM_ZERO = modes.CTR(bytes(16))


class _Scratch(threading.local):
    """Memory for what is drawn, kept from one piece to the next: new pages cost several times what the draws do."""

    def __init__(self) -> None:
        self._buffers: dict[int, memoryview] = {}

    def buffer(self, number: int, size: int) -> memoryview:
        if len(self._buffers.get(number, b"")) < size:
            self._buffers[number] = memoryview(bytearray(size))
        return self._buffers[number][:size]


_scratch = _Scratch()


class Tape:
    """Pseudorandom numbers that one pair of parties knows, drawn one after another in the same order by both.

    AES-256 in counter mode; the key serves one operation in one round.
    """

    def __init__(self, field: PrimeField, pair: Pair, key: bytes) -> None:
        self.field = field
        self.outside = OUTSIDE[pair]
        self._encryptor = Cipher(algorithms.AES(key), _FROM_ZERO).encryptor()

    def raw(self, size: int) -> bytes:
        return self._encryptor.update(_ZEROS[:size] if size <= len(_ZEROS) else bytes(size))

    def fill(self, buffer: memoryview) -> None:
        """The same into memory that is there; the encryptor asks for room for a block more."""
        size = len(buffer) - _AES_BLOCK
        for start in range(0, size, len(_ZEROS)):
            self._encryptor.update_into(_ZEROS[: size - start], buffer[start:])

    def bits(self, count: int, size: int) -> Residues:
        """Numbers uniform below 2^size."""
        return _numbers(self.field, self.raw(count * _bytes(size)), count, size)

    def elements(self, *shape: int) -> Residues:
        """Uniform field elements, up to a distance below 2^-120: the primes are that close to a power of two."""
        return self.bits(math.prod(shape), self.field.bits).reshape(*shape)

    def integers(self, count: int, bits: int) -> tuple[Residues, Limbs, NDArray[np.intp]]:
        """Numbers uniform in a range of at least 2^bits, as multiples of OUTSIDE = o: return them divided by o in the
        field, to be weighted; the digits of their quotients by o, which differ from that by less than 1; their rests.

        A number is o r' + g with g below o. The range of r' is halved where o > 1.
        """
        outside = self.outside
        quotients = self.bits(count, bits if outside == 1 else bits - 1)
        if outside == 1:
            return quotients, quotients.limbs, np.zeros(count, np.intp)
        rests = self.below(outside, count)
        return quotients + _fractions(self.field, outside)[rests], quotients.limbs, rests

    def below(self, bound: int, count: int) -> NDArray[np.intp]:
        """Integers below a small `bound`, uniform up to bound / 2^128."""
        return _below(self.raw(REST_BYTES * count), bound, count)

    def small(self, bound: int, count: int) -> bytes:
        """Uniform integers below `bound` <= 256, by rejection; enough bytes are drawn but with probability 2^-80."""
        drawn = self.raw(count + count // 8 + 256)
        if compiled := kernels.compiled:
            found: bytes = compiled.small(drawn, bound, count)
            return found
        numbers = np.frombuffer(drawn, np.uint8)
        if 256 % bound:
            numbers = numbers[numbers < 256 // bound * bound]
        return (numbers[:count] % np.uint8(bound)).tobytes() if bound < 256 else numbers[:count].tobytes()


# Openings under masks


@dataclass(frozen=True)
class Masking:
    """How numbers of a field are opened under masks, and what becomes of them: (x + offset + masks) / 2^shift rounded
    down, less what each part of the masks comes to by itself, less `surplus`, in the field `target`.

    x : of the party, at which its shares lie.
    size : bits of a part of the mask, or None if it is uniform modulo p.
    """

    field: PrimeField
    target: PrimeField
    x: int
    size: int | None
    offset: int = 0
    shift: int = 0
    surplus: int = 0

    @property
    def weights(self) -> list[int]:
        """What the numbers of the tapes are multiplied by to be the party's shares of OUTSIDE times the numbers."""
        return [outside - self.x for pair, outside in OUTSIDE.items() if self.x - 1 in pair]


@dataclass(frozen=True, eq=False)
class Masked:
    """A message, and what the party takes off when the others' have arrived."""

    payload: bytes
    parts: Any  # Residues, or words of the compiled functions


def masked(numbers: Residues, how: Masking, tapes: Sequence[Tape]) -> Masked:
    """Mask flat shares; the tapes are those of the party's pairs."""
    if (compiled := kernels.of(how.field)) and kernels.of(how.target):
        parts = np.empty((numbers.size, how.target.words + 1), np.uint64)
        payload = [
            compiled.mask(
                *(how.field.bits, how.field.c, how.target.bits, how.target.c),
                *(numbers.limbs[:, piece], _words(how.field, how.offset), how.x, how.shift),
                *(_words(how.target, how.surplus), parts[piece]),
                *_drawn(how, tapes, piece.stop - piece.start),
            )
            for piece in pieces(numbers.size)
        ]
        return Masked(payload[0] if len(payload) == 1 else b"".join(payload), parts)
    totals, floors = [], []
    for piece in pieces(numbers.size):
        part = numbers[piece]
        total, floor = part + how.offset, Residues.zeros(how.target, 1)
        for weight, tape in zip(how.weights, tapes, strict=True):
            if how.size is None:
                mask = tape.elements(part.size)
                taken = mask
            else:
                mask, digits, rests = tape.integers(part.size, how.size)
                taken = shifted(digits, how.shift, how.target)
                if not how.shift:
                    taken = taken + _fractions(how.target, tape.outside)[rests]
            total = total + (mask + tape.elements(part.size) * how.x) * weight
            floor = floor + taken * weight
        totals.append(total.to_bytes())
        floors.append(floor + how.surplus)
    return Masked(b"".join(totals), concatenate(floors))


def unmasked(own: Masked, how: Masking, arrived: Mapping[int, bytes]) -> Residues:
    """Put together the messages of all three parties, of the right length; RemoteProtocolError for another number."""
    width = element_bytes(how.field)
    count = len(own.payload) // width
    order = [how.x - 1, *arrived]
    shares = [own.payload, *arrived.values()]
    if (compiled := kernels.of(how.field)) and kernels.of(how.target):
        limbs = compiled.unmask(
            *(how.field.bits, how.field.c, how.target.bits, how.target.c),
            *shares,
            *(RECOMBINE[party] for party in order),
            *(count, how.shift, own.parts),
        )
        if limbs is None:
            raise RemoteProtocolError(NO_ELEMENT)
        return Residues(how.target, limbs, LIMB_MASK)
    opened = []
    for piece in pieces(count):
        total = Residues.zeros(how.field, piece.stop - piece.start)
        for party, data in zip(order, shares, strict=True):
            part = Residues.received(how.field, data[width * piece.start : width * piece.stop], total.shape)
            total = total + part * RECOMBINE[party]
        opened.append((shifted(total.canonical(), how.shift, how.target) - own.parts[piece]).carried())
    return concatenate(opened)


def _drawn(how: Masking, tapes: Sequence[Tape], count: int) -> list[Any]:
    """What the compiled function takes of each tape for some elements."""
    arguments: list[Any] = []
    for number, (weight, tape) in enumerate(zip(how.weights, tapes, strict=True)):
        outside = 1 if how.size is None else tape.outside
        size = how.field.bits if how.size is None else how.size - (outside > 1)
        length = count * (_bytes(size) + (REST_BYTES if outside > 1 else 0) + element_bytes(how.field))
        drawn = _scratch.buffer(number, length + _AES_BLOCK)
        tape.fill(drawn)
        fractions = None if outside == 1 else _fraction_words(how.field, outside)
        in_target = None if outside == 1 or how.shift else _fraction_words(how.target, outside)
        arguments += drawn[:length], size, weight, outside, fractions, in_target
    return arguments


# Comparison


def compare_mask(
    x: Residues, factor: int, masks: bytes, size: int, offset: int, blinds: bytes, *, first: bool
) -> bytes:
    """A holder's message: x * factor + mask + offset + blind, or x * factor - blind of the second holder.

    masks : numbers of `size` bits; blinds : drawn for elements.
    """
    field = x.field
    if compiled := kernels.of(field):
        message: bytes = compiled.compare_mask(
            field.bits, field.c, x.limbs, factor, masks, size, _words(field, offset), blinds, first
        )
        return message
    blind = _numbers(field, blinds, x.size, field.bits)
    added = _numbers(field, masks, x.size, size) + offset + blind if first else -blind
    return (x * factor + added).to_bytes()


def compare_open(x: Residues, factor: int, one: bytes, other: bytes) -> bytes:
    """The helper's numbers x * factor + both messages, canonical."""
    field = x.field
    if compiled := kernels.of(field):
        opened: bytes | None = compiled.compare_open(field.bits, field.c, x.limbs, factor, one, other)
        if opened is None:
            raise RemoteProtocolError(NO_ELEMENT)
        return opened
    theirs = Residues.received(field, one + other, (2, x.size))
    return (theirs[0] + theirs[1] + x * factor).to_bytes()


def bit(numbers: bytes, count: int, place: int) -> bytes:
    """One bit of each number, a byte each."""
    width = _width(numbers, count)
    if compiled := kernels.compiled:
        bits: bytes = compiled.bit(numbers, count, width, place)
        return bits
    rows = np.frombuffer(numbers, np.uint8).reshape(count, width)
    return (rows[:, place // 8] >> place % 8 & 1).tobytes()


def bit_shares(numbers: bytes, count: int, bits: int, pad: bytes) -> bytes:
    """The lowest bits of numbers, highest first, less a pad modulo the small prime: additive shares of them."""
    width = _width(numbers, count)
    if compiled := kernels.compiled:
        shares: bytes = compiled.bit_shares(numbers, count, width, bits, pad)
        return shares
    rows = np.frombuffer(numbers, np.uint8).reshape(count, width)
    return _small_bytes(_bits(rows, bits) - np.frombuffer(pad, np.uint8).reshape(count, bits).astype(np.int32))


def blinded(
    shares: bytes,
    masks: bytes,
    count: int,
    bits: int,
    coins: bytes,
    factors: bytes,
    zeros: bytes,
    places: bytes,
    *,
    first: bool,
) -> bytes:
    """A holder's shares of bits + 1 numbers for each comparison, one of which is 0 where c < r (coin 0) or r <= c (coin
    1), each times a factor + 1, plus shares of 0, rotated.

    shares : of the bits of c, modulo the small prime; masks : numbers with the bits of r.
    places : 16 random bytes for each rotation.
    """
    width = _width(masks, count)
    if compiled := kernels.compiled:
        message: bytes = compiled.blinded(shares, masks, count, width, bits, coins, factors, zeros, places, first)
        return message
    r = _bits(np.frombuffer(masks, np.uint8).reshape(count, width), bits)
    share, coin = _small(shares, count, bits), _small(coins, count, 1)
    one = int(first)  # a constant enters through one of the two shares
    differs = (1 - 2 * r) * share
    if first:
        differs += r
    above = np.cumsum(differs, axis=1, dtype=np.int32)
    numbers = np.empty((count, bits + 1), np.int32)
    numbers[:, -1:] = np.where(coin == 1, above[:, -1:] if bits else 0, one)
    above -= differs  # number of higher positions in which c and r differ
    numbers[:, :-1] = (share - r if first else share) * (1 - 2 * coin) + above + one
    numbers *= _small(factors, count, bits + 1) + 1
    zero = _small(zeros, count, bits + 1)
    numbers += zero if first else -zero
    order = np.arange(bits + 1) + _below(places, bits + 1, count)[:, None]  # rotated by a uniform amount
    order -= (bits + 1) * (order > bits)
    order += (bits + 1) * np.arange(count)[:, None]
    return _small_bytes(np.take(numbers.ravel(), order))


def found(one: bytes, other: bytes, count: int, columns: int) -> bytes:
    """Whether the shares of a row have a 0 among their sums, a byte each."""
    if compiled := kernels.compiled:
        rows: bytes = compiled.found(one, other, count, columns)
        return rows
    parts = [np.frombuffer(data, np.uint8).reshape(count, columns) for data in (one, other)]
    # The sum of two bytes is 0 modulo the prime if and only if it is 0 or the prime.
    sums = parts[0].astype(np.int16) + parts[1]
    hits: NDArray[np.bool_] = ((sums == 0) | (sums == SMALL_PRIME)).any(axis=1)
    return hits.tobytes()


# Smaller things


def pieces(count: int) -> list[slice]:
    """Parts of a flat array that stay in the cache while they are worked on."""
    return [slice(first, min(first + PIECE, count)) for first in range(0, count, PIECE)] or [slice(0, 0)]


def shifted(digits: Limbs, shift: int, field: PrimeField) -> Residues:
    """floor(x / 2^shift) of numbers given by digits, in `field`, whose limbs must hold it."""
    place, bits = divmod(shift, LIMB_BITS)
    digits = digits[place:]
    if bits:
        above = np.zeros_like(digits)
        above[:-1] = digits[1:] << LIMB_BITS - bits & LIMB_MASK
        digits = (digits >> bits) + above
    count = limbs_of(field)
    limbs = np.zeros((count, *digits.shape[1:]), np.int64)
    kept = digits[:count]
    limbs[: len(kept)] = kept
    return from_digits(field, limbs)


def _width(numbers: bytes, count: int) -> int:
    """Bytes of each number; of none, of any."""
    return len(numbers) // count if count else 32


def _bytes(size: int) -> int:
    return -(-size // 8)


def _numbers(field: PrimeField, data: bytes, count: int, size: int) -> Residues:
    """Numbers of whole bytes, cut to `size` bits."""
    return Residues.of_bytes(field, np.frombuffer(data, np.uint8).reshape(count, _bytes(size)), size)


@cache
def _fractions(field: PrimeField, divisor: int) -> Residues:
    """0 / divisor, 1 / divisor, ... in the field."""
    return Residues.of_integers(field, [g * pow(divisor, -1, field.p) for g in range(divisor)])


@cache
def _fraction_words(field: PrimeField, divisor: int) -> bytes:
    return b"".join(_words(field, g * pow(divisor, -1, field.p) % field.p) for g in range(divisor))


def _words(field: PrimeField, number: int) -> bytes:
    return number.to_bytes(8 * field.words + 8, "little")


def _below(drawn: bytes, bound: int, count: int) -> NDArray[np.intp]:
    words = np.frombuffer(drawn, "<u8").reshape(count, 2)
    by = np.uint64(bound)
    high = words[:, 0] % by * np.uint64(2**64 % bound)
    return ((high + words[:, 1] % by) % by).astype(np.intp)


def _bits(rows: Bytes, count: int) -> NDArray[np.int32]:
    """The lowest `count` bits of numbers given by their bytes, highest first; shape (n, count)."""
    bits = np.unpackbits(rows, axis=1, bitorder="little", count=count)
    return bits[:, ::-1].astype(np.int32)


def _small(data: bytes, count: int, columns: int) -> NDArray[np.int32]:
    return np.frombuffer(data, np.uint8).reshape(count, columns).astype(np.int32)


def _small_bytes(values: NDArray[np.int32]) -> bytes:
    """Elements modulo the small prime, a byte each."""
    return (values % SMALL_PRIME).astype(np.uint8).tobytes()
