"""The demonstration: its folder, its three processes, what it shows, and what it does when one of them fails."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import demo as demo_module
from pipeline import local_study
from pipeline.config import Model, load_agreement
from pipeline.datasets import STUDIES, StudyData, heart_failure, plain_join
from pipeline.demo import demo
from pipeline.errors import ConfigError, OwnInputError, PeerError, PipelineError, Refused
from pipeline.local_study import Ended, free_ports, party_error, run_parties, write_study
from pipeline.reference import plain_fit, standardised_difference

NAMES = ["hospital", "insurer", "third-party"]


@pytest.fixture(scope="module")
def small() -> StudyData:
    return heart_failure(200, 300, 320, seed=5)


# --- the folder -----------------------------------------------------------------------------------


def test_the_study_folder_has_what_each_party_needs_and_keys_only_their_owner_reads(
    tmp_path: Path, small: StudyData
) -> None:
    folder = tmp_path / "study"
    write_study(folder, small, free_ports(3), 2048)
    agreement = load_agreement(folder / "study.toml")
    assert [party.name for party in agreement.parties] == NAMES
    assert agreement.join.paillier_bits == 2048
    assert agreement.names == tuple(plain_join(small)[0].columns)
    for number, name in enumerate(NAMES):
        assert stat.S_IMODE((folder / "keys" / f"{name}.key").stat().st_mode) == 0o600
        assert (folder / "certificates" / f"{name}.pem").is_file()
        assert ("data" in (folder / f"party-{number}.toml").read_text()) == (name != "third-party")
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["hospital.csv", "insurer.csv"]


def test_a_second_demonstration_may_use_the_folder_of_the_first(tmp_path: Path, small: StudyData) -> None:
    write_study(tmp_path, small, free_ports(3), 2048)
    old = tmp_path / "results" / "insurer" / "result.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    write_study(tmp_path, small, free_ports(3), 2048)
    assert not old.exists()


@pytest.mark.parametrize("name", ["study.toml", "party-1.toml", "data/hospital.csv", "certificates/insurer.pem"])
def test_a_demonstration_that_was_adapted_is_replaced_only_by_force(
    tmp_path: Path, small: StudyData, name: str
) -> None:
    write_study(tmp_path, small, free_ports(3), 2048)
    adapted = (tmp_path / name).read_text() + "\n"
    (tmp_path / name).write_text(adapted)
    old = tmp_path / "results" / "insurer" / "result.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    with pytest.raises(ConfigError, match=f"{name}.*--force replaces"):
        write_study(tmp_path, small, free_ports(3), 2048)
    assert (tmp_path / name).read_text() == adapted
    assert old.exists()
    write_study(tmp_path, small, free_ports(3), 2048, force=True)
    assert (tmp_path / name).read_text() != adapted
    write_study(tmp_path, small, free_ports(3), 2048)


def test_a_demonstration_without_the_list_of_its_files_counts_as_adapted(tmp_path: Path, small: StudyData) -> None:
    write_study(tmp_path, small, free_ports(3), 2048)
    (tmp_path / "made.sha256").unlink()
    with pytest.raises(ConfigError, match="--force replaces"):
        write_study(tmp_path, small, free_ports(3), 2048)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "study.toml"])
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, small: StudyData, name: str, force: bool) -> None:
    (tmp_path / name).write_text('[study]\nname = "mine"\n')
    with pytest.raises(ConfigError, match="other files"):
        write_study(tmp_path, small, free_ports(3), 2048, force)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path, small: StudyData) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        write_study(tmp_path / "file", small, free_ports(3), 2048)


def test_free_ports_are_distinct() -> None:
    assert len(set(free_ports(3))) == 3


# --- three processes, played by short scripts -----------------------------------------------------


class Players:
    """Starts one short Python script instead of each party, and keeps the processes."""

    def __init__(self, *scripts: str) -> None:
        self.scripts = scripts
        self.processes: list[subprocess.Popen[str]] = []

    def __call__(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        number = int(arguments[arguments.index("--party-id") + 1])
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys, time\n" + self.scripts[number]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process


def say(text: str) -> str:
    return f"sys.stderr.write({text!r} + chr(10)); sys.stderr.flush()\n"


def played(monkeypatch: pytest.MonkeyPatch, players: Players) -> str:
    monkeypatch.setattr(local_study, "_start", players)
    shown = io.StringIO()
    try:
        run_parties(Path("study"), NAMES, Console(file=shown, width=200, highlight=False))
    finally:
        assert all(process.poll() is not None for process in players.processes), "a process outlived the demonstration"
    return shown.getvalue()


def test_every_line_of_a_party_is_shown_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = played(monkeypatch, Players(say("encrypting [red] ..."), say("b"), say("c")))
    lines = [line.split(" s ", 1)[1].split(maxsplit=1) for line in shown.splitlines() if " s " in line]
    assert sorted(lines) == [["hospital", "encrypting [red] ..."], ["insurer", "b"], ["third-party", "c"]]


def test_the_commands_are_shown_as_a_user_would_give_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = played(monkeypatch, Players("", "", ""))
    for number in range(3):
        assert f"$ python -m pipeline run --party-id {number} --config study/study.toml" in shown


@pytest.mark.parametrize(("state", "error"), [(2, OwnInputError), (3, Refused), (4, PeerError), (1, PipelineError)])
def test_the_sentence_and_state_of_a_failed_party_are_passed_on(
    monkeypatch: pytest.MonkeyPatch, state: int, error: type[PipelineError]
) -> None:
    script = say("reading the table ...") + say("The table is empty; mend it.") + f"sys.exit({state})"
    with pytest.raises(error, match=r"^At insurer: The table is empty; mend it\.$") as caught:
        played(monkeypatch, Players("", script, ""))
    assert caught.value.exit_state == state


def test_the_party_at_fault_is_named_and_not_one_that_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = say("insurer stopped.") + "sys.exit(4)"
    at_fault = "time.sleep(0.5)\n" + say("No table.") + "sys.exit(2)"
    with pytest.raises(OwnInputError, match="At insurer: No table"):
        played(monkeypatch, Players(told, at_fault, told))


def test_parties_that_go_on_after_a_failure_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_study, "END_SECONDS", 0.5)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + say("up") + "time.sleep(60)"
    begin = time.monotonic()
    with pytest.raises(Refused):
        played(monkeypatch, Players("time.sleep(60)", "time.sleep(0.5); sys.exit(3)", deaf))
    assert time.monotonic() - begin < 30


def test_parties_that_were_never_called_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    with pytest.raises(OwnInputError, match="At hospital: No table"):
        played(monkeypatch, Players(say("No table.") + "sys.exit(2)", "time.sleep(60)", "time.sleep(60)"))
    assert time.monotonic() - begin < 30


def test_a_party_that_is_killed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerError, match="third-party was ended by SIGKILL"):
        played(monkeypatch, Players("", "", "import os; os.kill(os.getpid(), 9)"))


def test_an_interrupt_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_study, "_follow", interrupted)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        played(monkeypatch, Players(*["time.sleep(60)"] * 3))
    assert time.monotonic() - begin < 10  # at the first request, not by force, which comes after 15


def test_a_failure_without_words_says_what_to_do() -> None:
    assert "--debug" in str(party_error(Ended("hospital", 1), ""))


# --- the comparison -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_the_penalty_of_each_study_removes_some_coefficients_and_keeps_some(name: str) -> None:
    study = STUDIES[name]()
    coefficients = list(plain_fit(study, Model(study.alpha)).coefficients.values())
    assert 0 < sum(value == 0.0 for value in coefficients) < len(coefficients)


def test_the_difference_is_in_standard_deviations(small: StudyData) -> None:
    features, outcome = plain_join(small)
    reference = plain_fit(small, Model(small.alpha))
    shifted = dict(reference.coefficients)
    shifted["insurer.income"] += 3e-6 * outcome.std() / features["insurer.income"].std(ddof=0)
    assert standardised_difference({"coefficients": reference.coefficients}, reference) == 0.0
    assert standardised_difference({"coefficients": shifted}, reference) == pytest.approx(3e-6)


# --- the whole --------------------------------------------------------------------------------------


def test_the_demonstration_runs_three_parties_and_agrees_with_scikit_learn(
    tmp_path: Path, small: StudyData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_module, "STUDIES", {"small": partial(lambda study: study, small)})
    monkeypatch.setenv("COLUMNS", "120")
    assert demo(tmp_path / "demo", "small") == 0
    results = {name: json.loads((tmp_path / "demo" / "results" / name / "result.json").read_text()) for name in NAMES}
    reference = plain_fit(small, Model(small.alpha))
    for name in ("hospital", "insurer"):
        assert results[name]["records"] == reference.records == 200
        assert standardised_difference(results[name], reference) < 1e-6
        assert results[name]["fit"]["r2"] == pytest.approx(reference.r2, abs=1e-6)
        zeros = {term for term, value in results[name]["coefficients"].items() if value == 0.0}
        assert zeros == {term for term, value in reference.coefficients.items() if value == 0.0}
    assert results["hospital"]["coefficients"] == results["insurer"]["coefficients"]
    assert not {"coefficients", "intercept", "fit", "own_rows"} & set(results["third-party"])
    left = tmp_path / "demo" / "results" / "third-party"
    assert [path.name for path in left.iterdir()] == ["result.json"]
    shown = capsys.readouterr().out
    assert "2048 bits" in shown
    assert "Both controllers hold the same model" in shown
    assert "from hospital: " in shown.split("What the third party held")[1]


def test_a_fault_in_one_table_ends_the_demonstration_with_its_sentence(
    tmp_path: Path, small: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path, small, free_ports(3), 2048)
    table = tmp_path / "data" / "insurer.csv"
    table.write_text(table.read_text().replace("east", "atlantis", 1))
    begin = time.monotonic()
    with pytest.raises(OwnInputError, match=r"At insurer: .*line \d+"):
        run_parties(tmp_path, NAMES, Console(file=io.StringIO()))
    assert time.monotonic() - begin < 60
    assert not list((tmp_path / "results").rglob("result.json"))
