"""Steps 3 to 6: the operations on ciphertexts, beside phe's, which encrypts one value a ciphertext.

Times are processor time on one core, the best of three rounds, ours and phe's
in turn. A row is what one controller has of a record: half of the features,
and the outcome. phe has no separate encryption for the owner of a key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import phe

from benchmarks.measuring import Figure, Sizes, best, timed
from pipeline.compute import Decrypt, EncryptOwn, EncryptPeer, Workers, cores
from pipeline.matching import match_hashes
from pipeline.messages import HASH_BYTES, Bytes
from pipeline.packing import draw_masks
from pipeline.paillier import Decryptor, KeyPair, OwnEncryptor, PeerEncryptor, check_ciphertexts, multiply, residues

SESSION = bytes(range(32))
KEY_BITS = (2048, 3072)
ROWS = 100
PHE_VALUES = 10  # timed, and multiplied by the number of values in a row

PHE = "phe, a ciphertext for each value"


@dataclass(frozen=True)
class Bench:
    """A key pair, plaintexts and what phe makes of as many values."""

    pair: KeyPair
    rows: int
    width: int

    @cached_property
    def own(self) -> OwnEncryptor:
        return OwnEncryptor(self.pair, SESSION, os.urandom)

    @cached_property
    def peer(self) -> PeerEncryptor:
        return PeerEncryptor(self.pair.encryption_key(SESSION), os.urandom)

    @cached_property
    def plaintexts(self) -> Bytes:
        return draw_masks(self.rows, self.width, self.bits, os.urandom)

    @cached_property
    def ciphertexts(self) -> Bytes:
        return self.own.encrypt(self.plaintexts)

    @cached_property
    def phe_public(self) -> phe.PaillierPublicKey:
        return phe.PaillierPublicKey(self.pair.n)

    @cached_property
    def phe_private(self) -> phe.PaillierPrivateKey:
        return phe.PaillierPrivateKey(self.phe_public, self.pair.p, self.pair.q)

    @cached_property
    def phe_ciphertexts(self) -> list[int]:
        return [self.phe_public.raw_encrypt(value) for value in range(PHE_VALUES)]

    @property
    def bits(self) -> int:
        return self.pair.n.bit_length()

    @property
    def size(self) -> dict[str, int | float]:
        return {"bits": self.bits, "values": self.width}

    def figure(self, part: str, what: str, ours: Callable[[], object], phes: Callable[[], object]) -> Figure:
        """Milliseconds a row; `phes` handles PHE_VALUES values."""
        seconds, baseline = best(ours, phes)
        values = self.width / PHE_VALUES
        return Figure(part, what, self.size, seconds / self.rows * 1e3, "ms a row", baseline * values * 1e3, PHE)

    def once(self, part: str, what: str, call: Callable[[], object]) -> Figure:
        return Figure(part, what, self.size, timed(call), "s, once a run and process")

    def phe_encrypt(self) -> list[int]:
        return [self.phe_public.raw_encrypt(value) for value in range(PHE_VALUES)]

    def phe_decrypt(self) -> list[int]:
        return [self.phe_private.raw_decrypt(c) for c in self.phe_ciphertexts]

    def phe_add(self) -> list[int]:
        return [c * c % self.phe_public.nsquare for c in self.phe_ciphertexts]


def benches(sizes: Sizes) -> Iterator[Bench]:
    for bits in sizes.keys(*KEY_BITS):
        yield Bench(KeyPair.generate(bits), min(sizes.rows(ROWS), ROWS), sizes.columns() // 2 + 1)


def own_encryption(sizes: Sizes) -> Iterator[Figure]:
    """A controller encrypts its rows under its own key; then the same by all worker processes."""
    part = "own-encryption"
    for bench in benches(sizes):
        yield bench.once(part, "tables for the own key", lambda bench=bench: bench.own)
        yield bench.figure(part, "encrypt a row", partial(bench.own.encrypt, bench.plaintexts), bench.phe_encrypt)
        yield by_workers(part, bench, EncryptOwn(SESSION), bench.plaintexts)


def mask_encryption(sizes: Sizes) -> Iterator[Figure]:
    """A controller encrypts masks under the other's key."""
    part = "mask-encryption"
    for bench in benches(sizes):
        yield bench.once(part, "tables for the other's key", lambda bench=bench: bench.peer)
        yield bench.figure(
            part,
            "encrypt the masks of a row",
            lambda bench=bench: bench.peer.encrypt(bench.plaintexts),
            bench.phe_encrypt,
        )
        yield by_workers(part, bench, EncryptPeer(bench.pair.encryption_key(SESSION)), bench.plaintexts)


def decryption(sizes: Sizes) -> Iterator[Figure]:
    """A controller decrypts its masked rows."""
    part = "decryption"
    for bench in benches(sizes):
        decryptor = Decryptor(bench.pair)
        yield bench.figure(part, "decrypt a row", partial(decryptor.decrypt, bench.ciphertexts), bench.phe_decrypt)
        yield by_workers(part, bench, Decrypt(), bench.ciphertexts)


def third_party(sizes: Sizes) -> Iterator[Figure]:
    """The third party inspects what it receives, matches hashes, and multiplies rows and masks."""
    part = "third-party"
    for bench in benches(sizes):
        n, ciphertexts = bench.pair.n, bench.ciphertexts

        def inspect(ciphertexts: Bytes = ciphertexts, n: int = n) -> Bytes:
            check_ciphertexts(ciphertexts, n)
            return residues(ciphertexts, n)

        (seconds,) = best(inspect)
        yield Figure(part, "inspect a row", bench.size, seconds / bench.rows * 1e3, "ms a row")
        yield bench.figure(
            part, "multiply a row and its masks", partial(multiply, ciphertexts, ciphertexts, n), bench.phe_add
        )
    yield match(sizes.rows(100_000))


def match(rows: int) -> Figure:
    """Two tables of hashes, half of which are in both."""
    hashes = np.frombuffer(os.urandom(rows * 3 // 2 * HASH_BYTES), np.uint8).reshape(-1, HASH_BYTES)
    left, right = hashes[:rows], hashes[-rows:]
    ours, plain = best(lambda: match_hashes(left, right), lambda: match_by_dictionary(left, right))
    return Figure(
        "third-party", "match two tables", {"rows": rows}, ours * 1e3, "ms", plain * 1e3, "a dictionary of Python"
    )


def match_by_dictionary(left: Bytes, right: Bytes) -> list[tuple[int, int]]:
    places = {row.tobytes(): place for place, row in enumerate(left)}
    found = ((places.get(row.tobytes()), place) for place, row in enumerate(right))
    return [(first, second) for first, second in found if first is not None]


def by_workers(part: str, bench: Bench, task: Any, rows: Bytes) -> Figure:
    """Wall clock: all worker processes a run would have, beside this process alone, on four times the rows."""
    array = np.concatenate([rows] * 4)
    times = []
    for start in (partial(Workers.spawn, cores(), bench.pair), partial(Workers.here, bench.pair, os.urandom)):
        with start() as workers:
            for _ in workers.map_parts(task, [array]):  # builds the tables
                pass
            times += best(lambda workers=workers: list(workers.map_parts(task, [array])), clock=time.perf_counter)
    rate, alone = (seconds / len(array) * 1e3 for seconds in times)
    what = f"the same by {cores()} worker processes"
    return Figure(part, what, bench.size, rate, "ms a row", alone, "one process")
