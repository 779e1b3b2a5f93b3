"""What the parties tell one another around a run: greeting, signs of life, reasons to stop, the end. No I/O.

Between each two parties there is one ordered stream of frames. Each party
keeps one `Session`, which takes what happens on those streams and says what is
to be sent:

    connected       ->  Hello (version, digest of the agreement, nonce, command)
    Hello of all    ->  Ready (session identifier) to all
    Ready of all        the session stands; from here on a lost peer ends the run
    Stream, Beat        bytes of step 8; signs of life
    Done of all         the end: a closed connection is no death any more
    Abort               the end, for the reason it names

A connection lost before Ready was sent is merely awaited again. The session
identifier is a hash over one nonce of each party, so nothing of an earlier run
fits into this one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias

from pipeline import refusals
from pipeline.agreement import MAX_CANONICAL_BYTES, Agreement, canonical_json, differences, parse_canonical
from pipeline.errors import OwnInputError, PeerError, PipelineError, Refused, RemoteProtocolError, SharesMissing

PROTOCOL_VERSION = 2
SESSION_LABEL = b"secure-lasso-pipeline/session/v1"
NONCE_BYTES = 32
DIGEST_BYTES = 32
MAX_FRAME_BYTES = MAX_CANONICAL_BYTES + 3
MAX_NAMED_KEYS = 12  # of an agreement that differs, in one sentence

_NOBODY = 0xFFFF


class AbortCode(Enum):
    """Why a party stops, as the others are told: a fixed list, so that nothing else can slip out."""

    OWN_INPUT = 1
    INTERRUPTED = 2
    INTERNAL_ERROR = 3
    AGREEMENTS_DIFFER = 4
    VERSIONS_DIFFER = 5
    AWAITED_IN_VAIN = 6
    WRONG_CERTIFICATE = 7
    CERTIFICATE_NOT_ACCEPTED = 8
    NOT_UNDERSTOOD = 9
    CONNECTED_TWICE = 10
    PEER_LOST = 11
    PEER_STALLED = 12
    PROTOCOL_BROKEN = 13
    NO_SHARES = 14
    COMMANDS_DIFFER = 15
    REFUSED = 32
    REFUSED_TOO_FEW_RECORDS = 33
    REFUSED_NOT_CONVERGED = 34
    REFUSED_CONSTANT_OUTCOME = 35
    REFUSED_SPREAD = 36
    REFUSED_RANK = 37
    REFUSED_MIN_LEVEL_COUNT = 38
    REFUSED_MIN_RESIDUAL_DF = 39
    REFUSED_MAX_PARAMETERS_RATIO = 40
    REFUSED_MAX_R2 = 41
    REFUSED_HELD_OUT = 42
    REFUSED_CRITERION = 43
    REFUSED_OTHER_JOIN = 48
    REFUSED_EXPIRED = 49
    REFUSED_ANALYSES_USED = 50
    REFUSED_OPENED_USED = 51


_RULES = {
    "agreements-differ": AbortCode.AGREEMENTS_DIFFER,
    "versions-differ": AbortCode.VERSIONS_DIFFER,
    "commands-differ": AbortCode.COMMANDS_DIFFER,
    "too-few-records": AbortCode.REFUSED_TOO_FEW_RECORDS,
    "not-converged": AbortCode.REFUSED_NOT_CONVERGED,
    "constant-outcome": AbortCode.REFUSED_CONSTANT_OUTCOME,
    "spread": AbortCode.REFUSED_SPREAD,
    "rank": AbortCode.REFUSED_RANK,
    "min_level_count": AbortCode.REFUSED_MIN_LEVEL_COUNT,
    "min_residual_df": AbortCode.REFUSED_MIN_RESIDUAL_DF,
    "max_parameters_ratio": AbortCode.REFUSED_MAX_PARAMETERS_RATIO,
    "max_r2": AbortCode.REFUSED_MAX_R2,
    "held-out": AbortCode.REFUSED_HELD_OUT,
    "criterion": AbortCode.REFUSED_CRITERION,
    "other-join": AbortCode.REFUSED_OTHER_JOIN,
    "expired": AbortCode.REFUSED_EXPIRED,
    "analyses-used": AbortCode.REFUSED_ANALYSES_USED,
    "opened-used": AbortCode.REFUSED_OPENED_USED,
    "refused": AbortCode.REFUSED,
}


class Command(IntEnum):
    """What the parties do together; all must do the same."""

    RUN = 0
    FIT = 1


_AGAIN = "then start again at all parties"

# What a party says that is told a code: {who} stopped, {whom} it is about. Rules of the study are in `refusals.py`.
_SENTENCES = {
    AbortCode.OWN_INPUT: f"its own input is wrong, or its output cannot be written; have that mended there, {_AGAIN}",
    AbortCode.INTERRUPTED: "it was interrupted there; start again at all parties",
    AbortCode.INTERNAL_ERROR: f"its software failed; its own log says more; have that mended there, {_AGAIN}",
    AbortCode.AGREEMENTS_DIFFER: f"its agreement and that of {{whom}} differ; compare study.toml, {_AGAIN}",
    AbortCode.VERSIONS_DIFFER: f"it and {{whom}} run different versions; install the same one, {_AGAIN}",
    AbortCode.AWAITED_IN_VAIN: "it has waited in vain for {whom}; start all parties within the waiting time",
    AbortCode.WRONG_CERTIFICATE: (
        "the certificate it met at the address of {whom} is not the agreed one; "
        f"compare address and certificate of {{whom}} in the agreement, {_AGAIN}"
    ),
    AbortCode.CERTIFICATE_NOT_ACCEPTED: (
        f"{{whom}} does not accept its certificate; compare the fingerprint of {{who}} there, {_AGAIN}"
    ),
    AbortCode.NOT_UNDERSTOOD: f"what answers at the address of {{whom}} is something else; mend the address, {_AGAIN}",
    AbortCode.CONNECTED_TWICE: f"it seems to run twice; end one of the two, {_AGAIN}",
    AbortCode.PEER_LOST: f"it has lost {{whom}}; find out there what happened, {_AGAIN}",
    AbortCode.PEER_STALLED: f"it has seen no progress of {{whom}} for too long; find out there, {_AGAIN}",
    AbortCode.PROTOCOL_BROKEN: (
        f"something it received is not allowed by the protocol; compare the versions of the software, {_AGAIN}"
    ),
    AbortCode.NO_SHARES: (
        "it keeps no shares of the matched records that could be analysed; its own last message says why. Run the "
        "study at all parties if it is to be analysed again"
    ),
    AbortCode.COMMANDS_DIFFER: (
        "it and {whom} were started with different commands; give the same one, run or fit, at all parties"
    ),
    AbortCode.REFUSED: "a rule of the study forbids to go on; its own last message names the rule",
}


def abort_code(error: BaseException) -> AbortCode:
    """The code that tells the others of `error`."""
    match error:
        case Refused():
            return _RULES.get(error.rule, AbortCode.REFUSED)
        case SharesMissing():
            return AbortCode.NO_SHARES
        case OwnInputError():
            return AbortCode.OWN_INPUT
        case RemoteProtocolError():
            return AbortCode.PROTOCOL_BROKEN
        case PeerError():
            return AbortCode.PEER_LOST
        case KeyboardInterrupt():
            return AbortCode.INTERRUPTED
    return AbortCode.INTERNAL_ERROR


@dataclass(frozen=True, slots=True)
class Hello:
    version: int
    digest: bytes  # of the agreement
    nonce: bytes  # fresh; the same to all
    command: Command = Command.RUN


@dataclass(frozen=True, slots=True)
class Contents:
    """The agreement `party` has, sent when digests differ; it holds no secret."""

    party: int
    canonical: bytes  # JSON


@dataclass(frozen=True, slots=True)
class Ready:
    session: bytes


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life."""


