"""Reads an experiment file: a grid of settings, what its studies open, and the pictures to draw.

Keys of the grid have the names they have in an agreement, beside those of the
tables (`records`, `overlap`, `features`, `correlation`). Whether an agreement
may say what the grid says is not repeated here: the agreements of all points
are made and read, with tables of a few rows, before anything runs.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from pipeline import __version__
from pipeline.agreement import Gate, Join, Model, ModelKind, Open, Study, canonical_json
from pipeline.config import load_agreement
from pipeline.datasets import CORRELATIONS, StudyData, agreement_text, correlated, rand_hie
from pipeline.errors import ConfigError
from pipeline.toml_reader import Table, as_number, nearest, read_toml, repeated, shown

Data = Literal["correlated", "rand-hie"]
Subject = Literal["points", "path", "cv"]
Value = int | float | str | tuple[float, ...]
Settings = Mapping[str, Value]

MAX_POINTS = 2000
MAX_REPETITIONS = 100
MAX_SEED = 2**32 - 1
MAX_PICTURES = 50
RECORDS = (10, 1_000_000)
FEATURES = (2, 1000)

DATA: tuple[Data, ...] = ("correlated", "rand-hie")
SUBJECTS: tuple[Subject, ...] = ("points", "path", "cv")
DEFAULTS: Mapping[Data, Settings] = MappingProxyType(
    {
        "correlated": {"records": 400, "overlap": 0.8, "features": 10, "correlation": "independent"},
        "rand-hie": {"records": 5000, "overlap": 0.75},
    }
)
JOIN_KEYS = tuple(each.name for each in fields(Join))
MODEL_KEYS = ("kind", "alpha", "alphas", "n_alphas", "alpha_min_ratio", "folds", "rule", "l1_ratio", "tolerance")
PENALTY_KEYS = ("alpha", "alphas", "n_alphas", "alpha_min_ratio", "l1_ratio")


@dataclass(frozen=True)
class Measure:
    """A number of each point in the results: what it is, in which unit, for a picture."""

    words: str
    unit: str = ""


SD = "standard deviations"
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "matches": Measure("matched records"),
        "iterations": Measure("iterations"),
        "rounds": Measure("rounds of step 8"),
        "seconds_wall": Measure("whole run", "seconds"),
        "seconds_prepare": Measure("preparation", "seconds"),
        "seconds_join": Measure("join", "seconds"),
        "seconds_share": Measure("secret sharing", "seconds"),
        "seconds_lasso": Measure("fit on shares", "seconds"),
        "sent_bytes": Measure("sent by all parties together", "bytes"),
        "hiding_bits": Measure("statistical hiding of what was opened under masks", "bits"),
        "chosen_alpha": Measure("chosen penalty"),
        "nonzero": Measure("coefficients that are not zero"),
        "r2": Measure("R²"),
        "r2_reference": Measure("R² of scikit-learn"),
        "condition": Measure("condition number of the features' correlations"),
        "coefficient_difference": Measure("largest difference of a coefficient", SD),
        "fitted_difference": Measure("largest difference of a fitted value", SD),
    }
)


@dataclass(frozen=True)
class Axis:
    """A key of the grid. `read` returns None for what is no value of it; `wanted` says what one is."""

    words: str
    wanted: str
    read: Callable[[object], Value | None]


def _whole(low: int, high: int) -> Callable[[object], int | None]:
    def read(value: object) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None

    return read


def _number(low: float = -math.inf, high: float = math.inf) -> Callable[[object], float | None]:
    def read(value: object) -> float | None:
        number = as_number(value)
        return number if number is not None and low <= number <= high else None

    return read


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _numbers(value: object) -> tuple[float, ...] | None:
    numbers = [as_number(item) for item in value] if isinstance(value, list) else []
    return cast("tuple[float, ...]", tuple(numbers)) if numbers and None not in numbers else None


def _overlap(value: object) -> float | None:
    number = as_number(value)
    return number if number is not None and 0 < number <= 1 else None


def _correlation(value: object) -> float | str | None:
    if isinstance(value, str):
        return value if value in CORRELATIONS else None
    number = as_number(value)
    return number if number is not None and 0 <= number < 1 else None


ANY_WHOLE = _whole(0, 1 << 31)
AXES: Mapping[str, Axis] = MappingProxyType(
    {
        "records": Axis("matched records", "a whole number from {} to {}".format(*RECORDS), _whole(*RECORDS)),
        "overlap": Axis("matched records per row of a table", "a number above 0 and at most 1", _overlap),
        "features": Axis("features", "a whole number from {} to {}".format(*FEATURES), _whole(*FEATURES)),
        "correlation": Axis(
            "correlation of the features",
            f"a number of at least 0 and below 1, or {', '.join(map(shown, CORRELATIONS))}",
            _correlation,
        ),
        "kind": Axis("kind of model", "text", _text),
        "alpha": Axis("alpha", "a number", _number()),
        "alphas": Axis("alphas", "a list of numbers", _numbers),
        "n_alphas": Axis("number of penalties", "a whole number", ANY_WHOLE),
        "alpha_min_ratio": Axis("smallest penalty over the largest", "a number", _number()),
        "folds": Axis("folds", "a whole number", ANY_WHOLE),
        "rule": Axis("rule", "text", _text),
        "l1_ratio": Axis("l1 ratio", "a number", _number()),
        "tolerance": Axis("tolerance", "a number", _number()),
        "paillier_bits": Axis("bits of the Paillier keys", "a whole number", ANY_WHOLE),
        "keys": Axis("keys", "text", _text),
    }
)


@dataclass(frozen=True)
class Point:
    """One study to run. settings : by key of AXES, in that order, those that apply to it."""

    settings: Settings
    repetition: int = 1


@dataclass(frozen=True)
class Picture:
    """What to draw, as `docs/experiments.md` explains; x, y, series and log are for "points" only."""

    name: str
    of: Subject = "points"
    title: str = ""
    x: str = ""
    y: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    where: Settings = field(default_factory=dict)
    x_label: str | None = None
    y_label: str | None = None

    def takes(self, settings: Settings) -> bool:
        """Whether a point with these settings is in the picture."""
        return all(settings.get(key) == value for key, value in self.where.items())


@dataclass(frozen=True)
class Experiment:
    """An experiment file, checked; all first repetitions come before the second ones."""

    name: str
    title: str
    data: Data
    seed: int
    points: tuple[Point, ...]
    open: Mapping[str, object]
    gate: Mapping[str, object]
    pictures: tuple[Picture, ...]

    def digest(self, point: Point) -> str:
        """What tells a point from all others whose results would be different; 16 hexadecimal digits."""
        content = {
            "version": __version__,
            "data": self.data,
            "seed": self.seed,
            "repetition": point.repetition,
            "settings": dict(point.settings),
            "open": dict(self.open),
            "gate": dict(self.gate),
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()[:16]

    def tables(self, point: Point) -> StudyData:
        """The tables of a point: the same for all points whose tables have the same settings. Raises ConfigError."""
        return _tables(self.data, point.settings, (self.seed, point.repetition))

    def sections(self, point: Point) -> dict[str, Mapping[str, object]]:
        """The tables of the point's agreement, but [[party]]."""
        return _sections(point.settings, self.open, self.gate)


