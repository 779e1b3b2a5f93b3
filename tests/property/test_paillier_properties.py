"""Encryption and the search for repeated obfuscators, for any input."""

from __future__ import annotations

import numpy as np
from attacks import shared_divisor_key
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RemoteProtocolError
from pipeline.messages import Bytes
from pipeline.paillier import (
    Decryptor,
    DistinctResidues,
    OwnEncryptor,
    PeerEncryptor,
    base,
    encrypt_with,
    exponent_bytes,
    multiply,
)

PAIR = shared_divisor_key()
SESSION = b"\x05" * 32
OWN = OwnEncryptor(PAIR, SESSION, lambda count: b"\x00" * count)
PEER = PeerEncryptor(PAIR.encryption_key(SESSION), lambda count: b"\x00" * count)
DECRYPTOR = Decryptor(PAIR)

EXPONENTS = st.binary(min_size=exponent_bytes(512), max_size=exponent_bytes(512))
PLAINTEXTS = st.integers(0, (1 << 510) - 1) | st.sampled_from([0, 1, (1 << 510) - 1])


def _obfuscator(number: int) -> Bytes:
    return np.frombuffer(number.to_bytes(128, "big"), np.uint8)


HIDING = _obfuscator(base(SESSION, PAIR.n))


def _row(plaintext: int) -> Bytes:
    return np.frombuffer(plaintext.to_bytes(64, "little"), np.uint8).reshape(1, 1, 64)


@given(EXPONENTS | st.sampled_from([b"\x00" * 74, b"\xff" * 74]))
def test_owner_and_peer_make_the_same_obfuscator_of_an_exponent(exponent: bytes) -> None:
    power = pow(base(SESSION, PAIR.n), int.from_bytes(exponent, "little"), PAIR.n**2)
    assert OWN.power(exponent) == PEER.power(exponent) == power


@given(PLAINTEXTS, PLAINTEXTS, EXPONENTS, EXPONENTS)
def test_the_product_decrypts_to_the_sum(left: int, right: int, own: bytes, peer: bytes) -> None:
    first = encrypt_with(_row(left), _obfuscator(int(OWN.power(own))), PAIR.n)
    second = encrypt_with(_row(right), _obfuscator(int(PEER.power(peer))), PAIR.n)
    # One obfuscator more: hypothesis likes exponents 0, and then decryption refuses.
    masked = multiply(multiply(first, second, PAIR.n), encrypt_with(_row(0), HIDING, PAIR.n), PAIR.n)
    assert int.from_bytes(DECRYPTOR.decrypt(masked).tobytes(), "little") == (left + right) % PAIR.n


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6), max_size=8))
def test_a_repetition_is_found_exactly_in_the_part_that_makes_it(parts: list[list[tuple[int, int]]]) -> None:
    distinct = DistinctResidues()
    seen: set[tuple[int, int]] = set()
    for part in parts:
        pairs = np.array(part, np.uint64).reshape(-1, 2)
        repeated = len(set(part)) < len(part) or not seen.isdisjoint(part)
        try:
            distinct.add(pairs.view(np.uint8).reshape(-1, 16))
        except RemoteProtocolError:
            assert repeated
            return
        assert not repeated
        seen.update(part)
