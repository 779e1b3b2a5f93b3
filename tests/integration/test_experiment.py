"""One point of an experiment as it is: three processes over TLS, and what stays behind."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest

from pipeline import cli

EXPERIMENT = """
title = "One point"
[grid]
records = 100
features = 4
correlation = 0.5
alpha = 0.1
paillier_bits = 2048
keys = "subgroup"
[[picture]]
name = "cost"
x = "records"
y = ["seconds_wall", "seconds_join"]
"""


def test_a_point_is_run_compared_drawn_and_leaves_no_key_and_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    temporary, output = tmp_path / "temporary", tmp_path / "output"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (tmp_path / "one.toml").write_text(EXPERIMENT)
    command = ["experiment", str(tmp_path / "one.toml"), "--output", str(output)]
    assert cli.main(command) == 0
    with (output / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[key] for key in row if key.startswith("state")] == ["0"] * 4, row["sentence"]
    assert (row["matches"], row["sentence"]) == ("100", "")
    assert float(row["coefficient_difference"]) < 1e-10
    assert float(row["fitted_difference"]) < 1e-7
    assert float(row["r2"]) == pytest.approx(float(row["r2_reference"]), abs=1e-9)
    assert 0 < float(row["seconds_join"]) < float(row["seconds_wall"])
    for measure in ("iterations", "rounds", "sent_bytes", "hiding_bits", "seconds_lasso"):
        assert float(row[measure]) > 0
    assert sorted(path.name for path in output.iterdir()) == ["cost.png", "cost.svg", "results.csv"]
    assert not list(temporary.iterdir())
    capsys.readouterr()
    assert cli.main(command) == 0
    assert "done already: 1" in capsys.readouterr().err
