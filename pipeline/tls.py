"""TLS between the parties: a party is who holds the key of its certificate in the agreement, and nobody else.

Every connection is TLS 1.3 with a certificate on both sides. A connection to
a party trusts that party's certificates only, so that another party answering
at its address gets nothing; the certificate itself is compared with the
agreement inside the handshake, before the first byte of a request. A server
trusts the certificates of the others, never its own.
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from collections.abc import Iterable, Mapping

from pipeline.config import Local, Party
from pipeline.errors import ConfigError
from pipeline.pins import fingerprint, in_groups

log = logging.getLogger(__name__)

_READS_AFTER_REFUSAL = 4


def refuse_key_log() -> None:
    """Raise ConfigError when the environment asks to write down the keys of TLS connections."""
    if os.environ.get("SSLKEYLOGFILE"):
        raise ConfigError(
            "the environment variable SSLKEYLOGFILE is set, which may write the keys of all connections to a file; "
            "unset it and start again"
        )


def client_context(local: Local, peer: Party) -> ssl.SSLContext:
    """For connections to `peer` and to nobody else."""
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate itself is pinned, which says more than a name in it could.
    context.check_hostname = False
    return _prepare(context, local, peer.certificates)


def server_context(local: Local, peers: Iterable[Party]) -> ssl.SSLContext:
    """For connections from `peers`; a caller without one of their certificates does not get through the handshake."""
    context = PinnedContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a resumed session would skip the certificates
    return _prepare(context, local, [der for peer in peers for der in peer.certificates])


def party_of(pins: Mapping[bytes, int], tls: object) -> int | None:
    """The party at the other end of a connection, by its certificate; `pins` maps certificates (DER) to ids."""
    if not isinstance(tls, ssl.SSLObject):
        return None
    return pins.get(tls.getpeercert(binary_form=True) or b"")


class WrongCertificate(ssl.SSLCertVerificationError):
    """The other end showed a certificate that is not expected; `presented` (DER) if it could be read."""

    presented: bytes | None = None


class PinnedObject(ssl.SSLObject):
    """A TLS connection whose handshake succeeds only with a pinned certificate.

    asyncio sends what the handshake has produced after `do_handshake` has
    returned, so an impostor sees neither our certificate nor our Finished.
    """

    _refusal: ssl.SSLError | None = None
    _reads_left = _READS_AFTER_REFUSAL

    def do_handshake(self) -> None:
        if self._refusal is not None:
            self._drop_until_read()
        try:
            super().do_handshake()
            self._check()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._fail(error)

    def _check(self) -> None:
        context = self.context
        presented = self.getpeercert(binary_form=True)
        if not isinstance(context, PinnedContext) or presented is None or presented not in context.pins:
            raise ssl.SSLCertVerificationError("the certificate is not pinned")

    def _fail(self, error: ssl.SSLError) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            wrong = WrongCertificate(*error.args)
            wrong.verify_code = getattr(error, "verify_code", 0)
            wrong.presented = _presented(self)
            error = wrong
        if not self.server_side:
            raise error
        if isinstance(error, WrongCertificate) and error.presented:
            shown = in_groups(fingerprint(error.presented))
            log.warning("refused a caller whose certificate is not in the agreement: %s", shown)
        # asyncio may close at once and drop the alert that tells the caller why
        # (python/cpython#98078); "want read" makes it send that first.
        self._refusal = error
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "refused")

    def _drop_until_read(self) -> None:
        """Give the caller time to read the alert: closing over unread bytes would destroy it."""
        self._reads_left -= 1
        if self._reads_left > 0:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "refused")
        assert self._refusal is not None  # noqa: S101
        raise self._refusal


class PinnedContext(ssl.SSLContext):
    """Makes `PinnedObject`s; only the certificates in `pins` (DER) are anybody."""

    pins: frozenset[bytes] = frozenset()
    sslobject_class = PinnedObject


def _prepare(context: PinnedContext, local: Local, pins: Iterable[bytes]) -> ssl.SSLContext:
    context.pins = frozenset(pins)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A certificate issued by an organisation's own authority is its own trust anchor too.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.options |= ssl.OP_NO_TICKET
    context.load_verify_locations(cadata=b"".join(context.pins))
    _load_own(context, local)
    return context


def _load_own(context: ssl.SSLContext, local: Local) -> None:
    # The ssl module reads certificates from files only; this one is public.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(ssl.DER_cert_to_PEM_cert(local.certificate))
        file.flush()
        try:
            # Without a password callback OpenSSL would ask on the terminal.
            context.load_cert_chain(file.name, local.private_key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{local.private_key}: cannot be used as the private key of this party's certificate; "
                "it must be its unencrypted PEM file, or make both anew with keygen"
            ) from error


def _presented(connection: ssl.SSLObject) -> bytes | None:
    """The certificate shown in a handshake that failed, for the sentence only; None where Python does not tell."""
    inner = getattr(connection, "_sslobj", None)
    chain = getattr(inner, "get_unverified_chain", lambda: None)()
    if not chain:
        return None
    first = chain[0]
    return first if isinstance(first, bytes) else ssl.PEM_cert_to_DER_cert(first.public_bytes())
