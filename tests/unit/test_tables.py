"""Files: encoding, separator, quotes, records, physical lines, Parquet types."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pytest
from own_table import controller, faults, prepared, write

from pipeline import tables
from pipeline.errors import DataError
from pipeline.preprocess import CellRules, NumberColumn
from pipeline.tables import Faults, open_table

BOM = b"\xef\xbb\xbf"
PLAIN = "id,age\n001,1.5\n002,2.5\n003,-3\n"
PLAIN_ROWS = ([("001",), ("002",), ("003",)], [1.5, 2.5, -3.0])


def rows_of(folder: Path, content: object, **settings: object) -> tuple[list[tuple[str, ...]], list[float]]:
    table = prepared(folder, content, **settings)  # type: ignore[arg-type]
    return table.identifiers, table.values[:, 0].tolist()


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        BOM + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        BOM + PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.rstrip("\n").encode(),
        PLAIN.replace("\n", "\r").rstrip("\r").encode(),
        ("\n\r\n" + PLAIN.replace("\n", "\n\n\r\n")).encode(),
        b'"id","age"\n"001","1.5"\n"002",2.5\n003,"-3"\n',
        b"age,id\n1.5,001\n2.5,002\n-3,003\n",
        b"x,age,y,id\na,1.5,,001\n,2.5,b,002\n,-3,,003\n",
        b' "id" ,age\n'.replace(b' "id" ', b'" id "') + b" 001 , 1.5\n\t002,2.5 \n003\t,\xc2\xa0-3\n",
        BOM + b'"id";"age"\r\n001;1.5\r\n"002";2.5\r\n003;-3\r\n',
    ],
)
def test_the_same_table_in_many_spellings_is_read_alike(tmp_path: Path, content: bytes) -> None:
    assert rows_of(tmp_path, content) == PLAIN_ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "cp1252", "latin-1", "utf-32"])
def test_local_encoding_is_used(tmp_path: Path, encoding: str) -> None:
    content = "id;größe\nMüller;1,5\nPérez;2\n"
    table = prepared(tmp_path, content, controller(features=("größe",)), encoding=encoding, decimal=",")
    assert table.identifiers == [("Müller",), ("Pérez",)]
    assert table.values[:, 0].tolist() == [1.5, 2.0]


def test_a_mark_of_utf16_le_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows_of(tmp_path, b"\xff\xfe" + PLAIN.encode("utf-16-le"), encoding="utf-16-le") == PLAIN_ROWS


def test_quoted_separators_quotes_and_line_ends_belong_to_the_cell(tmp_path: Path) -> None:
    content = 'id,age\n"a,b",1\n"say ""hi""",2\n"two\nlines",3\n"""",4\n'
    assert rows_of(tmp_path, content)[0] == [("a,b",), ('say "hi"',), ("two\nlines",), ('"',)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_fault_names_the_physical_line_where_its_record_begins(tmp_path: Path, end: str) -> None:
    lines = ["id,age,note", "", '1,1,"a', "", 'b"', "2,x,", "", '3,x,"c', 'd"', "4,x,", '5,"', 'x",', "6,1,"]
    assert faults(tmp_path, end.join(lines)) == [
        "table.csv: not a number in column age at line 6, line 8, line 10 and line 11"
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_blocks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, size: int) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", size)
    monkeypatch.setattr(tables, "HEADER_BYTES", size)
    lines = ["id,age,n", '"ä""",1,"x', 'y"', "", "b,2,", '"c,",3,"', '"', "d,x,", "", "e,4", 'f,y,"', '"']
    assert faults(tmp_path, end.join(lines)) == [
        "table.csv: not a number in column age at line 8 and line 11",
        "table.csv: a wrong number of fields (the header has 3) at line 10",
    ]


