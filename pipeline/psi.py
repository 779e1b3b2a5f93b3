"""Steps 2 to 6, the join: what a controller and the third party do, without I/O.

A role takes a message and returns messages. `start` and `receive` move its
state at once; what they return is lazy, and large things are computed part by
part as they are drawn. A message that may not come now, from this sender or in
this shape, is a RemoteProtocolError and leaves the state as it was.

    controller                        third party                 other controller
      KeyContribution, PublicKey (or SubgroupKey), Columns  <-------->
      PublicKey, ScrambledDataset  ->                          <-  the same
                                      matches, compares the count with
                                      min_records, permutes
                          <-  IntersectionSize or TooFewRecords  ->
      RandomShare  ->                                          <-  RandomShare
                          <-  MaskedShare         MaskedShare  ->

A controller packs its rows, encrypts them under its own key and sends them with
their keyed hashes. It then draws a mask for every matched row of the other
controller, encrypts it under the other's key, and keeps it. The third party
multiplies row and mask and returns the product to the owner of the key. What
the owner decrypts, less the mask the other kept, is the matched row; nobody
holds both.

The owner must not learn which of its rows matched, although it made the
ciphertexts and can decrypt the products. The third party need not re-randomise
for that, because of seven conditions, each with its place:

1. a product holds exactly one fresh encryption of a mask: `_masked` is the only
   way a ciphertext leaves the third party, and a mask without an obfuscator is
   refused (`check_ciphertexts`);
2. owner and mask holder draw obfuscators from the same group <h> (`paillier`);
3. their exponents are 80 bits longer than the order of that group (`paillier`);
4. the third party puts the matched rows in an order of its own, secret, uniform
   and the same in both outputs (`permutation`); the order of the hashes is none,
   for a controller knows their key;
5. no mask serves twice: pairwise distinct modulo n at the sender and at the
   third party (`DistinctResidues`), and each row is read once (`CiphertextFile`);
6. masks cover every slot and every bit up to the modulus's last two (`packing`);
7. all of this is of one session: the key of the hashes, every message, and the
   base h of standard keys carry its identifier, subgroup keys are made for one
   run with their base, and a role cannot be restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from pipeline.compute import Decrypt, EncryptOwn, EncryptPeer, Inspect, Multiply, Workers
from pipeline.errors import LocalProtocolError, Refused
from pipeline.keyed_hash import hash_key, keyed_hashes, new_contribution
from pipeline.matching import CiphertextFile, has_duplicates, match_hashes, permutation
from pipeline.messages import (
    HASH_BYTES,
    PART_BYTES,
    Bytes,
    Columns,
    IntersectionSize,
    KeyContribution,
    MaskedShare,
    Message,
    Outgoing,
    PublicKey,
    RandomShare,
    ScrambledDataset,
    SubgroupKey,
    TooFewRecords,
)
from pipeline.packing import SLOT_BYTES, draw_masks, pack_values, slots_of
from pipeline.paillier import COMMON_POWERS, DistinctResidues, EncryptionKey, RandomBytes, check_modulus, residues
from pipeline.psi_states import (
    CONTROLLER,
    CONTROLLER_TRANSITIONS,
    THIRD_PARTY,
    THIRD_PARTY_TRANSITIONS,
    AdditiveShares,
    AwaitingColumns,
    AwaitingContribution,
    AwaitingDatasets,
    AwaitingIntersectionSize,
    AwaitingMaskedShare,
    AwaitingPublicKey,
    AwaitingRandomShares,
    ControllerState,
    Decrypted,
    Done,
    Ended,
    KeyOnly,
    Masking,
    Masks,
    Matched,
    NoKey,
    NotStarted,
    Received,
    Setting,
    Table,
    ThirdPartyState,
    Upload,
    Uploads,
    refuse,
    require_legal,
)
from pipeline.refusals import too_few_records
from pipeline.subgroup_keys import check_base

Progress: TypeAlias = Callable[[str, int, int], None]  # step, done, total

LEAST_PARTS = 20  # so that a bar moves, and encryption and upload overlap, in small studies too

STEP_ENCRYPT = "encrypting the table"
STEP_EXCHANGE = "masking and decrypting the matched records"
STEP_RECEIVE = "receiving the scrambled datasets"
STEP_MASK = "adding masks to the matched records"


def _unseen(step: str, done: int, total: int) -> None: ...


# --- cryptography as an argument --------------------------------------------


class Cryptography(Protocol):
    """What a controller needs; arrays as in `paillier`. Holds the private key."""

    @property
    def modulus(self) -> bytes:
        """Of the own key, big-endian."""

    @property
    def base(self) -> bytes:
        """The published base of the own key; empty if the key is a standard one."""

    def encrypt_own(self, plaintexts: Iterable[Bytes]) -> Iterator[Bytes]:
        """Yield a part of ciphertexts under the own key for each part, each with a fresh obfuscator."""

    def encrypt_peer(self, plaintexts: Iterable[Bytes], key: EncryptionKey) -> Iterator[Bytes]:
        """The same under the other's key."""

    def decrypt(self, ciphertexts: Bytes) -> Bytes:
        """Return plaintexts; RemoteProtocolError for what is no ciphertext under the own key."""

    def close(self) -> None:
        """Forget the private key and everything made from it."""


