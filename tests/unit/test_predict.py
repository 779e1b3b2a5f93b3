"""The `predict` command: a model applied to a table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_table import write

from pipeline.errors import ConfigError, DataError
from pipeline.predict import Prediction, predict, read_model

MODEL: dict[str, Any] = {
    "study": "heart-failure",
    "intercept": 1.0,
    "coefficients": {
        "hospital.age": 0.5,
        "hospital.sex=m": 10.0,
        "hospital.sex=x": -10.0,
        "insurer.income": 0.0,
        "insurer.age": 2.0,
    },
    "features": [
        {"party": "hospital", "column": "age", "kind": "numeric"},
        {"party": "hospital", "column": "sex", "kind": "category", "levels": ["f", "m", "x"]},
        {"party": "insurer", "column": "income", "kind": "numeric"},
        {"party": "insurer", "column": "age", "kind": "numeric"},
    ],
}
PLAIN = "id,hospital.age,insurer.age,sex,income\na,10,1,f,7\nb,20,2,m,7\nc,30,3,x,7\n"
PREDICTIONS = [8.0, 25.0, 12.0]


def model_file(folder: Path, **changes: Any) -> Path:
    path = folder / "result.json"
    path.write_text(json.dumps(MODEL | changes), encoding="utf-8")
    return path


def predicted(folder: Path, content: Any, output: str = "out.csv", **settings: Any) -> tuple[str, Prediction]:
    data = write(folder, content, settings.get("encoding", "utf-8"))
    report = predict(model_file(folder), data, folder / output, **settings)
    text = (folder / output).read_bytes().decode(settings.get("encoding", "utf-8"))
    return text, report


def refused(folder: Path, content: Any, output: str = "out.csv", **settings: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        predict(model_file(folder), write(folder, content), folder / output, **settings)
    assert not [path for path in folder.iterdir() if path.name.endswith(output) or path.name.startswith(".")]
    return tuple(fault.replace(f"{folder}/", "") for fault in caught.value.faults)


def test_a_column_with_predictions_is_added_and_the_rest_kept(tmp_path: Path) -> None:
    text, report = predicted(tmp_path, PLAIN)
    assert text == (
        "id,hospital.age,insurer.age,sex,income,prediction\n"
        "a,10,1,f,7,8.0\nb,20,2,m,7,25.0\nc,30,3,x,7,12.0\n"
    )  # fmt: skip
    assert (report.rows, report.incomplete) == (3, 0)
    assert report.sentence == f"3 predictions written to {tmp_path / 'out.csv'}"


def test_full_names_serve_everywhere(tmp_path: Path) -> None:
    content = PLAIN.replace("sex", "hospital.sex").replace("income", "insurer.income")
    assert predicted(tmp_path, content)[0].count("\n") == 4


def test_a_full_name_wins_over_a_plain_one(tmp_path: Path) -> None:
    content = "hospital.age,insurer.age,sex,income,hospital.sex\n10,1,?,7,f\n"
    assert predicted(tmp_path, content)[0].endswith("10,1,?,7,f,8.0\n")


def test_a_plain_name_that_two_parties_have_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path, PLAIN.replace("insurer.age", "age"))
    assert found == ("table.csv: two parties have such a column, so its name must be insurer.age in column age",)
    found = refused(tmp_path, PLAIN.replace("hospital.age", "age").replace("insurer.age", "ages"))
    assert found == (
        "table.csv: two parties have such a column, so its name must be hospital.age or insurer.age in column age",
    )


def test_a_row_with_a_missing_value_gets_an_empty_prediction_and_is_counted(tmp_path: Path) -> None:
    content = PLAIN.replace("a,10", "a,NA").replace("3,x,7", "3,,null") + "d,1,1,f,\n"
    text, report = predicted(tmp_path, content)
    assert [line.rpartition(",")[2] for line in text.splitlines()[1:]] == ["", "25.0", "", ""]
    assert (report.rows, report.incomplete) == (4, 3)
    assert report.sentence.endswith("; 3 rows have a missing value and no prediction")
    assert Prediction(Path("x"), 2, 1).sentence == (
        "1 prediction written to x; 1 row has a missing value and no prediction"
    )


def test_an_unknown_level_is_an_error_with_its_line(tmp_path: Path) -> None:
    assert refused(tmp_path, PLAIN + "\nd,1,1,F,1\n") == (
        "table.csv: a level that is not agreed (agreed: f, m, x) in column sex at line 6",
    )


def test_every_fault_is_told(tmp_path: Path) -> None:
    found = refused(tmp_path, PLAIN.replace("income", "Incomes").replace("a,10", "a,ten").replace("2,m", "2,q"))
    assert found == (
        'table.csv: no column "income"; the nearest name is "Incomes"',
        "table.csv: not a number in column hospital.age at line 2",
        "table.csv: a level that is not agreed (agreed: f, m, x) in column sex at line 3",
    )


def test_a_column_prediction_is_not_overwritten(tmp_path: Path) -> None:
    (sentence,) = refused(tmp_path, PLAIN.replace("id", "prediction"))
    assert "prediction already" in sentence


def test_an_older_output_survives_an_error(tmp_path: Path) -> None:
    old = tmp_path / "out.csv"
    old.write_text("prediction\n1\n")
    with pytest.raises(DataError):
        predict(model_file(tmp_path), write(tmp_path, PLAIN + "d,1,1,q,1\n"), old)
    assert old.read_text() == "prediction\n1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "result.json", "table.csv"]


def test_earlier_predictions_are_replaced_and_no_other_file(tmp_path: Path) -> None:
    predicted(tmp_path, PLAIN)
    assert predicted(tmp_path, PLAIN.replace("a,10", "a,12"))[0].startswith("id,hospital.age,insurer.age,sex,income,pr")
    for name, content in (("other.csv", PLAIN), ("notes.csv", "written by hand\n"), ("broken.parquet", "x")):
        output = tmp_path / name
        output.write_text(content)
        with pytest.raises(DataError, match="is there already and holds no column prediction"):
            predict(model_file(tmp_path), write(tmp_path, PLAIN), output)
        assert output.read_text() == content


@pytest.mark.parametrize("name", ["out.txt", "out", "out.tsv", "out.xlsx"])
def test_an_output_that_is_neither_csv_nor_parquet_by_its_name_is_refused(tmp_path: Path, name: str) -> None:
    (sentence,) = refused(tmp_path, PLAIN, name)
    assert sentence == f"{name}: the name of the output must end in .csv or .parquet"


@pytest.mark.parametrize("content", [PLAIN.replace("income", "other"), PLAIN + "d,1,1,q,1\n"])
def test_no_folder_is_left_when_nothing_is_written(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError):
        predict(model_file(tmp_path), write(tmp_path, content), tmp_path / "a" / "b" / "out.csv")
    assert not (tmp_path / "a").exists()


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    data, model = write(tmp_path, PLAIN), model_file(tmp_path)
    for path in (data, model):
        with pytest.raises(DataError, match="choose another name"):
            predict(model, data, path)
    assert data.read_text() == PLAIN


def test_the_output_folder_is_made_and_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    data, model = write(tmp_path, PLAIN), model_file(tmp_path)
    assert predict(model, data, tmp_path / "a" / "b" / "out.csv").rows == 3
    with pytest.raises(DataError, match="cannot be written"):
        predict(model, data, data / "out.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder; name a file"):
        predict(model, data, tmp_path / "folder.csv")


def test_separator_decimal_mark_line_ends_encoding_and_quotes_are_kept(tmp_path: Path) -> None:
    content = PLAIN.replace(",", ";").replace(";10;", ";10,5;").replace("\n", "\r\n").replace("c;", '"c;""ü""\n";')
    text, _ = predicted(tmp_path, content, decimal=",", encoding="cp1252")
    assert text == (
        "id;hospital.age;insurer.age;sex;income;prediction\r\n"
        'a;10,5;1;f;7;8,25\r\nb;20;2;m;7;25,0\r\n"c;""ü""\n";30;3;x;7;12,0\r\n'
    )


@pytest.mark.parametrize("cell", ["a\rb", "a\nb", "a,b", 'a"b', " a ", "'", "é"])
def test_what_is_written_reads_back_the_same(tmp_path: Path, cell: str) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    text, _ = predicted(tmp_path, PLAIN.replace("a,10", f"{quoted},10"))
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert [row[0] for row in rows] == ["id", cell, "b", "c"]
    assert [row[-1] for row in rows[1:]] == ["8.0", "25.0", "12.0"]


def test_a_byte_order_mark_is_kept(tmp_path: Path) -> None:
    predicted(tmp_path, b"\xef\xbb\xbf" + PLAIN.encode())
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbfid,")


def test_utf16_is_kept(tmp_path: Path) -> None:
    text, _ = predicted(tmp_path, PLAIN, encoding="utf-16")
    assert text.startswith("id,hospital.age")


def test_a_header_alone_gives_a_header(tmp_path: Path) -> None:
    text, report = predicted(tmp_path, PLAIN.splitlines()[0])
    assert text == "id,hospital.age,insurer.age,sex,income,prediction\n"
    assert report.rows == 0


def test_parquet_stays_parquet_with_its_types(tmp_path: Path) -> None:
    columns = {
        "id": pa.array([1, 2, 3]),
        "hospital.age": pa.array([10, None, 30], pa.int16()),
        "insurer.age": pa.array([1.0, 2.0, 3.0], pa.float32()),
        "sex": pa.array(["f", "m", "x"]).dictionary_encode(),
        "income": pa.array([True, False, True]),
        "nested": pa.array([[1], [2], None]),
    }
    data = write(tmp_path, columns)
    report = predict(model_file(tmp_path), data, tmp_path / "out.parquet")
    assert (report.rows, report.incomplete) == (3, 1)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column("prediction").to_pylist() == [8.0, None, 12.0]
    assert written.drop_columns(["prediction"]).equals(pq.read_table(data))
    with pytest.raises(DataError, match=r"no form in CSV .* in column nested"):
        predict(model_file(tmp_path), data, tmp_path / "out.csv")


def test_a_pandas_table_with_an_index_can_be_read_back_by_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"hospital.age": [10, 20], "insurer.age": [1, 2], "sex": ["f", "m"], "income": [7, 7]},
        index=pd.Index(["a", "b"], name="id"),
    )
    frame.to_parquet(tmp_path / "table.parquet")
    predict(model_file(tmp_path), tmp_path / "table.parquet", tmp_path / "out.parquet")
    back = pd.read_parquet(tmp_path / "out.parquet")
    assert back["prediction"].tolist() == [8.0, 25.0]
    assert back.index.tolist() == ["a", "b"]


def test_parquet_can_become_csv_and_csv_parquet(tmp_path: Path) -> None:
    columns = {
        "id": ["a", None],
        "hospital.age": [10.5, 20.0],
        "insurer.age": [1, 2],
        "sex": ["f", "m"],
        "income": [True, None],
    }
    text, _ = predicted(tmp_path, columns)
    assert text == "id,hospital.age,insurer.age,sex,income,prediction\na,10.5,1,f,1,8.25\n,20,2,m,,\n"
    predict(model_file(tmp_path), write(tmp_path, PLAIN), tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column("prediction").to_pylist() == PREDICTIONS
    assert written.column("id").to_pylist() == ["a", "b", "c"]


def test_a_prediction_too_large_is_an_error(tmp_path: Path) -> None:
    (sentence,) = refused(tmp_path, PLAIN.replace("a,10,1", "a,10,1e308"))
    assert sentence.endswith("too large at line 2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intercept": "1"}, "damaged"),
        ({"intercept": True}, "damaged"),
        ({"intercept": float("nan")}, "damaged"),
        ({"coefficients": {"hospital.age": 1.0}}, "damaged"),
        ({"coefficients": MODEL["coefficients"] | {"more": 1.0}}, "damaged"),
        ({"coefficients": []}, "damaged"),
        ({"features": {}}, "damaged"),
        ({"features": [{"party": "hospital"}]}, "damaged"),
        ({"features": [*MODEL["features"][:3], {"party": "insurer", "column": "age", "kind": "other"}]}, "damaged"),
        ({"features": [*MODEL["features"], MODEL["features"][0]]}, "damaged"),
    ],
)
def test_a_damaged_model_is_told(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_model(model_file(tmp_path, **changes))


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_model(path)
    for content in (b"", b"\xff", b"{", b"[]", b"1", b'"coefficients"'):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="not a result"):
            read_model(path)
    path.write_text(json.dumps({"study": "x", "records": 5}))
    with pytest.raises(ConfigError, match="third party"):
        read_model(path)
