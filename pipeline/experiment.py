"""Runs an experiment: every point of a grid as a study of three processes over TLS, one after another.

A point's tables, keys and results are in a temporary folder and go with it;
what is kept is in `experiment_results.py`. After each point the files are
whole, so an interrupted experiment goes on where it was.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline import __version__
from pipeline.datasets import StudyData
from pipeline.errors import ConfigError, PipelineError
from pipeline.experiment_file import Experiment, Point, model_of, read_experiment
from pipeline.experiment_pictures import draw
from pipeline.experiment_results import COLUMNS, STATES, Outcome, Results, Row, text
from pipeline.local_study import THIRD_PARTY, Course, Line, follow_parties, free_ports, read_result, write_study
from pipeline.reference import Reference, fitted_difference, plain_fit, standardised_difference

STEPS = ("prepare", "join", "share", "lasso")
PACKAGES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn"}


def experiment(path: Path, output: Path | None = None) -> int:
    """Run what is not done yet of the experiment in the file `path`, draw its pictures; return 0.

    output : folder, `results/experiments/<name>` unless given. Raises
    ConfigError with every fault of the file, or for a missing package.
    """
    _require_packages()
    plan = read_experiment(path)
    results = Results.read(output or Path("results") / "experiments" / plan.name)
    digests = [plan.digest(point) for point in plan.points]
    todo = [point for point, digest in zip(plan.points, digests, strict=True) if not results.done(digest)]
    results.write(digests)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with _shown(console, plan, len(todo)) as progress:
        for point in todo:
            progress.begin(point)
            outcome = run_point(plan, point)
            results.add(outcome)
            results.write(digests)
            progress.end(point, outcome.row)
    pictures = draw(plan, results)
    _summary([results.rows[digest] for digest in digests], results.folder, pictures)
    return 0


def _require_packages() -> None:
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"an experiment needs {' and '.join(missing)}, not installed here; type pip install '.[experiments]' in "
            "the clone"
        )


def _summary(rows: Sequence[Row], folder: Path, pictures: Sequence[Path]) -> None:
    failed = sum(row["state"] != "0" for row in rows)
    names = ", ".join(path.name for path in pictures) or "no picture"
    sys.stdout.write(f"{len(rows)} points, {failed} of them failed, in {folder / 'results.csv'}; beside it {names}.\n")


# --- one point ------------------------------------------------------------------------------------


def run_point(plan: Experiment, point: Point) -> Outcome:
    """Make the study, run the three parties, compare with scikit-learn; a failure is an outcome as well."""
    try:
        study = plan.tables(point)
        with tempfile.TemporaryDirectory(prefix="experiment-") as folder:
            return _run(plan, point, study, Path(folder) / "study")
    except PipelineError as error:
        return Outcome(_row(plan, point, {"state": error.exit_state, "sentence": str(error)}))


def _run(plan: Experiment, point: Point, study: StudyData, folder: Path) -> Outcome:
    write_study(folder, study, free_ports(len(STATES)), 0, sections=plan.sections(point))
    names = [*(table.party for table in study.tables), THIRD_PARTY]
    course = follow_parties(folder, names, _ignore)
    states: dict[str, object] = dict(zip(STATES, course.states.values(), strict=True))
    if (error := course.error) is not None:
        failed = {"state": error.exit_state, "sentence": str(error), "seconds_wall": round(course.seconds, 3)}
        return Outcome(_row(plan, point, states | failed))
    results = [read_result(folder, name) for name in names]
    reference = plain_fit(study, model_of(point.settings, float(results[0]["model"]["alpha"])))
    values = states | {"state": 0} | _cost(course, results) | _fit(results[0], reference, point)
    digest = plan.digest(point)
    return Outcome(
        _row(plan, point, values), tuple(_path(digest, study, point, results[0])), tuple(_curve(digest, results[0]))
    )


def _ignore(_line: Line) -> None:
    """The lines of the parties are not shown."""


def _row(plan: Experiment, point: Point, values: Mapping[str, object]) -> Row:
    known: dict[str, object] = {
        "digest": plan.digest(point),
        "data": plan.data,
        "seed": plan.seed,
        "repetition": point.repetition,
        "version": __version__,
        "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    known |= {**point.settings, **values}
    return {column: text(known.get(column)) for column in COLUMNS}


def _cost(course: Course, results: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Seconds are of the slowest party, bytes of all together."""
    seconds = {f"seconds_{step}": max(result["seconds"].get(step, 0.0) for result in results) for step in STEPS}
    return {
        "seconds_wall": round(course.seconds, 3),
        **seconds,
        "rounds": results[0]["rounds"],
        "iterations": results[0]["iterations"],
        "sent_bytes": sum(result["sent_bytes"] for result in results),
        "hiding_bits": min(result["hiding_bits"] for result in results),
    }


