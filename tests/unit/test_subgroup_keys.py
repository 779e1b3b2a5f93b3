"""Subgroup keys: every condition on a new one, and what a receiver refuses."""

from __future__ import annotations

import os
from dataclasses import replace

import gmpy2
import numpy as np
import pytest
from attacks import array, in_group, is_residue, numbers, shared_divisor_key
from fakes import BITS, SESSION, subgroup_keypair

from pipeline import subgroup_keys
from pipeline.errors import RemoteProtocolError
from pipeline.packing import draw_masks
from pipeline.paillier import (
    HIDING_BITS,
    ORDER_BITS,
    Decryptor,
    KeyPair,
    OwnEncryptor,
    PeerEncryptor,
    Subgroup,
    check_modulus,
    encrypt_with,
    multiply,
)

SMALL = 64  # bits of a prime of the order, so that four times as many fit a small modulus
PAIR = subgroup_keypair(0)
N, P, Q = PAIR.n, PAIR.p, PAIR.q
assert PAIR.subgroup is not None
SUBGROUP = PAIR.subgroup
H = SUBGROUP.base


# --- making one -------------------------------------------------------------


def test_a_new_key_keeps_every_condition() -> None:
    for _ in range(5):
        pair = subgroup_keys.generate(BITS, os.urandom, SMALL)
        assert subgroup_keys.faults(pair, BITS, SMALL) == []
        assert check_modulus(pair.modulus, BITS, own=None) == pair.n
        assert subgroup_keys.check_base(pair.base, pair.n) == pair.subgroup.base


def test_a_key_of_real_size_has_primes_of_256_bits_and_exponents_80_bits_longer_than_its_order() -> None:
    pair = subgroup_keys.generate(2048, os.urandom)
    assert subgroup_keys.faults(pair, 2048) == []
    order = pair.subgroup.of_p * pair.subgroup.of_q
    assert pair.subgroup.of_p.bit_length() == pair.subgroup.of_q.bit_length() == ORDER_BITS
    assert gmpy2.powmod(pair.subgroup.base, order, pair.n**2) == 1
    key = pair.encryption_key(SESSION)
    assert 8 * key.exponent_bytes == 2 * ORDER_BITS + HIDING_BITS >= order.bit_length() + HIDING_BITS


def test_two_keys_have_nothing_in_common() -> None:
    pairs = [subgroup_keys.generate(BITS, os.urandom, SMALL) for _ in range(2)]
    seen = {x for pair in pairs for x in (pair.p, pair.q, pair.subgroup.of_p, pair.subgroup.of_q, pair.subgroup.base)}
    assert len(seen) == 10


def test_all_randomness_is_that_of_the_caller() -> None:
    drawn = []

    def rng(count: int) -> bytes:
        drawn.append(np.random.default_rng(len(drawn)).bytes(count))
        return drawn[-1]

    first = subgroup_keys.generate(BITS, rng, SMALL)
    drawn.clear()
    assert subgroup_keys.generate(BITS, rng, SMALL) == first


def _prime_after(number: int) -> int:
    return int(gmpy2.next_prime(number))


def _with(**changes: int) -> KeyPair:
    return replace(PAIR, subgroup=replace(SUBGROUP, **changes))


def _twin() -> KeyPair:
    """A key with the same prime in both orders."""
    of_p = SUBGROUP.of_p
    factor = next(b for b in range(1 << 191, 1 << 192) if gmpy2.is_prime(2 * of_p * b + 1))
    return KeyPair(P, 2 * of_p * factor + 1, replace(SUBGROUP, of_q=of_p))


FAULTY = {
    "it is a standard key": shared_divisor_key,
    "the modulus has the agreed length": lambda: replace(PAIR, p=P >> 8),
    "its primes are prime": lambda: replace(PAIR, p=P - 1),
    "its primes are far apart": lambda: replace(PAIR, p=_prime_after(Q)),
    "the modulus is coprime to the order of its units": lambda: replace(PAIR, p=2 * Q + 1),
    "its primes less one share the factor 2 and no other": _twin,
    "they differ": _twin,
    "the primes of the order are prime": lambda: _with(of_p=SUBGROUP.of_p - 1),
    "they have the right length": lambda: _with(of_p=SUBGROUP.of_p << 1),
    "each divides its side once": lambda: _with(of_p=_prime_after(SUBGROUP.of_p)),
    "the base has their product as its order": lambda: _with(base=pow(H, SUBGROUP.of_p, N * N)),
    "the base is in range": lambda: _with(base=H + N * N),
}


@pytest.mark.parametrize("condition", FAULTY)
def test_a_key_that_breaks_a_condition_is_told_apart(condition: str) -> None:
    assert condition in subgroup_keys.faults(FAULTY[condition](), BITS, SMALL)


