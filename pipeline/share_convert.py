"""Step 7, additive shares to Shamir shares, and from them the Gram matrix, without I/O.

The two controllers hold additive shares of every matched value: the owner
slot - 2^43, the other -mask; their sum is the value, in the integers and so
modulo p. Each controller deals its additive share s of every entry with a
polynomial f of degree 1, f(0) = s; party i gets f(i+1). Of dealer i's
polynomials

- party i+1 (modulo 3) derives its share from the key in `ShareKey`, a
  pseudorandom function of session, dealer, row and column: no message;
- party i+2 is sent its share in `ShamirShare`;
- the dealer computes its own.

The share of i+1 has nothing to do with s, and that of i+2 is, without the key,
pseudorandom: f(k) = s*(1 - k/j) + f(j)*k/j. One party alone learns nothing, any
two hold s. The shares of both dealers added are Shamir shares of the matched
table, which no one has seen.

A party keeps no table of shares in memory: rows go into the Gram matrix of their fold as
they come, and to `keep`, where the agreement says that shares are kept.
One of the controllers precedes the other (0 before 1, 1 before 2, 2 before 0):

    follower (0)            leader (1)              third party (2)
      ShareKey  ------------->
                              ShareKey  -------------->
      <-------------  ShamirShare, a part of rows
      ShamirShare, the same rows  -------------------->

The follower deals the rows it is sent shares of, so nobody stores rows that
wait for their other half, and dealers that are ready at different times do not
fill the third party's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import NoReturn, Protocol, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import BLAS_ROWS, CHUNK, FoldAccumulator, PrimeField, PseudorandomElements
from pipeline.messages import PART_BYTES, SECRET_BYTES, Bytes, Message, Outgoing, ShamirShare, ShareKey, Words
from pipeline.packing import SLOT_BYTES

LABEL = b"secure-lasso-pipeline/shamir-share/v1"
PARTIES = 3
STEP = "sharing the matched records"

RandomBytes: TypeAlias = Callable[[int], bytes]
Keep: TypeAlias = Callable[[Words], None]  # takes Shamir shares of rows, (rows, columns, words), in their order
Progress: TypeAlias = Callable[[str, int, int], None]  # step, done, total


def _unseen(step: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class SharingSetting:
    """What is agreed or has become known to all before step 7."""

    session: bytes
    controllers: tuple[int, int]  # in the order of their columns
    widths: Mapping[int, int]  # encoded columns of each controller
    field: PrimeField
    records: int
    folds: int = 1  # a Gram matrix for each

    def __post_init__(self) -> None:
        if len({*self.controllers} & {*range(PARTIES)}) != 2 or {*self.widths} != {*self.controllers}:
            raise LocalProtocolError("step 7 is for two controllers out of three parties")
        if self.records < 1:
            raise LocalProtocolError("step 7 without a matched record")
        if self.folds < 1:
            raise LocalProtocolError("the records are in one fold at least")

    @property
    def leader(self) -> int:
        first, second = self.controllers
        return second if second == (first + 1) % PARTIES else first

    @property
    def follower(self) -> int:
        return (self.leader - 1) % PARTIES

    @property
    def third_party(self) -> int:
        return (self.leader + 1) % PARTIES

    @property
    def columns(self) -> int:
        return sum(self.widths[controller] for controller in self.controllers)

    def peer(self, controller: int) -> int:
        """The other controller."""
        return self.follower if controller == self.leader else self.leader

    def stream(self, dealer: int, key: bytes) -> PseudorandomElements:
        """The shares that party dealer + 1 derives; the entry at (row, column) is element row * columns + column.

        `key` is what `ShareKey` carries. HKDF-SHA-256 (RFC 5869) binds it to session and dealer.
        """
        hkdf = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=self.session, info=LABEL + bytes([dealer]))
        return PseudorandomElements(self.field, hkdf.derive(key))

    def derived(self, stream: PseudorandomElements, rows: range) -> Words:
        """Return the stream's shares of these rows, shape (rows, columns, words)."""
        flat = stream.elements(rows.start * self.columns, len(rows) * self.columns)
        return flat.reshape(len(rows), self.columns, self.field.words)

    def accumulator(self) -> FoldAccumulator:
        return FoldAccumulator(self.field, self.columns, self.folds)

    def parts(self, part_bytes: int) -> Iterator[range]:
        """Ranges of rows whose shares take about `part_bytes`."""
        rows = max(1, part_bytes // (max(1, self.columns) * self.field.element_bytes))
        rows -= rows % BLAS_ROWS if rows > BLAS_ROWS else 0  # full blocks are the fast ones
        for first in range(0, self.records, rows):
            yield range(first, min(first + rows, self.records))

    def pieces(self, rows: range) -> Iterator[range]:
        """Ranges of rows short enough for the processor's cache to hold what is computed of them."""
        step = max(1, CHUNK // max(1, self.columns))
        for first in range(rows.start, rows.stop, step):
            yield range(first, min(first + step, rows.stop))


class Accumulator(Protocol):
    """Where both dealings come together, row by row in the order of the table."""

    def add_sum(self, rows: Words, others: Words) -> None: ...

    def result(self) -> Words: ...


class KeepingAccumulator:
    """Hands each row on to `keep` before it is added up."""

    def __init__(self, field: PrimeField, accumulator: Accumulator, keep: Keep) -> None:
        self._field = field
        self._accumulator = accumulator
        self._keep = keep

    def add_sum(self, rows: Words, others: Words) -> None:
        self._keep(self._field.add(rows, others))
        self._accumulator.add_sum(rows, others)

    def result(self) -> Words:
        return self._accumulator.result()


def accumulator(setting: SharingSetting, keep: Keep | None) -> Accumulator:
    adding_up: Accumulator = setting.accumulator()
    return adding_up if keep is None else KeepingAccumulator(setting.field, adding_up, keep)


@dataclass(frozen=True, eq=False, repr=False)
class GramShare:
    """One party's share of the Gram matrices Z^T Z of the folds of the matched table Z = [1, X].

    gram : shape (folds, D + 1, D + 1, words), symmetric; the columns of X are those of the
        first controller, then of the second, each with its outcome, if it has it, last.
        Row i of the table, whose order nobody knows, is in fold i modulo `folds`.

    The parties' shares lie on polynomials of degree 2, at x = party + 1, and all
    three are needed. The polynomials are products of those of the table, not
    random ones: shares must be re-shared before anything made from them is opened.
    """

    records: int
    field: PrimeField
    gram: Words
    folds: int = 1

    def __post_init__(self) -> None:
        if self.gram.ndim != 4 or len(self.gram) != self.folds:
            raise LocalProtocolError(f"Gram matrices of shape {self.gram.shape}, not of {self.folds} folds")

    @property
    def total(self) -> Words:
        """The share of the Gram matrix of all rows, shape (D + 1, D + 1, words)."""
        return reduce(self.field.add, self.gram)

    def columns(self, selection: Sequence[int]) -> GramShare:
        """The share of the Gram matrices of [1, X[:, selection]]."""
        kept = [0, *(1 + column for column in selection)]
        return replace(self, gram=self.gram[:, kept][:, :, kept])


def fold_sizes(records: int, folds: int) -> tuple[int, ...]:
    """How many of the rows are in each fold."""
    return tuple(len(range(fold, records, folds)) for fold in range(folds))


@dataclass(frozen=True, eq=False, repr=False)
class Dealer:
    """A controller's additive shares on their way to becoming Shamir shares.

    own : uint8 (records, own width, 15), slots of masked own values.
    masks : uint8 (records, the other's width, 15), own masks of the other's values.
    Both belong to the dealer: a row is overwritten with zeros once it is dealt.
    """

    setting: SharingSetting
    party: int
    stream: PseudorandomElements
    own: Bytes
    masks: Bytes

    def deal(self, rows: range) -> tuple[Words, Words]:
        """Return the dealer's own shares of these rows and those to send, each (rows, columns, words).

        To be called once for a row: a second polynomial through the same share of
        party dealer + 1 would show the receiver the difference of what was dealt.
        """
        keyed, own, sent = ((self.party + i) % PARTIES + 1 for i in (1, 0, 2))
        points = sorted((own, sent))
        derived = self.setting.derived(self.stream, rows)
        shares = self.setting.field.line(self._additive(rows), derived, keyed, points)
        return shares[points.index(own)], shares[points.index(sent)]

    def deal_into(self, gram: Accumulator, rows: range, other: Callable[[range], Words]) -> Words:
        """Deal these rows; add up, with the other dealer's shares, what is kept; return what is to be sent."""
        field = self.setting.field
        result = field.zeros(len(rows), self.setting.columns)
        for piece in self.setting.pieces(rows):
            kept, sent = self.deal(piece)
            place = slice(piece.start - rows.start, piece.stop - rows.start)
            for word in range(field.words):  # plane by plane
                result[place, :, word] = sent[..., word]
            gram.add_sum(kept, other(piece))
        return result

    def _additive(self, rows: range) -> Words:
        piece = slice(rows.start, rows.stop)
        own, masks = self.own[piece], self.masks[piece]
        shares = self.setting.field.from_slots(own), self.setting.field.from_masks(masks)
        own[:] = 0
        masks[:] = 0
        in_order = shares if self.party == self.setting.controllers[0] else shares[::-1]
        result, split = self.setting.field.planar(len(rows), self.setting.columns), in_order[0].shape[1]
        for word in range(self.setting.field.words):
            result[:, :split, word], result[:, split:, word] = (part[..., word] for part in in_order)
        return result


@dataclass(frozen=True, eq=False, repr=False)
class NotStarted:
    """A controller before `start`."""

    own: Bytes
    masks: Bytes


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingKey:
    """The leader, ready to deal."""

    dealer: Dealer


@dataclass(frozen=True)
class Dealing:
    """The leader: its parts are being drawn."""


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingLeader:
    """The follower: it has dealt and added up the rows it was sent shares of."""

    dealer: Dealer
    gram: Accumulator
    rows: int


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingBoth:
    """The third party without the leader's key; the follower may be faster."""

    parts: tuple[ShamirShare, ...]
    rows: int


@dataclass(frozen=True, eq=False, repr=False)
class AwaitingFollower:
    """The third party with the key."""

    stream: PseudorandomElements
    gram: Accumulator
    rows: int


@dataclass(frozen=True, eq=False, repr=False)
class Done:
    share: GramShare


class ControllerSharing:
    """A controller's part of step 7; `result` is there when all rows are dealt and added up.

    own, masks : as in `Dealer`; taken over and overwritten, so they must be writeable.
    rng : gives that many random bytes; the dealt key comes from it.
    part_bytes : about the size of a part; the leader's choice serves both controllers.
    keep : gets this party's shares of all rows, if they are to be kept.
    """

    def __init__(
        self,
        me: int,
        setting: SharingSetting,
        own: Bytes,
        masks: Bytes,
        rng: RandomBytes,
        progress: Progress = _unseen,
        part_bytes: int = PART_BYTES,
        keep: Keep | None = None,
    ) -> None:
        self.state: NotStarted | AwaitingKey | Dealing | AwaitingLeader | Done = NotStarted(own, masks)
        self._me = me
        self._setting = setting
        self._rng = rng
        self._progress = progress
        self._part_bytes = part_bytes
        self._keep = keep

    @property
    def result(self) -> GramShare | None:
        return self.state.share if isinstance(self.state, Done) else None

    def start(self) -> Iterable[Outgoing]:
        """Return the key for the next party."""
        if not isinstance(self.state, NotStarted):
            raise LocalProtocolError("a role is started once: shares are dealt once")
        own, masks = self.state.own, self.state.masks
        self._check(own, self._me)
        self._check(masks, self._setting.peer(self._me))
        key = self._rng(SECRET_BYTES)
        dealer = Dealer(self._setting, self._me, self._setting.stream(self._me, key), own, masks)
        if self._me == self._setting.leader:
            self.state = AwaitingKey(dealer)
        else:
            self.state = AwaitingLeader(dealer, accumulator(self._setting, self._keep), 0)
        return [Outgoing((self._me + 1) % PARTIES, ShareKey(key))]

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]:
        """Advance by one message; return what must now be sent.

        RemoteProtocolError, leaving the state as it was, if `sender` may not send
        `message` now. What the leader returns is lazy: drawing it deals and adds up.
        """
        match self.state, message:
            case AwaitingKey(dealer), ShareKey(key) if sender == self._setting.follower:
                self.state = Dealing()
                outgoing: Iterable[Outgoing] = self._lead(dealer, self._setting.stream(sender, key))
            case AwaitingLeader() as state, ShamirShare() if sender == self._setting.leader:
                rows = _next_rows(self._setting, state.rows, sender, message)
                outgoing = self._follow(state, rows, message)
            case _:
                _refuse(sender, message, f"has no place in state {type(self.state).__name__}")
        return outgoing

    def _check(self, slots: Bytes, owner: int) -> None:
        shape = (self._setting.records, self._setting.widths[owner], SLOT_BYTES)
        if slots.shape != shape or slots.dtype != np.uint8 or not slots.flags.writeable:
            raise LocalProtocolError(f"additive shares of shape {slots.shape}, not a writeable {shape}")

    def _lead(self, dealer: Dealer, stream: PseudorandomElements) -> Iterator[Outgoing]:
        setting, gram = self._setting, accumulator(self._setting, self._keep)
        for rows in setting.parts(self._part_bytes):
            sent = dealer.deal_into(gram, rows, partial(setting.derived, stream))
            self._progress(STEP, rows.stop, setting.records)
            yield Outgoing(setting.follower, ShamirShare(rows.start, setting.records, sent))
        self.state = Done(GramShare(setting.records, setting.field, gram.result(), setting.folds))

    def _follow(self, state: AwaitingLeader, rows: range, part: ShamirShare) -> Iterable[Outgoing]:
        # The state moves before rows are dealt: whatever fails, they are not dealt again.
        setting, gram = self._setting, state.gram
        self.state = AwaitingLeader(state.dealer, gram, rows.stop)
        sent = state.dealer.deal_into(gram, rows, part.of)
        self._progress(STEP, rows.stop, setting.records)
        if rows.stop == setting.records:
            self.state = Done(GramShare(setting.records, setting.field, gram.result(), setting.folds))
        return [Outgoing(setting.third_party, ShamirShare(rows.start, setting.records, sent))]


class ThirdPartySharing:
    """The third party's part of step 7; `result` is there when all rows are added up."""

    def __init__(self, setting: SharingSetting, progress: Progress = _unseen, keep: Keep | None = None) -> None:
        self.state: AwaitingBoth | AwaitingFollower | Done = AwaitingBoth((), 0)
        self._setting = setting
        self._progress = progress
        self._keep = keep

    @property
    def result(self) -> GramShare | None:
        return self.state.share if isinstance(self.state, Done) else None

    def start(self) -> Iterable[Outgoing]:
        """Return nothing: the controllers begin."""
        return ()

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]:
        """Advance by one message; nothing is sent.

        RemoteProtocolError, leaving the state as it was, if `sender` may not send `message` now.
        """
        match self.state, message:
            case AwaitingBoth(parts), ShareKey(key) if sender == self._setting.leader:
                stream = self._setting.stream(sender, key)
                self.state = AwaitingFollower(stream, accumulator(self._setting, self._keep), 0)
                for part in parts:
                    self._add(self.state, part)
            case AwaitingBoth(parts, rows), ShamirShare() if sender == self._setting.follower:
                rows = _next_rows(self._setting, rows, sender, message).stop
                self.state = AwaitingBoth((*parts, message), rows)
            case AwaitingFollower() as state, ShamirShare() if sender == self._setting.follower:
                _next_rows(self._setting, state.rows, sender, message)
                self._add(state, message)
            case _:
                _refuse(sender, message, f"has no place in state {type(self.state).__name__}")
        return ()

    def _add(self, state: AwaitingFollower, part: ShamirShare) -> None:
        setting, gram = self._setting, state.gram
        rows = range(part.first, part.first + len(part.shares))
        for piece in setting.pieces(rows):
            gram.add_sum(part.of(piece), setting.derived(state.stream, piece))
        self._progress(STEP, rows.stop, setting.records)
        if rows.stop == setting.records:
            self.state = Done(GramShare(setting.records, setting.field, gram.result(), setting.folds))
        else:
            self.state = AwaitingFollower(state.stream, gram, rows.stop)


def _next_rows(setting: SharingSetting, rows: int, sender: int, part: ShamirShare) -> range:
    """Return the rows of a part that must be the next one, `rows` having come before it."""
    shape = (setting.columns, setting.field.words)
    if part.total != setting.records:
        _refuse(sender, part, f"is of {part.total} rows, not of {setting.records}")
    if part.first != rows:
        _refuse(sender, part, f"begins at row {part.first}, where {rows} of {setting.records} have come")
    if part.shares.shape[1:] != shape:
        _refuse(sender, part, f"has rows of shape {part.shares.shape[1:]}, not {shape}")
    setting.field.validate(part.shares, f"party {sender}")
    return range(rows, rows + len(part.shares))


def _refuse(sender: int, message: Message, why: str) -> NoReturn:
    raise RemoteProtocolError(f"{type(message).__name__} from party {sender} {why}")
