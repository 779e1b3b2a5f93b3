"""The same study with the parties apart: every byte passes a relay that delays it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measuring import Figure, Sizes
from benchmarks.parties import Setup, run

ROUND_TRIPS = (0, 10, 20, 50)  # milliseconds


def distance(sizes: Sizes) -> Iterator[Figure]:
    """Step 8 waits in every round; the join sends much in few messages."""
    for milliseconds in ROUND_TRIPS:
        setup = Setup(sizes.rows(250), sizes.columns(), sizes.bits or 2048, milliseconds / 1e3)
        measured = run(setup)
        size = {"ms round trip": milliseconds, "rows": setup.rows, "features": setup.features}
        rounds = f"s, {measured.rounds} rounds"
        yield Figure("distance", "step 8, the lasso", size, measured.steps["lasso"], rounds)
        yield Figure("distance", "steps 2 to 6, the join", size, measured.steps["join"], "s")
