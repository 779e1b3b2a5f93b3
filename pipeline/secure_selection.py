"""Which penalty is chosen, on shares: by cross-validation or by an information criterion. Nothing is opened here but
whether errors are too large to be compared.

Errors of cross-validation come from the sums of products of each fold, so their
cost does not depend on the number of records. The arithmetic is that of
`secure_lasso.py`, with ERROR_BITS fractional bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline import refusals
from pipeline.bounds import COEFFICIENT_BITS, ERROR_BITS, HELD_OUT_BITS, LARGEST_ERROR
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.errors import LocalProtocolError, Refused
from pipeline.mpc_runtime import Shares
from pipeline.primitives import Arithmetic, fixed
from pipeline.residues import Residues
from pipeline.schedule import Phase
from pipeline.secret_scale import of_places
from pipeline.secure_lasso import Path, SecureLasso
from pipeline.secure_order import first_of, first_smallest
from pipeline.secure_solver import Support
from pipeline.secure_standardise import Sizes, Standardised

E = ERROR_BITS
MEAN_BITS = 44  # of the inverse of the number of records
SPREAD_BITS = 60  # fractional bits of variances of mean errors
WIDE_BITS = 64  # the same before the division
INVERSE_BITS = 32  # of the number they are divided by
CRITERION_BITS = 56  # fractional bits of a criterion: without an intercept it is per square of the outcome's norm
# What is worse by so many units in the last place, for each place it comes before, counts as equal.
EQUAL_ERRORS, EQUAL_CRITERIA = 256, 8


@dataclass(frozen=True)
class Errors:
    """Mean squared errors in held-out folds, per variance of the outcome over all records, with E fractional bits.

    of_folds : shape (folds, penalties).
    mean : weighted by the sizes of the folds, shape (penalties,).
    """

    of_folds: Shares
    mean: Shares


@dataclass(frozen=True)
class Choice:
    """one_hot : 1 at the chosen penalty; shape (penalties,). mean_error : its cross-validated error, shape (1,)."""

    one_hot: Shares
    mean_error: Shares | None


async def cross_validate(lasso: SecureLasso, standardised: Standardised, path: Path) -> Errors:
    """The errors of each fold's models in that fold. About 14 rounds; raises Refused, rule "held-out"."""
    mpc, held_out, d = lasso.mpc, standardised.held_out, lasso.d
    if held_out is None:
        raise LocalProtocolError("there are no folds")
    ratio, b = await mpc.together(
        variance_ratio(lasso, standardised.sizes), mpc.truncate(path.b[1:], F - E, F + COEFFICIENT_BITS + 2)
    )
    sums = 2 * d.bit_length()
    features, with_outcome = held_out[:, :-1, :-1], held_out[:, None, :-1, -1]
    bits = 2 * E + COEFFICIENT_BITS + HELD_OUT_BITS + 4 + sums
    fitted = await mpc.truncate(b @ features, E, bits)
    products = ((fitted - with_outcome * 2) * b).sum()
    errors = await mpc.truncate(products, E, bits + COEFFICIENT_BITS + 2) + held_out[:, -1:, -1]
    bits = E + 2 * COEFFICIENT_BITS + HELD_OUT_BITS + 8 + sums
    of_folds = await mpc.truncate(errors * ratio, E, bits + E + 3)
    small = await mpc.nonnegative((1 << E + LARGEST_ERROR) - of_folds, bits + 4)
    if not await mpc.is_zero("an error is too large", (1 - small).ravel().sum()):
        raise Refused("held-out", refusals.GATE["held-out"])
    sizes = mpc.public(lasso.fold_sizes).reshape(-1, 1)
    return Errors(of_folds, await over_records(lasso, (of_folds * sizes).sum(axis=0)))


async def over_records(lasso: SecureLasso, totals: Shares) -> Shares:
    """Numbers below 2^LARGEST_ERROR times the number of records, divided by that."""
    size = lasso.n.bit_length()
    inverse = round(Fraction(1 << MEAN_BITS + size, lasso.n))
    return await lasso.mpc.truncate(totals * inverse, MEAN_BITS + size, E + LARGEST_ERROR + MEAN_BITS + size + 3)


async def variance_ratio(lasso: SecureLasso, sizes: Sizes) -> Shares:
    """The outcome's variance outside each fold per that over all records; shape (folds, 1), with E fractional bits."""
    mpc, norm = lasso.mpc, sizes.norm
    power, square = await mpc.together(
        of_places(
            mpc, lambda i: 1 << E + 2 * i if -E // 2 <= i <= 0 else 0, norm.one_hot[1:, -1], norm.one_hot[:1, -1]
        ),
        mpc.product(sizes.norm_rsqrt[:1, -1], sizes.norm_rsqrt[:1, -1], F, 2 * F + 6),
    )
    ratio = await mpc.product(norm.mantissa[1:, -1], square, F, 2 * F + 6)
    ratio = await mpc.product(ratio, power, F, F + E + 6)
    counts = mpc.public([fixed(Fraction(lasso.n, count) ** 2, E) for count in lasso.counts[1:]])
    return (await mpc.truncate(ratio * counts, E, 2 * E + 8)).reshape(-1, 1)


