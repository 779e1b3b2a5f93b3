"""Plots as SVG: lines over the penalty, errors over the penalty, dots with intervals.

Each function returns one `<svg>` element without styles of its own: colours,
fonts and dashes belong to the classes named here, which `report.py` defines for
light, dark and print. A plot exists in two sizes, WIDE and NARROW, because
scaling a wide one to a telephone makes its text unreadable. Every text is
escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLES = 8  # of lines: so many have a number, a dash and a colour of their own
ROW = 15.0  # between two labels, at least
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Size:
    """Lengths in pixels; `character` is the mean width of one."""

    name: str
    width: float
    height: float
    left: float
    right: float  # with labels of lines
    top: float = 62.0
    bottom: float = 46.0
    character: float = 7.2
    ticks: int = 7


WIDE = Size("wide", 840, 450, 66, 250)
NARROW = Size("narrow", 350, 330, 50, 28, ticks=4)


@dataclass(frozen=True)
class Words:
    """What a plot is called; `ident` begins the ids of its elements."""

    ident: str
    title: str
    about: str
    value: str  # what the axis of values shows


@dataclass(frozen=True)
class Line:
    """`values` has one for each penalty; `style` is from 1 to STYLES, 0 for a line without a name."""

    name: str
    values: Sequence[float]
    style: int


@dataclass(frozen=True)
class Mark:
    """A penalty that is marked; `main` is the chosen one."""

    alpha: float
    text: str
    main: bool = False


@dataclass(frozen=True)
class Dot:
    """`low` and `high` are None without an interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Scale:
    """Maps values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


# --- the plots ------------------------------------------------------------------------------------


def path_plot(alphas: Sequence[float], lines: Sequence[Line], marks: Sequence[Mark], words: Words, size: Size) -> str:
    """Coefficients over the penalty, the largest penalty at the left; at least two penalties."""
    x = _Penalties(alphas, size.left, size.width - size.right)
    values = [value for line in lines for value in line.values] or [0.0]
    y = _value_scale([0.0, *values], size.height - size.bottom, size.top)
    parts = [*_value_axis(y, x, words, size), *x.axis(size), *_marks(marks, x, size)]
    ordered = sorted(lines, key=lambda line: line.style == 0, reverse=True)  # those with a name on top
    for line in ordered:
        points = " ".join(f"{x.at(a):.1f},{y.at(v):.1f}" for a, v in zip(alphas, line.values, strict=True))
        kind = f"line s{line.style}" if line.style else "line rest"
        parts.append(f'<polyline class="{kind}" points="{points}"><title>{_text(line.name)}</title></polyline>')
    named = [line for line in lines if line.style]
    parts += _end_labels([(y.at(line.values[-1]), line) for line in named], x.at(alphas[-1]), x.end, size)
    return _svg(parts, words, size, size.height)


def error_plot(
    alphas: Sequence[float],
    mean: Sequence[float],
    half: Sequence[float],
    marks: Sequence[Mark],
    words: Words,
    size: Size,
) -> str:
    """Errors over the penalty, each with a bar of `half` to both sides (none if empty); at least two penalties."""
    x = _Penalties(alphas, size.left, size.width - 20)
    around = half or [0.0] * len(mean)
    ends = [m + sign * h for m, h in zip(mean, around, strict=True) for sign in (-1, 1)]
    y = _value_scale(ends, size.height - size.bottom, size.top)
    cap = min(4.0, (x.end - x.start) / len(alphas) / 3)
    parts = [*_value_axis(y, x, words, size), *x.axis(size), *_marks(marks, x, size)]
    for alpha, value, h in zip(alphas, mean, around, strict=True):
        place = x.at(alpha)
        if h:
            low, high = y.at(value - h), y.at(value + h)
            parts.append(
                f'<path class="bar" d="M{place:.1f} {low:.1f}V{high:.1f}'
                f'M{place - cap:.1f} {low:.1f}h{2 * cap:.1f}M{place - cap:.1f} {high:.1f}h{2 * cap:.1f}"/>'
            )
        parts.append(f'<circle class="dot" cx="{place:.1f}" cy="{y.at(value):.1f}" r="3"/>')
    return _svg(parts, words, size, size.height)


def dot_plot(dots: Sequence[Dot], words: Words, size: Size) -> str:
    """One row a dot; a dot is hollow where its interval holds 0. Narrow: the name stands above its row."""
    above = size is NARROW
    left = 4.0 if above else min(330.0, max(len(dot.name) for dot in dots) * size.character + 24)
    pitch, top = (34.0, 44.0) if above else (22.0, 44.0)
    bottom = top + pitch * len(dots)
    ends = [v for dot in dots for v in (dot.value, dot.low, dot.high) if v is not None]
    x = _value_scale([0.0, *ends], left, size.width - 20)
    parts = [f'<text class="axis" x="{left:.1f}" y="12">{_text(words.value)}</text>']
    for value, text in _ticks(x, size.ticks if above else size.ticks + 1):
        kind = "zero" if value == 0.0 else "grid"
        parts.append(f'<path class="{kind}" d="M{x.at(value):.1f} {top - 6:.1f}V{bottom:.1f}"/>')
        for place in (top - 12, bottom + 16):
            parts.append(f'<text class="axis" text-anchor="middle" x="{x.at(value):.1f}" y="{place:.1f}">{text}</text>')
    for i, dot in enumerate(dots):
        y = top + pitch * (i + 0.5) + (7 if above else 0)
        room = size.width - left if above else left - 14
        start, base = (left, y - 11) if above else (left - 10, y + 4)
        parts.append(_name(dot.name, start, base, "start" if above else "end", room / size.character))
        parts += _dot(dot, x, y)
    return _svg(parts, words, size, bottom + 26)


def style_sample(style: int) -> str:
    """A short piece of a line, for a legend."""
    kind = f"s{style}" if style else "rest"
    path = f'<path class="line {kind}" d="M1 6h44"/>'
    return f'<svg class="sample" width="46" height="12" viewBox="0 0 46 12" aria-hidden="true">{path}</svg>'


def shorten(text: str, characters: int) -> str:
    """At most so many characters, the middle left out: names differ at their ends."""
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    return f"{text[:head]}…{text[len(text) - (characters - 1 - head) :]}"


def power_text(value: float) -> str:
    """A short form of a tick: 0.001, 1000 or 10⁻⁵, 2·10⁶."""
    if value == 0.0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:.6g}".replace("-", "−")
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = f"{value / 10.0**exponent:.4g}"
    power = f"10{str(exponent).translate(SUPERSCRIPT)}"
    return power if factor == "1" else f"{factor}·{power}".replace("-", "−")


# --- their parts ----------------------------------------------------------------------------------


class _Penalties:
    """The logarithmic axis of penalties; 0, which has no logarithm, stands a little to the right of all others."""

    def __init__(self, alphas: Sequence[float], start: float, end: float) -> None:
        logs = [math.log10(alpha) for alpha in alphas if alpha > 0.0] or [0.0]
        self._top, self._bottom = max(logs), min(logs)
        self._nothing = self._bottom - max(0.12 * (self._top - self._bottom), 0.3)
        self._has_nothing = min(alphas) <= 0.0
        low = self._nothing if self._has_nothing else self._bottom
        margin = 0.02 * (self._top - low) or 0.5
        self.start, self.end = start, end
        self._scale = _Scale(self._top + margin, low - margin, start, end)

    def at(self, alpha: float) -> float:
        return self._scale.at(math.log10(alpha) if alpha > 0.0 else self._nothing)

    def axis(self, size: Size) -> list[str]:
        base = size.height - size.bottom
        parts = [f'<path class="frame" d="M{self.start:.1f} {base:.1f}H{self.end:.1f}"/>']
        for alpha in self._ticks(size):
            place = self.at(alpha)
            parts.append(f'<path class="frame" d="M{place:.1f} {base:.1f}v5"/>')
            parts.append(
                f'<text class="axis" text-anchor="middle" x="{place:.1f}" y="{base + 18:.1f}">'
                f"{power_text(alpha)}</text>"
            )
        middle = (self.start + self.end) / 2
        title = "alpha, largest first (logarithmic)"
        parts.append(f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{base + 38:.1f}">{title}</text>')
        return parts

    def _ticks(self, size: Size) -> list[float]:
        """Powers of ten, or 1, 2 and 5 times these, as many as have room."""
        decades = range(math.floor(self._bottom), math.ceil(self._top) + 1)
        room = (self.end - self.start) / (8 * size.character)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            ticks = [f * 10.0**e for e in decades for f in factors if self._holds(math.log10(f) + e)]
            if len(ticks) <= room:
                break
        if len(ticks) < 2:
            ticks = [float(f"{10.0**end:.4g}") for end in (self._bottom, self._top)]
        step = math.ceil(len(ticks) / max(room, 1.0))
        return [*dict.fromkeys(ticks[::-1][::step]), *([0.0] if self._has_nothing else [])]

    def _holds(self, log: float) -> bool:
        return self._bottom - 1e-9 <= log <= self._top + 1e-9


def _value_scale(values: Iterable[float], start: float, end: float) -> _Scale:
    """From the least to the largest value, and some room."""
    values = list(values)
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    return _Scale(low - 0.04 * spread, high + 0.04 * spread, start, end)


def _ticks(scale: _Scale, count: int) -> list[tuple[float, str]]:
    """Round values within the scale, about `count` of them, with their texts."""
    rough = (scale.high - scale.low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(f * magnitude for f in (1, 2, 5, 10) if f * magnitude >= rough * 0.999)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    largest = max(abs(first), abs(last)) * step
    plain = 1e-5 <= step and largest < 1e6
    values = [i * step for i in range(first, last + 1)]
    return [(v, f"{v:.{decimals}f}".replace("-", "−") if plain else power_text(float(f"{v:.6g}"))) for v in values]


def _value_axis(y: _Scale, x: _Penalties, words: Words, size: Size) -> list[str]:
    parts = [f'<text class="axis" x="4" y="13">{_text(words.value)}</text>']
    for value, text in _ticks(y, size.ticks):
        place = y.at(value)
        kind = "zero" if value == 0.0 else "grid"
        parts.append(f'<path class="{kind}" d="M{x.start:.1f} {place:.1f}H{x.end:.1f}"/>')
        parts.append(f'<text class="axis" text-anchor="end" x="{x.start - 8:.1f}" y="{place + 4:.1f}">{text}</text>')
    return parts


def _marks(marks: Sequence[Mark], x: _Penalties, size: Size) -> list[str]:
    """A vertical line each, with its text above; texts of neighbours stand in different rows."""
    parts = []
    for row, mark in enumerate(sorted(marks, key=lambda mark: x.at(mark.alpha))):
        place, y = x.at(mark.alpha), 34.0 + 16.0 * (row % 2)
        half = len(mark.text) * size.character / 2
        middle = min(max(place, half + 2), size.width - half - 2)
        kind = "mark main" if mark.main else "mark"
        parts.append(f'<path class="{kind}" d="M{place:.1f} {y + 4:.1f}V{size.height - size.bottom:.1f}"/>')
        parts.append(f'<text class="axis" text-anchor="middle" x="{middle:.1f}" y="{y:.1f}">{_text(mark.text)}</text>')
    return parts


def _end_labels(ends: Sequence[tuple[float, Line]], start: float, x: float, size: Size) -> list[str]:
    """Number and name of each line behind its end, moved apart where they would overlap."""
    ordered = sorted(ends, key=lambda end: end[0])
    places = spread([y for y, _ in ordered], size.top, size.height - size.bottom)
    parts = []
    for (y, line), place in zip(ordered, places, strict=True):
        text = str(line.style) if size is NARROW else f"{line.style} {line.name}"
        parts.append(f'<path class="leader" d="M{start:.1f} {y:.1f}H{x:.1f}L{x + 10:.1f} {place:.1f}"/>')
        parts.append(_name(text, x + 13, place + 4, "start", (size.right - 16) / size.character))
    return parts


def spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """Ascending places moved as little as it takes to lie ROW apart and, if they have room, within [low, high]."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + ROW if moved else low))
    limit = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - ROW
    return moved