def model_of(settings: Settings, alpha: float) -> Model:
    """The model of a point with the penalty that was used, for `reference.plain_fit`."""
    kind = cast(ModelKind, settings.get("kind", Model.kind))
    ratio = {"lasso": 1.0, "ols": 1.0, "ridge": 0.0}.get(kind, settings.get("l1_ratio"))
    return Model(alpha, kind=kind, l1_ratio=cast(float, ratio))


def _tables(data: Data, settings: Settings, seed: tuple[int, int]) -> StudyData:
    records, overlap = cast(int, settings["records"]), cast(float, settings["overlap"])
    if data == "rand-hie":
        rows = round(records / overlap)
        return rand_hie(records, rows, rows, seed[0] + seed[1] - 1)
    features, correlation = cast(int, settings["features"]), cast("float | str", settings["correlation"])
    return correlated(records, overlap, features, correlation, seed)


def _sections(
    settings: Settings, opened: Mapping[str, object], gate: Mapping[str, object]
) -> dict[str, Mapping[str, object]]:
    enough = min(cast(int, settings["records"]), Study.min_records)
    sections: dict[str, Mapping[str, object]] = {
        "study": {"min_records": enough},
        "join": {key: settings[key] for key in JOIN_KEYS if key in settings},
        "model": {key: settings[key] for key in MODEL_KEYS if key in settings},
    }
    return sections | {name: values for name, values in (("open", opened), ("gate", gate)) if values}


