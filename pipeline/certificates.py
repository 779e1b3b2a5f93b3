"""Makes the key and certificate of a party.

The certificate is signed by its own key: what makes it trusted is that the
parties put it into their agreement after comparing fingerprints.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.config import KeyPlaces, key_places
from pipeline.errors import ConfigError
from pipeline.pins import check_validity, fingerprint, in_lines, parse_certificate

__all__ = ["check_validity", "fingerprint", "keygen", "make_certificate", "new_key", "parse_certificate"]

EARLIER = timedelta(days=1)  # the others' clocks may be behind
VALIDITY = timedelta(days=730)


def keygen(
    path: Path, party_id: int, local: Path | None = None, force: bool = False, now: datetime | None = None
) -> list[str]:
    """Make a party's key and certificate where its two files want them; return lines that say what to do next.

    path : the agreement; local : instead of `party-<id>.toml` beside it.
    Raises ConfigError, with nothing written, when a file is there already and
    `force` is not given, or cannot be written.
    """
    places = key_places(path, party_id, local)
    _refuse_existing(places, force)
    key = new_key()
    certificate = make_certificate(key, places.party, places.host, now or datetime.now(UTC))
    _write_pair(places, key, certificate)
    der = certificate.public_bytes(serialization.Encoding.DER)
    return [
        f"Private key: {places.private_key} (stays here; readable by this user only)",
        f"Certificate: {places.certificate} (send this file to the other parties)",
        f"Valid until: {certificate.not_valid_after_utc:%Y-%m-%d}",
        "SHA-256 fingerprint:",
        *(f"  {line}" for line in in_lines(fingerprint(der))),
        "Let the other parties compare the fingerprint with you by telephone before they use the certificate.",
    ]


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on P-256, from the system's generator."""
    return ec.generate_private_key(ec.SECP256R1())


def make_certificate(key: ec.EllipticCurvePrivateKey, name: str, host: str, now: datetime) -> x509.Certificate:
    """A self-signed certificate for both ends of TLS that can sign no other certificate.

    host : DNS name or address, without brackets.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = (now - EARLIER).replace(microsecond=0)
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _refuse_existing(places: KeyPlaces, force: bool) -> None:
    faults = []
    for key, path in (("private_key", places.private_key), ("certificate", places.certificate)):
        if path.is_dir():
            faults.append(f"{key} {path} is a folder; name a file")
        elif path.exists() and not force:
            faults.append(f"{key} {path} is there already; --force replaces it, and then the others need the new one")
    if faults:
        raise ConfigError(faults)


def _write_pair(places: KeyPlaces, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """Write both files or neither: under other names first, then renamed."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    written: list[tuple[Path, Path]] = []
    path = places.private_key
    try:
        for path, content, mode in ((places.private_key, private, 0o600), (places.certificate, public, 0o644)):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            written.append((temporary, path))
            _write_new(temporary, content, mode)
        for temporary, path in written:
            temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); mend that and start keygen again") from None
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    # The mode is set before the first byte is there, whatever the umask.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
