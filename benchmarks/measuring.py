"""What a measurement is, and how a call is timed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROUNDS = 3
LOAD_BEFORE = os.getloadavg()[0]  # of other programs
ACCURACY = "sd"  # a unit: standard deviations of the outcome per one of the feature
PACKAGES = ("mpyc", "phe", "gmpy2", "numpy", "aiohttp", "cryptography", "scikit-learn")


@dataclass(frozen=True)
class Sizes:
    """What the command line says; None where a part takes its own default."""

    size: int | None = None
    features: int | None = None
    bits: int | None = None
    field: int | None = None

    def rows(self, default: int) -> int:
        return self.size or default

    def columns(self, default: int = 30) -> int:
        return self.features or default

    def field_bits(self, default: int = 127) -> int:
        return self.field or default

    def keys(self, *default: int) -> tuple[int, ...]:
        return (self.bits,) if self.bits else default


@dataclass(frozen=True)
class Figure:
    """One number, and where it makes sense the same for another way of doing it, measured in the same run.

    size : what it depends on, for example {"rows": 5000, "features": 30}.
    beside : what the baseline is.
    """

    part: str
    what: str
    size: Mapping[str, int | float]
    value: float
    unit: str
    baseline: float | None = None
    beside: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times more the baseline takes; None for what is no cost."""
        return self.baseline / self.value if self.baseline and self.value and self.unit != ACCURACY else None


@dataclass
class Stopwatch:
    """Seconds by name."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        start = self.clock()
        result = call()
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - start
        return result


def timed(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds one call takes."""
    start = clock()
    call()
    return clock() - start


def best(*calls: Callable[[], object], clock: Callable[[], float] = time.process_time) -> list[float]:
    """Return the best time of each call; the calls take turns, so that all see the same machine."""
    return [min(times) for times in zip(*([timed(call, clock) for call in calls] for _ in range(ROUNDS)), strict=True)]


def document(command: str, figures: Iterable[Figure]) -> dict[str, Any]:
    """The content of a JSON file of measurements."""
    entries = [asdict(figure) | {"ratio": figure.ratio} for figure in figures]
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | _versions(),
        "figures": entries,
    }


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that tells whose machine it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(LOAD_BEFORE, 1),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