# --- the file -------------------------------------------------------------------------------------


def read_experiment(path: Path) -> Experiment:
    """Read the file and find every fault in it. Raises ConfigError."""
    faults: list[str] = []
    values = read_toml(path, faults, "give the path of an experiment file")
    if values is None:
        raise ConfigError(faults)
    top = Table(values, path.name, "", faults)
    top.refuse_unknown(("title", "data", "seed", "repetitions", "grid", "open", "gate", "picture"))
    data = cast("Data | None", top.choice("data", DATA, hint=True)) or "correlated"
    seed = top.whole("seed", 0, MAX_SEED)
    repetitions = top.whole("repetitions", 1, MAX_REPETITIONS) or 1
    opened, gate = _plain(top, "open", Open), _plain(top, "gate", Gate)
    before = len(faults)
    grid = _grid(top, data)
    points = _points(top, grid, repetitions) if len(faults) == before else ()
    faults += _agreement_faults(path.name, data, points, opened, gate)
    pictures = _pictures(top, data, grid, opened, points)
    if faults:
        raise ConfigError(faults)
    title = top.text("title") or path.stem
    return Experiment(path.stem, title, data, 1 if seed is None else seed, points, opened, gate, pictures)


def _plain(top: Table, name: str, kind: type) -> dict[str, object]:
    """What is right in [open] or [gate], as written; the agreement's own reader looks at the values."""
    table = top.table(name, f"write [{name}] above its keys")
    known = [each.name for each in fields(kind)]
    table.refuse_unknown(known)
    found: dict[str, object] = {}
    for key, value in table.values.items():
        if isinstance(value, bool | str) or as_number(value) is not None:
            found |= {key: value} if key in known else {}
        else:
            table.fault(key, "must be true or false, a finite number or text")
    return found


def _grid(top: Table, data: Data) -> dict[str, tuple[Value, ...]]:
    """The values of each axis, in the order of AXES; defaults of the tables filled in."""
    top.require("grid", "write [grid] above the settings to go through")
    table = top.table("grid", "write [grid] above the settings to go through")
    table.refuse_unknown(AXES)
    of_tables = {key for settings in DEFAULTS.values() for key in settings}
    grid: dict[str, tuple[Value, ...]] = {}
    for key, axis in AXES.items():
        if key in table.values:
            if key in of_tables and key not in DEFAULTS[data]:
                table.fault(key, f'is not for data = "{data}", whose tables are given')
            grid[key] = _values(table, key, axis)
        elif key in DEFAULTS[data]:
            grid[key] = (DEFAULTS[data][key],)
    return grid


def _values(table: Table, key: str, axis: Axis) -> tuple[Value, ...]:
    """A list is gone through, anything else is a list of one; for `alphas` a value is a list itself."""
    written = table.values[key]
    one = key == "alphas" and not (isinstance(written, list) and all(isinstance(item, list) for item in written))
    items = [written] if one or not isinstance(written, list) else written
    values = [axis.read(item) for item in items]
    found = [value for value in values if value is not None]
    if not items:
        table.fault(key, f"must not be empty; give {axis.wanted}, or a list of such")
    elif len(found) < len(values):
        table.fault(key, f"must be {axis.wanted}, or a list of such")
    for value in repeated(found):
        table.fault(key, f"has {shown(str(value))} more than once")
    return tuple(found)


