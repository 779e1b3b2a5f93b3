"""The pictures of an experiment, drawn from its results: cost and accuracy of points, a path, a curve."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.charts import Chart, Line, legend, line_chart, plain, save, sheet
from pipeline.experiment_file import AXES, MEASURES, Experiment, Picture, Point, Value
from pipeline.experiment_results import Results, Row, text

ENDINGS = (".png", ".svg")
CROSSES = 12  # of scikit-learn along a path
UNIT_BYTES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def draw(experiment: Experiment, results: Results) -> list[Path]:
    """Draw what the results have something for; return the files."""
    files = []
    for picture in experiment.pictures:
        figure = _figure(experiment, results, picture)
        for ending in ENDINGS if figure is not None else ():
            files.append(results.folder / f"{picture.name}{ending}")
            save(figure, files[-1])
    return files


def _figure(experiment: Experiment, results: Results, picture: Picture) -> Any | None:
    points = [point for point in experiment.points if picture.takes(point.settings)]
    rows = [(point, results.rows.get(experiment.digest(point))) for point in points]
    good = [(point, row) for point, row in rows if row is not None and row["state"] == "0"]
    if not good:
        return None
    if picture.of == "points":
        return _of_points(picture, experiment, good)
    sheets = results.paths if picture.of == "path" else results.curves
    found = next((sheets[row["digest"]] for _, row in good if row["digest"] in sheets), None)
    if found is None:
        return None
    row = next(row for _, row in good if row["digest"] == found[0]["digest"])
    return _of_path(picture, experiment, found, row) if picture.of == "path" else _of_curve(picture, experiment, found)


# --- points ---------------------------------------------------------------------------------------


def _of_points(picture: Picture, experiment: Experiment, good: Sequence[tuple[Point, Row]]) -> Any | None:
    places = _places(picture.x, [point.settings for point, _ in good])
    unit, scale = _unit(picture.y, [row for _, row in good])
    lines = []
    for names in dict.fromkeys(_series(picture, point) for point, _ in good):
        members = [(point, row) for point, row in good if _series(picture, point) == names]
        for measure in picture.y:
            label = ", ".join((*([MEASURES[measure].words] if len(picture.y) > 1 else []), *names))
            lines.append(_line(picture, measure, label, members, places, scale))
    lines = [line for line in lines if line.x]
    if not lines:
        return None
    words = isinstance(next(iter(places)), str) if places else False
    chart = Chart(
        title=picture.title or experiment.title,
        x_label=_x_label(picture),
        y_label=picture.y_label or _y_label(picture.y, unit),
        log=picture.log,
        marks=sorted(set(places.values())) if places else (),
        mark_words=list(places) if words else (),
        from_zero=unit not in ("", "bits") and "y" not in picture.log,
        legend_title=",\n".join(AXES[key].words for key in picture.series),
        beside=True,
    )
    return line_chart(chart, [replace(line, joined=False) for line in lines] if words else lines)


def _places(x: str, settings: Sequence[Mapping[str, Value]]) -> dict[Any, float]:
    """Where the values of an axis of the grid stand; empty for a measure. Names stand in a row, in words."""
    if x not in AXES:
        return {}
    values = list(dict.fromkeys(each[x] for each in settings if x in each))
    if all(isinstance(value, int | float) for value in values):
        return {value: float(value) for value in values if isinstance(value, int | float)}
    return {text(value): float(place) for place, value in enumerate(values)}


def _series(picture: Picture, point: Point) -> tuple[str, ...]:
    """The values of the series' keys that the point has, as words."""
    values = (point.settings.get(key) for key in picture.series)
    return tuple(plain(v) if isinstance(v, int | float) else text(v) for v in values if v is not None)


