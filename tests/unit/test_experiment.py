"""Running an experiment, with points that are played: what is run, what is kept, what a person sees."""

from __future__ import annotations

import csv
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, experiment_results
from pipeline import experiment as experiment_module
from pipeline.errors import ConfigError
from pipeline.experiment import duration, experiment
from pipeline.experiment_file import Experiment, Point, read_experiment
from pipeline.experiment_results import COLUMNS, STATES, Outcome, Results, write_whole
from pipeline.local_study import Course, Ended

TWO = "[grid]\nrecords = [100, 200]\nalpha = 0.1\n"
THREE = "[grid]\nrecords = [100, 150, 200]\nalpha = 0.1\n"
PICTURE = '[[picture]]\nname = "cost"\nx = "records"\ny = "seconds_wall"\n'


class Played:
    """Stands for `run_point`; `states` maps numbers of records to the state a point ends with, or an exception."""

    def __init__(self, states: dict[int, int | BaseException] | None = None) -> None:
        self.states = states or {}
        self.ran: list[object] = []

    def __call__(self, plan: Experiment, point: Point) -> Outcome:
        records = point.settings["records"]
        assert isinstance(records, int)
        state = self.states.get(records, 0)
        if isinstance(state, BaseException):
            raise state
        self.ran.append(records)
        values: dict[str, object] = {"state": state, "seconds_wall": records / 100, "r2": 0.5}
        if state:
            values = {"state": state, "sentence": 'At hospital: no, "never"\nagain.'}
        row = experiment_module._row(plan, point, values)
        long = {"digest": row["digest"], "alpha": "0.1"}
        return Outcome(row, path=({**long, "term": "hospital.x1"},) if not state else ())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Played]:
    def run(text: str, states: dict[int, int | BaseException] | None = None) -> Played:
        played = Played(states)
        monkeypatch.setattr(experiment_module, "run_point", played)
        (tmp_path / "grid.toml").write_text(text)
        assert experiment(tmp_path / "grid.toml", tmp_path / "out") == 0
        return played

    return run


def table(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def records(folder: Path, name: str = "results.csv") -> list[str]:
    return [row["records"] for row in table(folder, name)]


# --- what is run, what is kept ---------------------------------------------------------------------


def test_a_row_has_every_setting_and_every_measure(run, tmp_path: Path) -> None:
    run(TWO)
    rows = table(tmp_path / "out")
    assert tuple(rows[0]) == COLUMNS
    assert [(row["records"], row["overlap"], row["alpha"], row["state"]) for row in rows] == [
        ("100", "0.8", "0.1", "0"),
        ("200", "0.8", "0.1", "0"),
    ]


def test_points_that_are_done_are_not_run_again(run, tmp_path: Path) -> None:
    assert run(TWO).ran == [100, 200]
    before = (tmp_path / "out" / "results.csv").read_bytes()
    assert run(TWO).ran == []
    assert (tmp_path / "out" / "results.csv").read_bytes() == before


def test_of_a_changed_file_only_what_is_new_is_run_and_the_table_has_its_order(run, tmp_path: Path) -> None:
    run(TWO)
    assert run(THREE).ran == [150]
    assert records(tmp_path / "out") == ["100", "150", "200"]


def test_points_that_were_taken_out_are_kept_aside_and_come_back(run, tmp_path: Path) -> None:
    run(THREE)
    assert run(TWO).ran == []
    assert records(tmp_path / "out") == ["100", "200"]
    assert records(tmp_path / "out", "earlier.csv") == ["150"]
    assert run(THREE).ran == []
    assert records(tmp_path / "out") == ["100", "150", "200"]
    assert records(tmp_path / "out", "earlier.csv") == []
    assert len(table(tmp_path / "out", "paths.csv")) == 3


def test_a_failed_point_is_a_row_with_its_sentence_and_the_rest_goes_on(run, tmp_path: Path) -> None:
    assert run(THREE, {150: 3}).ran == [100, 150, 200]
    rows = table(tmp_path / "out")
    assert [row["state"] for row in rows] == ["0", "3", "0"]
    assert rows[1]["sentence"] == 'At hospital: no, "never"\nagain.'
    assert rows[1]["r2"] == ""


@pytest.mark.parametrize(("state", "again"), [(2, []), (3, []), (1, [150]), (4, [150])])
def test_a_failure_that_may_have_been_chance_is_tried_again(run, tmp_path: Path, state: int, again: list[int]) -> None:
    run(THREE, {150: state})
    assert run(THREE).ran == again
    assert [row["state"] for row in table(tmp_path / "out")] == ["0", "0" if again else str(state), "0"]


def test_an_interrupt_leaves_the_table_of_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment_module, "run_point", Played({150: KeyboardInterrupt()}))
    (tmp_path / "grid.toml").write_text(THREE)
    assert cli.main(["experiment", str(tmp_path / "grid.toml"), "--output", str(tmp_path / "out")]) == 130
    assert records(tmp_path / "out") == ["100"]
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Interrupted here; the points that are done are kept, give the same command to go on."
    )


