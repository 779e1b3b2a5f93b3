"""The lasso of step 8 on Shamir shares: the steps of `plain_lasso.py`, in the same order, under the same names.

Input is the Gram matrix of [1, features, outcome] as shares of exact integers;
output are the coefficients, to the controllers only. Real numbers are
fixed-point numbers with `FRACTIONAL_BITS` in a field of 254 bits; what is too
large or too small for them is scaled by secret powers of two
(`secret_scale.py`). Shares are added with the operators of MPyC's arrays; each
`await` communicates.

Opened, besides numbers under masks inside the operations of `primitives.py`:
whether the outcome is constant, whether a column has too little spread, one bit
"the conditions hold" after each phase, and the results (`OPENED` in
`mpc_runtime.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso
from pipeline.bounds import (
    COEFFICIENT_BITS,
    INTERCEPT_NOISE_BITS,
    ITERATE_BITS,
    MEAN_TO_SPREAD_BITS,
    OUTCOME_SPREAD_BITS,
    POLISH_BITS,
    R2_BITS,
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
from pipeline.plain_lasso import MARGIN, REFINEMENTS, RELAXATION, inversion_steps, schedule
from pipeline.primitives import Arithmetic, fixed
from pipeline.secret_scale import Scale, of_places, scale
from pipeline.share_convert import GramShare

ONE = 1 << F
STEP_BITS = 40  # fractional bits of the public factors in the inversion


@dataclass(frozen=True)
class Problem:
    """What step 8 needs besides the shares. Columns are those of the Gram matrix after the ones, in order.

    owners : the party each column comes from.
    outcome : index of the outcome among the columns.
    exponents : of each column, where x' = round((x - c) 2^exponent) is what was shared; None at the third party,
        which must not know them.
    offsets : c 2^exponent, integers, of this party's own columns, in order; empty at the third party.
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
    def order(self) -> list[int]:
        """The columns with the outcome moved to the end: the order from here on."""
        return [*(j for j in range(len(self.owners)) if j != self.outcome), self.outcome]


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
    """Exact integers; the outcome comes last.

    totals : sums of the columns, offsets included.
    centred : n^2 times variances and covariances.
    squares : what the columns are scaled by, the centred moments, or the uncentred ones when there is no intercept.
    """

    totals: Shares
    centred: Shares
    squares: Shares


@dataclass(frozen=True)
class Support:
    """Which coefficients are not zero, and their signs; entries are 0, 1 and -1."""

    active: Shares
    sign: Shares


@dataclass(frozen=True)
class Penalty:
    """In the normalised scale: the penalties tau, the tolerances, and whether a sign does not matter (tau is tiny)."""

    tau: Shares
    tolerance: Shares
    sign_is_free: Shares


