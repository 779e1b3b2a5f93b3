"""Arrays of Paillier ciphertexts, bytes in and bytes out.

Standard keys are phe's; `subgroup_keys` makes the others. Encryption is phe's
too, c = (1 + m n) h^e mod n^2, but at raw level: integers only, one public
scale, so no ciphertext comes with the exponent by which phe's EncryptedNumber
tells magnitudes.

Obfuscators come from the group <h> of a base h. With standard keys everybody
computes it from session and modulus and nobody chooses it; with subgroup keys
the owner of the key publishes it. An obfuscator is h^e with e uniform below a
power of two that is 80 bits longer than the group's order can be: within 2^-80
of uniform in <h>, whoever makes it, the owner of the key or the peer. The third
party's product of a row and a mask then says nothing about which row it was.
Two ways to lose that, both shown in the tests: owner and peer drawing from
different groups, and adding the mask in plaintext. `docs/protocol.md` has the
proof.

Arrays are uint8: plaintexts little-endian (rows, ciphertexts per row, bits/8),
ciphertexts big-endian (rows, ciphertexts per row, 2*bits/8). gmpy2 numbers
never leave this module.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeAlias

import gmpy2
import numpy as np
from gmpy2 import mpz

from pipeline.errors import LocalProtocolError, PipelineError, RemoteProtocolError
from pipeline.messages import SECRET_BYTES, Bytes, Words
from pipeline.packing import SPARE_BITS

Number: TypeAlias = Any  # gmpy2.mpz, which has no type stubs
Pair: TypeAlias = tuple[Number, Number]
RandomBytes: TypeAlias = Callable[[int], bytes]

BASE_LABEL = b"secure-lasso-pipeline/paillier-base/v1"
HIDING_BITS = 80  # an exponent is that much longer than any group order
ORDER_BITS = 256  # of each prime of the order of a subgroup key's base
SMALL_FACTOR_LIMIT = 1 << 16
COMB_ENTRIES = 1 << 15  # of a comb's tables, at most: 24 MB for a modulus of 2048 bits; larger ones leave the cache
COMMON_POWERS = 2500  # of a comb: where 5000 records are shared by two workers
SQUARE = 0.87  # what a square modulo the square of a modulus takes, in products
RESIDUE_BYTES = 16  # of the digest that stands for c mod n


def ciphertext_bytes(bits: int) -> int:
    """Return the length of a ciphertext under a modulus of `bits` bits."""
    return 2 * bits // 8


def exponent_bytes(bits: int) -> int:
    """Return the length of an exponent for a group whose order has at most `bits` bits."""
    return (bits + HIDING_BITS) // 8


# --- keys -------------------------------------------------------------------


@dataclass(frozen=True)
class EncryptionKey:
    """What encrypts: the modulus, the base of the obfuscators, and how long their exponents are. Public."""

    n: int
    base: int
    exponent_bytes: int

    @classmethod
    def standard(cls, n: int, session: bytes) -> EncryptionKey:
        """The base is that of the session; any group modulo n^2 it can generate has an order below n."""
        return cls(n, base(session, n), exponent_bytes(_bits(n)))

    @classmethod
    def subgroup(cls, n: int, base: int) -> EncryptionKey:
        """The base is the owner's, of an order of twice ORDER_BITS."""
        return cls(n, base, exponent_bytes(2 * ORDER_BITS))


@dataclass(frozen=True)
class Subgroup:
    """The hidden subgroup of a key: a prime of p - 1, one of q - 1, and a base of their product as order."""

    of_p: int = field(repr=False)
    of_q: int = field(repr=False)
    base: int = field(repr=False)  # the only public one; modulo n^2


