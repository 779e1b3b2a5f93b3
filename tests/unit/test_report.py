"""The report and the tables beside a result."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import stat
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.errors import ConfigError
from pipeline.plots import NARROW, ROW, WIDE, Dot, Line, Mark, Words, dot_plot, error_plot, path_plot, shorten, spread
from pipeline.report import DOTS, report_html, write_outputs, write_report
from pipeline.results import coefficients_csv, path_csv

EVIL = "</title><script>alert(1)</script>&\"'"
VOID = {"meta", "wbr", "br"}
FILES = ["coefficients.csv", "path.csv", "report.html", "result.json"]


def document(**parts: Any) -> dict[str, Any]:
    return {
        "study": "heart-failure",
        "agreement": "0123456789abcdef" * 4,
        "finished": "2026-11-22T14:03:11Z",
        "records": 4321,
        "outcome": "hospital_days",
        "model": {"kind": "lasso", "alpha": 0.1, "l1_ratio": 1.0, "penalty_factors": {}, "tolerance": 1e-6},
        "intercept": 1.0 / 3.0,
        "coefficients": {"hospital.age": 0.0123, "hospital.sex=m": 0.0, "insurer.income": -1e-7},
        "features": [
            {"party": "hospital", "column": "age", "kind": "numeric", "unit": "year"},
            {"party": "hospital", "column": "sex", "kind": "category", "levels": ["f", "m"]},
            {"party": "insurer", "column": "income", "kind": "numeric"},
        ],
        "fit": {"r2": 0.31, "adjusted_r2": None, "mse": 2.2, "rmse": 1.48, "nonzero": 2},
        "open": {"model": "chosen", "cv_curve": False},
        "gate": {"min_residual_df": 10, "max_r2": None, "rare_levels": "refuse", "min_records": 50},
        "opened": [{"name": "conditions hold", "to": "all parties"}] * 3 + [{"name": "slopes", "to": "controllers"}],
        "notes": [],
        "iterations": 41,
        "converged": True,
        "own_rows": {"read": 5000, "dropped": {"bmi": 12}},
        "versions": {"pipeline": "0.1.0", "mpyc": "0.11"},
        "rounds": 202,
        "hiding_bits": 42.3,
        "sent_bytes": 1234567,
        "seconds": {"join": 9.8},
    } | parts


def everything() -> dict[str, Any]:
    alphas = [1.0, 0.1, 0.01]
    return document(
        path=[
            {
                "alpha": alpha,
                "intercept": 1.0,
                "coefficients": {"hospital.age": 0.01 * i, "hospital.sex=m": -0.5 * i, "insurer.income": 0.0},
                "nonzero": 2 * (i > 0),
                "r2": 0.1 * i,
            }
            for i, alpha in enumerate(alphas)
        ],
        cv={
            "folds": 5,
            "alphas": alphas,
            "mean": [3.0, 2.0, 2.1],
            "sd": [0.3, 0.2, 0.2],
            "alpha_min": 0.1,
            "alpha_1se": 1.0,
            "r2": 0.28,
        },
        inference={
            "intercept": {"se": 0.1, "t": 3.3, "p": 0.001, "low": 0.1, "high": 0.5},
            "hospital.age": {"se": 0.001, "t": 12.3, "p": 1e-9, "low": 0.0103, "high": 0.0143},
        },
        table1={"hospital.age": {"mean": 60.0, "sd": 12.0}, "hospital.hospital_days": {"mean": 5.0, "sd": 2.0}},
        notes=["The chosen penalty is the smallest of the grid."],
    )


class Page(HTMLParser):
    """Balanced elements, their attributes, and the text of table cells by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def tags(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in names]

    def row(self, head: str) -> list[str]:
        return next([cell.strip("\u2007\u2008 ") for cell in row] for row in self.rows if row[0] == head)


@pytest.mark.parametrize("content", [document(), everything()], ids=["model alone", "everything"])
def test_the_report_is_one_well_formed_page_that_needs_nothing_else(content: dict[str, Any]) -> None:
    text = report_html(content)
    page = Page(text)
    assert page.tags("html") == [{"lang": "en"}] and len(page.tags("title")) >= 1 and len(page.tags("h1")) == 1
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert not page.tags("script", "link", "img", "iframe", "object")
    assert not re.search(r"https?:|url\(|@import|src=|href=", text)
    for _, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on")]


