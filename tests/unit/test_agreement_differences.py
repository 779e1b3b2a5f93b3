"""How the keys in which two agreements differ are named, and what a peer may send for one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import make_study

from pipeline.config import canonical_json, differences, load_agreement, parse_canonical

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = make_study(
        tmp_path_factory.mktemp("study"),
        hospital_csv="id,age,bmi,days\n",
        insurer_csv="id,income\n",
        hospital={"ranges": {"age": [0, 120]}, "categories": {"sex": ["f", "m"]}},
    )
    return load_agreement(path).canonical()


def sent(mine: dict[str, Any], change: Change = lambda theirs: None) -> dict[str, object]:
    """What arrives from a peer whose agreement is ours but for `change`."""
    theirs = copy.deepcopy(mine)
    change(theirs)
    return parse_canonical(canonical_json(theirs))


def test_an_agreement_does_not_differ_from_itself_after_its_journey(mine: dict[str, Any]) -> None:
    assert differences(mine, sent(mine)) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a["model"].update(alpha=0.2), ["model.alpha"]),
        (lambda a: a["model"].update(standardize=False, tolerance=1e-5), ["model.standardize", "model.tolerance"]),
        (lambda a: a["model"].update(standardize=1), ["model.standardize"]),
        (lambda a: a["study"].update(min_records=51), ["study.min_records"]),
        (lambda a: a["join"].update(paillier_bits=3072), ["join.paillier_bits"]),
        (lambda a: a["join"].update(keys="subgroup"), ["join.keys"]),
        (lambda a: a["study"].update(keep_until="2031-12-31"), ["study.keep_until"]),
        (lambda a: a["model"].update(alpha=None, alphas=[0.1, 0.2]), ["model.alpha", "model.alphas"]),
        (lambda a: a["open"].update(table1=True), ["open.table1"]),
        (lambda a: a["open"].update(table1=0), ["open.table1"]),
        (lambda a: a["gate"].update(max_r2=0.5, rare_levels="drop"), ["gate.rare_levels", "gate.max_r2"]),
        (lambda a: a["gate"].pop("max_r2"), ["gate.max_r2"]),
        (lambda a: a["party"][0]["features"].reverse(), ["party hospital: features"]),
        (lambda a: a["party"][0]["ranges"].clear(), ["party hospital: ranges"]),
        (lambda a: a["party"][0]["categories"].update(sex=["m", "f"]), ["party hospital: categories"]),
        (lambda a: a["party"][1].update(certificate=["00"]), ["party insurer: certificate"]),
        (lambda a: a["party"][1].update(name="payer"), ["party insurer: name"]),
        (lambda a: a["party"].pop(), ["party third-party"]),
        (lambda a: a["party"].append(a["party"][2] | {"id": 3}), ["party 3"]),
        (lambda a: a["party"].reverse(), []),
        (lambda a: a["model"].pop("alpha"), ["model.alpha"]),
        (lambda a: a["model"].update(folds=5), ["model.folds"]),
        (lambda a: a["model"].update({"\x1b[31m": 5}), ["model.a key that is unknown here"]),
        (
            lambda a: (a["party"][0].update(outcome="x"), a["model"].update(alpha=1.0), a["study"].update(name="x")),
            ["study.name", "party hospital: outcome", "model.alpha"],
        ),
    ],
)
def test_the_keys_that_differ_are_named_as_a_person_would(
    mine: dict[str, Any], change: Change, named: list[str]
) -> None:
    assert differences(mine, sent(mine, change)) == named


def test_tables_of_another_version_are_a_difference(mine: dict[str, Any]) -> None:
    [named] = differences(mine, sent(mine, lambda a: a.update(extra={})))
    assert "versions" in named


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("model"),
        lambda a: a.update(model=[]),
        lambda a: a.pop("open"),
        lambda a: a.update(gate=False),
        lambda a: a.update(party={}),
        lambda a: a.update(party=[1]),
        lambda a: a["party"][0].pop("id"),
        lambda a: a["party"][0].update(id="0"),
        lambda a: a["party"][0].update(id=True),
        lambda a: a["party"][0].update(id=1),
        lambda a: a["model"].update(alpha=[[[[[[1]]]]]]),
    ],
)
def test_what_has_not_the_form_of_an_agreement_is_refused(mine: dict[str, Any], change: Change) -> None:
    theirs = sent(mine, change)
    with pytest.raises(ValueError, match="not an agreement in canonical form"):
        differences(mine, theirs)


@pytest.mark.parametrize("theirs", [None, [], "x", 3])
def test_what_is_no_table_is_refused(mine: dict[str, Any], theirs: object) -> None:
    with pytest.raises(ValueError, match="canonical form"):
        differences(mine, theirs)


@pytest.mark.parametrize("model", [{1: 2}, {"alpha": float("nan")}, {"alpha": b""}, {"alpha": (1,)}])
def test_what_json_does_not_have_is_refused(mine: dict[str, Any], model: object) -> None:
    with pytest.raises(ValueError, match="canonical form"):
        differences(mine, mine | {"model": model})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"x"',
        b"\xff{}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * (4 << 20) + b"{}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_bytes_that_are_no_agreement_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="canonical form"):
        parse_canonical(data)


def test_a_number_that_json_reads_as_infinite_is_refused(mine: dict[str, Any]) -> None:
    data = json.dumps(mine).replace('"alpha": 0.1', '"alpha": 1e999').encode()
    with pytest.raises(ValueError, match="canonical form"):
        differences(mine, parse_canonical(data))


def test_half_a_surrogate_pair_does_no_harm(mine: dict[str, Any]) -> None:
    data = json.dumps(mine).replace('"small-study"', '"\\ud800"').encode()
    assert differences(mine, parse_canonical(data)) == ["study.name"]


def test_paths_and_moments_are_no_part_of_the_canonical_form(mine: dict[str, Any]) -> None:
    assert str(Path("certificates")) not in canonical_json(mine).decode()
