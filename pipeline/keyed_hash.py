"""Keyed hashes of identifiers: what the third party matches in place of them.

The key never reaches the third party. Each controller contributes half of it
over their direct link, so neither chooses it, and the session identifier goes
into it, so hashes of two runs cannot be compared. Without the key a hash says
nothing about an identifier; with it, identifiers of few digits can be guessed
by trying them all.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pipeline.errors import LocalProtocolError
from pipeline.messages import HASH_BYTES, SECRET_BYTES, Bytes

LABEL = b"secure-lasso-pipeline/keyed-hash/v1"
LENGTH_BYTES = 8  # of the length before each identifier column


def new_contribution(rng: Callable[[int], bytes]) -> bytes:
    """Return this controller's part of the key, 32 bytes; `rng(k)` gives k random bytes."""
    return rng(SECRET_BYTES)


def hash_key(a: bytes, b: bytes, session: bytes) -> bytes:
    """Return the key both controllers derive from their contributions, 32 bytes.

    HKDF-SHA-256 (RFC 5869) of (a + b) mod 2^256, numbers big-endian, with the
    session identifier as salt and `LABEL` as info. The sum does not depend on
    the order of the two and is uniform if either contribution is.
    """
    if not len(a) == len(b) == len(session) == SECRET_BYTES:
        raise LocalProtocolError(f"contributions and session must have {SECRET_BYTES} bytes each")
    total = (int.from_bytes(a, "big") + int.from_bytes(b, "big")) % (1 << (8 * SECRET_BYTES))
    hkdf = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=session, info=LABEL)
    return hkdf.derive(total.to_bytes(SECRET_BYTES, "big"))


def keyed_hashes(key: bytes, identifiers: Sequence[tuple[str, ...]]) -> Bytes:
    """Return HMAC-SHA-256 of each identifier, uint8 of shape (n, 32).

    Identifiers are hashed as they stand: trimming and Unicode form are the
    business of `preprocess`.
    """
    digests = b"".join([hmac.digest(key, _encoded(columns), "sha256") for columns in identifiers])
    return np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)


def _encoded(columns: tuple[str, ...]) -> bytes:
    # The length before each column makes this one-to-one:
    # ("ab", "c"), ("a", "bc") and ("abc",) must not meet.
    try:
        encoded = [column.encode() for column in columns]
    except UnicodeEncodeError:
        # The original error carries the identifier and quotes a character of it.
        raise LocalProtocolError("an identifier is not valid Unicode") from None
    return b"".join([len(column).to_bytes(LENGTH_BYTES, "big") + column for column in encoded])
