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
        return head + ("\n".join(table(part, by_part[part]) for part in known) if known else before) + end

    DOCUMENT.write_text(BLOCK.sub(filled, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    draw(by_part)


def table(part: str, content: dict[str, Any]) -> str:
    """One part as a table, and where its figures come from."""
    figures = [figure for figure in content["figures"] if figure["part"] == part]
    beside = any(figure["baseline"] is not None for figure in figures)
    heads = ["what", "size", "ours", *(["beside it", "", "times"] if beside else [])]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for figure in figures:
        cells = [figure["what"], size(figure["size"]), f"{number(figure['value'])} {figure['unit']}"]
        if beside:
            cells += baseline(figure)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(["", *lines, "", source(content), ""]) + "\n"


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
        axis = "round trip in ms"
        title = size({name: value for name, value in figures[0]["size"].items() if name != axis})
        names = (STEP_WORDS["join"], STEP_WORDS["lasso"])
        _chart("cost-over-distance.png", axis, "round trip between any two parties, ms", figures, names, title)


def _chart(
    name: str, axis: str, words: str, figures: list[dict[str, Any]], lines: Iterable[str], title: str, log: bool = False
) -> None:
    from matplotlib.figure import Figure as Sheet  # without a display; only this command needs it

    sheet = Sheet(figsize=(6.4, 3.6), layout="constrained")
    axes = sheet.subplots()
    for line in lines:
        points = sorted((figure["size"][axis], figure["value"]) for figure in figures if figure["what"] == line)
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=line)
    axes.set(xlabel=words, ylabel="seconds", title=title)
    if log:
        axes.set(xscale="log", yscale="log")
    else:
        axes.set(ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    CHARTS.mkdir(exist_ok=True)
    sheet.savefig(CHARTS / name, dpi=120, metadata={"Software": None})
