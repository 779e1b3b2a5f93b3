"""Levels that few records of a party's own table have.

A level with fewer records in the whole table than `gate.min_level_count` asks for
has fewer among the matched ones, so a study that refuses such a level can be
refused before anything is sent, and to its owner by name. What the matched records
themselves have is tested on shares later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Agreement, Column, Party
from pipeline.errors import DataError
from pipeline.fixed_point import INDICATOR_RANGE
from pipeline.preprocess import PreparedTable
from pipeline.toml_reader import shown

Values = NDArray[np.float64]


def two_valued(values: Values, party: Party) -> list[tuple[float, float] | None]:
    """For each column its two values, the lower one first, or None if it has one value or more than two.

    values : shape (n, width), n > 0, as `PreparedTable.values`; the outcome is among the columns.

    An indicator has 0 and 1, whatever occurs in this table.
    """
    indicator = [column.kind == "category" for column in party.columns for _ in column.names]
    indicator += [False] * (party.outcome is not None)
    return [INDICATOR_RANGE if known else _two_values(values[:, place]) for place, known in enumerate(indicator)]


def _two_values(column: Values) -> tuple[float, float] | None:
    low, high = float(column.min()), float(column.max())
    return (low, high) if low < high and bool(((column == low) | (column == high)).all()) else None


def check_rare_levels(prepared: PreparedTable, agreement: Agreement, party_id: int) -> None:
    """Raise DataError naming every level, and column with two values, for which the study would be refused."""
    if agreement.gate.rare_levels == "refuse":
        advice = 'merge it with another level, or agree on rare_levels = "drop"'
        faults = [f"{prepared.summary.file}: {words}; {advice}" for words in rare_levels(prepared, agreement, party_id)]
        if faults:
            raise DataError(faults)


def rare_levels(prepared: PreparedTable, agreement: Agreement, party_id: int) -> tuple[str, ...]:
    """Say of each level, and of each numeric feature with two values, that it has too few records; never how many.

    Only of features that take part, unless table 1 is opened, which tells about all.
    """
    minimum = agreement.gate.min_level_count
    if minimum is None:
        return ()
    names = frozenset(agreement.names if agreement.open.table1 else agreement.analysed_names)
    party = agreement.party(party_id)
    pairs = two_valued(prepared.values, party)
    found, place = [], 0
    for column in party.columns:
        values = prepared.values[:, place : place + len(column.names)]
        if column.kind == "category":
            counts = _level_counts(column, values, names)
        else:
            counts = _value_counts(values[:, 0], pairs[place] if column.name in names else None)
        found += [
            f"column {column.column}: {'too few complete records have' if count else 'no complete record has'} {what} "
            f"(gate.min_level_count = {minimum})"
            for what, count in counts.items()
            if count < minimum
        ]
        place += len(column.names)
    return tuple(found)


def _level_counts(column: Column, indicators: Values, names: Collection[str]) -> Mapping[str, int]:
    """Records of each level that takes part, and of the others, the reference among them, together."""
    sums = indicators.sum(axis=0).astype(int).tolist()
    taking_part = {
        level: count for level, name, count in zip(column.levels[1:], column.names, sums, strict=True) if name in names
    }
    if not taking_part:
        return {}
    others = " or ".join(shown(level) for level in column.levels if level not in taking_part)
    counts = {f"the level {others}": len(indicators) - sum(taking_part.values())}
    return counts | {f"the level {shown(level)}": count for level, count in taking_part.items()}


def _value_counts(values: Values, pair: tuple[float, float] | None) -> Mapping[str, int]:
    if pair is None:
        return {}
    return {"one of its two values": min(int((values == value).sum()) for value in pair)}
