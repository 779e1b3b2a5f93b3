"""What a failed call means, and how long it is borne with."""

from __future__ import annotations

import errno
import itertools
import socket
import ssl

import aiohttp
import pytest

from pipeline.agreement import Agreement, Join, Model, Party, Study
from pipeline.dialling import LONGEST_DELAY, Patience, Trouble, Unwelcome, delays, diagnose
from pipeline.pins import fingerprint, in_groups
from pipeline.session import AbortCode
from pipeline.tls import WrongCertificate

AGREEMENT = Agreement(
    Study("small"),
    (
        Party(0, "hospital", "controller", "https://h:1", (b"h",), ("id",), features=("age",), outcome="days"),
        Party(1, "insurer", "controller", "https://i:1", (b"i", b"i2"), ("id",), features=("income",)),
        Party(2, "third-party", "third-party", "https://t:1", (b"t",)),
    ),
    Join(),
    Model(alpha=0.1),
)
KEY = None  # aiohttp's errors carry the address of a connection, which plays no role here


def said(error):
    return diagnose(error, AGREEMENT, AGREEMENT.party(1), b"h")


def wrong(presented, verify_code=0):
    error = WrongCertificate(1, "certificate verify failed")
    error.presented, error.verify_code = presented, verify_code
    return aiohttp.ClientConnectorCertificateError(KEY, error)


def handshake(reason):
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def after_handshake(reason):
    error = aiohttp.ClientOSError(1, "lost")
    error.__cause__ = handshake(reason)
    return error


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
        aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "No route to host")),
        aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")),
        TimeoutError(),
        aiohttp.ConnectionTimeoutError(),
        Unwelcome(502),
        Unwelcome(503),
        Unwelcome(410),
    ],
)
def test_who_is_not_there_yet_is_awaited_without_end(error):
    trouble = said(error)
    assert trouble.code is None
    patience = Patience(1.0)
    assert not any(patience.ends(trouble, now) for now in range(100))


@pytest.mark.parametrize(
    "error, code",
    [
        (aiohttp.ServerDisconnectedError(), AbortCode.NOT_UNDERSTOOD),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), AbortCode.NOT_UNDERSTOOD),
        (aiohttp.ClientConnectorError(KEY, ConnectionResetError()), AbortCode.NOT_UNDERSTOOD),
        (aiohttp.ClientConnectorSSLError(KEY, handshake("WRONG_VERSION_NUMBER")), AbortCode.NOT_UNDERSTOOD),
        (Unwelcome(404), AbortCode.NOT_UNDERSTOOD),
        (Unwelcome(307), AbortCode.NOT_UNDERSTOOD),
        (Unwelcome(403), AbortCode.CERTIFICATE_NOT_ACCEPTED),
        (Unwelcome(409), AbortCode.CONNECTED_TWICE),
    ],
)
def test_an_odd_answer_is_borne_with_for_a_while(error, code):
    trouble = said(error)
    assert trouble.code is code
    patience = Patience(10.0)
    assert not patience.ends(trouble, 100.0)
    assert not patience.ends(trouble, 109.0)
    assert patience.ends(trouble, 110.0)


def test_who_goes_away_in_between_is_awaited_anew():
    patience = Patience(10.0)
    odd, absent = Trouble("odd", AbortCode.NOT_UNDERSTOOD), Trouble("absent")
    assert not patience.ends(odd, 0.0)
    assert not patience.ends(absent, 9.0)
    assert not patience.ends(odd, 15.0)
    assert patience.ends(odd, 25.0)


def test_another_party_at_the_address_is_named_and_never_borne_with():
    trouble = said(wrong(b"t"))
    assert trouble.code is AbortCode.WRONG_CERTIFICATE
    assert "that is third-party" in trouble.words
    assert Patience(10.0).ends(trouble, 0.0)


def test_a_stranger_at_the_address_is_named_by_fingerprint_with_the_one_expected():
    for presented in (b"x", None):
        words = said(wrong(presented)).words
        assert in_groups(fingerprint(b"i")) in words
        assert in_groups(fingerprint(b"i2")) in words
        assert presented is None or in_groups(fingerprint(presented)) in words


@pytest.mark.parametrize("verify_code, words", [(9, "not valid yet"), (10, "expired")])
def test_a_certificate_out_of_its_time_is_not_called_an_impostor(verify_code, words):
    assert words in said(wrong(b"i", verify_code)).words
    assert words not in said(wrong(b"x", verify_code)).words


@pytest.mark.parametrize(
    "reason",
    [
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    ],
)
def test_a_server_that_rejects_our_certificate_is_told_by_its_alert(reason):
    trouble = said(after_handshake(reason))
    assert trouble.code is AbortCode.CERTIFICATE_NOT_ACCEPTED
    assert not trouble.passing
    assert in_groups(fingerprint(b"h")) in trouble.words


def test_other_alerts_do_not_accuse_a_certificate():
    trouble = said(aiohttp.ClientConnectorSSLError(KEY, handshake("TLSV1_ALERT_PROTOCOL_VERSION")))
    assert trouble.code is AbortCode.NOT_UNDERSTOOD


def test_calls_become_rarer_and_never_stop():
    pauses = list(itertools.islice(delays(), 50))
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_DELAY
