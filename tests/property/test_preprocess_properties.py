"""Numbers: the fast path and the cell-by-cell path are one grammar."""

from __future__ import annotations

import math
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.preprocess import CellRules, read_numbers

SIGNS = st.text(alphabet="0123456789+-.,eE _\t\u00a0١nNaAfiulx", max_size=6)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
CELLS = st.one_of(SIGNS, FLOATS.map(repr), FLOATS.map(lambda x: f" {x:.3f}"), st.sampled_from(["", "NA", " null "]))


def grammar(cell: str, decimal: str) -> float | None:
    """The number of a cell as the interface words it; None if it is none, NaN if it is missing."""
    cell = cell.strip()
    if cell.lower() in ("", "na", "nan", "null"):
        return math.nan
    mark = re.escape(decimal)
    if not re.fullmatch(rf"[+-]?([0-9]+({mark}[0-9]+)?|{mark}[0-9]+)([eE][+-]?[0-9]+)?", cell):
        return None
    value = float(cell.replace(decimal, "."))
    return value if math.isfinite(value) else None


@settings(max_examples=1000, deadline=None)
@given(cells=st.lists(CELLS, max_size=6), decimal=st.sampled_from(".,"))
def test_cells_are_read_by_the_grammar_alone_or_in_company(cells: list[str], decimal: str) -> None:
    values, missing, found = read_numbers(cells, CellRules(decimal))
    wrong = {row for rows in found.values() for row in rows}
    for row, cell in enumerate(cells):
        expected = grammar(cell, decimal)
        assert (row in wrong) == (expected is None)
        assert bool(missing[row]) == (expected is not None and math.isnan(expected))
        if expected is not None and not missing[row]:
            assert values[row] == expected
    assert np.isnan(values[sorted(wrong)]).all()


@settings(max_examples=200, deadline=None)
@given(values=st.lists(FLOATS, min_size=1, max_size=20))
def test_what_python_writes_is_read_back_exactly(values: list[float]) -> None:
    read, _, found = read_numbers([repr(value) for value in values], CellRules())
    assert not found
    assert read.tolist() == values