def test_at_most_five_lines_are_named(tmp_path: Path) -> None:
    content = "id,age\n" + "".join(f"{row},x\n" for row in range(20))
    assert faults(tmp_path, content) == [
        "table.csv: not a number in column age at line 2, line 3, line 4, line 5, line 6 and 15 more"
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("id,age\n1,2\n3\n", 3),
        ("id,age\n1,2\n3,4,5\n", 3),
        ("id,age\n1,2,\n", 2),
        ("id,age\n1,2\n  \n", 3),  # a line of spaces is not blank
        ('id,age\n1,2\n""\n', 3),
        ("id;age\n1,2\n", 2),
        ("id,age\n1,1,5\n", 2),  # a decimal comma without quotes
        ("id,age\n\n1,2\n\n\n3\n", 6),
    ],
)
def test_a_wrong_number_of_fields_is_an_error_with_its_line(tmp_path: Path, content: str, line: int) -> None:
    wrong = f"table.csv: a wrong number of fields (the header has 2) at line {line}"
    assert wrong in faults(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('id,age\n1,2\n"3,4\n5,6\n', "a quote that is never closed in the record at line 3"),
        ('id,age\n1,2\n5" x,4\n5,6\n', "a misplaced or unpaired quote in the record at line 3"),
        ('id,age\n1,2\n "3",4\n', "a misplaced or unpaired quote in the record at line 3"),
        ('id,age\n1,2\n"3" ,4\n', "a misplaced or unpaired quote in the record at line 3"),
        ('id,age\n1,2\n"3"x,4\n', "a misplaced or unpaired quote in the record at line 3"),
        ('id,age\n1,2\n3,"4\n5,"6"\n', "a misplaced or unpaired quote in the record at line 3"),
        ('id,age\n1,2\n"\n3",4\n5",6\n', "a misplaced or unpaired quote in the record at line 5"),
    ],
)
def test_a_wrong_quote_is_one_fault_at_its_record(tmp_path: Path, content: str, sentence: str) -> None:
    assert faults(tmp_path, content) == [f"table.csv: {sentence}"]


def test_faults_before_a_wrong_quote_are_told_too(tmp_path: Path) -> None:
    assert faults(tmp_path, 'id,age\n1,x\n"2,3\n') == [
        "table.csv: not a number in column age at line 2",
        "table.csv: a quote that is never closed in the record at line 3",
    ]


@pytest.mark.parametrize("header", ['id","age', '"id,age', 'i"d,age'])
def test_a_wrong_quote_in_the_header_is_told(tmp_path: Path, header: str) -> None:
    (sentence,) = faults(tmp_path, f"{header}\n1,2\n")
    assert "quote" in sentence
    assert sentence.endswith(("line", "line 1"))


@pytest.mark.parametrize(("before", "line"), [("id,age\n1,2\n", 3), ("id,age\r\n1,2\r\n\r\n", 4), ("", 1)])
def test_undecodable_bytes_are_one_fault_with_line(tmp_path: Path, before: str, line: int) -> None:
    found = faults(tmp_path, before.encode() + "Müller,3\n".encode("cp1252"))
    assert found == [f"table.csv: not utf-8 text (saved in another encoding? then set `encoding`) at line {line}"]


def test_a_multibyte_sign_cut_off_at_the_end_is_undecodable(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, b"id,age\n1,2\n2,\xc3")
    assert sentence.endswith("line 3")


def test_faults_before_undecodable_bytes_are_told_too(tmp_path: Path) -> None:
    found = faults(tmp_path, b"id,age\n1,x\n2,3\n\xff,4\n5,y\n")
    assert [sentence.rpartition(" at ")[2] for sentence in found] == ["line 2", "line 4"]


@pytest.mark.parametrize("size", range(1, 9))
def test_a_line_end_across_blocks_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", size)
    (sentence,) = faults(tmp_path, b"id,age\r\n1,1\r\n2,2\r\n\xff,4\r\n")
    assert sentence.endswith("line 4")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_taken_for_utf8_is_told(tmp_path: Path, encoding: str) -> None:
    (sentence,) = faults(tmp_path, PLAIN.encode(encoding))
    assert "NUL" in sentence
    assert sentence.endswith("line 1")


def test_utf16_with_its_mark_taken_for_utf8_is_told(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, PLAIN.encode("utf-16"))
    assert "not utf-8 text" in sentence


def test_a_utf16_file_without_its_mark_is_told(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, PLAIN.encode(), encoding="utf-16")
    assert "not utf-16 text" in sentence


