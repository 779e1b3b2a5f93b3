"""Measures what the pipeline costs; see `python -m benchmarks --help` and docs/performance.md."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))  # the tests' tools for making studies and running three parties serve here as well

# One BLAS thread a process, as in a run: three parties share the machine, and waiting threads of theirs would spin.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
