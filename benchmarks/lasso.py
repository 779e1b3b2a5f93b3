"""Step 8 by three processes over local sockets, without the transport: how long each stage takes, and how many rounds.

The input are shares of the Gram matrix, so the number of records hardly
matters. The baselines are MPyC's own arrays and lists (`stock_mpyc.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from lassos import deal, reference, strongest_penalty, table
from mpc_processes import run_three

from benchmarks import ROOT
from benchmarks.measuring import Figure, Sizes
from pipeline.bounds import plan
from pipeline.config import Model
from pipeline.mpc_runtime import Runtime
from pipeline.primitives import Arithmetic
from pipeline.secure_lasso import Fit, Problem, SecureLasso
from pipeline.share_convert import GramShare

PENALTY = 0.05  # of the smallest penalty that removes everything
STAGES = {
    "standardisation": (
        "moments",
        "scales",
        "refuse_constant_outcome",
        "refuse_small_spread",
        "correlations",
        "thresholds",
    ),
    "solver": ("solve",),
    "of it inverses, polish, certificate": ("x_step", "polish", "conditions_hold"),
    "opening": ("slopes", "unexplained", "open_results"),
}
KINDS = {"independent": "independent features", "neighbours": "correlated features (0.9 between neighbours)"}
LIST_RECORDS = 20


@dataclass(frozen=True)
class Timing:
    """What one party noted; seconds and rounds by the names of STAGES."""

    fit: Fit
    whole: float
    rounds: int
    seconds: Counter[str]
    stage_rounds: Counter[str]


class TimedLasso(SecureLasso):
    """Notes the clock and the rounds around each stage."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds: Counter[str] = Counter()
        self.rounds: Counter[str] = Counter()
        for stage, names in STAGES.items():
            for name in names:
                setattr(self, name, self._noted(stage, getattr(self, name)))

    def _noted(self, stage: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def noted(*arguments: Any) -> Any:
            start, rounds = time.perf_counter(), self.mpc.runtime.rounds
            result = await method(*arguments)
            self.seconds[stage] += time.perf_counter() - start
            self.rounds[stage] += self.mpc.runtime.rounds - rounds
            return result

        return noted


async def fit(runtime: Runtime, gram: GramShare, problem: Problem) -> Timing:
    """One party's part."""
    model = problem.model
    sizes = plan(gram.records, problem.features, fit_intercept=model.fit_intercept, max_iterations=model.max_iterations)
    solver = TimedLasso(Arithmetic(runtime, sizes.solver_field, sizes.statistical_bits), sizes, gram, problem)
    start, rounds = time.perf_counter(), runtime.rounds
    result = await runtime.supervise(solver.fit(lambda _: None))
    return Timing(result, time.perf_counter() - start, runtime.rounds - rounds, solver.seconds, solver.rounds)


def lasso(sizes: Sizes) -> Iterator[Figure]:
    """Stages for two kinds of tables, then the iteration beside MPyC's arrays and lists."""
    rows, d = sizes.rows(5_000), sizes.columns()
    iteration = 0.0
    for kind, words in KINDS.items():
        x, y = table(kind, rows, d)
        model = Model(alpha=strongest_penalty(x, y, PENALTY))
        timing = measure(x, y, model)
        size: dict[str, int | float] = {"rows": rows, "features": d}
        yield Figure("lasso", f"step 8, {words}", size, timing.whole, "s")
        for stage in STAGES:
            yield Figure("lasso", stage, size, timing.seconds[stage], f"s, {timing.stage_rounds[stage]} rounds")
        yield Figure("lasso", "rounds", size, timing.rounds, f"for {timing.fit.iterations} iterations")
        yield Figure("lasso", "largest difference from scikit-learn", size, difference(timing.fit, x, y, model), "sd")
        inner = timing.seconds["solver"] - timing.seconds["of it inverses, polish, certificate"]
        iteration = inner / timing.fit.iterations
    arrays = stock("arrays", rows, d)
    yield Figure("lasso", "an iteration", {"features": d}, iteration * 1e3, "ms", arrays * 1e3, "MPyC's arrays")
    few = min(rows, LIST_RECORDS)
    lists = stock("lists", few, d)
    size = {"rows": few, "features": d}
    yield Figure(
        "lasso", "an iteration", size, iteration * 1e3, "ms", lists * 1e3, "MPyC's lists, descent over all rows"
    )


def measure(x: Any, y: Any, model: Model) -> Timing:
    """The slowest party's timing; raises what a party raised."""
    timings = run_three(fit, deal(x, y, model))
    for timing in timings:
        if isinstance(timing, BaseException):
            raise timing
    slowest: Timing = max(timings[:2], key=lambda timing: timing.whole)
    return slowest


def difference(fitted: Fit, x: Any, y: Any, model: Model) -> float:
    """In standard deviations of the outcome per one of the feature."""
    expected = reference(x, y, model).coefficients
    return float(np.max(np.abs(np.array(fitted.coefficients) - expected) * x.std(0) / y.std()))


def stock(way: str, records: int, d: int) -> float:
    """Seconds an iteration takes MPyC with three processes on this machine."""
    script = ROOT / "benchmarks" / "stock_mpyc.py"
    command = [sys.executable, str(script), way, str(records), str(d), "-M3", "--no-log"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return float(ended.stdout.split()[-1])
