"""Arithmetic modulo p = 2^bits - c on the arrays of step 7, without a Python object per entry.

An element is `words` unsigned 64-bit words, little-endian, in the last axis of
an array; it is canonical, that is below p. All functions take and return
canonical elements; `validate` guards what comes from a peer. No step branches
on an element: what is done depends on shapes and public constants.

Elements are made of slots or drawn with a key, dealt on lines, and multiplied
only in `GramAccumulator`: in limbs of at most 22 bits, by BLAS, so that sums of
products stay exact in float64. `_reduce` turns columns of such sums into
elements again. Step 8 has an arithmetic of its own, `residues.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from operator import index
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.messages import Bytes, Words
from pipeline.packing import SLOT_BYTES, VALUE_OFFSET

WORD_BITS = 64
LIMB_BITS = 22
WORD_LIMBS = ((0, 22), (22, 21), (43, 21))  # shift and bits of the limbs of one word
BLAS_ROWS = 512  # of products below 2^44: a sum stays below 2^53, exact in float64 in any order of summation
FOLD_BLOCKS = 64  # of sums below 2^53: 64 of them stay below 2^59, three digits of 22 bits
FOLD_SUMS = 1 << 22  # sums of products kept for several folds together: 32 MiB
CHUNK = 1 << 14  # elements worked on at a time: the temporaries stay in the cache
_AES_BLOCK = 16  # bytes
_ZEROS = memoryview(bytes(1 << 18))  # what is encrypted for a stream of AES in counter mode

Planes: TypeAlias = list[Words]


@dataclass(frozen=True)
class PrimeField:
    """The integers modulo the prime 2^bits - c.

    The primality of the three fields below is tested; the constructor checks
    what the arithmetic rests on: a highest word neither full nor empty, room for
    a slot of 15 bytes, and a c so small that the top of a sum folds back as a
    multiple of its limbs (`_reduce`).
    """

    name: str
    bits: int
    c: int

    def __post_init__(self) -> None:
        folds = 0 < self.c << LIMB_BITS * self.limbs - self.bits < 1 << LIMB_BITS - 2
        if not (folds and 8 * SLOT_BYTES < self.bits < 4 * WORD_BITS and self.bits % WORD_BITS):
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

    @cached_property
    def _p_words(self) -> list[np.uint64]:
        return _constant(self.p, self.words)

    @cached_property
    def limbs(self) -> int:
        """Limbs of 22 bits that hold an element with at least one bit to spare."""
        return self.bits // LIMB_BITS + 1

    # Conversions

    def zeros(self, *shape: int) -> Words:
        return np.zeros((*shape, self.words), np.uint64)

    def planar(self, *shape: int) -> Words:
        """Return an array to be filled that holds all lowest words in a row, then all second ones, and so on.

        It is indexed as any other. Kernels read and write such planes several times as fast.
        """
        return np.empty((self.words, *shape), np.uint64).transpose(*range(1, len(shape) + 1), 0)

    def from_ints(self, values: object) -> Words:
        """Return integers of any size and sign modulo p. One Python object per entry: small arrays only."""
        numbers = np.asarray(values, dtype=object)
        data = b"".join((index(x) % self.p).to_bytes(self.element_bytes, "little") for x in numbers.flat)
        return np.frombuffer(data, "<u8").astype(np.uint64).reshape(*numbers.shape, self.words)

    def to_ints(self, array: Words, *, signed: bool = False) -> NDArray[np.object_]:
        """Return Python integers in [0, p), or in (-p/2, p/2) if `signed`. Small arrays only."""
        data, size = np.ascontiguousarray(array, "<u8").tobytes(), self.element_bytes
        numbers = [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]
        if signed:
            numbers = [x - self.p if x > self.p // 2 else x for x in numbers]
        result = np.empty(len(numbers), dtype=object)
        result[:] = numbers
        return result.reshape(array.shape[:-1])

    def validate(self, array: Words, sender: str = "a peer") -> None:
        """Raise RemoteProtocolError unless `array` holds words of elements, each below p."""
        if array.dtype != np.uint64 or array.ndim == 0 or array.shape[-1] != self.words:
            raise RemoteProtocolError(f"{sender} sent something else than elements of {self.name}")
        flat = array.reshape(-1, self.words)
        for first in range(0, len(flat), CHUNK):
            if _at_least(_planes(flat[first : first + CHUNK]), self._p_words).any():
                raise RemoteProtocolError(f"{sender} sent a field element that is not below the prime")

    def from_slots(self, slots: Bytes) -> Words:
        """Return slot - 2^43, an additive share of the owner's value.

        slots : uint8, shape (..., 15), little-endian, of any content; result (..., words).
        """
        return self._from_slots(slots, self._unoffset)

    def from_masks(self, masks: Bytes) -> Words:
        """Return -mask, the mask holder's additive share; shapes as in `from_slots`."""
        return self._from_slots(masks, self._negated)

    # Element by element, of arrays of one shape

    def add(self, a: Words, b: Words) -> Words:
        result = np.empty(a.shape, np.uint64)
        self._map([result], lambda x, y: [self._once(_sum(x, y))], a, b)
        return result

    def line(self, start: Words, end: Words, x: int, points: Sequence[int]) -> list[Words]:
        """Return the values at `points` of the polynomials of degree 1 through (0, start) and (x, end), planar.

        x and points : different numbers out of 1, 2 and 3, the points in ascending order.
        """
        if len({x, *points} & {1, 2, 3}) != 1 + len(points):
            raise LocalProtocolError("points of a line are chosen out of 1, 2 and 3")
        over = {1: lambda difference: difference, 2: self._half, 3: self._third}[x]

        def values(start: Planes, end: Planes) -> list[Planes]:
            here, found = start, []
            slope = over(self._difference(end, here))
            for point in range(1, points[-1] + 1):
                here = end if point == x else self._once(_sum(here, slope))
                if point in points:
                    found.append(here)
            return found

        results = [self.planar(*start.shape[:-1]) for _ in points]
        self._map(results, values, start, end)
        return results

    # Inside

    @property
    def _top_bits(self) -> int:
        return self.bits % WORD_BITS

    def _map(self, results: Sequence[Words], kernel: Callable[..., Sequence[Planes]], *arrays: Words) -> None:
        """Fill the results by a kernel, which takes and returns planes of words, in pieces that stay in the cache."""
        shape = (*results[0].shape[:-1], self.words)
        if any(array.shape != shape for array in arrays):
            raise LocalProtocolError("elements of another field, or arrays of different shapes")
        flat = [array.reshape(-1, self.words) for array in arrays]
        into = [result.reshape(-1, self.words) for result in results]  # views: C order or planar
        for first in range(0, len(flat[0]), CHUNK):
            piece = slice(first, first + CHUNK)
            for result, planes in zip(into, kernel(*(_planes(array[piece]) for array in flat)), strict=True):
                for i, plane in enumerate(planes):
                    result[piece, i] = plane

    def _from_slots(self, slots: Bytes, kernel: Callable[[Planes], Planes]) -> Words:
        if slots.dtype != np.uint8 or slots.shape[-1:] != (SLOT_BYTES,):
            raise LocalProtocolError("slots of the wrong type or length")
        flat = np.ascontiguousarray(slots).reshape(-1, SLOT_BYTES)
        result = self.planar(len(flat))
        for first in range(0, len(flat), CHUNK):
            piece = flat[first : first + CHUNK]
            for i, plane in enumerate(kernel(self._slot_planes(piece))):
                result[first : first + CHUNK, i] = plane
        return result.reshape(*slots.shape[:-1], self.words)

    def _slot_planes(self, slots: Bytes) -> Planes:
        """The numbers in contiguous slots: bytes 0 to 7, and 7 to 14 less the byte they share."""
        low, high = (np.ndarray(len(slots), "<u8", slots, offset, (SLOT_BYTES,)) for offset in (0, SLOT_BYTES - 8))
        rest = [np.zeros(len(slots), np.uint64) for _ in range(self.words - 2)]
        return [low.astype(np.uint64), _right(high, 8), *rest]

    def _unoffset(self, x: Planes) -> Planes:
        _decrease(x, np.uint64(VALUE_OFFSET))
        return self._wrap(x)

    def _negated(self, x: Planes) -> Planes:
        return self._difference([np.uint64(0)] * self.words, x)

    def _difference(self, x: Sequence[Words | np.uint64], y: Planes) -> Planes:
        return self._wrap(_subtract(x, y))

    def _wrap(self, x: Planes) -> Planes:
        """Add p to those x that are negative, above -p, as the sign bit on top of the highest word tells; in place."""
        negative = _right(x[-1], WORD_BITS - 1)
        _decrease(x, self._times_c(negative))
        x[-1] &= _mask(self._top_bits)
        return x

    def _once(self, x: Planes) -> Planes:
        """Subtract p once from those x, all below 2p, that are not below p; in place.

        x >= p if x + c reaches 2^bits; x - p is then what stays below 2^bits of x + c.
        """
        carry = x[0] >= (1 << WORD_BITS) - self.c
        for plane in x[1:-1]:
            carry &= plane == _mask(WORD_BITS)
        reached = x[-1] + carry
        reached >>= np.uint64(self._top_bits)
        _increase(x, self._times_c(reached))
        x[-1] &= _mask(self._top_bits)
        return x

    def _times_c(self, x: Words) -> Words:
        return x if self.c == 1 else x * np.uint64(self.c)

    def _half(self, x: Planes) -> Planes:
        """x / 2 in the field: (x - r) / 2 + r * (p + 1) / 2 with r = x modulo 2."""
        odd = x[0] & np.uint64(1)
        halves = [_right(plane, 1) for plane in x]
        for i, plane in enumerate(x[1:]):
            halves[i] |= _left(plane, WORD_BITS - 1)
        constant = _constant((self.p + 1) // 2, self.words)
        first = next(i for i, word in enumerate(constant) if word)  # 2^127-1 adds to its highest word only
        return halves[:first] + _sum(halves[first:], [odd * word for word in constant[first:]])

    def _third(self, x: Planes) -> Planes:
        """x / 3 in the field.

        From the lowest word up, each word less what is borrowed of it is multiplied by
        1/3 modulo 2^64: q with 3q = x + b*2^(64*words), where b, the last borrow, is 0, 1 or 2.
        There is one t below 3 for which x + t*p divides by 3, it depends on b alone, and
        the quotient is q + t*p/3 modulo 2^(64*words).
        """
        q, borrow = _exact_third(x)
        modulus = 1 << WORD_BITS * self.words
        third = pow(3, -1, modulus)
        t = [b * modulus * pow(self.p, -1, 3) % 3 for b in range(3)]  # 3q - b*modulus + t*p = 0 modulo 3
        table = [_constant(k * self.p * third % modulus, self.words) for k in t]
        return _sum(q, [np.take(np.array(words), borrow, mode="clip") for words in zip(*table, strict=True)])

    def _reduce(self, columns: Planes, bound: int) -> Planes:
        """Return the words of the sum of column t * 2^(22*t), modulo p.

        Every column is below 2^63 and the sum below `bound`. The number of passes
        follows from the bound alone.
        """
        width, count = LIMB_BITS, self.limbs
        fold = self.c << width * count - self.bits  # 2^(width*count) modulo p; below 2^(width-2)
        while bound.bit_length() > width * (count + 1):
            digits = _carry(columns, -(-bound.bit_length() // width))
            columns, high = digits[:count], digits[count:]
            columns += [np.zeros_like(digits[0]) for _ in range(len(high) - count)]
            for t, digit in enumerate(high):
                columns[t] = columns[t] + digit * np.uint64(fold)
            bound = (1 << width * count) + (fold * (bound >> width * count) + fold)
        *digits, last = _carry(columns, count + 1)
        kept = self.bits - width * (count - 1)
        above = _right(digits[-1], kept) | _left(last, width - kept)
        digits[-1] &= _mask(kept)
        digits[0] += above * np.uint64(self.c)  # below 2^44; 2^bits + 2^44 < 2p bounds what is left
        return self._once(_join(_carry(digits, count), self.words))


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
        """Return the elements at positions first to first + count - 1, shape (count, words), planar."""
        size = self.field.element_bytes
        block, skipped = divmod(first * size, _AES_BLOCK)
        counter = modes.CTR(block.to_bytes(_AES_BLOCK, "big"))
        encryptor = Cipher(algorithms.AES(self._key), counter).encryptor()
        length = skipped + count * size
        data = np.empty(length + _AES_BLOCK - 1, np.uint8)  # as long as the encryptor asks
        for start in range(0, length, len(_ZEROS)):
            encryptor.update_into(_ZEROS[: length - start], data[start:].data)
        raw = data[skipped:length].view("<u8").reshape(count, self.field.words)
        result = self.field.planar(count)
        for start in range(0, count, CHUNK):
            piece = _planes(result[start : start + CHUNK])
            for plane, words in zip(piece, _planes(raw[start : start + CHUNK]), strict=True):
                plane[:] = words
            self._cut(piece)
        return result

    def _cut(self, x: Planes) -> None:
        """Cut to `bits` bits and reduce, in place."""
        x[-1] &= _mask(self.field._top_bits)
        self.field._once(x)


class GramAccumulator:
    """Adds up the Gram matrix of Z = [1, X] from blocks of the rows of X.

    Words are cut into limbs of 22, 21 and 21 bits, which serves all fields and
    needs nothing of a neighbouring word. Limb matrices of up to 512 rows are
    multiplied by BLAS: entries are integers below 2^22, sums of products below 2^53
    and so exact. Up to 64 such products are added as 64-bit integers before `_fold`
    reduces them. Memory does not depend on the number of rows.
    """

    def __init__(self, field: PrimeField, columns: int) -> None:
        self.field = field
        self.columns = columns
        size = 1 + len(WORD_LIMBS) * columns * field.words
        self._block = np.empty((BLAS_ROWS, size))
        self._block[:, 0] = 1.0  # the column of ones: limb 0 is 1, the others 0 and not there
        self._filled = 0
        self._product = np.empty((size, size))
        self._sums = np.zeros((size, size), np.int64)
        self._pending = 0
        self._gram = field.zeros(columns + 1, columns + 1)

    def add_sum(self, rows: Words, others: Words) -> None:
        """Take further rows of X, each the sum of two, both of shape (rows, columns, words).

        What sums exceed p by need not be taken off: the words hold it.
        """
        self.check(rows, others)
        first = 0
        while first < len(rows):
            last = min(len(rows), first + BLAS_ROWS - self._filled)
            self._fill(_sum(_planes(rows[first:last]), _planes(others[first:last])))
            first = last
            if self._filled == BLAS_ROWS:
                self._multiply()

    def result(self) -> Words:
        """Return Z^T Z, shape (columns + 1, columns + 1, words)."""
        self._multiply()
        self._fold()
        return self._gram

    def check(self, rows: Words, others: Words) -> None:
        """Raise LocalProtocolError unless `add_sum` can take them."""
        shape = (len(rows), self.columns, self.field.words)
        if rows.shape != shape or others.shape != shape:
            raise LocalProtocolError("rows of the wrong shape")

    def _fill(self, planes: Planes) -> None:
        """Put the limbs of rows into the block: of all columns the lowest limb of the lowest word, and so on."""
        last, place = self._filled + len(planes[0]), 1
        for shift, bits in WORD_LIMBS:
            for words in planes:
                limbs = _right(words, shift) if shift else words & _mask(bits)
                if shift and shift + bits < WORD_BITS:
                    limbs &= _mask(bits)
                # the conversion of signed words is the faster one
                self._block[self._filled : last, place : place + self.columns] = limbs.view(np.int64)
                place += self.columns
        self._filled = last

    def _multiply(self) -> None:
        self._sums += self._squared()
        self._pending += 1
        if self._pending == FOLD_BLOCKS:
            self._fold()

    def _squared(self) -> NDArray[np.int64]:
        """The block with itself; the block is empty then."""
        filled = self._block[: self._filled]
        np.matmul(filled.T, filled, out=self._product)  # of a matrix with itself: half the work
        self._filled = 0
        return self._product.astype(np.int64)

    def _fold(self) -> None:
        self._gram = self.field.add(self._gram, self._folded(self._sums[np.newaxis])[0])
        self._sums[:] = 0
        self._pending = 0

    def _folded(self, sums: NDArray[np.int64]) -> Words:
        """The elements that sums of products of limbs stand for; of several matrices at once."""
        count, words, size = len(sums), self.field.words, self.columns + 1
        lefts = [WORD_BITS * word + shift for shift, _ in WORD_LIMBS for word in range(words)]
        products = sums.view(np.uint64)
        first = products[:, 0, 1:].reshape(count, len(lefts), self.columns)
        inner = products[:, 1:, 1:].reshape(count, len(lefts), self.columns, len(lefts), self.columns)
        places = {left + right for left, right in product(lefts, repeat=2)}
        alike = {place: np.zeros((count, size, size), np.uint64) for place in places}  # at most 11 sums below 2^59
        alike[0][:, 0, 0] = products[:, 0, 0]
        for k, left in enumerate(lefts):
            alike[left][:, 0, 1:] = alike[left][:, 1:, 0] = first[:, k]
            for m, right in enumerate(lefts):
                alike[left + right][:, 1:, 1:] += inner[:, k, :, m]
        columns = [np.zeros((count, size, size), np.uint64) for _ in range(2 * self.field.limbs + 2)]
        for position, rest in alike.items():
            place, shift = divmod(position, LIMB_BITS)
            for column in columns[place : place + 3]:  # below 2^63, in digits of 22 bits
                column += _left(rest & _mask(LIMB_BITS), shift)
                rest = _right(rest, LIMB_BITS)
        flat = [column.ravel() for column in columns]
        bound = FOLD_BLOCKS * BLAS_ROWS << 2 * WORD_BITS * words
        total = np.stack(self.field._reduce(flat, bound), axis=-1)
        return total.reshape(count, size, size, words)


class FoldAccumulator:
    """Adds up a Gram matrix for each of K folds; the i-th of all rows is in fold i modulo K.

    Rows wait until there is a full block of each fold: products of few rows are slow.
    Sums of products are kept for as many folds as take little memory, and folded together.
    """

    def __init__(self, field: PrimeField, columns: int, folds: int) -> None:
        self.field = field
        self.folds = folds
        self._one = GramAccumulator(field, columns)
        self._grams = field.zeros(folds, columns + 1, columns + 1)
        self._waiting = field.planar(folds * BLAS_ROWS if folds > 1 else 0, columns)
        self._rows = 0  # that wait
        self._next = 0  # fold of the first of them
        size = len(self._one._sums)
        group = min(folds, max(1, FOLD_SUMS // size**2))
        self._sums = np.zeros((group if folds > 1 else 0, size, size), np.int64)
        self._pending = 0

    def add_sum(self, rows: Words, others: Words) -> None:
        """As `GramAccumulator.add_sum`, the rows in their order."""
        if self.folds == 1:
            self._one.add_sum(rows, others)
            return
        self._one.check(rows, others)
        first = 0
        while first < len(rows):
            last = min(len(rows), first + len(self._waiting) - self._rows)
            place = slice(self._rows, self._rows + last - first)
            for word, plane in enumerate(_sum(_planes(rows[first:last]), _planes(others[first:last]))):
                self._waiting[place, :, word] = plane
            first, self._rows = last, place.stop
            if self._rows == len(self._waiting):
                self._divide()

    def result(self) -> Words:
        """Return Z^T Z of each fold, shape (folds, columns + 1, columns + 1, words)."""
        if self.folds == 1:
            return self._one.result()[np.newaxis]
        self._divide()
        self._fold(0, self.folds)
        return self._grams.copy()

    def _divide(self) -> None:
        """Multiply the waiting rows, those of each fold with themselves."""
        waiting, group = self._waiting[: self._rows], len(self._sums)
        for first in range(0, self.folds, group):
            folds = range(first, min(first + group, self.folds))
            for fold, sums in zip(folds, self._sums, strict=False):
                self._one._fill(_planes(waiting[(fold - self._next) % self.folds :: self.folds]))
                sums += self._one._squared()
            self._pending += 1
            if group < self.folds or self._pending == FOLD_BLOCKS:
                self._fold(folds.start, folds.stop)
        self._next = (self._next + self._rows) % self.folds
        self._rows = 0

    def _fold(self, first: int, last: int) -> None:
        if self._pending:
            sums = self._sums[: last - first]
            self._grams[first:last] = self.field.add(self._grams[first:last], self._one._folded(sums))
            sums[:] = 0
            self._pending = 0


# Planes: the words, limbs or digits of many numbers, one array for each place


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
    carry = result[0] < y[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        s = a + b
        if len(result) + 1 < len(x):  # the carry of the highest word goes nowhere
            over = s < b
            s += carry
            carry = over | (s < carry)
        else:
            s += carry
        result.append(s)
    return result


def _subtract(x: Sequence[Words | np.uint64], y: Planes) -> Planes:
    """x - y modulo 2^(64*words)."""
    result = [x[0] - y[0]]
    borrow = x[0] < y[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        d = a - b
        if len(result) + 1 < len(y):
            under = (a < b) | (d < borrow)
            d -= borrow
            borrow = under
        else:
            d -= borrow
        result.append(d)
    return result


def _increase(x: Planes, small: Words) -> None:
    """x + small modulo 2^(64*words), in place."""
    x[0] += small
    carry = x[0] < small
    for plane in x[1:-1]:
        plane += carry
        carry &= plane == 0
    x[-1] += carry


def _decrease(x: Planes, small: Words | np.uint64) -> None:
    """x - small modulo 2^(64*words), in place."""
    borrow = x[0] < small
    x[0] -= small
    for plane in x[1:-1]:
        plane -= borrow
        borrow &= plane == _mask(WORD_BITS)
    x[-1] -= borrow


def _exact_third(x: Planes) -> tuple[Planes, NDArray[np.intp]]:
    """q and b with 3q = x + b*2^(64*words), b below 3."""
    inverse, one = np.uint64(pow(3, -1, 1 << WORD_BITS)), np.uint64(_mask(WORD_BITS) // np.uint64(3))
    result = [x[0] * inverse]
    borrow = _thirds(result[0], one)
    for plane in x[1:]:
        taken = borrow.astype(np.uint64)
        q = plane - taken
        q *= inverse
        borrow = _thirds(q, one)
        borrow += plane < taken
        result.append(q)
    return result, borrow.astype(np.intp)


def _thirds(q: Words, one: np.uint64) -> NDArray[np.uint8]:
    """How often 2^64 goes into 3q: `one`, the third of 2^64 rounded down, and twice of it are the last below a step."""
    borrow: NDArray[np.uint8] = (q > one).view(np.uint8)
    borrow += q > one + one
    return borrow


def _at_least(x: Planes, bound: Sequence[np.uint64]) -> NDArray[np.bool_]:
    """Whether x is bound or more, word by word from the lowest."""
    result = x[0] >= bound[0]
    for plane, word in zip(x[1:], bound[1:], strict=True):
        result &= plane == word
        result |= plane > word
    return result


def _constant(number: int, words: int) -> list[np.uint64]:
    return [np.uint64(number >> WORD_BITS * i & (1 << WORD_BITS) - 1) for i in range(words)]


def _join(digits: Planes, count: int) -> Planes:
    """The words of a number given by digits of 22 bits; it must fit."""
    result: Planes = [np.zeros_like(digits[0]) for _ in range(count)]
    for t, digit in enumerate(digits):
        place, shift = divmod(t * LIMB_BITS, WORD_BITS)
        if place < count:
            result[place] |= _left(digit, shift)
        if shift + LIMB_BITS > WORD_BITS and place + 1 < count:
            result[place + 1] |= _right(digit, WORD_BITS - shift)
    return result


def _carry(columns: Planes, count: int) -> Planes:
    """The first `count` digits of 22 bits of a number given by columns below 2^63."""
    digits: Planes = []
    total = columns[0]
    for t in range(count):
        digits.append(total & _mask(LIMB_BITS))
        total = _right(total, LIMB_BITS)
        if t + 1 < len(columns):
            total += columns[t + 1]
    return digits
