"""Experiment files: what a grid comes to, every fault in one go, what a point's digest is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.agreement import Model
from pipeline.errors import ConfigError
from pipeline.experiment_file import AXES, MAX_POINTS, Experiment, read_experiment

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "experiments").glob("*.toml"))
GRID = "[grid]\nalpha = 0.1\n"


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str) -> Experiment:
        file = tmp_path / "grid.toml"
        file.write_text(text)
        return read_experiment(file)

    return read


def faults(read, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [fault.removeprefix("grid.toml: ") for fault in caught.value.faults]


def settings(experiment: Experiment, *keys: str) -> list[tuple[object, ...]]:
    return [tuple(point.settings.get(key) for key in keys) for point in experiment.points]


# --- the grid -------------------------------------------------------------------------------------


def test_every_combination_is_a_point_and_what_is_not_a_list_is_the_same_in_all(read) -> None:
    experiment = read("[grid]\nrecords = [100, 200]\nalpha = [0.1, 1]\nfeatures = 4\n")
    assert settings(experiment, "records", "alpha", "features") == [
        (100, 0.1, 4),
        (100, 1.0, 4),
        (200, 0.1, 4),
        (200, 1.0, 4),
    ]


def test_first_repetitions_come_before_second_ones(read) -> None:
    experiment = read("repetitions = 2\n[grid]\nrecords = [100, 200]\nalpha = 0.1\n")
    assert [(point.repetition, point.settings["records"]) for point in experiment.points] == [
        (1, 100),
        (1, 200),
        (2, 100),
        (2, 200),
    ]


def test_settings_that_a_kind_of_model_does_not_have_make_no_further_points(read) -> None:
    experiment = read(
        '[grid]\nkind = ["lasso", "elastic-net", "ols"]\nalpha = [0.1, 0.2]\nl1_ratio = [0.3, 0.5]\nfeatures = 4\n'
    )
    assert settings(experiment, "kind", "alpha", "l1_ratio") == [
        ("lasso", 0.1, None),
        ("lasso", 0.2, None),
        ("elastic-net", 0.1, 0.3),
        ("elastic-net", 0.1, 0.5),
        ("elastic-net", 0.2, 0.3),
        ("elastic-net", 0.2, 0.5),
        ("ols", None, None),
    ]


def test_a_value_of_alphas_is_itself_a_list(read) -> None:
    rest = '\nrule = "min"\nfolds = 5\nfeatures = 4\n'
    assert settings(read("[grid]\nalphas = [0.2, 0.1]" + rest), "alphas", "folds") == [((0.2, 0.1), 5)]
    two = read("[grid]\nalphas = [[0.2, 0.1], [0.3, 0.2]]" + rest)
    assert settings(two, "alphas") == [((0.2, 0.1),), ((0.3, 0.2),)]
    assert two.sections(two.points[1])["model"]["alphas"] == (0.3, 0.2)


def test_a_grid_of_too_many_points_is_refused_with_its_size(read) -> None:
    many = ", ".join(str(number / 1000) for number in range(1, 51))
    (fault,) = faults(read, f"repetitions = 2\n[grid]\nrecords = {list(range(100, 121))}\nalpha = [{many}]\n")
    assert fault == f"grid comes to 2,100 points (21 x 50, 2 repetitions); the most is {MAX_POINTS:,}"


def test_a_grid_of_billions_is_refused_without_being_made(read) -> None:
    numbers = ", ".join(map(str, range(10, 1000)))
    alphas = ", ".join(f"{n}.5" for n in range(1000))
    text = f"[grid]\nrecords = [{numbers}]\nfeatures = [{numbers}]\nalpha = [{alphas}]\n"
    assert "980,100,000 points" in faults(read, text)[0]


def test_tables_of_the_public_data_set_have_no_features_to_choose(read) -> None:
    (fault,) = faults(read, 'data = "rand-hie"\n[grid]\nalpha = 0.1\nfeatures = 4\n')
    assert fault == 'grid.features is not for data = "rand-hie", whose tables are given'
    assert settings(read('data = "rand-hie"\n' + GRID), "records", "features") == [(5000, None)]


def test_the_agreement_of_a_point_has_its_settings_and_asks_for_no_more_records_than_there_are(read) -> None:
    experiment = read('[grid]\nrecords = 30\nalpha = 0.1\npaillier_bits = 2048\nkeys = "subgroup"\nfeatures = 4\n')
    assert experiment.sections(experiment.points[0]) == {
        "study": {"min_records": 30},
        "join": {"paillier_bits": 2048, "keys": "subgroup"},
        "model": {"alpha": 0.1},
    }


def test_the_keys_of_the_grid_are_those_of_the_model() -> None:
    assert {"alpha", "alphas", "n_alphas", "folds", "rule"} <= set(AXES) & set(Model.__dataclass_fields__)


# --- faults ---------------------------------------------------------------------------------------


def test_every_fault_is_named_in_one_go_with_the_nearest_known_key(read) -> None:
    found = faults(
        read,
        """