def _fit(result: Mapping[str, Any], reference: Reference, point: Point) -> dict[str, object]:
    """How good the model is, and how near scikit-learn's; no difference of coefficients where several solve it."""
    several = reference.dependent and model_of(point.settings, 1.0).l1_ratio == 1
    return {
        "matches": result["records"],
        "chosen_alpha": result["model"]["alpha"],
        "nonzero": result["fit"]["nonzero"],
        "r2": result["fit"]["r2"],
        "r2_reference": reference.r2,
        "condition": reference.condition if math.isfinite(reference.condition) else None,
        "coefficient_difference": None if several else standardised_difference(result, reference),
        "fitted_difference": fitted_difference(result, reference),
    }


def _path(digest: str, study: StudyData, point: Point, result: Mapping[str, Any]) -> Iterator[Row]:
    """Every coefficient of every penalty, where the path was opened."""
    for step in result.get("path", ()):
        reference = plain_fit(study, model_of(point.settings, float(step["alpha"])))
        for term, coefficient in step["coefficients"].items():
            sd = reference.feature_sd[term]
            yield {
                "digest": digest,
                "alpha": text(step["alpha"]),
                "term": term,
                "coefficient": text(coefficient),
                "standardised": text(coefficient * sd),
                "standardised_reference": text(reference.coefficients[term] * sd),
            }


def _curve(digest: str, result: Mapping[str, Any]) -> Iterator[Row]:
    """The cross-validated error of every penalty, where it was opened."""
    cv = result.get("cv", {})
    for alpha, mean, sd in zip(cv.get("alphas", ()), cv.get("mean", ()), cv.get("sd", ()), strict=True):
        chosen = {key: text(cv.get(key)) for key in ("alpha_min", "alpha_1se")}
        yield {"digest": digest, "alpha": text(alpha), "mean": text(mean), "sd": text(sd), **chosen}


# --- what a person sees ---------------------------------------------------------------------------


@dataclass
class _Shown:
    """A bar on a terminal, a line a point everywhere."""

    console: Console
    total: int
    varying: tuple[str, ...]
    bar: Progress
    begin_of_all: float
    done: int = 0

    def begin(self, point: Point) -> None:
        self.bar.update(self.bar.task_ids[0], description=self._words(point))

    def end(self, point: Point, row: Row) -> None:
        self.done += 1
        self.bar.update(self.bar.task_ids[0], completed=self.done, left=self._left())
        if row["state"] == "0":
            said = f"{float(row['seconds_wall']):.1f} s, R² {float(row['r2']):.4f}"
        else:
            said = f"state {row['state']}: {' '.join(row['sentence'].split())}"
        place = f"{self.done} of {self.total}"
        left = "" if self.console.is_terminal or self.done == self.total else f" ({self._left()})"
        self.bar.console.print(f"{place}  {self._words(point)}: {said}{left}")

    def _left(self) -> str:
        seconds = (time.monotonic() - self.begin_of_all) / self.done * (self.total - self.done)
        return f"about {duration(seconds)} left" if self.done < self.total else ""

    def _words(self, point: Point) -> str:
        """The settings in which points differ."""
        words = [f"{key} {text(point.settings[key])}" for key in self.varying if key in point.settings]
        return ", ".join(words + [f"repetition {point.repetition}"] * (point.repetition > 1)) or "the only point"


@contextmanager
def _shown(console: Console, plan: Experiment, total: int) -> Iterator[_Shown]:
    before = len(plan.points) - total
    told = f"; done already: {before}" if before else ""
    console.print(f"{plan.title}: {len(plan.points)} points{told}")
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal or total == 0,
    )
    bar.add_task("", total=total, left="")
    with bar:
        yield _Shown(console, total, _varying(plan.points), bar, time.monotonic())


def _varying(points: Sequence[Point]) -> tuple[str, ...]:
    keys = list(dict.fromkeys(key for point in points for key in point.settings))
    return tuple(key for key in keys if len({p.settings.get(key) for p in points}) > 1)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as many as matter."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
