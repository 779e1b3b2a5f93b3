"""Who is who: nothing goes to the wrong party, and nobody speaks as another or without being one."""

from __future__ import annotations

import gzip
import hashlib
import re
import ssl
import time
from dataclasses import replace

import pytest
from network import QUICK, WAIT, at_once, load_party, new_node, outcome, small_study, three_nodes
from studies import free_ports, write_keys
from wiretap import PlainServer, TlsServer, call, nothing_but_a_client_hello

from pipeline.errors import PeerError, Refused
from pipeline.pins import fingerprint, in_groups


def connect(node, wait=WAIT):
    """What comes of connecting a node that is closed afterwards."""
    node.start()
    try:
        return outcome(lambda: node.connect(wait, lambda names: None))
    finally:
        node.close()


def swapped(folder, ports):
    """The study with the addresses of the two other parties swapped, as party 0 has it by mistake."""
    urls = [f"https://127.0.0.1:{port}" for port in ports]
    return small_study(folder, ports=ports, insurer={"url": urls[2]}, third_party={"url": urls[1]})


def test_parties_at_swapped_addresses_get_nothing_but_a_client_hello(tmp_path):
    ports = free_ports(3)
    path = swapped(tmp_path, ports)
    honest = small_study(tmp_path / "honest", ports=ports)
    own = [load_party(honest, party)[1] for party in range(3)]
    with TlsServer(own[1], ports[1]) as insurer, TlsServer(own[2], ports[2]) as third_party:
        error = connect(new_node(path, 0))
    assert isinstance(error, PeerError)
    assert re.search(
        r"(insurer is not who answers .* that is third-party|third-party is not .* that is insurer)", str(error)
    )
    seen = insurer.raw + third_party.raw
    assert seen
    assert all(nothing_but_a_client_hello(raw) for raw in seen if raw)
    assert insurer.plain == third_party.plain == b""


def test_real_parties_at_swapped_addresses_are_told_apart_at_once(tmp_path):
    ports = free_ports(3)
    honest = small_study(tmp_path / "honest", ports=ports)
    others = [new_node(honest, party) for party in (1, 2)]
    for node in others:
        node.start()
    try:
        error = connect(new_node(swapped(tmp_path, ports), 0))
    finally:
        for node in others:
            node.close()
    assert isinstance(error, PeerError)
    assert "mend the addresses" in str(error)


def test_a_stranger_at_an_address_is_named_by_its_fingerprint(tmp_path):
    path = small_study(tmp_path)
    agreement, local = load_party(path, 1)
    stranger = strange_local(tmp_path, local)
    with TlsServer(stranger, local.listen[1]) as server:
        error = connect(new_node(path, 0))
    assert in_groups(fingerprint(agreement.party(1).certificates[0])) in str(error)
    assert in_groups(fingerprint(stranger.certificate)) in str(error)
    assert server.plain == b""


def strange_local(folder, local):
    write_keys(folder / "strange", "stranger")
    pem = (folder / "strange/certificates/stranger.pem").read_text()
    key = folder / "strange/keys/stranger.key"
    return replace(local, private_key=key, certificate=ssl.PEM_cert_to_DER_cert(pem))


def test_a_party_whose_certificate_is_not_accepted_is_told_so(tmp_path):
    """In TLS 1.3 the caller's handshake is over before the server has seen its certificate."""
    path = small_study(tmp_path)
    local = [load_party(path, party)[1] for party in range(3)]
    other = small_study(tmp_path / "other", ports=[own.listen[1] for own in local])
    stranger = strange_local(tmp_path, local[0])
    (tmp_path / "other/certificates/hospital.pem").write_text(ssl.DER_cert_to_PEM_cert(stranger.certificate))
    (tmp_path / "other/keys/hospital.key").write_bytes(stranger.private_key.read_bytes())
    insurer = new_node(path, 1)
    insurer.start()
    try:
        error = connect(new_node(other, 0))
    finally:
        insurer.close()
    assert isinstance(error, PeerError)
    assert "insurer does not accept the certificate of this party" in str(error)
    assert in_groups(fingerprint(stranger.certificate)) in str(error)


