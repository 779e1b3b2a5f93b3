"""TLS in memory: who gets through a handshake, and what the other end has seen by then."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from network import load_party, small_study
from studies import write_keys

from pipeline.config import load_agreement
from pipeline.errors import ConfigError
from pipeline.tls import WrongCertificate, client_context, party_of, refuse_key_log, server_context

CLIENT_HELLO = 1
HANDSHAKE, ALERT = 22, 21


@pytest.fixture
def study(tmp_path):
    path = small_study(tmp_path)
    agreement = load_agreement(path)
    return agreement, [load_party(path, party)[1] for party in range(3)]


class Ends:
    """A client and a server joined by memory; `seen` is what the server was sent."""

    def __init__(self, client_side, server_side):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.wires = {True: (ssl.MemoryBIO(), to_server), False: (ssl.MemoryBIO(), to_client)}
        self.client = client_side.wrap_bio(to_client, self.wires[True][0], server_hostname="127.0.0.1")
        self.server = server_side.wrap_bio(to_server, self.wires[False][0], server_side=True)
        self.seen = b""
        self.errors = {}
        self.done = set()

    def step(self, end, name):
        if name in self.errors or name in self.done:
            return
        try:
            end.do_handshake()
            self.done.add(name)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.errors[name] = error

    def flow(self, from_client):
        source, target = self.wires[from_client]
        data = source.read()
        if from_client:
            self.seen += data
        target.write(data)

    def handshake(self):
        """As asyncio does it: what a failed handshake has produced is not sent."""
        for _ in range(6):
            self.step(self.client, "client")
            if "client" not in self.errors:
                self.flow(True)
            self.step(self.server, "server")
            self.flow(False)
        return self.errors


def load_chain(context, local):
    certificate = local.private_key.with_suffix(".own.pem")
    certificate.write_text(ssl.DER_cert_to_PEM_cert(local.certificate))
    context.load_cert_chain(certificate, local.private_key)


def records(data):
    while data:
        length = int.from_bytes(data[3:5], "big")
        yield data[0], data[5 : 5 + length]
        data = data[5 + length :]


def test_two_parties_of_the_agreement_know_one_another(study):
    agreement, local = study
    ends = Ends(client_context(local[0], agreement.party(1)), server_context(local[1], [agreement.party(0)]))
    assert ends.handshake() == {}
    pins = {der: p.id for p in agreement.parties for der in p.certificates}
    assert party_of(pins, ends.server) == 0
    assert party_of(pins, ends.client) == 1
    assert party_of({}, ends.client) is None
    assert party_of(pins, None) is None
    assert ends.client.version() == "TLSv1.3"


def test_another_party_at_the_address_sees_nothing_but_a_client_hello(study):
    agreement, local = study
    ends = Ends(client_context(local[0], agreement.party(1)), server_context(local[2], [agreement.party(0)]))
    errors = ends.handshake()
    assert isinstance(errors["client"], WrongCertificate)
    assert errors["client"].presented == agreement.party(2).certificates[0]
    [(kind, body)] = records(ends.seen)
    assert (kind, body[0]) == (HANDSHAKE, CLIENT_HELLO)


def test_a_certificate_issued_under_a_pinned_one_is_not_the_pinned_one(tmp_path):
    """A pin that is an authority by mistake lets nobody else in, and our certificate does not get out."""
    authority_key, issued_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = issue("authority", authority_key, "authority", authority_key, ca=True)
    issued = issue("insurer", issued_key, "authority", authority_key, ca=False)
    agreement, local = load_party(small_study(tmp_path), 0)
    pinned = replace(agreement.party(1), certificates=(authority.public_bytes(serialization.Encoding.DER),))
    key, chain = tmp_path / "issued.key", tmp_path / "issued.pem"
    key.write_bytes(private_pem(issued_key))
    chain.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    impostor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    impostor.load_cert_chain(chain, key)
    ends = Ends(client_context(local, pinned), impostor)
    errors = ends.handshake()
    assert isinstance(errors["client"], WrongCertificate)
    [(kind, body)] = records(ends.seen)
    assert (kind, body[0]) == (HANDSHAKE, CLIENT_HELLO)
    caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    caller.check_hostname = False
    caller.load_verify_locations(cadata=local.certificate)
    caller.load_cert_chain(chain, key)
    ends = Ends(caller, server_context(local, [pinned]))
    ends.handshake()
    assert "server" not in ends.done


def test_a_certificate_from_an_organisations_own_authority_can_be_pinned(tmp_path):
    authority_key, issued_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issued = issue("insurer", issued_key, "authority", authority_key, ca=False)
    agreement, local = load_party(small_study(tmp_path), 0)
    der = issued.public_bytes(serialization.Encoding.DER)
    key = tmp_path / "issued.key"
    key.write_bytes(private_pem(issued_key))
    theirs = replace(load_party(tmp_path / "study.toml", 1)[1], private_key=key, certificate=der)
    insurer = replace(agreement.party(1), certificates=(der,))
    assert Ends(client_context(local, insurer), server_context(theirs, [agreement.party(0)])).handshake() == {}
    reverse = Ends(client_context(theirs, agreement.party(0)), server_context(local, [insurer]))
    assert reverse.handshake() == {}


def issue(name, key, issuer, issuer_key, *, ca):
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_server_does_not_accept_its_own_certificate(study):
    agreement, local = study
    ends = Ends(client_context(local[1], agreement.party(1)), server_context(local[1], [agreement.party(0)]))
    assert "server" not in ends.done
    ends.handshake()
    assert "server" not in ends.done


def test_a_caller_without_a_certificate_or_with_a_foreign_one_hears_why(study, tmp_path):
    agreement, local = study
    for expected in ("CERTIFICATE_REQUIRED", "UNKNOWN_CA"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=local[1].certificate)
        if expected == "UNKNOWN_CA":
            write_keys(tmp_path / "foreign", "stranger")
            load_chain(context, foreign(tmp_path / "foreign", local[0]))
        ends = Ends(context, server_context(local[1], [agreement.party(0)]))
        ends.handshake()
        assert "server" not in ends.done
        with pytest.raises(ssl.SSLError) as caught:
            ends.client.read(1)
        assert expected in caught.value.reason


def foreign(folder, local):
    pem = (folder / "certificates" / "stranger.pem").read_text()
    return replace(local, private_key=folder / "keys" / "stranger.key", certificate=ssl.PEM_cert_to_DER_cert(pem))


def test_an_older_tls_is_not_spoken(study):
    agreement, local = study
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=local[1].certificate)
    load_chain(context, local[0])
    errors = Ends(context, server_context(local[1], [agreement.party(0)])).handshake()
    assert "PROTOCOL_VERSION" in errors["client"].reason


def test_an_expired_certificate_is_refused_with_its_reason(tmp_path):
    path = small_study(tmp_path)
    agreement, local = load_party(path, 0)
    write_keys(tmp_path / "old", "stranger", now=datetime.now(UTC) - timedelta(days=1000))
    theirs = foreign(tmp_path / "old", local)
    insurer = replace(agreement.party(1), certificates=(theirs.certificate,))
    errors = Ends(client_context(local, insurer), server_context(theirs, [agreement.party(0)])).handshake()
    assert errors["client"].verify_code == 10
    assert errors["client"].presented == theirs.certificate


def test_no_session_can_be_resumed(study):
    agreement, local = study
    context = server_context(local[1], [agreement.party(0)])
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert client_context(local[0], agreement.party(1)).verify_mode is ssl.CERT_REQUIRED


def test_a_key_of_another_certificate_is_an_error_of_the_own_input(study):
    agreement, local = study
    wrong = replace(local[0], private_key=local[1].private_key)
    with pytest.raises(ConfigError, match=r"insurer\.key"):
        client_context(wrong, agreement.party(1))


def test_a_key_with_a_password_is_an_error_and_no_question_on_the_terminal(study):
    agreement, local = study
    key = ec.generate_private_key(ec.SECP256R1())
    local[0].private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    with pytest.raises(ConfigError):
        client_context(local[0], agreement.party(1))


def test_a_key_log_is_refused(monkeypatch):
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    refuse_key_log()
    monkeypatch.setenv("SSLKEYLOGFILE", "keys.log")
    with pytest.raises(ConfigError, match="SSLKEYLOGFILE"):
        refuse_key_log()
