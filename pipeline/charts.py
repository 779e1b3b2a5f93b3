"""Line charts in one style, for pictures of experiments and of measurements.

matplotlib is imported where it is used: only these commands need it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = (6.4, 3.6)  # inches
LABEL_WIDTH = 36  # characters of the vertical axis before its label is broken
DOTS = 120  # an inch, of a PNG
MAX_TICKS = 10
FEW_DECADES = 200.0  # largest over smallest value of a logarithmic axis
SALT = "secure-lasso-pipeline"  # makes the names inside an SVG the same at each drawing


@dataclass(frozen=True)
class Line:
    """x and y of each marker, in order; `joined` puts a line through them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    joined: bool = True
    sd: Sequence[float] = ()  # of each y, as a bar


@dataclass(frozen=True)
class Chart:
    """What is written around the lines.

    marks : positions on the horizontal axis that get a mark, with words if they are no numbers.
    beside : the legend stands beside the chart, where it hides nothing.
    """

    title: str
    x_label: str
    y_label: str
    log: Sequence[str] = ()  # "x", "y"
    marks: Sequence[float] = ()
    mark_words: Sequence[str] = ()
    from_zero: bool = False
    legend_title: str = ""
    beside: bool = False


def sheet(chart: Chart) -> tuple[Any, Any]:
    """An empty chart: figure and axes, with labels and scales."""
    from matplotlib.figure import Figure  # without a display

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=chart.x_label, ylabel=textwrap.fill(chart.y_label, LABEL_WIDTH))
    axes.set_title(chart.title, fontsize="medium", wrap=True)
    for axis in ("x", "y"):
        if axis in chart.log:
            axes.set(**{f"{axis}scale": "log"})
    axes.grid(alpha=0.3)
    return figure, axes


def line_chart(chart: Chart, lines: Sequence[Line]) -> Any:
    """A figure with markers and lines."""
    figure, axes = sheet(chart)
    for line in lines:
        style = {"marker": "o", "markersize": 4, "linestyle": "-" if line.joined else "none", "label": line.label}
        if line.sd:
            axes.errorbar(line.x, line.y, yerr=line.sd, elinewidth=0.8, capsize=2, **style)
        else:
            axes.plot(line.x, line.y, **style)
    _ticks(axes, chart)
    if chart.from_zero and "y" not in chart.log:
        axes.set_ylim(bottom=0)
    legend(axes, chart)
    return figure


def legend(axes: Any, chart: Chart) -> None:
    """What each line is; nothing where no line has a label."""
    if not [label for label in axes.get_legend_handles_labels()[1] if label]:
        return
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if chart.beside else {}
    axes.legend(fontsize="small", title=chart.legend_title, title_fontsize="small", frameon=not chart.beside, **place)


def save(figure: Any, path: Path) -> None:
    """Write PNG or SVG by the ending, the same bytes for the same content."""
    from matplotlib import rc_context

    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with rc_context({"svg.hashsalt": SALT}):
        figure.savefig(path, dpi=DOTS, metadata=metadata)


def _ticks(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if chart.marks and len(chart.marks) <= MAX_TICKS:
        words = chart.mark_words or [plain(mark) for mark in chart.marks]
        axes.set_xticks(list(chart.marks), labels=list(words))
        axes.set_xticks([], minor=True)
    if "y" in chart.log:
        low, high = axes.get_ylim()
        if high / low < FEW_DECADES:  # powers of ten alone would be one or two marks
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())


def plain(value: float) -> str:
    """A number as a person writes it."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:g}"
