"""Certificates as pins, and the private keys that fit them.

A party is who holds the key of the certificate in the agreement; no authority
vouches for it. Functions here raise ValueError with words that complete a
sentence beginning with the name of the file ("… holds a private key").
"""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

MAX_PEM_BYTES = 1 << 16
MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
PEM_MARK = "-----BEGIN "


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER), in hex."""
    return hashlib.sha256(certificate).hexdigest()


def in_groups(digest: str) -> str:
    """A fingerprint or digest in hex as it is shown to be compared: in groups of four signs."""
    return " ".join(digest[at : at + 4] for at in range(0, len(digest), 4))


def in_lines(digest: str) -> list[str]:
    """The same in lines of eight groups, two for a SHA-256."""
    return [in_groups(digest[at : at + 32]) for at in range(0, len(digest), 32)]


def read_pem(path: Path) -> bytes:
    """The content of a small file."""
    try:
        if not path.is_file():
            raise ValueError("is not a file" if path.exists() else "does not exist")
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(data) > MAX_PEM_BYTES:
        raise ValueError("is too large for a key or certificate")
    return data


def parse_certificate(pem: bytes) -> bytes:
    """The DER of the one certificate in `pem`, whose key TLS 1.3 can use."""
    if b"PRIVATE KEY-----" in pem:
        raise ValueError("holds a private key, which must never leave its party: name the certificate instead")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities in foreign certificates are not the reader's business
            found = x509.load_pem_x509_certificates(pem)
            usable = [_usable(certificate) for certificate in found]
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a certificate in PEM form") from None
    if len(found) != 1:
        raise ValueError(f"holds {len(found)} certificates: leave only the party's own, without its issuers")
    if not usable[0]:
        raise ValueError("has a key that TLS 1.3 cannot use: make one with the keygen command")
    return found[0].public_bytes(serialization.Encoding.DER)


def public_key(certificate: bytes) -> bytes:
    """The public key of a certificate (DER), as SubjectPublicKeyInfo."""
    return _encoded(x509.load_der_x509_certificate(certificate).public_key())


def check_validity(certificates: Collection[bytes], now: datetime) -> None:
    """Raise when none of `certificates` (DER) is valid at `now`.

    One of several is enough: a party that renews its key lists both.
    """
    periods = [validity(certificate) for certificate in certificates]
    if any(begin <= now <= end for begin, end in periods):
        return
    begin, end = max(periods, key=lambda period: period[1])
    if now < begin:
        raise ValueError(
            f"is not valid before {begin:%Y-%m-%d %H:%M} UTC: wait until then, or set the clock of this machine right"
        )
    raise ValueError(f"expired on {end:%Y-%m-%d}: its party must make a new one and send it to the others")


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """First and last moment at which a certificate (DER) is valid, in UTC."""
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.not_valid_before_utc, parsed.not_valid_after_utc


def check_private(path: Path) -> None:
    """Raise when others than its owner may touch the file of a private key."""
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) & ~0o600:
        raise ValueError(f"may be read or used by others: run chmod 600 {path}")


def read_private_key(path: Path) -> bytes:
    """The public part, as SubjectPublicKeyInfo, of the private key in a file."""
    data = read_pem(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise ValueError("is protected by a password: remove it with openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a private key in PEM form") from None
    return _encoded(key.public_key())


def _usable(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    match key:
        case rsa.RSAPublicKey():
            return key.key_size >= MIN_RSA_BITS
        case ec.EllipticCurvePublicKey():
            return key.curve.name in _CURVES
        case _:
            return isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)


def _encoded(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
