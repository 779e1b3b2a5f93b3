"""Step 2: keyed hashes of identifiers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

from benchmarks.measuring import Figure, Sizes, best
from pipeline.keyed_hash import keyed_hashes


def keyed_hash(sizes: Sizes) -> Iterator[Figure]:
    """One core; the baseline hashes without a key, which a dictionary undoes."""
    rows, key = sizes.rows(100_000), os.urandom(32)
    identifiers = [(f"{number:09d}",) for number in range(rows)]
    ours, plain = best(
        lambda: keyed_hashes(key, identifiers),
        lambda: [sha256(name.encode()).digest() for (name,) in identifiers],
    )
    micro = 1e6 / rows
    yield Figure(
        "keyed-hash",
        "keyed hash of an identifier",
        {"rows": rows},
        ours * micro,
        "µs",
        plain * micro,
        "SHA-256 without a key",
    )
