"""Paillier keys with a hidden subgroup: obfuscators of 512 bits of order instead of a whole modulus.

p = 2 a b + 1 and q = 2 a' b' + 1 with primes a and a' of 256 bits; the base h has
order a a' modulo n^2. Who knows a and a' decrypts with exponents of 256 bits
(Paillier 1999, section 6), and obfuscators h^e take exponents of 512 + 80 bits
(Jost et al. 2015, "Encryption performance improvements of the Paillier
cryptosystem"). That an h of so small an order hides anything is an assumption
of its own, see `docs/threat-model.md`. The primes a and a' have 256 bits because
who finds two powers of h that agree modulo p has a factor of n, and collisions
come after the square root of the order (Coron, Joux, Mandal, Naccache, Tibouchi
2011, "Cryptanalysis of the RSA subgroup assumption from TCC 2005"): 2^128 steps.

phe makes no such keys; the primes are drawn here, from the caller's generator.
"""

from __future__ import annotations

import math
from functools import cache

import gmpy2
from gmpy2 import mpz

from pipeline.errors import RemoteProtocolError
from pipeline.paillier import ORDER_BITS, KeyPair, Number, RandomBytes, Subgroup

ROUNDS = 40  # of Miller-Rabin: a composite passes with less than 4^-40
PROBABLY = 25  # rounds while primes are sought; `faults` asks for all of each that was found
UNIFORM_BITS = 128  # more are drawn than needed: within 2^-128 of uniform
DISTANCE_BITS = 100  # p and q differ in one of their first 100 bits (FIPS 186-5, A.1.3)
SMALL_ORDERS = 1 << 12  # primes below it divide no order of a published base


def generate(bits: int, rng: RandomBytes, order_bits: int = ORDER_BITS) -> KeyPair:
    """Return a fresh key.

    bits : of the modulus, a multiple of 8, at least 4 order_bits.
    rng : gives that many random bytes; everything secret comes from it.
    order_bits : smaller than ORDER_BITS only in tests.
    """
    while True:
        p, of_p = _prime_with_factor(bits // 2, order_bits, rng)
        q, of_q = _prime_with_factor(bits // 2, order_bits, rng, beside=p)
        pair = KeyPair(p, q, Subgroup(of_p, of_q, _base(p, q, of_p, of_q, rng)))
        if not faults(pair, bits, order_bits):
            return pair


def faults(pair: KeyPair, bits: int, order_bits: int = ORDER_BITS) -> list[str]:
    """Name each condition on a subgroup key that `pair` does not keep; no values."""
    if pair.subgroup is None:
        return ["it is a standard key"]
    p, q, n = mpz(pair.p), mpz(pair.q), mpz(pair.n)
    of_p, of_q, base = pair.subgroup.of_p, pair.subgroup.of_q, pair.subgroup.base
    conditions = {
        "the modulus has the agreed length": n.bit_length() == bits,
        "its primes are prime": _is_prime(p) and _is_prime(q),
        "its primes are far apart": abs(p - q).bit_length() > bits // 2 - DISTANCE_BITS,
        "the modulus is coprime to the order of its units": gmpy2.gcd(n, (p - 1) * (q - 1)) == 1,
        # Also keeps the prime of one side from dividing the other.
        "its primes less one share the factor 2 and no other": gmpy2.gcd(p - 1, q - 1) == 2,
        "the primes of the order are prime": _is_prime(of_p) and _is_prime(of_q),
        "they have the right length": of_p.bit_length() == of_q.bit_length() == order_bits,
        "they differ": of_p != of_q,
        "each divides its side once": all(
            (r - 1) % a == 0 and (r - 1) // a % a != 0 for r, a in ((p, of_p), (q, of_q))
        ),
        "the base has their product as its order": all(
            gmpy2.powmod(base, a, r * r) == 1 and base % r != 1 for r, a in ((p, of_p), (q, of_q))
        ),
        "the base is in range": 1 < base < n * n,
    }
    return [condition for condition, holds in conditions.items() if not holds]


def check_base(base: bytes, n: int) -> int:
    """Return a received base as a number; RemoteProtocolError if it cannot be one of a subgroup key.

    Seen without the factors: it is in range, a unit, of Jacobi symbol 1 as every
    element of odd order, and modulo no prime of n is its order a product of
    different primes below 2^12 (so neither it nor its square is 1). That its
    order is the product of two large primes, and that it is an n-th residue,
    cannot be seen; a peer that cheats here gives away its own rows, or spoils
    the result.
    """
    h = mpz.from_bytes(base, "big")
    if not 1 < h < mpz(n) ** 2:
        raise RemoteProtocolError("the base of the obfuscators is out of range")
    if gmpy2.gcd(h, n) != 1:
        raise RemoteProtocolError("the base of the obfuscators is not coprime to the modulus")
    if gmpy2.jacobi(h, n) != 1:
        raise RemoteProtocolError("the base of the obfuscators has no odd order")
    if gmpy2.gcd(gmpy2.powmod(h, _small_orders(), n) - 1, n) != 1:
        raise RemoteProtocolError("the base of the obfuscators has a small order")
    return int(h)


@cache
def _small_orders() -> Number:
    return gmpy2.primorial(SMALL_ORDERS)


def _prime_with_factor(bits: int, order_bits: int, rng: RandomBytes, beside: int = 3) -> tuple[int, int]:
    """Return a prime p = 2 a b + 1 of `bits` bits, the two highest set, and its prime a of `order_bits`.

    p - 1 and `beside` - 1 share no odd factor. A third of all pairs do, which is seen sooner than primality.
    """
    a = _prime_in(1 << (order_bits - 1), 1 << order_bits, rng)
    # Two of these, each of at least 3/4 of 2^bits, have a product of exactly 2 bits.
    low, high = (3 << (bits - 2)) // (2 * a) + 1, (1 << bits) // (2 * a)
    while True:
        half = a * (_below(high - low, rng) + low | 1)
        p = 2 * half + 1
        if p.bit_length() == bits and gmpy2.gcd(half, beside - 1) == 1 and _is_prime(p, PROBABLY):
            return p, a


def _prime_in(low: int, high: int, rng: RandomBytes) -> int:
    while True:
        candidate = _below(high - low, rng) + low | 1
        if _is_prime(candidate, PROBABLY):
            return candidate


def _base(p: int, q: int, of_p: int, of_q: int, rng: RandomBytes) -> int:
    """Return a random element modulo (p q)^2 whose order is of_p modulo p^2 and of_q modulo q^2."""
    x, y = (_element(prime, order, rng) for prime, order in ((p, of_p), (q, of_q)))
    p_square, q_square = p * p, q * q
    return int(y + q_square * ((x - y) * gmpy2.invert(q_square, p_square) % p_square))


def _element(p: int, order: int, rng: RandomBytes) -> Number:
    while True:
        # The unit group modulo p^2 is cyclic of order p (p - 1), so what is left has that order or is 1.
        element = gmpy2.powmod(1 + _below(p * p - 1, rng), p * ((p - 1) // order), p * p)
        if element not in (0, 1):
            return element


def _below(limit: int, rng: RandomBytes) -> int:
    """Return a number uniform below `limit`, up to 2^-128."""
    return int.from_bytes(rng(math.ceil((limit.bit_length() + UNIFORM_BITS) / 8)), "big") % limit


def _is_prime(number: int, rounds: int = ROUNDS) -> bool:
    return bool(gmpy2.is_prime(mpz(number), rounds))
