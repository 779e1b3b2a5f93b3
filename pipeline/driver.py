"""One loop that plays a role over a channel.

The loop does not wait for a slow receiver while something has arrived, so that
two parties that send to one another cannot block each other; only a party with
`MAX_PENDING` answers unsent stops taking more in, and the roles are such that a
party whose messages need no answer is never among those.
Messages of a later role (`waiting_for`) are laid aside until that role plays;
one sender's messages keep their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from pipeline.messages import Message, Outgoing

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")

MAX_PENDING = 16  # answers not yet sent, before no more is taken in: bounds memory when a receiver is slow


class Role(Protocol[Result_co]):
    """A party's part of some steps: messages in, messages out, no input or output."""

    @property
    def result(self) -> Result_co | None:
        """What the role has worked out; None until it is done."""

    def start(self) -> Iterable[Outgoing]: ...

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]: ...


class Channel(Protocol):
    """Moves messages; `free` tells whether `send` would return at once."""

    def free(self) -> bool: ...

    def send(self, receiver: int, message: Message) -> None: ...

    def wait(self) -> None:
        """Until `free`; messages that come meanwhile are kept."""

    def receive(self, *, block: bool) -> tuple[int, Message] | None:
        """The next message; None if there is none (or, when blocking, if the channel became free)."""


class Mailbox:
    """A channel's incoming messages, sorted by the role that takes them."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._aside: deque[tuple[int, Message]] = deque()

    def next(self, takes: tuple[type, ...], *, block: bool) -> tuple[int, Message] | None:
        for index, (_, message) in enumerate(self._aside):
            if isinstance(message, takes):
                entry = self._aside[index]
                del self._aside[index]
                return entry
        arrived = self.channel.receive(block=block)
        if arrived is None or isinstance(arrived[1], takes):
            return arrived
        self._aside.append(arrived)
        return None


def drive(role: Role[Result], mailbox: Mailbox, later: tuple[type, ...] = ()) -> Result:
    """Play `role` to its end and return its result.

    `later` are the message types of roles still to come: one of them is kept,
    not offered to this role. Everything else is offered, so that a message out
    of place is the role's to refuse.
    """
    takes = tuple(kind for kind in _MESSAGES if kind not in later)
    channel = mailbox.channel
    pending: deque[Iterator[Outgoing]] = deque([iter(role.start())])
    while True:
        result = role.result
        if result is not None and not pending:
            return result
        if pending and channel.free():
            outgoing = next(pending[0], None)
            if outgoing is None:
                pending.popleft()
            else:
                channel.send(outgoing.receiver, outgoing.message)
        arrived = None
        if len(pending) <= MAX_PENDING and (role.result is None or not channel.free()):
            arrived = mailbox.next(takes, block=not pending or not channel.free())
        elif not channel.free():
            channel.wait()
        if arrived is not None:
            outgoing_parts = role.receive(*arrived)
            if outgoing_parts != ():
                pending.append(iter(outgoing_parts))


_MESSAGES: tuple[type, ...] = Message.__args__
