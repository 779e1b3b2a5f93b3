"""What the arithmetic of step 8 needs, worked out from public numbers alone.

Fixed-point numbers have `FRACTIONAL_BITS`; a masked opening of a number below
2^(l-1) in absolute value, in a field of b bits, hides it up to a statistical
distance of 2^-k if l + k + RANGE_BITS <= b - 1 (see `primitives.py`). This module says
how large l gets in each operation and which k keeps the distances of all
openings of a run together below 2^-40, and refuses a study for which both do
not fit. It runs before anything is sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.agreement import Agreement
from pipeline.errors import RangeError
from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField
from pipeline.schedule import COARSE_RIDGE_BITS, INVERSE_RHOS, RIDGE_BITS, STEP_BITS, inversion_steps, schedule

HIDING_BITS = 40  # the distances of all openings of all analyses of a join sum to at most 2^-40
RANGE_BITS = 2  # a mask is below 2^RANGE_BITS times the range of its largest part
VALUE_BITS = 43  # every encoded value is below 2^43 in absolute value

FRACTIONAL_BITS = 64
RANK_BITS = 20  # least squares with a variance inflation factor above 2^20 are refused
COARSE_BITS = 36  # fractional bits of iterations with a large rho
INVERSE_BITS = 25  # fractional bits of a rough inverse, less where the hiding budget needs the room
INVERSE_HEADROOM = COARSE_RIDGE_BITS + 7  # bits, with sign, of an entry of it times one of the step's other factor
COEFFICIENT_BITS = 16  # normalised coefficients: the certificate checks that they are below 2^16
ITERATE_BITS = 30  # normalised iterates of the solver, and what is compared with them
RESTART_BITS = 8  # coefficients with which the iterations start anew after a polish
POLISH_BITS = 40  # iterates of the polish, also with a support that is not the right one
THRESHOLD_LIMIT = 4  # a threshold of 1 removes everything; larger ones are cut here
SPREAD_BITS = 14  # a feature that varies, but with a standard deviation below 2^14 steps of its scale, is refused
OUTCOME_SPREAD_BITS = 30  # the same for the outcome, in whose steps the intercept is opened up to 2^13
RATIO_BITS = 32  # standard deviations, in steps, of two columns differ by less than this factor
# Results are opened no finer than they are used: exact ones would be equations from which, in a small model, the
# sums and counts behind them could be computed (docs/leakage.md).
SLOPE_BITS = 48  # slopes are opened as multiples of 2^-48, in steps of the outcome per step of the feature
INTERCEPT_NOISE_BITS = 13  # the intercept is opened up to about 2^13 steps of the outcome's scale, which has 2^44
VARIANCE_BITS = 30  # the outcome's variance is opened up to about 2^-30, relatively
R2_BITS = 44  # r2 is opened up to about 2^-44: mse is the rest of it to 1, so a good fit needs that
WIDE_FRACTIONAL_BITS = 84  # slopes before they are rounded to SLOPE_BITS
HELD_OUT_BITS = 16  # mean square of a column's distances, in a fold, from its mean in the others, per variance there
ERROR_BITS = 40  # fractional bits of mean squared errors of cross-validation
LARGEST_ERROR = 24  # they are below 2^24 times the variance of the outcome, or nothing is chosen
MEAN_TO_SPREAD_BITS = 14  # without an intercept: largest ratio of the outcome's root mean square to its deviation


@dataclass(frozen=True)
class Plan:
    """Public sizes of step 8; `..._bits` bound an absolute value by 2^bits."""

    field: PrimeField  # in which the records are shared and the Gram matrix is formed
    solver_field: PrimeField  # in which everything else is computed
    inverse_field: PrimeField  # in which matrices are inverted roughly: `field`, if its bits are enough
    statistical_bits: int  # k of each opening
    inverse_bits: int  # fractional bits of a rough inverse
    square_bits: int  # of n^2 times a variance, even; n^2 times a mean square without an intercept
    offset_bits: int  # of a column's offset, in steps


def plan(
    records: int,
    features: int,
    *,
    fit_intercept: bool,
    max_iterations: int,
    problems: int = 1,
    groups: int = 1,
    systems: int = 1,
    analyses: int = 1,
) -> Plan:
    """Return the sizes for a study; raises RangeError when no field is large enough.

    problems : fits that run together, with penalties of their own; groups : sets of records they are fitted to;
        systems : matrices they are fitted with, more than groups where penalties have a quadratic part.
    analyses : that are admitted of the same shares; the openings of all of them together are hidden.
    """
    size = max(1, records).bit_length()
    if size + 2 * VALUE_BITS > FIELD_127.bits - 1:
        raise RangeError("the numbers of this study could overflow: fewer records are needed")
    offsets = offset_bits(fit_intercept)
    square_bits = 2 * (size + (VALUE_BITS if fit_intercept else offsets + 1))
    openings = analyses * masked_openings(features, max_iterations, problems, groups, systems)
    statistical_bits = HIDING_BITS + openings.bit_length()
    held_out = HELD_OUT_BITS + size if groups > 1 else 0
    largest = max(square_bits + held_out + 2, largest_operation(features))
    _require_room(FIELD_254, largest, statistical_bits)
    inverse_field, inverse_bits = rough_inverses(features, statistical_bits)
    return Plan(FIELD_127, FIELD_254, inverse_field, statistical_bits, inverse_bits, square_bits, offsets)


def plan_of(agreement: Agreement, records: int) -> Plan:
    """The plan of the agreed analysis."""
    model = agreement.model
    groups = 1 + model.folds
    return plan(
        records,
        len(agreement.analysed_names),
        fit_intercept=model.fit_intercept,
        max_iterations=model.max_iterations,
        problems=groups * model.problems,
        groups=groups,
        systems=groups * (1 if model.l1_ratio == 1 else model.problems),
        analyses=agreement.analyses,
    )


def rough_inverses(features: int, statistical_bits: int) -> tuple[PrimeField, int]:
    """The smallest field in which matrices are inverted roughly, and with how many fractional bits."""
    for field, most in ((FIELD_127, INVERSE_BITS), (FIELD_191, COARSE_BITS)):
        bits = min(most, rough_inverse_bits(field, statistical_bits))
        if bits >= smallest_inverse_bits(features):
            return field, bits
    return FIELD_254, COARSE_BITS


def rough_inverse_bits(field: PrimeField, statistical_bits: int) -> int:
    """The most fractional bits for which products of a rough inverse, with their masks, fit the field."""
    return (field.bits - 1 - statistical_bits - RANGE_BITS - INVERSE_HEADROOM) // 2


def smallest_inverse_bits(features: int) -> int:
    """The fewest fractional bits with which Newton's iteration for a rough inverse surely converges, and to what is of
    use.

    A step is wrong by some units in the last place times the largest entries, 2^COARSE_RIDGE_BITS, and the next
    multiplies that by the largest eigenvalue, up to the number of features. Where the product nears 1 the iterates
    grow without bound, out of the range that masks hide; where it is not far below 1, refinement is slow.
    """
    return COARSE_RIDGE_BITS + features.bit_length() + 6


def offset_bits(fit_intercept: bool) -> int:
    """A column's offset, in steps of its scale, is at most 2^offset_bits; encoding refuses more."""
    return 80 if fit_intercept else 60


