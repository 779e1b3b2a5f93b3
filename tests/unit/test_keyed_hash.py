"""Keyed hashes: the vectors, and what must not collide or be told."""

from __future__ import annotations

import json
import os
import traceback
from typing import Any

import numpy as np
import pytest
from attacks import VECTORS

from pipeline.errors import LocalProtocolError
from pipeline.keyed_hash import LABEL, hash_key, keyed_hashes, new_contribution

VECTOR = json.loads((VECTORS / "keyed_hash.json").read_text())
CASES = [pytest.param(case, id=case["name"]) for case in VECTOR["cases"]]
A, B, SESSION = (bytes([i]) * 32 for i in (1, 2, 3))


def test_the_label_is_that_of_the_vectors() -> None:
    assert LABEL.decode() == VECTOR["label"]


@pytest.mark.parametrize("case", CASES)
def test_the_key_is_that_of_the_vectors(case: dict[str, Any]) -> None:
    a, b = map(bytes.fromhex, case["contributions"])
    assert hash_key(a, b, bytes.fromhex(case["session"])).hex() == case["key"]


@pytest.mark.parametrize("case", CASES)
def test_the_hashes_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    identifiers = [tuple(columns) for columns in case["identifiers"]]
    hashes = keyed_hashes(bytes.fromhex(case["key"]), identifiers)
    assert hashes.dtype == np.uint8
    assert hashes.shape == (len(identifiers), 32)
    assert [row.tobytes().hex() for row in hashes] == case["hashes"]


def test_both_controllers_derive_the_same_key() -> None:
    assert hash_key(A, B, SESSION) == hash_key(B, A, SESSION)


@pytest.mark.parametrize("other", [(B, B, SESSION), (A, A, SESSION), (A, B, A)])
def test_each_contribution_and_the_session_change_the_key(other: tuple[bytes, bytes, bytes]) -> None:
    assert hash_key(A, B, SESSION) != hash_key(*other)


@pytest.mark.parametrize("short", [0, 1, 2])
def test_a_part_of_wrong_length_is_refused(short: int) -> None:
    parts = [A, B, SESSION]
    parts[short] = parts[short][1:]
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        hash_key(*parts)


def test_a_contribution_is_32_bytes_of_the_generator() -> None:
    asked = []

    def rng(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    assert len(new_contribution(rng)) == 32
    assert asked == [32]


def test_columns_are_not_run_together() -> None:
    hashes = keyed_hashes(A, [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc")])
    assert len({row.tobytes() for row in hashes}) == 5


def test_no_identifiers_give_no_hashes() -> None:
    assert keyed_hashes(A, []).shape == (0, 32)


def test_an_identifier_that_is_no_unicode_is_refused_without_being_quoted() -> None:
    identifier = "\ud800"
    with pytest.raises(LocalProtocolError) as caught:
        keyed_hashes(A, [(identifier,)])
    assert "ud800" not in "".join(traceback.format_exception(caught.value))
