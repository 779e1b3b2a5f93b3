"""The lasso of step 8 on plain numbers: the same steps, in the same order, as `secure_standardise.py`,
`secure_lasso.py` and `secure_solver.py`.

Everything is computed from sums of products of the columns, so nothing but the
preparation depends on the number of records. In the normalised scale, where
every column has norm 1, the problem is

    minimise  1/2 b'Rb - q'b + sum of tau_j |b_j|,

R the correlations of the features, q their correlations with the outcome. It
is solved by the alternating direction method of multipliers (Boyd et al. 2011,
section 6.4; over-relaxed as in 3.4.3). From time to time the support it has
found is polished: the equations that hold on it are solved exactly. The result
is accepted when it satisfies the optimality conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.bounds import COEFFICIENT_BITS, RESTART_BITS, THRESHOLD_LIMIT, smallest_tolerance
from pipeline.errors import Refused
from pipeline.schedule import Phase, inversion_steps, schedule

Vector: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = NDArray[np.float64]

RELAXATION = 1.75
MARGIN = 3 / 8  # part of the tolerance that the test uses; signs that do not matter may take up a quarter more
RESTART_LIMIT = 2.0**RESTART_BITS
STRICTER = 256  # by which the tolerance is divided after a polish with a large ridge, which may stop short of the end


@dataclass(frozen=True)
class Settings:
    """The parameters of the model; see the contract of the model for their meaning.

    factors : by which the penalty of each feature is multiplied; 1 for all if empty.
    """

    alpha: float
    standardize: bool = True
    fit_intercept: bool = True
    tolerance: float = 1e-6
    max_iterations: int = 1000
    l1_ratio: float = 1.0
    factors: tuple[float, ...] = ()
    positive: bool = False


@dataclass(frozen=True)
class Fit:
    """The model on the scale of the columns given."""

    iterations: int
    coefficients: tuple[float, ...]
    intercept: float
    r2: float
    mse: float


@dataclass(frozen=True)
class Moments:
    """n^2 times variances and covariances (`centred`), and what the columns are scaled by (`squares`).

    squares are the centred moments, or the uncentred ones when there is no intercept. The outcome comes last.
    """

    records: int
    sums: Vector
    centred: Matrix
    squares: Matrix


@dataclass(frozen=True)
class Support:
    """Which coefficients are not zero, and their signs; entries are 0, 1 and -1."""

    active: Vector
    sign: Vector


def inverse(matrix: Matrix, lowest: float, highest: float) -> Matrix:
    """The inverse of a symmetric matrix with eigenvalues in [lowest, highest]."""
    x = np.eye(len(matrix)) / highest
    for m in inversion_steps(lowest, highest):
        x = 2 * m * x - m * m * x @ (matrix @ x)
    return x


def moments(gram: NDArray[np.object_], fit_intercept: bool) -> Moments:
    """Form the moments as exact integers from the Gram matrix of [1, features, outcome], integers too."""
    n, sums, products = gram[0, 0], gram[0, 1:], gram[1:, 1:]
    centred = n * products - np.outer(sums, sums)
    squares = centred if fit_intercept else n * products
    return Moments(int(n), *(x.astype(np.float64) for x in (sums, centred, squares)))


def correlations(of: Moments) -> tuple[Matrix, Vector]:
    """R and q; rows and columns of features that are constant over the records are zero."""
    varies = np.diag(of.centred) > 0
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, np.diag(of.squares), 1)), 0)
    correlation = scale[:, None] * of.squares * scale
    np.fill_diagonal(correlation, varies)
    return correlation[:-1, :-1], correlation[:-1, -1]


def thresholds(of: Moments, settings: Settings) -> tuple[Vector, Vector]:
    """The penalties tau and the tolerances of the optimality conditions, in the normalised scale.

    A penalty on a column's own coefficient is divided by the column's norm, one
    on its standardised coefficient by the ratio of norm and deviation.
    """
    norms = np.sqrt(np.diag(of.squares)) / of.records
    deviations = np.sqrt(np.diag(of.centred)) / of.records
    weights = deviations[:-1] if settings.standardize else np.ones(len(norms) - 1)
    factors = np.array(settings.factors or [1.0] * len(weights))
    varies = deviations[:-1] > 0
    relative = np.where(varies, weights / np.where(varies, norms[:-1], 1), 0)
    tau = np.minimum(settings.alpha * settings.l1_ratio * factors * relative / norms[-1], THRESHOLD_LIMIT) + ~varies
    tolerance = settings.tolerance * relative * deviations[-1] / norms[-1] + smallest_tolerance(len(tau))
    return tau, MARGIN * np.minimum(tolerance, 1)


def ridge(alpha: float, l1_ratio: float, factors: Sequence[float]) -> tuple[float, ...]:
    """What the quadratic part of the penalty adds to the diagonal of R. With it the features are scaled once more, by
    (1 + that)^(-1/2), so that the diagonal is 1 again.
    """
    return tuple(alpha * (1 - l1_ratio) * factor for factor in factors)


def soft_threshold(v: Vector, threshold: Vector, positive: bool = False) -> tuple[Vector, Support]:
    """Move v towards zero by the threshold, to zero what is negative if only positive numbers are allowed; return the
    result with its support.
    """
    above, below = v > threshold, (-v > threshold) & (not positive)
    support = Support((above | below).astype(float), above.astype(float) - below)
    return support.active * v - support.sign * threshold, support


def solve(
    correlation: Matrix, q: Vector, tau: Vector, tolerance: Vector, phases: Iterable[Phase], positive: bool = False
) -> tuple[Vector, int]:
    """Return the normalised coefficients and the number of iterations; raises Refused when it does not converge."""
    d = len(q)
    z, dual, iterations = np.zeros(d), np.zeros(d), 0
    for phase in phases:
        rho = 1 / phase.inverse_rho
        shrink = inverse(correlation + rho * np.eye(d), rho, d + rho)
        u = dual / rho
        for _ in range(phase.iterations):
            x = RELAXATION * shrink @ (q + rho * (z - u)) + (1 - RELAXATION) * z
            v = x + u
            z, support = soft_threshold(v, tau / rho, positive)
            u = v - z
        dual = u * rho
        iterations += phase.iterations
        free = (8 * tau <= tolerance) & (not positive)
        b = z
        for _ in range(phase.polishes):
            b, support = polish(correlation, q, tau, free, b, support, phase)
        strict = tolerance / STRICTER if phase.has_large_ridge else tolerance
        if conditions_hold(correlation, q, tau, strict, b, support, positive):
            return b, iterations
        if iterations == phase.iterations:  # the first polish is often near
            z, dual = np.clip(b, -RESTART_LIMIT, RESTART_LIMIT), np.clip(q - correlation @ b, -tau, tau)
    raise Refused("not-converged", not_converged(iterations))


def not_converged(iterations: int) -> str:
    return (
        f"the fit has not converged within {iterations} iterations, which happens where features are dependent and a"
        " penalty is small; agree on a larger max_iterations, larger penalties or fewer features"
    )


def polish(
    correlation: Matrix, q: Vector, tau: Vector, sign_is_free: Any, z: Vector, support: Support, phase: Phase
) -> tuple[Vector, Support]:
    """Solve R b = q - tau sign on the support, near z; drop coefficients whose sign does not agree.

    With a ridge the equations always have a solution; refinement from z (a
    proximal point iteration) takes its effect out again, in the directions
    that the equations determine, and stays at z in the others. Signs do not
    matter where the threshold is far below the tolerance.
    """
    d, ridge = len(q), 2.0**-phase.ridge_bits
    both = np.outer(support.active, support.active)
    equations = np.where(np.eye(d) > 0, 1, both * correlation)
    approximate_inverse = inverse(equations + ridge * np.eye(d), ridge / 2, d + 1)
    right_side = support.active * q - support.sign * tau
    b = z
    for _ in range(phase.refinements):
        b = b + approximate_inverse @ (right_side - equations @ b)
    agrees = (support.sign * b >= 0) | sign_is_free
    support = Support(support.active * agrees, support.sign * agrees)
    return support.active * b, support


def conditions_hold(
    correlation: Matrix, q: Vector, tau: Vector, tolerance: Vector, b: Vector, support: Support, positive: bool = False
) -> bool:
    """Whether b satisfies the optimality (Karush-Kuhn-Tucker) conditions of the lasso within the tolerance."""
    gradient = q - correlation @ b - support.sign * tau
    pulled = gradient if positive else np.abs(gradient)  # of a coefficient that is 0 and must not be negative
    off = np.where(support.active > 0, np.abs(gradient), pulled) - (1 - support.active) * tau
    return bool((off <= tolerance).all() and (np.abs(b) < 2.0**COEFFICIENT_BITS).all())


def fit(gram: NDArray[np.object_], settings: Settings) -> Fit:
    """Fit the lasso to n records given the Gram matrix of [1, features, outcome], exact integers."""
    of = moments(gram, settings.fit_intercept)
    variance, square = of.centred[-1, -1], np.diag(of.squares)
    if variance == 0:
        raise Refused("constant-outcome", constant_outcome())
    correlation, q = correlations(of)
    tau, tolerance = thresholds(of, settings)
    added = ridge(settings.alpha, settings.l1_ratio, settings.factors or (1.0,) * len(q))
    root = (1 + np.array(added)) ** -0.5
    scaled = np.where(np.eye(len(q)) > 0, correlation, root[:, None] * correlation * root)
    quick = settings.alpha > 0 and settings.l1_ratio == 1
    phases = schedule(settings.max_iterations, settings.fit_intercept, quick)
    b, iterations = solve(scaled, root * q, root * tau, root * tolerance, phases, settings.positive)
    b = root * b
    varies = np.diag(of.centred)[:-1] > 0
    slopes = np.where(varies, b * np.sqrt(square[-1] / np.where(varies, square[:-1], 1)), 0)
    means = of.sums / of.records
    intercept = means[-1] - slopes @ means[:-1] if settings.fit_intercept else 0.0
    unexplained = (1 - 2 * q @ b + b @ correlation @ b) * square[-1] / variance
    mse = unexplained * variance / of.records**2
    return Fit(iterations, tuple(map(float, slopes)), float(intercept), float(1 - unexplained), float(mse))


def too_little_spread() -> str:
    return (
        "over the matched records, or with folds outside one of them, a column varies too little for its scale, or"
        " without an intercept or for standard errors lies too far from zero: look with check for values far from the"
        " rest, declare a range, subtract a constant, or agree on fewer folds"
    )


def dependent_features() -> str:
    return (
        "over the matched records a feature is a combination of the others, or there are fewer records than"
        " coefficients, so least squares have no single solution; leave features out, or agree on a lasso or a ridge"
    )


def constant_outcome() -> str:
    return (
        "the outcome is the same in all matched records, or in all outside one of the folds, so there is nothing to"
        " fit; choose another outcome, or agree on fewer folds"
    )