def strange_party(folder, honest, party):
    """The study as `party` has it after making a key that the others have not got."""
    locals_ = [load_party(honest, number)[1] for number in range(3)]
    path = small_study(folder, ports=[own.listen[1] for own in locals_])
    stranger = strange_local(folder, locals_[party])
    name = ("hospital", "insurer", "third-party")[party]
    (folder / f"certificates/{name}.pem").write_text(ssl.DER_cert_to_PEM_cert(stranger.certificate))
    (folder / f"keys/{name}.key").write_bytes(stranger.private_key.read_bytes())
    return path


def wrong_pin(folder, honest, party, of):
    """The study as `party` has it with a wrong certificate in the place of that of `of`."""
    path = strange_party(folder, honest, of)
    name = ("hospital", "insurer", "third-party")[of]
    own = honest.parent / f"keys/{name}.key"
    (folder / f"keys/{name}.key").write_bytes(own.read_bytes())
    return path


def end_together(paths, late=None):
    """How the nodes of three parties end, the party `late` a second after the others, and the seconds it took."""

    def play(party):
        if party == late:
            time.sleep(1)
        return connect(new_node(paths[party], party))

    begin = time.monotonic()
    errors = at_once([lambda party=party: play(party) for party in range(3)])
    return errors, time.monotonic() - begin


@pytest.mark.parametrize("odd, late", [(0, None), (0, 2), (1, None), (1, 1), (2, None), (2, 0)])
def test_a_certificate_that_nobody_accepts_ends_all_parties_within_seconds(tmp_path, odd, late):
    honest = small_study(tmp_path / "honest")
    paths = [honest, honest, honest]
    paths[odd] = strange_party(tmp_path / "odd", honest, odd)
    errors, seconds = end_together(paths, late)
    assert seconds < 15
    name = ("hospital", "insurer", "third-party")[odd]
    for party, error in enumerate(errors):
        assert isinstance(error, PeerError), error
        assert "certificate" in str(error) and "vain" not in str(error), error
        assert ("of this party" if party == odd else name) in str(error), error


@pytest.mark.parametrize("party, of, late", [(0, 1, None), (0, 1, 2), (1, 0, None), (2, 0, 2), (0, 2, None)])
def test_a_certificate_that_one_party_does_not_accept_ends_all_within_seconds(tmp_path, party, of, late):
    honest = small_study(tmp_path / "honest")
    paths = [honest, honest, honest]
    paths[party] = wrong_pin(tmp_path / "odd", honest, party, of)
    errors, seconds = end_together(paths, late)
    assert seconds < 15
    for error in errors:
        assert isinstance(error, PeerError | Refused), error
        assert "certificate" in str(error) and "vain" not in str(error), error


def test_a_redirect_is_not_followed(tmp_path):
    path = small_study(tmp_path)
    local = [load_party(path, party)[1] for party in range(3)]
    with PlainServer() as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:{elsewhere.port}/\r\nContent-Length: 0\r\n\r\n"
        with TlsServer(local[1], local[1].listen[1], moved.encode()):
            assert "307" in str(connect(new_node(path, 2)))  # sees by GET whether it can be reached
            assert "307" in str(connect(new_node(path, 0)))  # calls by WebSocket
    assert elsewhere.heard == b""


def test_proxies_of_the_environment_are_not_used(tmp_path, monkeypatch):
    with PlainServer() as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with three_nodes(tmp_path) as network:
            network.connect()
    assert proxy.heard == b""


@pytest.fixture
def connected(tmp_path):
    with three_nodes(tmp_path) as network:
        session = network.connect()
        locals_ = [load_party(network.path, party)[1] for party in range(3)]
        yield network, session.hex(), locals_
        network.nodes[1].send(0, b"undisturbed")
        assert network.nodes[0].receive(WAIT) == (1, b"undisturbed")
        assert network.nodes[0].receive(0.1) is None
        network.everywhere(lambda node: node.finish(WAIT))


def digest(body):
    return {"X-SHA256": hashlib.sha256(body).hexdigest()}