def test_pictures_are_drawn_anew_though_nothing_is_run(run, tmp_path: Path) -> None:
    run(TWO)
    assert run(TWO + PICTURE).ran == []
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"cost.png", "cost.svg"}


def test_a_table_of_something_else_is_not_replaced(run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("name,mark\nmine,1\n")
    with pytest.raises(ConfigError, match=r"results\.csv is not of an experiment by this version; name another folder"):
        run(TWO)
    assert (tmp_path / "out" / "results.csv").read_text() == "name,mark\nmine,1\n"


# --- files ----------------------------------------------------------------------------------------


def test_a_file_is_old_or_new_but_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "results.csv", "old\n")
    seen = []

    def failing(self: Path, target: Path) -> Path:
        seen.append((Path(target).read_text(), self.read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "results.csv", "new\n")
    assert seen == [("old\n", "new\n")]
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"], "and nothing lies about"


def test_others_may_read_the_table(run, tmp_path: Path) -> None:
    run(TWO)
    assert stat.S_IMODE((tmp_path / "out" / "results.csv").stat().st_mode) == 0o644


def test_a_row_is_written_after_what_belongs_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(experiment_results, "write_whole", lambda path, _: written.append(path.name))
    results = Results(tmp_path)
    row = dict.fromkeys(COLUMNS, "") | {"digest": "d"}
    long = {"digest": "d"}
    results.add(Outcome(row, (long,), (long,)))
    results.write(["d"])
    assert written == ["paths.csv", "curves.csv", "results.csv"]


def test_a_folder_that_cannot_be_written_is_one_sentence_before_anything_runs(run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        run(TWO, {100: AssertionError("was run")})


# --- what a person sees ---------------------------------------------------------------------------


def test_every_point_has_a_line_with_what_it_differs_in_and_what_it_came_to(
    run, capsys: pytest.CaptureFixture[str]
) -> None:
    run('title = "Small"\n' + THREE, {150: 3})
    out, err = capsys.readouterr()
    head, first, second, third = err.splitlines()
    assert head == "Small: 3 points"
    assert first.startswith("1 of 3  records 100: 1.0 s, R² 0.5000 (about ")
    assert second.startswith('2 of 3  records 150: state 3: At hospital: no, "never" again. (about ')
    assert third == "3 of 3  records 200: 2.0 s, R² 0.5000"
    assert "3 points, 1 of them failed" in out
    run('title = "Small"\n' + THREE)
    assert capsys.readouterr().err == "Small: 3 points; done already: 3\n"


def test_a_missing_package_is_one_sentence_with_state_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment_module, "PACKAGES", {"no_such_module": "no-such-module"})
    assert cli.main(["experiment", str(tmp_path / "grid.toml")]) == 2
    assert capsys.readouterr().err == (
        "an experiment needs no-such-module, not installed here; type pip install '.[experiments]' in the clone\n"
    )


def test_a_point_whose_tables_cannot_be_made_is_a_row_of_state_2(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text('data = "rand-hie"\n[grid]\nrecords = 15000\noverlap = 0.5\nalpha = 0.1\n')
    plan = read_experiment(tmp_path / "grid.toml")
    row = experiment_module.run_point(plan, plan.points[0]).row
    assert (row["state"], row["records"]) == ("2", "15000")
    assert "too few persons" in row["sentence"]


def test_the_row_of_a_failed_run_has_the_state_of_every_party_and_the_sentence_of_the_one_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    def failed(folder: Path, names: list[str], _show: object) -> Course:
        folders.append(folder)
        assert sorted(path.name for path in (folder / "keys").iterdir()) == [f"{name}.key" for name in sorted(names)]
        ended = (Ended("insurer", 4), Ended("hospital", 2))
        return Course(1.5, {"hospital": 2, "insurer": 4, "third-party": -15}, ended, dict.fromkeys(names, "No."))

    monkeypatch.setattr(experiment_module, "follow_parties", failed)
    (tmp_path / "grid.toml").write_text(TWO)
    plan = read_experiment(tmp_path / "grid.toml")
    row = experiment_module.run_point(plan, plan.points[0]).row
    assert [row[key] for key in ("state", *STATES, "sentence")] == ["2", "2", "4", "-15", "At hospital: No."]
    assert (row["seconds_wall"], row["matches"]) == ("1.5", "")
    assert not folders[0].parent.exists(), "keys and tables are gone"


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.4, "7 s"), (89, "89 s"), (120, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_the_time_left_is_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == words