class Addition(Protocol):
    """What the third party needs; holds no secret."""

    def inspect(self, ciphertexts: Bytes, n: int) -> Bytes:
        """Return the residues, (count, 16); RemoteProtocolError for what is no ciphertext under n."""

    def add(self, left: Bytes, right: Bytes, n: int) -> Bytes:
        """Return the ciphertexts of the sums."""


@dataclass(frozen=True, repr=False)
class PaillierWorkers:
    """Both of the above, by worker processes (or the calling thread: `Workers.here`)."""

    workers: Workers
    session: bytes
    modulus: bytes = b""  # of the key the workers were given; the third party has none
    base: bytes = b""
    powers: int = COMMON_POWERS  # ciphertexts that each worker makes under a key, about

    def encrypt_own(self, plaintexts: Iterable[Bytes]) -> Iterator[Bytes]:
        return self.workers.map_parts(EncryptOwn(self.session, self.powers), plaintexts)

    def encrypt_peer(self, plaintexts: Iterable[Bytes], key: EncryptionKey) -> Iterator[Bytes]:
        return self.workers.map_parts(EncryptPeer(key, self.powers), plaintexts)

    def decrypt(self, ciphertexts: Bytes) -> Bytes:
        return next(self.workers.map_parts(Decrypt(), [ciphertexts]))

    def inspect(self, ciphertexts: Bytes, n: int) -> Bytes:
        return next(self.workers.map_parts(Inspect(n), [ciphertexts]))

    def add(self, left: Bytes, right: Bytes, n: int) -> Bytes:
        return next(self.workers.map_parts(Multiply(n), [left], [right]))

    def close(self) -> None:
        self.workers.close()


# --- the roles --------------------------------------------------------------