async def fit(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> Fit:
    """Fit the lasso; all three parties call it with the same public arguments.

    progress : called with the number of iterations after each phase.

    Raises Refused, at all parties alike: "constant-outcome", "spread" or
    "not-converged"; or the error that ended a link.
    """
    model = problem.model
    sizes = plan(gram.records, problem.features, fit_intercept=model.fit_intercept, max_iterations=model.max_iterations)
    mpc = Arithmetic(runtime, sizes.solver_field, sizes.statistical_bits)
    return await runtime.supervise(SecureLasso(mpc, sizes, gram, problem).fit(progress or (lambda _: None)))


class SecureLasso:
    """One fit; the methods are the functions of `plain_lasso.py`."""

    def __init__(self, mpc: Arithmetic, sizes: Plan, gram: GramShare, problem: Problem) -> None:
        if gram.field != sizes.field:
            raise LocalProtocolError("the Gram matrix is shared in another field than planned")
        self.mpc = mpc
        self.sizes = sizes
        self.gram = gram
        self.n = gram.records
        self.problem = problem
        self.model = problem.model
        self.d = problem.features
        self.identity = np.eye(self.d, dtype=int).astype(object)

    async def fit(self, progress: Callable[[int], None]) -> Fit:
        of = await self.moments()
        norm, spread = await self.scales(of)
        await self.refuse_constant_outcome(spread)
        await self.refuse_small_spread(norm, spread)
        correlation, q = await self.correlations(of, norm, spread)
        penalty = await self.thresholds(norm, spread)
        b, support, iterations = await self.solve(correlation, q, penalty, progress)
        slopes = await self.slopes(b, support, norm)
        unexplained = await self.unexplained(correlation, q, b, norm, spread)
        return await self.open_results(iterations, slopes, unexplained, of, spread)

    # Preparation

    async def moments(self) -> Moments:
        """Form the moments as exact integers from the Gram matrix and the columns' offsets."""
        mpc, columns = self.mpc, self.d + 1
        order = [0, *(1 + j for j in self.problem.order)]
        shares = self.gram.field.to_ints(self.gram.gram)[np.ix_(order, order)]
        upper = np.triu_indices(columns + 1)
        entries = await mpc.lift(shares[upper], self.gram.field, self.sizes.gram_bits + 1)
        gram = self.symmetric(entries, upper, columns + 1)
        sums, products = gram[0, 1:], gram[1:, 1:]
        totals = sums + self.n * await self.offsets()
        centred = self.n * products - sums.reshape(-1, 1) * sums
        if self.model.fit_intercept:
            centred = await mpc.reduce(centred)
            return Moments(totals, centred, centred)
        uncentred = centred + totals.reshape(-1, 1) * totals
        both = await mpc.reduce(mpc.concatenate(centred, uncentred))
        return Moments(totals, *mpc.split(both, centred.shape, uncentred.shape))

    async def offsets(self) -> Shares:
        """The columns' offsets, secret inputs of their owners."""
        shares, columns = [], []
        for controller in self.problem.controllers:
            own = [j for j, owner in enumerate(self.problem.owners) if owner == controller]
            values = self.problem.offsets if controller == self.mpc.runtime.pid else None
            if values is not None and any(abs(x) >> self.sizes.offset_bits for x in values):
                raise RangeError("a column lies too far from zero for its spread; subtract a constant from it")
            shares.append(await self.mpc.runtime.secret_input(self.mpc.field, controller, values, (len(own),)))
            columns += own
        return self.mpc.concatenate(*shares)[np.argsort(columns)][self.problem.order]

    async def scales(self, of: Moments) -> tuple[Scale, Scale]:
        """The sizes of the squares (the columns' norms) and of the centred squares (their deviations)."""
        mpc, bits = self.mpc, self.sizes.square_bits
        if self.model.fit_intercept:
            norm = await scale(mpc, np.diag(of.squares), bits)
            return norm, norm
        both = await scale(mpc, mpc.concatenate(np.diag(of.squares), np.diag(of.centred)), bits)
        columns = self.d + 1
        return both.columns(slice(columns)), both.columns(slice(columns, None))

    async def refuse_constant_outcome(self, spread: Scale) -> None:
        if await self.mpc.is_zero("outcome is constant", spread.at_least[-1, 0]):
            raise Refused("constant-outcome", plain_lasso.constant_outcome())

    async def refuse_small_spread(self, norm: Scale, spread: Scale) -> None:
        """Refuse columns that vary, but so little that rounding to steps of their scale would show in the result.

        Nor may the spread be too small against the mean, when there is no intercept.
        """
        mpc = self.mpc
        bits = [SPREAD_BITS] * self.d + [OUTCOME_SPREAD_BITS]
        least = [((self.n**2).bit_length() + 2 * b + 1) // 2 for b in bits]  # 4^least >= n^2 4^b
        small = spread.at_least[:, 0] - spread.at_least[np.arange(self.d + 1), least]
        comparable = await of_places(mpc, lambda i: int(abs(i) <= RATIO_BITS), norm.one_hot, norm.one_hot[-1:])
        faults = small.sum() + (norm.at_least[:, 0] - comparable).sum()
        if not self.model.fit_intercept:
            near = await of_places(mpc, lambda i: int(0 <= i <= MEAN_TO_SPREAD_BITS), norm.one_hot, spread.one_hot)
            faults = faults + (spread.at_least[:, 0] - near).sum()
        if not await mpc.is_zero("spread is too small", faults):
            raise Refused(
                "spread",
                plain_lasso.too_little_spread(),
            )

    async def correlations(self, of: Moments, norm: Scale, spread: Scale) -> tuple[Shares, Shares]:
        """R and q; rows and columns of features that are constant over the records are zero."""
        mpc, columns = self.mpc, self.d + 1
        varies = spread.at_least[:, 0]
        i, j = upper = np.triu_indices(columns, 1)
        factors = mpc.concatenate(norm.factor[i] * norm.factor[j], varies[i] * varies[j])
        factors, both_vary = mpc.split(await mpc.reduce(factors), i.shape, i.shape)
        scaled = await mpc.product(of.squares[i, j], factors, norm.bits - F, norm.bits + 2)
        roots = await mpc.product(norm.rsqrt[i], norm.rsqrt[j], F, 2 * F + 12)
        entries = await mpc.product(scaled, roots, F, 2 * F + 12)
        entries = await mpc.reduce(entries * both_vary)
        correlation = self.symmetric(entries, upper, columns, diagonal=varies * ONE)
        return correlation[:-1, :-1], correlation[:-1, -1]

    def symmetric(self, entries: Shares, upper: Any, size: int, diagonal: Shares = None) -> Shares:
        """The symmetric matrix with these entries in the upper triangle."""
        matrix = np.zeros((size, size), dtype=object)
        matrix[upper] = entries.value
        matrix.T[upper] = entries.value
        if diagonal is not None:
            np.fill_diagonal(matrix, diagonal.value)
        return self.mpc.field.array(matrix, check=False)

    # Penalties

    async def thresholds(self, norm: Scale, spread: Scale) -> Penalty:
        """The penalties tau and the tolerances of the optimality conditions, in the normalised scale.

        With w_j the deviation s_j of a feature, or 1 when it is not standardised, u_j its norm and u, s those of
        the outcome: tau_j = alpha (w_j / u_j) / u, tolerance_j = tolerance (w_j / u_j) (s / u).
        """
        mpc, model, features = self.mpc, self.model, slice(self.d)
        if model.standardize:
            limit = THRESHOLD_LIMIT << (0 if model.fit_intercept else MEAN_TO_SPREAD_BITS + 1)
            per_norm = await self.per_norm(norm, [self.d], model.alpha, limit)
            tau = mpc.field.array(np.repeat(per_norm.value, self.d))
            relative = mpc.public([fixed(model.tolerance)] * self.d)
        else:
            tau = await self.per_two_norms(norm, model.alpha)
            relative = await self.per_norm(norm, list(range(self.d)), model.tolerance, 1)
        if not model.fit_intercept:
            ratios = await self.deviation_per_norm(norm, spread)
            if model.standardize:
                tau = await mpc.product(tau, ratios[features], F, 2 * F + MEAN_TO_SPREAD_BITS + 8)
                tau = await self.at_most(THRESHOLD_LIMIT, tau)
                relative = await mpc.product(relative, ratios[features], F, 2 * F + 8)
            relative = await mpc.product(relative, ratios[-1:], F, 2 * F + 8)
        tau = tau + (1 - spread.at_least[features, 0]) * ONE  # a constant feature is removed
        tau = tau + 4  # units in the last place: not negative by rounding, or both sides of 0 would be beyond it
        floor = fixed(smallest_tolerance(self.d))
        tolerance = await mpc.truncate((relative + floor) * fixed(MARGIN), F, 2 * F + 8)
        sign_is_free = await mpc.nonnegative(tolerance - 8 * tau, F + 10)
        return Penalty(tau, tolerance, sign_is_free)

    async def per_norm(self, norm: Scale, columns: list[int], value: float, limit: int) -> Shares:
        """Return value / norm of these columns, norms in the columns' own units; cut between limit and 2 limit.

        A norm is mantissa^(1/2) 2^(place + 1 - exponent) / n. The power of two is selected from a table that a
        controller enters, for the exponents are none of the third party's business.
        """
        mpc = self.mpc

        def table(exponents: Sequence[int]) -> list[Fraction]:
            return [
                Fraction(value) * self.n * _power(exponents[j] - 1 - i) for j in columns for i in range(norm.places)
            ]

        entered = await self.enter(table, limit, (len(columns), norm.places))
        selected = await mpc.reduce((entered * norm.one_hot[columns]).sum(axis=1))
        return await mpc.product(selected, norm.rsqrt[columns], F, 2 * F + MEAN_TO_SPREAD_BITS + 8)

    async def at_most(self, limit: int, x: Shares) -> Shares:
        excess = x - limit * ONE
        above = await self.mpc.nonnegative(excess, F + MEAN_TO_SPREAD_BITS + 8)
        return x - await self.mpc.reduce(above * excess)

    async def per_two_norms(self, norm: Scale, value: float) -> Shares:
        """Return value / (norm of the feature * norm of the outcome), cut at 1 to 4 times THRESHOLD_LIMIT.

        As in `per_norm`; the table has one entry for each sum of the two places.
        """
        mpc, d, places = self.mpc, self.d, norm.places

        def table(exponents: Sequence[int]) -> list[Fraction]:
            sums = range(2 * places - 1)
            return [
                Fraction(value) * self.n**2 * _power(exponents[j] + exponents[-1] - 2 - i)
                for j in range(d)
                for i in sums
            ]

        entered = await self.enter(table, THRESHOLD_LIMIT, (d, 2 * places - 1))
        windows = np.lib.stride_tricks.sliding_window_view(entered.value, places, axis=1)
        rows = mpc.field.array(windows.reshape(-1, places), check=False)
        for_outcome = await mpc.reduce((rows @ norm.one_hot[-1]).reshape(d, places))
        selected = await mpc.reduce((for_outcome * norm.one_hot[:-1]).sum(axis=1))
        roots = await mpc.product(norm.rsqrt[:-1], norm.rsqrt[-1:], F, 2 * F + 12)
        return await mpc.product(selected, roots, F, 2 * F + 12)

    async def enter(
        self, table: Callable[[Sequence[int]], list[Fraction]], limit: int, shape: tuple[int, int]
    ) -> Shares:
        """A secret input of the outcome's owner: a fixed-point table, cut at `limit`, made from the exponents."""
        owner = self.problem.owners[self.problem.outcome]
        values = None
        if self.mpc.runtime.pid == owner:
            values = [round(min(x, Fraction(limit)) * ONE) for x in table(self.exponents)]
        return await self.mpc.runtime.secret_input(self.mpc.field, owner, values, shape)

    @property
    def exponents(self) -> list[int]:
        """Known to controllers only; outcome last."""
        if self.problem.exponents is None:
            raise LocalProtocolError("the third party does not know the exponents")
        return [self.problem.exponents[j] for j in self.problem.order]

    async def deviation_per_norm(self, norm: Scale, spread: Scale) -> Shares:
        """Standard deviation per root mean square, in [0, 1], of each column."""
        mpc = self.mpc
        root = await mpc.product(spread.mantissa, spread.rsqrt, F, 2 * F + 8)
        root = await mpc.product(root, norm.rsqrt, F, 2 * F + 8)
        power = await of_places(mpc, lambda i: 1 << F - i if 0 <= i <= F else 0, norm.one_hot, spread.one_hot)
        return await mpc.product(root, power, F, 2 * F + 8)

    # Solution

    async def inverse(self, matrix: Shares, lowest: float, highest: float) -> Shares:
        """The inverse of a symmetric matrix with eigenvalues in [lowest, highest]."""
        mpc = self.mpc
        upper = np.triu_indices(self.d)
        bits = 2 * F + max(0, int(-np.log2(lowest))) + 12
        x = mpc.public(self.identity * fixed(1 / highest))
        for m in inversion_steps(lowest, highest):
            y = mpc.matmul(matrix, x) * fixed(m * m, STEP_BITS)
            y = await mpc.truncate(y, F + STEP_BITS, 2 * F + STEP_BITS + 8)
            x = mpc.matmul(x, self.identity * fixed(2 * m) - y)
            x = self.symmetric(await mpc.truncate(x[upper], F, bits), upper, self.d)
        return x

    async def solve(
        self, correlation: Shares, q: Shares, penalty: Penalty, progress: Callable[[int], None]
    ) -> tuple[Shares, Support, int]:
        """Return the normalised coefficients, their support and the number of iterations."""
        mpc = self.mpc
        steps: dict[int, tuple[Shares, Shares]] = {}
        z = u = mpc.public([0] * self.d)
        previous, iterations = 1, 0
        for phase in schedule(self.model.max_iterations, self.model.fit_intercept):
            if phase.inverse_rho not in steps:
                steps[phase.inverse_rho] = await self.x_step(correlation, q, 1 / phase.inverse_rho)
            at_zero, linear = steps[phase.inverse_rho]
            threshold = penalty.tau * phase.inverse_rho
            if iterations:
                u = await mpc.truncate(u * fixed(phase.inverse_rho / previous), F, 2 * F + ITERATE_BITS + 8)
            for _ in range(phase.iterations):
                x = linear @ (z - u) + z * fixed(1 - RELAXATION)
                v = at_zero + u + await mpc.truncate(x, F, 2 * F + ITERATE_BITS)
                z, support = await self.soft_threshold(v, threshold)
                u = v - z
            previous = phase.inverse_rho
            iterations += phase.iterations
            b, support = await self.polish(correlation, q, penalty, z, support)
            progress(iterations)
            if await self.conditions_hold(correlation, q, penalty, b, support):
                return b, support, iterations
        raise Refused("not-converged", plain_lasso.not_converged(iterations))

    async def x_step(self, correlation: Shares, q: Shares, rho: float) -> tuple[Shares, Shares]:
        """The relaxed step RELAXATION (R + rho I)^-1 (q + rho (z - u)) as a constant and a matrix for z - u."""
        mpc, d = self.mpc, self.d
        shrink = await self.inverse(correlation + self.identity * fixed(rho), rho, d + rho)
        at_zero = await mpc.truncate(shrink @ q, F, 2 * F + ITERATE_BITS)
        both = mpc.concatenate(at_zero * fixed(RELAXATION), shrink * fixed(RELAXATION * rho))
        at_zero, linear = mpc.split(await mpc.truncate(both, F, 2 * F + ITERATE_BITS + 2), (d,), (d, d))
        return at_zero, linear

    async def soft_threshold(self, v: Shares, threshold: Shares) -> tuple[Shares, Support]:
        """Move v towards zero by the threshold; return the result with its support."""
        mpc = self.mpc
        sides = mpc.concatenate(v - threshold - 1, -v - threshold - 1)
        above, below = mpc.split(await mpc.nonnegative(sides, F + ITERATE_BITS), v.shape, v.shape)
        support = Support(above + below, above - below)
        return await mpc.reduce(support.active * v - support.sign * threshold), support

    async def polish(
        self, correlation: Shares, q: Shares, penalty: Penalty, z: Shares, support: Support
    ) -> tuple[Shares, Support]:
        """Solve R b = q - tau sign on the support, near z; drop coefficients whose sign does not agree."""
        mpc, d = self.mpc, self.d
        i, j = upper = np.triu_indices(d, 1)
        products = support.active[i] * support.active[j], support.active * q - support.sign * penalty.tau
        both, right_side = mpc.split(await mpc.reduce(mpc.concatenate(*products)), i.shape, (d,))
        ones = mpc.public([ONE] * d)
        equations = self.symmetric(await mpc.reduce(both * correlation[i, j]), upper, d, diagonal=ones)
        with_ridge = equations + self.identity * (ONE >> RIDGE_BITS)
        approximate_inverse = await self.inverse(with_ridge, 2.0 ** -(RIDGE_BITS + 1), d + 1)
        b = z
        for _ in range(REFINEMENTS):
            residual = right_side - await mpc.truncate(equations @ b, F, 2 * F + POLISH_BITS + 10)
            b = b + await mpc.truncate(approximate_inverse @ residual, F, 2 * F + POLISH_BITS + 10)
        signed = await mpc.reduce(support.sign * b) + penalty.sign_is_free * (ONE << POLISH_BITS)
        agrees = await mpc.nonnegative(signed, F + POLISH_BITS + 3)
        kept = await mpc.reduce(mpc.concatenate(agrees * support.active, agrees * support.sign))
        support = Support(*mpc.split(kept, (d,), (d,)))
        return await mpc.reduce(support.active * b), support

    async def conditions_hold(
        self, correlation: Shares, q: Shares, penalty: Penalty, b: Shares, support: Support
    ) -> bool:
        """Open whether b satisfies the optimality conditions of the lasso within the tolerance."""
        mpc, tau = self.mpc, penalty.tau
        gradient = q - await mpc.truncate(correlation @ b, F, 2 * F + POLISH_BITS + 10)
        products = await mpc.reduce(mpc.concatenate(support.sign * tau, (1 - support.active) * tau))
        signed, inactive = mpc.split(products, tau.shape, tau.shape)
        off, allowed = gradient - signed, penalty.tolerance + inactive
        limit = mpc.public([ONE << COEFFICIENT_BITS] * self.d)
        margins = mpc.concatenate(allowed - off, allowed + off, limit - b, limit + b)
        holds = await mpc.nonnegative(margins, F + POLISH_BITS + 12)
        return await mpc.is_zero("conditions hold", margins.size - holds.sum())

    # Results

    async def slopes(self, b: Shares, support: Support, norm: Scale) -> Shares:
        """Integers: slopes in steps of the outcome per step of the feature, times 2^SLOPE_BITS; 0 off the support.

        A slope is b (mantissa / mantissa_j)^(1/2) 2^(place - place_j), symbols without j those of the outcome. It
        has so many fractional bits before the multiplication by the power of two that rounding after it leaves no
        zeros at the end, which would tell the power.
        """
        mpc = self.mpc
        root = await mpc.product(norm.mantissa[-1:], norm.rsqrt[-1:], F, 2 * F + 8)
        roots = await mpc.product(norm.rsqrt[:-1], root, F, 2 * F + 8)
        wide = await mpc.product(b, roots, 2 * F - WIDE_FRACTIONAL_BITS, 2 * F + COEFFICIENT_BITS + 4)
        power = await of_places(
            mpc, lambda i: 1 << RATIO_BITS - i if abs(i) <= RATIO_BITS else 0, norm.one_hot[:-1], norm.one_hot[-1:]
        )
        bits = WIDE_FRACTIONAL_BITS + COEFFICIENT_BITS + 2 * RATIO_BITS + 2
        slopes = await mpc.product(wide, power, WIDE_FRACTIONAL_BITS + RATIO_BITS - SLOPE_BITS, bits)
        return await mpc.reduce(support.active * slopes)

    async def unexplained(self, correlation: Shares, q: Shares, b: Shares, norm: Scale, spread: Scale) -> Shares:
        """Mean square of the residuals per variance of the outcome: (1 - 2 q'b + b'Rb) (norm / deviation)^2."""
        mpc = self.mpc
        fitted = await mpc.truncate(correlation @ b, F, 2 * F + COEFFICIENT_BITS + 10)
        explained = (2 * q - fitted).reshape(1, -1) @ b.reshape(-1, 1)
        share = ONE - await mpc.truncate(explained.reshape(1), F, 2 * F + 2 * COEFFICIENT_BITS + 12)
        if self.model.fit_intercept:
            return share
        roots = await mpc.product(spread.rsqrt[-1:], spread.rsqrt[-1:], F, 2 * F + 8)
        ratio = await mpc.product(norm.mantissa[-1:], roots, F, 2 * F + 8)
        limited = await mpc.product(share, ratio, F, 2 * F + 8)
        power = await of_places(
            mpc, lambda i: 4 ** min(max(i, 0), MEAN_TO_SPREAD_BITS), norm.one_hot[-1:], spread.one_hot[-1:]
        )
        return await mpc.reduce(limited * power)

    async def open_results(
        self, iterations: int, slopes: Shares, unexplained: Shares, of: Moments, spread: Scale
    ) -> Fit:
        """Open slopes, intercept, r2 and the outcome's variance to the controllers, rounded (by noise)."""
        mpc, n = self.mpc, self.n
        steps = await self.open_("slopes", slopes)
        intercept = None
        if self.model.fit_intercept:
            line = slopes.reshape(1, -1) @ of.totals[:-1].reshape(-1, 1)
            exact = of.totals[-1:] * (1 << SLOPE_BITS) - await mpc.reduce(line.reshape(1))
            noise = mpc.noise(1, SLOPE_BITS + INTERCEPT_NOISE_BITS + n.bit_length() - 1)
            intercept = await self.open_("intercept", exact + noise)
        r2 = await self.open_("r2", ONE - unexplained + mpc.noise(1, F - R2_BITS))
        place = spread.one_hot[-1:] @ mpc.public(list(range(spread.places)))
        variance = await self.open_(
            "variance of the outcome", mpc.concatenate(spread.mantissa[-1:] + mpc.noise(1, F - VARIANCE_BITS), place)
        )
        if steps is None:
            return Fit(iterations, None, None, None, None)
        return self.on_original_scale(iterations, steps, intercept, r2, variance)

    async def open_(self, name: str, shares: Shares) -> list[int] | None:
        """Open signed integers to the controllers; None at the third party."""
        p = self.mpc.field.modulus
        opened = await self.mpc.runtime.open_to_controllers(name, shares, self.problem.controllers)
        return None if opened is None else [int(x) - p if x > p // 2 else int(x) for x in opened]

    def on_original_scale(self, iterations: int, steps: Any, intercept: Any, r2: Any, variance: Any) -> Fit:
        """A controller's last step: multiply what was opened by the public scales."""
        *features, outcome = self.exponents
        slopes = [Fraction(x, 1 << SLOPE_BITS) * _power(e - outcome) for x, e in zip(steps, features, strict=True)]
        constant = Fraction(intercept[0], self.n << SLOPE_BITS) * _power(-outcome) if intercept else 0
        explained = min(Fraction(r2[0], ONE), Fraction(1))
        mantissa, place = variance
        total = Fraction(mantissa, ONE) * _power(2 * (place + 1 - outcome)) / self.n**2
        mse = (1 - explained) * total
        return Fit(iterations, tuple(map(float, slopes)), float(constant), float(explained), float(mse))


def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent
