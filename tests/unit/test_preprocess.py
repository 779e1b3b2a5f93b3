"""Step 1: identifiers, numbers, levels, missing values; what a party is told of its own table."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from own_table import controller, faults, in_file_order, local, prepared, write

from pipeline.errors import DataError
from pipeline.preprocess import CellRules, prepare, read_numbers

MIXED = controller(
    features=("age", "bmi"), categories={"smoker": ("no", "former", "yes"), "sex": ("f", "m")}, outcome="days"
)
MIXED_CSV = """id,smoker,age,sex,days,bmi
a,no,50,f,1,20
b,yes,60,m,2,30
c,,70,m,3,NA
d,former,80,f,4,40
,no,1,f,5,1
e,no,,f,6,
"""


# --- numbers --------------------------------------------------------------------------------------

GOOD = [
    ("1", 1.0),
    ("-1", -1.0),
    ("+1", 1.0),
    ("007", 7.0),
    ("1.5", 1.5),
    (".5", 0.5),
    ("+.5", 0.5),
    ("-.5e1", -5.0),
    ("-0", 0.0),
    ("0.0", 0.0),
    ("1e3", 1000.0),
    ("1E+3", 1000.0),
    ("1.25e-2", 0.0125),
    ("  1.5\t", 1.5),
    ("\u00a01.5\u2003", 1.5),
    ("1e-400", 0.0),
    ("1e308", 1e308),
    ("123456789012345678901234567890", 123456789012345678901234567890.0),
    ("1e007", 1e7),
]
BAD = [
    "5.", "5.e3", ".", "+", "-", "e5", "1e", "1e+", "1e1.5", "1_000", "1 000", "1,000", "1'000", "0x10", "0b1", "1j",
    "inf", "-inf", "Infinity", "nano", "n/a", "none", "true", "50%", "€5", "1.2.3", "--1", "+-1", "1-", "2020-01-01",
    "12:30", "١٢", "１２", "½", "²", "−5", "1\u00a0000", "1e5e5", "1d5", "1f", "5\x1b", "=1+1", "1\n2", "\ufeff1",
]  # fmt: skip


@pytest.mark.parametrize(("cell", "value"), GOOD)
@pytest.mark.parametrize("others", [(), ("1.5", ""), ("NA",), ("7", "8")])
def test_a_number_of_the_grammar_is_read(cell: str, value: float, others: tuple[str, ...]) -> None:
    values, missing, found = read_numbers([*others, cell], CellRules())
    assert not found
    assert values[-1] == value
    assert not missing[-1]


@pytest.mark.parametrize("cell", BAD)
@pytest.mark.parametrize("others", [(), ("1.5", ""), ("7", "8")])
def test_whatever_else_is_no_number(cell: str, others: tuple[str, ...]) -> None:
    _, missing, found = read_numbers([*others, cell], CellRules())
    assert not missing[-1]
    assert list(found.values()) == [[len(others)]]


@pytest.mark.parametrize("cell", ["1e309", "-1e400", "9" * 400, "1e99999"])
def test_a_number_too_large_is_told_as_such(tmp_path: Path, cell: str) -> None:
    assert faults(tmp_path, f"id,age\n1,1\n2,{cell}\n") == [
        "table.csv: a number too large to encode in column age at line 3"
    ]


@pytest.mark.parametrize(("cell", "value"), [("1,5", 1.5), (",5", 0.5), ("-1,5e2", -150.0), ("7", 7.0)])
def test_with_a_decimal_comma_the_comma_stands_for_the_point(cell: str, value: float) -> None:
    for cells in ([cell], [cell, "", "3"]):
        values, _, found = read_numbers(cells, CellRules(","))
        assert not found
        assert values[0] == value


@pytest.mark.parametrize("cell", ["1.5", "5,", "1,2,3", "1.000,5", ",", "1, 5"])
def test_with_a_decimal_comma_a_point_is_no_number(cell: str) -> None:
    assert read_numbers([cell], CellRules(","))[2]
    assert read_numbers(["1,5", cell, ""], CellRules(","))[2]


def test_a_decimal_comma_that_was_not_announced_gets_a_hint(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, 'id;age\n1;1,5\n2;"2,5"\n')
    assert "decimal = " in sentence
    assert sentence.endswith("column age at line 2 and line 3")


def test_cp1252_with_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    table = prepared(tmp_path, "id;age\nJosé;1,5\nZoë;-,25\n", encoding="cp1252", decimal=",")
    assert table.identifiers == [("José",), ("Zoë",)]
    assert table.values[:, 0].tolist() == [1.5, -0.25]


# --- missing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["", "  ", "NA", "na", "Na", " NaN ", "nan", "NAN", "null", "NULL", "Null\t", "\u00a0"]
)
def test_missing_in_any_case_is_dropped_and_counted(tmp_path: Path, cell: str) -> None:
    table = prepared(tmp_path, f"id,age\n1,5\n2,{cell}\n3,7\n")
    assert table.identifiers == [("1",), ("3",)]
    assert table.values[:, 0].tolist() == [5.0, 7.0]
    assert (table.read, table.dropped) == (3, {"age": 1})


def test_a_local_list_replaces_what_is_missing(tmp_path: Path) -> None:
    settings = {"missing": ("-9", "unknown", "ÄH")}
    table = prepared(tmp_path, "id,age\n1,5\n2,-9\n3,Unknown\n4, äh \n5,-9.5\n", **settings)
    assert table.identifiers == [("1",), ("5",)]
    for cell in ("", "NA", "NaN", "null"):
        assert faults(tmp_path, f"id,age\n1,5\n2,{cell}\n", **settings) == [
            "table.csv: not a number in column age at line 3"
        ]


@pytest.mark.parametrize("ages", [pa.array([5, -9, None, -8]), pa.array([5.0, -9.0, float("nan"), -8.5])])
def test_a_code_for_missing_counts_among_parquet_numbers_too(tmp_path: Path, ages: pa.Array) -> None:
    table = prepared(tmp_path, {"id": ["a", "b", "c", "d"], "age": ages}, missing=("-9",))
    assert table.identifiers == [("a",), ("d",)]
    assert table.dropped == {"age": 2}


def test_a_code_for_missing_is_found_however_it_is_padded(tmp_path: Path) -> None:
    table = prepared(tmp_path, "id,age\n1,5\n2,-9\n3, -9 \n4,-8\n", missing=("-9",))
    assert table.identifiers == [("1",), ("4",)]


def test_what_parquet_says_is_absent_is_missing_whatever_the_list(tmp_path: Path) -> None:
    party = controller(features=("age", "bmi", "size"), categories={"sex": ("f", "m"), "ward": ("1", "2")})
    columns = {
        "id": ["a", "b", "c", "d", "e", "g"],
        "age": ["1", None, "3", "4", "5", "6"],
        "bmi": [1.0, 2.0, float("nan"), 4.0, 5.0, 6.0],
        "size": [1, 2, 3, None, 5, 6],
        "sex": ["f", "m", "f", "m", None, "f"],
        "ward": [1.0, 2.0, 1.0, 1.0, 1.0, float("nan")],
    }
    table = prepared(tmp_path, columns, party, missing=("-9",))
    assert table.dropped == {"age": 1, "bmi": 1, "size": 1, "sex": 1, "ward": 1}
    assert table.identifiers == [("a",)]


def test_a_row_counts_under_every_column_it_lacks(tmp_path: Path) -> None:
    table = prepared(tmp_path, MIXED_CSV, MIXED)
    assert table.read == 6
    assert table.dropped == {"id": 1, "age": 1, "bmi": 2, "smoker": 1}
    assert table.summary.complete == 3


def test_unused_columns_may_hold_anything(tmp_path: Path) -> None:
    assert prepared(tmp_path, "id,age,note\n1,5,\n2,6,NA\n3,7,???\n").dropped == {}


def test_a_table_without_complete_rows_is_an_error(tmp_path: Path) -> None:
    assert faults(tmp_path, "id,age\n1,\n,2\n") == ["table.csv: no row without a missing value"]


# --- columns and order ----------------------------------------------------------------------------


def test_columns_are_features_then_indicators_then_the_outcome(tmp_path: Path) -> None:
    table = prepared(tmp_path, MIXED_CSV, MIXED)
    assert MIXED.names == (
        "hospital.age", "hospital.bmi", "hospital.sex=m", "hospital.smoker=former", "hospital.smoker=yes",
    )  # fmt: skip
    assert table.identifiers == [("a",), ("b",), ("d",)]
    assert table.values.tolist() == [[50, 20, 0, 0, 0, 1], [60, 30, 1, 0, 1, 2], [80, 40, 0, 1, 0, 4]]
    assert table.values.shape[1] == MIXED.width


@pytest.mark.parametrize("cell", ["M", "m m", "male", "0", "ｍ", "m\u200b"])
def test_a_level_that_is_not_agreed_is_an_error_with_its_line(tmp_path: Path, cell: str) -> None:
    party = controller(features=(), categories={"sex": ("f", "m")})
    assert faults(tmp_path, f"id,sex\n1,f\n2,{cell}\n3,m\n4,{cell}\n", party) == [
        "table.csv: a level that is not agreed (agreed: f, m) in column sex at line 3 and line 5"
    ]


def test_levels_are_compared_trimmed_and_in_nfc(tmp_path: Path) -> None:
    party = controller(features=(), categories={"sex": ("männlich", "weiblich")})
    table = prepared(tmp_path, "id,sex\n1, ma\u0308nnlich \n2,weiblich\t\n3,männlich\n", party)
    assert table.values[:, 0].tolist() == [0, 1, 0]


def test_rows_and_identifiers_are_permuted_together(tmp_path: Path) -> None:
    path = write(tmp_path, "id,age\n" + "".join(f"p{n},{n}\n" for n in range(50)))
    table = prepare(controller(), local(path), permutation=lambda n: np.arange(n)[::-1])
    assert table.identifiers == [(f"p{n}",) for n in reversed(range(50))]
    assert table.values[:, 0].tolist() == list(reversed(range(50)))


@pytest.mark.parametrize("order", [[0, 0, 2], [0, 1], [1, 2, 3], [0, 1, 2, 3]])
def test_an_order_that_is_no_permutation_is_refused(tmp_path: Path, order: list[int]) -> None:
    path = write(tmp_path, "id,age\n1,1\n2,2\n3,3\n")
    with pytest.raises(ValueError, match="permutation"):
        prepare(controller(), local(path), permutation=lambda n: np.array(order))


def test_identifiers_are_text_as_they_stand(tmp_path: Path) -> None:
    cells = ["00123", "123", "1e3", "Null", "NA", "nan", "A", "a", "1.0", "x y"]
    table = prepared(tmp_path, "id,age\n" + "".join(f" {cell}\t,1\n" for cell in cells))
    assert table.identifiers == [(cell,) for cell in cells]


def test_identifiers_are_compared_in_nfc(tmp_path: Path) -> None:
    (sentence,) = faults(tmp_path, "id,age\nZo\u00eb,1\nZoe\u0308,2\n")
    assert "1 identifier that occurs more than once" in sentence


@pytest.mark.parametrize("cell", ["", "   ", "\u00a0", '""'])
def test_only_an_empty_identifier_is_missing(tmp_path: Path, cell: str) -> None:
    table = prepared(tmp_path, f"id,age\n{cell},1\nx,2\n{cell},3\n")
    assert table.identifiers == [("x",)]
    assert table.dropped == {"id": 2}


def test_a_list_of_missing_words_is_not_for_identifiers(tmp_path: Path) -> None:
    assert prepared(tmp_path, "id,age\n-9,1\nx,2\n", missing=("-9", "x")).dropped == {}


def test_duplicates_are_counted_before_rows_are_dropped_and_not_named(tmp_path: Path) -> None:
    rows = ["a,1", "a,", "b,2", "b,3", "b,4", "c,5", "d,", ",1", ",2"]
    assert faults(tmp_path, "\n".join(["id,age", *rows])) == [
        "table.csv: 2 identifiers that occur more than once (before rows are dropped for missing values) in column id"
    ]
    assert "1 identifier that occurs" in faults(tmp_path, "id,age\na,\na,1\n")[0]


def test_several_identifier_columns_are_kept_apart(tmp_path: Path) -> None:
    party = controller(identifier=("name", "born"))
    table = prepared(tmp_path, "born,name,age\nc,ab,1\nbc,a,2\n,a,3\nx,,4\n", party)
    assert table.identifiers == [("ab", "c"), ("a", "bc")]
    assert table.dropped == {"name": 1, "born": 1}
    (sentence,) = faults(tmp_path, "born,name,age\nc,a,1\nc,a,\n,a,3\n,a,4\nc,b,5\n", party)
    assert "1 identifier that occurs more than once" in sentence
    assert sentence.endswith("column name, born")


def test_a_missing_identifier_column_makes_no_false_duplicates(tmp_path: Path) -> None:
    found = faults(tmp_path, "name,age\na,1\na,2\n", controller(identifier=("name", "born")))
    assert len(found) == 1
    assert 'no column "born"' in found[0]


def test_an_identifier_must_fit_its_pattern_from_end_to_end(tmp_path: Path) -> None:
    party = controller(identifier=("id", "born"), identifier_pattern=("[0-9]{3}", ""))
    content = "id,born,age\n123,x,1\n 124 ,,1\n1234,x,1\n12,x,1\n,x,1\n12\u0663,x,2\n"
    assert faults(tmp_path, content, party) == [
        "table.csv: an identifier that does not fit the agreed pattern in column id at line 4, line 5 and line 7"
    ]


# --- ranges and the outcome -----------------------------------------------------------------------


def test_a_value_outside_its_range_is_an_error_with_its_line(tmp_path: Path) -> None:
    party = controller(ranges={"age": (0.0, 120.0)})
    assert prepared(tmp_path, "id,age\n1,0\n2,120\n3,-0\n4,\n", party).dropped == {"age": 1}
    assert faults(tmp_path, "id,age\n1,-0.001\n2,50\n3,120.5\n", party) == [
        "table.csv: a number outside the agreed range [0, 120] in column age at line 2 and line 4"
    ]
    assert faults(tmp_path, {"id": ["a", "b"], "age": [50, 121]}, party) == [
        "table.parquet: a number outside the agreed range [0, 120] in column age at row 2"
    ]


@pytest.mark.parametrize("days", ["3,3,3", "3,3.0,3e0", "-0,0,0", "3,3,"])
def test_a_constant_outcome_is_an_error(tmp_path: Path, days: str) -> None:
    party = controller(outcome="days")
    content = "id,age,days\n" + "".join(f"{n},{n},{day}\n" for n, day in enumerate(days.split(",")))
    (sentence,) = faults(tmp_path, content, party)
    assert "the same outcome in every complete row" in sentence
    assert sentence.endswith("in column days")


def test_an_outcome_that_varies_only_in_dropped_rows_is_constant(tmp_path: Path) -> None:
    assert faults(tmp_path, "id,age,days\n1,1,3\n2,2,3\n3,,4\n", controller(outcome="days"))


# --- faults ---------------------------------------------------------------------------------------


def test_every_fault_is_found_in_one_go_and_no_value_is_shown(tmp_path: Path) -> None:
    party = controller(
        identifier_pattern=("[a-z]+",),
        features=("age", "bmi", "weight"),
        categories={"sex": ("f", "m")},
        ranges={"bmi": (5.0, 100.0)},
    )
    content = (
        "id,age,bmi,sex,x,x\nsecretone,fortytwo,20,f,,\nsecretone,1,777,m,,\n"
        "SECRET3,2,20,hidden,,\nd,1e999,20,f,,\ne,1,2\n"
    )
    found = faults(tmp_path, content, party)
    expected = (
        'the column name "x" more than once',
        'no column "weight"',
        "1 identifier that occurs more than once",
        "not a number in column age at line 2",
        "outside the agreed range [5, 100] in column bmi at line 3",
        "not fit the agreed pattern in column id at line 4",
        "a level that is not agreed (agreed: f, m) in column sex at line 4",
        "too large to encode in column age at line 5",
        "a wrong number of fields (the header has 6) at line 6",
    )
    assert len(found) == len(expected)
    for words in expected:
        assert any(words in sentence for sentence in found), words
    for value in ("secretone", "fortytwo", "777", "SECRET3", "hidden", "1e999"):
        assert value not in " ".join(found)


def test_no_table_at_all_is_told() -> None:
    with pytest.raises(DataError, match="no table"):
        prepare(controller(), replace(local(Path("x")), data=None), permutation=in_file_order)


# --- what the party is told -----------------------------------------------------------------------


def test_the_summary_describes_the_own_table(tmp_path: Path) -> None:
    summary = prepared(tmp_path, MIXED_CSV, MIXED).summary
    assert (summary.read, summary.complete, summary.outcome) == (6, 3, "days")
    assert summary.dropped == {"id": 1, "age": 1, "bmi": 2, "smoker": 1}
    assert [(c.column, c.kind, c.missing, c.levels) for c in summary.columns] == [
        ("age", "numeric", 1, {}),
        ("bmi", "numeric", 2, {}),
        ("sex", "category", 0, {"f": 2, "m": 1}),
        ("smoker", "category", 1, {"no": 1, "former": 1, "yes": 1}),
    ]


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        (["00123", "99", ""], (2, 5, True, 1)),
        (["a1", "0b"], (2, 2, False, 1)),
        (["١٢", "34"], (2, 2, False, 0)),
    ],
)
def test_the_summary_tells_what_identifiers_look_like(
    tmp_path: Path, identifiers: list[str], expected: tuple[int, int, bool, int]
) -> None:
    (shown,) = prepared(tmp_path, "id,age\n" + "".join(f"{i},1\n" for i in identifiers)).summary.identifiers
    assert (shown.shortest, shown.longest, shown.digits_only, shown.leading_zeros) == expected


def test_constant_and_nearly_constant_columns_are_named(tmp_path: Path) -> None:
    party = controller(
        features=("same", "rare", "noise", "fine", "half"),
        categories={"sex": ("f", "m", "x"), "ward": ("a", "b")},
        outcome="days",
    )
    lines = [
        f"{n},7,{int(n == 5)},{1e9 + 1e-5 * (n % 2)},{n},{n // 100},{'fm'[n == 3]},a,{int(n == 9)}" for n in range(200)
    ]
    content = "id,same,rare,noise,fine,half,sex,ward,days\n" + "\n".join(lines)
    summary = prepared(tmp_path, content, party).summary
    assert summary.constant == ("same", "sex=x", "ward=b")
    assert summary.nearly_constant == ("rare", "noise", "sex=m", "days")


def test_nothing_of_a_person_is_in_a_representation(tmp_path: Path) -> None:
    table = prepared(tmp_path, "id,age\nsecretone,777\nsecrettwo,888\n")
    shown = repr(table).replace(str(tmp_path), "")  # a folder's name may hold any number
    for value in ("secretone", "777", "888"):
        assert value not in shown


def test_a_summary_can_cross_a_pipe(tmp_path: Path) -> None:
    summary = prepared(tmp_path, MIXED_CSV, MIXED).summary
    assert pickle.loads(pickle.dumps(summary)) == summary  # noqa: S301


def test_csv_is_read_without_pyarrow_and_pandas(tmp_path: Path) -> None:
    path = write(tmp_path, "id,age\n1,2\n2,3\n")
    program = f"""
import sys
from pathlib import Path
from pipeline.config import Local, Party
from pipeline.matching import permutation
from pipeline.preprocess import prepare
party = Party(0, "h", "controller", "https://h:1", (), identifier=("id",), features=("age",))
local = Local(Path({str(path)!r}), Path("k"), b"", Path("o"), ("h", 1))
prepare(party, local, permutation=lambda n: permutation(n, lambda size: bytes(range(size))))
sys.exit(len(sys.modules.keys() & {{"pandas", "pyarrow"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0
