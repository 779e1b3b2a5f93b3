"""The examples in configs/ and the script that makes their keys work as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.config import Gate, Join, Model, Open, Study, load, load_agreement

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


def test_every_key_of_the_agreement_is_in_the_example_and_those_of_the_analysis_in_the_documents() -> None:
    example = (CHECKOUT / "configs/study.toml").read_text()
    model = (CHECKOUT / "docs/model.md").read_text()
    for table in (Study, Join, Model, Open, Gate):
        for field in fields(table):
            assert re.search(rf"^(?:#\s+)*{field.name} = ", example, re.MULTILINE), field.name
            if table in (Model, Open, Gate) and field.name != "rare_levels":
                assert f"\n| `{field.name}` | " in model, field.name


@pytest.mark.parametrize(
    ("penalties", "problems"),
    [("alphas rule folds features", 3), ("n_alphas alpha_min_ratio rule folds", 100)],
)
def test_the_alternatives_that_the_comments_show_are_accepted(study: Path, penalties: str, problems: int) -> None:
    example = (CHECKOUT / "configs/study.toml").read_text()
    shown = {key: line for line, key in re.findall(r"^#   ((\w+) = .*)$", example, re.MULTILINE)}
    model = "\n".join(shown[key] for key in penalties.split())
    kept = "\n".join(["keep_shares = true", shown["keep_until"], shown["max_analyses"]])
    text = re.sub(r"^alpha = .*", model, example, flags=re.MULTILINE).replace("[study]", f"[study]\n{kept}", 1)
    path = study.with_name("other.toml")
    path.write_text(text)
    agreement = load_agreement(path)
    assert (agreement.model.problems, agreement.model.rule, agreement.model.folds) == (problems, "1se", 10)
    assert agreement.study.keep_until is not None


def test_make_keys_does_not_overwrite_without_force(study: Path) -> None:
    key = study.with_name("keys") / "hospital.key"
    before = key.read_bytes()
    refused = make_keys(study)
    assert refused.returncode == 2
    assert key.read_bytes() == before
    assert make_keys("--force", study).returncode == 0
    assert key.read_bytes() != before