@dataclass(frozen=True, slots=True)
class Done:
    """The sender has all it needs and sends nothing more."""


@dataclass(frozen=True, slots=True)
class Abort:
    """`origin` stopped because of `code`, which is about `party`."""

    code: AbortCode
    origin: int
    party: int | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes of step 8."""

    data: bytes


Frame: TypeAlias = Hello | Contents | Ready | Beat | Done | Abort | Stream
Sending: TypeAlias = tuple[int, Frame]  # receiver, frame


class _Kind(IntEnum):
    HELLO = 1
    CONTENTS = 2
    READY = 3
    BEAT = 4
    DONE = 5
    ABORT = 6
    STREAM = 7


STREAM_PREFIX = bytes([_Kind.STREAM])


def encode(frame: Frame) -> bytes:
    """One byte for the kind, then fields of fixed length; in every version to come a Hello begins with its version."""
    match frame:
        case Hello():
            return (
                bytes([_Kind.HELLO])
                + frame.version.to_bytes(2, "big")
                + frame.digest
                + frame.nonce
                + bytes([frame.command])
            )
        case Contents():
            return bytes([_Kind.CONTENTS]) + frame.party.to_bytes(2, "big") + frame.canonical
        case Ready():
            return bytes([_Kind.READY]) + frame.session
        case Beat():
            return bytes([_Kind.BEAT])
        case Done():
            return bytes([_Kind.DONE])
        case Abort():
            party = _NOBODY if frame.party is None else frame.party
            return bytes([_Kind.ABORT, frame.code.value]) + frame.origin.to_bytes(2, "big") + party.to_bytes(2, "big")
        case Stream():
            return STREAM_PREFIX + frame.data


def decode(data: bytes) -> Frame:
    """Raises ValueError for anything `encode` does not make."""
    body = data[1:]
    match data[0] if data else None, len(body):
        case _Kind.STREAM, _:
            return Stream(body)
        case _Kind.BEAT, 0:
            return Beat()
        case _Kind.HELLO, length if length >= 2:
            return _hello(body)
        case _Kind.CONTENTS, length if length >= 2:
            return Contents(int.from_bytes(body[:2], "big"), body[2:])
        case _Kind.READY, 32:
            return Ready(body)
        case _Kind.DONE, 0:
            return Done()
        case _Kind.ABORT, 5:
            return _abort(body)
    raise ValueError("a frame of unknown kind or wrong length")


def _hello(body: bytes) -> Hello:
    version = int.from_bytes(body[:2], "big")
    if version != PROTOCOL_VERSION:
        return Hello(version, bytes(DIGEST_BYTES), bytes(NONCE_BYTES))  # what follows may have another form
    if len(body) != 2 + DIGEST_BYTES + NONCE_BYTES + 1:
        raise ValueError("a greeting of wrong length")
    return Hello(version, body[2 : 2 + DIGEST_BYTES], body[2 + DIGEST_BYTES : -1], Command(body[-1]))


def _abort(body: bytes) -> Abort:
    party = int.from_bytes(body[3:5], "big")
    return Abort(AbortCode(body[0]), int.from_bytes(body[1:3], "big"), None if party == _NOBODY else party)


class SessionEnded(Exception):
    """The run cannot go on: `error` is for the person here, `notice` for the other parties."""

    def __init__(self, error: PipelineError, notice: Abort) -> None:
        super().__init__(str(error))
        self.error = error
        self.notice = notice


def session_identifier(digest: bytes, nonces: Iterable[bytes]) -> bytes:
    """SHA-256 over a label, the digest of the agreement and the parties' nonces in the order of their ids."""
    return hashlib.sha256(SESSION_LABEL + digest + b"".join(nonces)).digest()


