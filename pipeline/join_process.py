"""Steps 1 to 7 in a process of their own, which ends when they are over.

The process holds the secrets of the join: the table, the key of the keyed
hash, the Paillier keys and their tables, the masks and the additive shares.
Nothing of it is written anywhere, and only the share of the Gram matrix leaves:
its size does not depend on the number of records. Where the agreement says so,
the Shamir shares of the matched table are written to a file besides, which is the
main process's and has no name as long as this process runs. The main process forwards
the messages, contributions to keys among them; see `run.py` for its side of the
pipe.

On the pipe, from here: ("ready",), ("send", receiver, bytes),
("step", words), ("advance", done, total), ("result", JoinResult),
("failed", FailureReport). To here: ("session", bytes),
("message", sender, bytes), ("sent",).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pipeline import bounds, joins, matching, subgroup_keys, wire
from pipeline.compute import Workers, cores, die_with_parent, ignore_interrupts, no_core_dump
from pipeline.config import Agreement, Join, Local
from pipeline.driver import Mailbox, Role, drive
from pipeline.errors import (
    DataError,
    LocalProtocolError,
    OwnInputError,
    PeerError,
    PipelineError,
    Refused,
    RemoteProtocolError,
)
from pipeline.fixed_point import encode
from pipeline.kept_shares import ShareWriter, UnnamedFile
from pipeline.messages import IntersectionSize, Message, ShamirShare, ShareKey
from pipeline.paillier import KeyPair
from pipeline.preprocess import prepare
from pipeline.psi import Controller, PaillierWorkers, ThirdParty
from pipeline.psi_states import AdditiveShares, Matched, Setting, Table
from pipeline.rare_levels import check_rare_levels, two_valued
from pipeline.share_convert import ControllerSharing, GramShare, SharingSetting, ThirdPartySharing

if TYPE_CHECKING:
    from pipeline.cluster import Cluster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinResult:
    """What is left of steps 1 to 7 at this party.

    `exponents` (of both controllers' columns, in their order), `offsets` (of
    this controller's own columns) and the row counts are None at the third party.
    `two_valued` has, of this controller's own columns, the two values or None.
    `kept` is the SHA-256 of the file of shares, if they are kept.
    """

    gram: GramShare
    exponents: tuple[int, ...] | None
    offsets: tuple[int, ...] | None
    read: int
    dropped: Mapping[str, int]
    seconds: Mapping[str, float]
    two_valued: tuple[tuple[float, float] | None, ...] | None = None
    kept: str | None = None


@dataclass(frozen=True)
class FailureReport:
    """An error as it crosses the pipe: never an exception object, never a foreign text."""

    exit_state: int
    sentences: tuple[str, ...]
    rule: str = ""
    kind: str = ""
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException) -> FailureReport:
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, OwnInputError):
            return cls(error.exit_state, error.faults, kind=type(error).__name__, trace=trace)
        if isinstance(error, Refused):
            return cls(error.exit_state, (str(error),), rule=error.rule, trace=trace)
        if isinstance(error, PipelineError):
            return cls(error.exit_state, (str(error),), kind=type(error).__name__, trace=trace)
        return cls(1, (f"a bug in steps 1 to 7 ({type(error).__name__})",), kind=type(error).__name__, trace=trace)

    def error(self) -> PipelineError:
        """The error again, in the main process."""
        if self.trace:
            log.debug("%s", self.trace)
        match self.exit_state:
            case 2:
                return OwnInputError(self.sentences)
            case 3:
                return Refused(self.rule, self.sentences[0])
            case 4 if self.kind == "RemoteProtocolError":
                return RemoteProtocolError(self.sentences[0])
            case 4:
                return PeerError(self.sentences[0])
            case _:
                return LocalProtocolError(self.sentences[0] + "; run again with --debug and report it")


class PipeChannel:
    """The child's end of the pipe as a channel of messages.

    At most one outgoing message is under way; the main process answers
    ("sent",) when it has taken it, so that this side never blocks on a write
    while it could read.
    """

    def __init__(self, connection: Connection, session: bytes, learnt: Callable[[], None] | None = None) -> None:
        """`learnt` is called when the number of matches has come, before it is handed out."""
        self._connection = connection
        self._session = session
        self._learnt = learnt
        self._free = True
        self._arrived: deque[tuple[int, Message]] = deque()

    def free(self) -> bool:
        return self._free

    def send(self, receiver: int, message: Message) -> None:
        self._free = False
        self._connection.send(("send", receiver, bytes(wire.encode(message, self._session))))

    def receive(self, *, block: bool) -> tuple[int, Message] | None:
        if not self._arrived and (block or self._connection.poll(0)):
            self._take()
        return self._arrived.popleft() if self._arrived else None

    def wait(self) -> None:
        while not self._free:
            self._take()

    def _take(self) -> None:
        match self._connection.recv():
            case ("sent",):
                self._free = True
            case ("message", int(sender), bytes(data)):
                message = wire.decode(data, self._session)
                if isinstance(message, IntersectionSize) and self._learnt is not None:
                    self._learnt()
                self._arrived.append((sender, message))
            case other:
                raise LocalProtocolError(f"the main process sent {other[0]!r}")


class PipeProgress:
    """Forwards progress, at most ten times a second."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._step = ""
        self._next = 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._step = step
            self._connection.send(("step", step))
        elif done < total and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.1
        self._connection.send(("advance", done, total))


def main(
    connection: Connection,
    agreement: Agreement,
    local: Local,
    party_id: int,
    shares: UnnamedFile | None,
    debug: bool,
) -> None:
    """Entry of the process; what goes wrong is told over the pipe, and without `debug` nowhere else.

    shares : where Shamir shares are written, if they are kept.
    """
    if not debug:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # workers that are killed while they start complain
    ignore_interrupts()
    no_core_dump()
    try:
        # First of all: they may be copies of this process, which knows nothing yet.
        with _workers(local) as workers:
            die_with_parent()
            connection.send(("result", _steps(connection, agreement, local, party_id, workers, shares)))
    except (EOFError, BrokenPipeError):
        os._exit(1)  # the main process has gone
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send(("failed", FailureReport.of(error)))
    finally:
        connection.close()


@dataclass(frozen=True)
class _Remains:
    """What is needed of a controller's table when its rows are gone."""

    exponents: tuple[int, ...]
    offsets: tuple[int, ...]
    read: int
    dropped: Mapping[str, int]
    two_valued: tuple[tuple[float, float] | None, ...]
    join: joins.Planned


def _steps(
    connection: Connection,
    agreement: Agreement,
    local: Local,
    party_id: int,
    own_workers: Workers | None,
    shares: UnnamedFile | None,
) -> JoinResult:
    clock = _Clock()
    remains, table = _prepare(agreement, local, party_id)
    cluster = _cluster(local)
    seconds = {"prepare": clock.lap()}
    connection.send(("ready",))
    keypair = _new_key(agreement.join) if table is not None else None
    with _with_key(cluster, own_workers, keypair) as workers:
        match connection.recv():
            case ("session", bytes(session)):
                clock.lap()
            case other:
                raise LocalProtocolError(f"the main process sent {other[0]!r} before the session")
        learnt = None if remains is None else remains.join.record
        mailbox = Mailbox(PipeChannel(connection, session, learnt))
        progress = PipeProgress(connection)
        setting = Setting.of(agreement, session)
        cryptography = PaillierWorkers(workers, session)
        if keypair is not None and table is not None:
            ciphertexts = len(table.values) * setting.row_shape(party_id)[0]
            powers = max(1, ciphertexts // _count(local))  # of masks there are as many or fewer
            cryptography = PaillierWorkers(workers, session, keypair.modulus, keypair.base, powers)
        del keypair
        role = _join_role(party_id, setting, table, cryptography, progress)
        del table  # the role lets go of identifiers and rows as they are uploaded
        joined = drive(role, mailbox, (ShareKey, ShamirShare))
        del role
    seconds["join"] = clock.lap()
    sharing = _sharing_setting(agreement, session, joined.records)
    writer = None if shares is None else ShareWriter(shares, sharing.records, sharing.columns, sharing.field)
    gram = drive(_sharing_role(party_id, sharing, joined, progress, writer), mailbox)
    kept = None if writer is None else writer.end()
    seconds["share"] = clock.lap()
    if remains is None or not isinstance(joined, AdditiveShares):
        return JoinResult(gram, None, None, 0, {}, seconds, kept=kept)
    exponents = {party_id: remains.exponents, setting.peer(party_id): joined.peer_exponents}
    in_order = tuple(e for controller in setting.controllers for e in exponents[controller])
    own = remains
    return JoinResult(gram, in_order, own.offsets, own.read, own.dropped, seconds, own.two_valued, kept)


def _prepare(agreement: Agreement, local: Local, party_id: int) -> tuple[_Remains | None, Table | None]:
    """Step 1; None at the third party."""
    party = agreement.party(party_id)
    if party.role != "controller":
        return None, None
    prepared = prepare(party, local, permutation=lambda n: matching.permutation(n, secrets.token_bytes))
    check_rare_levels(prepared, agreement, party_id)
    try:
        encoded = encode(prepared.values, party, bounds.offset_bits(agreement.model.fit_intercept))
    except DataError as error:
        raise DataError(f"{local.data}: {fault}" for fault in error.faults) from error
    pairs = tuple(two_valued(prepared.values, party))
    planned = joins.planned(local.output, agreement.study, prepared)
    remains = _Remains(encoded.exponents, encoded.offsets, prepared.read, prepared.dropped, pairs, planned)
    return remains, Table(prepared.identifiers, encoded.values, encoded.exponents)


def _workers(local: Local) -> contextlib.AbstractContextManager[Workers | None]:
    """Processes on this machine; None where a cluster is to be used."""
    return Workers.start(_count(local)) if local.compute.scheduler is None else contextlib.nullcontext()


def _cluster(local: Local) -> Cluster | None:
    if local.compute.scheduler is None:
        return None
    from pipeline.cluster import Cluster

    return Cluster.connect(local.compute)


def _with_key(cluster: Cluster | None, workers: Workers | None, keypair: KeyPair | None) -> Workers:
    if cluster is not None:
        return cluster.workers(keypair)
    assert workers is not None  # noqa: S101 (one of the two there is)
    workers.hold(keypair)
    return workers


def _count(local: Local) -> int:
    """Of worker processes, if there is no cluster."""
    return local.compute.workers or cores()


def _new_key(join: Join) -> KeyPair:
    if join.keys == "subgroup":
        return subgroup_keys.generate(join.paillier_bits, secrets.token_bytes)
    return KeyPair.generate(join.paillier_bits)


def _join_role(
    party_id: int, setting: Setting, table: Table | None, cryptography: PaillierWorkers, progress: PipeProgress
) -> Role[AdditiveShares | Matched]:
    """Steps 2 to 6."""
    if table is None:
        return ThirdParty(setting, cryptography, secrets.token_bytes, progress)
    return Controller(party_id, setting, table, cryptography, secrets.token_bytes, progress)


def _sharing_setting(agreement: Agreement, session: bytes, records: int) -> SharingSetting:
    """Step 7 is in the field in which step 8 is proved not to overflow."""
    model = agreement.model
    sizes = bounds.plan_of(agreement, records)
    first, second = agreement.controllers
    return SharingSetting(
        session,
        (first.id, second.id),
        {party.id: party.width for party in (first, second)},
        sizes.field,
        records,
        max(1, model.folds),
    )


def _sharing_role(
    party_id: int,
    setting: SharingSetting,
    joined: AdditiveShares | Matched,
    progress: PipeProgress,
    keep: ShareWriter | None,
) -> Role[GramShare]:
    """Step 7."""
    if isinstance(joined, Matched):
        return ThirdPartySharing(setting, progress, keep)
    return ControllerSharing(party_id, setting, joined.own, joined.masks, secrets.token_bytes, progress, keep=keep)


class _Clock:
    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        """Seconds since the lap before."""
        since, self._since = self._since, time.monotonic()
        return self._since - since
