"""The pilot's published software beside ours, on the same tables, in the same run.

    python -m benchmarks.pilot [--size 50 100] [--features D] [--bits B] [--extrapolate N] [--json FILE]

Makes two environments from the package index, for the pilot's join and for its
lasso, which cannot share one, and runs three players of each over localhost as
the packages' own examples do. Each encrypts every value by itself and passes
over all records in each iteration, so seconds are linear in the records: a
line through the two sizes gives an estimate at a size nobody waits for. It is
marked as such; ours is measured there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from lassos import reference, strongest_penalty, table

from benchmarks import parties
from benchmarks.__main__ import console, save, show
from benchmarks.environments import ALONE, FOLDER, python_with
from benchmarks.measuring import Figure
from pipeline.config import Model
from pipeline.local_study import free_ports

HERE = Path(__file__).parent
JOIN = ("tno.mpc.protocols.secure_inner_join[gmpy]==2.0.2", "tno.mpc.encryption_schemes.utils[gmpy]==0.15.0")
LASSO = ("tno.mpc.mpyc.secure_learning[gmpy]==1.1.1", "numpy<2")
PLAYERS = ("alice", "bob", "henri")
ITERATIONS = 100  # at most; the default of its package
LIMIT_SECONDS = 7200
CLOSE = 1e-6  # its join rounds to eight decimals


@dataclass(frozen=True)
class Pilot:
    """What the pilot's software took. difference : from scikit-learn, in standard deviations."""

    join: float
    lasso: float
    iterations: int
    difference: float

    @property
    def iteration(self) -> float:
        return self.lasso / self.iterations


def run(rows: int, features: int, bits: int, folder: Path) -> Pilot:
    """Both programs on the table that `parties.run` uses for this size."""
    x, y = table("neighbours", rows, features)
    join = run_join(python_with("pilot-join", *JOIN, folder=folder), x, y, bits)
    fitted = run_lasso(python_with("pilot-lasso", *LASSO, folder=folder), x, y)
    model = Model(alpha=strongest_penalty(x, y, parties.PENALTY))
    expected = reference(x, y, model).coefficients * x.std(0)
    difference = float(np.max(np.abs(np.array(fitted["coefficients"][1:]) - expected)) / y.std())
    return Pilot(join, fitted["seconds"], fitted["iterations"], difference)


def run_join(python: Path, x: Any, y: Any, bits: int) -> float:
    """The slowest player's seconds; the sums of the shares must be the joined table."""
    half = x.shape[1] // 2
    names = [f"{number:09d}" for number in range(len(x))]
    halves = {"alice": np.column_stack([x[:, :half], y]), "bob": x[:, half:]}
    rows = {
        player: [[n, *values] for n, values in zip(names, part.tolist(), strict=True)]
        for player, part in halves.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        tables = Path(folder) / "tables.json"
        tables.write_text(json.dumps(rows), encoding="utf-8")
        results = {player: Path(folder) / f"{player}.json" for player in PLAYERS}
        ports = [str(port) for port in free_ports(len(PLAYERS))]
        script = [str(python), str(HERE / "join_party.py")]
        started = [
            subprocess.Popen(
                [*script, player, str(tables), str(results[player]), str(bits), *ports],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ALONE,
            )
            for player in PLAYERS
        ]
        try:
            for process in started:
                process.wait(LIMIT_SECONDS)
        finally:
            for process in started:
                process.kill()
                process.wait()
        ended = {player: json.loads(results[player].read_text(encoding="utf-8")) for player in PLAYERS}
    shares = (np.vectorize(Fraction, otypes=[object])(ended[player]["shares"]) for player in PLAYERS[:2])
    joined = sum(shares).astype(float)
    expected = np.column_stack([halves["alice"], halves["bob"]])
    assert np.abs(joined[joined[:, 0].argsort()] - expected[expected[:, 0].argsort()]).max() < CLOSE, "a wrong join"
    return float(max(ended[player]["seconds"] for player in PLAYERS))


def run_lasso(python: Path, x: Any, y: Any) -> dict[str, Any]:
    """What party 0 printed."""
    scaled, centred = (x - x.mean(0)) / x.std(0), y - y.mean()
    content = {"x": scaled.tolist(), "y": centred.tolist(), "alpha": strongest_penalty(x, y, parties.PENALTY)}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(content, file)
        file.flush()
        command = [str(python), str(HERE / "lasso_party.py"), file.name, str(ITERATIONS), "-M3", "--no-log"]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS, env=ALONE)
    printed: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return printed


def measure(sizes: Sequence[int], features: int, bits: int, extrapolate: int, folder: Path) -> Iterator[Figure]:
    measured = {}
    for rows in sizes:
        pilot = measured[rows] = run(rows, features, bits, folder)
        yield from beside(rows, features, bits, pilot, "the pilot's software")
    if extrapolate and len(measured) > 1:
        first, *_, last = sorted(measured)
        iterations = measured[last].iterations
        guess = Pilot(
            line((first, measured[first].join), (last, measured[last].join), extrapolate),
            iterations * line((first, measured[first].iteration), (last, measured[last].iteration), extrapolate),
            iterations,
            float("nan"),
        )
        words = f"the pilot's software, EXTRAPOLATED from {first} and {last} records"
        yield from beside(extrapolate, features, bits, guess, words)


def beside(rows: int, features: int, bits: int, pilot: Pilot, words: str) -> Iterator[Figure]:
    ours = parties.run(parties.Setup(rows, features, bits))
    size = {"rows": rows, "features": features, "bits": bits}
    yield Figure("pilot", "steps 2 to 6, the join", size, ours.steps["join"], "s", pilot.join, words)
    fit = ours.steps["share"] + ours.steps["lasso"]
    its = f"{words}, lasso alone, {pilot.iterations} iterations"
    yield Figure("pilot", "steps 7 and 8, sharing and lasso", size, fit, "s", pilot.lasso, its)
    if not np.isnan(pilot.difference):
        what = "largest difference from scikit-learn"
        yield Figure("pilot", what, size, ours.difference, "sd", pilot.difference, words)


def line(first: tuple[int, float], last: tuple[int, float], at: int) -> float:
    (x0, y0), (x1, y1) = first, last
    return y0 + (y1 - y0) / (x1 - x0) * (at - x0)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pilot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs="+", default=[50, 100], metavar="N", help="records (50 100)")
    parser.add_argument("--features", type=int, default=30, metavar="D")
    parser.add_argument("--bits", type=int, default=2048, metavar="B")
    parser.add_argument("--extrapolate", type=int, default=5000, metavar="N", help="0 for not at all (5000)")
    parser.add_argument("--environments", type=Path, default=FOLDER, metavar="DIR", help="where to make them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    figures = list(measure(options.size, options.features, options.bits, options.extrapolate, options.environments))
    show(console(), figures)
    if options.json:
        numbers = " ".join(map(str, options.size))
        command = (
            f"python -m benchmarks.pilot --size {numbers} --features {options.features} --bits {options.bits}"
            f" --extrapolate {options.extrapolate}"
        )
        save(options.json, command, figures)


if __name__ == "__main__":
    sys.exit(main())
