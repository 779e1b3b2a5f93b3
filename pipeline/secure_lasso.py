"""The models of step 8 on Shamir shares: the steps of `plain_lasso.py`, in the same order, under the same names.

Input are the Gram matrices of [1, features, outcome] of each fold as shares of
exact integers; output are coefficients, to the controllers only. Real numbers
are fixed-point numbers with `FRACTIONAL_BITS` in a field of 254 bits; what is
too large or too small for them is scaled by secret powers of two
(`secret_scale.py`). What need not be exact is done with fewer bits: iterates
that a polish follows, and rough inverses, in a field of 127 bits unless there
are many features. Each `await` communicates; what runs `together` shares its
rounds.

Everything is fitted in the same rounds. A *group* is a set of records: all of
them first, then those outside each fold. A *system* is a matrix of
correlations: one for each group, or for each group and penalty where the
penalty has a quadratic part. Arrays begin with their axes: of moments (groups,
columns), of iterates (systems, penalties, features).

`secure_standardise.py` has what comes before the penalties, which are here, and
`secure_solver.py` what comes after them, up to the coefficients, on shares. What
becomes of these is in `secure_selection.py` (which penalty is chosen),
`secure_gate.py` (whether anything may be opened) and `secure_analysis.py` (what
is opened). Opened on the
way, besides numbers under masks inside the operations of `primitives.py`, are
the bits that `OPENED` in `mpc_runtime.py` gives to all parties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso
from pipeline.agreement import FACTOR_RANGE_BITS
from pipeline.bounds import (
    COEFFICIENT_BITS,
    MEAN_TO_SPREAD_BITS,
    R2_BITS,
    RANK_BITS,
    THRESHOLD_LIMIT,
    Plan,
    polish_bits,
    smallest_tolerance,
)
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.errors import Refused
from pipeline.mpc_runtime import Shares
from pipeline.plain_lasso import MARGIN, STRICTER
from pipeline.primitives import Arithmetic, fixed, symmetric
from pipeline.problem import Problem
from pipeline.residues import Residues, stack
from pipeline.schedule import RIDGE_BITS, Phase
from pipeline.secret_scale import of_places, rsqrt, scale
from pipeline.secure_order import largest
from pipeline.secure_solver import Penalty, Solver, Support
from pipeline.secure_standardise import ONE, Moments, Sizes, Standardised
from pipeline.share_convert import GramShare

GRADIENT_BITS = 4  # of correlations with what is left of the outcome
NORM_RATIO_BITS = 12  # norms of the outcome in two groups, which the demand on held-out records keeps near each other
QUADRATIC_BITS = 40  # of a secret quadratic penalty
ROOT_BITS = 40  # fractional bits of one plus it
UNIT_BITS = 56  # of the largest one with the smallest factor
LARGEST_MARGIN = 1 << F - R2_BITS + 1  # so that the largest penalty removes everything, and is above 0, up to noise


@dataclass(frozen=True)
class Path:
    """What the solver has found: normalised coefficients and their support, shape (groups, penalties, features)."""

    iterations: int
    b: Shares
    active: Shares


class SecureLasso(Solver):
    """All fits of an analysis; the methods are the functions of `plain_lasso.py`."""

    def __init__(self, mpc: Arithmetic, sizes: Plan, gram: GramShare, problem: Problem) -> None:
        super().__init__(mpc, sizes, gram, problem)
        self.factors = problem.factors or (1.0,) * self.d
        self.per_penalty = self.has_ridge and problem.choices > 1  # whether each penalty is a system of its own
        public = np.ones((1, self.d)) if problem.has_secret_grid else self._roots(problem.penalties)
        self.roots = mpc.public([[fixed(root) for root in row] for row in public.tolist()])
        self.public_roots = public

    @property
    def has_ridge(self) -> bool:
        """Whether the penalty has a quadratic part."""
        secret = self.problem.has_secret_grid and self.model.l1_ratio != 1
        return secret or (not self.problem.has_secret_grid and bool((self._roots(self.problem.penalties) != 1).any()))

    @property
    def systems(self) -> int:
        """How many matrices of correlations there are."""
        return self.problem.groups * (self.problem.choices if self.per_penalty else 1)

    def _roots(self, penalties: Sequence[float]) -> Any:
        """What features are scaled by after the quadratic part of the penalty has gone into R, (1 + that)^(-1/2)."""
        added = np.array([plain_lasso.ridge(alpha, self.model.l1_ratio, self.factors) for alpha in penalties])
        roots: Any = (1 + added) ** -0.5
        return roots if (roots != 1).any() else np.ones((1, self.d))

    async def solution(self, progress: Callable[[int], None]) -> tuple[Moments, Standardised, Penalty, Path]:
        """Everything up to the coefficients; raises Refused, at all parties alike."""
        of = await self.moments()
        standardised = await self.standardise(of)
        correlation, q, sizes = standardised.correlation, standardised.q, standardised.sizes
        if self.model.kind == "ols":
            await self.refuse_dependent_features(correlation, sizes)
        largest = await self.largest_penalty(standardised) if self.problem.has_secret_grid else None
        if largest is not None and self.has_ridge:
            self.roots = await self.secret_roots(largest, sizes)
        scaled, scaled_q = await self.with_ridge(correlation, q)
        penalty, steps = await self.penalties_and_first_step(standardised, largest, scaled, scaled_q)
        b, support, iterations = await self.solve(scaled, scaled_q, penalty, steps, progress)
        shape = (self.problem.groups, self.problem.choices, self.d)
        b, active = b.reshape(*shape), support.active.reshape(*shape)
        if self.has_ridge:
            b = await self.mpc.truncate(b * self.roots, F, 2 * F + COEFFICIENT_BITS + 4)
        return of, standardised, penalty, Path(iterations, b, active)

    async def penalties_and_first_step(
        self, standardised: Standardised, largest: Shares | None, correlation: Shares, q: Shares
    ) -> tuple[Penalty, dict[int, tuple[Shares, Shares]]]:
        """Two things that do not wait for one another; the steps are those `solve` begins with."""
        first = next(self.phases())
        penalty, step = await self.mpc.together(
            self.thresholds(standardised, largest), self.x_step(correlation, q, first)
        )
        return penalty, {first.inverse_rho: step}

    async def refuse_dependent_features(self, correlation: Shares, sizes: Sizes) -> None:
        """Refuse least squares where a feature is explained by the others up to 2^-RANK_BITS of its variance.

        The diagonal of the inverse of R has the variance inflation factors. Features without variance get 0 and are
        left out.
        """
        mpc, places = self.mpc, np.arange(self.d)
        constant = symmetric(
            Residues.zeros(mpc.field, self.problem.groups, self.d * (self.d - 1) // 2),
            np.triu_indices(self.d, 1),
            self.d,
            diagonal=(1 - sizes.spread.positive[:, :-1]) * ONE,
        )
        ridge = 2.0**-RIDGE_BITS
        matrix = correlation + constant + self.scaled_identity(mpc, fixed(ridge))
        factors = (await self.inverse(matrix, ridge / 2, self.d + 1))[:, places, places]
        small = await mpc.nonnegative((ONE << RANK_BITS) - factors, F + RIDGE_BITS + 4)
        if not await mpc.is_zero("features are dependent", small.size - small.ravel().sum()):
            raise Refused("rank", plain_lasso.dependent_features())

    # Penalties

    async def with_ridge(self, correlation: Shares, q: Shares) -> tuple[Shares, Shares]:
        """R and q of each system, with the quadratic part of the penalty in R, scaled so that its diagonal is 1."""
        if not self.has_ridge:
            return correlation, q
        mpc, d, places = self.mpc, self.d, np.arange(self.d)
        groups, count = self.problem.groups, len(self.roots)
        i, j = upper = np.triu_indices(d, 1)
        both = await mpc.product(self.roots[:, i], self.roots[:, j], F, 2 * F + 3)
        entries = correlation[:, i, j].reshape(groups, 1, -1) * both
        scaled_q = q.reshape(groups, 1, -1) * self.roots
        parts = await mpc.truncate(mpc.concatenate(entries, scaled_q), F, 2 * F + 4)
        entries, scaled_q = mpc.split(parts, (groups * count, len(i)), (groups * count, d))
        diagonal = correlation[:, places, places].reshape(groups, 1, d).broadcast(groups, count, d)
        return symmetric(entries, upper, d, diagonal=diagonal.reshape(groups * count, d)), scaled_q

    async def secret_roots(self, largest: Shares, sizes: Sizes) -> Shares:
        """The same roots where the penalty is secret; shape (penalties, features).

        The quadratic part is in units of the outcome, alpha * (1 - l1_ratio) * factor, so the norm of the outcome
        comes in, which is selected from a table of its owner's, as in `per_norm`. From 2^QUADRATIC_BITS on it is cut.
        """
        mpc, model, norm = self.mpc, self.model, sizes.norm
        most = 1 << QUADRATIC_BITS

        def table(exponents: Sequence[int]) -> list[int]:
            unit = Fraction(1 - model.l1_ratio) / Fraction(model.l1_ratio) / self.n
            norms = (unit * Fraction(2) ** (place + 1 - exponents[-1]) for place in range(norm.places))
            return [min(most * ONE, int(value * ONE)) for value in norms]

        entered = await self.enter(table, (1, norm.places))
        selected, root = await mpc.together(
            mpc.reduce((entered * norm.one_hot[:1, -1]).sum()),
            mpc.product(norm.mantissa[:1, -1], sizes.norm_rsqrt[:1, -1], F, 2 * F + 8),
        )
        unit = await mpc.product(selected, root, 2 * F - UNIT_BITS, 2 * F + QUADRATIC_BITS + 4)
        unit = await mpc.product(unit, largest, F, UNIT_BITS + F + QUADRATIC_BITS + GRADIENT_BITS + 4)
        multiples = np.array(self.problem.multiples(self.n))[:, None] * self.relative_factors
        distinct, where = np.unique(multiples, return_inverse=True)
        bits = QUADRATIC_BITS + FACTOR_RANGE_BITS + GRADIENT_BITS + 6
        public = mpc.public([fixed(value, ROOT_BITS) for value in distinct.tolist()])
        added = await mpc.truncate(unit * public, UNIT_BITS, UNIT_BITS + ROOT_BITS + bits)
        whole = added + (1 << ROOT_BITS)
        lowest = ROOT_BITS // 2 - 1  # what is added may be 0, and below it by rounding
        size = await scale(mpc, whole, ROOT_BITS + bits + (ROOT_BITS + bits) % 2, lowest)
        powers = [1 << max(0, F + ROOT_BITS // 2 - 1 - place) for place in range(size.places)]
        power = (size.one_hot @ mpc.public(powers).reshape(-1, 1)).reshape(-1)
        roots = await mpc.product(await rsqrt(mpc, size.mantissa), power, F, 2 * F + 8)
        return roots[where.reshape(multiples.shape)]

    async def thresholds(self, standardised: Standardised, largest: Shares | None = None) -> Penalty:
        """The penalties tau and the tolerances of the optimality conditions, in the normalised scale.

        With w_j the deviation s_j of a feature, or 1 when it is not standardised, u_j its norm and u, s those of
        the outcome: tau_j = alpha (w_j / u_j) / u, tolerance_j = tolerance (w_j / u_j) (s / u).
        """
        mpc, model, sizes, features = self.mpc, self.model, standardised.sizes, slice(self.d)
        groups, rows = self.problem.groups, len(self.roots)
        shape = (self.systems, self.problem.choices // rows, self.d)
        if largest is not None:
            tau = await self.multiples_of(largest, sizes)
        else:
            tau = await self.public_penalties(sizes)
        if model.standardize:
            relative = mpc.public([[[fixed(model.tolerance * x) for x in row] for row in self.public_roots.tolist()]])
            if largest is not None and self.has_ridge:
                relative = (await mpc.truncate(self.roots * fixed(model.tolerance), F, 2 * F + 3))[None]
        else:
            relative = (await self.per_norm(sizes, [(j, model.tolerance) for j in range(self.d)], 1))[:, None]
        if not model.fit_intercept:
            ratios = await self.deviation_per_norm(sizes)
            if model.standardize:
                tau = await mpc.product(tau, ratios[:, None, features], F, 2 * F + MEAN_TO_SPREAD_BITS + 8)
                tau = await self.at_most(THRESHOLD_LIMIT, tau)
                relative = await mpc.product(relative, ratios[:, None, features], F, 2 * F + 8)
            relative = await mpc.product(relative, ratios[:, None, -1:], F, 2 * F + 8)
        constant = (1 - sizes.spread.positive[:, None, features]) * ONE  # a constant feature is removed
        tau = (tau + constant).carried().reshape(*shape)
        tau = tau + 8  # units in the last place: not negative by rounding, or both sides of 0 would be beyond it
        relative = relative.broadcast(groups, rows, self.d).reshape(groups * rows, 1, self.d)
        floor = fixed(smallest_tolerance(self.d))
        margins = [(relative + floor) * fixed(MARGIN), relative * fixed(MARGIN / STRICTER) + floor * fixed(MARGIN)]
        both = await mpc.truncate(stack(margins), F, 2 * F + 8)
        tolerance, strict = both[0].broadcast(*shape), both[1].broadcast(*shape)
        # Where the outcome varies far less outside a fold, tau there is larger by as much.
        sign_is_free = await mpc.nonnegative(tolerance - tau * 8, F + NORM_RATIO_BITS + GRADIENT_BITS + 6)
        return Penalty(tau, tolerance, strict, sign_is_free, largest)

    async def public_penalties(self, sizes: Sizes) -> Shares:
        """tau before the deviations of columns without an intercept, and cut; shape (groups, penalties, features)."""
        weights = np.array(self.factors) * self.public_roots * self.model.l1_ratio
        with np.errstate(over="ignore"):
            values = np.minimum(np.array(self.problem.penalties)[:, None] * weights, np.finfo(np.float64).max)
        if not self.model.standardize:
            return await self.per_two_norms(sizes, values.tolist())
        limit = THRESHOLD_LIMIT << (0 if self.model.fit_intercept else MEAN_TO_SPREAD_BITS + 1)
        distinct, where = np.unique(values, return_inverse=True)
        tau = await self.per_norm(sizes, [(self.d, value) for value in distinct.tolist()], limit)
        return tau[:, where.reshape(values.shape)]

    async def largest_penalty(self, standardised: Standardised) -> Shares:
        """The smallest penalty that removes everything penalised, per norm of the outcome, times the smallest of the
        penalty factors above 0; shape (1,).
        """
        mpc, gradient = self.mpc, standardised.q[0]
        penalised = [j for j, factor in enumerate(self.factors) if factor > 0]
        if len(penalised) < self.d:
            gradient = await self.gradient_without_penalised(standardised, penalised)
        inverse = mpc.public([fixed(self.problem.least_factor / self.factors[j]) for j in penalised])
        scaled = await mpc.truncate(gradient[penalised] * inverse, F, 2 * F + GRADIENT_BITS + 2)
        signs = await mpc.nonnegative(scaled, F + GRADIENT_BITS + 4)
        sizes = await mpc.reduce(scaled * (signs if self.model.positive else signs * 2 - 1))
        return await largest(mpc, sizes, F + GRADIENT_BITS + 4) + LARGEST_MARGIN

    async def gradient_without_penalised(self, standardised: Standardised, penalised: Sequence[int]) -> Shares:
        """q - R b of all records, b fitted to the features that no penalty moves."""
        mpc, d = self.mpc, self.d
        free = np.ones(d, np.int64)
        free[penalised] = 0
        correlation, q = standardised.correlation[:1], standardised.q[:1]
        support = mpc.public(free.reshape(1, 1, d))
        nothing = Residues.zeros(mpc.field, 1, 1, d)
        phase = Phase(1, 1)
        b = await self.solve_on(correlation, q, nothing, nothing, Support(support, nothing), phase)
        return q[0] - (await mpc.truncate(b @ correlation, F, 2 * F + polish_bits(d)))[0, 0]

    @property
    def relative_factors(self) -> Any:
        """Penalty factors of a secret grid, which is one of the penalties of the smallest of them."""
        return np.array(self.factors) / self.problem.least_factor

    async def multiples_of(self, largest: Shares, sizes: Sizes) -> Shares:
        """tau of a secret grid in each group. Penalties are in units of the outcome, tau in those of its norm there."""
        mpc = self.mpc
        ratio = await self.norm_ratio(sizes)
        of_groups = await mpc.product(largest, ratio, F, 2 * F + NORM_RATIO_BITS + GRADIENT_BITS + 2)
        relative = self.relative_factors
        factors = np.array(self.problem.multiples(self.n))[:, None] * relative
        public = mpc.public([[fixed(value) for value in row] for row in factors.tolist()])
        bits = NORM_RATIO_BITS + GRADIENT_BITS + FACTOR_RANGE_BITS + 4
        tau = await mpc.truncate(of_groups.reshape(-1, 1, 1) * public, F, 2 * F + bits)
        if relative.max() > 2:
            tau = await self.at_most(THRESHOLD_LIMIT, tau, bits)
        if not self.has_ridge:
            return tau
        return await mpc.product(tau, self.roots, F, 2 * F + NORM_RATIO_BITS + 8)

    async def norm_ratio(self, sizes: Sizes) -> Shares:
        """The norm of the outcome over all records per that in each group; shape (groups,)."""
        mpc, norm, most = self.mpc, sizes.norm, NORM_RATIO_BITS
        power = of_places(
            mpc, lambda i: 1 << most + i if abs(i) <= most else 0, norm.one_hot[:1, -1], norm.one_hot[:, -1]
        )
        whole = mpc.product(norm.mantissa[:1, -1], sizes.norm_rsqrt[:1, -1], F, 2 * F + 8)
        power, whole = await mpc.together(power, whole)
        ratio = await mpc.product(whole, sizes.norm_rsqrt[:, -1], F, 2 * F + 8)
        ratio = await mpc.product(ratio, power, most, F + 2 * most + 8)
        counts = mpc.public([fixed(Fraction(count, self.n)) for count in self.counts])
        return await mpc.truncate(ratio * counts, F, 2 * F + most + 8)

    async def per_norm(self, sizes: Sizes, wanted: Sequence[tuple[int, float]], limit: int) -> Shares:
        """Return value / norm for pairs of a column and a value, norms in the columns' own units; cut between half of
        `limit` and twice it. Shape (groups, pairs).

        A norm is mantissa^(1/2) 2^(place + 1 - exponent) / n. The power of two is selected from a table that a
        controller enters, for the exponents are none of the third party's business.
        """
        mpc, norm = self.mpc, sizes.norm
        columns = [j for j, _ in wanted]

        def table(exponents: Sequence[int]) -> list[int]:
            powers = [(Fraction(value) * self.n, exponents[j] - 1) for j, value in wanted]
            return [x for value, power in powers for x in _halvings(value, power, norm.places, limit)]

        entered = await self.enter(table, (len(columns), norm.places))
        selected = await mpc.reduce((entered * norm.one_hot[:, columns]).sum())
        per_norm = await mpc.product(selected, sizes.norm_rsqrt[:, columns], F, 2 * F + MEAN_TO_SPREAD_BITS + 8)
        return await self.for_counts(per_norm, 1)

    async def for_counts(self, values: Shares, power: int) -> Shares:
        """Numbers that are proportional to n^power, made with that of all records, for each group's; axis 0."""
        if len(self.counts) == 1:
            return values
        counts = self.mpc.public([fixed(Fraction(count, self.n) ** power) for count in self.counts])
        counts = counts.reshape(-1, *(1,) * (values.ndim - 1))
        return await self.mpc.truncate(values * counts, F, 2 * F + MEAN_TO_SPREAD_BITS + 12)

    async def at_most(self, limit: int, x: Shares, bits: int = MEAN_TO_SPREAD_BITS + 8) -> Shares:
        excess = x - limit * ONE
        above = await self.mpc.nonnegative(excess, F + bits)
        return x - await self.mpc.reduce(above * excess)

    async def per_two_norms(self, sizes: Sizes, values: Sequence[Sequence[float]]) -> Shares:
        """Return value / (norm of the feature * norm of the outcome), cut at 1 to 4 times THRESHOLD_LIMIT.

        values : one for each feature, a row for each penalty. Shape (groups, penalties, features).

        As in `per_norm`; the table has one entry for each sum of the two places.
        """
        mpc, d, norm = self.mpc, self.d, sizes.norm
        places, groups = norm.places, self.problem.groups

        def table(exponents: Sequence[int]) -> list[int]:
            powers = [
                (Fraction(value) * self.n**2, exponents[j] + exponents[-1] - 2)
                for row in values
                for j, value in enumerate(row)
            ]
            return [x for value, power in powers for x in _halvings(value, power, 2 * places - 1, THRESHOLD_LIMIT)]

        entered = await self.enter(table, (len(values) * d, 2 * places - 1))
        limbs = np.lib.stride_tricks.sliding_window_view(entered.limbs, places, axis=2)
        windows = Residues(mpc.field, limbs, entered.bound)
        for_outcome = windows[None] @ norm.one_hot[:, -1].reshape(groups, 1, places, 1)
        for_outcome = await mpc.reduce(for_outcome.reshape(groups, len(values), d, places))
        selected = mpc.reduce((for_outcome * norm.one_hot[:, None, :-1]).sum())
        roots = mpc.product(sizes.norm_rsqrt[:, :-1], sizes.norm_rsqrt[:, -1:], F, 2 * F + 12)
        selected, roots = await mpc.together(selected, roots)
        return await self.for_counts(await mpc.product(selected, roots[:, None], F, 2 * F + 12), 2)

    async def enter(self, table: Callable[[Sequence[int]], list[int]], shape: tuple[int, int]) -> Shares:
        """A secret input of the outcome's owner: a table of integers made from the exponents."""
        owner = self.problem.owners[self.problem.outcome]
        own = {owner: table(self.exponents)} if self.mpc.runtime.pid == owner else {}
        return (await self.mpc.runtime.secret_inputs(self.mpc.field, own, {owner: shape}))[0]

    async def deviation_per_norm(self, sizes: Sizes) -> Shares:
        """Standard deviation per root mean square, in [0, 1], of each column."""
        mpc, norm, spread = self.mpc, sizes.norm, sizes.spread
        root = await mpc.product(spread.mantissa, sizes.spread_rsqrt, F, 2 * F + 8)
        root = await mpc.product(root, sizes.norm_rsqrt, F, 2 * F + 8)
        power = await of_places(mpc, lambda i: 1 << F - i if 0 <= i <= F else 0, norm.one_hot, spread.one_hot)
        return await mpc.product(root, power, F, 2 * F + 8)


def _halvings(value: Fraction, power: int, count: int, limit: int) -> list[int]:
    """Fixed-point numbers value * 2^(power - i) for i below `count`, each cut at `limit`."""
    largest, extra = limit * ONE, count + F
    shift = power + F + extra
    numerator, denominator = value.numerator, value.denominator
    whole = (numerator << max(shift, 0)) // (denominator << max(-shift, 0))  # of i = 0, with `extra` more bits
    return [min(largest, whole >> extra + i) for i in range(count)]
