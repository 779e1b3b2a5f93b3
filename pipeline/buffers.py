"""What the thread of the computation and the thread of the network share.

Everything here is bounded, and guarded by one lock, `Shared.changed`, which
nobody holds for longer than it takes to move a reference: a computation that
keeps the interpreter busy for seconds delays the network thread by that time,
but a lock never does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pipeline.errors import LocalProtocolError, PipelineError

OnData = Callable[[bytes], None]
OnLost = Callable[[Exception], None]


@dataclass(frozen=True)
class TransportSettings:
    """Bounds and deadlines of the connections."""

    beat: float = 1.0  # seconds between signs of life
    silence: int = 9  # beats without a sign of life after which a peer is lost
    grace: float = 12.0  # seconds to bear with a peer that answers oddly; longer than a lost one goes unnoticed
    resend: float = 20.0  # seconds to try to deliver a payload over new connections
    hold: float = 10.0  # seconds to hold a payload there is no room for, before "later"
    farewell: float = 2.0  # seconds for the last frames to leave
    linger: float = 15.0  # seconds to stay for who has not come yet, for a reason that waiting does not mend
    patience: float = 86400.0  # seconds for a peer that lives to take a payload
    outbox_bytes: int = 32 << 20  # bytes waiting for one peer
    inbox_bytes: int = 32 << 20  # bytes of one peer not fetched yet
    link_bytes: int = 256 << 20  # bytes waiting in one direction of a link


@dataclass(frozen=True, slots=True)
class Parcel:
    """A payload with its place among those for the same receiver."""

    sequence: int
    payload: bytes
    digest: str  # SHA-256, hex


@dataclass
class Outbox:
    """Payloads for one peer that it has not acknowledged yet, in order."""

    limit: int  # bytes; one payload is always taken
    parcels: deque[Parcel] = field(default_factory=deque)
    held: int = 0  # bytes
    next_sequence: int = 0

    def fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self.limit

    def add(self, payload: bytes, digest: str) -> None:
        self.parcels.append(Parcel(self.next_sequence, payload, digest))
        self.next_sequence += 1
        self.held += len(payload)

    def acknowledged(self) -> None:
        self.held -= len(self.parcels.popleft().payload)


@dataclass
class Inbox:
    """Payloads of all peers, as they came; room is counted for each peer by itself."""

    limit: int  # bytes a peer; one payload is always taken
    payloads: deque[tuple[int, bytes]] = field(default_factory=deque)
    held: dict[int, int] = field(default_factory=dict)  # bytes by sender, those on their way included

    def reserve(self, sender: int, size: int) -> bool:
        held = self.held.get(sender, 0)
        if held and held + size > self.limit:
            return False
        self.held[sender] = held + size
        return True

    def release(self, sender: int, size: int) -> None:
        self.held[sender] -= size


@dataclass(frozen=True, slots=True)
class Accepted:
    """The next payload of its sender."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The last payload once more: its acknowledgement was lost."""


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """A gap, an older payload, or other bytes under a number already taken."""


@dataclass
class Incoming:
    """Keeps the payloads of one sender in order, each taken once."""

    expected: int = 0
    last_digest: str = ""

    def judge(self, sequence: int, digest: str) -> Accepted | Duplicate | OutOfOrder:
        if sequence == self.expected:
            return Accepted()
        if sequence == self.expected - 1 and digest == self.last_digest:
            return Duplicate()
        return OutOfOrder()

    def advance(self, digest: str) -> None:
        self.expected += 1
        self.last_digest = digest


class Shared:
    """The state of the run as both threads see it; every change notifies `changed`."""

    def __init__(self, peers: Iterable[int], outbox_bytes: int, inbox_bytes: int) -> None:
        self.changed = threading.Condition()
        self.failure: PipelineError | None = None
        self.stopped = False  # by this party itself
        self.session: bytes | None = None  # once all parties have it
        self.missing: tuple[int, ...] = ()
        self.finished = False  # everybody has said Done, and ours has left
        self.outboxes = {peer: Outbox(outbox_bytes) for peer in peers}
        self.inbox = Inbox(inbox_bytes)
        self.sent_bytes = 0  # payloads and frames, without HTTP and TLS; counted in the network's thread

    def raise_if_over(self) -> None:
        """Raise what ended the run, if it has ended."""
        if self.failure is not None:
            raise self.failure
        if self.stopped:
            raise LocalProtocolError("this party has already ended its connections")

    def wait_for(self, true: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `true()`; False after `timeout` seconds. The lock is held by the caller. Raises the failure."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.raise_if_over()
            if true():
                return True
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self.changed.wait(remaining)


class Link:
    """An ordered stream of bytes to and from one peer, for step 8.

    `post` runs a callable in the network's thread, or says False when that has
    ended; `overflowed` is told when a bound is passed. `on_data` and `on_lost` are called in the network's thread.
    """

    def __init__(
        self, peer: int, limit: int, post: Callable[[Callable[[], None]], bool], overflowed: Callable[[int], None]
    ) -> None:
        self.peer = peer
        self.wake: Callable[[], None] = lambda: None  # called in the network's thread when there is something to send
        self._limit = limit  # bytes that may wait, in either direction
        self._post = post
        self._overflowed = overflowed
        self._lock = threading.Lock()
        self._outgoing = bytearray()
        self._woken = False
        self._early = bytearray()  # what came before there was a receiver
        self._receiver: tuple[OnData, OnLost] | None = None
        self._loss: Exception | None = None

    def write(self, data: bytes) -> None:
        """Send `data`, from any thread, without waiting; after the loss of the link it is dropped."""
        with self._lock:
            if self._loss is not None:
                return
            self._outgoing += data
            full = len(self._outgoing) > self._limit
            wake, self._woken = not self._woken, True
        if full:
            self._post(lambda: self._overflowed(self.peer))
        elif wake:
            self._post(lambda: self.wake())

    def set_receiver(self, on_data: OnData, on_lost: OnLost) -> None:
        """From now on `on_data` gets what arrives, beginning with what has arrived already."""
        if not self._post(lambda: self._attach(on_data, on_lost)):
            on_lost(self._loss or LocalProtocolError("this party has already ended its connections"))

    def take(self, size: int) -> bytes:
        """Up to `size` bytes to send; empty when there is nothing."""
        with self._lock:
            data = bytes(self._outgoing[:size])
            del self._outgoing[:size]
            self._woken = bool(self._outgoing)
            return data

    def deliver(self, data: bytes) -> None:
        """`data` arrived. In the network's thread."""
        if self._receiver is not None:
            self._receiver[0](data)
            return
        self._early += data
        if len(self._early) > self._limit:
            self._overflowed(self.peer)

    def lose(self, error: Exception) -> None:
        """The link is gone. In the network's thread."""
        with self._lock:
            if self._loss is not None:
                return
            self._loss = error
            self._outgoing.clear()
        if self._receiver is not None:
            self._receiver[1](error)

    def _attach(self, on_data: OnData, on_lost: OnLost) -> None:
        self._receiver = (on_data, on_lost)
        early, self._early = bytes(self._early), bytearray()
        if early:
            on_data(early)
        if self._loss is not None:
            on_lost(self._loss)
