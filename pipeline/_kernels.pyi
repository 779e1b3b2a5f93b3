"""Types of `_kernels.c`, which says what the functions do."""

from typing import Any

from numpy import int64, uint64
from numpy.typing import NDArray

Limbs = NDArray[int64]
Data = bytes | bytearray | memoryview | NDArray[Any]

VERSION: int

def vectors(on: bool, /) -> bool: ...
def to_bytes(bits: int, c: int, limbs: Limbs, /) -> bytes: ...
def carried(bits: int, c: int, limbs: Limbs, /) -> Limbs: ...
def multiply(bits: int, c: int, a: Limbs, b: Limbs, /) -> Limbs: ...
def matmul(bits: int, c: int, a: Limbs, b: Limbs, /) -> Limbs: ...
def of_bytes(bits: int, c: int, data: Data, count: int, width: int, size: int, /) -> Limbs: ...
def received(bits: int, c: int, data: Data, count: int, /) -> Limbs | None: ...
def mask(
    bits: int,
    c: int,
    target_bits: int,
    target_c: int,
    limbs: Limbs,
    offset: bytes,
    x: int,
    shift: int,
    added: bytes,
    floors: NDArray[uint64],
    /,
    *tapes: Data | int | None,
) -> bytes: ...
def unmask(
    bits: int,
    c: int,
    target_bits: int,
    target_c: int,
    own: Data,
    first: Data,
    second: Data,
    own_factor: int,
    first_factor: int,
    second_factor: int,
    count: int,
    shift: int,
    floors: NDArray[uint64],
    /,
) -> Limbs | None: ...
def small(drawn: Data, bound: int, count: int, /) -> bytes: ...
def compare_mask(
    bits: int, c: int, limbs: Limbs, factor: int, masks: Data, size: int, offset: bytes, blinds: Data, first: int, /
) -> bytes: ...
def compare_open(bits: int, c: int, limbs: Limbs, factor: int, one: Data, other: Data, /) -> bytes | None: ...
def bit(data: Data, count: int, width: int, place: int, /) -> bytes: ...
def bit_shares(data: Data, count: int, width: int, bits: int, pad: Data, /) -> bytes: ...
def blinded(
    shares: Data,
    masks: Data,
    count: int,
    width: int,
    bits: int,
    coins: Data,
    factors: Data,
    zeros: Data,
    places: Data,
    first: int,
    /,
) -> bytes: ...
def found(one: Data, other: Data, count: int, columns: int, /) -> bytes: ...
