"""SPU beside our steps 7 and 8, on the same table, in the same run.

    python -m benchmarks.spu [--size N] [--features D] [--iterations K] [--json FILE]

Makes an environment with SPU from the package index. SPU gets shares of the
table, standardised in the clear, and the step size; it has no hidden join and
does not test for convergence. Ours standardises on the shares and stops when
the optimality conditions hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lassos import reference, strongest_penalty, table

from benchmarks import lasso, sharing
from benchmarks.__main__ import console, save, show
from benchmarks.environments import ALONE, FOLDER, python_with
from benchmarks.measuring import Figure
from pipeline.config import Model
from pipeline.local_study import free_ports

HERE = Path(__file__).parent
SPU = ("spu==0.9.5", "numpy<2")
LIMIT_SECONDS = 3600


def measure(rows: int, features: int, iterations: int, folder: Path) -> Iterator[Figure]:
    x, y = table("independent", rows, features)
    model = Model(alpha=strongest_penalty(x, y, lasso.PENALTY))
    theirs = run(python_with("spu", *SPU, folder=folder), x, y, model, iterations)
    expected = reference(x, y, model).coefficients * x.std(0)
    difference = float(np.max(np.abs(np.array(theirs["coefficients"]) - expected)) / y.std())
    shared = max(result[0] for result in sharing.run(sharing.setting_for(rows, features + 1)))
    ours = lasso.measure(x, y, model)
    size: dict[str, int | float] = {"rows": rows, "features": features}
    words = f"SPU 0.9.5, ABY3, 128 bits, {iterations} iterations"
    yield Figure("spu", "steps 7 and 8", size, shared + ours.whole, "s", theirs["seconds"], words)
    precision = lasso.difference(ours.fits[0], x, y, model)
    yield Figure("spu", "largest difference from scikit-learn", size, precision, "sd", difference, words)


def run(python: Path, x: Any, y: Any, model: Model, iterations: int) -> dict[str, Any]:
    root = len(x) ** 0.5
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, x=(x - x.mean(0)) / x.std(0) / root, y=(y - y.mean()) / root, alpha=model.alpha)
        file.flush()
        ports = [str(port) for port in free_ports(3)]
        command = [str(python), str(HERE / "fit.py"), file.name, str(iterations), *ports]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS, env=ALONE)
    printed: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return printed


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=5000, metavar="N", help="records (5000)")
    parser.add_argument("--features", type=int, default=30, metavar="D")
    parser.add_argument("--iterations", type=int, default=100, metavar="K", help="of SPU's solver (100)")
    parser.add_argument("--environments", type=Path, default=FOLDER, metavar="DIR", help="where to make it")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    figures = list(measure(options.size, options.features, options.iterations, options.environments))
    show(console(), figures)
    if options.json:
        command = (
            f"python -m benchmarks.spu --size {options.size} --features {options.features}"
            f" --iterations {options.iterations}"
        )
        save(options.json, command, figures)


if __name__ == "__main__":
    main()
