"""Arithmetic modulo p = 2^bits - c on arrays, without a Python object per entry.

An element is `words` unsigned 64-bit words, little-endian, in the last axis of
an array; it is canonical, that is below p. All functions take and return
canonical elements; `validate` and `from_bytes` guard what comes from a peer. No step
branches on an element: what is done depends on shapes and public constants.

Products are formed in limbs of few bits, so that sums of products stay exact
in a machine word: 29 bits and 64-bit integers entry by entry, 22 bits and
float64 where BLAS does the work. `_reduce` turns columns of such sums into
elements again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.messages import Bytes, Words
from pipeline.packing import SLOT_BYTES, VALUE_OFFSET

WORD_BITS = 64
MUL_LIMB_BITS = 29  # at most 9 limbs: a column of products stays below 9 * 2^58 < 2^62
SUM_LIMB_BITS = 32
BLAS_LIMB_BITS = 22
BLAS_ROWS = 512  # of products below 2^44: a sum stays below 2^53, exact in float64 in any order of summation
FOLD_BLOCKS = 64  # of sums below 2^53, in up to 12 limb pairs a column: 64 * 12 * 2^53 < 2^63
_CHUNK = 1 << 14  # elements worked on at a time: the temporaries stay in the cache
_AES_BLOCK = 16  # bytes

Planes: TypeAlias = list[Words]


@dataclass(frozen=True)
class PrimeField:
    """The integers modulo the prime 2^bits - c.

    The primality of the three fields below is tested; the constructor checks
    what the arithmetic rests on: a free bit on top of the highest word, room for
    a slot of 15 bytes, and a c so small that the top of a sum folds back as a
    multiple of its limbs (`_reduce`).
    """

    name: str
    bits: int
    c: int

    def __post_init__(self) -> None:
        widths = (MUL_LIMB_BITS, SUM_LIMB_BITS, BLAS_LIMB_BITS)
        folds = all(0 < self.c << width * self.limbs(width) - self.bits < 1 << width - 2 for width in widths)
        if not (folds and 8 * SLOT_BYTES < self.bits < 4 * WORD_BITS):  # a multiple of 64 bits does not fold
            raise LocalProtocolError("the arithmetic does not fit this field")

    @cached_property
    def p(self) -> int:
        return (1 << self.bits) - self.c

    @cached_property
    def words(self) -> int:
        """64-bit words of an element."""
        return self.bits // WORD_BITS + 1

    @property
    def element_bytes(self) -> int:
        return 8 * self.words

    def limbs(self, width: int) -> int:
        """Limbs of `width` bits that hold an element with at least one bit to spare."""
        return self.bits // width + 1

    # Conversions

    def zeros(self, *shape: int) -> Words:
        return np.zeros((*shape, self.words), np.uint64)

    def from_ints(self, values: object) -> Words:
        """Return integers of any size and sign modulo p. One Python object per entry: small arrays only."""
        numbers = np.asarray(values, dtype=object)
        data = b"".join((index(x) % self.p).to_bytes(self.element_bytes, "little") for x in numbers.flat)
        return np.frombuffer(data, "<u8").astype(np.uint64).reshape(*numbers.shape, self.words)

    def to_ints(self, array: Words, *, signed: bool = False) -> NDArray[np.object_]:
        """Return Python integers in [0, p), or in (-p/2, p/2) if `signed`. Small arrays only."""
        data, size = self.to_bytes(array), self.element_bytes
        numbers = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
        if signed:
            numbers = [x - self.p if x > self.p // 2 else x for x in numbers]
        result = np.empty(len(numbers), dtype=object)
        result[:] = numbers
        return result.reshape(array.shape[:-1])

    def to_bytes(self, array: Words) -> bytes:
        """Return the elements in row order, `element_bytes` little-endian bytes each."""
        return np.ascontiguousarray(array, "<u8").tobytes()

    def from_bytes(self, data: bytes, shape: tuple[int, ...]) -> Words:
        """Return the elements a peer has sent as `to_bytes` writes them; the array may be read-only.

        Raises RemoteProtocolError unless `data` is as long as `shape` asks and every element is below p.
        """
        if len(data) != self.element_bytes * int(np.prod(shape, dtype=np.int64)):
            raise RemoteProtocolError("a peer sent field elements of the wrong length")
        array = _native(np.frombuffer(data, "<u8")).reshape(*shape, self.words)
        self.validate(array)
        return array

    def validate(self, array: Words, sender: str = "a peer") -> None:
        """Raise RemoteProtocolError unless `array` holds words of elements, each below p."""
        if array.dtype != np.uint64 or array.ndim == 0 or array.shape[-1] != self.words:
            raise RemoteProtocolError(f"{sender} sent something else than elements of {self.name}")
        flat = array.reshape(-1, self.words)
        for first in range(0, len(flat), _CHUNK):
            planes = _planes(flat[first : first + _CHUNK])
            if any(_right(top, self._top_bits).any() for top in (planes[-1], _plus(planes, self.c)[-1])):
                raise RemoteProtocolError(f"{sender} sent a field element that is not below the prime")

    def from_slots(self, slots: Bytes) -> Words:
        """Return slot - 2^43, an additive share of the owner's value.

        slots : uint8, shape (..., 15), little-endian, of any content; result (..., words).
        """
        return self._from_slots(slots, self._unoffset)

    def from_masks(self, masks: Bytes) -> Words:
        """Return -mask, the mask holder's additive share; shapes as in `from_slots`."""
        return self._from_slots(masks, self._negated)

    # Element by element; shapes broadcast, except for the last axis

    def add(self, a: Words, b: Words) -> Words:
        return self._map(lambda x, y: self._once(_sum(x, y)), a, b)

    def sub(self, a: Words, b: Words) -> Words:
        return self._map(self._difference, a, b)

    def neg(self, a: Words) -> Words:
        return self._map(self._negated, a)

    def mul(self, a: Words, b: Words) -> Words:
        return self._map(self._product, a, b)

    def scale(self, a: Words, constant: int) -> Words:
        """Return constant * a; the constant is public, of any size and sign. Small ones are faster."""
        factor = constant % self.p
        if factor > self.p // 2:
            return self.neg(self.scale(a, self.p - factor))
        count = max(1, -(-factor.bit_length() // MUL_LIMB_BITS))
        parts = [np.uint64(factor >> MUL_LIMB_BITS * i & (1 << MUL_LIMB_BITS) - 1) for i in range(count)]
        return self._map(lambda x: self._times(_split(x, MUL_LIMB_BITS, self), parts), a)

    def divide(self, a: Words, divisor: int) -> Words:
        """Return a / divisor in the field, for a small public divisor below 2^16; faster than `scale`."""
        if not 0 < divisor < 1 << 16:
            raise LocalProtocolError("the divisor is out of bounds")
        # With r = a mod divisor there is one t in [0, divisor) for which a + t*p divides, and the quotient is
        # floor(a / divisor) + (r + t*p) / divisor < p: what is added is r / divisor in the field, one of few constants.
        inverse = pow(divisor, -1, self.p)
        table = self.from_ints([r * inverse for r in range(divisor)])
        return self._map(lambda x: _quotient(x, divisor, table), a)

    # Sums of products

    def sum(self, a: Words) -> Words:
        """Return the sum over the first axis of a, shape (n, ..., words) with n < 2^31."""
        if len(a) >= 1 << 31:
            raise LocalProtocolError("too many rows to sum")
        columns = []
        for word in _planes(a):
            columns += [half.sum(0, dtype=np.uint64) for half in (word & _mask(32), _right(word, 32))]
        flat = [np.atleast_1d(column).ravel() for column in columns]
        total = self._reduce(flat, SUM_LIMB_BITS, max(len(a), 1) << self.bits)
        return np.stack(total, axis=-1).reshape(a.shape[1:])

    def matmul(self, a: Words, b: Words) -> Words:
        """Return the matrix product of a, shape (..., n, k, words), and b, shape (..., k, m, words).

        The leading axes broadcast. Exact: with L limbs of 22 bits, column t of the
        product is the sum over i + j = t of limb matrices A_i B_j. It is one BLAS
        product, [A_i, ...] side by side times [B_j; ...] stacked in the opposite order,
        whose entries are sums of at most L*k' products below 2^44. Blocks of
        k' = floor(512 / L) keep such a sum below 512 * 2^44 = 2^53, so that float64 holds
        every partial sum, in any order and with or without fused operations (a BLAS of
        Strassen's kind is excluded). Up to 1024 blocks are added below 2^63.
        """
        count, inner = self.limbs(BLAS_LIMB_BITS), a.shape[-2]
        block = BLAS_ROWS // count
        if a.shape[-1] != self.words or b.shape[-1] != self.words or b.shape[-3] != inner or inner > 1024 * block:
            raise LocalProtocolError("matrices of shapes that cannot be multiplied")
        left, right = self._float_limbs(a), self._float_limbs(b)[::-1]
        shape = (*np.broadcast_shapes(a.shape[:-3], b.shape[:-3]), a.shape[-3], b.shape[-2])
        columns = [np.zeros(shape, np.uint64) for _ in range(2 * count - 1)]
        for first in range(0, inner, block):
            rows = slice(first, first + block)
            wide = np.concatenate([limb[..., :, rows] for limb in left], axis=-1)
            tall = np.concatenate([limb[..., rows, :] for limb in right], axis=-2)
            size = wide.shape[-1] // count
            for t, column in enumerate(columns):
                low, high = max(0, t - count + 1) * size, min(t + 1, count) * size
                start = (count - 1 - min(t, count - 1)) * size
                column += (wide[..., low:high] @ tall[..., start : start + high - low, :]).astype(np.uint64)
        flat = [column.ravel() for column in columns]
        total = self._reduce(flat, BLAS_LIMB_BITS, max(inner, 1) << 2 * self.bits)
        return np.stack(total, axis=-1).reshape(*shape, self.words)

    # Inside

    @property
    def _top_bits(self) -> int:
        return self.bits % WORD_BITS

    def _map(self, kernel: Callable[..., Planes], *arrays: Words) -> Words:
        """Apply a kernel, which takes and returns planes of words, in pieces that stay in the cache."""
        if any(array.shape[-1:] != (self.words,) for array in arrays):
            raise LocalProtocolError("elements of another field")
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        flat = [np.broadcast_to(array, shape).reshape(-1, self.words) for array in arrays]
        result = np.empty((len(flat[0]), self.words), np.uint64)
        for first in range(0, len(result), _CHUNK):
            piece = slice(first, first + _CHUNK)
            for i, plane in enumerate(kernel(*(_planes(array[piece]) for array in flat))):
                result[piece, i] = plane
        return result.reshape(shape)

    def _from_slots(self, slots: Bytes, kernel: Callable[[Planes], Planes]) -> Words:
        if slots.dtype != np.uint8 or slots.shape[-1:] != (SLOT_BYTES,):
            raise LocalProtocolError("slots of the wrong type or length")
        flat = np.ascontiguousarray(slots).reshape(-1, SLOT_BYTES)
        result = np.empty((len(flat), self.words), np.uint64)
        for first in range(0, len(flat), _CHUNK):
            piece = flat[first : first + _CHUNK]
            for i, plane in enumerate(kernel(self._slot_planes(piece))):
                result[first : first + _CHUNK, i] = plane
        return result.reshape(*slots.shape[:-1], self.words)

    def _slot_planes(self, slots: Bytes) -> Planes:
        """The numbers in contiguous slots: bytes 0 to 7, and 7 to 14 less the byte they share."""
        low, high = (np.ndarray(len(slots), "<u8", slots, offset, (SLOT_BYTES,)) for offset in (0, SLOT_BYTES - 8))
        rest = [np.zeros(len(slots), np.uint64) for _ in range(self.words - 2)]
        return [_native(low), _right(high, 8), *rest]

    def _unoffset(self, x: Planes) -> Planes:
        difference, borrow = _minus(x, np.uint64(VALUE_OFFSET))
        return self._wrap(difference, borrow)

    def _negated(self, x: Planes) -> Planes:
        return self._difference([np.zeros_like(plane) for plane in x], x)

    def _difference(self, x: Planes, y: Planes) -> Planes:
        return self._wrap(*_subtract(x, y))

    def _wrap(self, x: Planes, borrow: Words) -> Planes:
        """Add p to those x, given modulo 2^(64*words), from which more was subtracted than they held."""
        result, _ = _minus(x, borrow * np.uint64(self.c))
        result[-1] = result[-1] & _mask(self._top_bits)
        return result

    def _once(self, x: Planes) -> Planes:
        """Subtract p once from those x, all below 2p, that are not below p: x >= p if x + c reaches 2^bits."""
        shifted = _plus(x, self.c)
        chosen = np.uint64(0) - _right(shifted[-1], self._top_bits)  # all ones or all zeros
        result = [plane ^ ((plane ^ other) & chosen) for plane, other in zip(x, shifted, strict=True)]
        result[-1] &= _mask(self._top_bits)
        return result

    def _product(self, x: Planes, y: Planes) -> Planes:
        return self._times(_split(x, MUL_LIMB_BITS, self), _split(y, MUL_LIMB_BITS, self))

    def _times(self, left: Sequence[Words], right: Sequence[Words | np.uint64]) -> Planes:
        columns: Planes = [np.zeros_like(left[0]) for _ in range(len(left) + len(right) - 1)]
        for i, x in enumerate(left):
            for j, y in enumerate(right):
                columns[i + j] += x * y
        return self._reduce(columns, MUL_LIMB_BITS, 1 << self.bits + MUL_LIMB_BITS * len(right))

    def _float_limbs(self, a: Words) -> list[NDArray[np.float64]]:
        return [limb.astype(np.float64) for limb in _split(_planes(a), BLAS_LIMB_BITS, self)]

    def _reduce(self, columns: Planes, width: int, bound: int) -> Planes:
        """Return the words of the sum of column t * 2^(width*t), modulo p.

        Every column is below 2^63 and the sum below `bound`. The number of passes
        follows from the bound alone.
        """
        count = self.limbs(width)
        fold = self.c << width * count - self.bits  # 2^(width*count) modulo p; below 2^(width-2)
        while bound.bit_length() > width * (count + 1):
            digits = _carry(columns, width, -(-bound.bit_length() // width))
            columns, high = digits[:count], digits[count:]
            columns += [np.zeros_like(digits[0]) for _ in range(len(high) - count)]
            for t, digit in enumerate(high):
                columns[t] = columns[t] + digit * np.uint64(fold)
            bound = (1 << width * count) + (fold * (bound >> width * count) + fold)
        *digits, last = _carry(columns, width, count + 1)
        kept = self.bits - width * (count - 1)
        above = _right(digits[-1], kept) | _left(last, width - kept)
        digits[-1] &= _mask(kept)
        digits[0] += above * np.uint64(
            self.c
        )  # below 2^(2*width) <= 2^64 - 2^62; 2^bits + 2^64 < 2p bounds what is left
        return self._once(_join(_carry(digits, width, count), width, self.words))


FIELD_127 = PrimeField("2^127-1", 127, 1)
FIELD_191 = PrimeField("2^191-69", 191, 69)
FIELD_254 = PrimeField("2^254-245", 254, 245)


class PseudorandomElements:
    """A sequence of elements that a key determines, read at any position in any order.

    The k-th element is made of the bytes from k * element_bytes on of AES-256 in
    counter mode (counter from 0, 16-byte blocks, the key serves nothing else), cut to
    `bits` bits and reduced modulo p. That is at most c / 2^bits from uniform an
    element: 2^-127, 2^-184, 2^-246 for the three fields. B blocks of AES are
    further B^2 / 2^129 from random bits, as a permutation does not repeat.
    """

    def __init__(self, field: PrimeField, key: bytes) -> None:
        if len(key) != 32:
            raise LocalProtocolError("a key of AES-256 has 32 bytes")
        self.field = field
        self._key = key

    def elements(self, first: int, count: int) -> Words:
        """Return the elements at positions first to first + count - 1, shape (count, words)."""
        size = self.field.element_bytes
        block, skipped = divmod(first * size, _AES_BLOCK)
        counter = modes.CTR(block.to_bytes(_AES_BLOCK, "big"))
        encryptor = Cipher(algorithms.AES(self._key), counter).encryptor()
        data = encryptor.update(bytes(skipped + count * size))
        raw = _native(np.frombuffer(data, "<u8", offset=skipped)).reshape(count, self.field.words)
        return self.field._map(self._cut, raw)

    def _cut(self, x: Planes) -> Planes:
        return self.field._once([*x[:-1], x[-1] & _mask(self.field._top_bits)])


class GramAccumulator:
    """Adds up the Gram matrix of Z = [1, X] from blocks of the rows of X.

    Limb matrices of up to 512 rows are multiplied by BLAS: entries are integers
    below 2^22, sums of products below 2^53 and so exact. Up to 64 such products are
    added as 64-bit integers before `_fold` reduces them. Memory does not depend on
    the number of rows.
    """

    def __init__(self, field: PrimeField, columns: int) -> None:
        self.field = field
        self.columns = columns
        self._limbs = field.limbs(BLAS_LIMB_BITS)
        size = self._limbs * (columns + 1)
        self._block = np.zeros((size, BLAS_ROWS))
        self._block[0] = 1.0  # the column of ones: limb 0 is 1, the others 0
        self._sums = np.zeros((size, size), np.int64)
        self._pending = 0
        self._gram = field.zeros(columns + 1, columns + 1)

    def add(self, rows: Words) -> None:
        """Take further rows of X, shape (rows, columns, words)."""
        if rows.shape[1:] != (self.columns, self.field.words):
            raise LocalProtocolError("rows of the wrong shape")
        for first in range(0, len(rows), BLAS_ROWS):
            self._multiply(rows[first : first + BLAS_ROWS])

    def result(self) -> Words:
        """Return Z^T Z, shape (columns + 1, columns + 1, words)."""
        self._fold()
        return self._gram

    def _multiply(self, rows: Words) -> None:
        count = len(rows)
        by_limb = self._block.reshape(self._limbs, self.columns + 1, BLAS_ROWS)
        planes = list(np.ascontiguousarray(rows.transpose(2, 1, 0)))
        for limb, digits in zip(by_limb, _split(planes, BLAS_LIMB_BITS, self.field), strict=True):
            limb[1:, :count] = digits.view(np.int64)  # the conversion of signed words is the faster one
        filled = self._block[:, :count]
        self._sums += (filled @ filled.T).astype(np.int64)
        self._pending += 1
        if self._pending == FOLD_BLOCKS:
            self._fold()

    def _fold(self) -> None:
        shape = (self._limbs, self.columns + 1, self._limbs, self.columns + 1)
        products = self._sums.view(np.uint64).reshape(shape)
        flat = [np.zeros((self.columns + 1) ** 2, np.uint64) for _ in range(2 * self._limbs - 1)]
        for i in range(self._limbs):
            for j in range(self._limbs):
                flat[i + j] += products[i, :, j].ravel()
        bound = FOLD_BLOCKS * BLAS_ROWS << 2 * self.field.bits
        total = np.stack(self.field._reduce(flat, BLAS_LIMB_BITS, bound), axis=-1)
        self._gram = self.field.add(self._gram, total.reshape(self._gram.shape))
        self._sums[:] = 0
        self._pending = 0


# Planes: the words, limbs or digits of many numbers, one array for each place


def _native(array: NDArray[np.uint64]) -> Words:
    return array.astype(np.uint64, copy=False)


def _mask(bits: int) -> np.uint64:
    return np.uint64((1 << bits) - 1)


def _right(x: Words, bits: int) -> Words:
    return x >> np.uint64(bits)


def _left(x: Words, bits: int) -> Words:
    return x << np.uint64(bits)


def _planes(array: Words) -> Planes:
    return [array[..., i] for i in range(array.shape[-1])]


def _sum(x: Planes, y: Planes) -> Planes:
    """x + y modulo 2^(64*words)."""
    result = [x[0] + y[0]]
    carry = result[0] < x[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        s = a + b
        over = s < a
        s += carry
        carry = over | (s < carry)
        result.append(s)
    return result


def _subtract(x: Planes, y: Planes) -> tuple[Planes, Words]:
    """x - y modulo 2^(64*words), and 1 where y > x."""
    result, borrow = [x[0] - y[0]], x[0] < y[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        d = a - b
        under = (a < b) | (d < borrow)
        d -= borrow
        borrow = under
        result.append(d)
    return result, borrow.astype(np.uint64)


def _plus(x: Planes, small: int) -> Planes:
    """x + small modulo 2^(64*words)."""
    result = [x[0] + np.uint64(small)]
    carry = result[0] < small
    for plane in x[1:]:
        s = plane + carry
        carry = s < carry
        result.append(s)
    return result


def _minus(x: Planes, small: Words | np.uint64) -> tuple[Planes, Words]:
    """x - small modulo 2^(64*words), and 1 where small > x."""
    result, borrow = [x[0] - small], x[0] < small
    for plane in x[1:]:
        result.append(plane - borrow)
        borrow = plane < borrow
    return result, borrow.astype(np.uint64)


def _quotient(x: Planes, divisor: int, table: Words) -> Planes:
    """floor(x / divisor) + table[x mod divisor], which must fit the words; long division by halves of words."""
    by = np.uint64(divisor)
    quotient: Planes = []
    rest = np.zeros_like(x[0])
    for plane in reversed(x):
        high = _left(rest, 32) | _right(plane, 32)
        q_high = high // by
        low = _left(high - q_high * by, 32) | (plane & _mask(32))
        q_low = low // by
        rest = low - q_low * by
        quotient.insert(0, _left(q_high, 32) | q_low)
    return _sum(quotient, _planes(table[rest.astype(np.intp)]))


def _split(words: Planes, width: int, field: PrimeField) -> Planes:
    """The limbs of `width` bits, lowest first."""
    result: Planes = []
    for t in range(field.limbs(width)):
        place, shift = divmod(t * width, WORD_BITS)
        limb = _right(words[place], shift)
        if shift + width > WORD_BITS and place + 1 < len(words):
            limb |= _left(words[place + 1], WORD_BITS - shift)
        result.append(limb & _mask(width))
    return result


def _join(digits: Planes, width: int, count: int) -> Planes:
    """The words of a number given by digits below 2^width; it must fit."""
    result: Planes = [np.zeros_like(digits[0]) for _ in range(count)]
    for t, digit in enumerate(digits):
        place, shift = divmod(t * width, WORD_BITS)
        if place < count:
            result[place] |= _left(digit, shift)
        if shift + width > WORD_BITS and place + 1 < count:
            result[place + 1] |= _right(digit, WORD_BITS - shift)
    return result


def _carry(columns: Planes, width: int, count: int) -> Planes:
    """The first `count` digits below 2^width of a number given by columns below 2^63."""
    digits: Planes = []
    total = columns[0]
    for t in range(count):
        digits.append(total & _mask(width))
        total = _right(total, width)
        if t + 1 < len(columns):
            total += columns[t + 1]
    return digits
