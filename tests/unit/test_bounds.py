from __future__ import annotations

from itertools import pairwise

import pytest

from pipeline import bounds
from pipeline.errors import RangeError
from pipeline.field import FIELD_127, FIELD_191, FIELD_254
from pipeline.messages import MAX_ROWS
from pipeline.packing import VALUE_BOUND


def plan(
    records: int, features: int, *, fit_intercept: bool = True, max_iterations: int = 1000, problems: int = 1
) -> bounds.Plan:
    return bounds.plan(records, features, fit_intercept=fit_intercept, max_iterations=max_iterations, problems=problems)


STUDIES = [
    (1, 1, 1, 1),
    (50, 5, 100, 1),
    (5000, 30, 1000, 1),
    (5000, 30, 1000, 100),
    (MAX_ROWS, 200, 1000, 1),
    (MAX_ROWS, 300, 1000, 5),
]
every_study = pytest.mark.parametrize(("records", "features", "max_iterations", "problems"), STUDIES)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_largest_study_the_messages_allow_fits(fit_intercept: bool) -> None:
    sizes = plan(MAX_ROWS, 200, fit_intercept=fit_intercept)
    assert (sizes.field, sizes.solver_field) == (FIELD_127, FIELD_254)


@pytest.mark.parametrize("records", [0, 1, 50, 5000, 1 << 20, MAX_ROWS, (1 << 40) - 1])
def test_a_gram_matrix_of_the_largest_values_is_known_with_its_signs(records: int) -> None:
    """Lifting is exact below half the prime."""
    sizes = plan(records, 30)
    assert records * VALUE_BOUND**2 <= sizes.field.p // 2
    assert records * (records * VALUE_BOUND**2) < 1 << sizes.square_bits
    assert sizes.square_bits % 2 == 0


def test_more_records_than_the_field_of_the_gram_matrix_can_sum_are_refused() -> None:
    assert VALUE_BOUND <= 1 << bounds.VALUE_BITS
    with pytest.raises(RangeError, match="records"):
        plan(1 << 40, 1)


@pytest.mark.parametrize("records", [1, 50, 5000, MAX_ROWS])
def test_mean_squares_with_the_largest_offsets_stay_within_their_bits(records: int) -> None:
    sizes = plan(records, 30, fit_intercept=False)
    assert (records * (VALUE_BOUND + (1 << sizes.offset_bits))) ** 2 < 1 << sizes.square_bits


@every_study
def test_every_mask_fits_its_field(records: int, features: int, max_iterations: int, problems: int) -> None:
    for fit_intercept in (True, False):
        sizes = plan(records, features, fit_intercept=fit_intercept, max_iterations=max_iterations, problems=problems)
        masks = sizes.statistical_bits + bounds.RANGE_BITS
        assert max(bounds.largest_operation(features), sizes.square_bits + 2) + masks <= sizes.solver_field.bits - 1
        assert 2 * sizes.inverse_bits + bounds.INVERSE_HEADROOM + masks <= sizes.inverse_field.bits - 1


@every_study
def test_a_rough_inverse_has_room_and_is_fine_enough(
    records: int, features: int, max_iterations: int, problems: int
) -> None:
    """Its entries are below 2^COARSE_RIDGE_BITS; the errors of its steps are far below what it is wrong by anyway."""
    sizes = plan(records, features, max_iterations=max_iterations, problems=problems)
    assert bounds.smallest_inverse_bits(features) <= sizes.inverse_bits
    assert sizes.inverse_bits <= (bounds.INVERSE_BITS if sizes.inverse_field == FIELD_127 else bounds.COARSE_BITS)


def test_more_openings_ask_for_wider_masks_and_leave_less_room_for_the_rough_inverse() -> None:
    few, many = plan(1000, 10, max_iterations=100), plan(1000, 60, max_iterations=1000)
    assert few.statistical_bits < many.statistical_bits and few.inverse_bits > many.inverse_bits
    assert plan(1000, 10).statistical_bits < plan(1000, 10, problems=100).statistical_bits


@pytest.mark.parametrize(("features", "problems"), [(200, 1), (400, 1), (750, 1), (60, 400)])
def test_many_features_are_inverted_in_the_larger_field(features: int, problems: int) -> None:
    """With 18 bits and 750 features that are all the same, Newton's iteration left the range of its masks."""
    assert plan(5000, 30).inverse_field == FIELD_127
    sizes = plan(5000, features, problems=problems)
    assert (sizes.inverse_field, sizes.inverse_bits) == (FIELD_191, bounds.COARSE_BITS)


@every_study
def test_the_distances_of_all_openings_together_stay_below_two_to_the_minus_forty(
    records: int, features: int, max_iterations: int, problems: int
) -> None:
    openings = bounds.masked_openings(features, max_iterations, problems)
    sizes = plan(records, features, max_iterations=max_iterations, problems=problems)
    assert openings * 2.0**-sizes.statistical_bits <= 2.0**-40


@pytest.mark.parametrize("analyses", [1, 20])
def test_the_openings_of_all_admitted_analyses_together_are_hidden(analyses: int) -> None:
    settings = {"fit_intercept": True, "max_iterations": 1000, "problems": 1100, "groups": 11}
    sizes = bounds.plan(5000, 30, analyses=analyses, **settings)  # type: ignore[arg-type]
    openings = analyses * bounds.masked_openings(30, 1000, 1100, 11)
    assert openings * 2.0**-sizes.statistical_bits <= 2.0**-40


def test_every_further_problem_counts() -> None:
    counts = [bounds.masked_openings(30, 1000, problems) for problems in range(1, 6)]
    steps = [b - a for a, b in pairwise(counts)]
    assert all(0 < step <= counts[0] for step in steps)
    assert bounds.masked_openings(30, 1000, 50) < bounds.masked_openings(30, 1000, 50, 10)


def test_matrices_of_further_penalties_count() -> None:
    few, many = (bounds.masked_openings(30, 15, 300, 3, systems) for systems in (3, 300))
    assert many > 1.3 * few  # a first phase inverts as many matrices for the iterations as for the polish


@pytest.mark.parametrize(("max_iterations", "problems"), [(10**9, 1), (1000, 10**6)])
def test_a_study_that_could_overflow_is_refused_before_it_starts(max_iterations: int, problems: int) -> None:
    with pytest.raises(RangeError, match="max_iterations"):
        plan(1000, 1000, max_iterations=max_iterations, problems=problems)


def test_the_finest_tolerance_depends_on_the_number_of_features_only() -> None:
    assert bounds.smallest_tolerance(1) < bounds.smallest_tolerance(1000) < 1e-6
