"""Every way a run can end other than well: the exit states, the last lines, what is left behind."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from running import FOLDERS, PARTIES, Running
from studies import make_study

NAMES = ("hospital", "insurer", "third-party")
JOIN = "join"
LASSO = "lasso on the shares"


def tables(rows: int, matched: int, features: int = 2) -> tuple[str, str]:
    """Two tables with `matched` identifiers in common."""
    rng = np.random.default_rng(7)
    columns = ",".join(f"x{j}" for j in range(features))

    def cells() -> str:
        return ",".join(f"{value:.4f}" for value in rng.normal(size=features))

    hospital = "".join(f"A{i:05d},{cells()},{rng.poisson(4)}\n" for i in range(rows))
    insurer = "".join(f"A{i:05d},{cells()}\n" for i in range(rows - matched, 2 * rows - matched))
    return f"id,{columns},days\n{hospital}", f"id,{columns.replace('x', 'z')}\n{insurer}"


def study(folder: Path, rows: int = 120, matched: int = 120, features: int = 2, **changes: object) -> Path:
    hospital, insurer = tables(rows, matched, features)
    changes.setdefault("model", {"alpha": 0.1})
    changes.setdefault("study", {"min_records": 50})
    return make_study(folder, hospital_csv=hospital, insurer_csv=insurer, **changes)  # type: ignore[arg-type]


def step(party: int, moment: str) -> str:
    """Words a party writes at that moment; in the join, those of its longest step."""
    if moment == LASSO:
        return LASSO
    return "adding masks" if party == 2 else "masking and decrypting"


def one_sentence(line: str) -> bool:
    return bool(line) and "Traceback" not in line and not re.search(r"\bError\b.*\(", line)


@pytest.mark.parametrize("victim", PARTIES)
@pytest.mark.parametrize("moment", [JOIN, LASSO])
def test_a_killed_party_ends_the_others_with_state_4_within_seconds(tmp_path: Path, victim: int, moment: str) -> None:
    path = study(tmp_path, rows=400 if moment == JOIN else 60, matched=400 if moment == JOIN else 60, features=20)
    with Running(path) as running:
        running.start()
        running.wait_for(victim, step(victim, moment))
        running.signal(victim, signal.SIGKILL)
        ended = running.ends(30)
    for party in PARTIES:
        if party != victim:
            assert ended[party].state == 4, ended[party].err
            assert NAMES[victim] in ended[party].last_line
            assert one_sentence(ended[party].last_line)
        assert ended[party].result is None


def test_a_frozen_party_ends_the_others_with_state_4(tmp_path: Path) -> None:
    with Running(study(tmp_path, rows=400, matched=400)) as running:
        running.start()
        running.wait_for(1, step(1, JOIN))
        running.signal(1, signal.SIGSTOP)
        running.until(lambda: all(running.processes[p].poll() is not None for p in (0, 2)), 40, "the others' end")
        running.signal(1, signal.SIGKILL)
        ended = running.ends(30)
    for party in (0, 2):
        assert ended[party].state == 4
        assert "insurer" in ended[party].last_line


def test_an_interrupt_ends_with_130_and_the_others_are_told(tmp_path: Path) -> None:
    with Running(study(tmp_path, rows=400, matched=400)) as running:
        running.start()
        running.wait_for(0, step(0, JOIN))
        running.signal(0, signal.SIGINT)
        ended = running.ends(30)
    assert ended[0].state == 130
    assert one_sentence(ended[0].last_line)
    for party in (1, 2):
        assert ended[party].state == 4
        assert "hospital" in ended[party].last_line
        assert "interrupted" in ended[party].last_line


def test_a_party_that_never_comes_is_named(tmp_path: Path) -> None:
    with Running(study(tmp_path), wait=6) as running:
        ended = running.start(0, 1).ends(60)
    for party in (0, 1):
        assert ended[party].state == 4
        assert "third-party" in ended[party].last_line


def test_too_few_matches_are_refused_without_a_number(tmp_path: Path) -> None:
    path = study(tmp_path, rows=80, matched=37)
    with Running(path) as running:
        ended = running.start().ends()
    for party in PARTIES:
        assert ended[party].state == 3, ended[party].err
        assert "fewer than 50 complete records" in ended[party].last_line
        shown = re.sub(r"done in [\d.]+ s$", "", ended[party].err + ended[party].out, flags=re.MULTILINE)
        assert not re.search(r"\b37\b", shown)
        assert ended[party].result is None
    assert len({ended[party].last_line for party in PARTIES}) == 1  # whoever is the first to know


def test_a_fit_that_does_not_converge_is_refused_and_opens_nothing(tmp_path: Path) -> None:
    path = study(tmp_path, rows=60, matched=60, features=20, model={"alpha": 1e-4, "max_iterations": 1})
    with Running(path) as running:
        ended = running.start().ends()
    for party in PARTIES:
        assert ended[party].state == 3, ended[party].err
        assert "converge" in ended[party].last_line
        assert ended[party].result is None
    assert len({ended[party].last_line for party in PARTIES}) == 1


def test_agreements_that_differ_are_refused_with_the_keys_named(tmp_path: Path) -> None:
    path = study(tmp_path / "ours")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for file in path.parent.rglob("*"):
        target = theirs / file.relative_to(path.parent)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(file.read_bytes())
            target.chmod(file.stat().st_mode)
    changed = theirs / "study.toml"
    changed.write_text(re.sub(r"alpha = .*", "alpha = 0.25", changed.read_text()))
    with Running(path) as running, Running(changed) as other:
        running.start(0, 2)
        ended = other.start(1).ends() | running.ends()
    for party in PARTIES:
        assert ended[party].state == 3, ended[party].err
        assert "alpha" in ended[party].last_line


def test_wrong_own_data_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    path = study(tmp_path)
    table = next(path.parent.rglob("hospital*.csv"))
    lines = table.read_text().splitlines()
    lines[4] = lines[4].replace(lines[4].split(",")[1], "seventeen")
    table.write_text("\n".join(lines) + "\n")
    with Running(path, wait=5) as running:
        ended = running.start(0).ends(60)
    assert ended[0].state == 2
    assert "line 5" in ended[0].last_line and "x0" in ended[0].last_line and table.name in ended[0].last_line
    assert "seventeen" not in ended[0].err


def test_a_failed_run_leaves_an_older_result_untouched(tmp_path: Path) -> None:
    path = study(tmp_path, rows=80, matched=20)
    for folder in FOLDERS:
        target = path.parent / "results" / folder
        target.mkdir(parents=True, exist_ok=True)
        (target / "result.json").write_text(json.dumps({"older": True}))
    with Running(path) as running:
        ended = running.start().ends()
    for party, folder in zip(PARTIES, FOLDERS, strict=True):
        assert ended[party].state == 3
        assert ended[party].result == {"older": True}
        assert [file.name for file in (path.parent / "results" / folder).iterdir()] == ["result.json"]
