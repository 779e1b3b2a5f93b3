"""Which tables were joined, and when another one is refused."""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest

from pipeline import joins
from pipeline.agreement import Study
from pipeline.errors import ConfigError
from pipeline.preprocess import PreparedTable

STUDY = Study("small")


def table(identifiers=("a", "b", "c"), values=((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))) -> PreparedTable:
    return PreparedTable([(text,) for text in identifiers], np.array(values), 3, {}, None)  # type: ignore[arg-type]


def join(folder, study=STUDY, prepared=None) -> None:
    joins.planned(folder, study, prepared or table()).record()


def test_the_same_table_may_be_joined_again_in_any_order_of_its_rows(tmp_path):
    join(tmp_path)
    join(tmp_path)
    join(tmp_path, prepared=table(("c", "a", "b"), ((5.0, 6.0), (1.0, 2.0), (3.0, 4.0))))


@pytest.mark.parametrize(
    "changed",
    [
        table(("a", "b"), ((1.0, 2.0), (3.0, 4.0))),
        table(("a", "b", "d")),
        table(values=((1.0, 2.0), (3.0, 4.0), (5.0, 6.5))),
        table(values=((1.0, 4.0), (3.0, 2.0), (5.0, 6.0))),
        table(values=((1.0,), (3.0,), (5.0,))),
    ],
    ids=["a person less", "another person", "another value", "values changed about", "a column less"],
)
def test_a_changed_table_is_refused_until_the_revision_is_higher(tmp_path, changed):
    join(tmp_path)
    with pytest.raises(ConfigError, match="revision = 2"):
        joins.planned(tmp_path, STUDY, changed)
    join(tmp_path, Study("small", revision=2), changed)
    with pytest.raises(ConfigError, match="revision = 3"):
        joins.planned(tmp_path, Study("small", revision=2), table())
    with pytest.raises(ConfigError, match="revision = 3"):  # nor does a lower one help
        joins.planned(tmp_path, STUDY, table())


def test_a_revision_once_joined_does_not_sink(tmp_path):
    join(tmp_path, Study("small", revision=5))
    join(tmp_path)
    with pytest.raises(ConfigError, match="revision = 6"):
        joins.planned(tmp_path, Study("small", revision=4), table(("x", "y", "z")))


def test_studies_are_told_apart(tmp_path):
    join(tmp_path)
    join(tmp_path, Study("other"), table(("x", "y", "z")))
    with pytest.raises(ConfigError):
        joins.planned(tmp_path, STUDY, table(("x", "y", "z")))


def test_a_join_that_was_only_planned_is_not_remembered(tmp_path):
    joins.planned(tmp_path, STUDY, table())
    assert not list(tmp_path.iterdir())
    joins.planned(tmp_path, STUDY, table(("x", "y", "z")))


def test_the_file_is_its_owners_and_has_no_value_and_no_identifier(tmp_path):
    join(tmp_path, prepared=table(("identifier-1", "identifier-2", "identifier-3")))
    (file,) = tmp_path.iterdir()
    assert file.name == "joins.json" and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "identifier" not in file.read_text()
    entry = json.loads(file.read_text())["joins"]["small"]
    assert set(entry) == {"revision", "salt", "table", "matched"}


def test_two_parties_with_the_same_table_do_not_store_the_same(tmp_path):
    join(tmp_path / "one")
    join(tmp_path / "two")
    stored = [json.loads((tmp_path / name / "joins.json").read_text())["joins"]["small"] for name in ("one", "two")]
    assert stored[0]["salt"] != stored[1]["salt"] and stored[0]["table"] != stored[1]["table"]


@pytest.mark.parametrize("text", ["", "{", '{"format": 2}', '{"format": 1, "joins": {"small": {"revision": 1}}}'])
def test_a_file_that_is_damaged_is_no_way_round(tmp_path, text):
    (tmp_path / "joins.json").write_text(text)
    with pytest.raises(ConfigError, match="not as it was written"):
        joins.planned(tmp_path, STUDY, table())
