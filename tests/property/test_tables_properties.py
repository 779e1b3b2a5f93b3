"""The CSV reader against a plain automaton that reads one character after the other."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import tables
from pipeline.errors import DataError
from pipeline.tables import CsvTable, Faults, open_table

TEXTS = st.text(alphabet='ab,;"\r\n é\t', max_size=40)
BLOCKS = st.integers(min_value=1, max_value=12)


def automaton(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of each record that is not blank; raises ValueError for a misplaced quote."""
    line, start, fields, field = 1, 1, [], ""
    state = "start"  # of a field; else "plain", "quoted" or "closed"
    touched = False
    position = 0
    while position < len(text):
        sign = text[position]
        two = text[position : position + 2]
        end = "\r\n" if two == "\r\n" else sign if sign in "\r\n" else ""
        position += len(end) or 1
        line += bool(end)
        if state == "quoted":
            if two == '""':
                field += '"'
                position += 1
            elif sign == '"':
                state = "closed"
            else:
                field += end or sign
        elif end:
            if touched:
                yield start, [*fields, field]
            start, fields, field, state, touched = line, [], "", "start", False
        elif sign == separator:
            fields, field, state, touched = [*fields, field], "", "start", True
        elif sign == '"' and state == "start":
            state, touched = "quoted", True
        elif sign == '"' or state == "closed":
            raise ValueError("misplaced quote")
        else:
            field, state, touched = field + sign, "plain", True
    if state == "quoted":
        raise ValueError("unclosed quote")
    if touched:
        yield start, [*fields, field]


def read(raw: bytes, size: int) -> tuple[CsvTable, list[tuple[int, list[str]]], tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(tables, BLOCK_BYTES=size, HEADER_BYTES=size):
        path = Path(folder) / "table.csv"
        path.write_bytes(raw)
        table = open_table(path, ["id", "age"])
        assert isinstance(table, CsvTable)
        found = Faults(path)
        rows = [
            (int(line), row) for block in table.blocks(found) for line, row in zip(block.lines, block.rows, strict=True)
        ]
        return table, rows, tuple(s.replace(str(path), "table.csv") for s in found.sentences())


@settings(max_examples=400, deadline=None)
@given(body=TEXTS, size=BLOCKS, separator=st.sampled_from(",;\t"), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_records_lines_and_faults_are_those_of_the_automaton(body: str, size: int, separator: str, end: str) -> None:
    text = separator.join(("id", "age")) + end + body
    _, rows, found = read(text.encode(), size)
    try:
        expected = list(automaton(text, separator))[1:]
    except ValueError:
        assert any("quote" in sentence for sentence in found)
        return
    assert not any("quote" in sentence for sentence in found)
    assert rows == [(line, fields) for line, fields in expected if len(fields) == 2]
    wrong = [line for line, fields in expected if len(fields) != 2]
    assert len(found) == bool(wrong)
    assert all(f"line {line}" in found[0] for line in wrong[:5])


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), max_size=8),
    separator=st.sampled_from(",;\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    size=BLOCKS,
)
def test_what_the_csv_module_quotes_is_read_back(
    rows: list[tuple[str, str]], separator: str, end: str, quoting: int, size: int
) -> None:
    rows = [tuple(cell.replace("\0", "") for cell in row) for row in rows]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting).writerows([("id", "age"), *rows])
    table, read_back, found = read(out.getvalue().encode(), size)
    assert table.separator == separator
    assert not found
    assert [tuple(row) for _, row in read_back] == rows


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=60), size=BLOCKS)
def test_arbitrary_bytes_are_rows_or_faults(raw: bytes, size: int) -> None:
    try:
        _, rows, found = read(b"id,age\n" + raw, size)
    except DataError:
        return
    assert all(len(row) == 2 for _, row in rows)
    assert all(sentence.startswith("table.csv: ") for sentence in found)
