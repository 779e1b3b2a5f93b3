"""`python -m pipeline check` as a person types it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from running import ROOT
from studies import make_study

HOSPITAL = "id,age,days\n007,50,3\n012,61,4\n013,70,9\n"
INSURER = "id,income\n007,7\n012,9\n"


def check(study: Path, party: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "check", "--party-id", str(party), "--config", str(study)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_sound_study_is_described_without_a_value(tmp_path: Path) -> None:
    path = make_study(tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER, model={"alpha": 0.1})
    done = check(path)
    assert done.returncode == 0, done.stderr
    assert "3 rows read, 3 complete" in done.stdout
    assert "3 characters, digits only, 3 with leading zeros" in done.stdout
    half = "(?: [0-9a-f]{4}){8}\n"
    assert len(re.findall(f" +{half} +{half}", done.stdout)) == 4  # the digest and three fingerprints
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "rows read" not in line)
    for value in ("007", "50", "61", "70"):
        assert not re.search(rf"(?<![\w:.]){value}(?![\w.])", done.stdout.split("Columns")[0].split("rows read")[1])


def test_faults_of_agreement_local_file_and_table_come_together(tmp_path: Path) -> None:
    hospital = HOSPITAL.replace("61", "sixty-one").replace("013,70", "013,7O")
    path = make_study(
        tmp_path,
        hospital_csv=hospital,
        insurer_csv=INSURER,
        model={"alpha": -1, "tolerence": 1e-6},
        local={0: {"decimals": ","}},
    )
    done = check(path)
    assert done.returncode == 2
    assert "alpha" in done.stderr
    assert '"tolerance"' in done.stderr
    assert '"decimal"' in done.stderr
    assert re.search(r"age at line 3 and line 4|age at lines? 3", done.stderr), done.stderr
    assert "sixty-one" not in done.stderr and "7O" not in done.stderr
    assert re.search(r"\d+ faults", done.stderr.strip().splitlines()[-1])


def test_the_third_party_has_no_table_to_check(tmp_path: Path) -> None:
    path = make_study(tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER, model={"alpha": 0.1})
    done = check(path, 2)
    assert done.returncode == 0, done.stderr
    assert "rows read" not in done.stdout


def test_names_with_brackets_are_shown_as_they_are_and_a_value_far_from_the_rest_is_pointed_out(tmp_path: Path) -> None:
    rows = "".join(f"{i:03d},{i % 7}.5,{1 + i % 5}\n" for i in range(60))
    path = make_study(
        tmp_path,
        hospital_csv="id,dose [/day],days\n" + rows + "900,1000000,3\n",
        insurer_csv=INSURER,
        model={"alpha": 0.1},
    )
    done = check(path)
    assert done.returncode == 0, done.stderr
    assert "dose [/day] has a value very far from the rest" in done.stdout
    assert re.search(r"days\s+. outcome", done.stdout)
    assert "days has a value" not in done.stdout


def test_values_as_far_apart_as_numbers_can_be_are_pointed_out_and_nothing_else_is_said(tmp_path: Path) -> None:
    hospital = HOSPITAL + "014,9e307,1\n015,-1.7e308,2\n"
    done = check(make_study(tmp_path, hospital_csv=hospital, insurer_csv=INSURER, model={"alpha": 0.1}))
    assert done.returncode == 0
    assert "age has a value very far from the rest" in done.stdout
    assert done.stderr == ""


def test_a_tolerance_too_fine_is_named_beside_other_faults(tmp_path: Path) -> None:
    path = make_study(
        tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER, model={"alpha": 0.1, "alpah": 1, "tolerance": 1e-13}
    )
    done = check(path)
    assert done.returncode == 2
    assert "alpah" in done.stderr and "tolerance" in done.stderr


def test_where_there_is_no_terminal_tables_are_plain_ascii_and_whole(tmp_path: Path) -> None:
    long = "a_column_with_a_name_that_is_longer_than_a_terminal_is_wide_" * 2
    path = make_study(tmp_path, hospital_csv=HOSPITAL.replace("age", long), insurer_csv=INSURER, model={"alpha": 0.1})
    done = check(path)
    assert done.stdout.isascii(), done.stdout
    assert f"| {long} |" in done.stdout
