"""What keygen writes, where, and when it refuses."""

from __future__ import annotations

import ipaddress
import os
import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from studies import make_study

from pipeline import pins
from pipeline.certificates import keygen, make_certificate, new_key
from pipeline.config import load
from pipeline.errors import ConfigError

NOW = datetime(2026, 11, 22, 12, 30, 15, 999, tzinfo=UTC)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study in which no party has a key yet."""
    path = make_study(tmp_path, hospital_csv="id,age,days\n", insurer_csv="id,income\n")
    for folder in ("keys", "certificates"):
        for file in (tmp_path / folder).iterdir():
            file.unlink()
        (tmp_path / folder).rmdir()
    return path


def faults(study: Path, party: int = 0, force: bool = False, local: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        keygen(study, party, local=local, force=force)
    return caught.value.faults


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_keygen_makes_what_the_study_needs(study: Path) -> None:
    for party in range(3):
        keygen(study, party)
    for party in range(3):
        load(study, party)


def test_keygen_works_before_the_others_have_their_certificates(study: Path) -> None:
    keygen(study, 1)
    assert (study.parent / "certificates/insurer.pem").is_file()
    assert not (study.parent / "certificates/hospital.pem").exists()


def test_keygen_works_before_the_table_is_there(study: Path) -> None:
    (study.parent / "data/hospital.csv").unlink()
    keygen(study, 0)


def test_the_lines_name_the_files_and_the_fingerprint(study: Path) -> None:
    lines = "\n".join(keygen(study, 0))
    der = ssl.PEM_cert_to_DER_cert((study.parent / "certificates/hospital.pem").read_text())
    first, second = pins.in_lines(pins.fingerprint(der))
    assert f"SHA-256 fingerprint:\n  {first}\n  {second}\n" in lines
    assert f"{study.parent}/certificates/hospital.pem (send this file to the other parties)" in lines
    assert f"{study.parent}/keys/hospital.key" in lines
    assert "PRIVATE" not in lines


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_key_is_for_its_owner_only_and_the_certificate_for_everyone(study: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        keygen(study, 0)
    finally:
        os.umask(before)
    key, certificate = study.parent / "keys/hospital.key", study.parent / "certificates/hospital.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(certificate.stat().st_mode) == 0o644
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")  # PKCS 8


def test_nothing_is_overwritten_without_force(study: Path) -> None:
    keygen(study, 0)
    key, certificate = study.parent / "keys/hospital.key", study.parent / "certificates/hospital.pem"
    before = key.read_bytes(), certificate.read_bytes()
    found = faults(study)
    assert len(found) == 2
    assert all("is there already; --force replaces it" in fault for fault in found)
    key.unlink()
    assert len(faults(study)) == 1
    assert not key.exists()
    assert certificate.read_bytes() == before[1]
    keygen(study, 0, force=True)
    assert key.read_bytes() != before[0]
    assert certificate.read_bytes() != before[1]


def test_force_replaces_an_expired_pair(study: Path) -> None:
    keygen(study, 0, now=datetime.now(UTC) - timedelta(days=1000))
    keygen(study, 1)
    keygen(study, 2)
    with pytest.raises(ConfigError, match="expired on"):
        load(study, 0)
    keygen(study, 0, force=True)
    load(study, 0)


def test_no_other_file_is_left(study: Path) -> None:
    before = files(study.parent)
    keygen(study, 0)
    keygen(study, 0, force=True)
    assert files(study.parent) == sorted([*before, "certificates/hospital.pem", "keys/hospital.key"])


def test_a_certificate_that_cannot_be_written_leaves_no_key(study: Path) -> None:
    (study.parent / "certificates").write_text("in the way")
    before = files(study.parent)
    [fault] = faults(study)
    assert fault.startswith(f"{study.parent}/certificates/hospital.pem cannot be written")
    assert files(study.parent) == before


def test_a_folder_in_place_of_the_key_is_named(study: Path) -> None:
    (study.parent / "keys/hospital.key").mkdir(parents=True)
    [fault] = faults(study, force=True)
    assert "hospital.key is a folder" in fault


def test_the_local_file_may_be_another(study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(f'private_key = "{tmp_path}/elsewhere/my.key"\n')
    keygen(study, 0, local=other)
    assert (tmp_path / "elsewhere/my.key").is_file()


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("party-0.toml", "private_key", "privat_key", "private_key is missing"),
        ("party-0.toml", '"keys/hospital.key"', "3", "private_key must be text"),
        ("party-0.toml", "keys/hospital.key", "certificates/hospital.pem", "give each a file of its own"),
        ("party-0.toml", "private_key =", "private_key", "party-0.toml is not valid TOML"),
        ("study.toml", "alpha", "alhpa", "model.alpha is missing"),
        ("study.toml", "[study]", "[study", "study.toml is not valid TOML"),
        ("study.toml", "certificates/insurer", "certificates/hospital", "certificate is the same at the parties"),
        ("study.toml", '"certificates/hospital.pem"', '["a.pem", "b.pem"]', "names several files"),
        ("study.toml", '"certificates/hospital.pem"', '"-----BEGIN CERTIFICATE-----"', "is written out in the agreem"),
    ],
)
def test_wrong_files_are_named_and_nothing_is_written(study: Path, file: str, old: str, new: str, words: str) -> None:
    rewrite(study.parent / file, old, new)
    before = files(study.parent)
    assert any(words in fault for fault in faults(study))
    assert files(study.parent) == before


def test_of_several_certificates_the_missing_one_is_made(study: Path) -> None:
    keygen(study, 0)
    rewrite(study, '"certificates/hospital.pem"', '["certificates/hospital.pem", "certificates/new.pem"]')
    rewrite(study.parent / "party-0.toml", "keys/hospital.key", "keys/new.key")
    keygen(study, 0)
    assert (study.parent / "certificates/new.pem").is_file()


def test_an_unknown_party_is_refused(study: Path) -> None:
    assert any("party 4 is not in the agreement" in fault for fault in faults(study, 4))


# --- the certificate ------------------------------------------------------------------------------


def test_the_certificate_is_for_both_ends_of_tls_and_signs_no_other() -> None:
    certificate = make_certificate(new_key(), "hospital", "hospital.example", NOW)
    extensions = certificate.extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    uses = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert uses == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "hospital"
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_the_certificate_is_valid_two_years_from_a_day_ago() -> None:
    certificate = make_certificate(new_key(), "hospital", "hospital.example", NOW)
    assert certificate.not_valid_before_utc == datetime(2026, 11, 21, 12, 30, 15, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2028, 11, 20, 12, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("hospital.example", x509.DNSName("hospital.example")),
        ("third_party", x509.DNSName("third_party")),
        ("10.0.0.7", x509.IPAddress(ipaddress.ip_address("10.0.0.7"))),
        ("::1", x509.IPAddress(ipaddress.ip_address("::1"))),
    ],
)
def test_the_certificate_names_the_host_of_the_url(host: str, name: x509.GeneralName) -> None:
    names = make_certificate(new_key(), "x", host, NOW).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [name]


def context(study: Path, own: str, peer: str, purpose: int) -> ssl.SSLContext:
    made = ssl.SSLContext(purpose)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_cert_chain(study.parent / f"certificates/{own}.pem", study.parent / f"keys/{own}.key")
    made.load_verify_locations(study.parent / f"certificates/{peer}.pem")
    return made


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """A whole handshake in memory; raises what either end finds wrong."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for end in ends:
        assert end.getpeercert(binary_form=True)