def test_headings_are_in_order_and_tables_and_pictures_say_what_they_are() -> None:
    page = Page(report_html(everything()))
    levels = [int(tag[1]) for tag, _ in page.found if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    assert all(cell.get("scope") in ("row", "col") for cell in page.tags("th"))
    ids = {attributes.get("id") for _, attributes in page.found}
    pictures = page.tags("svg")
    assert len(pictures) > 8
    for picture in pictures:
        if picture.get("aria-hidden") != "true":
            assert picture["role"] == "img"
            assert set(str(picture["aria-labelledby"]).split()) <= ids


def test_all_terms_are_in_the_table_with_unit_and_what_the_penalty_removed() -> None:
    page = Page(report_html(document()))
    assert page.row("(intercept)")[1] == "0.33333"
    assert page.row("hospital.age") == ["hospital.age", "0.012300", "year", ""]
    assert page.row("hospital.sex=m") == ["hospital.sex=m", "0", "", "removed"]
    assert page.row("insurer.income")[1] == "−1.0000e−07"
    assert page.row("adjusted R²") == ["adjusted R²", "–"]
    assert "1 of 3 coefficients are 0" in page.text
    assert "0123 4567 89ab cdef" in page.text


def test_least_squares_speak_of_no_penalty() -> None:
    page = Page(report_html(document(model={"kind": "ols", "alpha": 0.0})))
    assert page.row("hospital.sex=m")[-1] == "constant"
    assert "penalty removed" not in page.text and "least squares for hospital_days" in page.text


def test_what_was_opened_allowed_and_demanded_is_told() -> None:
    page = Page(report_html(document()))
    assert page.row("conditions hold") == ["conditions hold", "3", "all parties"]
    assert page.row("slopes") == ["slopes", "1", "controllers"]
    assert page.row("R² (in-sample), at most")[1] == "switched off"
    assert page.row("matched records, at least")[1] == "50"
    assert page.row("cross-validated errors of all penalties")[1] == "no"
    assert page.row("dropped, no value in bmi")[1] == "12"
    assert "Nothing was refused in this run" in page.text


def test_only_what_was_opened_has_a_section() -> None:
    headings = ("Path of the penalties", "Cross-validation", "Standard errors", "Matched records", "Notes")
    assert not [heading for heading in headings if f"<h2>{heading}" in report_html(document())]
    assert all(f"<h2>{heading}" in report_html(everything()) for heading in headings)


def test_the_chosen_penalty_and_those_of_both_rules_are_marked() -> None:
    text = report_html(everything())
    assert text.count(">chosen = min</text>") == text.count(">1se</text>") == 4  # path and errors, wide and narrow


def test_names_levels_and_notes_of_users_are_text_and_no_markup() -> None:
    content = everything()
    old, new = "hospital.age", f"hospital.{EVIL}"
    for part in ("coefficients", "inference", "table1"):
        content[part] = {new if name == old else name: value for name, value in content[part].items()}
    for point in content["path"]:
        point["coefficients"] = {new if n == old else n: v for n, v in point["coefficients"].items()}
    content["features"][0] |= {"column": EVIL, "unit": EVIL}
    content["features"][1]["levels"] = [EVIL, "m"]
    content |= {"study": EVIL, "outcome": EVIL, "notes": [EVIL], "versions": {EVIL: EVIL}, "seconds": {EVIL: 1.0}}
    content |= {"own_rows": {"read": 1, "dropped": {EVIL: 1}}, "opened": [{"name": EVIL, "to": EVIL}]}
    content |= {"gate": {EVIL: EVIL}, "open": {EVIL: EVIL}, "finished": EVIL, "agreement": EVIL}
    content["model"] |= {"penalty_factors": {new: 2.0}, EVIL: EVIL, "n_alphas": 3, "rule": EVIL}
    page = Page(report_html(content))
    assert not page.tags("script")
    assert page.row(new)[2] == EVIL
    assert page.text.count("alert(1)") > 30


def test_a_coefficient_plot_shows_the_largest_and_says_so() -> None:
    names = [f"hospital.x{i}" for i in range(200)]
    content = document(
        coefficients={name: float(i - 100) for i, name in enumerate(names)},
        features=[{"party": "hospital", "column": f"x{i}", "kind": "numeric"} for i in range(200)],
    )
    text = report_html(content)
    assert f"The {DOTS} largest of 199 are shown" in text
    assert all(Page(text).row(name) for name in names)


# --- plots ----------------------------------------------------------------------------------------

WORDS = Words("a", "title", "about", "value")


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    """Where texts of a class stand."""
    root = ElementTree.fromstring(svg)  # noqa: S314 (our own)
    return [(float(t.get("x", "")), float(t.get("y", ""))) for t in root.iter("text") if t.get("class") == kind]


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=lambda size: size.name)
@pytest.mark.parametrize(
    "alphas",
    [[1.0, 0.5], [1.0, 0.5, 0.0], [1e300, 1e-300], [0.1 * 0.9**i for i in range(100)], [0.5, 0.0], [3.1, 3.0]],
    ids=["two", "with 0", "far apart", "a hundred", "one and 0", "close"],
)
def test_plots_stay_within_their_frame_whatever_the_penalties(alphas: list[float], size: Any) -> None:
    lines = [Line(f"n{i}", [i * 1e-3 * (j + 1) for j in range(len(alphas))], i) for i in range(1, 9)]
    marks = [Mark(alphas[0], "chosen", True), Mark(alphas[-1], "min")]
    path = path_plot(alphas, lines, marks, WORDS, size)
    errors = error_plot(alphas, [2.0] * len(alphas), [0.1] * len(alphas), marks, WORDS, size)
    for svg in (path, errors):
        assert all(0 <= x <= size.width and 0 <= y <= size.height for x, y in places(svg, "axis"))
        assert not re.search("nan|inf", svg)
        assert ElementTree.fromstring(svg).get("role") == "img"  # noqa: S314 (our own)
    labels = sorted(y for _, y in places(path, "name"))
    assert len(labels) == 8 and min(b - a for a, b in pairwise(labels)) >= ROW - 0.11


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0, 5.0], [1e-12, 2e-12], [-3e8, 1e8]])
def test_an_axis_has_ticks_whatever_the_values(values: list[float]) -> None:
    svg = path_plot([1.0, 0.1], [Line("a", values, 1)], [], WORDS, WIDE)
    ticks = [y for x, y in places(svg, "axis") if x < WIDE.left]
    assert len(ticks) >= 3 and not re.search("nan|inf", svg)


