"""What the two threads share: bounds, order, and failures that wake everybody."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from pipeline.buffers import Accepted, Duplicate, Inbox, Incoming, Link, Outbox, OutOfOrder, Shared
from pipeline.errors import LocalProtocolError, PeerError


def digest(payload):
    return hashlib.sha256(payload).hexdigest()


def test_an_outbox_numbers_its_payloads_and_counts_what_is_not_acknowledged():
    outbox = Outbox(limit=10)
    for payload in (b"12345", b"1234"):
        assert outbox.fits(len(payload))
        outbox.add(payload, digest(payload))
    assert [parcel.sequence for parcel in outbox.parcels] == [0, 1]
    assert outbox.fits(1)
    assert not outbox.fits(2)
    outbox.acknowledged()
    assert outbox.fits(6)
    assert [parcel.payload for parcel in outbox.parcels] == [b"1234"]


def test_a_payload_larger_than_the_bound_passes_alone():
    outbox = Outbox(limit=10)
    assert outbox.fits(100)
    outbox.add(bytes(100), digest(bytes(100)))
    assert not outbox.fits(0)
    inbox = Inbox(limit=10)
    assert inbox.reserve(1, 100)
    assert not inbox.reserve(1, 0)


def test_the_room_of_one_sender_is_not_taken_by_another():
    inbox = Inbox(limit=10)
    assert inbox.reserve(1, 10)
    assert not inbox.reserve(1, 1)
    assert inbox.reserve(2, 10)
    inbox.release(1, 10)
    assert inbox.reserve(1, 10)


def test_payloads_are_taken_once_and_in_order():
    incoming = Incoming()
    assert isinstance(incoming.judge(1, "a"), OutOfOrder)
    assert isinstance(incoming.judge(0, "a"), Accepted)
    incoming.advance("a")
    assert isinstance(incoming.judge(0, "a"), Duplicate)
    assert isinstance(incoming.judge(0, "b"), OutOfOrder)
    assert isinstance(incoming.judge(1, "a"), Accepted)
    incoming.advance("a")
    assert isinstance(incoming.judge(0, "a"), OutOfOrder)
    assert isinstance(incoming.judge(3, "a"), OutOfOrder)


def test_a_wait_ends_when_it_becomes_true_when_the_time_is_over_and_when_the_run_has_failed():
    shared = Shared([1], 10, 10)
    with shared.changed:
        assert shared.wait_for(lambda: True, None)
        before = time.monotonic()
        assert not shared.wait_for(lambda: False, 0.05)
        assert 0.05 <= time.monotonic() - before < 10

    def fail():
        with shared.changed:
            shared.failure = PeerError("insurer has died")
            shared.changed.notify_all()

    threading.Timer(0.05, fail).start()
    with shared.changed, pytest.raises(PeerError, match="insurer"):
        shared.wait_for(lambda: False, 60)


def test_after_this_party_has_stopped_a_wait_is_a_local_error():
    shared = Shared([1], 10, 10)
    shared.stopped = True
    with shared.changed, pytest.raises(LocalProtocolError):
        shared.wait_for(lambda: True, 1)


class Loop:
    """Runs what is posted, at once or when told."""

    def __init__(self, eager=True, running=True):
        self.eager, self.running, self.posted = eager, running, []

    def post(self, callback):
        if self.running:
            self.posted.append(callback)
            if self.eager:
                self.run()
        return self.running

    def run(self):
        while self.posted:
            self.posted.pop(0)()


def new_link(limit=100, **loop):
    ran = Loop(**loop)
    overflowed = []
    return Link(1, limit, ran.post, overflowed.append), ran, overflowed


def test_what_is_written_is_taken_in_order_in_pieces_of_any_size():
    link, _, _ = new_link()
    for piece in (b"abc", b"", b"defg"):
        link.write(piece)
    assert [link.take(2), link.take(3), link.take(9), link.take(9)] == [b"ab", b"cde", b"fg", b""]


def test_many_writes_wake_the_network_once_until_all_is_taken():
    link, loop, _ = new_link(eager=False)
    woken = []
    link.wake = lambda: woken.append(1)
    for _ in range(5):
        link.write(b"x")
    loop.run()
    assert len(woken) == 1
    assert link.take(3) == b"xxx"
    link.write(b"y")
    loop.run()
    assert len(woken) == 1
    assert link.take(9) == b"xxy"
    link.write(b"z")
    loop.run()
    assert len(woken) == 2


def test_what_comes_early_waits_for_its_receiver():
    link, _, _ = new_link()
    got = []
    link.deliver(b"one ")
    link.deliver(b"two ")
    link.set_receiver(got.append, got.append)
    link.deliver(b"three")
    assert b"".join(got) == b"one two three"


@pytest.mark.parametrize("direction", ["in", "out"])
def test_more_than_the_bound_is_reported(direction):
    link, _, overflowed = new_link(limit=10)
    move = link.write if direction == "out" else link.deliver
    move(bytes(10))
    assert not overflowed
    move(b"x")
    assert overflowed == [1]


def test_a_lost_link_tells_its_receiver_once_and_drops_what_is_written():
    link, _, _ = new_link()
    got, lost = [], []
    link.set_receiver(got.append, lost.append)
    error = PeerError("gone")
    link.lose(error)
    link.lose(PeerError("gone again"))
    link.write(b"x")
    assert link.take(9) == b""
    assert lost == [error]


def test_a_receiver_that_comes_after_the_loss_is_told():
    link, loop, _ = new_link()
    error = PeerError("gone")
    link.lose(error)
    lost = []
    link.set_receiver(lost.append, lost.append)
    assert lost == [error]
    loop.running = False
    link.set_receiver(lost.append, lost.append)
    assert lost == [error, error]


def test_a_receiver_at_a_node_that_has_ended_is_told():
    link, _, _ = new_link(running=False)
    lost = []
    link.set_receiver(lost.append, lost.append)
    assert [type(error) for error in lost] == [LocalProtocolError]