def test_a_utf8_mark_contradicts_another_encoding(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, BOM + PLAIN.encode(), encoding="cp1252")
    assert "byte order mark" in sentence


@pytest.mark.parametrize("encoding", ["no-such-encoding", "rot13", "base64"])
def test_an_encoding_that_is_none_is_told(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, PLAIN)
    with pytest.raises(DataError, match="no text encoding"):
        open_table(path, ["id"], encoding)


def test_cp1252_has_holes(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, b"id,age\n1,2\n\x81,3\n", encoding="cp1252")
    assert sentence.endswith("line 3")


@pytest.mark.parametrize("content", [b"", BOM, b"\n\r\n\r"])
def test_an_empty_file_is_told(tmp_path: Path, content: bytes) -> None:
    assert faults(tmp_path, content) == ["table.csv: no header line: the file is empty"]


@pytest.mark.parametrize("content", ["id,age", "id,age\n", "\nid,age\r\n\r\n"])
def test_a_header_alone_is_no_table(tmp_path: Path, content: str) -> None:
    assert faults(tmp_path, content) == ["table.csv: no rows below the header"]


def test_no_file_no_folder_no_other_kind(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "table.xlsx").write_bytes(b"PK")
    for name, words in (("none.csv", "no such file"), ("folder.csv", "no such file"), ("table.xlsx", "not a .csv")):
        with pytest.raises(DataError, match=words):
            open_table(tmp_path / name, ["id"])


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("id,age", ","),
        ("id;age", ";"),
        ("id\tage", "\t"),
        ('"id, all";age', ";"),
        ("id;weight, kg;height, cm;age", ";"),  # more commas than needed, but no `id` between them
        ("id,a;b;c;d,age", ","),
        ("x;y,z;w", ";"),  # nothing wanted is there: the more frequent one
        ("age", ","),
    ],
)
def test_the_header_decides_the_separator(tmp_path: Path, header: str, separator: str) -> None:
    table = open_table(write(tmp_path, header + "\n"), ["id", "age"])
    assert isinstance(table, tables.CsvTable)
    assert table.separator == separator


def test_a_single_column_may_have_decimal_commas(tmp_path: Path) -> None:
    table = open_table(write(tmp_path, "age\n1,5\n"), ["age"], decimal=",")
    (block,) = table.blocks(found := Faults(table.path), [0])
    assert not found
    assert block.texts(0).cells == ["1,5"]


def test_a_column_name_that_occurs_twice_is_an_error_even_if_unused(tmp_path: Path) -> None:
    assert faults(tmp_path, "id,age,x,x\n1,2,3,4\n") == [
        'table.csv: the column name "x" more than once in the header (columns 3, 4)'
    ]
    assert faults(tmp_path, "id,age,age \n1,2,x\n") == [
        'table.csv: the column name "age" more than once in the header (columns 2, 3)'
    ]


def test_columns_without_a_name_do_no_harm(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "id,age,,\n001,1.5,,\n002,2.5,,\n003,-3,,\n") == PLAIN_ROWS


@pytest.mark.parametrize(
    ("name", "near"), [("Age", "Age"), ("AGE", "AGE"), ("ages", "ages"), ("age_years", "age_years")]
)
def test_a_missing_column_names_the_nearest(tmp_path: Path, name: str, near: str) -> None:
    assert faults(tmp_path, f"id,{name}\n1,2\n") == [f'table.csv: no column "age"; the nearest name is "{near}"']


def test_every_missing_column_is_told_and_the_others_are_checked(tmp_path: Path) -> None:
    party = controller(features=("age", "bmi", "weight"))
    found = faults(tmp_path, "id,age,x\n1,zz,\n", party)
    assert len(found) == 3
    assert found[0].startswith('table.csv: no column "bmi"')
    assert found[1].startswith('table.csv: no column "weight"')
    assert found[2] == "table.csv: not a number in column age at line 2"


def test_a_file_without_header_does_not_show_its_first_record(tmp_path: Path) -> None:
    found = faults(tmp_path, "123456789,34,34\n123456780,36,36\n")
    assert "123456789" not in " ".join(found)
    assert "34" not in " ".join(found)
    assert any("header" in sentence for sentence in found)


