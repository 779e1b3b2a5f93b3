"""Shares that are kept: other models without a new join, how often, and every way in which that is refused."""

from __future__ import annotations

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running import FOLDERS, PARTIES, ROOT, Ended, Running
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from studies import make_study

from pipeline.config import load_agreement

RNG = np.random.default_rng(11)
X = np.round(RNG.normal(size=(120, 4)), 4)
Y = np.round(X @ [1.0, -2.0, 0.0, 3.0] + RNG.normal(size=120), 4)
NAMES = ["hospital.a", "hospital.b", "insurer.c", "insurer.d"]


def csv(columns: str, *values: np.ndarray) -> str:
    rows = np.column_stack(values)
    return "\n".join([f"id,{columns}", *(f"P{i:04d}," + ",".join(map(str, row)) for i, row in enumerate(rows))]) + "\n"


def study(folder: Path, **changes: object) -> Path:
    kept = {"name": "kept", "min_records": 50, "keep_shares": True} | dict(changes.pop("study", {}))  # type: ignore[call-overload]
    tables = {"hospital_csv": csv("a,b,days", X[:, :2], Y), "insurer_csv": csv("c,d", X[:, 2:])}
    return make_study(folder, study=kept, **(tables | changes))  # type: ignore[arg-type]


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


def play(path: Path, command: str, *parties: int, wait: float = 120.0) -> dict[int, Ended]:
    with Running(path, command=command, wait=wait) as running:
        return running.start(*parties).ends()


def succeeds(path: Path, command: str) -> dict[int, Ended]:
    ended = play(path, command)
    for party in PARTIES:
        assert ended[party].state == 0, ended[party].err
    return ended


def forget(path: Path, party: int) -> subprocess.CompletedProcess[str]:
    arguments = ["--party-id", str(party), "--config", str(path)]
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "forget", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def shares(path: Path, party: int) -> Path:
    return path.parent / "results" / FOLDERS[party] / "shares"


def about(path: Path, party: int) -> dict[str, object]:
    return json.loads((shares(path, party) / "kept.json").read_text())  # type: ignore[no-any-return]


