"""The examples in configs/ and the script that makes their keys work as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load

CHECKOUT = Path(__file__).parents[2]
TABLES = {
    "hospital": "patient_id,age,bmi,nyha,sex,hospital_days\n",
    "insurer": "insured_id,income,prior_claims\n",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "configs"
    shutil.copytree(CHECKOUT / "configs", folder, ignore=shutil.ignore_patterns("keys", "certificates", "data"))
    (folder / "data").mkdir()
    for name, table in TABLES.items():
        (folder / f"data/{name}.csv").write_text(table)
    make_keys(folder / "study.toml")
    return folder / "study.toml"


def make_keys(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    command = [str(CHECKOUT / "scripts/make-keys"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_examples_are_free_of_faults_once_keys_and_tables_are_there(study: Path) -> None:
    for party in range(3):
        load(study, party)


def test_every_key_has_the_default_that_the_comments_tell(study: Path) -> None:
    digest, settings = load(study, 0)[0].digest, load(study, 0)[1]
    for name in ("study.toml", "party-0.toml"):
        path = study.with_name(name)
        text = path.read_text()
        told = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
        assert told.count("\n# ") < text.count("\n# ")
        path.write_text(told)
    agreement, local = load(study, 0)
    assert agreement.digest == digest
    assert local == settings


def test_make_keys_does_not_overwrite_without_force(study: Path) -> None:
    key = study.with_name("keys") / "hospital.key"
    before = key.read_bytes()
    refused = make_keys(study)
    assert refused.returncode == 2
    assert key.read_bytes() == before
    assert make_keys("--force", study).returncode == 0
    assert key.read_bytes() != before