async def choose_by_error(lasso: SecureLasso, errors: Errors) -> Choice:
    """The penalty with the least mean error, the largest of them; or with rule "1se" the largest penalty whose mean
    error is at most that plus its standard error.
    """
    mpc, mean = lasso.mpc, errors.mean
    least = await first_of_smallest(mpc, mean, E + LARGEST_ERROR + 2, EQUAL_ERRORS)
    best = await mpc.reduce(stacked_choice(least, errors))
    if lasso.model.rule != "1se":
        return Choice(least, best[-1:])
    away = best[:-1] - best[-1:]
    weights = mpc.public(lasso.fold_sizes)
    excess = mean - best[-1:]
    squares = (away * away).carried() * weights
    variance = squares.sum().reshape(1)
    scale = lasso.n * (len(lasso.fold_sizes) - 1)
    bits = 2 * (E + LARGEST_ERROR + 1) + scale.bit_length() + 3
    near = await mpc.nonnegative(variance - (excess * excess).carried() * scale, bits)
    one_hot = await first_of(mpc, near)
    return Choice(one_hot, (await mpc.reduce((one_hot * mean).sum().reshape(1))))


async def first_of_smallest(mpc: Arithmetic, values: Shares, bits: int, equal: int) -> Shares:
    """`first_smallest`, with numbers that differ by no more than rounding taken as equal."""
    handicaps = mpc.public(np.arange(len(values), dtype=np.int64) * equal)
    return await first_smallest(mpc, values + handicaps, bits)


def stacked_choice(one_hot: Shares, errors: Errors) -> Shares:
    """The errors of the chosen penalty in each fold, and its mean error; of degree 2."""
    folds = (errors.of_folds * one_hot).sum()
    mean = (errors.mean * one_hot).sum().reshape(1)
    limbs = np.concatenate([folds.limbs, mean.limbs], axis=1)
    return Residues(folds.field, limbs, max(folds.bound, mean.bound))


async def error_spread(lasso: SecureLasso, errors: Errors) -> Shares:
    """Squares of the standard errors of the mean errors, with SPREAD_BITS fractional bits; shape (penalties,)."""
    mpc = lasso.mpc
    away = errors.of_folds - errors.mean
    weights = mpc.public(lasso.fold_sizes).reshape(-1, 1)
    squares = ((away * away).carried() * weights).sum(axis=0)
    scale = lasso.n * (len(lasso.fold_sizes) - 1)
    size = scale.bit_length()
    room = 2 * LARGEST_ERROR + lasso.n.bit_length() + 4
    squares = await mpc.truncate(squares, 2 * E - WIDE_BITS, 2 * E + room)
    inverse = round(Fraction(1 << INVERSE_BITS + size, scale))
    return await mpc.truncate(
        squares * inverse, INVERSE_BITS + size + WIDE_BITS - SPREAD_BITS, WIDE_BITS + room + INVERSE_BITS + 2
    )


async def choose_by_criterion(
    lasso: SecureLasso, standardised: Standardised, active: Shares, unexplained: Shares
) -> Choice:
    """The penalty with the least n ESS / sigma^2 + c df, the largest of them: Akaike's (c = 2) or Schwarz's (c = log n)
    criterion as scikit-learn's LassoLarsIC has it, sigma^2 from least squares (Zou, Hastie, Tibshirani 2007).

    active : of all penalties, shape (penalties, features).
    unexplained : residual shares of all penalties, see `SecureLasso.residual_share`.

    Raises Refused, rule "criterion", without records to estimate sigma^2 from.
    """
    mpc, n, d = lasso.mpc, lasso.n, lasso.d
    freedom = n - d - int(lasso.model.fit_intercept)
    if freedom <= 0:
        raise Refused("criterion", refusals.GATE["criterion"])
    everything = await least_squares(lasso, standardised)
    weight = 2.0 if lasso.model.rule == "aic" else math.log(n)
    noise = await mpc.truncate(everything * fixed(Fraction(weight) / freedom, E), E, F + E + 8)
    total = unexplained + active.sum() * noise  # divided by n, times sigma^2
    values = await mpc.truncate(total, F - CRITERION_BITS, F + d.bit_length() + 10)
    return Choice(await first_of_smallest(mpc, values, CRITERION_BITS + d.bit_length() + 10, EQUAL_CRITERIA), None)


async def least_squares(lasso: SecureLasso, standardised: Standardised) -> Shares:
    """What least squares over all records leave unexplained, per square of the outcome's norm; shape (1,).

    With a share of the ridge that is not taken out, coefficients stay below 2^13 / (1 - that) in norm.
    """
    mpc, d = lasso.mpc, lasso.d
    correlation, q = standardised.correlation[:1], standardised.q[:1]
    nothing = Residues.zeros(mpc.field, 1, 1, d)
    varies = standardised.sizes.spread.positive[0, :-1].reshape(1, 1, d)
    b = await lasso.solve_on(correlation, q, nothing, nothing, Support(varies, nothing), Phase(1, 1))
    return await lasso.residual_share(correlation[0], q[0], b[0])