def test_header_names_are_compared_trimmed_and_in_nfc(tmp_path: Path) -> None:
    party = controller(features=("größe",))
    assert prepared(tmp_path, "id, gro\u0308ße \n1,2\n", party).values.tolist() == [[2.0]]


def test_a_field_of_absurd_length_is_told(tmp_path: Path) -> None:
    assert faults(tmp_path, "id,age\n1,2\n" + "9" * 200_000 + ",3\n4,x\n") == [
        "table.csv: a field of more than 131072 characters at line 3"
    ]


def test_an_unclosed_quote_in_a_long_file_takes_no_quadratic_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 1000)
    looked_at = []
    structure = tables._structure
    monkeypatch.setattr(
        tables,
        "_structure",
        lambda text, *rest, **named: (looked_at.append(len(text)), structure(text, *rest, **named))[1],
    )
    assert faults(tmp_path, 'id,age\n"1,2\n' + "3,4\n" * 50_000)
    assert sum(looked_at) < 8 * 200_000


# --- Parquet --------------------------------------------------------------------------------------


def test_parquet_numbers_of_every_type_are_read(tmp_path: Path) -> None:
    columns = {
        "a": pa.array([1, 2, None], pa.int8()),
        "b": pa.array([1, 2**64 - 1, 3], pa.uint64()),
        "c": pa.array([1.5, float("nan"), None], pa.float32()),
        "d": pa.array([True, False, None]),
        "e": pa.array([decimal.Decimal("0.1"), decimal.Decimal("-2.5"), None], pa.decimal128(30, 20)),
        "f": pa.array([" 1.5 ", "-2e3", "na"]),
        "g": pa.array(["1", "2", None], pa.large_string()).dictionary_encode(),
        "h": pa.array([0.5, 1.5, 2.5], pa.float16()),
    }
    path = write(tmp_path, columns)
    table = open_table(path, list(columns))
    (block,) = table.blocks(found := Faults(path), range(len(columns)))
    read = {
        name: [None if v != v else v for v in NumberColumn(name, CellRules()).read(block, place, found).tolist()]
        for place, name in enumerate(columns)
    }
    assert not found
    assert read == {
        "a": [1.0, 2.0, None],
        "b": [1.0, float(2**64 - 1), 3.0],
        "c": [1.5, None, None],
        "d": [1.0, 0.0, None],
        "e": [0.1, -2.5, None],
        "f": [1.5, -2000.0, None],
        "g": [1.0, 2.0, None],
        "h": [0.5, 1.5, 2.5],
    }


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["00123", " x ", "Null"]), ["00123", "x", "Null"]),
        (pa.array([123, -4, 2**62]), ["123", "-4", str(2**62)]),
        (pa.array([1, 2, 2**64 - 1], pa.uint64()), ["1", "2", str(2**64 - 1)]),
        (pa.array([datetime.date(1980, 2, 29), datetime.date(820, 1, 2), datetime.date(1, 1, 1)]),
         ["1980-02-29", "0820-01-02", "0001-01-01"]),
        (pa.array(["b", "a", "c"]).dictionary_encode(), ["b", "a", "c"]),
        (pa.array(["b", "a", "c"], pa.large_string()), ["b", "a", "c"]),
        (pa.array(["b", "a", "c"], pa.string_view()), ["b", "a", "c"]),
        (pa.array([decimal.Decimal(n) for n in (12, 3, 4)], pa.decimal128(9, 0)), ["12", "3", "4"]),
    ],
)  # fmt: skip
def test_parquet_identifiers_become_text(tmp_path: Path, array: pa.Array, expected: list[str]) -> None:
    table = prepared(tmp_path, {"id": array, "age": [1, 2, 3]})
    assert table.identifiers == [(text,) for text in expected]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1.0, 2.0]),
        pa.array([datetime.datetime(2020, 1, 1), None]),
        pa.array([True, False]),
        pa.array([decimal.Decimal("1.5"), None]),
        pa.array([b"a", b"b"]),
        pa.array([["a"], ["b"]]),
        pa.array([{"x": 1}, {"x": 2}]),
        pa.array([datetime.time(1), None]),
        pa.array([1.0, 2.0]).dictionary_encode(),
    ],
)
def test_parquet_identifiers_of_a_wrong_type_are_an_error(tmp_path: Path, array: pa.Array) -> None:
    (sentence,) = faults(tmp_path, {"id": array, "age": [1, 2]})
    assert "instead of text, integers or dates in column id" in sentence


