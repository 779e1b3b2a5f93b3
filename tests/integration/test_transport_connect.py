"""How parties find one another, what stops them, and how they part."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from network import QUICK, WAIT, Network, at_once, load_party, new_node, outcome, small_study, three_nodes, until
from studies import free_ports
from wiretap import PlainServer

from pipeline import refusals
from pipeline.errors import ConfigError, LocalProtocolError, PeerError, Refused
from pipeline.transport import AbortCode


def no_news(names):
    pass


def test_all_parties_get_the_same_session_and_every_run_another(tmp_path):
    sessions = []
    for _ in range(2):
        with three_nodes(tmp_path) as network:
            sessions.append(network.connect())
    assert [len(session) for session in sessions] == [32, 32]
    assert sessions[0] != sessions[1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_parties_start_in_any_order_and_say_whom_they_await(tmp_path, order):
    path = small_study(tmp_path)
    nodes = [new_node(path, party) for party in range(3)]
    news = [[] for _ in nodes]
    names = ("hospital", "insurer", "third-party")
    first, second, third = order

    def begin(party):
        nodes[party].start()
        return nodes[party].connect(WAIT, news[party].append)

    with ThreadPoolExecutor(3) as pool:
        try:
            sessions = [pool.submit(begin, first)]
            until(lambda: bool(news[first]) and set(news[first][-1]) == {names[second], names[third]})
            sessions.append(pool.submit(begin, second))
            until(lambda: all(news[party] and news[party][-1] == (names[third],) for party in (first, second)))
            sessions.append(pool.submit(begin, third))
            assert len({session.result() for session in sessions}) == 1
        finally:
            at_once([node.close for node in nodes])
    assert () not in news[first] + news[second] + news[third]


def test_a_party_that_never_comes_is_named_when_the_wait_is_over(tmp_path):
    path = small_study(tmp_path)
    nodes = [new_node(path, party) for party in (1, 2)]
    for node in nodes:
        node.start()
    before = time.monotonic()
    try:
        errors = at_once([lambda node=node: outcome(lambda: node.connect(1.0, no_news)) for node in nodes])
    finally:
        at_once([node.close for node in nodes])
    assert time.monotonic() - before < 20
    for error in errors:
        assert isinstance(error, PeerError)
        assert error.exit_state == 4
        assert "hospital" in str(error)


def test_a_path_in_front_of_the_addresses_is_no_obstacle(tmp_path):
    ports = free_ports(3)
    hospital, insurer, third_party = ({"url": f"https://127.0.0.1:{port}/studies/small-1"} for port in ports)
    with three_nodes(tmp_path, ports=ports, hospital=hospital, insurer=insurer, third_party=third_party) as network:
        network.connect()
        network.nodes[2].send(0, b"for the hospital")
        assert network.nodes[0].receive(WAIT) == (2, b"for the hospital")


def test_different_agreements_are_refused_everywhere_with_the_key_that_differs(tmp_path):
    ports = free_ports(3)
    path = small_study(tmp_path / "a", ports=ports)
    odd = small_study(tmp_path / "b", ports=ports, model={"alpha": 0.5})
    nodes = [new_node(path, 0), new_node(odd, 1), new_node(path, 2)]
    for node in nodes:
        node.start()
    try:
        errors = at_once([lambda node=node: outcome(lambda: node.connect(WAIT, no_news)) for node in nodes])
    finally:
        at_once([node.close for node in nodes])
    for error in errors:
        assert isinstance(error, Refused)
        assert error.rule == "agreements-differ"
        assert "model.alpha" in str(error)
    assert "insurer" in str(errors[0])
    assert "insurer" in str(errors[2])


@pytest.mark.parametrize("late", [0, 2])
def test_who_comes_when_the_others_have_found_that_agreements_differ_is_told(tmp_path, late):
    ports = free_ports(3)
    path = small_study(tmp_path / "a", ports=ports)
    odd = small_study(tmp_path / "b", ports=ports, model={"alpha": 0.5})
    nodes = {party: new_node(odd if party == 1 else path, party) for party in (0, 1, 2)}
    early = [party for party in nodes if party != late]
    closing = []
    try:
        for party in early:
            nodes[party].start()
        errors = at_once([lambda node=nodes[party]: outcome(lambda: node.connect(WAIT, no_news)) for party in early])
        closing = [threading.Thread(target=nodes[party].close) for party in early]
        for thread in closing:
            thread.start()
        time.sleep(1)
        nodes[late].start()
        errors.append(outcome(lambda: nodes[late].connect(WAIT, no_news)))
    finally:
        for thread in closing:
            thread.join()
        nodes[late].close()
    for error in errors:
        assert isinstance(error, Refused), error
        assert "model.alpha" in str(error)


def test_a_port_in_use_is_an_error_of_the_own_input(tmp_path):
    path = small_study(tmp_path)
    node = new_node(path, 0)
    with socket.create_server(node._local.listen), pytest.raises(ConfigError, match="in use") as caught:
        node.start()
    assert "party-0.toml" in str(caught.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path, host):
    path = small_study(tmp_path)
    with pytest.raises(ConfigError, match=host):
        new_node(path, 0, listen=(host, 8440)).start()


def test_a_key_log_in_the_environment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "log"))
    with pytest.raises(ConfigError, match="SSLKEYLOGFILE"):
        new_node(small_study(tmp_path), 0).start()
    assert not (tmp_path / "log").exists()


def test_something_else_at_the_address_is_borne_with_for_a_while_then_named(tmp_path):
    path = small_study(tmp_path)
    node = new_node(path, 0)
    with PlainServer(new_node(path, 1)._local.listen[1]):
        node.start()
        before = time.monotonic()
        error = outcome(lambda: node.connect(WAIT, no_news))
        node.close()
    assert isinstance(error, PeerError)
    assert "insurer" in str(error)
    assert "TLS" in str(error)
    assert QUICK.grace * 0.5 < time.monotonic() - before < WAIT / 2


def test_a_server_that_closes_early_may_come_to_its_senses(tmp_path):
    path = small_study(tmp_path)
    nodes = [new_node(path, party, replace(QUICK, grace=5.0)) for party in range(3)]
    with PlainServer(nodes[1]._local.listen[1], answer=b""):
        nodes[0].start()
        result = []
        thread = threading.Thread(target=lambda: result.append(outcome(lambda: nodes[0].connect(WAIT, no_news))))
        thread.start()
        time.sleep(0.5)
    try:
        for node in nodes[1:]:
            node.start()
        at_once([lambda node=node: node.connect(WAIT, no_news) for node in nodes[1:]])
        thread.join(WAIT)
        assert isinstance(result[0], bytes)
    finally:
        at_once([node.close for node in nodes])


def test_a_second_process_of_a_party_is_refused_and_the_first_goes_on(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        second = new_node(network.path, 0, listen=("127.0.0.1", free_ports(1)[0]))
        second.start()
        error = outcome(lambda: second.connect(WAIT, no_news))
        second.close()
        assert isinstance(error, PeerError)
        assert "running twice" in str(error)
        network.nodes[0].send(1, b"still here")
        assert network.nodes[1].receive(WAIT) == (0, b"still here")
        network.everywhere(lambda node: node.finish(WAIT))


@pytest.mark.parametrize("code", list(AbortCode))
def test_every_reason_to_stop_reaches_the_others(tmp_path, code):
    settings = replace(QUICK, farewell=20.0)
    with three_nodes(tmp_path, settings) as network:
        network.connect()
        before = time.monotonic()
        network.nodes[1].abort(code, 2)
        assert time.monotonic() - before < settings.farewell
        for party in (0, 2):
            error = outcome(lambda party=party: network.nodes[party].receive(WAIT))
            of_the_study = refusals.sentence(getattr(error, "rule", ""), load_party(network.path, party)[0])
            assert str(error) == of_the_study or str(error).startswith("insurer stopped: ")
            assert error is network.nodes[party].failure
            refused = code.name.startswith("REFUSED") or code.name.endswith("DIFFER")
            assert isinstance(error, Refused if refused else PeerError)
        with pytest.raises(LocalProtocolError):
            network.nodes[1].receive(WAIT)


def test_who_calls_while_a_party_is_stopping_hears_why(tmp_path):
    """The insurer stops while the third party does not close; the hospital comes just then."""
    path = small_study(tmp_path)
    nodes = [new_node(path, party, replace(QUICK, farewell=20.0)) for party in range(3)]
    heard = threading.Event()
    for node in nodes:
        node.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(outcome, lambda p=p: nodes[p].connect(WAIT, no_news)) for p in (1, 2)]
            until(lambda: nodes[1]._shared.missing == (0,))
            nodes[2]._thread.post(lambda: heard.wait(WAIT))  # does not answer until then
            stopping = pool.submit(nodes[1].abort, AbortCode.OWN_INPUT)
            until(lambda: nodes[1]._thread.carrier._ending is not None)
            error = outcome(lambda: nodes[0].connect(WAIT, no_news))
            assert not stopping.done()
            heard.set()
            stopping.result()
            assert "insurer stopped: its own input is wrong" in str(error)
            assert "insurer stopped: its own input is wrong" in str(waiting[1].result())
    finally:
        heard.set()
        at_once([node.close for node in nodes])


def test_a_failure_is_told_to_callbacks_and_links_and_raised_everywhere(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        node = network.nodes[0]
        told, lost = [], []
        arrived = threading.Event()
        node.on_failure(told.append)
        node.on_failure(lambda failure: arrived.set())
        for peer in (1, 2):
            node.link(peer).set_receiver(lambda data: None, lost.append)
        network.nodes[2].abort(AbortCode.INTERRUPTED)
        assert arrived.wait(WAIT)
        node.on_failure(told.append)
        assert told == [node.failure, node.failure]
        assert lost == [node.failure, node.failure]
        for action in (
            lambda: node.receive(WAIT),
            lambda: node.send(1, b"x"),
            lambda: node.finish(5),
            lambda: node.connect(5, no_news),
        ):
            assert outcome(action) is node.failure
        node.abort(AbortCode.INTERNAL_ERROR)
        assert "interrupted" in str(node.failure)


def test_a_callback_that_aborts_or_closes_does_not_wait_for_itself(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        arrived = threading.Event()

        def callback(failure):
            network.nodes[0].abort(AbortCode.INTERRUPTED)
            arrived.set()

        network.nodes[0].on_failure(callback)
        network.nodes[1].abort(AbortCode.INTERRUPTED)
        assert arrived.wait(20)  # a wait for itself would end after 30


def test_leaving_without_a_word_ends_the_run_of_the_others(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        network.nodes[1].close()
        error = outcome(lambda: network.nodes[0].receive(WAIT))
        assert isinstance(error, PeerError)
        assert "insurer stopped" in str(error)


def test_the_end_is_orderly_whoever_comes_to_it_last(tmp_path):
    failures = []
    with three_nodes(tmp_path, replace(QUICK, farewell=20.0)) as network:
        network.connect()
        for node in network.nodes:
            node.on_failure(failures.append)
        network.nodes[0].send(1, b"the last word")

        def end(party):
            time.sleep(0.3 * party)
            if party == 1:
                assert network.nodes[1].receive(WAIT) == (0, b"the last word")
            network.nodes[party].finish(WAIT)
            network.nodes[party].close()

        before = time.monotonic()
        at_once([lambda party=party: end(party) for party in range(3)])
        assert time.monotonic() - before < 20  # no deadline was waited for
    assert failures == []


def test_an_end_that_one_party_does_not_reach_is_an_error_with_a_deadline(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        before = time.monotonic()
        errors = at_once([lambda node=node: outcome(lambda: node.finish(0.5)) for node in network.nodes[:2]])
        assert time.monotonic() - before < 20
        assert all(isinstance(error, PeerError) for error in errors)
        assert isinstance(outcome(lambda: network.nodes[2].receive(WAIT)), PeerError)


def test_a_party_that_is_done_hears_why_another_stops(tmp_path):
    with three_nodes(tmp_path) as network:
        network.connect()
        result = []
        waiting = threading.Thread(target=lambda: result.append(outcome(lambda: network.nodes[2].finish(WAIT))))
        waiting.start()
        time.sleep(0.2)
        network.nodes[0].abort(AbortCode.INTERRUPTED)
        waiting.join(WAIT)
        assert str(result[0]).startswith("hospital stopped: it was interrupted")


def test_a_node_that_is_not_started_or_not_connected_says_so(tmp_path):
    node = new_node(small_study(tmp_path), 0)
    with pytest.raises(LocalProtocolError):
        node.connect(1, no_news)
    node.start()
    with pytest.raises(LocalProtocolError):
        node.send(1, b"too early")
    node.close()
    node.close()
    with pytest.raises(LocalProtocolError):
        node.receive(1)


def test_the_network_of_tests_closes_what_it_opened(tmp_path):
    before = set(threading.enumerate())
    with three_nodes(tmp_path) as network:
        assert isinstance(network, Network)
        network.connect()
    assert set(threading.enumerate()) <= before