def _dot(dot: Dot, x: _Scale, y: float) -> list[str]:
    if dot.low is None or dot.high is None:
        line = f'<path class="bar" d="M{x.at(0.0):.1f} {y:.1f}H{x.at(dot.value):.1f}"/>'
        return [line, f'<circle class="dot" cx="{x.at(dot.value):.1f}" cy="{y:.1f}" r="4"/>']
    low, high = x.at(dot.low), x.at(dot.high)
    kind = "dot hollow" if dot.low <= 0.0 <= dot.high else "dot"
    return [
        f'<path class="bar" d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"/>',
        f'<circle class="{kind}" cx="{x.at(dot.value):.1f}" cy="{y:.1f}" r="4"/>',
    ]


def _name(name: str, x: float, y: float, anchor: str, characters: float) -> str:
    short = shorten(name, int(characters))
    title = f"<title>{_text(name)}</title>" if short != name else ""
    return f'<text class="name" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{title}{_text(short)}</text>'


def _svg(parts: Iterable[str], words: Words, size: Size, height: float) -> str:
    ident = f"{words.ident}-{size.name}"
    head = (
        f'<svg class="plot {size.name}" role="img" aria-labelledby="{ident}-title {ident}-about"'
        f' width="{size.width:.0f}" height="{height:.0f}" viewBox="0 0 {size.width:.0f} {height:.0f}">'
        f'<title id="{ident}-title">{_text(words.title)}</title><desc id="{ident}-about">{_text(words.about)}</desc>'
    )
    return "\n".join([head, *parts, "</svg>"])


def _text(text: str) -> str:
    return escape(text)
