"""What a call to another party that failed means: not there yet, something odd, or the wrong one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp

from pipeline.config import Agreement, Party
from pipeline.pins import fingerprint, in_groups
from pipeline.session import AbortCode
from pipeline.tls import WrongCertificate

FIRST_DELAY = 0.1  # seconds between two calls, growing
LONGEST_DELAY = 2.0
CONNECT_SECONDS = 10.0  # for a connection and the first answer over it

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_… of OpenSSL
_ENDING = 410
_BEHIND_A_PROXY = (502, 503, 504)


class Unwelcome(aiohttp.ClientError):
    """A peer answered a call with this HTTP status instead of what was asked for."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Trouble:
    """Why a call failed; `words` follow the name of the peer."""

    words: str
    code: AbortCode | None = None  # None: nobody is there yet
    passing: bool = True  # whether it may pass by itself within seconds


class Patience:
    """Bears with a peer that answers oddly for `grace` seconds, and with one that is not there for ever."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._since: float | None = None

    def ends(self, trouble: Trouble, now: float) -> bool:
        if trouble.code is None:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return not trouble.passing or now - self._since >= self._grace


def delays() -> Iterator[float]:
    """Seconds to wait before the second, third … call."""
    delay = FIRST_DELAY
    while True:
        yield delay
        delay = min(delay * 1.3, LONGEST_DELAY)


def diagnose(error: BaseException, agreement: Agreement, peer: Party, own_certificate: bytes) -> Trouble:
    """What `error`, raised by a call to `peer`, says."""
    tls = _tls_error(error)
    if isinstance(tls, WrongCertificate):
        return _wrong_certificate(tls, agreement, peer)
    if tls is not None:
        return _tls_trouble(tls, peer, own_certificate)
    match error:
        case Unwelcome(status=status) | aiohttp.WSServerHandshakeError(status=status):
            return _status(status, peer, own_certificate)
        case aiohttp.ClientConnectorError() if not isinstance(error.os_error, ConnectionResetError):
            return Trouble(_unreachable(error.os_error, peer))
        case TimeoutError():
            return Trouble(f"does not answer at {peer.url}")
    return Trouble(
        f"closes connections to {peer.url} without an answer; if it is running, it may not accept the certificate "
        f"of this party: compare the fingerprint there with {_shown(own_certificate)}",
        AbortCode.NOT_UNDERSTOOD,
    )


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error inside `error`; aiohttp's own errors are wrapped around it."""
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            error = error.certificate_error
        elif isinstance(error, aiohttp.ClientConnectorError):
            error = error.os_error
        elif isinstance(error, ssl.SSLError):
            return error
        else:
            error = error.__cause__
    return None


def _wrong_certificate(error: WrongCertificate, agreement: Agreement, peer: Party) -> Trouble:
    expected = " or ".join(_shown(der) for der in peer.certificates)
    owner = next((p for p in agreement.parties if error.presented in p.certificates), None)
    if owner == peer and error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        when = "is not valid yet" if error.verify_code == _NOT_YET_VALID else "has expired"
        words = f"has a certificate that {when}; compare the clocks, or make a new certificate there with keygen"
    elif owner not in (None, peer):
        assert owner is not None  # noqa: S101
        words = f"is not who answers at {peer.url}: that is {owner.name}; mend the addresses in the agreement"
    else:
        met = f", met {_shown(error.presented)}" if error.presented else ""
        words = (
            f"is not who answers at {peer.url}: expected the certificate with fingerprint {expected}{met}; "
            "compare address and certificate in the agreement"
        )
    return Trouble(words, AbortCode.WRONG_CERTIFICATE, passing=False)


def _tls_trouble(error: ssl.SSLError, peer: Party, own_certificate: bytes) -> Trouble:
    reason = error.reason or ""
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")):
        return _not_accepted(peer, own_certificate, passing=False)
    words = f"is not what answers at {peer.url}, which does not speak TLS 1.3; mend the address in the agreement"
    return Trouble(words, AbortCode.NOT_UNDERSTOOD)


def _not_accepted(peer: Party, own_certificate: bytes, *, passing: bool) -> Trouble:
    words = (
        f"does not accept the certificate of this party; its fingerprint is {_shown(own_certificate)}: "
        f"compare it with the agreement at {peer.name}, and the clocks"
    )
    return Trouble(words, AbortCode.CERTIFICATE_NOT_ACCEPTED, passing)


def _status(status: int, peer: Party, own_certificate: bytes) -> Trouble:
    if status == _ENDING:
        return Trouble("is just ending another run")
    if status in _BEHIND_A_PROXY:
        return Trouble(f"is not running behind {peer.url}")
    if status == 409:
        words = "already has a connection with this party: is it running twice? End one of the two and start again"
        return Trouble(words, AbortCode.CONNECTED_TWICE)
    if status in (401, 403):
        return _not_accepted(peer, own_certificate, passing=True)
    words = f"is not what answers at {peer.url} (HTTP status {status}); mend the address in the agreement"
    return Trouble(words, AbortCode.NOT_UNDERSTOOD)


def _unreachable(error: OSError, peer: Party) -> str:
    if isinstance(error, socket.gaierror):
        return f"has an address whose host name is not known here: {peer.url}"
    if isinstance(error, ConnectionRefusedError):
        return f"does not answer at {peer.url} (connection refused)"
    return f"cannot be reached at {peer.url} ({(error.strerror or type(error).__name__).lower()})"


def _shown(certificate: bytes) -> str:
    return in_groups(fingerprint(certificate))
