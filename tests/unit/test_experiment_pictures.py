"""Pictures of experiments: what is drawn of which rows, under which labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import lasso_path
from sklearn.preprocessing import StandardScaler

from pipeline import experiment_pictures
from pipeline.charts import Chart, Line, line_chart, plain
from pipeline.datasets import StudyData, plain_join, rand_hie
from pipeline.experiment import _curve, _path, _row
from pipeline.experiment_file import Experiment, Picture, Point, Subject, read_experiment
from pipeline.experiment_pictures import draw
from pipeline.experiment_results import Outcome, Results

GRID = """
title = "Cost"
repetitions = 3
[grid]
records = [100, 1000]
keys = ["standard", "subgroup"]
features = 4
alpha = 0.1
"""


@pytest.fixture
def charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, Any]]]:
    """Draw an experiment whose points measured what `measured` says; return (chart, lines) of each picture."""

    def charts(text: str, measured: Callable[[Point], Mapping[str, object] | None]) -> list[tuple[Any, Any]]:
        (tmp_path / "grid.toml").write_text(text)
        plan = read_experiment(tmp_path / "grid.toml")
        results = Results(tmp_path)
        for point in plan.points:
            values = measured(point)
            if values is not None:
                results.add(Outcome(_row(plan, point, {"state": 0} | dict(values))))
        drawn: list[tuple[Any, Any]] = []
        real = experiment_pictures.line_chart
        monkeypatch.setattr(
            experiment_pictures,
            "line_chart",
            lambda chart, lines: (drawn.append((chart, lines)), real(chart, lines))[1],
        )
        draw(plan, results)
        return drawn

    return charts


def cost(point: Point) -> dict[str, object]:
    records, keys = point.settings["records"], point.settings["keys"]
    assert isinstance(records, int)
    seconds = records / 100 * (4 if keys == "standard" else 1) * (1, 5, 100)[point.repetition - 1]
    return {"seconds_join": seconds, "seconds_wall": seconds + 1, "sent_bytes": records * 3000, "condition": 2}


def test_a_line_goes_through_the_medians_of_the_repetitions(charts) -> None:
    picture = '[[picture]]\nname = "a"\nx = "records"\ny = "seconds_join"\nseries = "keys"\nlog = ["x", "y"]\n'
    ((chart, lines),) = charts(GRID + picture, cost)
    assert [(line.label, line.x, line.y) for line in lines] == [
        ("standard", [100.0, 1000.0], [20.0, 200.0]),
        ("subgroup", [100.0, 1000.0], [5.0, 50.0]),
    ]
    assert (chart.title, chart.x_label, chart.y_label) == ("Cost", "matched records", "join, seconds")
    assert (chart.legend_title, chart.log, list(chart.marks)) == ("keys", ("x", "y"), [100, 1000])


def test_several_measures_are_lines_of_one_picture_under_their_common_unit(charts) -> None:
    picture = (
        '[[picture]]\nname = "a"\nx = "records"\ny = ["seconds_wall", "seconds_join"]\nwhere = { keys = "subgroup" }\n'
    )
    ((chart, lines),) = charts(GRID + picture, cost)
    assert [(line.label, line.y) for line in lines] == [("whole run", [6.0, 51.0]), ("join", [5.0, 50.0])]
    assert (chart.y_label, chart.from_zero) == ("seconds", True)


def test_bytes_are_shown_in_the_unit_of_the_largest(charts) -> None:
    picture = '[[picture]]\nname = "a"\nx = "records"\ny = "sent_bytes"\nseries = "keys"\n'
    ((chart, lines),) = charts(GRID + picture, cost)
    assert chart.y_label == "sent by all parties together, MB"
    assert lines[0].y == [0.3, 3.0]


def test_over_a_measure_every_point_is_a_marker_and_nothing_is_joined(charts) -> None:
    picture = '[[picture]]\nname = "a"\nx = "condition"\ny = "seconds_join"\nseries = "keys"\n'
    ((chart, lines),) = charts(GRID + picture, cost)
    assert [(len(line.x), line.joined) for line in lines] == [(6, False), (6, False)]
    assert chart.x_label == "condition number of the features' correlations"


def test_names_stand_in_a_row_in_the_order_of_the_file_and_are_not_joined(charts) -> None:
    text = '[grid]\ncorrelation = ["pairs", 0.5, "independent"]\nalpha = 0.1\n'
    picture = '[[picture]]\nname = "a"\nx = "correlation"\ny = "r2"\n'
    ((chart, (line,)),) = charts(text + picture, lambda point: {"r2": 0.5})
    assert list(chart.mark_words) == ["pairs", "0.5", "independent"]
    assert (line.x, line.joined) == ([0.0, 1.0, 2.0], False)


def test_points_that_failed_or_have_no_such_number_are_left_out(charts) -> None:
    def some(point: Point) -> dict[str, object] | None:
        if point.settings["keys"] == "standard":
            return {"state": 3, "seconds_join": 5, "sentence": "At hospital: no."}
        return cost(point) if point.settings["records"] == 100 else {"seconds_wall": 3}

    picture = '[[picture]]\nname = "a"\nx = "records"\ny = "seconds_join"\nseries = "keys"\n'
    ((_, (line,)),) = charts(GRID + picture, some)
    assert (line.label, line.x) == ("subgroup", [100.0])


def test_what_has_no_logarithm_is_left_out_of_a_logarithmic_picture(charts) -> None:
    picture = '[[picture]]\nname = "a"\nx = "condition"\ny = "fitted_difference"\nlog = "y"\n'
    ((_, (line,)),) = charts(
        GRID + picture, lambda p: {"condition": 2, "fitted_difference": (0, 0.1, 1)[p.repetition - 1]}
    )
    assert set(line.y) == {0.1, 1.0}


def test_without_anything_to_draw_there_is_no_file(charts, tmp_path: Path) -> None:
    picture = '[[picture]]\nname = "a"\nx = "records"\ny = "seconds_join"\nseries = "keys"\n'
    assert charts(GRID + picture, lambda _: None) == []
    assert charts(GRID + picture, lambda _: {"seconds_wall": 3}) == []
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]


def test_a_picture_is_a_png_and_an_svg_and_the_same_at_each_drawing(charts, tmp_path: Path) -> None:
    text = GRID + '[[picture]]\nname = "a"\nx = "records"\ny = "seconds_join"\nseries = "keys"\n'
    charts(text, cost)
    first = [(tmp_path / name).read_bytes() for name in ("a.png", "a.svg")]
    assert first[0].startswith(b"\x89PNG")
    assert first[1].startswith(b"<?xml") and first[1].rstrip().endswith(b"</svg>")
    charts(text, cost)
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "a.svg")] == first


# --- path and curve -------------------------------------------------------------------------------


def opened_path(study: StudyData) -> dict[str, Any]:
    """What a result with an opened path and curve looks like, by scikit-learn."""
    features, outcome = plain_join(study)
    scaler = StandardScaler().fit(features.to_numpy())
    scaled = scaler.transform(features.to_numpy())
    strongest = np.abs(scaled.T @ (outcome - outcome.mean())).max() / len(outcome)
    alphas, slopes, _ = lasso_path(scaled, outcome - outcome.mean(), alphas=strongest * np.geomspace(1, 1e-3, 20))
    path = [
        {"alpha": float(alpha), "coefficients": dict(zip(features.columns, map(float, s / scaler.scale_), strict=True))}
        for alpha, s in zip(alphas, slopes.T, strict=True)
    ]
    mean = [float(np.mean((outcome - outcome.mean() - scaled @ s) ** 2)) for s in slopes.T]
    cv = {"alphas": [float(a) for a in alphas], "mean": mean, "sd": [1.0] * len(mean)}
    return {"path": path, "cv": cv | {"alpha_min": float(alphas[-1]), "alpha_1se": float(alphas[8])}}


def long_rows(subject: Subject) -> tuple[Experiment, Results, Picture]:
    """An experiment of one point of the RAND data, and its path and curve as an experiment writes them."""
    point = Point({"records": 300, "overlap": 0.6})
    picture = Picture(subject, of=subject, title=subject)
    plan = Experiment("rand", "RAND", "rand-hie", 1, (point,), {}, {}, (picture,))
    study = rand_hie(300, 500, 500)
    result = opened_path(study)
    digest = plan.digest(point)
    row = _row(plan, point, {"state": 0, "chosen_alpha": result["cv"]["alpha_1se"]})
    results = Results(Path())
    results.add(Outcome(row, tuple(_path(digest, study, point, result)), tuple(_curve(digest, result))))
    return plan, results, picture


def test_the_rows_of_a_path_hold_every_coefficient_beside_scikit_learns() -> None:
    plan, results, _ = long_rows("path")
    rows = results.paths[plan.digest(plan.points[0])]
    assert len(rows) == 20 * 9
    for row in rows:
        assert math.isclose(float(row["standardised"]), float(row["standardised_reference"]), abs_tol=5e-3)


def test_a_path_has_a_line_for_each_coefficient_and_crosses_for_scikit_learn() -> None:
    figure = experiment_pictures._figure(*long_rows("path"))
    assert figure is not None
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels[0] == "hospital.physlm"
    assert labels[-2:] == ["scikit-learn", "chosen"]
    assert len(labels) == 9 + 2
    assert figure.axes[0].xaxis_inverted(), "the path begins with the largest penalty"


def test_a_curve_has_its_deviations_and_the_penalties_of_both_rules() -> None:
    figure = experiment_pictures._figure(*long_rows("cv"))
    assert figure is not None
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert [" ".join(label.split()) for label in labels] == [
        "smallest mean",
        "within one standard error",
        "mean and standard deviation",
    ]


def test_a_point_that_opened_no_path_has_no_picture_of_it() -> None:
    plan, results, picture = long_rows("path")
    results.paths.clear()
    assert experiment_pictures._figure(plan, results, picture) is None


# --- charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"), [(100.0, "100"), (64000, "64,000"), (0.05, "0.05"), (1e-9, "1e-09"), (2.5, "2.5"), (0, "0")]
)
def test_a_number_at_an_axis_is_as_a_person_writes_it(value: float, words: str) -> None:
    assert plain(value) == words


def test_a_logarithmic_axis_of_few_decades_has_marks_between_the_powers_of_ten() -> None:
    def marks(y: list[float]) -> list[str]:
        figure = line_chart(Chart("", "", "", log=("y",)), [Line("a", [1.0, 2.0], y)])
        figure.draw_without_rendering()
        axes = figure.axes[0]
        low, high = axes.get_ylim()
        ticks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        return [label.get_text() for place, label in ticks if low <= place <= high]

    assert marks([3.0, 30.0]) == ["5", "10", "20"]
    assert len(marks([1e-14, 1e-8])) in range(2, 9)