def _points(top: Table, grid: Mapping[str, tuple[Value, ...]], repetitions: int) -> tuple[Point, ...]:
    """Every combination once; settings that a kind of model does not have are left out."""
    size = math.prod(map(len, grid.values())) * repetitions
    if size > MAX_POINTS:
        lengths = " x ".join(str(len(values)) for values in grid.values() if len(values) > 1)
        times = f", {repetitions} repetitions" if repetitions > 1 else ""
        top.fault("grid", f"comes to {size:,} points ({lengths}{times}); the most is {MAX_POINTS:,}")
        return ()
    combinations = (_applying(dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values()))
    distinct = list({tuple(settings.items()): settings for settings in combinations}.values())
    return tuple(Point(settings, number) for number in range(1, repetitions + 1) for settings in distinct)


def _applying(settings: dict[str, Value]) -> dict[str, Value]:
    kind = settings.get("kind", Model.kind)
    useless = PENALTY_KEYS if kind == "ols" else () if kind == "elastic-net" else ("l1_ratio",)
    return {key: value for key, value in settings.items() if key not in useless}


def _agreement_faults(
    name: str, data: Data, points: Sequence[Point], opened: Mapping[str, object], gate: Mapping[str, object]
) -> list[str]:
    """What the agreement's reader finds in the agreements of the points, each once."""
    found: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        for text in dict.fromkeys(_agreements(data, points, opened, gate)):
            file.write_text(text, encoding="utf-8")
            try:
                load_agreement(file, require_certificates=False)
            except ConfigError as error:
                found |= dict.fromkeys(fault.removeprefix("study.toml: ") for fault in error.faults)
    return [f"{name}: the agreement of a point would be refused: {fault}" for fault in found]


def _agreements(
    data: Data, points: Sequence[Point], opened: Mapping[str, object], gate: Mapping[str, object]
) -> Iterator[str]:
    urls = [f"https://127.0.0.1:{port}" for port in (1, 2, 3)]
    few: Settings = {"records": RECORDS[0], "overlap": 0.5}
    shapes: dict[Value, StudyData] = {}
    for point in points:
        width = point.settings.get("features", 0)
        if width not in shapes:
            shapes[width] = _tables(data, {**point.settings, **few}, (0, 1))
        yield agreement_text(shapes[width], urls, 0, sections=_sections(point.settings, opened, gate))


# --- pictures -------------------------------------------------------------------------------------

_COMMON = ("name", "of", "title", "where", "x_label", "y_label")
_POINTS_ONLY = ("x", "y", "series", "log")


def _pictures(
    top: Table, data: Data, grid: Mapping[str, tuple[Value, ...]], opened: Mapping[str, object], points: Sequence[Point]
) -> tuple[Picture, ...]:
    tables = top.values.get("picture", [])
    if not isinstance(tables, list) or not all(isinstance(values, dict) for values in tables):
        top.fault("picture", "is no list of tables; write [[picture]] above the keys of each picture")
        return ()
    if len(tables) > MAX_PICTURES:
        top.fault("picture", f"is there {len(tables)} times; the most is {MAX_PICTURES}")
        return ()
    readers = [
        _PictureReader(Table(values, top.file, f"picture {number}: ", top.faults), grid, opened, points)
        for number, values in enumerate(tables, start=1)
    ]
    pictures = [reader.read() for reader in readers]
    for name in repeated(picture.name for picture in pictures if picture.name):
        top.fault("picture", f"has the name {shown(name)} more than once")
    return tuple(pictures)


