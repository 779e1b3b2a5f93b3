"""A whole run of three parties over TLS, in every respect."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measuring import Figure, Sizes
from benchmarks.parties import NAMES, Setup, run

PART = "end-to-end"
STEP_WORDS = {
    "prepare": "step 1, reading and encoding",
    "join": "steps 2 to 6, the join",
    "share": "step 7, Shamir shares and Gram matrix",
    "lasso": "step 8, the lasso",
}


def end_to_end(sizes: Sizes) -> Iterator[Figure]:
    """All records are in both tables, which is the most work for tables of a size."""
    for bits, keys in ((bits, keys) for bits in sizes.keys(2048, 3072) for keys in ("standard", "subgroup")):
        setup = Setup(sizes.rows(5_000), sizes.columns(), bits, keys=keys)
        measured = run(setup)
        size = {"rows": setup.rows, "features": setup.features, f"bits, {keys} keys": bits}
        yield Figure(PART, "whole run, from start to end of all processes", size, measured.wall, "s")
        for step, words in STEP_WORDS.items():
            yield Figure(PART, words, size, measured.steps[step], "s")
        yield Figure(PART, "processor time of all parties together", size, measured.cpu, "s CPU")
        for name, memory, sent in zip(NAMES, measured.memory, measured.sent, strict=True):
            yield Figure(PART, f"peak memory of all processes of {name}", size, memory, "MiB")
            yield Figure(PART, f"sent by {name}", size, sent / 1e6, "MB")
        yield Figure(PART, "rounds of step 8", size, measured.rounds, f"for {measured.iterations} iterations")
        yield Figure(PART, "largest difference from scikit-learn", size, measured.difference, "sd")
