"""Step 8 by three processes over local sockets, without the transport: how long each stage takes, and how many rounds.

The input are shares of the Gram matrix, so the number of records hardly
matters. The baselines are MPyC's own arrays and lists (`stock_mpyc.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lassos import deal, deal_folds, reference, strongest_penalty, table
from mpc_processes import PARTIES, run_three

from benchmarks import ROOT
from benchmarks.measuring import Figure, Sizes
from pipeline.config import Model, Open
from pipeline.mpc_runtime import Runtime
from pipeline.primitives import Arithmetic
from pipeline.problem import Problem
from pipeline.secure_analysis import Fit, SecureAnalysis, sizes_of
from pipeline.share_convert import GramShare

PENALTY = 0.05  # of the smallest penalty that removes everything
STAGES = {
    "standardisation": ("moments", "standardise", "penalties_and_first_step"),
    "solver": ("solve",),
    "of it inverses, polish, certificate": ("polish", "conditions_hold"),
    "choice and opening": ("choose", "open_results"),
}
KINDS = {
    "independent": "independent features",
    "neighbours": "correlated features (0.9 between neighbours)",
    "common": "equally correlated features (0.9)",
    "pairs": "pairs of features (0.99)",
}
PENALTIES = 50
FOLDS = 10
WEAKEST = 1e-3  # of the strongest
FINE = 1e-8  # tolerance of the comparison of tables
LIST_RECORDS = 20


@dataclass(frozen=True)
class Timing:
    """What one party noted; seconds and rounds by the names of STAGES."""

    fits: list[Fit]
    whole: float
    cpu: float
    rounds: int
    seconds: Counter[str]
    stage_rounds: Counter[str]


class TimedLasso(SecureAnalysis):
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
    sizes = sizes_of(problem, gram.records)
    peers = [i for i in range(PARTIES) if i != runtime.pid]
    await runtime.supervise(runtime.exchange("ready", dict.fromkeys(peers, b""), dict.fromkeys(peers, 0)))
    solver = TimedLasso(Arithmetic(runtime, sizes.solver_field, sizes.statistical_bits), sizes, gram, problem)
    start, rounds, cpu = time.perf_counter(), runtime.rounds, time.process_time()
    analysis = await runtime.supervise(solver.fit(lambda _: None))
    whole, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Timing(list(analysis.fits), whole, cpu, runtime.rounds - rounds, solver.seconds, solver.rounds)


def lasso(sizes: Sizes) -> Iterator[Figure]:
    """The stages of a fit, one iteration beside MPyC's arrays and lists, and four kinds of tables."""
    rows, d = sizes.rows(5_000), sizes.columns()
    size: dict[str, int | float] = {"rows": rows, "features": d}
    for kind, words in KINDS.items():
        x, y = table(kind, rows, d)
        timing = measure(x, y, Model(alpha=strongest_penalty(x, y, PENALTY), tolerance=FINE))
        iterations = f"s, {timing.rounds} rounds, {timing.fits[0].iterations} iterations"
        yield Figure("lasso", f"step 8, {words}", size, timing.whole, iterations)
        apart = difference(timing.fits[0], x, y, Model(alpha=strongest_penalty(x, y, PENALTY)))
        yield Figure("lasso", f"difference from scikit-learn, {words}", size, apart, "sd")
    x, y = table("independent", rows, d)
    timing = measure(x, y, Model(alpha=strongest_penalty(x, y, PENALTY)))
    for stage in STAGES:
        yield Figure("lasso", stage, size, timing.seconds[stage], f"s, {timing.stage_rounds[stage]} rounds")
    yield Figure("lasso", "processor time of a party", size, timing.cpu, "s CPU")
    inner = timing.seconds["solver"] - timing.seconds["of it inverses, polish, certificate"]
    iteration = inner / timing.fits[0].iterations
    arrays = stock("arrays", rows, d)
    yield Figure("lasso", "an iteration", {"features": d}, iteration * 1e3, "ms", arrays * 1e3, "MPyC's arrays")
    few = min(rows, LIST_RECORDS)
    lists = stock("lists", few, d)
    size = {"rows": few, "features": d}
    yield Figure(
        "lasso", "an iteration", size, iteration * 1e3, "ms", lists * 1e3, "MPyC's lists, descent over all rows"
    )


def path(sizes: Sizes) -> Iterator[Figure]:
    """Many penalties in the same rounds."""
    rows, d = sizes.rows(5_000), sizes.columns()
    x, y = table("independent", rows, d)
    strongest = strongest_penalty(x, y, 1.0)
    alphas = tuple(np.geomspace(strongest, strongest * WEAKEST, PENALTIES).tolist())
    timing = measure(x, y, Model(alpha=strongest), alphas)
    size: dict[str, int | float] = {"rows": rows, "features": d, "penalties": PENALTIES}
    yield Figure("path", "step 8", size, timing.whole, f"s, {timing.rounds} rounds")
    yield Figure("path", "processor time of a party", size, timing.cpu, "s CPU")
    apart = max(difference(f, x, y, Model(alpha=a)) for f, a in zip(timing.fits, alphas, strict=True))
    yield Figure("path", "largest difference from scikit-learn", size, apart, "sd")


def folds(sizes: Sizes) -> Iterator[Figure]:
    """A path in each of ten folds and one over all records, and the choice among the penalties."""
    rows, d = sizes.rows(5_000), sizes.columns()
    for kind in ("independent", "neighbours"):
        x, y = table(kind, rows, d)
        strongest = strongest_penalty(x, y, 1.0)
        alphas = tuple(np.geomspace(strongest, strongest * WEAKEST, PENALTIES).tolist())
        model = Model(alpha=0.0, alphas=alphas, folds=FOLDS, rule="1se")
        timing = slowest(run_three(fit, deal_folds(x, y, model, opened=Open(cv_curve=True)), timeout=900))
        size: dict[str, int | float] = {"rows": rows, "features": d, "penalties": PENALTIES, "folds": FOLDS}
        words = f"s, {timing.rounds} rounds, {timing.fits[0].iterations} iterations"
        yield Figure("folds", f"step 8, {KINDS[kind]}", size, timing.whole, words)
        yield Figure("folds", f"processor time of a party, {KINDS[kind]}", size, timing.cpu, "s CPU")


def measure(x: Any, y: Any, model: Model, alphas: tuple[float, ...] = ()) -> Timing:
    """The slowest party's timing; raises what a party raised."""
    return slowest(run_three(fit, [(gram, replace(problem, alphas=alphas)) for gram, problem in deal(x, y, model)]))


def slowest(timings: Sequence[Any]) -> Timing:
    """That of the controller who took longest; raises what a party raised."""
    for timing in timings:
        if isinstance(timing, BaseException):
            raise timing
    longest: Timing = max(timings[:2], key=lambda timing: timing.whole)
    return longest


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