@pytest.mark.parametrize(
    "array",
    [
        pa.array([datetime.date(2020, 1, 1), None]),
        pa.array([datetime.datetime(2020, 1, 1), None]),
        pa.array([[1.0], [2.0]]),
        pa.array([b"1", b"2"]),
        pa.array([datetime.timedelta(1), None]),
    ],
)
def test_parquet_values_of_a_wrong_type_are_an_error(tmp_path: Path, array: pa.Array) -> None:
    (sentence,) = faults(tmp_path, {"id": ["a", "b"], "age": array})
    assert "instead of numbers in column age" in sentence


@pytest.mark.parametrize(
    ("array", "levels", "expected"),
    [
        (pa.array(["a", " b", None, "NA"]), ("a", "b"), [0, 1]),
        (pa.array([1, 2, None, None]), ("1", "2"), [0, 1]),
        (pa.array([1.0, 2.0, float("nan"), None]), ("1", "2"), [0, 1]),
        (pa.array([True, False, None, None]), ("0", "1"), [1, 0]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), ("a", "b"), [0, 1, 0]),
    ],
)
def test_parquet_levels_are_read(
    tmp_path: Path, array: pa.Array, levels: tuple[str, ...], expected: list[float]
) -> None:
    party = controller(features=(), categories={"sex": levels})
    table = prepared(tmp_path, {"id": ["1", "2", "3", "4"], "sex": array}, party)
    assert table.values[:, 0].tolist() == expected


def test_a_fault_in_parquet_names_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 2)
    content = {"id": ["a", "b", "c", "d", "e"], "age": ["1", "2", "3", "x", "5"]}
    assert faults(tmp_path, content) == ["table.parquet: not a number in column age at row 4"]
    infinite = {"id": ["a", "b", "c"], "age": [1.0, 2.0, float("inf")]}
    assert faults(tmp_path, infinite) == ["table.parquet: an infinite number in column age at row 3"]


def test_a_parquet_column_may_have_dots_in_its_name(tmp_path: Path) -> None:
    content = {"id": ["a"], "age": [7], "hospital.age": [3], "nested": [{"age": 5}]}
    assert prepared(tmp_path, content, controller(features=("hospital.age",))).values.tolist() == [[3.0]]


def test_a_parquet_column_of_nulls_is_missing(tmp_path: Path) -> None:
    assert faults(tmp_path, {"id": ["a", "b"], "age": pa.nulls(2)}) == ["table.parquet: no row without a missing value"]


def test_a_parquet_name_that_occurs_twice_is_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array(["x"])], names=["id", "age", "age"])
    path = tmp_path / "table.parquet"
    pa.parquet.write_table(table, path)
    found = Faults(path)
    tables.find_columns(open_table(path, ["id", "age"]), [("id", "identifier"), ("age", "number")], found)
    assert len(found.sentences()) == 1
    assert '"age" more than once' in found.sentences()[0]


def test_a_damaged_parquet_file_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": ["a" * 50, "b"], "age": [1, 2]})
    data = bytearray(path.read_bytes())
    path.write_bytes(b"PAR1" + data[40:])
    with pytest.raises(DataError, match=r"Parquet|damaged"):
        table = open_table(path, ["id", "age"])
        list(table.blocks(found := Faults(path), [0, 1]))
        found.raise_if_any()
    path.write_bytes(b"id,age\n1,2\n")
    with pytest.raises(DataError, match="not a Parquet file"):
        open_table(path, ["id", "age"])


def test_parquet_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    (sentence,) = faults(tmp_path, {"id": bad, "age": [1]})
    assert "UTF-8" in sentence