@pytest.mark.parametrize("base", [1 + N, H * (1 + N), H * (N * N - 1) % (N * N), pow(3, N, N * N)])
def test_a_base_of_another_order_is_no_base(base: int) -> None:
    wrong = "the base has their product as its order"
    assert wrong in subgroup_keys.faults(_with(base=base % (N * N)), BITS, SMALL)


def test_a_key_does_not_print_its_factors_or_orders() -> None:
    for secret in (P, Q, SUBGROUP.of_p, SUBGROUP.of_q):
        assert str(secret) not in f"{PAIR!r} {PAIR} {SUBGROUP!r} {SUBGROUP}"


# --- using one --------------------------------------------------------------


def test_owner_and_peer_make_the_same_obfuscators_of_the_same_exponents() -> None:
    own, peer = OwnEncryptor(PAIR, SESSION, os.urandom), PeerEncryptor(PAIR.encryption_key(SESSION), os.urandom)
    for _ in range(5):
        exponent = os.urandom(PAIR.encryption_key(SESSION).exponent_bytes)
        power = own.power(exponent)
        assert power == peer.power(exponent) == pow(H, int.from_bytes(exponent, "little"), N * N)
        assert is_residue(int(power), PAIR)
        assert in_group(int(power) % N, H, PAIR)


def test_sums_are_decrypted_with_either_prime_the_larger() -> None:
    swapped = KeyPair(Q, P, Subgroup(SUBGROUP.of_q, SUBGROUP.of_p, H))
    plaintexts = draw_masks(6, 4, BITS, os.urandom)
    rows = OwnEncryptor(PAIR, SESSION, os.urandom).encrypt(plaintexts)
    zeros = PeerEncryptor(PAIR.encryption_key(SESSION), os.urandom).encrypt(np.zeros_like(plaintexts))
    for pair in (PAIR, swapped, KeyPair(P, Q)):
        assert np.array_equal(Decryptor(pair).decrypt(multiply(rows, zeros, N)), plaintexts)


@pytest.mark.parametrize("modulus", [P, Q], ids=["p", "q"])
def test_a_ciphertext_that_leaves_the_group_modulo_one_prime_is_refused(modulus: int) -> None:
    # 1 modulo the square of the other prime, so that only this one tells.
    other = (N // modulus) ** 2
    stray = 1 + other * ((pow(2, modulus, modulus**2) - 1) * pow(other, -1, modulus**2) % modulus**2)
    plaintexts = draw_masks(1, 4, BITS, os.urandom)
    ciphertext = encrypt_with(plaintexts, array([H * stray % (N * N)], N), N)
    assert np.array_equal(Decryptor(KeyPair(P, Q)).decrypt(ciphertext), plaintexts)
    with pytest.raises(RemoteProtocolError, match="outside the group"):
        Decryptor(PAIR).decrypt(ciphertext)


# --- what a receiver refuses ------------------------------------------------


def _small_order(order: int) -> int:
    """An n-th residue of that order modulo p^2, and 1 modulo q^2."""
    p_square, q_square = P * P, Q * Q
    roots = (pow(x, P * (P - 1) // order, p_square) for x in range(2, 1000))
    root = next(r for r in roots if r != 1)
    return 1 + q_square * ((root - 1) * pow(q_square, -1, p_square) % p_square)


BAD_BASES = {
    "zero": (0, "out of range"),
    "one": (1, "out of range"),
    "the square of the modulus": (N * N, "out of range"),
    "beyond it": (N * N + 1, "out of range"),
    "a multiple of a prime": (5 * P, "not coprime"),
    "a number that is no square": (next(x for x in range(2, 1000) if gmpy2.jacobi(x, N) == -1), "no odd order"),
    "one without the residue": (1 + 5 * N, "small order"),
    "minus one": (N * N - 1, "small order"),
    "an element of order 2 on one side": (_small_order(2), "order"),
    "a base that is 1 modulo one prime": (pow(H, SUBGROUP.of_p, N * N), "small order"),
}


@pytest.mark.parametrize("fault", BAD_BASES)
def test_a_bad_base_is_refused_without_being_quoted(fault: str) -> None:
    value, reason = BAD_BASES[fault]
    with pytest.raises(RemoteProtocolError, match=reason) as refused:
        subgroup_keys.check_base(value.to_bytes(2 * BITS // 8, "big"), N)
    assert not any(character.isdigit() for character in str(refused.value))


def test_a_good_base_is_taken() -> None:
    assert numbers(np.frombuffer(PAIR.base, np.uint8).reshape(1, -1)) == [H]
    assert subgroup_keys.check_base(PAIR.base, N) == H