def test_two_parties_shake_hands_with_each_other_and_with_nobody_else(study: Path) -> None:
    for party in range(3):
        keygen(study, party)
    client = context(study, "hospital", "insurer", ssl.PROTOCOL_TLS_CLIENT)
    shake_hands(client, context(study, "insurer", "hospital", ssl.PROTOCOL_TLS_SERVER), "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, context(study, "third-party", "hospital", ssl.PROTOCOL_TLS_SERVER), "127.0.0.1")
    with pytest.raises(ssl.SSLError):
        shake_hands(client, context(study, "insurer", "third-party", ssl.PROTOCOL_TLS_SERVER), "127.0.0.1")


# --- pins -----------------------------------------------------------------------------------------


def foreign(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """A certificate that is not from keygen."""
    pair = make_certificate(new_key(), "x", "x.example", NOW)
    builder = x509.CertificateBuilder(
        issuer_name=pair.issuer,
        subject_name=pair.subject,
        public_key=key.public_key(),
        serial_number=7,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_key_that_tls_cannot_use_is_refused() -> None:
    pins.parse_certificate(foreign(rsa.generate_private_key(65537, 2048)))
    weak_rsa = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    for weak in (weak_rsa, ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(ValueError, match=r"has a key that TLS 1\.3 cannot use"):
            pins.parse_certificate(foreign(weak))


def test_a_fingerprint_is_shown_in_groups_to_be_read_aloud() -> None:
    digest = "0123456789abcdef" * 4
    first, second = pins.in_lines(digest)
    assert first == second == "0123 4567 89ab cdef 0123 4567 89ab cdef"
    assert pins.in_groups(digest) == f"{first} {second}"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command here")
def test_the_fingerprint_is_that_of_openssl(study: Path) -> None:
    keygen(study, 0)
    file = study.parent / "certificates/hospital.pem"
    command = ["openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha256"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fingerprint = pins.fingerprint(pins.parse_certificate(file.read_bytes()))
    assert shown.strip().partition("=")[2].replace(":", "").lower() == fingerprint