@dataclass(frozen=True)
class KeyPair:
    """The primes of a Paillier key. Secret: neither printed nor written anywhere.

    subgroup : None for a standard key.
    """

    p: int = field(repr=False)
    q: int = field(repr=False)
    subgroup: Subgroup | None = field(default=None, repr=False)

    @classmethod
    def generate(cls, bits: int) -> KeyPair:
        """Return a fresh key; phe draws the primes from the operating system."""
        import phe  # only where a key is made: it brings its command line with it

        _, private = phe.generate_paillier_keypair(n_length=bits)
        return cls(int(private.p), int(private.q))

    @property
    def n(self) -> int:
        return self.p * self.q

    @property
    def modulus(self) -> bytes:
        """The modulus as it is sent, big-endian."""
        return self.n.to_bytes(_bits(self.n) // 8, "big")

    @property
    def base(self) -> bytes:
        """The published base as it is sent, big-endian; empty for a standard key."""
        return b"" if self.subgroup is None else self.subgroup.base.to_bytes(ciphertext_bytes(_bits(self.n)), "big")

    @property
    def orders(self) -> tuple[int, int]:
        """Multiples of the orders of the base modulo p^2 and modulo q^2: exponents count modulo these."""
        return (self.p - 1, self.q - 1) if self.subgroup is None else (self.subgroup.of_p, self.subgroup.of_q)

    def encryption_key(self, session: bytes) -> EncryptionKey:
        """The public half."""
        if self.subgroup is None:
            return EncryptionKey.standard(self.n, session)
        return EncryptionKey.subgroup(self.n, self.subgroup.base)


def check_modulus(modulus: bytes, bits: int, own: int | None) -> int:
    """Return a received modulus as a number.

    RemoteProtocolError if it has not exactly `bits` bits, has a prime factor
    below 2^16, is prime or a perfect power, or shares a factor with `own`.
    That it has two large prime factors cannot be seen; a peer that cheats here
    gives away its own rows.
    """
    n = mpz.from_bytes(modulus, "big")
    if len(modulus) != bits // 8 or n.bit_length() != bits:
        raise RemoteProtocolError(f"a Paillier modulus must have exactly {bits} bits")
    if gmpy2.gcd(n, _small_primes_product()) != 1:
        raise RemoteProtocolError("a Paillier modulus has a small prime factor")
    if gmpy2.is_power(n):
        raise RemoteProtocolError("a Paillier modulus is a perfect power")
    if gmpy2.is_prime(n):
        raise RemoteProtocolError("a Paillier modulus is prime")
    if own is not None and gmpy2.gcd(n, own) != 1:
        raise RemoteProtocolError("two Paillier moduli share a factor")
    return int(n)


@cache
def _small_primes_product() -> Number:
    return gmpy2.primorial(SMALL_FACTOR_LIMIT)


# --- obfuscators ------------------------------------------------------------


def base(session: bytes, n: int) -> int:
    """Return h = y^n mod n^2, y = SHAKE-256(label || session || n) mod n.

    128 bits more than the modulus are drawn, so that y is within 2^-128 of
    uniform.
    """
    if len(session) != SECRET_BYTES:
        raise LocalProtocolError(f"a session identifier must have {SECRET_BYTES} bytes")
    length = _bits(n) // 8
    stretched = hashlib.shake_256(BASE_LABEL + session + n.to_bytes(length, "big")).digest(length + 16)
    y = int.from_bytes(stretched, "big") % n
    if gmpy2.gcd(y, n) != 1:
        raise RemoteProtocolError("the base of the obfuscators is not invertible")
    return int(gmpy2.powmod(y, n, n * n))


def draw_exponents(count: int, length: int, rng: RandomBytes) -> Bytes:
    """Return exponents uniform in `length` bytes, little-endian, uint8 of shape (count, length)."""
    return np.frombuffer(rng(count * length), np.uint8).reshape(count, length)


@dataclass(frozen=True)
class CombShape:
    """How a comb divides an exponent: bit t * blocks * columns + j * columns + k is at tooth t, block j, column k."""

    teeth: int
    blocks: int
    columns: int

    @classmethod
    def best(cls, bits: int, powers: int) -> CombShape:
        """Return the shape that takes the least work for the tables and for `powers` powers of `bits` bits."""
        shapes = (
            cls(teeth, blocks, -(-bits // (teeth * blocks)))
            for teeth in range(1, COMB_ENTRIES.bit_length())
            for blocks in range(1, min(COMB_ENTRIES >> teeth, bits // teeth + 1) + 1)
        )
        return min(shapes, key=lambda shape: shape.entries + powers * shape.products)

    @property
    def entries(self) -> int:
        """Of all tables together; each costs a product."""
        return self.blocks << self.teeth

    @property
    def products(self) -> float:
        """Of a power; a square is cheaper."""
        return self.blocks * self.columns + SQUARE * (self.columns - 1)


class Ring(Protocol):
    """Numbers modulo something, in a form of its own."""

    @property
    def one(self) -> Any: ...

    def product(self, x: Any, y: Any) -> Any: ...

    def square(self, x: Any) -> Any: ...


class Modulo:
    """Numbers modulo `modulus`."""

    one = mpz(1)

    def __init__(self, modulus: Number) -> None:
        self._modulus = modulus

    def product(self, x: Number, y: Number) -> Number:
        return x * y % self._modulus

    def square(self, x: Number) -> Number:
        return x * x % self._modulus


class ModuloSquare:
    """Numbers a + b n modulo n^2 as (a, b), both below n.

    Of a product's four parts the highest vanishes, and what is divided is half as long: 4/5 of the time.
    """

    one = mpz(1), mpz(0)

    def __init__(self, n: Number) -> None:
        self._n = n

    def pair(self, x: Number) -> Pair:
        high, low = gmpy2.f_divmod(x, self._n)
        return low, high

    def number(self, x: Pair) -> Number:
        return x[0] + x[1] * self._n

    def product(self, x: Pair, y: Pair) -> Pair:
        (a, b), (c, d), n = x, y, self._n
        high, low = gmpy2.f_divmod(a * c, n)
        return low, (a * d + b * c + high) % n

    def square(self, x: Pair) -> Pair:
        (a, b), n = x, self._n
        high, low = gmpy2.f_divmod(a * a, n)
        return low, ((a * b << 1) + high) % n


class Comb:
    """Powers of a fixed base (Lim and Lee 1994): tables of products of its powers, and few squares.

    base : an element of `ring`.
    powers : about how many will be wanted; more are worth larger tables.
    For the own key the tables tell the primes.
    """

    def __init__(self, base: Any, ring: Ring, exponent_bytes: int, powers: int = COMMON_POWERS) -> None:
        self._ring = ring
        self._exponent_bytes = exponent_bytes
        self._shape = shape = CombShape.best(8 * exponent_bytes, powers)
        self._tables: list[list[Any]] = [[ring.one] for _ in range(shape.blocks)]
        for _ in range(shape.teeth):
            for table in self._tables:
                table += [ring.product(power, base) for power in table]
                for _ in range(shape.columns):
                    base = ring.square(base)

    def power(self, exponent: bytes) -> Any:
        """Return base^exponent; the exponent little-endian, of the length the comb is for."""
        result, product, square = self._ring.one, self._ring.product, self._ring.square
        for digits in self._digits(exponent):
            result = square(result)
            for table, digit in zip(self._tables, digits, strict=True):
                result = product(result, table[digit])
        return result

    def _digits(self, exponent: bytes) -> list[list[int]]:
        """Return which entry of each table to take, for one column after the other, the highest first."""
        if len(exponent) != self._exponent_bytes:
            raise LocalProtocolError("an exponent of another length than the comb is for")
        shape = self._shape
        bits = np.unpackbits(
            np.frombuffer(exponent, np.uint8), count=shape.teeth * shape.blocks * shape.columns, bitorder="little"
        )
        places = 1 << np.arange(shape.teeth)
        digits: list[list[int]] = (places @ bits.reshape(shape.teeth, -1)).reshape(shape.blocks, -1).T[::-1].tolist()
        return digits


class Encryptor(ABC):
    """Encrypts under one key; `rng(k)` gives k random bytes, `powers` is about how many ciphertexts are wanted."""

    def __init__(self, key: EncryptionKey, rng: RandomBytes) -> None:
        self._key = key
        self._rng = rng

    @abstractmethod
    def power(self, exponent: bytes) -> Number:
        """Return h^exponent mod n^2, the exponent little-endian."""

    def obfuscators(self, count: int) -> Bytes:
        """Return fresh obfuscators, uint8 of shape (count, ciphertext bytes).

        They depend on no data and may be made ahead. One that hides two
        plaintexts shows their difference: use each once, then forget it, and
        never write it to a disk.
        """
        exponents = draw_exponents(count, self._key.exponent_bytes, self._rng)
        length = ciphertext_bytes(_bits(self._key.n))
        return _big_endian((self.power(exponent.tobytes()) for exponent in exponents), length)

    def encrypt(self, plaintexts: Bytes) -> Bytes:
        """Return ciphertexts with fresh obfuscators."""
        rows, parts, _ = plaintexts.shape
        return encrypt_with(plaintexts, self.obfuscators(rows * parts), self._key.n)


class PeerEncryptor(Encryptor):
    """Encrypts under the other controller's key."""

    def __init__(self, key: EncryptionKey, rng: RandomBytes, powers: int = COMMON_POWERS) -> None:
        super().__init__(key, rng)
        self._ring = ModuloSquare(mpz(key.n))
        self._comb = Comb(self._ring.pair(mpz(key.base)), self._ring, key.exponent_bytes, powers)

    def power(self, exponent: bytes) -> Number:
        return self._ring.number(self._comb.power(exponent))


class OwnEncryptor(Encryptor):
    """Encrypts under the own key, with the help of its primes.

    h is an n-th power, so its order modulo p^2 divides p - 1, and with a
    subgroup key is the known prime of it: smaller tables and exponents, joined
    by the Chinese remainder theorem.
    """

    def __init__(self, keypair: KeyPair, session: bytes, rng: RandomBytes, powers: int = COMMON_POWERS) -> None:
        super().__init__(keypair.encryption_key(session), rng)
        h, p, q = mpz(self._key.base), mpz(keypair.p), mpz(keypair.q)
        self._orders = keypair.orders
        self._squares = p * p, q * q
        self._q_square_inverse = gmpy2.invert(q * q, p * p)
        self._combs = [
            Comb(h % square, Modulo(square), _bytes_below(order), powers)
            for square, order in zip(self._squares, self._orders, strict=True)
        ]

    def power(self, exponent: bytes) -> Number:
        # One exponent, reduced twice. Two independent ones would be as fast and
        # look as random, but they reach all pairs (h^a mod p^2, h^b mod q^2), and
        # <h> holds only those with a = b modulo the common divisors of p - 1 and
        # q - 1. The peer's masks lie in <h>, so whoever knows p and q could then
        # tell by the coset which row a masked share came from. (The two orders of
        # a subgroup key have no common divisor; one rule serves both.)
        e = mpz.from_bytes(exponent, "little")
        x, y = (
            comb.power((e % order).to_bytes(_bytes_below(order), "little"))
            for comb, order in zip(self._combs, self._orders, strict=True)
        )
        p_square, q_square = self._squares
        return y + q_square * ((x - y) * self._q_square_inverse % p_square)


def encrypt_with(plaintexts: Bytes, obfuscators: Bytes, n: int) -> Bytes:
    """Return (1 + m n) times its obfuscator, uint8 of shape (rows, ciphertexts per row, ciphertext bytes).

    plaintexts : below 2^(bits - 2), else LocalProtocolError.
    obfuscators : one for each plaintext, never used before.
    """
    rows, parts, length = plaintexts.shape
    bits = _bits(n)
    if length != bits // 8 or obfuscators.size != rows * parts * ciphertext_bytes(bits):
        raise LocalProtocolError("plaintexts and obfuscators do not fit one another")
    if np.any(plaintexts[:, :, -1] >> (8 - SPARE_BITS)):
        raise LocalProtocolError("a plaintext is longer than the slots allow")
    modulus, square = mpz(n), mpz(n) ** 2
    pairs = zip(_numbers(plaintexts, "little"), _numbers(obfuscators, "big"), strict=True)
    ciphertexts = _big_endian(((1 + m * modulus) * o % square for m, o in pairs), ciphertext_bytes(bits))
    return ciphertexts.reshape(rows, parts, ciphertext_bytes(bits))


# --- decryption and the third party's step ----------------------------------


class Decryptor:
    """Decrypts under the own key, modulo p^2 and q^2 (Paillier 1999, section 7).

    With a subgroup key the exponents are the two primes of the order of the base
    (section 6): 256 bits instead of half the modulus.
    """

    def __init__(self, keypair: KeyPair) -> None:
        self._n = keypair.n
        self._p, self._q = mpz(keypair.p), mpz(keypair.q)
        self._orders = keypair.orders
        self._p_inverse = gmpy2.invert(self._p, self._q)

    def decrypt(self, ciphertexts: Bytes) -> Bytes:
        """Return the plaintexts, uint8 of shape (rows, ciphertexts per row, bits/8).

        RemoteProtocolError if one is no ciphertext under this key: with a subgroup
        key, also if its obfuscator is outside the group of the base.
        """
        check_ciphertexts(ciphertexts, self._n)
        rows, parts, _ = ciphertexts.shape
        numbers, (of_p, of_q) = _numbers(ciphertexts, "big"), self._orders
        halves = zip(
            _logarithms(numbers, self._p, self._q, of_p), _logarithms(numbers, self._q, self._p, of_q), strict=True
        )
        plaintexts = (x + self._p * ((y - x) * self._p_inverse % self._q) for x, y in halves)
        length = _bits(self._n) // 8
        return _array((m.to_bytes(length, "little") for m in plaintexts), length).reshape(rows, parts, length)


def _logarithms(numbers: list[Number], p: Number, q: Number, order: int) -> list[Number]:
    """Return the plaintexts modulo p: the obfuscator vanishes, c^order = 1 + m q order p modulo p^2."""
    square = p * p
    inverse = gmpy2.invert(q * order, p)
    # As fast as one powmod after the other, but without the interpreter's lock.
    powers = gmpy2.powmod_base_list([c % square for c in numbers], order, square)
    halves = [gmpy2.f_divmod(power - 1, p) for power in powers]
    if any(rest for _, rest in halves):
        raise RemoteProtocolError("the obfuscator of a ciphertext is outside the group of the base")
    return [half * inverse % p for half, _ in halves]


def multiply(left: Bytes, right: Bytes, n: int) -> Bytes:
    """Return the ciphertexts of the sums of the plaintexts, shape as `left` and `right`."""
    if left.shape != right.shape:
        raise LocalProtocolError("arrays of ciphertexts of different shapes")
    square = mpz(n) ** 2
    pairs = zip(_numbers(left, "big"), _numbers(right, "big"), strict=True)
    return _big_endian((x * y % square for x, y in pairs), left.shape[-1]).reshape(left.shape)


# --- checks on ciphertexts --------------------------------------------------


def check_ciphertexts(ciphertexts: Bytes, n: int) -> None:
    """Raise RemoteProtocolError unless each 0 < c < n^2, coprime to n, and obfuscated.

    A ciphertext that is 1 modulo n has no obfuscator: anybody reads it.
    """
    if ciphertexts.shape[-1] != ciphertext_bytes(_bits(n)):
        raise RemoteProtocolError("ciphertexts of wrong length for the key")
    modulus, square = mpz(n), mpz(n) ** 2
    product = mpz(1)
    for c in _numbers(ciphertexts, "big"):
        residue = c % modulus
        if c >= square or residue == 1:
            raise RemoteProtocolError("a ciphertext is out of range or has no obfuscator")
        product = product * residue % modulus
    # One gcd for all: the product shares a factor with n if one of them does (0 shares n).
    if gmpy2.gcd(product, modulus) != 1:
        raise RemoteProtocolError("a ciphertext is not coprime to the modulus")


def residues(ciphertexts: Bytes, n: int) -> Bytes:
    """Return a digest of each ciphertext modulo n, uint8 of shape (count, 16).

    c mod n is r^n mod n: it tells the obfuscator apart whatever the plaintext.
    """
    modulus, length = mpz(n), _bits(n) // 8
    reduced = ((c % modulus).to_bytes(length, "big") for c in _numbers(ciphertexts, "big"))
    return _array((hashlib.blake2b(r, digest_size=RESIDUE_BYTES).digest() for r in reduced), RESIDUE_BYTES)


class DistinctResidues:
    """Finds an obfuscator that was used twice, over all parts of an upload.

    Keeps 16 bytes a ciphertext, in sorted runs of which each is at least twice
    as long as the next, so that a part is compared without sorting everything.
    `error` is raised on a repetition: Remote for received ciphertexts, Local
    for our own before they leave.
    """

    def __init__(self, error: type[PipelineError] = RemoteProtocolError) -> None:
        self._error = error
        self._runs: list[Words] = []

    def add(self, residues: Bytes) -> None:
        """Raise if one of `residues` occurs twice or occurred in an earlier part."""
        new = _sorted(np.ascontiguousarray(residues).view(np.uint64))
        if _repeats(new) or any(_meet(run, new) for run in self._runs):
            raise self._error("two ciphertexts share an obfuscator")
        self._runs.append(new)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs.append(_sorted(np.concatenate([self._runs.pop(), self._runs.pop()])))


def require_distinct(ciphertexts: Bytes, n: int) -> None:
    """Raise RemoteProtocolError unless the ciphertexts are pairwise distinct modulo n."""
    DistinctResidues().add(residues(ciphertexts, n))


def _sorted(pairs: Words) -> Words:
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _repeats(pairs: Words) -> bool:
    return bool(np.any(np.all(pairs[1:] == pairs[:-1], axis=1)))


def _meet(run: Words, new: Words) -> bool:
    at = np.searchsorted(run[:, 0], new[:, 0])
    found = at < len(run)
    # The first eight bytes nearly always decide; where they agree, all sixteen do.
    if not np.any(run[at[found], 0] == new[found, 0]):
        return False
    return _repeats(_sorted(np.concatenate([run, new])))


# --- numbers and bytes ------------------------------------------------------


def _bits(n: int) -> int:
    return int(n).bit_length()


def _bytes_below(limit: Number) -> int:
    return (int(limit - 1).bit_length() + 7) // 8


def _numbers(array: Bytes, order: str) -> list[Number]:
    length, content = array.shape[-1], array.tobytes()
    return [mpz.from_bytes(content[i : i + length], order) for i in range(0, len(content), length)]


def _big_endian(numbers: Iterable[Number], length: int) -> Bytes:
    return _array((number.to_bytes(length, "big") for number in numbers), length)


def _array(rows: Iterable[bytes], length: int) -> Bytes:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, length)
