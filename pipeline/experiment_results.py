"""The results of an experiment as files: one row a point, which a later run recognises by its digest.

`results.csv` has the points of the experiment file as it is now, `earlier.csv`
those of former versions of the file, which come back with their settings.
`paths.csv` and `curves.csv` have, where they are opened, the coefficients of
all penalties and the cross-validated errors, one a row. Every file is whole at
any moment: it is replaced, not written into.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError, OwnInputError, Refused
from pipeline.experiment_file import AXES, MEASURES

Row = Mapping[str, str]

STATES = ("state_hospital", "state_insurer", "state_third_party")
COLUMNS = (
    *("digest", "data", "seed", "repetition"),
    *AXES,
    *MEASURES,
    *("state", *STATES, "sentence", "version", "finished"),
)
PATH_COLUMNS = ("digest", "alpha", "term", "coefficient", "standardised", "standardised_reference")
CURVE_COLUMNS = ("digest", "alpha", "mean", "sd", "alpha_min", "alpha_1se")
FINAL = ("0", str(OwnInputError.exit_state), str(Refused.exit_state))
"""States that the same point would end with again; after any other one it is run again."""


@dataclass(frozen=True)
class Outcome:
    """What is written of a point: its row and, where it opened them, its path and its curve."""

    row: Row
    path: tuple[Row, ...] = ()
    curve: tuple[Row, ...] = ()


def text(value: object) -> str:
    """A value as the files have it; a list with spaces, what is not known as nothing."""
    if value is None:
        return ""
    return " ".join(map(text, value)) if isinstance(value, tuple | list) else str(value)


@dataclass
class Results:
    """The files in a folder. `rows` are those of results.csv and earlier.csv by digest."""

    folder: Path
    rows: dict[str, Row] = field(default_factory=dict)
    paths: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    curves: dict[str, tuple[Row, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """What earlier runs have left. Raises ConfigError when it is not theirs."""
        rows = [row for name in ("earlier.csv", "results.csv") for row in _read(folder / name, COLUMNS)]
        return cls(
            folder,
            {row["digest"]: row for row in rows},
            _grouped(_read(folder / "paths.csv", PATH_COLUMNS)),
            _grouped(_read(folder / "curves.csv", CURVE_COLUMNS)),
        )

    def done(self, digest: str) -> bool:
        """Whether the point needs no other run."""
        return digest in self.rows and self.rows[digest]["state"] in FINAL

    def add(self, outcome: Outcome) -> None:
        """Take the place of what there was of this point."""
        digest = outcome.row["digest"]
        self.rows[digest] = outcome.row
        for sheet, rows in ((self.paths, outcome.path), (self.curves, outcome.curve)):
            sheet.pop(digest, None)
            sheet.update({digest: rows} if rows else {})

    def write(self, digests: Sequence[str]) -> None:
        """Write all files; `digests` are the points of the experiment file, in order. Raises ConfigError."""
        present = [self.rows[digest] for digest in digests if digest in self.rows]
        earlier = [row for digest, row in self.rows.items() if digest not in set(digests)]
        # A row of results.csv comes last: who finds it finds the rest.
        self._write("paths.csv", PATH_COLUMNS, [row for rows in self.paths.values() for row in rows])
        self._write("curves.csv", CURVE_COLUMNS, [row for rows in self.curves.values() for row in rows])
        self._write("earlier.csv", COLUMNS, earlier)
        self._write("results.csv", COLUMNS, present, always=True)

    def _write(self, name: str, columns: Sequence[str], rows: Sequence[Row], always: bool = False) -> None:
        path = self.folder / name
        if rows or always or path.exists():
            try:
                write_whole(path, csv_text(columns, rows))
            except OSError as error:
                raise ConfigError(f"{path} cannot be written ({error.strerror}); mend that and start again") from error


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """The rows with a header."""
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sheet.getvalue()


def write_whole(path: Path, content: str) -> None:
    """Replace the file at once, so that whoever reads it sees the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # no secrets; a temporary file is its owner's alone
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, columns: Sequence[str]) -> list[Row]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows: list[Row] = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); name another folder") from error
    if list(reader.fieldnames or []) != list(columns) or any(None in row.values() or None in row for row in rows):
        raise ConfigError(f"{path} is not of an experiment by this version; name another folder or move it away")
    return rows


def _grouped(rows: Iterable[Row]) -> dict[str, tuple[Row, ...]]:
    groups: dict[str, tuple[Row, ...]] = {}
    for row in rows:
        groups[row["digest"]] = (*groups.get(row["digest"], ()), row)
    return groups
