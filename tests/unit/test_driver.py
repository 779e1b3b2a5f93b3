"""The loop that plays a role over a channel."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest

from pipeline.driver import MAX_PENDING, Mailbox, drive
from pipeline.errors import RemoteProtocolError
from pipeline.messages import IntersectionSize, KeyContribution, Message, Outgoing, PublicKey, ShareKey, TooFewRecords


class Slow:
    """A channel that takes one message and is free again after some reads; what comes is given beforehand."""

    def __init__(self, incoming: Iterable[tuple[int, Message]], busy_reads: int = 0) -> None:
        self.incoming = deque(incoming)
        self.busy_reads = busy_reads
        self.sent: list[tuple[int, Message]] = []
        self._busy = 0
        self.most_waiting = 0

    def free(self) -> bool:
        return self._busy == 0

    def send(self, receiver: int, message: Message) -> None:
        assert self.free()
        self.sent.append((receiver, message))
        self._busy = self.busy_reads

    def wait(self) -> None:
        self._busy = 0

    def receive(self, *, block: bool) -> tuple[int, Message] | None:
        self._busy = max(0, self._busy - 1)
        if self.incoming:
            return self.incoming.popleft()
        assert not block or self._busy == 0 or self.busy_reads, "the driver waits for what never comes"
        return None


class Answering:
    """Wants `count` numbers and answers each with as many messages."""

    def __init__(self, count: int, answers: int = 1) -> None:
        self.count, self.answers, self.got = count, answers, 0
        self.unsent = self.most_unsent = 0

    @property
    def result(self) -> int | None:
        return self.got if self.got == self.count else None

    def start(self) -> Iterable[Outgoing]:
        return [Outgoing(1, TooFewRecords())]

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]:
        if not isinstance(message, IntersectionSize):
            raise RemoteProtocolError("not now")
        self.got += 1
        self.unsent += 1
        self.most_unsent = max(self.most_unsent, self.unsent)
        return self._answers(message.records)

    def _answers(self, number: int) -> Iterable[Outgoing]:
        for _ in range(self.answers):
            yield Outgoing(2, IntersectionSize(number))
        self.unsent -= 1


def test_everything_is_sent_in_order_before_the_role_ends() -> None:
    channel = Slow([(1, IntersectionSize(i)) for i in range(5)])
    assert drive(Answering(5, answers=2), Mailbox(channel)) == 5
    numbers = [message.records for _, message in channel.sent if isinstance(message, IntersectionSize)]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert channel.sent[0] == (1, TooFewRecords())


def test_a_slow_receiver_does_not_keep_messages_from_being_taken_in() -> None:
    channel = Slow([(1, IntersectionSize(i)) for i in range(8)], busy_reads=3)
    role = Answering(8)
    drive(role, Mailbox(channel))
    assert role.most_unsent > 1
    assert len(channel.sent) == 9


def test_unsent_answers_are_bounded() -> None:
    channel = Slow([(1, IntersectionSize(i)) for i in range(200)], busy_reads=1000)
    role = Answering(200)
    drive(role, Mailbox(channel))
    assert MAX_PENDING / 2 < role.most_unsent <= MAX_PENDING + 1
    assert len(channel.sent) == 201


def test_messages_of_a_later_role_wait_for_it_in_order() -> None:
    early = [(0, ShareKey(bytes(32))), (1, IntersectionSize(3)), (0, ShareKey(bytes([1]) * 32))]
    mailbox = Mailbox(Slow([*early, (1, IntersectionSize(4))]))
    assert drive(Answering(2), mailbox, later=(ShareKey,)) == 2
    takes = (ShareKey,)
    assert mailbox.next(takes, block=False) == (0, ShareKey(bytes(32)))
    assert mailbox.next(takes, block=False) == (0, ShareKey(bytes([1]) * 32))
    assert mailbox.next(takes, block=False) is None


def test_a_message_of_an_earlier_role_is_the_roles_to_refuse() -> None:
    channel = Slow([(1, PublicKey(b"n"))])
    with pytest.raises(RemoteProtocolError):
        drive(Answering(1), Mailbox(channel))


def test_messages_with_secrets_do_not_show_them() -> None:
    for message in (KeyContribution(b"s" * 32), ShareKey(b"s" * 32)):
        assert "ssss" not in repr(message)