def agrees(result: dict[str, object] | None, alpha: float, columns: list[int]) -> None:
    """The result is scikit-learn's on the plain join."""
    assert result is not None
    model = make_pipeline(StandardScaler(), Lasso(alpha, tol=1e-12)).fit(X[:, columns], Y)
    coefficients = model[-1].coef_ / model[0].scale_
    assert list(result["coefficients"]) == [NAMES[column] for column in columns]  # type: ignore[call-overload]
    assert np.allclose(list(result["coefficients"].values()), coefficients, rtol=0, atol=1e-6)  # type: ignore[attr-defined]
    assert result["fit"]["r2"] == pytest.approx(model.score(X[:, columns], Y), abs=1e-8)  # type: ignore[index]


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run once; to be copied, not changed."""
    path = study(tmp_path_factory.mktemp("kept"), study={"max_analyses": 3})
    succeeds(path, "run")
    return path


@pytest.fixture
def copy(joined: Path, tmp_path: Path) -> Path:
    shutil.copytree(joined.parent, tmp_path / "study")
    return tmp_path / "study" / joined.name


def test_other_models_are_fitted_without_a_new_join_until_the_analyses_are_used(copy: Path) -> None:
    agrees(json.loads((shares(copy, 0).parent / "result.json").read_text()), 0.1, [0, 1, 2, 3])
    edit(copy, r"^alpha = .*", "alpha = 0.5\nfolds = 5")
    for party, ended in succeeds(copy, "fit").items():
        assert ended.result is not None and ended.result["kept_shares"]["analyses"] == 2
        assert "join" not in ended.result["seconds"]
        assert party == 2 or ended.result["own_rows"]["read"] == 120
        if party < 2:
            agrees(ended.result, 0.5, [0, 1, 2, 3])
    edit(copy, r"^alpha = .*\n", 'alpha = 0.02\nfeatures = ["hospital.b", "insurer.d"]\n')
    ended = succeeds(copy, "fit")
    agrees(ended[0].result, 0.02, [1, 3])
    agrees(ended[1].result, 0.02, [1, 3])
    assert [about(copy, party)["analyses"] for party in PARTIES] == [3, 3, 3]
    ended = play(copy, "fit")
    assert {(end.state, end.last_line) for end in ended.values()} == {
        (3, "the agreement allows 3 analyses of one join, refused ones included, and they have been made")
    }


def test_folder_and_files_are_for_their_owner_alone(joined: Path) -> None:
    for party in PARTIES:
        folder = shares(joined, party)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(list(folder.iterdir())) == 2
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        assert about(joined, party)["analyses"] == 1
    assert about(joined, 2)["exponents"] is about(joined, 2)["offsets"] is None
    assert len({json.dumps([about(joined, p)[key] for key in ("join", "opened", "records")]) for p in PARTIES}) == 1


def test_two_parties_folders_hold_the_table_and_one_does_not(joined: Path) -> None:
    tables = [np.load(next(shares(joined, party).glob("*.npy"))) for party in PARTIES]
    numbers = [table[..., 0].astype(object) + (table[..., 1].astype(object) << 64) for table in tables]
    p = 2**127 - 1
    opened = (2 * numbers[0] - numbers[1]) % p
    opened = np.where(opened > p // 2, opened - p, opened)
    assert np.abs(opened).max() < 2**43
    assert (opened == np.where((x := (3 * numbers[0] - numbers[2]) * pow(2, -1, p) % p) > p // 2, x - p, x)).all()
    for table in numbers:
        counts = np.bincount([int(x) >> 124 for x in table.ravel()], minlength=8)
        expected = table.size / 8
        assert ((counts - expected) ** 2 / expected).sum() < 40


def test_a_party_that_has_forgotten_is_named_at_the_others_within_seconds(copy: Path) -> None:
    done = forget(copy, 1)
    assert done.returncode == 0 and "120 matched records in 5 columns" in done.stdout
    assert not shares(copy, 1).exists()
    again = forget(copy, 1)
    assert again.returncode == 0 and "nothing to destroy" in again.stdout
    ended = play(copy, "fit")
    assert ended[1].state == 2 and "no shares are kept" in ended[1].last_line
    for party in (0, 2):
        assert ended[party].state == 4
        assert "insurer stopped: it keeps no shares" in ended[party].last_line
        assert ended[party].seconds < 20
        assert about(copy, party)["analyses"] == 1  # nothing was begun


def test_shares_of_another_join_are_refused_at_all(copy: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(shares(copy, 1), older)
    succeeds(copy, "run")  # an unchanged table may be joined again
    shutil.rmtree(shares(copy, 1))
    shutil.copytree(older, shares(copy, 1))
    ended = play(copy, "fit")
    assert {end.state for end in ended.values()} == {3}
    assert len({end.last_line for end in ended.values()}) == 1 and "of the same join" in ended[0].last_line


def test_the_highest_count_of_all_parties_holds(copy: Path) -> None:
    file = shares(copy, 2) / "kept.json"
    file.write_text(json.dumps(about(copy, 2) | {"analyses": 3, "opened": 17}))
    ended = play(copy, "fit")
    assert {end.state for end in ended.values()} == {3}
    assert "3 analyses" in ended[0].last_line
    assert [about(copy, party)["analyses"] for party in PARTIES] == [3, 3, 3]


def test_a_refused_analysis_counts_and_shares_stay(tmp_path: Path) -> None:
    same = csv("a,b,days", X[:, 0], X[:, 0], Y)
    path = study(tmp_path, hospital_csv=same, model={"kind": "ols", "alpha": None}, study={"max_analyses": 2})
    ended = play(path, "run")
    assert {end.state for end in ended.values()} == {3} and "combination of the others" in ended[0].last_line
    assert [about(path, party)["analyses"] for party in PARTIES] == [1, 1, 1]
    edit(path, r'^kind = "ols"', 'kind = "lasso"\nalpha = 0.1\nfeatures = ["hospital.a", "insurer.c", "insurer.d"]')
    agrees(succeeds(path, "fit")[0].result, 0.1, [0, 2, 3])
    assert [about(path, party)["analyses"] for party in PARTIES] == [2, 2, 2]


def test_a_term_of_the_agreement_changed_after_the_join_is_refused(copy: Path) -> None:
    edit(copy, r"^max_analyses = .*", "max_analyses = 100")
    ended = play(copy, "fit")
    assert {end.state for end in ended.values()} == {3}
    assert "in more than [model]" in ended[0].last_line


def test_an_analysis_that_is_broken_off_counts(copy: Path) -> None:
    with Running(copy, command="fit") as running:
        running.start()
        running.wait_for(0, "Analyses of this join so far: 1 of 3")
        running.signal(0, signal.SIGKILL)
        running.ends(30)
    assert about(copy, 0)["analyses"] == 2
    succeeds(copy, "fit")
    assert [about(copy, party)["analyses"] for party in PARTIES] == [3, 3, 3]


def test_shares_past_their_day_are_refused_at_all_and_can_be_destroyed(copy: Path) -> None:
    edit(copy, r"^max_analyses = .*", "max_analyses = 3\nkeep_until = 2026-01-01")
    for party in PARTIES:
        file = shares(copy, party) / "kept.json"
        file.write_text(json.dumps(about(copy, party) | {"join_digest": load_agreement(copy).join_digest}))
    ended = play(copy, "fit")
    assert {end.state for end in ended.values()} == {3}
    assert {"until 2026-01-01, and that day is over" in end.last_line for end in ended.values()} == {True}
    assert play(copy, "run", 0)[0].state == 2  # nor is it worth a join
    assert "Destroyed" in forget(copy, 2).stdout and not shares(copy, 2).exists()


@pytest.mark.parametrize("last", [0, 1])
def test_run_and_fit_do_not_go_together(copy: Path, last: int) -> None:
    """Who comes last is told as well."""
    with Running(copy, command="fit") as fitting, Running(copy) as running:
        commands = {0: fitting, 1: running, 2: fitting}
        first = [party for party in PARTIES if party != last]
        for party in first:
            commands[party].start(party)
        time.sleep(5)
        commands[last].start(last)
        ended = fitting.ends() | running.ends()
    for party in PARTIES:
        assert ended[party].state == 3, ended[party].err
        assert "command" in ended[party].last_line


def test_numbers_that_may_be_opened_over_all_analyses_are_limited(tmp_path: Path) -> None:
    path = study(tmp_path, gate={"max_parameters_ratio": 0.1})  # 12 numbers; an analysis opens 4 + 1 + 2
    ended = succeeds(path, "run")
    assert ended[2].result is not None
    assert ended[2].result["kept_shares"]["opened_numbers"] == 7
    assert ended[2].result["kept_shares"]["max_opened_numbers"] == 12
    ended = play(path, "fit")
    assert {end.state for end in ended.values()} == {3}
    assert "max_parameters_ratio" in ended[0].last_line
    edit(path, r"^alpha = .*", 'alpha = 0.1\nfeatures = ["hospital.b", "insurer.d"]')
    assert succeeds(path, "fit")[2].result["kept_shares"]["opened_numbers"] == 12  # type: ignore[index]


@pytest.mark.parametrize("victim", [0, 2])
def test_a_join_that_is_cut_off_leaves_nothing_of_shares(tmp_path: Path, victim: int) -> None:
    path = study(tmp_path)
    words = "adding masks" if victim == 2 else "masking and decrypting"
    with Running(path) as running:
        running.start()
        running.wait_for(victim, words)
        running.signal(victim, signal.SIGKILL)
        running.ends(30)
    for party in PARTIES:
        assert {file.name for file in shares(path, party).parent.glob("*")} <= {"joins.json"}


def test_without_keep_shares_there_is_nothing_to_fit(tmp_path: Path) -> None:
    path = study(tmp_path, study={"keep_shares": False})
    ended = succeeds(path, "run")
    assert not any(shares(path, party).exists() for party in PARTIES)
    assert ended[0].result is not None and "kept_shares" not in ended[0].result
    assert play(path, "fit", 0)[0].state == 2


def test_a_changed_table_is_joined_again_only_under_a_higher_revision(copy: Path) -> None:
    table = next(copy.parent.rglob("insurer*.csv"))
    rows = table.read_text().splitlines()
    table.write_text("\n".join(rows[:-1]) + "\n")  # one person less
    ended = play(copy, "run", 1)
    assert ended[1].state == 2
    assert "revision = 2" in ended[1].last_line and "P0" not in ended[1].err
    edit(copy, r"^max_analyses = .*", "max_analyses = 3\nrevision = 2")
    succeeds(copy, "run")
    assert about(copy, 0)["records"] == 119 and about(copy, 0)["analyses"] == 1
    table.write_text("\n".join([rows[0], *reversed(rows[1:-1])]) + "\n")  # another order is no other table
    succeeds(copy, "run")
    joins = json.loads((copy.parent / "results" / "insurer" / "joins.json").read_text())
    assert joins["joins"]["kept"]["revision"] == 2
    assert not (copy.parent / "results" / "third-party" / "joins.json").exists()
