from __future__ import annotations

import pytest

from pipeline import bounds
from pipeline.errors import RangeError
from pipeline.field import FIELD_191, FIELD_254
from pipeline.messages import MAX_ROWS
from pipeline.packing import VALUE_BOUND


def plan(records: int, features: int, *, fit_intercept: bool = True, max_iterations: int = 1000) -> bounds.Plan:
    return bounds.plan(records, features, fit_intercept=fit_intercept, max_iterations=max_iterations)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_largest_study_the_messages_allow_fits(fit_intercept: bool) -> None:
    sizes = plan(MAX_ROWS, 200, fit_intercept=fit_intercept)
    assert (sizes.field, sizes.solver_field) == (FIELD_191, FIELD_254)


@pytest.mark.parametrize("records", [0, 1, 50, 5000, 1 << 20, MAX_ROWS])
def test_a_gram_matrix_of_the_largest_values_stays_within_its_bits(records: int) -> None:
    sizes = plan(records, 30)
    assert records * VALUE_BOUND**2 < 1 << sizes.gram_bits
    assert records * (records * VALUE_BOUND**2) < 1 << sizes.square_bits


@pytest.mark.parametrize("records", [1, 50, 5000, MAX_ROWS])
def test_mean_squares_with_the_largest_offsets_stay_within_their_bits(records: int) -> None:
    sizes = plan(records, 30, fit_intercept=False)
    assert (records * (VALUE_BOUND + (1 << sizes.offset_bits))) ** 2 < 1 << sizes.square_bits


def test_more_openings_ask_for_wider_masks() -> None:
    few, many = plan(1000, 10, max_iterations=100), plan(1000, 100, max_iterations=100000)
    assert few.statistical_bits < many.statistical_bits


def test_the_distances_of_all_openings_together_stay_below_two_to_the_minus_forty() -> None:
    for features in (1, 30, 300):
        openings = bounds.masked_openings(features, 1000)
        assert openings * 2.0 ** -plan(1000, features).statistical_bits <= 2.0**-40


def test_a_study_that_could_overflow_is_refused_before_it_starts() -> None:
    with pytest.raises(RangeError, match="max_iterations"):
        plan(1000, 1000, max_iterations=10**9)


def test_the_finest_tolerance_depends_on_the_number_of_features_only() -> None:
    assert bounds.smallest_tolerance(1) < bounds.smallest_tolerance(1000) < 1e-6
