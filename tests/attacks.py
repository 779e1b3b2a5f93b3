"""What a controller that knows its own primes would compute to recognise its rows.

Works on numbers. The n-th residues modulo n^2 are isomorphic to the units
modulo n by reduction, so everything here happens modulo n.
"""

from __future__ import annotations

import json
from pathlib import Path

import gmpy2
import numpy as np

from pipeline.messages import Bytes
from pipeline.paillier import KeyPair

VECTORS = Path(__file__).parent / "vectors"
PRIMES_TRIED = 1 << 10


def shared_divisor_key() -> KeyPair:
    """Return a key of 512 bits whose p - 1 and q - 1 share the divisor 1021020: <h> misses most of the group."""
    vector = json.loads((VECTORS / "paillier.json").read_text())
    return KeyPair(int(vector["p"]), int(vector["q"]))


def numbers(ciphertexts: Bytes) -> list[int]:
    """Return an array of ciphertexts, or of any big-endian rows, as integers."""
    return [int.from_bytes(row.tobytes(), "big") for row in ciphertexts.reshape(-1, ciphertexts.shape[-1])]


def array(values: list[int], n: int) -> Bytes:
    """Return integers as an array of ciphertexts, one a row."""
    length = 2 * n.bit_length() // 8
    return np.frombuffer(b"".join(v.to_bytes(length, "big") for v in values), np.uint8).reshape(-1, 1, length)


def is_residue(x: int, pair: KeyPair) -> bool:
    """Tell whether x is an n-th residue modulo n^2, as every encryption of 0 is."""
    return pow(x, (pair.p - 1) * (pair.q - 1), pair.n**2) == 1


def in_group(x: int, h: int, pair: KeyPair) -> bool:
    """Tell whether x lies in <h> modulo n, as far as primes below 1024 can tell; for a subgroup key, exactly.

    Sylow subgroup by Sylow subgroup: raised to the power that removes all other
    primes, x must be among the powers of h. A larger prime divides at most one
    of p - 1 and q - 1 of the keys here, and h misses its subgroup too rarely to
    matter.
    """
    if pair.subgroup is not None:
        # The only subgroups of these orders; h generates their product.
        return pow(x, pair.subgroup.of_p, pair.p) == 1 == pow(x, pair.subgroup.of_q, pair.q)
    order = (pair.p - 1) * (pair.q - 1)
    prime = 2
    while prime < PRIMES_TRIED:
        cofactor, exponent = gmpy2.remove(order, prime)
        if exponent and not _is_power(pow(x, int(cofactor), pair.n), pow(h, int(cofactor), pair.n), pair.n):
            return False
        prime = int(gmpy2.next_prime(prime))
    return True


def _is_power(x: int, h: int, n: int) -> bool:
    power = 1
    while power != x:
        power = power * h % n
        if power == 1:
            return False
    return True


def rows_by_residue(masked: int, own_rows: list[int], n: int) -> list[int]:
    """Return the own rows that `masked` may come from if the mask was added in plaintext."""
    return [i for i, row in enumerate(own_rows) if row % n == masked % n]


def rows_by_coset(masked: int, own_rows: list[int], h: int, pair: KeyPair) -> list[int]:
    """Return the own rows that `masked` may come from if its mask was obfuscated by a power of h."""
    n = pair.n
    return [i for i, row in enumerate(own_rows) if in_group(masked * pow(row, -1, n) % n, h, pair)]
