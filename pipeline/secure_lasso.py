"""The lasso of step 8 on Shamir shares: the steps of `plain_lasso.py`, in the same order, under the same names.

Input is the Gram matrix of [1, features, outcome] as shares of exact integers;
output are the coefficients, to the controllers only. Real numbers are
fixed-point numbers with `FRACTIONAL_BITS` in a field of 254 bits. Numbers of
very different size are scaled by secret powers of two first, which are chosen
from `one_hot` tables: tables of bits with a single 1 at a secret place.

What is opened, besides numbers under masks: whether the outcome is constant,
whether a column has too little spread, one bit "the conditions hold" after each
phase, and the results (`OPENED` in `mpc_runtime.py`). All other openings are
inside the operations of `primitives.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso
from pipeline.bounds import (
    COEFFICIENT_BITS,
    FRACTIONAL_BITS,
    INTERCEPT_BITS,
    ITERATE_BITS,
    MEAN_TO_SPREAD_BITS,
    POLISH_BITS,
    RATIO_BITS,
    RIDGE_BITS,
    SHARE_OF_VARIANCE_BITS,
    SLOPE_BITS,
    SPREAD_BITS,
    THRESHOLD_LIMIT,
    WIDE_FRACTIONAL_BITS,
    Plan,
    plan,
    smallest_tolerance,
)
from pipeline.config import Model
from pipeline.errors import LocalProtocolError, RangeError, Refused
from pipeline.mpc_runtime import Runtime, Shares
from pipeline.plain_lasso import MARGIN, REFINEMENTS, RELAXATION, inversion_steps, schedule
from pipeline.primitives import Arithmetic
from pipeline.share_convert import GramShare

F = FRACTIONAL_BITS
ONE = 1 << F
RSQRT_STEPS = 5
M_BITS = 40  # of the public factors in the inversion


@dataclass(frozen=True)
class Problem:
    """What step 8 needs besides the shares. Columns are those of the Gram matrix after the ones, in order.

    owners: the party each column comes from.
    outcome: index of the outcome among the columns.
    exponents: x' = round((x - c) 2^e) for each column; None at the third party, which must not know them.
    offsets: c 2^e, integers, of this party's own columns, in order; empty at the third party.
    """

    model: Model
    owners: tuple[int, ...]
    outcome: int
    exponents: tuple[int, ...] | None
    offsets: tuple[int, ...]

    @property
    def controllers(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.owners)))

    @property
    def features(self) -> int:
        return len(self.owners) - 1

    @property
    def order(self) -> tuple[int, ...]:
        """The columns with the outcome moved to the end."""
        return (*(j for j in range(len(self.owners)) if j != self.outcome), self.outcome)


@dataclass(frozen=True)
class Fit:
    """The model on the original scale; at the third party only `iterations` is not None."""

    iterations: int
    coefficients: tuple[float, ...] | None
    intercept: float | None
    r2: float | None
    mse: float | None


@dataclass(frozen=True)
class Moments:
    """Exact integers: n^2 times variances and covariances, and what the columns are scaled by; the outcome comes last.

    totals: sums of the columns, offsets included. squares: centred, or uncentred when there is no intercept.
    """

    records: int
    totals: Shares
    centred: Shares
    squares: Shares


@dataclass(frozen=True)
class Scale:
    """The size of positive integers N < 2^bits, by columns: N = mantissa 4^place 2^2 with a mantissa in [1/4, 1).

    at_least: [N >= 4^i], shape (columns, bits / 2). one_hot: 1 at `place`. factor: 2^(bits / 2 - 1 - place), so that
    mantissa = N factor^2 / 2^bits. rsqrt: mantissa^(-1/2). All but the mantissa and rsqrt (fixed point) are
    integers; for N = 0 one_hot, factor and mantissa are 0.
    """

    bits: int
    at_least: Shares
    one_hot: Shares
    factor: Shares
    mantissa: Shares
    rsqrt: Shares


@dataclass(frozen=True)
class Support:
    """Which coefficients are not zero, and their signs; entries are 0, 1 and -1."""

    active: Shares
    sign: Shares


async def fit(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> Fit:
    """Fit the lasso; all three parties call it with the same public arguments.

    progress: called with the number of iterations after each phase.

    Raises Refused, at all parties alike: "constant-outcome", "spread", "not-converged"; or what ended a link.
    """
    return await runtime.supervise(_Solver(runtime, gram, problem).fit(progress or (lambda _: None)))


def public_plan(records: int, problem: Problem) -> Plan:
    model = problem.model
    return plan(records, problem.features, fit_intercept=model.fit_intercept, max_iterations=model.max_iterations)


class _Solver:
    """One fit. Methods follow `plain_lasso.py`; `mpc` holds the operations on shares."""

    def __init__(self, runtime: Runtime, gram: GramShare, problem: Problem) -> None:
        self.runtime = runtime
        self.problem = problem
        self.model = problem.model
        self.n = gram.records
        self.plan = public_plan(gram.records, problem)
        if gram.field != self.plan.field:
            raise LocalProtocolError("the Gram matrix is shared in another field than planned")
        self.gram = gram.field.to_ints(gram.gram)
        self.mpc = Arithmetic(runtime, self.plan.solver_field, self.plan.statistical_bits)
        self.d = problem.features

    async def fit(self, progress: Callable[[int], None]) -> Fit:
        of = await self.moments()
        scale, spread = await self.scales(of)
        await self.refuse_constant_outcome(spread)
        await self.refuse_small_spread(scale, spread)
        correlation, q = await self.correlations(of, scale, spread)
        tau, tolerance = await self.thresholds(scale, spread)
        b, active, iterations = await self.solve(correlation, q, tau, tolerance, progress)
        slopes = await self.slopes(b, active, scale)
        unexplained = await self.unexplained(correlation, q, b)
        return await self.open_results(iterations, slopes, unexplained, of, scale, spread)

    # Preparation

    async def moments(self) -> Moments:
        """Form the moments as exact integers; with offsets only where they matter."""
        mpc, columns = self.mpc, self.d + 1
        order = [0, *(1 + j for j in self.problem.order)]
        upper = np.triu_indices(columns + 1)
        entries = await mpc.lift(self.gram[np.ix_(order, order)][upper], self.plan.field, self.plan.gram_bits + 1)
        gram = self.symmetric(entries, upper, columns + 1)
        sums = gram[0, 1:]
        totals = sums + self.n * await self.offsets()
        centred = self.n * gram[1:, 1:] - sums.reshape(columns, 1) * sums
        if self.model.fit_intercept:
            centred = squares = await mpc.reduce(centred)
        else:
            squares = centred + totals.reshape(columns, 1) * totals
            centred, squares = mpc.split(await mpc.reduce(mpc.concatenate(centred, squares)), *[(columns, columns)] * 2)
        return Moments(self.n, totals, centred, squares)

    async def offsets(self) -> Shares:
        """The columns' offsets, secret inputs of their owners."""
        own = iter(self.problem.offsets)
        shares = []
        for controller in self.problem.controllers:
            count = self.problem.owners.count(controller)
            values = list(own) if controller == self.runtime.pid else None
            if values is not None and any(abs(x) >> self.plan.offset_bits for x in values):
                raise RangeError("a column lies too far from zero for its spread; subtract a constant from it")
            shares.append(await self.runtime.secret_input(self.mpc.field, controller, values, (count,)))
        place = [j for controller in self.problem.controllers for j in self.columns_of(controller)]
        return self.mpc.concatenate(*shares)[np.argsort(place)][list(self.problem.order)]

    def columns_of(self, controller: int) -> list[int]:
        return [j for j, owner in enumerate(self.problem.owners) if owner == controller]

    async def scales(self, of: Moments) -> tuple[Scale, Scale]:
        """The sizes of the squares and of the centred squares."""
        squares, centred = np.diag(of.squares), np.diag(of.centred)
        if self.model.fit_intercept:
            scale = await self.scale(squares)
            return scale, scale
        both = await self.scale(self.mpc.concatenate(squares, centred))
        columns = len(squares)
        parts = (slice(0, columns), slice(columns, 2 * columns))
        scale, spread = (Scale(both.bits, *(x[part] for x in _fields(both))) for part in parts)
        return scale, spread

    async def scale(self, squares: Shares) -> Scale:
        """Compare with all powers of 4 at once, scale to [1/4, 1) and take the inverse square root there."""
        mpc, bits = self.mpc, self.plan.square_bits
        places = bits // 2
        powers = mpc.public([4**i for i in range(places)])
        at_least = await mpc.nonnegative(squares.reshape(-1, 1) - powers, bits + 1)
        one_hot = at_least.value.copy()
        one_hot[:, :-1] -= at_least.value[:, 1:]
        one_hot = mpc.field.array(one_hot)
        factor = one_hot @ mpc.public([2 ** (places - 1 - i) for i in range(places)])
        factor_squared = one_hot @ mpc.public([4 ** (places - 1 - i) for i in range(places)])
        mantissa = await mpc.product(squares, factor_squared, bits - F, bits + 2)
        return Scale(bits, at_least, one_hot, factor, mantissa, await self.rsqrt(mantissa))

    async def rsqrt(self, x: Shares) -> Shares:
        """The inverse square roots of fixed-point numbers in [1/4, 1), by Newton's iteration from a line."""
        mpc = self.mpc
        y = _fixed(2.2) - await mpc.truncate(x * _fixed(1.3), F, 2 * F + 3)
        for _ in range(RSQRT_STEPS):
            square = await mpc.product(y, y, F, 2 * F + 12)
            correction = _fixed(3) - await mpc.product(x, square, F, 2 * F + 12)
            y = await mpc.product(y, correction, F + 1, 2 * F + 12)
        return y

    async def refuse_constant_outcome(self, spread: Scale) -> None:
        if await self.mpc.is_zero("outcome is constant", spread.at_least[-1, :1]):
            raise Refused("constant-outcome", plain_lasso.constant_outcome())

    async def refuse_small_spread(self, scale: Scale, spread: Scale) -> None:
        """Refuse columns that vary, but by so few steps of their scale that the result would be wrong."""
        mpc = self.mpc
        least = ((self.n**2).bit_length() + 2 * SPREAD_BITS + 1) // 2  # 4^least >= n^2 4^SPREAD_BITS
        small = spread.at_least[:, 0] - spread.at_least[:, least]
        within = self.toeplitz(lambda difference: int(abs(difference) <= RATIO_BITS), scale) @ scale.one_hot[-1]
        comparable = await mpc.reduce((scale.one_hot * within).sum(axis=1))
        apart = scale.at_least[:, 0] - comparable
        near = await self.same_size(scale, spread)
        total = small.sum() + apart.sum() + scale.at_least[-1, 0] - near
        if not await mpc.is_zero("spread is too small", mpc.public([0]) + total):
            raise Refused(
                "spread",
                "a column varies too little over the matched records for its scale; declare a narrower range for it",
            )

    async def same_size(self, scale: Scale, spread: Scale) -> Shares:
        """Whether the outcome's mean is not too large for its spread; 1 with an intercept."""
        if self.model.fit_intercept:
            return scale.at_least[-1, 0]
        near = self.toeplitz(lambda difference: int(0 <= difference <= MEAN_TO_SPREAD_BITS), scale)
        return (await self.mpc.reduce((scale.one_hot[-1:] * (near @ spread.one_hot[-1])).sum(axis=1)))[0]

    def toeplitz(self, function: Callable[[int], int], scale: Scale) -> Shares:
        """The public matrix function(i - j), i the place of one number and j of another."""
        places = range(scale.bits // 2)
        return self.mpc.public([[function(i - j) for j in places] for i in places])

    async def correlations(self, of: Moments, scale: Scale, spread: Scale) -> tuple[Shares, Shares]:
        """R and q; rows and columns of features that are constant over the records are zero."""
        mpc, columns = self.mpc, self.d + 1
        i, j = upper = np.triu_indices(columns, 1)
        factors = mpc.concatenate(scale.factor[i] * scale.factor[j], spread.at_least[i, 0] * spread.at_least[j, 0])
        factors, vary = mpc.split(await mpc.reduce(factors), i.shape, i.shape)
        scaled = await mpc.product(of.squares[i, j], factors, scale.bits - F, scale.bits + 2)
        roots = await mpc.product(scale.rsqrt[i], scale.rsqrt[j], F, 2 * F + 12)
        entries = await mpc.product(scaled, roots, F, 2 * F + 12)
        if not self.model.fit_intercept:  # a constant column has a norm there
            entries = await mpc.reduce(entries * vary)
        correlation = self.symmetric(entries, upper, columns)
        for k in range(columns):
            correlation[k, k] = spread.at_least[k, 0] * ONE
        return correlation[:-1, :-1], correlation[:-1, -1]

    def symmetric(self, entries: Shares, upper: Any, size: int) -> Shares:
        """The symmetric matrix with these entries in the upper triangle."""
        matrix = np.zeros((size, size), dtype=object)
        matrix[upper] = entries.value
        matrix.T[upper] = entries.value
        return self.mpc.field.array(matrix, check=False)

    # Penalties

    async def thresholds(self, scale: Scale, spread: Scale) -> tuple[Shares, Shares]:
        """The penalties tau and the tolerances of the optimality conditions, in the normalised scale."""
        mpc, model = self.mpc, self.model
        floor = smallest_tolerance(self.d)
        if model.standardize:
            tau = await self.per_norm(scale, [self.d], model.alpha)
            tau = mpc.field.array(np.repeat(tau.value, self.d))
            if model.fit_intercept:
                return tau, mpc.public([_fixed(MARGIN * (model.tolerance + floor))] * self.d)
            ratios = await self.deviation_per_norm(scale, spread)
            tau = await mpc.product(tau, ratios[:-1], F, 2 * F + 8)
            relative = await mpc.product(ratios[:-1], ratios[-1:], F, 2 * F + 8)
            return tau, await self.tolerances(relative, model.tolerance, floor)
        tau = await self.per_two_norms(scale)
        tolerance = await self.per_norm(scale, list(range(self.d)), model.tolerance, limit=1)
        if not model.fit_intercept:
            ratio = (await self.deviation_per_norm(scale, spread))[-1:]
            tolerance = await mpc.product(tolerance, ratio, F, 2 * F + 8)
        return tau, await self.tolerances(tolerance, 1.0, floor)

    async def tolerances(self, relative: Shares, tolerance: float, floor: float) -> Shares:
        scaled = await self.mpc.truncate(relative * _fixed(MARGIN * tolerance), F, 2 * F + 8)
        return scaled + _fixed(MARGIN * floor)

    async def per_norm(self, scale: Scale, columns: list[int], value: float, limit: int = THRESHOLD_LIMIT) -> Shares:
        """Return value / norm of these columns, norms on the original scale, at most about 2 `limit`.

        norm = mantissa^(1/2) 2^(place + 1 - exponent) / n. The power of two is selected from a table that a
        controller enters: the exponents are none of the third party's business.
        """
        mpc, places = self.mpc, scale.bits // 2

        def table(exponents: tuple[int, ...]) -> list[int]:
            powers = [exponents[j] - 1 - i for j in columns for i in range(places)]
            return [_limited(Fraction(value) * self.n * Fraction(2) ** e, limit) for e in powers]

        entered = await self.enter(table, (len(columns), places))
        selected = await mpc.reduce((entered * scale.one_hot[columns]).sum(axis=1))
        return await mpc.product(selected, scale.rsqrt[columns], F, 2 * F + 8)

    async def per_two_norms(self, scale: Scale) -> Shares:
        """Return alpha / (norm of the feature * norm of the outcome), at most 4 THRESHOLD_LIMIT; see `per_norm`."""
        mpc, places = self.mpc, scale.bits // 2

        def table(exponents: tuple[int, ...]) -> list[int]:
            alpha = Fraction(self.model.alpha) * self.n**2
            powers = ([exponents[j] + exponents[-1] - 2 - i for i in range(2 * places - 1)] for j in range(self.d))
            return [_limited(alpha * Fraction(2) ** e, THRESHOLD_LIMIT) for row in powers for e in row]

        entered = await self.enter(table, (self.d, 2 * places - 1))
        windows = np.lib.stride_tricks.sliding_window_view(entered.value, places, axis=1)
        rows = mpc.field.array(windows.reshape(-1, places), check=False)
        by_outcome = await mpc.reduce((rows @ scale.one_hot[-1]).reshape(self.d, places))
        selected = await mpc.reduce((by_outcome * scale.one_hot[:-1]).sum(axis=1))
        roots = await mpc.product(scale.rsqrt[:-1], scale.rsqrt[-1:], F, 2 * F + 8)
        return await mpc.product(selected, roots, F, 2 * F + 12)

    async def enter(self, table: Callable[[tuple[int, ...]], list[int]], shape: tuple[int, ...]) -> Shares:
        """A secret input of the controller that has the outcome, computed from the exponents, outcome last."""
        owner = self.problem.owners[self.problem.outcome]
        values = None
        if self.runtime.pid == owner:
            exponents = self.problem.exponents
            if exponents is None:
                raise LocalProtocolError("a controller knows the exponents")
            values = table(tuple(exponents[j] for j in self.problem.order))
        return await self.runtime.secret_input(self.mpc.field, owner, values, shape)

    async def deviation_per_norm(self, scale: Scale, spread: Scale) -> Shares:
        """Standard deviation per root mean square, in [0, 1], of each column."""
        mpc = self.mpc
        root = await mpc.product(spread.mantissa, spread.rsqrt, F, 2 * F + 8)
        root = await mpc.product(root, scale.rsqrt, F, 2 * F + 8)
        power = self.toeplitz(lambda difference: 1 << F - max(0, difference) if difference <= F else 0, scale)
        power = await mpc.reduce((scale.one_hot * (spread.one_hot @ power.value.T)).sum(axis=1))
        return await mpc.product(root, power, F, 2 * F + 8)

    # Solution

    async def inverse(self, matrix: Shares, lowest: float, highest: float) -> Shares:
        """The inverse of a symmetric matrix with eigenvalues in [lowest, highest]."""
        mpc, d = self.mpc, len(matrix)
        upper = np.triu_indices(d)
        bits = 2 * F + max(0, int(-np.log2(lowest))) + 12
        identity = np.eye(d, dtype=int).astype(object)
        x = mpc.public(identity * _fixed(1 / highest))
        for m in inversion_steps(lowest, highest):
            y = mpc.matmul(matrix, x) * _fixed(m * m, M_BITS)
            y = identity * _fixed(2 * m) - await mpc.truncate(y, F + M_BITS, 2 * F + M_BITS + 8)
            x = self.symmetric(await mpc.truncate(mpc.matmul(x, y)[upper], F, bits), upper, d)
        return x

    async def solve(
        self, correlation: Shares, q: Shares, tau: Shares, tolerance: Shares, progress: Callable[[int], None]
    ) -> tuple[Shares, Shares, int]:
        """Return the normalised coefficients, whether each is not zero, and the number of iterations."""
        mpc, d = self.mpc, self.d
        identity = np.eye(d, dtype=int).astype(object)
        sign_is_free = await mpc.nonnegative(tolerance - 8 * tau, F + 10)
        steps: dict[int, list[Shares]] = {}
        z = u = mpc.public([0] * d)
        previous, iterations = 1, 0
        for phase in schedule(self.model.max_iterations):
            rho = 1 / phase.inverse_rho
            if phase.inverse_rho not in steps:
                shrink = await self.inverse(correlation + identity * _fixed(rho), rho, d + rho)
                at_start = await mpc.truncate(shrink @ q, F, 2 * F + 40)
                both = mpc.concatenate(at_start * _fixed(RELAXATION), shrink * _fixed(RELAXATION * rho))
                both = await mpc.truncate(both, F, 2 * F + 40)
                steps[phase.inverse_rho] = mpc.split(both, (d,), (d, d))
            constant, linear = steps[phase.inverse_rho]
            threshold = tau * phase.inverse_rho
            if iterations:
                u = await mpc.truncate(u * _fixed(phase.inverse_rho / previous), F, 2 * F + ITERATE_BITS + 8)
            for _ in range(phase.iterations):
                x = linear @ (z - u) + z * _fixed(1 - RELAXATION)
                v = constant + u + await mpc.truncate(x, F, 2 * F + ITERATE_BITS)
                z, support = await self.soft_threshold(v, threshold)
                u = v - z
            previous = phase.inverse_rho
            iterations += phase.iterations
            b, support = await self.polish(correlation, q, tau, sign_is_free, z, support)
            progress(iterations)
            if await self.conditions_hold(correlation, q, tau, tolerance, b, support):
                return b, support.active, iterations
        raise Refused("not-converged", plain_lasso.not_converged(self.model.max_iterations))

    async def soft_threshold(self, v: Shares, threshold: Shares) -> tuple[Shares, Support]:
        """Move v towards zero by the threshold; return the result with its support."""
        mpc = self.mpc
        sides = mpc.concatenate(v - threshold - 1, -v - threshold - 1)
        above, below = mpc.split(await mpc.nonnegative(sides, F + ITERATE_BITS), v.shape, v.shape)
        support = Support(above + below, above - below)
        return await mpc.reduce(support.active * v - support.sign * threshold), support

    async def polish(
        self, correlation: Shares, q: Shares, tau: Shares, sign_is_free: Shares, z: Shares, support: Support
    ) -> tuple[Shares, Support]:
        """Solve R b = q - tau sign on the support, near z; drop coefficients whose sign does not agree."""
        mpc, d = self.mpc, self.d
        i, j = upper = np.triu_indices(d, 1)
        start = mpc.concatenate(support.active[i] * support.active[j], support.active * q - support.sign * tau)
        both, right_side = mpc.split(await mpc.reduce(start), i.shape, (d,))
        equations = self.symmetric(await mpc.reduce(both * correlation[i, j]), upper, d)
        equations = equations + np.eye(d, dtype=int).astype(object) * ONE
        ridge = np.eye(d, dtype=int).astype(object) * (ONE >> RIDGE_BITS)
        approximate_inverse = await self.inverse(equations + ridge, 2.0 ** -(RIDGE_BITS + 1), d + 1)
        b = z
        for _ in range(REFINEMENTS):
            residual = right_side - await mpc.truncate(equations @ b, F, 2 * F + POLISH_BITS + 10)
            b = b + await mpc.truncate(approximate_inverse @ residual, F, 2 * F + POLISH_BITS + 10)
        signed = await mpc.reduce(support.sign * b)
        agrees = await mpc.nonnegative(signed + sign_is_free * (ONE << POLISH_BITS), F + POLISH_BITS + 3)
        kept = await mpc.reduce(mpc.concatenate(agrees * support.active, agrees * support.sign))
        kept_support = Support(*mpc.split(kept, (d,), (d,)))
        return await mpc.reduce(kept_support.active * b), kept_support

    async def conditions_hold(
        self, correlation: Shares, q: Shares, tau: Shares, tolerance: Shares, b: Shares, support: Support
    ) -> bool:
        """Open whether b satisfies the optimality conditions of the lasso within the tolerance."""
        mpc = self.mpc
        gradient = q - await mpc.truncate(correlation @ b, F, 2 * F + POLISH_BITS + 10)
        penalties = await mpc.reduce(mpc.concatenate(support.sign * tau, (1 - support.active) * tau))
        signed, inactive = mpc.split(penalties, tau.shape, tau.shape)
        off, allowed = gradient - signed, tolerance + inactive
        limit = mpc.public([ONE << COEFFICIENT_BITS] * self.d)
        margins = mpc.concatenate(allowed - off, allowed + off, limit - b, limit + b)
        holds = await mpc.nonnegative(margins, F + POLISH_BITS + 12)
        return await mpc.is_zero("conditions hold", mpc.public([margins.size]) - holds.sum())

    # Results

    async def slopes(self, b: Shares, active: Shares, scale: Scale) -> Shares:
        """Integers: slopes in steps of the outcome per step of the feature, times 2^SLOPE_BITS; 0 where not active.

        slope = b (mantissa / mantissa_j)^(1/2) 2^(place - place_j), unindexed symbols those of the outcome. Before
        it is multiplied by the power of two it has so many fractional bits that it has no trailing zeros after.
        """
        mpc = self.mpc
        root = await mpc.product(scale.mantissa[-1:], scale.rsqrt[-1:], F, 2 * F + 8)
        roots = await mpc.product(scale.rsqrt[:-1], root, F, 2 * F + 8)
        wide = await mpc.product(b, roots, 2 * F - WIDE_FRACTIONAL_BITS, 2 * F + COEFFICIENT_BITS + 4)
        power = self.toeplitz(lambda difference: _power_within(-difference), scale) @ scale.one_hot[-1]
        power = await mpc.reduce((scale.one_hot[:-1] * power).sum(axis=1))
        bits = WIDE_FRACTIONAL_BITS + COEFFICIENT_BITS + 2 * RATIO_BITS + 2
        slopes = await mpc.product(wide, power, WIDE_FRACTIONAL_BITS + RATIO_BITS - SLOPE_BITS, bits)
        return await mpc.reduce(active * slopes)

    async def unexplained(self, correlation: Shares, q: Shares, b: Shares) -> Shares:
        """1 - 2 q'b + b'Rb, the mean square of the residuals per mean square of the outcome."""
        mpc = self.mpc
        fitted = await mpc.truncate(correlation @ b, F, 2 * F + COEFFICIENT_BITS + 10)
        share = await mpc.truncate(_sum(mpc, (2 * q - fitted) * b), F, 2 * F + 2 * COEFFICIENT_BITS + 12)
        return ONE - share

    async def open_results(
        self, iterations: int, slopes: Shares, unexplained: Shares, of: Moments, scale: Scale, spread: Scale
    ) -> Fit:
        """Open slopes, intercept, r2 and the outcome's variance, each rounded by noise, to the controllers."""
        mpc, controllers = self.mpc, self.problem.controllers
        open_ = self.runtime.open_to_controllers
        steps = await open_("slopes", slopes, controllers)
        intercept = None
        if self.model.fit_intercept:
            line = await mpc.reduce(_sum(mpc, slopes * of.totals[:-1]))
            exact = of.totals[-1:] * (1 << SLOPE_BITS) - line
            bits = max(1, SLOPE_BITS + self.n.bit_length() - 1 - INTERCEPT_BITS)
            intercept = await open_("intercept", exact + mpc.noise(1, bits), controllers)
        if not self.model.fit_intercept:
            unexplained = await self.per_variance(unexplained, scale, spread)
        bits = F - SHARE_OF_VARIANCE_BITS
        r2 = await open_("r2", ONE - unexplained + mpc.noise(1, bits), controllers)
        places = spread.one_hot[-1:] @ mpc.public(list(range(spread.bits // 2)))
        size = mpc.concatenate(spread.mantissa[-1:] + mpc.noise(1, bits), places)
        variance = await open_("variance of the outcome", size, controllers)
        if steps is None:
            return Fit(iterations, None, None, None, None)
        return self.on_original_scale(iterations, steps, intercept, r2, variance)

    async def per_variance(self, unexplained: Shares, scale: Scale, spread: Scale) -> Shares:
        """Turn a share of the outcome's mean square into one of its variance."""
        mpc = self.mpc
        roots = await mpc.product(spread.rsqrt[-1:], spread.rsqrt[-1:], F, 2 * F + 8)
        ratio = await mpc.product(scale.mantissa[-1:], roots, F, 2 * F + 8)
        power = self.toeplitz(lambda difference: 4 ** min(max(difference, 0), MEAN_TO_SPREAD_BITS), scale)
        power = await mpc.reduce(_sum(mpc, scale.one_hot[-1] * (power @ spread.one_hot[-1])))
        share = await mpc.product(unexplained, ratio, F, 2 * F + 8)
        return await mpc.reduce(share * power)

    def on_original_scale(self, iterations: int, steps: Any, intercept: Any, r2: Any, variance: Any) -> Fit:
        """A controller's last step: multiply what was opened by the public scales."""
        problem, p = self.problem, self.mpc.prime_field.p
        if problem.exponents is None:
            raise LocalProtocolError("a controller knows the exponents")
        *features, outcome = (problem.exponents[j] for j in problem.order)
        units = [Fraction(2) ** (e - outcome) / (1 << SLOPE_BITS) for e in features]
        slopes = [_signed(x, p) * unit for x, unit in zip(steps, units, strict=True)]
        constant = Fraction(0)
        if intercept is not None:
            constant = Fraction(_signed(intercept[0], p), self.n << SLOPE_BITS) / Fraction(2) ** outcome
        explained = Fraction(_signed(r2[0], p), ONE)
        mantissa, place = Fraction(int(variance[0]), ONE), int(variance[1])
        total = mantissa * 4 ** (place + 1) / self.n**2 / Fraction(4) ** outcome
        mse = (1 - explained) * total
        return Fit(iterations, tuple(map(float, slopes)), float(constant), float(explained), float(mse))


def _fields(scale: Scale) -> tuple[Shares, ...]:
    return scale.at_least, scale.one_hot, scale.factor, scale.mantissa, scale.rsqrt


def _sum(mpc: Arithmetic, x: Shares) -> Shares:
    """The sum of a vector as a vector of one."""
    return mpc.field.array(np.array([x.value.sum()], dtype=object))


def _fixed(x: float, bits: int = F) -> int:
    return round(Fraction(x) * (1 << bits))


def _limited(x: Fraction, limit: int) -> int:
    return round(min(x, Fraction(limit)) * ONE)


def _power_within(exponent: int) -> int:
    return 1 << exponent + RATIO_BITS if abs(exponent) <= RATIO_BITS else 0


def _signed(x: int, p: int) -> int:
    return int(x) - p if x > p // 2 else int(x)