@dataclass(frozen=True, slots=True)
class Absent:
    """No connection."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection, no greeting yet."""


@dataclass(frozen=True, slots=True)
class Differing:
    """Its greeting showed another agreement; its contents are on the way."""


@dataclass(frozen=True, slots=True)
class Greeted:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """It has greeted, and computed this session identifier."""

    nonce: bytes
    session: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """It has said Done."""


PeerState: TypeAlias = Absent | Connected | Differing | Greeted | Joined | Finished


class Session:
    """One party's side of the streams to all others.

    Methods return the frames to send, or raise SessionEnded; a frame that the
    state of its sender does not allow ends the session and moves nothing.
    """

    def __init__(self, agreement: Agreement, party_id: int, nonce: bytes, command: Command = Command.RUN) -> None:
        self._agreement = agreement
        self._me = party_id
        self._nonce = nonce
        self._command = command
        self._digest = bytes.fromhex(agreement.digest)
        self._reachable: set[int] = set()
        self._differing: list[Contents] = []  # another agreement than ours
        self.states: dict[int, PeerState] = {p.id: Absent() for p in agreement.parties if p.id != party_id}
        self.identifier: bytes | None = None
        self.is_done = False  # this party needs nothing more, and has said so

    @property
    def missing(self) -> tuple[int, ...]:
        """Who has not greeted yet, or cannot be reached at its own address."""
        here = (Greeted, Joined, Finished)
        return tuple(p for p, state in self.states.items() if not isinstance(state, here) or p not in self._reachable)

    @property
    def established(self) -> bool:
        """Everybody is known to have computed the same session identifier."""
        return self.identifier is not None and all(isinstance(s, Joined | Finished) for s in self.states.values())

    @property
    def finished(self) -> bool:
        return all(isinstance(state, Finished) for state in self.states.values())

    def connected(self, peer: int) -> list[Sending]:
        """A connection with `peer` is there."""
        self.states[peer] = Connected()
        return [(peer, Hello(PROTOCOL_VERSION, self._digest, self._nonce, self._command))]

    def reached(self, peer: int) -> list[Sending]:
        """`peer` answers at its own address."""
        self._reachable.add(peer)
        return self._ready_if_complete()

    def lost(self, peer: int, how: str) -> None:
        """The connection with `peer` is gone; before Ready was sent, `peer` may come again."""
        state = self.states[peer]
        if isinstance(state, Finished):
            return
        if self.identifier is not None:
            raise self.end(PeerError(f"{self.name(peer)} {how}"), AbortCode.PEER_LOST, peer)
        self.states[peer] = Absent()

    def receive(self, peer: int, frame: Frame) -> list[Sending]:
        """A frame came from `peer`. The bytes of a Stream are the caller's to pass on."""
        match frame, self.states[peer]:
            case Beat(), _:
                return []
            case Stream(), Greeted() | Joined() if self.identifier is not None:
                return []
            case Abort(), _ if self.finished and self.is_done:
                return []  # what others do after the end is nothing to us
            case Abort(), _:
                raise self._stopped_by(peer, frame)
            case Hello(), Connected():
                return self._on_hello(peer, frame)
            case Contents(), Differing() | Greeted() | Joined():
                return self._on_contents(peer, frame)
            case Ready(session), Greeted(nonce):
                return self._on_ready(peer, Joined(nonce, session))
            case Done(), Joined() if self.identifier is not None:
                self.states[peer] = Finished()
                return []
        raise self.broken(peer, f"sent {type(frame).__name__} out of turn")

    def farewell(self, notice: Abort) -> list[Sending]:
        """The last frames to everybody who is connected."""
        frames: list[Frame] = [notice]
        if notice.code is AbortCode.AGREEMENTS_DIFFER:
            # So that everybody can name the keys, whoever differs from whom.
            frames = [self._contents(), *self._differing, notice]
        return [(peer, frame) for peer, s in self.states.items() if not isinstance(s, Absent) for frame in frames]

    def end(self, error: PipelineError, code: AbortCode, party: int | None = None) -> SessionEnded:
        """To be raised: this party stops because of `error`."""
        return SessionEnded(error, Abort(code, self._me, party))

    def broken(self, peer: int, what: str) -> SessionEnded:
        """To be raised: `peer` did what the protocol does not allow."""
        sentence = f"{self.name(peer)} {what}, which the protocol does not allow; compare the versions of the software"
        return self.end(RemoteProtocolError(sentence), AbortCode.PROTOCOL_BROKEN, peer)

    def name(self, party: int) -> str:
        return self._agreement.party(party).name

    def _on_hello(self, peer: int, hello: Hello) -> list[Sending]:
        if hello.version != PROTOCOL_VERSION:
            sentence = (
                f"{self.name(peer)} speaks version {hello.version} of the protocol and this party version "
                f"{PROTOCOL_VERSION}; install the same version of the software at all parties"
            )
            raise self.end(Refused("versions-differ", sentence), AbortCode.VERSIONS_DIFFER, peer)
        if hello.command != self._command:
            names = [f"`{command.name.lower()}`" for command in (hello.command, self._command)]
            sentence = (
                f"{self.name(peer)} was started with the command {names[0]} and this party with {names[1]}; "
                "give the same one at all parties"
            )
            raise self.end(Refused("commands-differ", sentence), AbortCode.COMMANDS_DIFFER, peer)
        if hello.digest != self._digest:
            self.states[peer] = Differing()
            return [(peer, self._contents())]
        self.states[peer] = Greeted(hello.nonce)
        return self._ready_if_complete()

    def _ready_if_complete(self) -> list[Sending]:
        if self.identifier is not None or self.missing:
            return []
        nonces = {self._me: self._nonce}
        nonces |= {p: state.nonce for p, state in self.states.items() if isinstance(state, Greeted | Joined)}
        self.identifier = session_identifier(self._digest, (nonces[p] for p in sorted(nonces)))
        for peer, state in self.states.items():
            if isinstance(state, Joined):
                self._compare(peer, state.session)
        return [(peer, Ready(self.identifier)) for peer in self.states]

    def _on_ready(self, peer: int, joined: Joined) -> list[Sending]:
        self._compare(peer, joined.session)
        self.states[peer] = joined
        return []

    def _compare(self, peer: int, session: bytes) -> None:
        if self.identifier is not None and session != self.identifier:
            raise self.broken(peer, "computed another session identifier")

    def _contents(self) -> Contents:
        return Contents(self._me, canonical_json(self._agreement.canonical()))

    def _on_contents(self, peer: int, contents: Contents) -> list[Sending]:
        if contents.canonical == self._contents().canonical:
            return []  # the sender disagrees with the third of us
        if contents.party == self._me:
            return []  # what an earlier run here had; the sender still ends that one, and its reason follows
        owner = contents.party if contents.party in self.states else peer
        keys = _differing_keys(self._agreement.canonical(), contents.canonical)
        sentence = (
            f"the agreement here and the one at {self.name(owner)} differ in {keys}; "
            "all parties need the same study.toml and the same certificates"
        )
        self._differing = [contents]
        raise self.end(Refused("agreements-differ", sentence), AbortCode.AGREEMENTS_DIFFER, owner)

    def _stopped_by(self, peer: int, notice: Abort) -> SessionEnded:
        others = set(self.states)
        origin = notice.origin if notice.origin in others else peer
        party = notice.party if notice.party in others | {self._me} else None
        return SessionEnded(self._error(peer, notice.code, origin, party), Abort(notice.code, origin, party))

    def _error(self, peer: int, code: AbortCode, origin: int, party: int | None) -> PipelineError:
        """What to say here of what `peer` tells."""
        rule = next((rule for rule, its in _RULES.items() if its is code), None)
        if rule is not None and (words := refusals.sentence(rule, self._agreement)):
            return Refused(rule, words)
        names = {p: self.name(p) for p in self.states} | {self._me: "this party", None: "another party"}
        sentence = f"{names[origin]} stopped: {_SENTENCES[code]}".format(who=names[origin], whom=names[party])
        if origin != peer:
            sentence += f" ({names[peer]} says so)"
        return PeerError(sentence) if rule is None else Refused(rule, sentence)


def _differing_keys(mine: dict[str, object], theirs: bytes) -> str:
    try:
        keys = differences(mine, parse_canonical(theirs))
    except ValueError:
        keys = []
    rest = [f"and {len(keys) - MAX_NAMED_KEYS} more"] if len(keys) > MAX_NAMED_KEYS else []
    return ", ".join(keys[:MAX_NAMED_KEYS] + rest) or "their form (are the versions of the software the same?)"
