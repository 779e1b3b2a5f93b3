"""The lasso of step 8 on Shamir shares: the steps of `plain_lasso.py`, in the same order, under the same names.

Input is the Gram matrix of [1, features, outcome] as shares of exact integers;
output are the coefficients, to the controllers only. Real numbers are
fixed-point numbers with `FRACTIONAL_BITS` in a field of 254 bits; what is too
large or too small for them is scaled by secret powers of two
(`secret_scale.py`). What need not be exact is done with fewer bits: iterates
that a polish follows, and rough inverses, in a field of 127 bits unless there
are many features. Each `await` communicates; what runs `together` shares its
rounds.

Several penalties are fitted in the same rounds: a coefficient vector has shape
(penalties, features).

Opened, besides numbers under masks inside the operations of `primitives.py`:
whether the outcome is constant, whether a column has too little spread, for
least squares whether features are dependent, one bit
"the conditions hold" after each phase, and the results (`OPENED` in
`mpc_runtime.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso
from pipeline.bounds import (
    COARSE_BITS,
    COEFFICIENT_BITS,
    INTERCEPT_NOISE_BITS,
    INVERSE_HEADROOM,
    ITERATE_BITS,
    MEAN_TO_SPREAD_BITS,
    OUTCOME_SPREAD_BITS,
    POLISH_BITS,
    R2_BITS,
    RANK_BITS,
    RATIO_BITS,
    RIDGE_BITS,
    SLOPE_BITS,
    SPREAD_BITS,
    THRESHOLD_LIMIT,
    VARIANCE_BITS,
    WIDE_FRACTIONAL_BITS,
    Plan,
    plan,
    smallest_tolerance,
)
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.config import Model
from pipeline.errors import LocalProtocolError, RangeError, Refused
from pipeline.mpc_runtime import Runtime, Shares
from pipeline.plain_lasso import MARGIN, REFINEMENTS, RELAXATION, STRICTER, Phase, inversion_steps, schedule
from pipeline.plain_lasso import STEP_BITS as FACTOR_BITS
from pipeline.primitives import Arithmetic, fixed, symmetric
from pipeline.residues import Residues, concatenate, placed, stack
from pipeline.secret_scale import Scale, of_places, rsqrt, scale
from pipeline.share_convert import GramShare

ONE = 1 << F
ROUGH = 2.0**-12  # accuracy of a rough inverse, before it is refined


@dataclass(frozen=True)
class Problem:
    """What step 8 needs besides the shares. Columns are those of the Gram matrix after the ones, in order.

    owners : the party each column comes from.
    outcome : index of the outcome among the columns.
    exponents : of each column, where x' = round((x - c) 2^exponent) is what was shared; None at the third party,
        which must not know them.
    offsets : c 2^exponent, integers, of this party's own columns, in order; empty at the third party.
    alphas : penalties to fit with; that of the model if empty.
    factors : by which the penalty of each feature is multiplied; 1 for all if empty.
    """

    model: Model
    owners: tuple[int, ...]
    outcome: int
    exponents: tuple[int, ...] | None
    offsets: tuple[int, ...]
    alphas: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    @property
    def controllers(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.owners)))

    @property
    def features(self) -> int:
        return len(self.owners) - 1

    @property
    def penalties(self) -> tuple[float, ...]:
        return self.alphas or (self.model.alpha,)

    @property
    def order(self) -> list[int]:
        """The columns with the outcome moved to the end: the order from here on."""
        return [*(j for j in range(len(self.owners)) if j != self.outcome), self.outcome]


@dataclass(frozen=True)
class Fit:
    """The model on the original scale; at the third party its parts are None.

    hiding_bits : all numbers opened under masks on the way to it are within 2^-hiding_bits of numbers that depend on
        nothing secret.
    """

    iterations: int
    coefficients: tuple[float, ...] | None
    intercept: float | None
    r2: float | None
    mse: float | None
    hiding_bits: float


@dataclass(frozen=True)
class Moments:
    """Exact integers; the outcome comes last.

    totals : sums of the columns, offsets included.
    centred : n^2 times variances and covariances.
    squares : what the columns are scaled by, the centred moments, or the uncentred ones when there is no intercept.
    """

    totals: Shares
    centred: Shares
    squares: Shares


@dataclass(frozen=True)
class Sizes:
    """The norms of the columns and their deviations, with their inverse square roots."""

    norm: Scale
    spread: Scale
    norm_rsqrt: Shares
    spread_rsqrt: Shares


@dataclass(frozen=True)
class Support:
    """Which coefficients are not zero, and their signs; entries are 0, 1 and -1."""

    active: Shares
    sign: Shares


@dataclass(frozen=True)
class Solved:
    """For each penalty the coefficients, their support, and 1 where the conditions hold."""

    b: Shares
    support: Support
    holds: Shares


@dataclass(frozen=True)
class Penalty:
    """In the normalised scale: the penalties tau, the tolerances, those after a polish with a large ridge, and whether
    a sign does not matter (tau is tiny).
    """

    tau: Shares
    tolerance: Shares
    strict: Shares
    sign_is_free: Shares


async def fit(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> Fit:
    """Fit the lasso; all three parties call it with the same public arguments.

    progress : called with the number of iterations after each phase.

    Raises Refused, at all parties alike: "constant-outcome", "spread", "rank" or
    "not-converged"; or the error that ended a link.
    """
    return (await fit_path(runtime, gram, problem, progress))[0]


async def fit_path(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> list[Fit]:
    """As `fit`, for all the problem's penalties in the same rounds."""
    model = problem.model
    sizes = plan(
        gram.records,
        problem.features,
        fit_intercept=model.fit_intercept,
        max_iterations=model.max_iterations,
        problems=len(problem.penalties),
    )
    mpc = Arithmetic(runtime, sizes.solver_field, sizes.statistical_bits)
    return await runtime.supervise(SecureLasso(mpc, sizes, gram, problem).fit(progress or (lambda _: None)))