class Controller:
    """One controller's part; `result` is there once it has all shares and has sent all its masks.

    rng : gives that many random bytes; the contribution to the hash key and the
        masks come from it.
    cryptography : closed when the last part is decrypted and the last mask sent.
    """

    def __init__(
        self,
        me: int,
        setting: Setting,
        table: Table,
        cryptography: Cryptography,
        rng: RandomBytes,
        progress: Progress = _unseen,
    ) -> None:
        self.state: ControllerState = NotStarted(table)
        self._me = me
        self._peer = setting.peer(me)
        self._setting = setting
        self._cryptography = cryptography
        self._rng = rng
        self._progress = progress

    @property
    def result(self) -> AdditiveShares | None:
        match self.state:
            case Decrypted(own, masks, peer_exponents) if masks.complete:
                return AdditiveShares(len(own), own, masks.slots, peer_exponents)
        return None

    def start(self) -> Iterable[Outgoing]:
        """Return the messages that wait for nothing."""
        if not isinstance(self.state, NotStarted):
            raise LocalProtocolError("a role is started once")
        table = self.state.table
        if len(table.identifiers) != len(table.values) or table.values.shape[1] != self._setting.widths[self._me]:
            raise LocalProtocolError("a table that does not fit the agreement")
        contribution = new_contribution(self._rng)
        key, base = PublicKey(self._cryptography.modulus), self._cryptography.base
        if bool(base) != (self._setting.keys == "subgroup"):
            raise LocalProtocolError("a key of another kind than agreed")
        self.state = AwaitingContribution(table, contribution)
        return [
            Outgoing(self._peer, KeyContribution(contribution)),
            Outgoing(self._peer, SubgroupKey(key.modulus, base) if base else key),
            Outgoing(self._peer, Columns(table.exponents)),
            Outgoing(self._setting.third_party, key),
        ]

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]:
        """Advance by one message; return what must now be sent.

        RemoteProtocolError, leaving the state as it was, if `sender` may not
        send `message` now. Refused, when the third party has found too few.
        """
        kind = {self._peer: CONTROLLER, self._setting.third_party: THIRD_PARTY}.get(sender, "nobody")
        require_legal(CONTROLLER_TRANSITIONS, self.state, sender, kind, message)
        match self.state, message:
            case AwaitingContribution(table, ours), KeyContribution(theirs):
                self.state = AwaitingPublicKey(table, hash_key(ours, theirs, self._setting.session))
            case AwaitingPublicKey(table, key), PublicKey() | SubgroupKey():
                self.state = AwaitingColumns(table, key, self._key_of_peer(sender, message))
            case AwaitingColumns(table, key, peer_key), Columns(exponents):
                if len(exponents) != self._setting.widths[self._peer]:
                    refuse(sender, message, "is not about as many columns as agreed")
                self.state = AwaitingIntersectionSize(len(table.values), peer_key, exponents)
                return self._scrambled(table, key)
            case AwaitingIntersectionSize() as state, IntersectionSize(records):
                if not self._setting.min_records <= records <= state.rows:
                    refuse(sender, message, "is below the agreed minimum or above the size of the table")
                masks = Masks(np.empty(self._slots(self._peer, records), np.uint8))
                own = np.empty(self._slots(self._me, records), np.uint8)
                self.state = AwaitingMaskedShare(Received(records), own, masks, state.peer_exponents)
                return self._random_share(masks, state.peer_key)
            case AwaitingIntersectionSize(), TooFewRecords():
                self.state = Ended()
                self._cryptography.close()
                raise _too_few(self._setting)
            case AwaitingMaskedShare() as state, MaskedShare():
                self.state = self._decrypted(state, sender, message)
                self._close_if_done()
            case _:
                raise LocalProtocolError("a legal message that is not handled")
        return ()

    def _key_of_peer(self, sender: int, message: PublicKey | SubgroupKey) -> EncryptionKey:
        if isinstance(message, SubgroupKey) != (self._setting.keys == "subgroup"):
            refuse(sender, message, "is not of the kind of keys that was agreed")
        n = check_modulus(message.modulus, self._setting.bits, self._own_n())
        if isinstance(message, SubgroupKey):
            return EncryptionKey.subgroup(n, check_base(message.base, n))
        return EncryptionKey.standard(n, self._setting.session)

    def _scrambled(self, table: Table, key: bytes) -> Iterator[Outgoing]:
        hashes, values, total = keyed_hashes(key, table.identifiers), table.values, len(table.values)
        del key, table  # the identifiers are not needed while the rows are encrypted
        parts = _parts(total, self._setting.row_shape(self._me), HASH_BYTES)
        plaintexts = (pack_values(values[part.start : part.stop], self._setting.bits) for part in parts)
        encrypted = _distinct(self._cryptography.encrypt_own(plaintexts), self._own_n())
        for part, ciphertexts in zip(parts, encrypted, strict=True):
            message = ScrambledDataset(part.start, total, hashes[part.start : part.stop], ciphertexts)
            self._progress(STEP_ENCRYPT, part.stop, total)
            yield Outgoing(self._setting.third_party, message)

    def _random_share(self, masks: Masks, peer_key: EncryptionKey) -> Iterator[Outgoing]:
        total = len(masks.slots)
        parts = _parts(total, self._setting.row_shape(self._peer))
        encrypted = _distinct(self._cryptography.encrypt_peer(self._drawn(masks, parts), peer_key), peer_key.n)
        for part, ciphertexts in zip(parts, encrypted, strict=True):
            masks.sent = part.stop
            self._report_exchange()
            yield Outgoing(self._setting.third_party, RandomShare(part.start, total, ciphertexts))
        masks.complete = True
        self._close_if_done()

    def _drawn(self, masks: Masks, parts: list[range]) -> Iterator[Bytes]:
        width = self._setting.widths[self._peer]
        for part in parts:
            plaintexts = draw_masks(len(part), width, self._setting.bits, self._rng)
            masks.slots[part.start : part.stop] = slots_of(plaintexts, width)
            yield plaintexts

    def _decrypted(
        self, state: AwaitingMaskedShare, sender: int, message: MaskedShare
    ) -> AwaitingMaskedShare | Decrypted:
        received = state.received.with_part(sender, message, self._setting.row_shape(self._me))
        plaintexts = self._cryptography.decrypt(message.ciphertexts)
        state.own[message.first : received.rows] = slots_of(plaintexts, self._setting.widths[self._me])
        if received.complete:
            return Decrypted(state.own, state.masks, state.peer_exponents)
        return replace(state, received=received)

    def _report_exchange(self) -> None:
        match self.state:
            case AwaitingMaskedShare(received, own, masks):
                self._progress(STEP_EXCHANGE, received.rows + masks.sent, 2 * len(own))
            case Decrypted(own, masks):
                self._progress(STEP_EXCHANGE, len(own) + masks.sent, 2 * len(own))

    def _close_if_done(self) -> None:
        self._report_exchange()
        if self.result is not None:
            self._cryptography.close()

    def _own_n(self) -> int:
        return int.from_bytes(self._cryptography.modulus, "big")

    def _slots(self, owner: int, records: int) -> tuple[int, int, int]:
        return records, self._setting.widths[owner], SLOT_BYTES