def polish_bits(features: int) -> int:
    """Bits, with sign, of a row of a matrix of correlations times an iterate of the polish, beyond fractional ones.

    Where the support is not the right one, its equations may have no solution near. The right side is off by up to the
    threshold in each entry, below 4 root d in norm; the inverse's norm is below 2^RIDGE_BITS; each of six refinements
    of two polishes may add that much; and a row of correlations has at most the norm root d: in all 2^34 d.
    """
    return 37 + features.bit_length()


def largest_operation(features: int) -> int:
    """Bits, with sign, of the largest number that is masked, apart from the squares of `Plan`."""
    slope = WIDE_FRACTIONAL_BITS + COEFFICIENT_BITS + 1 + 2 * RATIO_BITS
    inverse = inversion_bits(2.0 ** -(RIDGE_BITS + 1))  # no less than what errors of folds and residual shares take
    return max(2 * FRACTIONAL_BITS + polish_bits(features) + 2, slope + 1, inverse)


def inversion_bits(lowest: float) -> int:
    """Bits, with sign, of the products in the inversion of a matrix of correlations with eigenvalues from `lowest`."""
    return 2 * FRACTIONAL_BITS + STEP_BITS + max(0, int(-math.log2(lowest))) + 14


def masked_openings(features: int, max_iterations: int, problems: int = 1, groups: int = 1, systems: int = 1) -> int:
    """An upper bound on the field elements opened under a statistical mask in one run; arguments as for `plan`."""
    columns = features + 2
    steps = len(inversion_steps(2.0 ** -(RIDGE_BITS + 1), features + 1))
    inversion = steps * (columns**2 + columns * (columns + 1) // 2)
    polishes = sum(phase.polishes for phase in schedule(max_iterations, True, quick=False))
    preparation = groups * (8 * columns**2 + columns * 500 + 8 * inversion)
    # Of each further system the matrices of the iterations, one for each rho, and a secret penalty's square roots.
    matrices = max(0, systems - groups) * (min(polishes, len(INVERSE_RHOS)) * inversion + 60 * columns)
    iterations = 3 * columns * max_iterations
    selection = (problems // groups) ** 2 + 60 * problems
    return preparation + matrices + problems * (iterations + polishes * (inversion + 40 * columns)) + selection


def smallest_tolerance(features: int) -> float:
    """The finest `tolerance` the certificate can decide in every study with so many features.

    A product with the correlation matrix is wrong by at most four units in the
    last place, times the sum of the coefficients where the matrix itself is
    rounded; the certificate needs a margin over that.
    """
    return 2.0 ** (-34 + max(1, features).bit_length())


def _require_room(field: PrimeField, bits: int, statistical_bits: int) -> None:
    if bits + statistical_bits + RANGE_BITS > field.bits - 1:
        raise RangeError(
            "the numbers of this study could overflow: fewer records, features, penalties, folds, max_iterations or"
            " max_analyses are needed "
            f"({bits + statistical_bits + RANGE_BITS + 1} bits, {field.bits} there are)"
        )