def test_a_dot_whose_interval_holds_zero_is_hollow() -> None:
    svg = dot_plot([Dot("a", 1.0, 0.5, 1.5), Dot("b", 1.0, -0.5, 2.5), Dot("c", 2.0)], WORDS, WIDE)
    assert re.findall(r'class="(dot[^"]*)"', svg) == ["dot", "dot hollow", "dot"]


def test_labels_move_apart_and_stay_inside() -> None:
    moved = spread([10.0, 11.0, 12.0, 99.0], 0.0, 100.0)
    assert moved == [10.0, 25.0, 40.0, 99.0]
    assert spread([95.0, 96.0, 97.0], 0.0, 100.0) == [70.0, 85.0, 100.0]


def test_a_long_name_keeps_its_ends() -> None:
    assert shorten("hospital.age", 12) == "hospital.age"
    assert shorten("hospital.a_long_name_of_a_column=yes", 15) == "hospita…umn=yes"


# --- files ----------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_coefficients_read_back_exactly_with_quotes_where_a_name_needs_them() -> None:
    name = 'hospital.a "b", c\r\nd'
    text = coefficients_csv(document(coefficients={name: 0.1 + 0.2, "hospital.b": 0.0}))
    assert text.startswith("term,coefficient\r\nintercept,0.3333333333333333\r\n")
    assert rows(text)[2:] == [[name, "0.30000000000000004"], ["hospital.b", "0.0"]]


def test_standard_errors_stand_beside_the_coefficients_where_they_were_opened() -> None:
    found = rows(coefficients_csv(everything()))
    assert found[0] == ["term", "coefficient", "se", "t", "p", "low", "high"]
    assert found[2] == ["hospital.age", "0.0123", "0.001", "12.3", "1e-09", "0.0103", "0.0143"]
    assert found[3] == ["hospital.sex=m", "0.0", "", "", "", "", ""]


def test_a_path_has_one_line_for_each_penalty_and_term() -> None:
    found = rows(path_csv(everything()))
    assert found[0] == ["alpha", "term", "coefficient"] and len(found) == 1 + 3 * 4
    assert found[6] == ["0.1", "hospital.age", "0.01"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_files_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    assert write_outputs(tmp_path / "a", everything()) == tmp_path / "a" / "result.json"
    assert names(tmp_path / "a") == FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").iterdir()} == {0o600}
    assert json.loads((tmp_path / "a" / "result.json").read_text()) == everything()
    assert write_report(tmp_path, document()).read_text(encoding="utf-8") == report_html(document())


def test_a_path_of_an_earlier_result_does_not_stay(tmp_path: Path) -> None:
    write_outputs(tmp_path, everything())
    write_outputs(tmp_path, document())
    assert names(tmp_path) == [name for name in FILES if name != "path.csv"]


def test_the_third_party_gets_the_result_alone(tmp_path: Path) -> None:
    write_outputs(tmp_path, {"study": "s", "records": 60})
    assert names(tmp_path) == ["result.json"]


def test_an_earlier_result_is_as_it_was_when_one_of_the_files_cannot_be_written(tmp_path: Path) -> None:
    write_outputs(tmp_path, everything())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError):
        write_outputs(tmp_path, everything() | {"iterations": math.nan})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "result.json").unlink()
    (tmp_path / "result.json").mkdir()  # the last to be written
    with pytest.raises(ConfigError, match="cannot be written"):
        write_outputs(tmp_path, document())
    assert names(tmp_path) == FILES
    assert all((tmp_path / name).read_bytes() == before[name] for name in FILES if name != "result.json")


def test_nothing_is_left_where_there_was_nothing_when_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_outputs(tmp_path, document())
    assert names(tmp_path) == ["result.json"]


def test_the_unit_of_the_outcome_is_said() -> None:
    text = Page(report_html(document(outcome_unit="days"))).text
    assert "hospital_days (days)" in text and "days per unit of the feature" in text


@pytest.mark.parametrize(("rule", "said"), [("1se", True), (None, False)])
def test_r2_on_records_held_out_is_a_little_too_good_where_they_chose_the_penalty(rule: str | None, said: bool) -> None:
    content = everything()
    content["model"]["rule"] = rule
    assert ("a little too good" in Page(report_html(content)).text) is said