class ThirdParty:
    """The third party's part; `result` is there once both mask sets are complete.

    rng : gives that many random bytes; the secret order comes from it.
    folder : where ciphertexts are kept meanwhile, the system's folder for
        temporary files if None. Twice the size of the uploads is needed.
    """

    def __init__(
        self,
        setting: Setting,
        addition: Addition,
        rng: RandomBytes,
        progress: Progress = _unseen,
        folder: Path | None = None,
    ) -> None:
        self.state: ThirdPartyState = AwaitingDatasets({controller: NoKey() for controller in setting.controllers})
        self._setting = setting
        self._addition = addition
        self._rng = rng
        self._progress = progress
        self._folder = folder

    @property
    def result(self) -> Matched | None:
        return self.state.matched if isinstance(self.state, Done) else None

    def start(self) -> Iterable[Outgoing]:
        """Return nothing: the controllers begin."""
        return ()

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]:
        """Advance by one message; return what must now be sent.

        RemoteProtocolError, leaving the state as it was, if `sender` may not
        send `message` now. With too few matches, what is returned raises Refused
        after its last message.
        """
        kind = CONTROLLER if sender in self._setting.controllers else "nobody"
        require_legal(THIRD_PARTY_TRANSITIONS, self.state, sender, kind, message)
        match self.state, message:
            case AwaitingDatasets(uploads), PublicKey(modulus):
                self.state = AwaitingDatasets({**uploads, sender: self._keyed(uploads, sender, message, modulus)})
            case AwaitingDatasets(uploads), ScrambledDataset():
                uploads = {**uploads, sender: self._stored(uploads, sender, message)}
                self.state = AwaitingDatasets(uploads)
                self._report_uploads(uploads)
                return self._match_if_complete(uploads)
            case AwaitingRandomShares() as state, RandomShare():
                return self._on_masks(state, sender, message)
            case _:
                raise LocalProtocolError("a legal message that is not handled")
        return ()

    def close(self) -> None:
        """Delete what is held: for a run that ends early. The end of the process does the same."""
        match self.state:
            case AwaitingDatasets(uploads):
                files = [upload.file for upload in uploads.values() if isinstance(upload, Upload)]
            case AwaitingRandomShares(owners=owners):
                files = [masking.file for masking in owners.values()]
            case _:
                return
        self.state = Ended()
        for file in files:
            file.close()

    def _keyed(self, uploads: Uploads, sender: int, message: Message, modulus: bytes) -> KeyOnly:
        if not isinstance(uploads[sender], NoKey):
            refuse(sender, message, "comes a second time")
        other = uploads[self._setting.peer(sender)]
        return KeyOnly(check_modulus(modulus, self._setting.bits, None if isinstance(other, NoKey) else other.n))

    def _stored(self, uploads: Uploads, sender: int, message: ScrambledDataset) -> Upload:
        upload = uploads[sender]
        if isinstance(upload, NoKey):
            refuse(sender, message, "comes before the public key")
        shape = self._setting.row_shape(sender)
        before = upload.received if isinstance(upload, Upload) else Received(message.total)
        received = before.with_part(sender, message, shape)
        hashes = (*upload.hashes, message.hashes) if isinstance(upload, Upload) else (message.hashes,)
        if received.complete:
            hashes = (np.concatenate(hashes),)
            if has_duplicates(hashes[0]):
                refuse(sender, message, "holds a keyed hash twice")
        self._addition.inspect(message.ciphertexts, upload.n)
        file = upload.file if isinstance(upload, Upload) else CiphertextFile(shape, self._folder)
        file.append(message.ciphertexts)
        return Upload(upload.n, received, hashes, file)

    def _report_uploads(self, uploads: Uploads) -> None:
        known = [upload.received for upload in uploads.values() if isinstance(upload, Upload)]
        self._progress(STEP_RECEIVE, sum(r.rows for r in known), sum(r.total for r in known))

    def _match_if_complete(self, uploads: Uploads) -> Iterable[Outgoing]:
        first, second = (uploads[controller] for controller in self._setting.controllers)
        if not isinstance(first, Upload) or not isinstance(second, Upload):
            return ()
        if not (first.received.complete and second.received.complete):
            return ()
        matches = match_hashes(first.hashes[0], second.hashes[0])
        records = len(matches[0])
        if records < self._setting.min_records:  # before anything else is done with the number
            self.state = Ended()
            first.file.close()
            second.file.close()
            return self._end_with_too_few()
        order = permutation(records, self._rng)
        owners = {
            controller: Masking(
                upload.n, Received(records), upload.file.gathered(indices[order], self._folder), DistinctResidues()
            )
            for controller, upload, indices in zip(self._setting.controllers, (first, second), matches, strict=True)
        }
        self.state = AwaitingRandomShares(records, owners)
        return [Outgoing(controller, IntersectionSize(records)) for controller in self._setting.controllers]

    def _end_with_too_few(self) -> Iterator[Outgoing]:
        for controller in self._setting.controllers:
            yield Outgoing(controller, TooFewRecords())
        raise _too_few(self._setting)

    def _on_masks(self, state: AwaitingRandomShares, sender: int, message: RandomShare) -> Iterable[Outgoing]:
        owner = self._setting.peer(sender)
        masking = state.owners[owner]
        received = masking.received.with_part(sender, message, self._setting.row_shape(owner))
        masking.residues.add(self._addition.inspect(message.ciphertexts, masking.n))  # changes nothing if it raises
        owners = {**state.owners, owner: replace(masking, received=received)}
        self._progress(STEP_MASK, sum(o.received.rows for o in owners.values()), 2 * state.records)
        complete = all(o.received.complete for o in owners.values())
        self.state = Done(Matched(state.records)) if complete else replace(state, owners=owners)
        return self._masked(owner, masking, message)

    def _masked(self, owner: int, masking: Masking, masks: RandomShare) -> Iterator[Outgoing]:
        rows = masking.file.take(masks.first, len(masks.ciphertexts))
        ciphertexts = self._addition.add(rows, masks.ciphertexts, masking.n)
        if masks.first + len(rows) == masks.total:
            masking.file.close()
        yield Outgoing(owner, MaskedShare(masks.first, masks.total, ciphertexts))


def _too_few(setting: Setting) -> Refused:
    return Refused("too-few-records", too_few_records(setting.min_records))


# --- parts ------------------------------------------------------------------


def _parts(total: int, row_shape: tuple[int, int], more: int = 0) -> list[range]:
    """Return the rows of each part: near PART_BYTES, and not fewer than LEAST_PARTS parts if there are the rows."""
    count, size = row_shape
    rows = max(1, min(PART_BYTES // (count * size + more), total // LEAST_PARTS))
    return [range(first, min(first + rows, total)) for first in range(0, max(total, 1), rows)]


def _distinct(parts: Iterable[Bytes], n: int) -> Iterator[Bytes]:
    """Pass our own ciphertexts on; LocalProtocolError before one leaves whose obfuscator has left already."""
    seen = DistinctResidues(LocalProtocolError)
    for ciphertexts in parts:
        seen.add(residues(ciphertexts, n))
        yield ciphertexts
