"""When the solver iterates with which rho, when it stops to polish, and how matrices are inverted: public, and the same
for everyone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

RIDGE_BITS = 28  # the polish adds 2^-28 to the diagonal, and takes its effect out again by refinement
COARSE_RIDGE_BITS = 10  # early polishes add so much more; few steps then invert the matrix
LARGEST_COARSE = 100  # 1/rho up to which the iterations need few fractional bits

# 1/rho, one phase after the other: a large rho suits strong penalties, a small one weak penalties on features that
# are nearly dependent, as features with large means are when there is no intercept. Each solves what the others
# cannot within reasonable time; the phases of a later round are longer. Early rounds leave out what is seldom of use.
INVERSE_RHOS = (3, 30, 300, 3000, 30000)
INVERSE_RHOS_UNCENTRED = (3, 100, 3000, 100000, 3000000)
FIRST_PHASE = 15  # iterations
SHORT_ROUNDS, SHORT = 2, 2  # so many rounds have so many phases only
COARSE_ROUNDS = 3  # whose polishes have a large ridge, with the first values of rho
MANY_REFINEMENTS = 14  # after the first phase, which most studies end with; they are cheaper than a smaller ridge
STEP_BITS = 3  # fractional bits of the factors of an inversion
INVERSE_ACCURACY = 2.0**-20  # of the matrix inverses: their effect is taken out by refinement, or small


@dataclass(frozen=True)
class Phase:
    """Iterations with one rho, followed by a polish and a test of the conditions.

    ridge_bits : the polish adds 2^-ridge_bits to the diagonal. The early ones have a large ridge, which costs few steps
        of the inversion and suits most studies.
    refinements : that take the effect of the ridge out again.
    polishes : one after another. The second solves without what the first has dropped for its sign; it is of use where
        features are dependent, which is what late phases are for.
    """

    inverse_rho: int
    iterations: int
    ridge_bits: int = RIDGE_BITS
    refinements: int = 6
    polishes: int = 1

    @property
    def has_large_ridge(self) -> bool:
        return self.ridge_bits == COARSE_RIDGE_BITS

    @property
    def coarse(self) -> bool:
        """Whether few fractional bits are enough for the iterates."""
        return self.inverse_rho <= LARGEST_COARSE


def schedule(max_iterations: int, fit_intercept: bool, quick: bool = True) -> Iterator[Phase]:
    """The phases; the last one ends at `max_iterations`.

    quick : early polishes have a large ridge. Without a lasso's penalty, or with a quadratic one, small eigenvalues
        matter more.
    """
    done = 0
    values = INVERSE_RHOS if fit_intercept else INVERSE_RHOS_UNCENTRED
    for stretch in itertools.count():
        for inverse_rho in values[: SHORT if stretch < SHORT_ROUNDS else None]:
            iterations = min(FIRST_PHASE << stretch, max_iterations - done)
            early = stretch < COARSE_ROUNDS and inverse_rho <= LARGEST_COARSE
            if quick and early:
                yield Phase(inverse_rho, iterations, COARSE_RIDGE_BITS, MANY_REFINEMENTS if done else Phase.refinements)
            else:
                yield Phase(inverse_rho, iterations, polishes=2 if done else 1)
            done += iterations
            if done == max_iterations:
                return


def inversion_steps(lowest: float, highest: float, accuracy: float = INVERSE_ACCURACY) -> list[float]:
    """The scale factors of Newton's iteration for the inverse of a matrix with eigenvalues in [lowest, highest].

    A step takes an eigenvalue y of K X to m y (2 - m y). With m = 2 / (a + 1)
    the interval [a, 1] goes to [m a (2 - m a), 1], so a small a grows by 4. The
    factors are rounded to STEP_BITS, the interval is that of the rounded ones.
    """
    steps = []
    a = lowest / highest
    while 1 - a > accuracy:
        m = round((2 << STEP_BITS) / (1 + a)) / (1 << STEP_BITS)
        m = min(m, 2 - 1 / (1 << STEP_BITS))
        steps.append(m)
        a = min(m * a * (2 - m * a), m * (2 - m))
    return steps
