"""One frozen dataclass for each arrow of `docs/protocol.md`.

Large things travel in parts of at most `PART_BYTES`, so that every step
streams: `first` is the row at which a part begins, `total` the number of rows
of the whole. Parts come in order. A message that exists is well formed:
`__post_init__` checks lengths, shapes and types, and closes arrays for writing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

PART_BYTES = 4 << 20  # bytes; the size a sender aims at for one part
MAX_MESSAGE_BYTES = 16 << 20  # bytes; the receiver refuses more
MAX_ROWS = 1 << 24
SECRET_BYTES = 32
HASH_BYTES = 32


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _check_part(first: int, total: int, rows: int) -> None:
    _require(0 <= first and 0 <= total <= MAX_ROWS, "row numbers out of bounds")
    _require(first + rows <= total, "a part reaches beyond its total")
    _require(rows > 0 or total == 0, "an empty part of a non-empty whole")


def _freeze(array: Bytes | Words, dtype: type, ndim: int) -> None:
    _require(array.dtype == dtype and array.ndim == ndim, "array of wrong type or dimension")
    array.flags.writeable = False


@dataclass(frozen=True, slots=True, repr=False)
class KeyContribution:
    """Controller to controller: its part of the key of the keyed hash."""

    contribution: bytes  # 32 bytes

    def __post_init__(self) -> None:
        _require(len(self.contribution) == SECRET_BYTES, "contribution of wrong length")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Controller to both others: the modulus of its Paillier key, big-endian."""

    modulus: bytes

    def __post_init__(self) -> None:
        _require(0 < len(self.modulus) <= 2048, "modulus of wrong length")


@dataclass(frozen=True, slots=True)
class SubgroupKey:
    """Controller to controller, in place of `PublicKey` where subgroup keys are agreed."""

    modulus: bytes  # big-endian
    base: bytes  # of the obfuscators, modulo the square of the modulus, big-endian

    def __post_init__(self) -> None:
        _require(0 < len(self.modulus) <= 2048, "modulus of wrong length")
        _require(len(self.base) == 2 * len(self.modulus), "base of wrong length")


@dataclass(frozen=True, slots=True)
class Columns:
    """Controller to controller: the binary exponent of each column's fixed-point scale."""

    exponents: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(all(-1000 <= e <= 1000 for e in self.exponents), "exponent out of bounds")


@dataclass(frozen=True, slots=True, eq=False)
class ScrambledDataset:
    """Controller to third party: keyed hashes with the row's ciphertexts."""

    first: int
    total: int
    hashes: Bytes  # (rows, 32)
    ciphertexts: Bytes  # (rows, ciphertexts per row, ciphertext bytes), big-endian

    def __post_init__(self) -> None:
        _freeze(self.hashes, np.uint8, 2)
        _freeze(self.ciphertexts, np.uint8, 3)
        _require(self.hashes.shape[1] == HASH_BYTES, "hash of wrong length")
        _require(len(self.hashes) == len(self.ciphertexts), "not one hash a row")
        _check_part(self.first, self.total, len(self.hashes))


@dataclass(frozen=True, slots=True)
class IntersectionSize:
    """Third party to both controllers: the number of matched records."""

    records: int

    def __post_init__(self) -> None:
        _require(0 <= self.records <= MAX_ROWS, "number of records out of bounds")


@dataclass(frozen=True, slots=True)
class TooFewRecords:
    """Third party to both controllers: fewer matches than `min_records`; no number."""


@dataclass(frozen=True, slots=True, eq=False)
class RandomShare:
    """Controller to third party: its masks, encrypted under the other's key."""

    first: int
    total: int
    ciphertexts: Bytes  # (rows, ciphertexts per row, ciphertext bytes)

    def __post_init__(self) -> None:
        _freeze(self.ciphertexts, np.uint8, 3)
        _check_part(self.first, self.total, len(self.ciphertexts))


@dataclass(frozen=True, slots=True, eq=False)
class MaskedShare:
    """Third party to the owner of the key: matched rows plus the other's masks."""

    first: int
    total: int
    ciphertexts: Bytes  # (rows, ciphertexts per row, ciphertext bytes)

    def __post_init__(self) -> None:
        _freeze(self.ciphertexts, np.uint8, 3)
        _check_part(self.first, self.total, len(self.ciphertexts))


@dataclass(frozen=True, slots=True, repr=False)
class ShareKey:
    """Dealer to the next party: the key of its pseudorandom Shamir shares."""

    key: bytes  # 32 bytes

    def __post_init__(self) -> None:
        _require(len(self.key) == SECRET_BYTES, "key of wrong length")


@dataclass(frozen=True, slots=True, eq=False)
class ShamirShare:
    """Dealer to the party after the next: Shamir shares of its additive shares."""

    first: int
    total: int
    shares: Words  # (rows, columns, words), little-endian words, each element < p

    def __post_init__(self) -> None:
        _freeze(self.shares, np.uint64, 3)
        _check_part(self.first, self.total, len(self.shares))

    def of(self, rows: range) -> Words:
        """The shares of these rows, which must be in the part."""
        return self.shares[rows.start - self.first : rows.stop - self.first]


Message: TypeAlias = (
    KeyContribution
    | PublicKey
    | SubgroupKey
    | Columns
    | ScrambledDataset
    | IntersectionSize
    | TooFewRecords
    | RandomShare
    | MaskedShare
    | ShareKey
    | ShamirShare
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and the party it is for."""

    receiver: int
    message: Message
