"""The `check` command: agreement, local file and table of one party, with every fault in one go; talks to nobody."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline import bounds, config
from pipeline.config import Agreement, Local, Party
from pipeline.errors import DataError, RangeError
from pipeline.fixed_point import encode, encoded_columns
from pipeline.matching import permutation
from pipeline.messages import MAX_ROWS
from pipeline.pins import fingerprint, in_lines
from pipeline.preprocess import IdentifierSummary, TableSummary, prepare
from pipeline.progress import print_table

FAR = 1000


@dataclass(frozen=True)
class Report:
    """What was found. `agreement` and `table` are None where faults do not allow them."""

    faults: tuple[str, ...]
    agreement: Agreement | None
    party_id: int
    table: TableSummary | None
    far: tuple[str, ...] = ()  # columns with a value far from the rest


def check(path: Path, party_id: int, local: Path | None = None) -> Report:
    """Read everything a run of this party would read, and find every fault."""
    found = config.survey(path, party_id, local, smallest_tolerance=bounds.smallest_tolerance)
    faults = list(found.faults)
    if found.agreement is not None:
        faults += _range_faults(found.agreement)
    table: TableSummary | None = None
    far: tuple[str, ...] = ()
    if found.table is not None:
        fit_intercept = found.agreement is None or found.agreement.model.fit_intercept
        table, far = _check_table(*found.table, bounds.offset_bits(fit_intercept), faults)
    return Report(tuple(faults), found.agreement, party_id, table, far)


def _range_faults(agreement: Agreement) -> list[str]:
    model = agreement.model
    try:
        bounds.plan(
            MAX_ROWS, len(agreement.names), fit_intercept=model.fit_intercept, max_iterations=model.max_iterations
        )
    except RangeError as error:
        return list(error.faults)
    return []


def _check_table(
    party: Party, local: Local, offset_bits: int, faults: list[str]
) -> tuple[TableSummary | None, tuple[str, ...]]:
    try:
        prepared = prepare(party, local, permutation=lambda n: permutation(n, secrets.token_bytes))
    except DataError as error:
        faults += error.faults
        return None, ()
    try:
        encode(prepared.values, party, offset_bits)
    except DataError as error:
        faults += [f"{local.data}: {fault}" for fault in error.faults]
    return prepared.summary, _far(party, prepared.values)


def _far(party: Party, values: NDArray[np.float64]) -> tuple[str, ...]:
    """Columns whose half range is more than FAR times the median distance to the median, unless a range is declared.

    Such a value sets the scale of its column, whether it belongs to a match or
    not, and little precision is left for the others.
    """
    found = []
    for place, (name, declared) in enumerate(encoded_columns(party)):
        column = values[:, place]
        halves = column / 2  # a difference of two of them does not overflow
        typical = float(np.median(np.abs(halves - np.median(halves))))
        if declared is None and typical and float(np.ptp(halves)) / 2 / FAR > typical:
            found.append(name)
    return tuple(found)


def print_report(report: Report, console: Console) -> None:
    """Print what a person wants to see before a run; no values."""
    if report.agreement is not None:
        _print_agreement(report.agreement, report.party_id, console)
    if report.table is not None:
        _print_table(report.table, report.agreement, console)
        for column in report.far:
            console.print(
                f"  {column} has a value very far from the rest, which costs the others precision: is it right?"
                " A run may be refused; a declared range makes such a value an error",
                soft_wrap=True,
            )
    if not report.faults:
        console.print("No fault found.")


def _print_agreement(agreement: Agreement, party_id: int, console: Console) -> None:
    console.print(f"Study {agreement.study.name}, digest of the agreement:", highlight=False, soft_wrap=True)
    _print_digest(agreement.digest, console)
    console.print("Parties; compare the fingerprints with their owners, by telephone:")
    for party in agreement.parties:
        mark = ", this party" if party.id == party_id else ""
        console.print(f"  {party.id} {party.name} ({party.role}{mark}) {party.url}", highlight=False, soft_wrap=True)
        for der in party.certificates:
            _print_digest(fingerprint(der), console)


def _print_digest(digest: str, console: Console) -> None:
    for line in in_lines(digest):
        console.print(f"      {line}", highlight=False, soft_wrap=True)


def _print_table(summary: TableSummary, agreement: Agreement | None, console: Console) -> None:
    console.print(f"{summary.file}: {summary.read} rows read, {summary.complete} complete", soft_wrap=True)
    for column, count in summary.dropped.items():
        console.print(f"  dropped for a missing value in {column}: {count}")
    for identifier in summary.identifiers:
        console.print(f"  identifier {identifier.column}: {_looks(identifier)}")
    table = Table(title="Columns")
    for heading in ("column", "kind", "missing", "complete rows of each level"):
        table.add_column(heading)
    for entry in summary.columns:
        levels = ", ".join(f"{level}: {count}" for level, count in entry.levels.items())
        table.add_row(entry.column, entry.kind, str(entry.missing), levels)
    if summary.outcome is not None:
        table.add_row(summary.outcome, "outcome", str(summary.dropped.get(summary.outcome, 0)), "")
    print_table(table, console)
    for words, names in (("constant", summary.constant), ("nearly constant", summary.nearly_constant)):
        if names:
            console.print(f"  {words} over the complete rows: {', '.join(names)}", soft_wrap=True)
    if agreement is not None and summary.complete < agreement.study.min_records:
        console.print(
            f"  fewer complete rows than min_records = {agreement.study.min_records}: a run would be refused",
            soft_wrap=True,
        )


def _looks(identifier: IdentifierSummary) -> str:
    if identifier.shortest == identifier.longest:
        length = f"{identifier.shortest} characters"
    else:
        length = f"{identifier.shortest} to {identifier.longest} characters"
    signs = "digits only" if identifier.digits_only else "not only digits"
    return f"{length}, {signs}, {identifier.leading_zeros} with leading zeros"
