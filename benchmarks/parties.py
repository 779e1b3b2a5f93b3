"""A whole run by three processes over TLS, on tables made for it: what it took, in every respect."""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from lassos import reference, strongest_penalty, table
from numpy.typing import NDArray
from running import PARTIES, Ended, Running
from studies import HOST, make_study

from benchmarks.relay import Relay
from pipeline.config import Model
from pipeline.local_study import free_ports

PENALTY = 0.05  # of the smallest penalty that removes everything
POLL_SECONDS = 0.1
LIMIT_SECONDS = 3600.0
STEPS = ("prepare", "join", "share", "lasso")
NAMES = ("controller 0", "controller 1", "third party")


@dataclass(frozen=True)
class Setup:
    """The study to run. round_trip : seconds between any two parties; None without a relay."""

    rows: int
    features: int
    bits: int
    round_trip: float | None = None
    keys: str = "standard"


@dataclass(frozen=True)
class Run:
    """What a run took.

    steps : seconds of the slowest party, by the names in STEPS.
    cpu : seconds, of all parties and their children together.
    memory : largest sum of resident MiB in the process tree, by party; pages that processes share count in each.
    sent : bytes, by party.
    difference : from scikit-learn, in standard deviations.
    """

    wall: float
    steps: dict[str, float]
    cpu: float
    memory: tuple[float, ...]
    sent: tuple[int, ...]
    rounds: int
    iterations: int
    difference: float


def run(setup: Setup) -> Run:
    """Make the tables, run the parties, check the model against scikit-learn."""
    x, y = table("neighbours", setup.rows, setup.features)
    model = Model(alpha=strongest_penalty(x, y, PENALTY))
    with tempfile.TemporaryDirectory() as folder:
        inside, outside = free_ports(3), free_ports(3)
        far = setup.round_trip is not None
        study = make_study(
            Path(folder),
            hospital_csv=_csv(x[:, : setup.features // 2], y),
            insurer_csv=_csv(x[::-1, setup.features // 2 :]),
            model={"alpha": model.alpha},
            join={"paillier_bits": setup.bits, "keys": setup.keys},
            insurer={"identifier": ["id"]},
            ports=outside if far else inside,
            local={party: {"listen": f"{HOST}:{inside[party]}"} for party in PARTIES},
        )
        relay = Relay(dict(zip(outside, inside, strict=True)), setup.round_trip) if far else nullcontext()
        before, start = _cpu(), time.monotonic()
        with relay, Running(study, wait=LIMIT_SECONDS) as running:
            memory = MemoryWatch([running.start(party).processes[party].pid for party in PARTIES])
            ended = running.ends(LIMIT_SECONDS)
        wall, cpu = time.monotonic() - start, _cpu() - before
        results = [_result(ended[party]) for party in PARTIES]
    fitted = np.array(list(results[0]["coefficients"].values()))
    expected = reference(x, y, model).coefficients
    return Run(
        wall,
        {step: max(result["seconds"].get(step, 0.0) for result in results) for step in STEPS},
        cpu,
        memory.stop(),
        tuple(result["sent_bytes"] for result in results),
        results[0]["rounds"],
        results[0]["iterations"],
        float(np.max(np.abs(fitted - expected) * x.std(0) / y.std())),
    )


class MemoryWatch:
    """Asks every POLL_SECONDS how large each process tree is."""

    def __init__(self, processes: list[int]) -> None:
        self._trees = [psutil.Process(number) for number in processes]
        self._peaks = [0] * len(processes)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, ...]:
        """The peaks, in MiB."""
        self._over.set()
        self._thread.join()
        return tuple(peak / 2**20 for peak in self._peaks)

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._peaks = [max(peak, _resident(tree)) for peak, tree in zip(self._peaks, self._trees, strict=True)]


def _resident(tree: Any) -> int:
    total = 0
    try:
        for process in [tree, *tree.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.Error:  # one has just ended
        return 0
    return total


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _result(ended: Ended) -> dict[str, Any]:
    if ended.result is None:
        raise RuntimeError(f"a party ended with state {ended.state}: {ended.last_line}")
    return ended.result


def _csv(features: NDArray[np.float64], outcome: NDArray[np.float64] | None = None) -> str:
    """A table; the records of both controllers are the same, in opposite orders."""
    rows = len(features)
    numbers = range(rows) if outcome is not None else range(rows - 1, -1, -1)
    columns = features if outcome is None else np.column_stack([features, outcome])
    names = [f"x{place}" for place in range(features.shape[1])] + ["y"] * (outcome is not None)
    lines = [",".join(["id", *names])]
    lines += [
        ",".join([f"{number:09d}", *map(repr, values)])
        for number, values in zip(numbers, columns.tolist(), strict=True)
    ]
    return "\n".join(lines) + "\n"
