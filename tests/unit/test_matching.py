"""Matching of hashes, the secret order, and the file of the third party's ciphertexts."""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline import matching
from pipeline.errors import LocalProtocolError, Refused
from pipeline.matching import CiphertextFile, has_duplicates, match_hashes, permutation
from pipeline.messages import Bytes


def hashes(*rows: bytes) -> Bytes:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def matched(left: Bytes, right: Bytes) -> set[tuple[int, int]]:
    i, j = match_hashes(left, right)
    assert (left[i] == right[j]).all()
    return set(zip(i.tolist(), j.tolist(), strict=True))


def in_the_clear(left: Bytes, right: Bytes) -> set[tuple[int, int]]:
    places = {row.tobytes(): i for i, row in enumerate(left)}
    return {(places[row.tobytes()], j) for j, row in enumerate(right) if row.tobytes() in places}


def test_equal_hashes_are_found_where_they_stand() -> None:
    left, rest = (np.frombuffer(os.urandom(32 * 500), np.uint8).reshape(-1, 32) for _ in range(2))
    right = np.concatenate([rest, left[100:300]])[np.random.default_rng(1).permutation(700)]
    assert matched(left, right) == in_the_clear(left, right)
    assert len(matched(left, right)) == 200


@pytest.mark.parametrize("place", [0, 8, 16, 24], ids=lambda place: f"differing from byte {place}")
def test_hashes_that_differ_in_eight_bytes_only_do_not_match(place: int) -> None:
    """Whatever three quarters are made to collide, all of it decides; every left row meets every right row."""

    def crafted(numbers: range) -> Bytes:
        rows = np.full((len(numbers), 32), 7, np.uint8)
        rows[:, place : place + 8] = np.array(numbers, "<u8")[:, None].view(np.uint8)
        return rows

    left, right = crafted(range(60)), crafted(range(40, 110))[::-1]
    assert matched(left, right) == in_the_clear(left, right)
    assert len(matched(left, right)) == 20


def test_hashes_with_zeros_at_the_end_are_told_apart() -> None:
    left = hashes(b"a" + bytes(31), b"a\0b" + bytes(29), bytes(32))
    right = hashes(bytes(31) + b"\1", b"a" + bytes(31), bytes(32))
    assert matched(left, right) == {(0, 1), (2, 2)}


def test_an_empty_side_matches_nothing() -> None:
    some, none = np.frombuffer(os.urandom(96), np.uint8).reshape(3, 32), np.zeros((0, 32), np.uint8)
    assert matched(some, none) == matched(none, some) == matched(none, none) == set()


def test_duplicates_are_found_wherever_they_stand() -> None:
    rows = np.frombuffer(os.urandom(32 * 100), np.uint8).reshape(-1, 32).copy()
    assert not has_duplicates(rows)
    rows[:, :24] = 1
    assert not has_duplicates(rows)
    rows[93] = rows[4]
    assert has_duplicates(rows)
    assert not has_duplicates(rows[:0])
    assert not has_duplicates(rows[:1])


# --- the order --------------------------------------------------------------


def test_a_permutation_holds_everything_once() -> None:
    for count in (0, 1, 2, 1000):
        assert sorted(permutation(count, os.urandom).tolist()) == list(range(count))


def test_every_permutation_is_about_as_frequent() -> None:
    count = Counter(tuple(permutation(3, os.urandom).tolist()) for _ in range(6000))
    assert set(count) == set(itertools.permutations(range(3)))
    assert max(abs(times - 1000) for times in count.values()) < 200  # seven standard deviations


def test_equal_sort_keys_are_drawn_again() -> None:
    draws = iter([b"\1" * 16 + b"\2" * 8, b"\3" * 8 + b"\1" * 8 + b"\2" * 8])
    assert permutation(3, lambda count: next(draws)).tolist() == [1, 2, 0]
    assert next(draws, None) is None


# --- the file ---------------------------------------------------------------


def rows(count: int) -> Bytes:
    return np.frombuffer(os.urandom(count * 2 * 8), np.uint8).reshape(count, 2, 8)


def test_appended_rows_are_taken_in_order() -> None:
    file, first, second = CiphertextFile((2, 8)), rows(3), rows(4)
    file.append(first)
    file.append(second)
    assert (file.take(0, 2) == first[:2]).all()
    assert (file.take(2, 5) == np.concatenate([first[2:], second])).all()
    file.close()


def test_no_row_is_taken_twice() -> None:
    file = CiphertextFile((2, 8))
    file.append(rows(4))
    file.take(0, 2)
    for first in (0, 1, 3):
        with pytest.raises(LocalProtocolError):
            file.take(first, 1)
    file.close()


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_gathered_rows_stand_in_the_given_order_and_the_others_are_gone(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(matching, "GATHER_ROWS", block)
    file, all_rows = CiphertextFile((2, 8)), rows(10)
    file.append(all_rows)
    gathered = file.gathered(np.array([7, 0, 9, 3]), None)
    assert file._file.closed
    assert (gathered.take(0, 4) == all_rows[[7, 0, 9, 3]]).all()
    assert os.fstat(gathered._file.fileno()).st_size == 4 * 16
    gathered.close()


def test_the_file_has_no_name_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = CiphertextFile((2, 8), tmp_path)
    file.append(rows(3))
    assert list(tmp_path.iterdir()) == []
    state = os.fstat(file._file.fileno())
    assert stat.S_IMODE(state.st_mode) == 0o600
    assert state.st_nlink == 0
    file.close()


def test_a_folder_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="folder for temporary files"):
        CiphertextFile((2, 8), tmp_path / "missing")


def test_a_full_disk_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    file = CiphertextFile((2, 8))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Refused, match="No space left") as refusal:
        file.append(rows(1))
    assert refusal.value.rule == "no-storage"
    file.close()


def test_a_write_that_stops_half_way_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    real, file, content = os.write, CiphertextFile((2, 8)), rows(5)
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    file.append(content)
    assert (file.take(0, 5) == content).all()
    file.close()