class SecureLasso:
    """One fit, or several with the same features; the methods are the functions of `plain_lasso.py`."""

    def __init__(self, mpc: Arithmetic, sizes: Plan, gram: GramShare, problem: Problem) -> None:
        if gram.field != sizes.field:
            raise LocalProtocolError("the Gram matrix is shared in another field than planned")
        self.mpc = mpc
        self.narrow = mpc.over(sizes.field)
        self.inverting = mpc.over(sizes.inverse_field)
        self.sizes = sizes
        self.gram = gram
        self.n = gram.records
        self.problem = problem
        self.model = problem.model
        self.d = problem.features
        self.ones = np.ones(self.d, np.int64)
        self.factors = problem.factors or (1.0,) * self.d
        self.ridge = plain_lasso.ridge(problem.penalties[0], self.model.l1_ratio, self.factors)
        if any(self.ridge) and len(problem.penalties) > 1:
            raise LocalProtocolError("penalties with a quadratic part are fitted one at a time")
        self.root = tuple((1 + added) ** -0.5 for added in self.ridge)

    async def fit(self, progress: Callable[[int], None]) -> list[Fit]:
        of = await self.moments()
        sizes, correlation, q = await self.standardise(of)
        if self.model.kind == "ols":
            await self.refuse_dependent_features(correlation, sizes)
        scaled, scaled_q = await self.with_ridge(correlation, q)
        penalty, steps = await self.penalties_and_first_step(sizes, scaled, scaled_q)
        b, support, iterations = await self.solve(scaled, scaled_q, penalty, steps, progress)
        if any(self.ridge):
            b = await self.mpc.truncate(b * self.roots, F, 2 * F + COEFFICIENT_BITS + 4)
        return await self.open_results(iterations, correlation, q, b, support, of, sizes)

    def phases(self) -> Iterator[Phase]:
        quick = min(self.problem.penalties) > 0 and self.model.l1_ratio == 1
        return schedule(self.model.max_iterations, self.model.fit_intercept, quick)

    async def penalties_and_first_step(
        self, sizes: Sizes, correlation: Shares, q: Shares
    ) -> tuple[Penalty, dict[int, tuple[Shares, Shares]]]:
        """Two things that do not wait for one another; the steps are those `solve` begins with."""
        first = next(self.phases())
        penalty, step = await self.mpc.together(self.thresholds(sizes), self.x_step(correlation, q, first))
        return penalty, {first.inverse_rho: step}

    # Preparation

    async def moments(self) -> Moments:
        """Form the moments as exact integers from the Gram matrix and the columns' offsets."""
        mpc, columns = self.mpc, self.d + 1
        order = [0, *(1 + j for j in self.problem.order)]
        offsets = await self.offsets()
        upper = np.triu_indices(columns + 1)
        shares = Residues.of_words(self.gram.field, self.gram.total[np.ix_(order, order)][upper])
        gram = symmetric(await self.narrow.lift(shares, mpc), upper, columns + 1)
        sums, products = gram[0, 1:], gram[1:, 1:]
        totals = (sums + offsets * self.n).carried()
        centred = products * self.n - sums.reshape(-1, 1) * sums
        if self.model.fit_intercept:
            centred = await mpc.reduce(centred)
            return Moments(totals, centred, centred)
        uncentred = centred + totals.reshape(-1, 1) * totals
        both = await mpc.reduce(mpc.concatenate(centred, uncentred))
        return Moments(totals, *mpc.split(both, centred.shape, uncentred.shape))

    async def offsets(self) -> Shares:
        """The columns' offsets, secret inputs of their owners."""
        problem, me = self.problem, self.mpc.runtime.pid
        if any(abs(x) >> self.sizes.offset_bits for x in problem.offsets):
            raise RangeError("a column lies too far from zero for its spread; subtract a constant from it")
        columns = {i: [j for j, owner in enumerate(problem.owners) if owner == i] for i in problem.controllers}
        shapes = {i: (len(own),) for i, own in columns.items()}
        own = {me: problem.offsets} if me in columns else {}
        shares = await self.mpc.runtime.secret_inputs(self.mpc.field, own, shapes)
        in_order = np.argsort(np.concatenate(list(columns.values())))
        return concatenate(shares)[in_order][problem.order]

    async def standardise(self, of: Moments) -> tuple[Sizes, Shares, Shares]:
        """The columns' sizes, and R and q; refuses a constant outcome and too small a spread."""
        mpc = self.mpc
        norm, spread = await self.scales(of)
        both = norm.mantissa if norm is spread else concatenate([norm.mantissa, spread.mantissa])
        roots, _, scaled = await mpc.together(
            rsqrt(mpc, both), self.refuse(norm, spread), self.scaled_squares(of, norm, spread)
        )
        columns = self.d + 1
        sizes = Sizes(norm, spread, roots[:columns], roots[-columns:])
        correlation, q = await self.correlations(scaled, sizes)
        return sizes, correlation, q

    async def scales(self, of: Moments) -> tuple[Scale, Scale]:
        """The sizes of the squares (the columns' norms) and of the centred squares (their deviations)."""
        mpc, bits = self.mpc, self.sizes.square_bits
        lowest = self.place_of(SPREAD_BITS)
        diagonal = np.arange(self.d + 1)
        if self.model.fit_intercept:
            norm = await scale(mpc, of.squares[diagonal, diagonal], bits, lowest)
            return norm, norm
        squares = [matrix[diagonal, diagonal] for matrix in (of.squares, of.centred)]
        both = await scale(mpc, concatenate(squares), bits, lowest)
        columns = self.d + 1
        return both.columns(slice(columns)), both.columns(slice(columns, None))

    def place_of(self, spread_bits: int) -> int:
        """The smallest i with 4^i >= n^2 4^spread_bits: columns with a place from there on spread that much."""
        return ((self.n**2).bit_length() + 2 * spread_bits + 1) // 2

    async def refuse(self, norm: Scale, spread: Scale) -> None:
        """Refuse a constant outcome; then columns that vary, but so little that rounding to steps of their scale
        would show in the result. Nor may the spread be too small against the mean, when there is no intercept.
        """
        mpc = self.mpc
        if await mpc.is_zero("outcome is constant", spread.positive[-1]):
            raise Refused("constant-outcome", plain_lasso.constant_outcome())
        least = [self.place_of(SPREAD_BITS)] * self.d + [self.place_of(OUTCOME_SPREAD_BITS)]
        large = stack([spread.at_least(j, place) for j, place in enumerate(least)])
        comparable = await of_places(mpc, lambda i: int(abs(i) <= RATIO_BITS), norm.one_hot, norm.one_hot[-1:])
        faults = (spread.positive - large).sum() + (norm.positive - comparable).sum()
        if not self.model.fit_intercept:
            near = await of_places(mpc, lambda i: int(0 <= i <= MEAN_TO_SPREAD_BITS), norm.one_hot, spread.one_hot)
            faults = faults + (spread.positive - near).sum()
        if not await mpc.is_zero("spread is too small", faults):
            raise Refused("spread", plain_lasso.too_little_spread())

    async def scaled_squares(self, of: Moments, norm: Scale, spread: Scale) -> Shares:
        """Products of columns, in the upper triangle, divided by the powers of two of both; 0 where one is constant."""
        mpc = self.mpc
        i, j = np.triu_indices(self.d + 1, 1)
        factors = await mpc.reduce(norm.factor[i] * norm.factor[j])
        scaled = mpc.product(of.squares[i, j], factors, norm.bits - F, norm.bits + 2)
        both_vary = mpc.reduce(spread.positive[i] * spread.positive[j])
        scaled, both_vary = await mpc.together(scaled, both_vary)
        return await mpc.reduce(scaled * both_vary)

    async def correlations(self, scaled: Shares, sizes: Sizes) -> tuple[Shares, Shares]:
        """R and q; rows and columns of features that are constant over the records are zero."""
        mpc, columns = self.mpc, self.d + 1
        i, j = upper = np.triu_indices(columns, 1)
        roots = await mpc.product(sizes.norm_rsqrt[i], sizes.norm_rsqrt[j], F, 2 * F + 12)
        varies = sizes.spread.positive
        entries = await mpc.product(scaled, roots, F, 2 * F + 12)
        correlation = symmetric(entries, upper, columns, diagonal=varies * ONE)
        return correlation[:-1, :-1], correlation[:-1, -1]

    async def refuse_dependent_features(self, correlation: Shares, sizes: Sizes) -> None:
        """Refuse least squares where a feature is explained by the others up to 2^-RANK_BITS of its variance.

        The diagonal of the inverse of R has the variance inflation factors. Features without variance get 0 and are
        left out.
        """
        mpc, places = self.mpc, np.arange(self.d)
        constant = symmetric(
            Residues.zeros(mpc.field, self.d * (self.d - 1) // 2),
            np.triu_indices(self.d, 1),
            self.d,
            diagonal=(1 - sizes.spread.positive[:-1]) * ONE,
        )
        ridge = 2.0**-RIDGE_BITS
        matrix = correlation + constant + self.scaled_identity(mpc, fixed(ridge))
        factors = (await self.inverse(matrix, ridge / 2, self.d + 1))[places, places]
        small = await mpc.nonnegative((ONE << RANK_BITS) - factors, F + RIDGE_BITS + 4)
        if not await mpc.is_zero("features are dependent", self.d - small.sum()):
            raise Refused("rank", plain_lasso.dependent_features())

    # Penalties

    @property
    def roots(self) -> Shares:
        return self.mpc.public([fixed(root) for root in self.root])

    async def with_ridge(self, correlation: Shares, q: Shares) -> tuple[Shares, Shares]:
        """R and q of the problem with the quadratic part of the penalty in R, scaled so that its diagonal is 1."""
        if not any(self.ridge):
            return correlation, q
        mpc = self.mpc
        i, j = upper = np.triu_indices(self.d, 1)
        both = mpc.public([fixed(self.root[a] * self.root[b]) for a, b in zip(i, j, strict=True)])
        products = mpc.concatenate(correlation[i, j] * both, q * self.roots)
        entries, q = mpc.split(await mpc.truncate(products, F, 2 * F + 4), i.shape, (self.d,))
        diagonal = correlation[np.arange(self.d), np.arange(self.d)]
        return symmetric(entries, upper, self.d, diagonal=diagonal), q

    async def thresholds(self, sizes: Sizes) -> Penalty:
        """The penalties tau and the tolerances of the optimality conditions, in the normalised scale.

        With w_j the deviation s_j of a feature, or 1 when it is not standardised, u_j its norm and u, s those of
        the outcome: tau_j = alpha (w_j / u_j) / u, tolerance_j = tolerance (w_j / u_j) (s / u).
        """
        mpc, model, features = self.mpc, self.model, slice(self.d)
        weights = np.array(self.factors) * self.root * model.l1_ratio
        shape = (len(self.problem.penalties), self.d)
        with np.errstate(over="ignore"):
            values = np.minimum(np.outer(self.problem.penalties, weights), np.finfo(np.float64).max)
        if model.standardize:
            limit = THRESHOLD_LIMIT << (0 if model.fit_intercept else MEAN_TO_SPREAD_BITS + 1)
            distinct, where = np.unique(values, return_inverse=True)
            tau = await self.per_norm(sizes, [(self.d, value) for value in distinct.tolist()], limit)
            tau = tau[where.reshape(shape)]
            relative = mpc.public([fixed(model.tolerance * root) for root in self.root])
        else:
            tau, relative = await mpc.together(
                self.per_two_norms(sizes, values.tolist()),
                self.per_norm(sizes, [(j, model.tolerance) for j in range(self.d)], 1),
            )
        if not model.fit_intercept:
            ratios = await self.deviation_per_norm(sizes)
            if model.standardize:
                tau = await mpc.product(tau, ratios[features], F, 2 * F + MEAN_TO_SPREAD_BITS + 8)
                tau = await self.at_most(THRESHOLD_LIMIT, tau)
                relative = await mpc.product(relative, ratios[features], F, 2 * F + 8)
            relative = await mpc.product(relative, ratios[-1:], F, 2 * F + 8)
        constant = (1 - sizes.spread.positive[features]) * ONE  # a constant feature is removed
        tau = (tau.broadcast(*shape) + constant).carried()
        tau = tau + 8  # units in the last place: not negative by rounding, or both sides of 0 would be beyond it
        floor = fixed(smallest_tolerance(self.d))
        margins = [(relative + floor) * fixed(MARGIN), relative * fixed(MARGIN / STRICTER) + floor * fixed(MARGIN)]
        both = await mpc.truncate(stack(margins), F, 2 * F + 8)
        tolerance, strict = both[0].broadcast(*shape), both[1].broadcast(*shape)
        sign_is_free = await mpc.nonnegative(tolerance - tau * 8, F + 10)
        return Penalty(tau, tolerance, strict, sign_is_free)

    async def per_norm(self, sizes: Sizes, wanted: Sequence[tuple[int, float]], limit: int) -> Shares:
        """Return value / norm for pairs of a column and a value, norms in the columns' own units; cut between limit
        and 2 limit.

        A norm is mantissa^(1/2) 2^(place + 1 - exponent) / n. The power of two is selected from a table that a
        controller enters, for the exponents are none of the third party's business.
        """
        mpc, norm = self.mpc, sizes.norm
        columns = [j for j, _ in wanted]

        def table(exponents: Sequence[int]) -> list[int]:
            powers = [(Fraction(value) * self.n, exponents[j] - 1) for j, value in wanted]
            return [x for value, power in powers for x in _halvings(value, power, norm.places, limit)]

        entered = await self.enter(table, (len(columns), norm.places))
        selected = await mpc.reduce((entered * norm.one_hot[columns]).sum(axis=1))
        return await mpc.product(selected, sizes.norm_rsqrt[columns], F, 2 * F + MEAN_TO_SPREAD_BITS + 8)

    async def at_most(self, limit: int, x: Shares) -> Shares:
        excess = x - limit * ONE
        above = await self.mpc.nonnegative(excess, F + MEAN_TO_SPREAD_BITS + 8)
        return x - await self.mpc.reduce(above * excess)

    async def per_two_norms(self, sizes: Sizes, values: Sequence[Sequence[float]]) -> Shares:
        """Return value / (norm of the feature * norm of the outcome), cut at 1 to 4 times THRESHOLD_LIMIT.

        values : one for each feature, a row for each penalty.

        As in `per_norm`; the table has one entry for each sum of the two places.
        """
        mpc, d, norm = self.mpc, self.d, sizes.norm
        places = norm.places

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
        for_outcome = await mpc.reduce((windows @ norm.one_hot[-1].reshape(-1, 1)).reshape(len(values), d, places))
        selected = mpc.reduce((for_outcome * norm.one_hot[:-1]).sum())
        roots = mpc.product(sizes.norm_rsqrt[:-1], sizes.norm_rsqrt[-1:], F, 2 * F + 12)
        selected, roots = await mpc.together(selected, roots)
        return await mpc.product(selected, roots, F, 2 * F + 12)

    async def enter(self, table: Callable[[Sequence[int]], list[int]], shape: tuple[int, int]) -> Shares:
        """A secret input of the outcome's owner: a table of integers made from the exponents."""
        owner = self.problem.owners[self.problem.outcome]
        own = {owner: table(self.exponents)} if self.mpc.runtime.pid == owner else {}
        return (await self.mpc.runtime.secret_inputs(self.mpc.field, own, {owner: shape}))[0]

    @property
    def exponents(self) -> list[int]:
        """Known to controllers only; outcome last."""
        if self.problem.exponents is None:
            raise LocalProtocolError("the third party does not know the exponents")
        return [self.problem.exponents[j] for j in self.problem.order]

    async def deviation_per_norm(self, sizes: Sizes) -> Shares:
        """Standard deviation per root mean square, in [0, 1], of each column."""
        mpc, norm, spread = self.mpc, sizes.norm, sizes.spread
        root = await mpc.product(spread.mantissa, sizes.spread_rsqrt, F, 2 * F + 8)
        root = await mpc.product(root, sizes.norm_rsqrt, F, 2 * F + 8)
        power = await of_places(mpc, lambda i: 1 << F - i if 0 <= i <= F else 0, norm.one_hot, spread.one_hot)
        return await mpc.product(root, power, F, 2 * F + 8)

    # Solution

    async def inverse(self, matrix: Shares, lowest: float, highest: float) -> Shares:
        """The inverses of symmetric matrices with eigenvalues in [lowest, highest]."""
        mpc, upper = self.mpc, np.triu_indices(self.d)
        bits = 2 * F + FACTOR_BITS + max(0, int(-np.log2(lowest))) + 14
        x = self.scaled_identity(mpc, fixed(1 / highest))
        for m in inversion_steps(lowest, highest):
            x = await self.newton_step(mpc, matrix, x, m, F, bits, upper)
        return x

    def scaled_identity(self, mpc: Arithmetic, value: int) -> Shares:
        return placed(mpc.field, value, np.eye(self.d))

    async def rough_inverse(self, matrix: Shares, lowest: float, highest: float) -> Shares:
        """The same up to about ROUGH, with COARSE_BITS fractional bits, computed in `Plan.inverse_field`.

        matrix : of degree 1 or 2, at F bits.
        """
        mpc, inverting, bits = self.mpc, self.inverting, self.sizes.inverse_bits
        i, j = upper = np.triu_indices(self.d)
        entries = await mpc.convert(matrix[..., i, j], inverting, F - bits, F + 4)
        matrix = symmetric(entries, upper, self.d)
        x = self.scaled_identity(inverting, fixed(1 / highest, bits))
        room = 2 * bits + INVERSE_HEADROOM
        for m in inversion_steps(lowest, highest, ROUGH):
            x = await self.newton_step(inverting, matrix, x, m, bits, room, upper)
        wide = await inverting.convert(x[..., i, j], mpc, 0, bits + INVERSE_HEADROOM)
        return symmetric(wide << COARSE_BITS - bits, upper, self.d)

    async def newton_step(
        self, mpc: Arithmetic, matrix: Shares, x: Shares, m: float, f: int, bits: int, upper: Any
    ) -> Shares:
        """Return m X (2 - m K X), with f fractional bits; products have at most `bits`. Two rounds."""
        i, j = upper
        factor = fixed(m, FACTOR_BITS)
        y = await mpc.truncate((matrix @ x) * factor, f + FACTOR_BITS, 2 * f + FACTOR_BITS + 6)
        x = x @ (self.scaled_identity(mpc, 2 << f) - y)
        x = await mpc.truncate(x[..., i, j] * factor, f + FACTOR_BITS, bits)
        return symmetric(x, upper, self.d)

    async def solve(
        self,
        correlation: Shares,
        q: Shares,
        penalty: Penalty,
        steps: dict[int, tuple[Shares, Shares]],
        progress: Callable[[int], None],
    ) -> tuple[Shares, Support, int]:
        """Return the normalised coefficients, their support and the number of iterations.

        steps : what `x_step` returned for some values of 1/rho.
        """
        mpc = self.mpc
        z = u = Residues.zeros(mpc.field, *penalty.tau.shape)
        found: Solved | None = None
        previous, iterations = None, 0
        for phase in self.phases():
            if phase.inverse_rho not in steps:
                steps[phase.inverse_rho] = await self.x_step(correlation, q, phase)
            threshold = await self.at_precision(penalty.tau * phase.inverse_rho, F, phase) + 8
            if previous:
                z, u = await self.rescaled(z, u, previous, phase)
            z, u, support = await self.iterate(steps[phase.inverse_rho], z, u, threshold, phase)
            previous = phase
            iterations += phase.iterations
            b, support = await self.polish(correlation, q, penalty, z << F - fraction_bits(phase), support, phase)
            progress(iterations)
            tolerance = penalty.strict if phase.has_large_ridge else penalty.tolerance
            holds = await self.conditions_hold(correlation, q, penalty.tau, tolerance, b, support)
            found = await self.best(found, Solved(b, support, holds))
            if await mpc.is_zero("conditions hold", found.holds.size - found.holds.ravel().sum()):
                return found.b, found.support, iterations
        raise Refused("not-converged", plain_lasso.not_converged(iterations))

    async def best(self, found: Solved | None, new: Solved) -> Solved:
        """For each penalty what has satisfied the conditions first, or the newest."""
        if found is None or new.holds.size == 1:
            return new
        mpc = self.mpc
        keep = found.holds.reshape(-1, 1)
        pairs = [(found.b, new.b), (found.support.active, new.support.active), (found.support.sign, new.support.sign)]
        products = [keep * (old - fresh) for old, fresh in pairs] + [found.holds * new.holds]
        *changes, both = mpc.split(await mpc.reduce(mpc.concatenate(*products)), *(x.shape for x in products))
        b, active, sign = (fresh + change for (_, fresh), change in zip(pairs, changes, strict=True))
        return Solved(b, Support(active, sign), found.holds + new.holds - both)

    async def at_precision(self, x: Shares, bits: int, phase: Phase) -> Shares:
        """Numbers with `bits` fractional bits, below 2^ITERATE_BITS, with those of a phase."""
        wanted = fraction_bits(phase)
        return x if wanted == bits else await self.mpc.truncate(x, bits - wanted, bits + ITERATE_BITS + 2)

    async def rescaled(self, z: Shares, u: Shares, previous: Phase, phase: Phase) -> tuple[Shares, Shares]:
        """The iterates of one phase for the next: u is in units of rho."""
        mpc, f = self.mpc, F
        z, u = (x << F - fraction_bits(previous) for x in (z, u))
        ratio = fixed(Fraction(phase.inverse_rho, previous.inverse_rho))
        u = await mpc.truncate(u * mpc.public(ratio), f, 2 * f + ITERATE_BITS + 8)
        both = await self.at_precision(mpc.concatenate(z, u), F, phase)
        z, u = mpc.split(both, z.shape, u.shape)
        return z, u

    async def x_step(self, correlation: Shares, q: Shares, phase: Phase) -> tuple[Shares, Shares]:
        """The relaxed step RELAXATION (R + rho I)^-1 (q + rho (z - u)) as a constant and a matrix for z - u."""
        mpc, f = self.mpc, fraction_bits(phase)
        rho = 1 / phase.inverse_rho
        matrix = correlation + self.scaled_identity(mpc, fixed(rho))
        if phase.coarse:
            rough = await self.rough_inverse(matrix, rho, self.d + rho)
            y = await mpc.truncate(rough @ matrix, F, F + f + 12)
            shrink = await mpc.truncate(rough @ (self.scaled_identity(mpc, 2 << f) - y), f, 2 * f + 16)
        else:
            shrink = await self.inverse(matrix, rho, self.d + rho)
        scaled = fixed(RELAXATION * rho, f)
        linear = mpc.truncate(shrink * mpc.public(scaled), f, 2 * f + ITERATE_BITS + 2)
        at_zero = shrink @ q.reshape(-1, 1) * fixed(RELAXATION, 2)
        at_zero, linear = await mpc.together(mpc.truncate(at_zero, F + 2, F + f + ITERATE_BITS + 4), linear)
        return at_zero.reshape(-1), linear

    async def iterate(
        self, step: tuple[Shares, Shares], z: Shares, u: Shares, threshold: Shares, phase: Phase
    ) -> tuple[Shares, Shares, Support]:
        """The iterations of a phase, five rounds each: x-step, soft-threshold, dual step.

        The sides of the soft-threshold are compared before the product in them is
        truncated, in the same rounds; the bits are made a product at once.
        """
        mpc, f = self.mpc, fraction_bits(phase)
        at_zero, linear = step
        support = None
        for k in range(phase.iterations):
            exact = ((at_zero + u) << f) + z * mpc.public(fixed(1 - RELAXATION, f)) + (z - u) @ linear
            limit = (threshold + 1) << f
            sides = stack([exact - limit] if self.model.positive else [exact - limit, -exact - limit])
            comparison = mpc.comparison(sides.size, 2 * f + ITERATE_BITS + 2)
            truncated = self.sides_times_known(exact, threshold, comparison, f)
            _, (v, sides, known) = await mpc.together(comparison.run(sides.ravel()), truncated)
            moved = comparison.times(sides.ravel(), known).reshape(*sides.shape)
            moved = moved[0] if self.model.positive else moved[0] - moved[1]
            if k + 1 < phase.iterations:
                z = await mpc.reduce(moved)
            else:
                z, bits = mpc.split(await mpc.reduce(mpc.concatenate(moved, comparison.times())), z.shape, sides.shape)
                support = (
                    Support(bits[0], bits[0]) if self.model.positive else Support(bits[0] + bits[1], bits[0] - bits[1])
                )
            u = (v - z).carried()
        if support is None:
            raise LocalProtocolError("a phase without iterations")
        return z, u, support

    async def sides_times_known(
        self, exact: Shares, threshold: Shares, comparison: Any, f: int
    ) -> tuple[Shares, Shares, Shares]:
        """v, how far it is beyond either threshold, and that times what the holders know of the comparison."""
        v = await self.mpc.truncate(exact, f, 2 * f + ITERATE_BITS + 2)
        sides = stack([v - threshold] if self.model.positive else [v - threshold, -v - threshold])
        return v, sides, await self.mpc.reduce(comparison.holders_bit * sides.ravel())

    async def polish(
        self, correlation: Shares, q: Shares, penalty: Penalty, z: Shares, support: Support, phase: Phase
    ) -> tuple[Shares, Support]:
        """Solve R b = q - tau sign on the support, near z; drop coefficients whose sign does not agree."""
        mpc, d = self.mpc, self.d
        i, j = upper = np.triu_indices(d, 1)
        active, sign = support.active, support.sign
        products = active[..., i] * active[..., j], active * q - sign * penalty.tau
        shapes = products[0].shape, z.shape
        both, right_side = mpc.split(await mpc.reduce(mpc.concatenate(*products)), *shapes)
        entries = both * correlation[i, j]
        ridge = 2.0**-phase.ridge_bits
        if phase.has_large_ridge:
            f = COARSE_BITS
            with_ridge = symmetric(entries, upper, d, diagonal=placed(mpc.field, fixed(1 + ridge), self.ones))
            entries, approximate_inverse = await mpc.together(
                mpc.reduce(entries), self.rough_inverse(with_ridge, ridge / 2, d + 1)
            )
            equations = symmetric(entries, upper, d, diagonal=placed(mpc.field, ONE, self.ones))
        else:
            f = F
            equations = symmetric(await mpc.reduce(entries), upper, d, diagonal=placed(mpc.field, ONE, self.ones))
            approximate_inverse = await self.inverse(
                equations + self.scaled_identity(mpc, ONE >> phase.ridge_bits), ridge / 2, d + 1
            )
        b = z
        for _ in range(REFINEMENTS):
            fitted = (equations @ b.reshape(*b.shape, 1)).reshape(*b.shape)
            residual = right_side - await mpc.truncate(fitted, F, 2 * F + POLISH_BITS + 10)
            change = (approximate_inverse @ residual.reshape(*b.shape, 1)).reshape(*b.shape)
            b = (b + await mpc.truncate(change, f, F + f + POLISH_BITS + 10)).carried()
        signed = sign * b
        if not self.model.positive:
            signed = signed + penalty.sign_is_free * (ONE << POLISH_BITS)
        comparison = mpc.comparison(b.size, F + POLISH_BITS + 3)
        _, (values, known) = await mpc.together(
            comparison.run(signed.ravel()), self.times_known(active, sign, b, comparison)
        )
        kept = [comparison.times(value, times) for value, times in zip(values, known, strict=True)]
        b, active, sign = mpc.split(await mpc.reduce(mpc.concatenate(*kept)), *[b.shape] * 3)
        return b, Support(active, sign)

    async def times_known(
        self, active: Shares, sign: Shares, b: Shares, comparison: Any
    ) -> tuple[list[Shares], list[Shares]]:
        """b on the support, the support and the signs, each flat, and these times what the holders know."""
        mpc = self.mpc
        values = [(await mpc.reduce(active * b)).ravel(), active.ravel(), sign.ravel()]
        products = mpc.concatenate(*(comparison.holders_bit * value for value in values))
        return values, mpc.split(await mpc.reduce(products), *[(b.size,)] * 3)

    async def conditions_hold(
        self, correlation: Shares, q: Shares, tau: Shares, tolerance: Shares, b: Shares, support: Support
    ) -> Shares:
        """For each penalty 1 where b satisfies the optimality conditions of the lasso within the tolerance, else 0.

        For a single one the number of conditions that do not hold, less 1, is taken off: it is 1 if all hold.
        """
        mpc = self.mpc
        off = (q << F) - b @ correlation - (support.sign * tau << F)
        allowed = tolerance + (1 - support.active) * tau << F
        below = allowed
        if self.model.positive:  # a coefficient of 0 may be pulled towards negative numbers
            below = allowed + (1 - support.active) * mpc.public(1 << 2 * F + POLISH_BITS + 9)
        limit = placed(mpc.field, ONE << COEFFICIENT_BITS, self.ones)
        margins = concatenate([allowed - off, below + off, limit - b << F, limit + b << F], axis=-1)
        holds = (await mpc.nonnegative(margins, 2 * F + POLISH_BITS + 12)).sum()
        missing = holds - margins.shape[-1]
        if missing.size == 1:
            return missing + 1
        return await mpc.nonnegative(missing, margins.shape[-1].bit_length() + 2)

    # Results

    async def slopes(self, b: Shares, support: Support, sizes: Sizes) -> Shares:
        """Integers: slopes in steps of the outcome per step of the feature, times 2^SLOPE_BITS; 0 off the support.

        A slope is b (mantissa / mantissa_j)^(1/2) 2^(place - place_j), symbols without j those of the outcome. It
        has so many fractional bits before the multiplication by the power of two that rounding after it leaves no
        zeros at the end, which would tell the power.
        """
        mpc, norm = self.mpc, sizes.norm
        root, power = await mpc.together(
            mpc.product(norm.mantissa[-1:], sizes.norm_rsqrt[-1:], F, 2 * F + 8),
            of_places(
                mpc, lambda i: 1 << RATIO_BITS - i if abs(i) <= RATIO_BITS else 0, norm.one_hot[:-1], norm.one_hot[-1:]
            ),
        )
        roots = await mpc.product(sizes.norm_rsqrt[:-1], root, F, 2 * F + 8)
        wide = await mpc.product(b, roots, 2 * F - WIDE_FRACTIONAL_BITS, 2 * F + COEFFICIENT_BITS + 4)
        bits = WIDE_FRACTIONAL_BITS + COEFFICIENT_BITS + 2 * RATIO_BITS + 2
        slopes = await mpc.product(wide, power, WIDE_FRACTIONAL_BITS + RATIO_BITS - SLOPE_BITS, bits)
        return await mpc.reduce(support.active * slopes)

    async def unexplained(self, correlation: Shares, q: Shares, b: Shares, sizes: Sizes) -> Shares:
        """Mean square of the residuals per variance of the outcome: (1 - 2 q'b + b'Rb) (norm / deviation)^2."""
        mpc, norm, spread = self.mpc, sizes.norm, sizes.spread
        fitted = await mpc.truncate(b @ correlation, F, 2 * F + COEFFICIENT_BITS + 10)
        explained = ((q * 2 - fitted) * b).sum()
        share = ONE - await mpc.truncate(explained, F, 2 * F + 2 * COEFFICIENT_BITS + 12)
        if self.model.fit_intercept:
            return share
        root = sizes.spread_rsqrt[-1:]
        roots = await mpc.product(root, root, F, 2 * F + 8)
        ratio = await mpc.product(norm.mantissa[-1:], roots, F, 2 * F + 8)
        limited = await mpc.product(share, ratio, F, 2 * F + 8)
        power = await of_places(
            mpc, lambda i: 4 ** min(max(i, 0), MEAN_TO_SPREAD_BITS), norm.one_hot[-1:], spread.one_hot[-1:]
        )
        return await mpc.reduce(limited * power)

    async def open_results(
        self, iterations: int, correlation: Shares, q: Shares, b: Shares, support: Support, of: Moments, sizes: Sizes
    ) -> list[Fit]:
        """Open slopes, intercepts, r2 and the outcome's variance to the controllers, rounded (by noise)."""
        slopes, unexplained = await self.mpc.together(
            self.slopes(b, support, sizes), self.unexplained(correlation, q, b, sizes)
        )
        mpc, n, spread = self.mpc, self.n, sizes.spread
        count = len(slopes)
        results = {"slopes": slopes.ravel()}
        if self.model.fit_intercept:
            line = await mpc.reduce((slopes * of.totals[:-1]).sum())
            exact = of.totals[-1:] * mpc.public(1 << SLOPE_BITS) - line
            results["intercept"] = exact + mpc.noise(
                count, SLOPE_BITS + INTERCEPT_NOISE_BITS + n.bit_length() - 1, "intercept"
            )
        results["r2"] = ONE - unexplained + mpc.noise(count, F - R2_BITS, "r2")
        place = (spread.one_hot[-1] * np.arange(spread.places, dtype=np.int32)).sum().reshape(1)
        mantissa = spread.mantissa[-1:] + mpc.noise(1, F - VARIANCE_BITS, "variance")
        results["variance of the outcome"] = mpc.concatenate(mantissa, place)
        opened = await mpc.runtime.open_to_controllers(results, self.problem.controllers)
        if opened is None:
            return [Fit(iterations, None, None, None, None, self.hiding_bits)] * count
        p = mpc.field.p
        signed = {name: [int(x) - p if x > p // 2 else int(x) for x in values] for name, values in opened.items()}
        steps = np.array(signed["slopes"], dtype=object).reshape(count, self.d)
        variance = signed["variance of the outcome"]
        return [
            self.on_original_scale(
                iterations, steps[k], signed.get("intercept", [None] * count)[k], signed["r2"][k], variance
            )
            for k in range(count)
        ]

    def on_original_scale(self, iterations: int, steps: Any, intercept: int | None, r2: int, variance: Any) -> Fit:
        """A controller's last step: multiply what was opened by the public scales."""
        *features, outcome = self.exponents
        if self.model.positive:  # the last bits of a number near 0 are off by a few units, to either side
            steps = [max(x, 0) for x in steps]
        slopes = [Fraction(x, 1 << SLOPE_BITS) * _power(e - outcome) for x, e in zip(steps, features, strict=True)]
        constant = 0 if intercept is None else Fraction(intercept, self.n << SLOPE_BITS) * _power(-outcome)
        explained = min(Fraction(r2, ONE), Fraction(1))
        mantissa, place = variance
        total = Fraction(mantissa, ONE) * _power(2 * (place + 1 - outcome)) / self.n**2
        mse = (1 - explained) * total
        coefficients = tuple(map(float, slopes))
        return Fit(iterations, coefficients, float(constant), float(explained), float(mse), self.hiding_bits)

    @property
    def hiding_bits(self) -> float:
        """Of all masked openings so far."""
        return self.sizes.statistical_bits - math.log2(max(1, self.mpc.opened.masked))


def fraction_bits(phase: Phase) -> int:
    """Fractional bits of the iterates of a phase."""
    return COARSE_BITS if phase.coarse else F


def _halvings(value: Fraction, power: int, count: int, limit: int) -> list[int]:
    """Fixed-point numbers value * 2^(power - i) for i below `count`, each cut at `limit`."""
    largest, extra = limit * ONE, count + F
    shift = power + F + extra
    numerator, denominator = value.numerator, value.denominator
    whole = (numerator << max(shift, 0)) // (denominator << max(-shift, 0))  # of i = 0, with `extra` more bits
    return [min(largest, whole >> extra + i) for i in range(count)]


def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent
