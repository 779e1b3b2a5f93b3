"""Random share plus masked share are the matched rows, in any delivery order."""

from __future__ import annotations

from random import Random

from fakes import Study
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PERSONS = st.sets(st.integers(0, 30), max_size=25)
WIDTH = st.integers(1, 9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(PERSONS, PERSONS, WIDTH, WIDTH, st.randoms(use_true_random=False))
def test_shares_add_up_to_the_join(first: set[int], second: set[int], own: int, other: int, order: Random) -> None:
    study = Study((first, second), (own, other))
    study.play(order.randrange)
    assert sorted(study.joined_rows()) == study.matched_rows()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(PERSONS, PERSONS, st.integers(0, 25), st.randoms(use_true_random=False))
def test_all_three_go_on_or_all_three_stop(first: set[int], second: set[int], min_records: int, order: Random) -> None:
    study = Study((first, second), (1, 1), min_records=min_records)
    network = study.play(order.randrange)
    enough = len(first & second) >= min_records
    assert set(network.refused) == (set() if enough else {0, 1, 2})
    assert [role.result is not None for role in study.roles.values()] == [enough] * 3
