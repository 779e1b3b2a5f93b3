"""How the cost of a run grows with records, features and key bits: whole runs on three lines through one point."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.end_to_end import STEP_WORDS
from benchmarks.measuring import Figure, Sizes
from benchmarks.parties import Setup, run

LARGEST_ROWS = 4_000
FEATURES = (10, 60, 100)
KEY_BITS = (3072, 4096)


def setups(sizes: Sizes) -> list[Setup]:
    """The point comes first."""
    largest, d, bits = sizes.rows(LARGEST_ROWS), sizes.columns(), sizes.bits or 2048
    rows = largest // 16
    line = [Setup(n, d, bits) for n in (largest // 16, largest // 4, largest)]
    line += [Setup(rows, features, bits) for features in FEATURES if features != d]
    return line + [Setup(rows, d, wider) for wider in KEY_BITS if wider > bits]


def scaling(sizes: Sizes) -> Iterator[Figure]:
    for setup in setups(sizes):
        measured = run(setup)
        size = {"rows": setup.rows, "features": setup.features, "bits": setup.bits}
        yield Figure("scaling", "whole run", size, measured.wall, "s")
        for step, words in STEP_WORDS.items():
            if step != "prepare":
                yield Figure("scaling", words, size, measured.steps[step], "s")
