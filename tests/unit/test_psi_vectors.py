"""Joins as recorded: the same messages, byte by byte, and bad ones refused where they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import BITS, THIRD, Study

from pipeline import wire
from pipeline.errors import RemoteProtocolError
from pipeline.paillier import KeyPair
from pipeline.psi_states import Ended, Matched, Table

FOLDER = Path(__file__).parent.parent / "vectors"
BAD = sorted(path.stem for path in FOLDER.glob("psi_bad_*.json"))


def vector_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def study_of(vector: dict[str, Any]) -> Study:
    assert vector["bits"] == BITS
    tables = [
        Table([tuple(i) for i in t["identifiers"]], np.array(t["values"], np.int64), tuple(t["exponents"]))
        for t in vector["tables"]
    ]
    keys = tuple(KeyPair(int(key["p"]), int(key["q"])) for key in vector["keys"])
    widths, session = tuple(vector["widths"]), bytes.fromhex(vector["session"])
    return Study((), widths, vector["min_records"], session, keys, vector["seed"], tables=tables)


@pytest.mark.parametrize("name", ["psi_join", "psi_too_few_records"])
def test_a_recorded_join_is_played_the_same_byte_by_byte(name: str) -> None:
    vector = vector_of(name)
    study = study_of(vector)
    played = [{"from": d.sender, "to": d.receiver, "bytes": d.data.hex()} for d in study.play().delivered]
    assert played == vector["messages"]


def test_the_recorded_join_adds_up() -> None:
    study = study_of(vector_of("psi_join"))
    study.play()
    assert study.third_party.result == Matched(4)
    assert sorted(study.joined_rows()) == study.matched_rows()


def test_the_recorded_refusal_ends_all_three() -> None:
    study = study_of(vector_of("psi_too_few_records"))
    assert set(study.play().refused) == {0, 1, THIRD}
    assert all(isinstance(role.state, Ended) for role in study.roles.values())


def test_there_are_bad_vectors() -> None:
    assert "psi_bad_duplicate_hash" in BAD


@pytest.mark.parametrize("name", BAD)
def test_the_last_message_of_a_bad_vector_is_refused_and_moves_nothing(name: str) -> None:
    vector = vector_of(name)
    study = study_of(vector)
    role = study.roles[vector["to"]]
    list(role.start())
    *good, bad = [(m["from"], wire.decode(bytes.fromhex(m["bytes"]), study.session)) for m in vector["messages"]]
    for sender, message in good:
        list(role.receive(sender, message))
    state = role.state
    with pytest.raises(RemoteProtocolError) as refusal:
        list(role.receive(*bad))
    assert vector["says"] in str(refusal.value)
    assert role.state is state