repetition = 2
data = "rand"
seed = -1
[grid]
record = 100
overlap = 1.5
alpha = [0.1, "x"]
features = [4, 4]
kind = []
[[picture]]
name = "A picture"
x = "record"
y = "second_join"
serie = "alpha"
""",
    )
    assert found == [
        '"repetition" is an unknown key; the nearest known one is "repetitions"',
        'data must be "correlated" or "rand-hie", not "rand"; the nearest one is "rand-hie"',
        f"seed must be a whole number from 0 to {2**32 - 1}",
        'grid."record" is an unknown key; the nearest known one is "records"',
        "grid.overlap must be a number above 0 and at most 1, or a list of such",
        'grid.features has "4" more than once',
        "grid.kind must not be empty; give text, or a list of such",
        "grid.alpha must be a number, or a list of such",
        'picture 1: "serie" is an unknown key; the nearest known one is "series"',
        'picture 1: name must be 1 to 63 of the signs a to z, 0 to 9 and "-"',
        'picture 1: x cannot be "record"; the nearest known one is "records"',
        'picture 1: y cannot be "second_join"; the nearest known one is "seconds_join"',
    ]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ("alpha = -1", "model.alpha must be at least 0"),
        ("features = 4", "model.alpha is missing"),
        ("alpha = 0.1\npaillier_bits = 1024", "join.paillier_bits must be"),
        ('alpha = 0.1\nkeys = "none"', "join.keys must be"),
        ('alpha = 0.1\nkind = "elastic-net"', "model.l1_ratio is missing"),
    ],
)
def test_what_an_agreement_may_not_say_is_a_fault_before_anything_runs(read, grid: str, words: str) -> None:
    (fault,) = faults(read, f"[grid]\n{grid}\n")
    assert fault.startswith(f"the agreement of a point would be refused: {words}")


def test_a_fault_that_many_points_share_is_named_once(read) -> None:
    assert len(faults(read, "[grid]\nrecords = [100, 200, 300]\nfeatures = [4, 5]\nalpha = [-1, -2]\n")) == 1


@pytest.mark.parametrize("text", ["", "grid = 3\n"])
def test_a_file_without_a_grid_is_told_to_have_one(read, text: str) -> None:
    assert "write [grid] above" in faults(read, text)[0]


def test_a_file_that_is_not_there_is_one_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; give the path of an experiment file"):
        read_experiment(tmp_path / "none.toml")


# --- pictures -------------------------------------------------------------------------------------


def picture(text: str, head: str = "") -> str:
    return f'{head}[grid]\nrecords = [100, 200]\nalpha = [0.1, 0.2]\nfeatures = 4\n[[picture]]\nname = "a"\n{text}\n'


def test_a_line_does_not_mix_points_that_differ_in_what_the_picture_does_not_name(read) -> None:
    (fault,) = faults(read, picture('x = "records"\ny = "rounds"'))
    assert fault.startswith("picture 1: series does not hold alpha, which has several values")
    assert read(picture('x = "records"\ny = "rounds"\nseries = "alpha"'))
    assert read(picture('x = "records"\ny = "rounds"\nwhere = { alpha = 0.2 }'))
    assert read(picture('x = "condition"\ny = "rounds"')), "where points are not joined nothing is mixed"


def test_where_chooses_among_the_values_of_the_grid(read) -> None:
    rest = 'x = "records"\ny = "rounds"\nseries = "alpha"\n'
    assert faults(read, picture(rest + "where = { alpha = 0.3 }")) == [
        "picture 1: where.alpha is none of its values in the grid"
    ]
    assert faults(read, picture(rest + "where = { alphas = 0.1 }")) == [
        'picture 1: where.alphas is no key of the grid; the nearest key that is there is "alpha"'
    ]
    assert read(picture(rest + "where = { records = 100 }")).pictures[0].where == {"records": 100}


def test_names_have_no_logarithm(read) -> None:
    text = '[grid]\nalpha = 0.1\ncorrelation = ["pairs", 0.5]\n[[picture]]\nname = "a"\nx = "correlation"\ny = "r2"\n'
    assert faults(read, text + 'log = ["x", "y"]\n') == [
        'picture 1: log cannot hold "x": correlation has values that are no numbers'
    ]
    assert read(text + 'log = "y"\n').pictures[0].log == ("y",)


def test_two_pictures_cannot_have_one_name(read) -> None:
    text = picture('x = "condition"\ny = "r2"\n[[picture]]\nname = "a"\nx = "condition"\ny = "rounds"')
    assert faults(read, text) == ['picture has the name "a" more than once']


def test_a_path_is_of_one_point_and_must_be_opened(read) -> None:
    assert faults(read, picture('of = "path"')) == [
        'picture 1: of needs model = "path" in [open]',
        "picture 1: where leaves 4 points; such a picture is of one",
    ]
    assert faults(read, picture('of = "cv"\nwhere = { alpha = 0.1, records = 100 }')) == [
        "picture 1: of needs cv_curve = true in [open]"
    ]
    assert faults(read, picture('of = "cv"\nx = "alpha"'))[0].startswith('picture 1: "x" is an unknown key')


# --- digests and tables ---------------------------------------------------------------------------


def test_a_digest_is_about_what_changes_a_result_and_nothing_else(read) -> None:
    def digests(text: str) -> list[str]:
        experiment = read(text)
        return [experiment.digest(point) for point in experiment.points]

    first = digests(GRID)
    picture = '[[picture]]\nname = "a"\nx = "records"\ny = "r2"\n'
    assert digests('title = "other"\nseed = 1\n[grid]\nrecords = 400\nalpha = 0.10\n' + picture) == first
    others = [
        digests(text)[0] for text in ("seed = 2\n" + GRID, 'data = "rand-hie"\n' + GRID, GRID + "records = 100\n")
    ]
    repeated = digests("repetitions = 2\n" + GRID)
    assert repeated[0] == first[0]
    assert len({*first, *others, *repeated}) == 5


def test_points_that_differ_in_the_model_alone_have_the_same_tables(read) -> None:
    experiment = read("repetitions = 2\n[grid]\nrecords = [20, 30]\nfeatures = 4\nalpha = [0.1, 0.2]\n")
    tables = {
        (point.settings["records"], point.settings["alpha"], point.repetition): experiment.tables(point).tables[0].frame
        for point in experiment.points
    }
    assert tables[20, 0.1, 1].equals(tables[20, 0.2, 1])
    assert not tables[20, 0.1, 1].equals(tables[20, 0.1, 2])
    assert len(tables[30, 0.1, 1]) == 38  # with an overlap of 0.8


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_experiments_are_free_of_faults(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.pictures
    assert len(experiment.points) <= 30