def _line(
    picture: Picture,
    measure: str,
    label: str,
    members: Sequence[tuple[Point, Row]],
    places: Mapping[Any, float],
    scale: float,
) -> Line:
    """Medians over repetitions where x is of the grid, every point where it is measured itself."""
    pairs: list[tuple[float, float]] = []
    for point, row in members:
        if places:
            value = point.settings.get(picture.x)
            x = places.get(value, places.get(text(value), math.nan))
        else:
            x = _measured(row, picture.x)
        pairs.append((x, _measured(row, measure) / scale))
    finite = sorted(pair for pair in pairs if all(map(math.isfinite, pair)) and _drawable(picture, pair))
    if not places:
        return Line(label, [x for x, _ in finite], [y for _, y in finite], joined=False)
    xs = sorted({x for x, _ in finite})
    return Line(label, xs, [statistics.median(y for at, y in finite if at == x) for x in xs])


def _measured(row: Row, measure: str) -> float:
    return float(row[measure]) if row[measure] else math.nan


def _drawable(picture: Picture, pair: tuple[float, float]) -> bool:
    return all(value > 0 for axis, value in zip("xy", pair, strict=True) if axis in picture.log)


def _unit(measures: Sequence[str], rows: Sequence[Row]) -> tuple[str, float]:
    """The unit of the vertical axis, and by what values are divided for it."""
    units = {MEASURES[measure].unit for measure in measures}
    if units != {"bytes"}:
        return " / ".join(sorted(units - {""})), 1.0
    most = max((_measured(row, measure) for row in rows for measure in measures if row[measure]), default=0.0)
    return next(((unit, size) for unit, size in UNIT_BYTES if most >= size), ("bytes", 1.0))


def _x_label(picture: Picture) -> str:
    if picture.x_label is not None:
        return picture.x_label
    if picture.x in AXES:
        return AXES[picture.x].words
    measure = MEASURES[picture.x]
    return f"{measure.words}, {measure.unit}" if measure.unit else measure.words


def _y_label(measures: Sequence[str], unit: str) -> str:
    if len(measures) > 1 and unit:
        return unit
    words = " / ".join(MEASURES[measure].words for measure in measures)
    return f"{words}, {unit}" if unit else words


# --- a path, a curve ------------------------------------------------------------------------------


def _of_path(picture: Picture, experiment: Experiment, path: Sequence[Row], row: Row) -> Any:
    """Lines of the pipeline, crosses of scikit-learn, and where the chosen penalty lies."""
    terms = list(dict.fromkeys(each["term"] for each in path))
    chart = Chart(
        picture.title or experiment.title,
        picture.x_label or "alpha",
        picture.y_label or "standardised coefficient",
        log=("x",),
        beside=True,
    )
    figure, axes = sheet(chart)
    for term in terms:
        of_term = [each for each in path if each["term"] == term]
        alphas = [float(each["alpha"]) for each in of_term]
        (line,) = axes.plot(alphas, [float(each["standardised"]) for each in of_term], label=term)
        few = slice(None, None, max(1, len(of_term) // CROSSES))
        reference = [float(each["standardised_reference"]) for each in of_term]
        axes.plot(alphas[few], reference[few], "x", markersize=5, color=line.get_color())
    axes.plot([], [], "x", color="0.4", label="scikit-learn")
    if row["chosen_alpha"]:
        axes.axvline(float(row["chosen_alpha"]), color="0.4", linestyle="--", linewidth=1, label="chosen")
    axes.invert_xaxis()
    legend(axes, chart)
    return figure


def _of_curve(picture: Picture, experiment: Experiment, curve: Sequence[Row]) -> Any:
    """Means with their standard deviations, and the penalties of both rules."""
    chart = Chart(
        picture.title or experiment.title,
        picture.x_label or "alpha",
        picture.y_label or "cross-validated mean squared error",
        log=("x",),
        beside=True,
    )
    alphas, means, deviations = ([float(row[key]) for row in curve] for key in ("alpha", "mean", "sd"))
    figure = line_chart(chart, [Line("mean and standard\ndeviation", alphas, means, sd=deviations)])
    axes = figure.axes[0]
    for key, label, style in (("alpha_min", "smallest mean", ":"), ("alpha_1se", "within one\nstandard error", "--")):
        if curve[0][key]:
            axes.axvline(float(curve[0][key]), color="0.4", linestyle=style, linewidth=1, label=label)
    axes.invert_xaxis()
    legend(axes, chart)
    return figure