@dataclass(frozen=True)
class _PictureReader:
    table: Table
    grid: Mapping[str, tuple[Value, ...]]
    opened: Mapping[str, object]
    points: Sequence[Point]

    def read(self) -> Picture:
        table = self.table
        subject = cast("Subject | None", table.choice("of", SUBJECTS, hint=True)) or "points"
        table.refuse_unknown((*_COMMON, *_POINTS_ONLY) if subject == "points" else _COMMON)
        picture = Picture(
            name=self._name(),
            of=subject,
            title=table.text("title") or "",
            where=self._where(),
            x_label=table.text("x_label"),
            y_label=table.text("y_label"),
        )
        if subject == "points":
            return self._of_points(picture)
        self._check_single(picture)
        return picture

    def _name(self) -> str:
        self.table.require("name", "give the name of its files, without an ending")
        name = self.table.text("name") or ""
        if name and not re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", name):
            self.table.fault("name", 'must be 1 to 63 of the signs a to z, 0 to 9 and "-"')
        return name

    def _where(self) -> dict[str, Value]:
        where = self.table.table("where", "write for example { alpha = 0.1 }")
        found: dict[str, Value] = {}
        for key, written in where.values.items():
            values = self.grid.get(key, ())
            value = AXES[key].read(written) if key in AXES else None
            if key not in self.grid:
                near = f'; the nearest key that is there is "{nearest(key, self.grid)}"' if self.grid else ""
                where.fault(key, f"is no key of the grid{near}")
            elif value is None or value not in values:
                where.fault(key, "is none of its values in the grid")
            else:
                found[key] = value
        return found

    def _of_points(self, picture: Picture) -> Picture:
        table = self.table
        for key in ("x", "y"):
            table.require(key, "name a column of results.csv")
        x = self._column("x", table.values.get("x"), (*self.grid, *MEASURES))
        y = self._columns("y", tuple(MEASURES))
        series = self._columns("series", tuple(self.grid))
        log = self._columns("log", ("x", "y"))
        if "x" in log and any(isinstance(value, str) for value in self.grid.get(x, ())):
            table.fault("log", f'cannot hold "x": {x} has values that are no numbers')
        for key in self._unmentioned(picture.where, (x, *series)) if x in self.grid else ():
            table.fault("series", f"does not hold {key}, which has several values; add it, or choose one with where")
        return Picture(
            picture.name, "points", picture.title, x, y, series, log, picture.where, picture.x_label, picture.y_label
        )

    def _columns(self, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """A name or a list of names."""
        written = self.table.values.get(key, [])
        names = written if isinstance(written, list) else [written]
        found = [self._column(key, name, known) for name in names]
        for name in repeated(name for name in found if name):
            self.table.fault(key, f"names {shown(name)} more than once")
        return tuple(name for name in found if name)

    def _column(self, key: str, name: object, known: tuple[str, ...]) -> str:
        if name is None or (isinstance(name, str) and name in known):
            return name or ""
        if not isinstance(name, str):
            self.table.fault(key, "must be a name or a list of names")
        elif known:
            self.table.fault(key, f'cannot be {shown(name)}; the nearest known one is "{nearest(name, known)}"')
        return ""

    def _unmentioned(self, where: Settings, named: Sequence[str]) -> list[str]:
        """Keys in which the points of the picture differ and which would be mixed in one line."""
        chosen = [point.settings for point in self.points if Picture("", where=where).takes(point.settings)]
        return [
            key
            for key, values in self.grid.items()
            if len(values) > 1 and key not in named and len({settings.get(key) for settings in chosen}) > 1
        ]

    def _check_single(self, picture: Picture) -> None:
        key, value = ("model", "path") if picture.of == "path" else ("cv_curve", True)
        if self.opened.get(key) != value:
            written = f'{key} = "path"' if picture.of == "path" else f"{key} = true"
            self.table.fault("of", f"needs {written} in [open]")
        count = len({tuple(p.settings.items()) for p in self.points if picture.takes(p.settings)})
        if count > 1:
            self.table.fault("where", f"leaves {count} points; such a picture is of one")