def test_nobody_without_a_certificate_of_the_agreement_can_call(connected, tmp_path):
    _, session, locals_ = connected
    port = locals_[0].listen[1]
    for caller in (None, strange_local(tmp_path, locals_[1]), locals_[0]):  # nor with the server's own
        for method, path in (("GET", "/v1/here"), ("GET", "/v1/link"), ("PUT", f"/v1/message/{session}/0")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                call(caller, port, method, path, b"x" if method == "PUT" else b"", digest(b"x"))


def test_what_a_party_sends_is_its_own_whatever_it_says(connected):
    network, session, locals_ = connected
    status = call(
        locals_[2],
        locals_[0].listen[1],
        "PUT",
        f"/v1/message/{session}/0?sender=1",
        b"from party 2",
        digest(b"from party 2") | {"X-Party": "1", "X-Forwarded-For": "1"},
    )
    assert status == 204
    assert network.nodes[0].receive(WAIT) == (2, b"from party 2")


@pytest.mark.parametrize(
    "method, path, body, headers, status",
    [
        ("PUT", "/v1/message/{other}/0", b"x", digest(b"x"), 404),
        ("PUT", "/v1/message/{session}/1", b"x", digest(b"x"), 409),
        ("PUT", "/v1/message/{session}/0", b"x", {}, 400),
        ("PUT", "/v1/message/{session}/0", b"x", digest(b"y"), 400),
        ("PUT", "/v1/message/{session}/0", b"x", {"X-SHA256": "z" * 64}, 400),
        ("PUT", "/v1/message/{session}/0", b"x", digest(b"x") | {"Content-Length": str(1 << 40)}, 413),
        ("PUT", "/v1/message/{session}/-1", b"x", digest(b"x"), 404),
        ("PUT", "/v1/message/{session}/0/..", b"x", digest(b"x"), 404),
        ("PUT", "/v1/message/{session}/9999999999999", b"x", digest(b"x"), 404),
        ("PUT", "/v1/message/{SESSION}/0", b"x", digest(b"x"), 404),
        ("POST", "/v1/message/{session}/0", b"x", digest(b"x"), 405),
        ("GET", "/v1/message/{session}/0", b"", {}, 405),
        ("DELETE", "/v1/link", b"", {}, 405),
        ("GET", "/v2/link", b"", {}, 404),
        ("GET", "/", b"", {}, 404),
        ("GET", "/v1/link", b"", {}, 409),
    ],
)
def test_a_request_that_is_wrong_has_no_effect(connected, method, path, body, headers, status):
    _, session, locals_ = connected
    path = path.format(session=session, SESSION=session.upper(), other=hashlib.sha256(b"other").hexdigest())
    party = 0 if path == "/v1/link" and method == "GET" else 1
    to = 1 if party == 0 else 0
    assert call(locals_[party], locals_[to].listen[1], method, path, body, headers) == status


def test_a_body_that_unpacks_into_more_than_it_says_is_refused(connected):
    _, session, locals_ = connected
    body = bytes(20 << 20)
    headers = {"Content-Encoding": "gzip", "X-SHA256": hashlib.sha256(body).hexdigest()}
    path = f"/v1/message/{session}/0"
    assert call(locals_[1], locals_[0].listen[1], "PUT", path, gzip.compress(body), headers) == 400


def test_a_party_that_should_be_called_cannot_call(connected):
    _, _, locals_ = connected
    assert call(locals_[1], locals_[0].listen[1], "GET", "/v1/link") == 403


def test_a_link_without_an_upgrade_leaves_room_for_the_real_one(tmp_path):
    path = small_study(tmp_path)
    nodes = [new_node(path, party, QUICK) for party in range(3)]
    nodes[1].start()
    hospital, insurer = (load_party(path, party)[1] for party in (0, 1))
    assert call(hospital, insurer.listen[1], "GET", "/v1/link") == 400
    try:
        for node in (nodes[0], nodes[2]):
            node.start()
        at_once([lambda node=node: node.connect(WAIT, lambda names: None) for node in nodes])
    finally:
        for node in nodes:
            node.close()


def test_nothing_secret_is_logged(tmp_path, caplog):
    caplog.set_level(0)
    with three_nodes(tmp_path) as network:
        session = network.connect()
        network.nodes[0].send(1, b"a secret payload")
        network.nodes[1].receive(WAIT)
        network.nodes[0].link(1).write(b"a secret stream")
        network.everywhere(lambda node: node.finish(WAIT))
    for secret in ("a secret", session.hex(), hashlib.sha256(b"a secret payload").hexdigest()):
        assert secret not in caplog.text
