"""What a role of the join knows at each moment, and which message leads where.

A state is a frozen dataclass with exactly the fields that exist in it. None is
printed: they hold secrets. `CONTROLLER_TRANSITIONS` and
`THIRD_PARTY_TRANSITIONS`, at the end, are all the moves there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Agreement, Keys
from pipeline.errors import RemoteProtocolError
from pipeline.matching import CiphertextFile
from pipeline.messages import (
    Bytes,
    Columns,
    IntersectionSize,
    KeyContribution,
    MaskedShare,
    Message,
    PublicKey,
    RandomShare,
    ScrambledDataset,
    SubgroupKey,
    TooFewRecords,
)
from pipeline.packing import ciphertexts_per_row
from pipeline.paillier import DistinctResidues, EncryptionKey, ciphertext_bytes

Part: TypeAlias = ScrambledDataset | RandomShare | MaskedShare


@dataclass(frozen=True)
class Setting:
    """What the agreement and the session fix about the join."""

    session: bytes
    controllers: tuple[int, int]
    third_party: int
    widths: Mapping[int, int]  # encoded columns of each controller
    bits: int  # of a Paillier modulus
    min_records: int
    keys: Keys = "standard"

    @classmethod
    def of(cls, agreement: Agreement, session: bytes) -> Setting:
        first, second = agreement.controllers
        return cls(
            session,
            (first.id, second.id),
            agreement.third_party.id,
            {party.id: party.width for party in (first, second)},
            agreement.join.paillier_bits,
            agreement.study.min_records,
            agreement.join.keys,
        )

    def peer(self, controller: int) -> int:
        """The other controller."""
        first, second = self.controllers
        return second if controller == first else first

    def row_shape(self, owner: int) -> tuple[int, int]:
        """Ciphertexts in a row of this owner, and bytes in each."""
        return ciphertexts_per_row(self.widths[owner], self.bits), ciphertext_bytes(self.bits)


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A controller's encoded rows, already in a random order of its own."""

    identifiers: Sequence[tuple[str, ...]]  # distinct
    values: NDArray[np.int64]  # (n, width)
    exponents: tuple[int, ...]  # of the columns' scales; the other controller is told


@dataclass(frozen=True, eq=False, repr=False)
class AdditiveShares:
    """A controller's additive shares of the matched rows, both in the same order.

    Slots are little-endian. The share of an own value is its slot - 2^43, that
    of the other's value is -mask; the other controller holds the complements.
    """

    records: int
    own: Bytes  # (records, own width, 15): slots of value + 2^43 + the other's mask
    masks: Bytes  # (records, the other's width, 15)
    peer_exponents: tuple[int, ...]  # of the scales of the other's columns


@dataclass(frozen=True)
class Matched:
    """What the third party is left with."""

    records: int


# --- parts ------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """How many rows of a whole have come."""

    total: int
    rows: int = 0
    complete: bool = False  # a whole without rows is complete after its one, empty part

    def with_part(self, sender: int, part: Part, row_shape: tuple[int, int]) -> Received:
        """Return the same with one more part; RemoteProtocolError unless it is the next one and of that shape."""
        if part.total != self.total:
            refuse(sender, part, f"is of {part.total} rows, not of {self.total}")
        if self.complete or part.first != self.rows:
            refuse(sender, part, f"begins at row {part.first}, where {self.rows} of {self.total} have come")
        if part.ciphertexts.shape[1:] != row_shape:
            refuse(sender, part, f"has rows of shape {part.ciphertexts.shape[1:]}, not {row_shape}")
        rows = part.first + len(part.ciphertexts)
        return Received(self.total, rows, rows == self.total)


# --- states -----------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class NotStarted:
    """A controller before `start`."""

    table: Table


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingContribution:
    table: Table
    contribution: bytes


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingPublicKey:
    table: Table
    hash_key: bytes


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingColumns:
    table: Table
    hash_key: bytes
    peer_key: EncryptionKey


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingIntersectionSize:
    """The table is no longer part of the state: only the upload still holds it."""

    rows: int
    peer_key: EncryptionKey
    peer_exponents: tuple[int, ...]


