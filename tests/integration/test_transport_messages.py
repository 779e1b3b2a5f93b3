"""Payloads arrive once and in order, over connections that break, in bounded memory; links carry bytes."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from network import QUICK, WAIT, Network, at_once, load_party, new_node, outcome, small_study, three_nodes, until
from studies import free_ports
from wiretap import HOST, Cut, Relay, call, caller_context

from pipeline.errors import LocalProtocolError, PeerError
from pipeline.messages import MAX_MESSAGE_BYTES

MIB = 1 << 20


@contextmanager
def behind_a_relay(folder, settings=QUICK):
    """Three nodes; what is sent to party 1 passes a relay."""
    with Relay() as relay:
        ports = free_ports(3)
        relay.target = ports[1]
        insurer = {"url": f"https://127.0.0.1:{relay.port}"}
        local = {1: {"listen": f"127.0.0.1:{ports[1]}"}}
        path = small_study(folder, ports=ports, insurer=insurer, local=local)
        nodes = [new_node(path, party, settings) for party in range(3)]
        try:
            for node in nodes:
                node.start()
            network = Network(path, nodes)
            network.connect()
            yield network, relay
        finally:
            at_once([node.close for node in nodes])


def test_everybody_sends_to_everybody_in_order(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()

        def send(node, me):
            for i in range(20):
                for receiver in {0, 1, 2} - {me}:
                    node.send(receiver, f"{me} {receiver} {i}".encode() * (1 + 1000 * (i % 3)))

        def receive(node):
            got = {}
            for _ in range(40):
                sender, payload = node.receive(WAIT)
                got.setdefault(sender, []).append(payload)
            return got

        at_once([lambda n=n, me=me: send(n, me) for me, n in enumerate(network.nodes)])
        for me, got in enumerate(network.everywhere(receive)):
            for sender, payloads in got.items():
                texts = [f"{sender} {me} {i}".encode() * (1 + 1000 * (i % 3)) for i in range(20)]
                assert payloads == texts
        network.everywhere(lambda node: node.finish(WAIT))


@pytest.mark.parametrize("size", [0, 1, MIB, MAX_MESSAGE_BYTES])
def test_payloads_of_any_admitted_size_arrive(tmp_path, size):
    payload = os.urandom(size)
    with three_nodes(tmp_path) as network:
        network.connect()
        network.nodes[0].send(2, payload)
        network.nodes[0].send(2, b"next")
        assert network.nodes[2].receive(WAIT) == (0, payload)
        assert network.nodes[2].receive(WAIT) == (0, b"next")


def test_a_larger_payload_is_refused_at_its_sender(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        with pytest.raises(LocalProtocolError):
            network.nodes[0].send(1, bytes(MAX_MESSAGE_BYTES + MIB))


@pytest.mark.parametrize("down", [None, 1], ids=["in the middle of a payload", "before its acknowledgement"])
def test_a_connection_that_breaks_loses_and_doubles_nothing(tmp_path, down):
    payloads = [bytes([i]) * (3 * MIB) for i in range(4)]
    with behind_a_relay(tmp_path) as (network, relay):
        for i, payload in enumerate(payloads):
            cut = relay.cut = Cut(up=(MIB if down is None else 3 * MIB), down=down) if i in (0, 2) else None
            network.nodes[2].send(1, payload)
            assert network.nodes[1].receive(WAIT) == (2, payload)
            assert cut is None or cut.done.wait(WAIT)
        assert network.nodes[1].receive(0.3) is None
        assert all(node.failure is None for node in network.nodes)
        network.everywhere(lambda node: node.finish(WAIT))


def test_messages_that_get_through_no_more_end_the_run_after_a_while(tmp_path):
    with behind_a_relay(tmp_path) as (network, relay):
        relay.deaf = True
        relay.cut = cut = Cut(up=MIB)
        network.nodes[2].send(1, bytes(2 * MIB))
        assert cut.done.wait(WAIT)
        before = time.monotonic()
        error = outcome(lambda: network.nodes[2].receive(WAIT))
        assert isinstance(error, PeerError)
        assert "insurer" in str(error)
        assert QUICK.resend * 0.5 < time.monotonic() - before < WAIT / 2
        error = outcome(lambda: network.nodes[0].receive(WAIT))
        assert "insurer" in str(error)


def test_a_link_that_breaks_ends_the_run(tmp_path):
    with behind_a_relay(tmp_path) as (network, relay):
        network.nodes[0].link(1).set_receiver(lambda data: None, lambda error: None)
        relay.cut = Cut(up=1)
        network.nodes[0].link(1).write(b"x")
        for party in (0, 1):
            error = outcome(lambda party=party: network.nodes[party].receive(WAIT))
            assert isinstance(error, PeerError)
        assert "insurer" in str(network.nodes[0].failure)
        assert "hospital" in str(network.nodes[1].failure)


def test_a_line_that_goes_dead_without_a_word_is_noticed(tmp_path):
    with behind_a_relay(tmp_path, replace(QUICK, beat=0.1, silence=10)) as (network, relay):
        relay.dead = True
        before = time.monotonic()
        error = outcome(lambda: network.nodes[0].receive(WAIT))
        assert isinstance(error, PeerError)
        assert "insurer has given no sign of life" in str(error) or "lost hospital" in str(error)
        assert 0.5 < time.monotonic() - before < WAIT / 2
        for party in (1, 2):
            assert isinstance(outcome(lambda party=party: network.nodes[party].receive(WAIT)), PeerError)


def test_what_waits_at_both_ends_is_bounded(tmp_path):
    bound = 4 * MIB
    settings = replace(QUICK, outbox_bytes=bound, inbox_bytes=bound)
    sent = []
    with three_nodes(tmp_path, settings) as network:
        network.connect()

        def send():
            for i in range(24):
                network.nodes[0].send(1, bytes([i]) * MIB)
                sent.append(i)

        sender = threading.Thread(target=send)
        sender.start()
        until(lambda: len(sent) >= bound // MIB)
        time.sleep(1.5)  # several times as long as the receiver holds a request
        assert len(sent) <= 2 * bound // MIB
        network.nodes[2].send(1, b"not stuck behind the other")
        others = []
        for i in range(24):
            sender_id, payload = network.nodes[1].receive(WAIT)
            while sender_id != 0:
                others.append(payload)
                sender_id, payload = network.nodes[1].receive(WAIT)
            assert payload == bytes([i]) * MIB
        assert others == [b"not stuck behind the other"] or network.nodes[1].receive(WAIT) is not None
        sender.join(WAIT)
        network.everywhere(lambda node: node.finish(WAIT))


def test_a_receiver_that_never_fetches_is_an_error_in_the_end(tmp_path):
    settings = replace(QUICK, outbox_bytes=1, inbox_bytes=1, patience=0.8, hold=0.1)
    with three_nodes(tmp_path, settings) as network:
        network.connect()

        def fill():
            for _ in range(9):
                network.nodes[0].send(1, b"x")

        error = outcome(fill)
        assert isinstance(error, PeerError)
        assert "insurer has not taken" in str(error)


def test_a_receiver_without_a_timeout_has_a_deadline_all_the_same(tmp_path):
    with three_nodes(tmp_path, replace(QUICK, patience=0.3)) as network:
        network.connect()
        error = outcome(network.nodes[0].receive)
        assert isinstance(error, PeerError)


def test_a_duplicate_is_acknowledged_and_other_bytes_in_its_place_are_not(tmp_path):
    with three_nodes(tmp_path) as network:
        session = network.connect().hex()
        insurer, port = load_party(network.path, 1)[1], load_party(network.path, 0)[1].listen[1]

        def put(sequence, body):
            headers = {"X-SHA256": hashlib.sha256(body).hexdigest()}
            return call(insurer, port, "PUT", f"/v1/message/{session}/{sequence}", body, headers)

        assert [put(0, b"a"), put(0, b"a"), put(0, b"b"), put(1, b"b"), put(1, b"b"), put(0, b"a"), put(3, b"c")] == [
            204,
            204,
            409,
            204,
            204,
            409,
            409,
        ]
        assert [network.nodes[0].receive(1) for _ in range(2)] == [(1, b"a"), (1, b"b")]
        assert network.nodes[0].receive(0.2) is None


def test_a_second_request_takes_the_place_of_one_that_got_stuck(tmp_path):
    with three_nodes(tmp_path, replace(QUICK, inbox_bytes=MIB)) as network:
        session = network.connect().hex()
        insurer, port = load_party(network.path, 1)[1], load_party(network.path, 0)[1].listen[1]
        body = bytes(MIB)
        head = (
            f"PUT /v1/message/{session}/0 HTTP/1.1\r\nHost: h\r\nContent-Length: {MIB}\r\n"
            f"X-SHA256: {hashlib.sha256(body).hexdigest()}\r\n\r\n"
        )
        with caller_context(insurer).wrap_socket(socket.create_connection((HOST, port))) as stuck:
            stuck.sendall(head.encode() + body[: MIB // 2])
            until(lambda: network.nodes[0]._thread.carrier._receivers[1]._reading is not None)
            network.nodes[1].send(0, body)
            assert network.nodes[0].receive(WAIT) == (1, body)
            network.nodes[1].send(0, body)
            assert network.nodes[0].receive(WAIT) == (1, body)


class Heard:
    """The receiving side of a link."""

    def __init__(self, link):
        self.data, self.lost = bytearray(), []
        self.changed = threading.Condition()
        link.set_receiver(self.on_data, self.lost.append)

    def on_data(self, data):
        with self.changed:
            self.data += data
            self.changed.notify_all()

    def wait(self, size):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.data) >= size, WAIT)
        return bytes(self.data)


def test_links_carry_bytes_both_ways_in_order(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        pieces = [os.urandom(size) for size in (1, 100, 0, 70_000, 3 * MIB, 5)] * 3
        ends = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]
        early = network.nodes[1].link(0)
        early.write(b"")
        heard = {(a, b): Heard(network.nodes[b].link(a)) for a, b in ends}
        for piece in pieces:
            for a, b in ends:
                network.nodes[a].link(b).write(piece)
        expected = b"".join(pieces)
        for end in ends:
            assert heard[end].wait(len(expected)) == expected
        assert network.nodes[0].link(1).peer == 1
        network.everywhere(lambda node: node.finish(WAIT))
        assert not any(h.lost for h in heard.values())


def test_what_is_written_before_the_parties_are_connected_arrives_afterwards(tmp_path):
    with three_nodes(tmp_path) as network, ThreadPoolExecutor(3) as pool:
        network.nodes[0].link(2).write(b"early")
        first = [pool.submit(network.nodes[party].connect, WAIT, lambda names: None) for party in (0, 2)]
        until(lambda: network.nodes[2]._shared.missing == (1,))
        time.sleep(0.1)
        network.nodes[1].connect(WAIT, lambda names: None)
        assert {len(session.result()) for session in first} == {32}
        assert Heard(network.nodes[2].link(0)).wait(5) == b"early"


def test_what_comes_before_a_receiver_is_kept_up_to_a_bound(tmp_path):
    with three_nodes(tmp_path, replace(QUICK, link_bytes=MIB)) as network:
        network.connect()
        network.nodes[0].link(1).write(bytes(MIB // 2))
        time.sleep(0.3)
        assert len(Heard(network.nodes[1].link(0)).wait(MIB // 2)) == MIB // 2
        for _ in range(3):
            network.nodes[0].link(2).write(bytes(MIB // 2))
            time.sleep(0.1)
        error = outcome(lambda: network.nodes[2].receive(WAIT))
        assert isinstance(error, PeerError)
        assert "hospital" in str(error)


def test_the_last_bytes_of_a_link_arrive_before_the_end(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        heard = Heard(network.nodes[2].link(0))
        network.nodes[0].link(2).write(bytes(32 * MIB))

        def end(node):
            node.finish(WAIT)
            node.close()

        network.everywhere(end)
        assert len(heard.data) == 32 * MIB
