"""Writes measurements into docs/performance.md: tables between markers, and charts.

A table stands between `<!-- measured: PART ... -->` and `<!-- end -->` and holds
the figures of these parts. A part that no file has keeps what stands there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.end_to_end import STEP_WORDS
from pipeline.charts import Chart, Line, line_chart, save

DOCUMENT = ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "figures"
BLOCK = re.compile(r"(<!-- measured: ([a-z -]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
AXES = {"rows": "matched records", "features": "features", "bits": "bits of the Paillier keys"}
STEPS = ("whole run", STEP_WORDS["join"], STEP_WORDS["share"], STEP_WORDS["lasso"])


def write(files: Sequence[Path]) -> None:
    """Fill the tables and draw the charts with what the files hold; later files win."""
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    by_part = {figure["part"]: content for content in documents for figure in content["figures"]}

    def filled(match: re.Match[str]) -> str:
        head, parts, before, end = match.groups()
        known = [part for part in parts.split() if part in by_part]
        return head + ("".join(table(part, by_part[part]) for part in known) if known else before) + end

    DOCUMENT.write_text(BLOCK.sub(filled, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    draw(by_part)


def table(part: str, content: dict[str, Any]) -> str:
    """One part as a table, and where its figures come from; what has the same size everywhere says it once."""
    figures = [figure for figure in content["figures"] if figure["part"] == part]
    first = figures[0]["size"]
    common = {k: v for k, v in first.items() if all(figure["size"].get(k) == v for figure in figures)}
    sizes = [size({k: v for k, v in figure["size"].items() if k not in common}) for figure in figures]
    beside = any(figure["baseline"] is not None for figure in figures)
    lines = listed(figures, sizes) if beside else across(figures, sizes)
    where = f"{size(common)}: {source(content)}" if common else source(content)
    return "\n".join(["", *lines, "", where, "", ""])


def listed(figures: list[dict[str, Any]], sizes: list[str]) -> list[str]:
    """A line for each figure, with its baseline."""
    lines = [row(["what", "size", "ours", "beside it", "", "times"]), "|" + " --- |" * 6]
    for figure, words in zip(figures, sizes, strict=True):
        lines.append(row([figure["what"], words, f"{number(figure['value'])} {figure['unit']}", *baseline(figure)]))
    return lines


def across(figures: list[dict[str, Any]], sizes: list[str]) -> list[str]:
    """Things measured one way, sizes the other; what there are more of goes down."""
    whats, columns = (list(dict.fromkeys(names)) for names in ((f["what"] for f in figures), sizes))
    cells = {
        (figure["what"], words): f"{number(figure['value'])} {figure['unit']}"
        for figure, words in zip(figures, sizes, strict=True)
    }
    if len(columns) > len(whats):
        heads, lines = ["size", *whats], [[words, *(cells.get((w, words), "–") for w in whats)] for words in columns]
    else:
        heads = ["what", *(columns if columns != [""] else ["figure"])]
        lines = [[what, *(cells.get((what, words), "–") for words in columns)] for what in whats]
    return [row(heads), "|" + " --- |" * len(heads), *map(row, lines)]


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def baseline(figure: dict[str, Any]) -> list[str]:
    if figure["baseline"] is None:
        return ["–", "–", "–"]
    return [number(figure["baseline"]), figure["beside"], "–" if figure["ratio"] is None else number(figure["ratio"])]


def size(values: dict[str, float]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in values.items())


def source(content: dict[str, Any]) -> str:
    machine = content["machine"]
    return (
        f"`{content['command']}`, {content['date']}, {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB, load before {machine['load']}."
    )


def number(value: float) -> str:
    """Three digits that count."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.0e}"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:,.{digits}f}"


# --- charts -----------------------------------------------------------------


def draw(by_part: dict[str, dict[str, Any]]) -> None:
    """The four charts, as far as there are figures for them."""
    if "scaling" in by_part:
        figures = [figure for figure in by_part["scaling"]["figures"] if figure["part"] == "scaling"]
        first = figures[0]["size"]
        for axis, words in (
            ("rows", "matched records"),
            ("features", "features"),
            ("bits", "bits of the Paillier keys"),
        ):
            others = {name: value for name, value in first.items() if name != axis}
            line = [f for f in figures if all(f["size"][name] == value for name, value in others.items())]
            _chart(f"cost-over-{axis}.png", axis, words, line, STEPS, size(others), log=axis == "rows")
    if "distance" in by_part:
        figures = [figure for figure in by_part["distance"]["figures"] if figure["part"] == "distance"]
        axis = "ms round trip"
        title = size({name: value for name, value in figures[0]["size"].items() if name != axis})
        names = (STEP_WORDS["join"], STEP_WORDS["lasso"])
        _chart("cost-over-distance.png", axis, "round trip between any two parties, ms", figures, names, title)


def _chart(
    name: str, axis: str, words: str, figures: list[dict[str, Any]], lines: Iterable[str], title: str, log: bool = False
) -> None:
    drawn = []
    for line in lines:
        points = sorted((figure["size"][axis], figure["value"]) for figure in figures if figure["what"] == line)
        drawn.append(Line(line, [x for x, _ in points], [y for _, y in points]))
    marks = sorted({figure["size"][axis] for figure in figures}) if log else ()
    chart = Chart(title, words, "seconds", log=("x", "y") if log else (), marks=marks, from_zero=not log)
    CHARTS.mkdir(exist_ok=True)
    save(line_chart(chart, drawn), CHARTS / name)
