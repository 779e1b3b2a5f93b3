"""The `check` command: agreement, local file and table of one party, with every fault in one go; talks to nobody."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline import bounds, config, joins
from pipeline.agreement import Open
from pipeline.analyses import is_past, opened_numbers, records_for
from pipeline.config import Agreement, Gate, Local, Model, Party
from pipeline.errors import ConfigError, DataError, RangeError
from pipeline.fixed_point import encode, encoded_columns
from pipeline.matching import permutation
from pipeline.messages import MAX_ROWS
from pipeline.pins import fingerprint, in_lines
from pipeline.preprocess import IdentifierSummary, PreparedTable, TableSummary, prepare
from pipeline.progress import print_table
from pipeline.rare_levels import check_rare_levels, rare_levels

FAR = 1000

_PARTS = {
    "cv_curve": "the cross-validated errors of each penalty",
    "cv_r2": "the cross-validated r2 of the chosen one",
    "standard_errors": "standard errors",
    "table1": "means and standard deviations of all columns",
    "refused_column": "the column for which a study is refused",
}


@dataclass(frozen=True)
class Report:
    """What was found. `agreement` and `table` are None where faults do not allow them."""

    faults: tuple[str, ...]
    agreement: Agreement | None
    party_id: int
    table: TableSummary | None
    far: tuple[str, ...] = ()  # columns with a value far from the rest
    rare: tuple[str, ...] = ()  # what is said of levels that few have, where that is no fault


def check(path: Path, party_id: int, local: Path | None = None) -> Report:
    """Read everything a run of this party would read, and find every fault."""
    found = config.survey(path, party_id, local, smallest_tolerance=bounds.smallest_tolerance)
    faults = list(found.faults)
    if found.agreement is not None:
        faults += _range_faults(found.agreement)
        if is_past(found.agreement, datetime.now(UTC).date()):
            faults.append("study.keep_until in the agreement is in the past, so kept shares would be refused at once")
    prepared = None if found.table is None else _prepare(*found.table, found.agreement, faults)
    if found.table is None or prepared is None:
        return Report(tuple(faults), found.agreement, party_id, None)
    rare = () if found.agreement is None else _rare_levels(prepared, found.agreement, party_id, faults)
    if found.agreement is not None:
        faults += _join_faults(prepared, found.table[1], found.agreement)
    far = _far(found.table[0], prepared.values)
    return Report(tuple(faults), found.agreement, party_id, prepared.summary, far, rare)


def _range_faults(agreement: Agreement) -> list[str]:
    try:
        bounds.plan_of(agreement, MAX_ROWS)
    except RangeError as error:
        return list(error.faults)
    return []


def _prepare(party: Party, local: Local, agreement: Agreement | None, faults: list[str]) -> PreparedTable | None:
    try:
        prepared = prepare(party, local, permutation=lambda n: permutation(n, secrets.token_bytes))
    except DataError as error:
        faults += error.faults
        return None
    try:
        encode(prepared.values, party, bounds.offset_bits(agreement is None or agreement.model.fit_intercept))
    except DataError as error:
        faults += [f"{local.data}: {fault}" for fault in error.faults]
    return prepared


def _rare_levels(prepared: PreparedTable, agreement: Agreement, party_id: int, faults: list[str]) -> tuple[str, ...]:
    """What is said of levels that few have, if it is not among the faults."""
    try:
        check_rare_levels(prepared, agreement, party_id)
    except DataError as error:
        faults += error.faults
        return ()
    return rare_levels(prepared, agreement, party_id)


def _join_faults(prepared: PreparedTable, local: Local, agreement: Agreement) -> list[str]:
    """Whether another table was joined under this revision."""
    try:
        joins.planned(local.output, agreement.study, prepared)
    except ConfigError as error:
        return list(error.faults)
    return []


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
        for words in report.rare:
            console.print(f"  {words}: a run drops it from the model", soft_wrap=True)
    if not report.faults:
        console.print("No fault found.")


def _print_agreement(agreement: Agreement, party_id: int, console: Console) -> None:
    console.print(f"Study {agreement.study.name}, digest of the agreement:", highlight=False, soft_wrap=True)
    _print_digest(agreement.digest, console)
    for line in described(agreement):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print("Parties; compare the fingerprints with their owners, by telephone:")
    for party in agreement.parties:
        mark = ", this party" if party.id == party_id else ""
        console.print(f"  {party.id} {party.name} ({party.role}{mark}) {party.url}", highlight=False, soft_wrap=True)
        for der in party.certificates:
            _print_digest(fingerprint(der), console)


def described(agreement: Agreement) -> list[str]:
    """What was agreed about the analysis, in lines for a person."""
    names, analysed = agreement.names, agreement.analysed_names
    taking_part = "all" if names == analysed else f"{len(analysed)} of"
    lines = [
        f"model: {_fit(agreement.model)}",
        f"  {taking_part} {len(names)} coefficients take part",
        f"opened to the controllers: {', '.join(_opened(agreement.opened))}",
        f"refused on shares, before anything is opened: {_rules(agreement.gate)}",
    ]
    of_others = [words for words in _opened(agreement.open) if words not in _opened(agreement.opened)]
    if of_others:
        lines.insert(3, f"  of other models on the same shares also: {', '.join(of_others)}")
    if agreement.gate.rare_levels == "drop" and agreement.gate.min_level_count is not None:
        lines.append(f"dropped from the model: levels with fewer records than {agreement.gate.min_level_count}")
    return [*lines, f"shares of the matched records: {_kept(agreement)}"]


def _fit(model: Model) -> str:
    kind = f"{model.kind} (l1_ratio {model.l1_ratio:g})" if model.kind == "elastic-net" else model.kind
    if model.n_alphas:
        words = f"{kind}, {model.n_alphas} penalties that follow from the data"
    elif model.alphas:
        words = f"{kind}, {len(model.alphas)} penalties from {model.alphas[0]:g} down to {model.alphas[-1]:g}"
    else:
        words = kind if model.kind == "ols" else f"{kind}, alpha {model.alpha:g}"
    if model.rule is not None:
        words += f', one chosen by the rule "{model.rule}"'
    return words + (f", cross-validation with {model.folds} folds" if model.folds else "")


def _opened(chosen: Open) -> list[str]:
    parts = ["the models of all penalties" if chosen.model == "path" else "the model"]
    asked = asdict(chosen)
    return parts + [words for key, words in _PARTS.items() if asked[key]]


def _rules(gate: Gate) -> str:
    rules = {
        "fewer residual degrees of freedom than {}": gate.min_residual_df,
        "more parameters per record than {:g}": gate.max_parameters_ratio,
        "an r2 above {:g}": gate.max_r2,
    }
    if gate.rare_levels == "refuse":
        rules["a level with fewer records than {}"] = gate.min_level_count
    return ", ".join(rule.format(limit) for rule, limit in rules.items() if limit is not None) or "nothing"


def _kept(agreement: Agreement) -> str:
    study = agreement.study
    if not study.keep_shares:
        return "not kept"
    until = "without an end" if study.keep_until is None else f"until {study.keep_until}"
    words = f"kept by each party {until}, for at most {study.max_analyses} analyses"
    records = records_for(agreement, 2)
    if records is None or records <= study.min_records or study.max_analyses < 2:
        return words
    numbers = opened_numbers(agreement)
    return (
        f"{words}; one like this opens at most {numbers} numbers, so that a second one needs {records} matched records"
    )


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