@dataclass(eq=False, repr=False)
class Masks:
    """The masks of a controller, filled in as they are drawn; `sent` counts rows handed out encrypted."""

    slots: Bytes  # (records, the other's width, 15)
    sent: int = 0
    complete: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingMaskedShare:
    received: Received
    own: Bytes  # (records, own width, 15); what is beyond `received.rows` is not filled in yet
    masks: Masks
    peer_exponents: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Decrypted:
    """Everything a controller awaits is there; its own masks may still be on their way out."""

    own: Bytes
    masks: Masks
    peer_exponents: tuple[int, ...]


@dataclass(frozen=True)
class Ended:
    """Either role, once the study is refused."""


@dataclass(frozen=True)
class NoKey:
    """Of one controller the third party has nothing yet."""


@dataclass(frozen=True, eq=False, repr=False)
class KeyOnly:
    n: int


@dataclass(frozen=True, eq=False, repr=False)
class Upload:
    """What the third party has of one controller."""

    n: int
    received: Received
    hashes: tuple[Bytes, ...]
    file: CiphertextFile


Uploads: TypeAlias = Mapping[int, NoKey | KeyOnly | Upload]  # by controller


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingDatasets:
    uploads: Uploads


@dataclass(frozen=True, eq=False, repr=False)
class Masking:
    """Matched rows of one owner, and how much of the other's mask set has come for them."""

    n: int
    received: Received
    file: CiphertextFile
    residues: DistinctResidues


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingRandomShares:
    records: int
    owners: Mapping[int, Masking]


@dataclass(frozen=True)
class Done:
    """The third party, when both mask sets are complete."""

    matched: Matched


# --- transitions ------------------------------------------------------------

# State and message -> who may send it, and the states it may lead to.
Transitions: TypeAlias = Mapping[tuple[type, type], tuple[str, tuple[type, ...]]]
CONTROLLER = "controller"
THIRD_PARTY = "third-party"

CONTROLLER_TRANSITIONS: Transitions = {
    (AwaitingContribution, KeyContribution): (CONTROLLER, (AwaitingPublicKey,)),
    # One of the two, whichever the agreement says.
    (AwaitingPublicKey, PublicKey): (CONTROLLER, (AwaitingColumns,)),
    (AwaitingPublicKey, SubgroupKey): (CONTROLLER, (AwaitingColumns,)),
    (AwaitingColumns, Columns): (CONTROLLER, (AwaitingIntersectionSize,)),
    (AwaitingIntersectionSize, IntersectionSize): (THIRD_PARTY, (AwaitingMaskedShare,)),
    (AwaitingIntersectionSize, TooFewRecords): (THIRD_PARTY, (Ended,)),
    (AwaitingMaskedShare, MaskedShare): (THIRD_PARTY, (AwaitingMaskedShare, Decrypted)),
}
THIRD_PARTY_TRANSITIONS: Transitions = {
    (AwaitingDatasets, PublicKey): (CONTROLLER, (AwaitingDatasets,)),
    (AwaitingDatasets, ScrambledDataset): (CONTROLLER, (AwaitingDatasets, AwaitingRandomShares, Ended)),
    (AwaitingRandomShares, RandomShare): (CONTROLLER, (AwaitingRandomShares, Done)),
}

ControllerState: TypeAlias = (
    NotStarted
    | AwaitingContribution
    | AwaitingPublicKey
    | AwaitingColumns
    | AwaitingIntersectionSize
    | AwaitingMaskedShare
    | Decrypted
    | Ended
)
ThirdPartyState: TypeAlias = AwaitingDatasets | AwaitingRandomShares | Done | Ended


def require_legal(transitions: Transitions, state: object, sender: int, kind: str, message: Message) -> None:
    allowed, _ = transitions.get((type(state), type(message)), ("", ()))
    if kind != allowed:
        refuse(sender, message, f"has no place in state {type(state).__name__}")


def refuse(sender: int, message: Message, why: str) -> NoReturn:
    raise RemoteProtocolError(f"{type(message).__name__} from party {sender} {why}")
