"""Arrays of numbers modulo a prime, as signed limbs whose carries are done late.

What `field.py` is for many records, this is for the many small arrays of step
8: an element is the sum of limb t times 2^(24 t), each limb a signed 64-bit
integer that may be larger than 24 bits. Additions and small multiples are then
one operation of NumPy for all limbs; carries are done where a product or the
end of the 64 bits asks for them. The same number has many forms, and which one
an array has says how it came about: what is sent is the canonical form.

`bound` limits the absolute value of every limb. It follows from shapes and
public numbers alone, and so does every step that is taken.

Where `kernels.py` has compiled functions, they do what takes more than one
operation of NumPy, and return canonical limbs. The numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pipeline import kernels
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import PrimeField
from pipeline.messages import Words

LIMB_BITS = 24
LIMB_BYTES = 3
HALF = 1 << LIMB_BITS - 1
CARRIED = (1 << LIMB_BITS) + (1 << 12)  # a bound that is small enough to multiply
BALANCED = HALF + (1 << 20)  # the same when half of a limb is below zero
EXACT = 1 << 53  # float64 holds integers up to here
LIMIT = 1 << 62
PAIRABLE = 1 << 32  # a bound below which two limbs fit one integer, with room to carry
LIMB_MASK = (1 << LIMB_BITS) - 1
PAIR_MASK = (1 << 2 * LIMB_BITS) - 1
MATRIX_PIECE = 4096  # entries of products of matrices worked on at a time: the temporaries stay in the cache
NO_ELEMENT = "a peer sent a share that is no field element"
SMALL = 256  # entries up to which one large product of limbs is faster than many small ones

Limbs = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class Residues:
    """An array of numbers modulo `field.p`; operators are those of NumPy, entry by entry.

    limbs : int64, shape (limbs, *shape); never changed once it is here.
    bound : no limb is larger in absolute value.
    """

    __slots__ = ("bound", "field", "limbs")
    __array_ufunc__ = None  # NumPy arrays leave operators to this class

    def __init__(self, field: PrimeField, limbs: Limbs, bound: int) -> None:
        self.field = field
        self.limbs = limbs
        self.bound = bound

    # Making and reading

    @classmethod
    def of_integers(cls, field: PrimeField, values: Any) -> Residues:
        """Integers of any size and sign; one Python object an entry, for small arrays."""
        numbers = np.asarray(values, dtype=object)
        width = 3 * limbs_of(field)
        data = b"".join([(int(x) % field.p).to_bytes(width, "little") for x in numbers.ravel().tolist()])
        rows = np.frombuffer(data, np.uint8).reshape(numbers.size, width)
        return cls.of_bytes(field, rows).reshape(*numbers.shape)

    @classmethod
    def of_bytes(cls, field: PrimeField, rows: Bytes, size: int | None = None) -> Residues:
        """Little-endian numbers, shape (..., width); at most as wide as the limbs, of any value.

        size : bits that are kept, at least one of the last byte; all by default.
        """
        count = limbs_of(field)
        *shape, width = rows.shape
        size = 8 * width if size is None else size
        numbers = rows.size // width
        if compiled := kernels.of(field):
            data = np.ascontiguousarray(rows)
            limbs = compiled.of_bytes(field.bits, field.c, data, numbers, width, size)
            return cls(field, limbs.reshape(count, *shape), LIMB_MASK)
        flat = np.zeros(rows.size + 4, np.uint8)
        flat[: rows.size] = rows.ravel()
        # Four bytes from each third one on; of what is beyond 24 bits, or beyond the number, nothing is kept.
        limbs = np.zeros((count, numbers), np.int64)
        kept = -(-width // LIMB_BYTES)
        limbs[:kept] = np.ndarray((kept, numbers), "<u4", flat, 0, (LIMB_BYTES, width))
        limbs &= LIMB_MASK
        limbs[kept - 1] &= (1 << size - LIMB_BITS * (kept - 1)) - 1
        return cls(field, limbs.reshape(count, *shape), LIMB_MASK)

    @classmethod
    def of_words(cls, field: PrimeField, words: Words) -> Residues:
        """Elements as `field.py` has them, shape (..., words)."""
        return cls.of_bytes(field, np.ascontiguousarray(words, "<u8").view(np.uint8)[..., : element_bytes(field)])

    @classmethod
    def received(cls, field: PrimeField, data: bytes, shape: tuple[int, ...]) -> Residues:
        """What a peer has sent as `to_bytes` makes it; RemoteProtocolError unless every element is below p."""
        width = element_bytes(field)
        if len(data) != width * math.prod(shape):
            raise RemoteProtocolError("a peer sent shares of the wrong length")
        if compiled := kernels.of(field):
            limbs = compiled.received(field.bits, field.c, data, math.prod(shape))
            if limbs is None:
                raise RemoteProtocolError(NO_ELEMENT)
            return cls(field, limbs.reshape(len(limbs), *shape), LIMB_MASK)
        x = cls.of_bytes(field, np.frombuffer(data, np.uint8).reshape(*shape, width))
        pairs = _paired(x.limbs)
        if _quotient(pairs, field.bits - 2 * LIMB_BITS * (len(pairs) - 1), field.c).any():
            raise RemoteProtocolError(NO_ELEMENT)
        return x

    @classmethod
    def zeros(cls, field: PrimeField, *shape: int) -> Residues:
        return cls(field, np.zeros((limbs_of(field), *shape), np.int64), 0)

    def canonical(self) -> Limbs:
        """The digits, each below 2^24, of the numbers in [0, p)."""
        field = self.field
        if compiled := kernels.of(field):
            carried: Limbs = compiled.carried(field.bits, field.c, self.limbs)
            return carried
        x = self if self.bound < PAIRABLE else self.carried()
        # Not negative: the numbers are above -bound * 2^(24 (limbs - 1) + 1).
        multiple = (1 << max(0, x.bound.bit_length() + 2 - top_bits(field))) + 1
        pairs = _paired(x.limbs + _constant(field, multiple * field.p, x.ndim))
        width = field.bits - 2 * LIMB_BITS * (len(pairs) - 1)
        first = _quotient(pairs, width, 0)
        times = _quotient(pairs, width, field.c * (first + 1))  # floor(x / p)
        digits = np.empty((2 * len(pairs), *pairs.shape[1:]), np.int64)
        total = field.c * times
        for t, pair in enumerate(pairs[:-1]):
            total += pair
            digits[2 * t] = total & PAIR_MASK
            total >>= 2 * LIMB_BITS
        digits[-2] = (total + pairs[-1]) & ((1 << width) - 1)
        np.right_shift(digits[::2], LIMB_BITS, out=digits[1::2])
        digits[::2] &= LIMB_MASK
        return digits[: limbs_of(field)]

    def to_bytes(self) -> bytes:
        """The elements in row order, `element_bytes` little-endian bytes each."""
        if compiled := kernels.of(self.field):
            data: bytes = compiled.to_bytes(self.field.bits, self.field.c, self.limbs)
            return data
        return _byte_rows(self.canonical(), element_bytes(self.field)).tobytes()

    def byte_rows(self) -> Bytes:
        """The canonical numbers as bytes, shape (*shape, element_bytes)."""
        return np.frombuffer(self.to_bytes(), np.uint8).reshape(*self.shape, element_bytes(self.field))

    def integers(self, *, signed: bool = False) -> Any:
        """Python integers in [0, p), or in (-p/2, p/2); an object array, for small ones."""
        rows = self.byte_rows()
        data, width, p = rows.tobytes(), rows.shape[-1], self.field.p
        numbers = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]
        if signed:
            numbers = [x - p if x > p // 2 else x for x in numbers]
        result = np.empty(len(numbers), dtype=object)
        result[:] = numbers
        return result.reshape(self.shape)

    # Shape

    @property
    def shape(self) -> tuple[int, ...]:
        return self.limbs.shape[1:]

    @property
    def ndim(self) -> int:
        return self.limbs.ndim - 1

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Residues:
        parts = index if isinstance(index, tuple) else (index,)
        return self._with(self.limbs[(slice(None), *parts)])

    def reshape(self, *shape: int) -> Residues:
        return self._with(self.limbs.reshape(len(self.limbs), *shape))

    def ravel(self) -> Residues:
        return self.reshape(-1)

    def transpose(self) -> Residues:
        """With the last two axes exchanged."""
        return self._with(self.limbs.swapaxes(-1, -2))

    def broadcast(self, *shape: int) -> Residues:
        missing = len(shape) - self.ndim
        limbs = self.limbs.reshape(len(self.limbs), *(1,) * missing, *self.shape)
        return self._with(np.broadcast_to(limbs, (len(limbs), *shape)))

    # Sums and small multiples

    def __add__(self, other: Any) -> Residues:
        a, b = self, self._like(other)
        if a.bound + b.bound > LIMIT:
            a, b = a.carried(), b.carried()
        left, right = _aligned(a, b)
        return Residues(self.field, left + right, a.bound + b.bound)

    __radd__ = __add__

    def __neg__(self) -> Residues:
        return Residues(self.field, -self.limbs, self.bound)

    def __sub__(self, other: Any) -> Residues:
        a, b = self, self._like(other)
        if a.bound + b.bound > LIMIT:
            a, b = a.carried(), b.carried()
        left, right = _aligned(a, b)
        return Residues(self.field, left - right, a.bound + b.bound)

    def __rsub__(self, other: Any) -> Residues:
        return self._like(other) - self

    def sum(self, axis: int = -1) -> Residues:
        """The sum along one axis."""
        count = self.shape[axis]
        x = self if max(count, 1) * self.bound < LIMIT else self.carried()
        place = axis if axis < 0 else axis + 1
        return Residues(self.field, x.limbs.sum(axis=place), max(count, 1) * x.bound)

    # Products

    def __mul__(self, other: Any) -> Residues:
        """Times an integer, an array of integers or of elements."""
        if isinstance(other, int) and other == 1:
            return self
        if isinstance(other, int) and other > 1 and other & other - 1 == 0:
            return self << other.bit_length() - 1
        if isinstance(other, int) and abs(other) < LIMIT >> LIMB_BITS + 8:
            x = self if abs(other) * self.bound < LIMIT else self.carried()
            return Residues(self.field, x.limbs * other, max(1, abs(other)) * x.bound)
        a, b = self, self._like(other)
        if compiled := kernels.of(self.field):
            return self._canonical(compiled.multiply(self.field.bits, self.field.c, a.limbs, b.limbs))
        count = len(a.limbs)
        if count * a.bound * b.bound >= LIMIT:
            a, b = a.carried(), b.carried()
        left, right = _aligned(a, b)
        shape = np.broadcast_shapes(left.shape[1:], right.shape[1:])
        bound = count * a.bound * b.bound
        columns = np.zeros((2 * count, *shape), np.int64)
        if columns[0].size <= SMALL:
            table = np.zeros((count, 2 * count, *shape), np.int64)
            down, along, *rest = table.strides
            shifted = as_strided(table, (count, count, *shape), (down + along, along, *rest))
            np.multiply(left[:, None], right[None], out=shifted)
            return _of_columns(self.field, table.sum(axis=0), bound)
        if left[0].size > right[0].size:
            left, right = right, left
        for i, limb in enumerate(left):
            columns[i : i + count] += limb * right
        return _of_columns(self.field, columns, bound)

    __rmul__ = __mul__

    def __lshift__(self, bits: int) -> Residues:
        """Times 2^bits: limbs move, and what leaves at the top comes back as a multiple."""
        place, rest = divmod(bits, LIMB_BITS)
        count = len(self.limbs)
        if place >= count:
            return (self << bits - LIMB_BITS) << LIMB_BITS
        factor = (_fold(self.field) if place else 1) << rest
        if factor * CARRIED >= LIMIT:
            return (self << rest) << LIMB_BITS * place
        x = self if factor * self.bound < LIMIT else self.carried()
        limbs = np.empty_like(x.limbs)
        limbs[place:] = x.limbs[: count - place] << rest
        limbs[:place] = x.limbs[count - place :] * factor
        return Residues(self.field, limbs, factor * x.bound)

    def __matmul__(self, other: Any) -> Residues:
        """The matrix product of the last two axes; the others broadcast.

        Every pair of limbs is a product of matrices in float64: the numbers are
        integers, and their sums below 2^53, so it is exact in any order.
        """
        a, b = self, self._like(other)
        if compiled := kernels.of(self.field):
            return self._canonical(compiled.matmul(self.field.bits, self.field.c, a.limbs, b.limbs))
        inner = a.shape[-1]
        if inner * a.bound * b.bound >= EXACT:
            a, b = a.carried(), b.carried()
        if inner * a.bound * b.bound >= EXACT:
            a, b = _balanced(a), _balanced(b)
        if inner * a.bound * b.bound >= EXACT:
            half = inner // 2
            return a[..., :half] @ b[..., :half, :] + a[..., half:] @ b[..., half:, :]
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*batch, a.shape[-2], b.shape[-1])
        if not batch:
            return a._times_matrix(b)
        left = a.broadcast(*batch, *a.shape[-2:]).reshape(-1, *a.shape[-2:])
        right = b.broadcast(*batch, *b.shape[-2:]).reshape(-1, *b.shape[-2:])
        group = max(1, MATRIX_PIECE // (shape[-2] * shape[-1]))
        parts = [left[i : i + group]._times_matrix(right[i : i + group]) for i in range(0, len(left), group)]
        return concatenate(parts).reshape(*shape)

    def _times_matrix(self, other: Residues) -> Residues:
        """The product of carried matrices, or of as many pairs of them as the first axis has."""
        count, *batch, rows, inner = self.limbs.shape
        columns = other.shape[-1]
        left = np.moveaxis(self.limbs, 0, -3).astype(np.float64).reshape(*batch, count * rows, inner)
        right = np.moveaxis(other.limbs, 0, -2).astype(np.float64).reshape(*batch, inner, count * columns)
        pairs = np.matmul(left, right).astype(np.int64).reshape(*batch, count, rows, count, columns)
        sums = _antidiagonals(np.moveaxis(pairs, (-4, -2), (0, 1)))
        return _of_columns(self.field, sums, count * inner * self.bound * other.bound)

    # Inside

    def carried(self) -> Residues:
        """The same numbers with limbs of at most about 2^24."""
        if self.bound <= CARRIED:
            return self
        if kernels.of(self.field):
            return self._canonical(self.canonical())
        passes, bound = _passes(self.field, self.bound)
        limbs = self.limbs
        for _ in range(passes):
            limbs = _pass(limbs, self.field)
        return Residues(self.field, limbs, bound)

    def _with(self, limbs: Limbs) -> Residues:
        return Residues(self.field, limbs, self.bound)

    def _canonical(self, digits: Limbs) -> Residues:
        return Residues(self.field, digits, LIMB_MASK)

    def _like(self, other: Any) -> Residues:
        if isinstance(other, Residues):
            if other.field is not self.field and other.field != self.field:
                raise LocalProtocolError("elements of another field")
            return other
        if isinstance(other, int):
            return Residues(self.field, _constant(self.field, other % self.field.p, 0), LIMB_MASK)
        numbers = np.asarray(other)
        if numbers.dtype != object and numbers.dtype.kind in "bui" and numbers.dtype.itemsize <= 4:
            limbs = np.zeros((limbs_of(self.field), *numbers.shape), np.int64)
            limbs[0] = numbers
            return Residues(self.field, limbs, 1 << 8 * numbers.dtype.itemsize)
        return Residues.of_integers(self.field, numbers)


def concatenate(arrays: Sequence[Residues], axis: int = 0) -> Residues:
    first = arrays[0]
    place = axis if axis < 0 else axis + 1
    limbs = np.concatenate([array.limbs for array in arrays], axis=place)
    return Residues(first.field, limbs, max(array.bound for array in arrays))


def stack(arrays: Sequence[Residues]) -> Residues:
    first = arrays[0]
    return Residues(first.field, np.stack([a.limbs for a in arrays], axis=1), max(a.bound for a in arrays))


def placed(field: PrimeField, value: int, where: NDArray[Any]) -> Residues:
    """A public number where an array is 1, and 0 where it is 0."""
    return Residues(field, _constant(field, value % field.p, where.ndim) * where.astype(np.int64), 1 << LIMB_BITS)


def limbs_of(field: PrimeField) -> int:
    return -(-field.bits // LIMB_BITS)


def top_bits(field: PrimeField) -> int:
    """Bits of an element in its highest limb."""
    return field.bits - LIMB_BITS * (limbs_of(field) - 1)


def element_bytes(field: PrimeField) -> int:
    """Bytes of an element on the wire."""
    return -(-field.bits // 8)


def from_digits(field: PrimeField, digits: Limbs) -> Residues:
    """Canonical digits as an array again."""
    return Residues(field, digits, LIMB_MASK)


def _byte_rows(digits: Limbs, width: int) -> Bytes:
    count, *shape = digits.shape
    words = digits.reshape(count, -1).T.astype("<u4", order="C")
    data = words.view(np.uint8).reshape(-1, count, 4)[..., :LIMB_BYTES]
    return data.reshape(*shape, LIMB_BYTES * count)[..., :width]


def _aligned(a: Residues, b: Residues) -> tuple[Limbs, Limbs]:
    """The limbs of both with as many axes, so that they broadcast."""
    left, right = a.limbs, b.limbs
    if left.ndim < right.ndim:
        left = left.reshape(len(left), *(1,) * (right.ndim - left.ndim), *left.shape[1:])
    elif right.ndim < left.ndim:
        right = right.reshape(len(right), *(1,) * (left.ndim - right.ndim), *right.shape[1:])
    return left, right


def _fold(field: PrimeField) -> int:
    """2^(24 limbs) modulo p, below 2^18."""
    return field.c << LIMB_BITS * limbs_of(field) - field.bits


@lru_cache(maxsize=512)
def _digits(field: PrimeField, value: int) -> tuple[int, ...]:
    count = limbs_of(field)
    low = [value >> LIMB_BITS * t & LIMB_MASK for t in range(count - 1)]
    return (*low, value >> LIMB_BITS * (count - 1))


def _constant(field: PrimeField, value: int, ndim: int) -> Limbs:
    return np.array(_digits(field, value), np.int64).reshape(-1, *(1,) * ndim)


def _pass(limbs: Limbs, field: PrimeField) -> Limbs:
    """Move what is above a limb's bits to the next one, above the highest limb's to the lowest."""
    top = top_bits(field)
    high = limbs >> LIMB_BITS
    result = limbs & LIMB_MASK
    np.right_shift(limbs[-1], top, out=high[-1, ...])
    np.bitwise_and(limbs[-1], (1 << top) - 1, out=result[-1, ...])
    result[1:] += high[:-1]
    result[0] += field.c * high[-1]
    return result


@lru_cache(maxsize=4096)
def _passes(field: PrimeField, bound: int) -> tuple[int, int]:
    """How many passes take limbs below `bound` to CARRIED, and the bound they have then."""
    shifts = [LIMB_BITS] * (limbs_of(field) - 1) + [top_bits(field)]
    bounds = [bound] * len(shifts)
    passes = 0
    while max(bounds) > CARRIED:
        high = [(b >> s) + 1 for b, s in zip(bounds, shifts, strict=True)]
        rest = [1 << s for s in shifts]
        bounds = [r + h for r, h in zip(rest, [field.c * high[-1], *high[:-1]], strict=True)]
        passes += 1
    return passes, max(bounds)


def _balanced(x: Residues) -> Residues:
    """The same numbers with limbs of about 2^23 in absolute value, for the products of large matrices."""
    limbs, top = x.carried().limbs, top_bits(x.field)
    high = (limbs + HALF) >> LIMB_BITS
    high[-1] = 0
    result = limbs - (high << LIMB_BITS)
    above = result[-1] >> top
    result[-1] -= above << top
    result[1:] += high[:-1]
    result[0] += x.field.c * above
    return Residues(x.field, result, BALANCED)


def _of_columns(field: PrimeField, columns: Limbs, bound: int) -> Residues:
    """The numbers sum of column t * 2^(24 t), with twice as many columns as limbs, the last of them 0."""
    count = limbs_of(field)
    high = columns >> LIMB_BITS
    columns &= LIMB_MASK
    columns[1:] += high[:-1]  # what leaves the last column but one arrives in the last, which was 0
    factor = _fold(field)
    limit = (1 << LIMB_BITS) + (bound >> LIMB_BITS) + 1
    limbs = columns[:count] + factor * columns[count:]
    return Residues(field, limbs, (factor + 1) * limit)


def _paired(limbs: Limbs) -> Limbs:
    """Two limbs in one, of 48 bits; an odd last one by itself."""
    pairs = limbs[::2].copy()
    pairs[: len(limbs) // 2] += limbs[1::2] << LIMB_BITS
    return pairs


def _quotient(pairs: Limbs, width: int, added: Any) -> Limbs:
    """floor((x + added) / 2^bits) of numbers that are not negative; `width` bits are in the last pair."""
    total = pairs[0] + added
    for pair in pairs[1:]:
        total >>= 2 * LIMB_BITS
        total += pair
    total >>= width
    quotient: Limbs = total
    return quotient


def _antidiagonals(products: Limbs) -> Limbs:
    """Sums over i + j = t of products[i, j], for t up to twice the number of limbs."""
    count, _, *shape = products.shape
    columns = np.zeros((2 * count, *shape), np.int64)
    for i in range(count):
        columns[i : i + count] += products[i]
    return columns
