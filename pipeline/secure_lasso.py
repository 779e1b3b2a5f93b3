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

This module goes up to the coefficients, on shares. What becomes of them is in
`secure_selection.py` (which penalty is chosen), `secure_gate.py` (whether
anything may be opened) and `secure_results.py` (what is opened). Opened on the
way, besides numbers under masks inside the operations of `primitives.py`, are
the bits that `OPENED` in `mpc_runtime.py` gives to all parties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso, secure_gate
from pipeline.agreement import FACTOR_RANGE_BITS
from pipeline.bounds import (
    COARSE_BITS,
    COEFFICIENT_BITS,
    ERROR_BITS,
    HELD_OUT_BITS,
    INVERSE_HEADROOM,
    ITERATE_BITS,
    MEAN_TO_SPREAD_BITS,
    OUTCOME_SPREAD_BITS,
    POLISH_BITS,
    R2_BITS,
    RANK_BITS,
    RATIO_BITS,
    RESTART_BITS,
    SPREAD_BITS,
    THRESHOLD_LIMIT,
    Plan,
    inversion_bits,
    polish_bits,
    smallest_tolerance,
)
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.errors import LocalProtocolError, RangeError, Refused
from pipeline.mpc_runtime import Shares
from pipeline.plain_lasso import MARGIN, RELAXATION, STRICTER
from pipeline.primitives import Arithmetic, fixed, symmetric
from pipeline.problem import Problem
from pipeline.residues import Residues, concatenate, placed, stack
from pipeline.schedule import RIDGE_BITS, Phase, inversion_steps, schedule
from pipeline.schedule import STEP_BITS as FACTOR_BITS
from pipeline.secret_scale import Scale, of_places, rsqrt, scale
from pipeline.share_convert import GramShare, fold_sizes

ONE = 1 << F
GRADIENT_BITS = 4  # of correlations with what is left of the outcome
NORM_RATIO_BITS = 12  # norms of the outcome in two groups, which the demand on held-out records keeps near each other
QUADRATIC_BITS = 40  # of a secret quadratic penalty
ROOT_BITS = 40  # fractional bits of one plus it
LARGEST_MARGIN = 1 << F - R2_BITS + 1  # so that the largest penalty removes everything, and is above 0, up to noise
ROUGH = 2.0**-12  # accuracy of a rough inverse, before it is refined


@dataclass(frozen=True)
class Moments:
    """Exact integers; the outcome comes last. n is the number of records of the group.

    totals : sums of the columns, offsets included; shape (groups, columns).
    centred : n^2 times variances and covariances; shape (groups, columns, columns).
    squares : what the columns are scaled by, the centred moments, or the uncentred ones when there is no intercept.
    held_out : of each fold n^2 times the sums of products of what the columns are away from their means in the rest,
        n the number of records of the rest; in the upper triangles, shape (folds, entries). None without folds.
    """

    totals: Shares
    centred: Shares
    squares: Shares
    held_out: Shares | None


@dataclass(frozen=True)
class Sizes:
    """The norms of the columns and their deviations, with their inverse square roots; shape (groups, columns).

    kept : 0 for the columns of rare levels that were dropped, shape (columns,); None if none may be.
    """

    norm: Scale
    spread: Scale
    norm_rsqrt: Shares
    spread_rsqrt: Shares
    kept: Shares | None

    def of_group(self, group: int) -> Sizes:
        """Those of one group, without its axis."""
        norm, spread = (
            Scale(s.bits, *(v[group] for v in (s.positive, s.one_hot, s.factor, s.mantissa)))
            for s in (self.norm, self.spread)
        )
        return Sizes(norm, spread, self.norm_rsqrt[group], self.spread_rsqrt[group], self.kept)


@dataclass(frozen=True)
class Standardised:
    """Normalised problem.

    correlation, q : R and q of each group.
    held_out : of each fold mean products of what the columns are away from their means in the rest, per deviations
        there, outcome last; with ERROR_BITS. None without folds.
    """

    sizes: Sizes
    correlation: Shares
    q: Shares
    held_out: Shares | None


@dataclass(frozen=True)
class Support:
    """Which coefficients are not zero, and their signs; entries are 0, 1 and -1."""

    active: Shares
    sign: Shares


@dataclass(frozen=True)
class Solved:
    """For each system and penalty the coefficients, their support, and 1 where the conditions hold."""

    b: Shares
    support: Support
    holds: Shares


@dataclass(frozen=True)
class Penalty:
    """In the normalised scale, for each system: the penalties tau, the tolerances, those after a polish with a large
    ridge, and whether a sign does not matter (tau is tiny).

    largest : of a secret grid the largest penalty, per norm of the outcome.
    """

    tau: Shares
    tolerance: Shares
    strict: Shares
    sign_is_free: Shares
    largest: Shares | None


@dataclass(frozen=True)
class Path:
    """What the solver has found: normalised coefficients and their support, shape (groups, penalties, features)."""

    iterations: int
    b: Shares
    active: Shares


class SecureLasso:
    """All fits of an analysis; the methods are the functions of `plain_lasso.py`."""

    def __init__(self, mpc: Arithmetic, sizes: Plan, gram: GramShare, problem: Problem) -> None:
        if gram.field != sizes.field:
            raise LocalProtocolError("the Gram matrix is shared in another field than planned")
        if problem.folds and gram.folds != problem.folds:
            raise LocalProtocolError("the Gram matrices are of other folds than agreed")
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
        self.fold_sizes = fold_sizes(self.n, problem.folds) if problem.folds else ()
        self.counts = (self.n, *(self.n - size for size in self.fold_sizes))  # records of each group
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

    def phases(self) -> Iterator[Phase]:
        weakest = 1.0 if self.problem.has_secret_grid else min(self.problem.penalties)
        quick = weakest > 0 and self.model.l1_ratio == 1
        return schedule(self.model.max_iterations, self.model.fit_intercept, quick)

    async def penalties_and_first_step(
        self, standardised: Standardised, largest: Shares | None, correlation: Shares, q: Shares
    ) -> tuple[Penalty, dict[int, tuple[Shares, Shares]]]:
        """Two things that do not wait for one another; the steps are those `solve` begins with."""
        first = next(self.phases())
        penalty, step = await self.mpc.together(
            self.thresholds(standardised, largest), self.x_step(correlation, q, first)
        )
        return penalty, {first.inverse_rho: step}

    # Preparation

    async def moments(self) -> Moments:
        """Form the moments as exact integers from the Gram matrices and the columns' offsets."""
        mpc, columns = self.mpc, self.d + 1
        order = [0, *(1 + j for j in self.problem.order)]
        offsets = await self.offsets()
        i, j = upper = np.triu_indices(columns + 1)
        of_folds = self.gram.gram if self.problem.folds else self.gram.total[np.newaxis]
        shares = Residues.of_words(self.gram.field, of_folds[:, order][:, :, order][:, i, j])
        parts = symmetric(await self.narrow.lift(shares, mpc), upper, columns + 1)
        whole = parts.sum(axis=0).reshape(1, columns + 1, columns + 1)
        groups = concatenate([whole, whole - parts]).carried() if self.problem.folds else whole
        sums, products = groups[:, 0, 1:], groups[:, 1:, 1:]
        n = mpc.public(self.counts)
        totals = (sums + offsets * n.reshape(-1, 1)).carried()
        i, j = upper = np.triu_indices(columns)
        centred = products[:, i, j] * n.reshape(-1, 1) - sums[:, i] * sums[:, j]
        if self.problem.folds:
            held_out = self.held_out_products(parts, sums[1:])
            centred, held_out = mpc.split(
                await mpc.reduce(mpc.concatenate(centred, held_out)), centred.shape, held_out.shape
            )
            centred = symmetric(centred, upper, columns)
            return Moments(totals, centred, centred, held_out)
        if self.model.fit_intercept:
            centred = symmetric(await mpc.reduce(centred), upper, columns)
            return Moments(totals, centred, centred, None)
        uncentred = centred + totals[:, i] * totals[:, j]
        both = await mpc.reduce(stack([centred, uncentred]))
        centred, uncentred = (symmetric(both[k], upper, columns) for k in (0, 1))
        return Moments(totals, centred, uncentred, None)

    def held_out_products(self, folds: Shares, sums: Shares) -> Shares:
        """n^2 times the sums, over a fold, of (x - mean of x)(y - mean of y), means and n of the rest; of degree 2.

        folds : Gram matrices of the folds; sums : of the rest's columns.
        """
        i, j = np.triu_indices(self.d + 1)
        own, products = folds[:, 0, 1:], folds[:, 1:, 1:][:, i, j]
        rest, size = (self.mpc.public(counts).reshape(-1, 1) for counts in (self.counts[1:], self.fold_sizes))
        squares = self.mpc.public([count**2 for count in self.counts[1:]]).reshape(-1, 1)
        crossed = (sums[:, i] * own[:, j] + own[:, i] * sums[:, j]).carried()
        return (products * squares).carried() - crossed * rest + (sums[:, i] * sums[:, j]).carried() * size

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

    async def standardise(self, of: Moments) -> Standardised:
        """The columns' sizes, and R and q; refuses a constant outcome, too small a spread, and rare levels."""
        mpc = self.mpc
        norm, spread = await self.scales(of)
        one = norm is spread
        both = norm.mantissa if one else concatenate([norm.mantissa, spread.mantissa], axis=-1)
        roots, kept = await mpc.together(rsqrt(mpc, both), self.refuse(of, norm, spread))
        if kept is not None:
            positive = await mpc.reduce(spread.positive * kept)
            norm, spread = (replace(part, positive=positive) for part in (norm, spread))
        columns = self.d + 1
        sizes = Sizes(norm, spread, roots[..., :columns], roots[..., -columns:], kept)
        scaled, held_out = await self.scaled_squares(of, norm, spread)
        correlation, q, held_out = await self.correlations(scaled, held_out, sizes)
        return Standardised(sizes, correlation, q, held_out)

    async def scales(self, of: Moments) -> tuple[Scale, Scale]:
        """The sizes of the squares (the columns' norms) and of the centred squares (their deviations)."""
        mpc, bits = self.mpc, self.sizes.square_bits
        lowest = self.place_of(SPREAD_BITS)
        diagonal = np.arange(self.d + 1)
        if self.model.fit_intercept:
            norm = await scale(mpc, of.squares[:, diagonal, diagonal], bits, lowest)
            return norm, norm
        squares = [matrix[:, diagonal, diagonal] for matrix in (of.squares, of.centred)]
        both = await scale(mpc, concatenate(squares, axis=-1), bits, lowest)
        columns = self.d + 1
        return both.columns(slice(columns)), both.columns(slice(columns, None))

    def place_of(self, spread_bits: int) -> int:
        """The smallest i with 4^i >= n^2 4^spread_bits: columns with a place from there on spread that much."""
        return ((self.n**2).bit_length() + 2 * spread_bits + 1) // 2

    async def refuse(self, of: Moments, norm: Scale, spread: Scale) -> Shares | None:
        """Refuse a constant outcome; then columns that vary, but so little that rounding to steps of their scale
        would show in the result. Nor may the spread be too small against the mean, when there is no intercept, or
        against what a column does in a fold. Then rare levels; return which columns stay, None if none may go.
        """
        mpc = self.mpc
        if not await mpc.is_zero("outcome is constant", (1 - spread.positive[:, -1]).sum()):
            raise Refused("constant-outcome", plain_lasso.constant_outcome())
        faults = (await self.spread_faults(of, norm, spread)).sum(axis=0)
        if not await mpc.is_zero("spread is too small", faults.sum()):
            columns = await secure_gate.refused_columns(mpc, self.problem, faults)
            raise Refused("spread", plain_lasso.too_little_spread() + columns)
        return await secure_gate.kept_columns(mpc, self.problem, self.n, of.totals[0])

    async def spread_faults(self, of: Moments, norm: Scale, spread: Scale) -> Shares:
        """For each group and column how many demands on its spread are not met."""
        mpc = self.mpc
        features, outcome = self.place_of(SPREAD_BITS), self.place_of(OUTCOME_SPREAD_BITS)
        large = concatenate([spread.one_hot[:, :-1, features:].sum(), spread.one_hot[:, -1:, outcome:].sum()], axis=-1)
        comparable = await of_places(mpc, lambda i: int(abs(i) <= RATIO_BITS), norm.one_hot, norm.one_hot[:, -1:, :])
        faults = (spread.positive - large) + (norm.positive - comparable)
        if not self.model.fit_intercept:
            near = await of_places(mpc, lambda i: int(0 <= i <= MEAN_TO_SPREAD_BITS), norm.one_hot, spread.one_hot)
            faults = faults + (spread.positive - near)
        if of.held_out is not None:
            apart = await self.held_out_apart(of)
            nothing = Residues.zeros(mpc.field, 1, self.d + 1)
            faults = faults + concatenate([nothing, await mpc.reduce(spread.positive[1:] * apart)])
        return faults

    async def held_out_apart(self, of: Moments) -> Shares:
        """1 where a column's mean square in a fold exceeds 2^HELD_OUT_BITS variances of the rest."""
        assert of.held_out is not None  # noqa: S101 (the caller has looked)
        columns = np.arange(self.d + 1)
        i, j = np.triu_indices(self.d + 1)
        own = of.held_out[:, np.flatnonzero(i == j)]
        sizes = self.mpc.public([size << HELD_OUT_BITS for size in self.fold_sizes]).reshape(-1, 1)
        limit = of.squares[1:, columns, columns] * sizes
        bits = self.sizes.square_bits + HELD_OUT_BITS + self.n.bit_length() + 2
        return 1 - await self.mpc.nonnegative(limit - own, bits)

    async def scaled_squares(self, of: Moments, norm: Scale, spread: Scale) -> tuple[Shares, Shares | None]:
        """Products of columns, in the upper triangle, divided by the powers of two of both; 0 where one is constant."""
        mpc = self.mpc
        i, j = np.triu_indices(self.d + 1, 1)
        factors = await mpc.reduce(norm.factor[:, i] * norm.factor[:, j])
        scaled = mpc.product(of.squares[:, i, j], factors, norm.bits - F, norm.bits + 2)
        both_vary = mpc.reduce(spread.positive[:, i] * spread.positive[:, j])
        scaled, both_vary, held_out = await mpc.together(scaled, both_vary, self.scaled_held_out(of, norm))
        return await mpc.reduce(scaled * both_vary), held_out

    async def scaled_held_out(self, of: Moments, norm: Scale) -> Shares | None:
        """The same of the products in each fold, divided by a power of two near the fold's number of records."""
        if of.held_out is None:
            return None
        mpc = self.mpc
        i, j = np.triu_indices(self.d + 1)
        factors = await mpc.reduce(norm.factor[1:][:, i] * norm.factor[1:][:, j])
        bits = norm.bits + HELD_OUT_BITS + self.n.bit_length() + 2
        return await mpc.product(of.held_out, factors, norm.bits - F + self.fold_shift, bits)

    @property
    def fold_shift(self) -> int:
        return max(self.fold_sizes).bit_length() - 1

    async def correlations(
        self, scaled: Shares, held_out: Shares | None, sizes: Sizes
    ) -> tuple[Shares, Shares, Shares | None]:
        """R and q, with zeros for features that are constant over the records, and the like of each fold."""
        mpc, columns = self.mpc, self.d + 1
        i, j = upper = np.triu_indices(columns, 1)
        roots = await mpc.product(sizes.norm_rsqrt[:, i], sizes.norm_rsqrt[:, j], F, 2 * F + 12)
        varies = sizes.spread.positive
        entries, held_out = await mpc.together(
            mpc.product(scaled, roots, F, 2 * F + 12), self.normalised_held_out(held_out, sizes)
        )
        correlation = symmetric(entries, upper, columns, diagonal=varies * ONE)
        return correlation[:, :-1, :-1], correlation[:, :-1, -1], held_out

    async def normalised_held_out(self, scaled: Shares | None, sizes: Sizes) -> Shares | None:
        if scaled is None:
            return None
        mpc, columns = self.mpc, self.d + 1
        i, j = upper = np.triu_indices(columns)
        rsqrts = sizes.norm_rsqrt[1:]
        roots = await mpc.product(rsqrts[:, i], rsqrts[:, j], F, 2 * F + 12)
        room = F + HELD_OUT_BITS + 6
        entries = await mpc.product(scaled, roots, F, F + room)
        means = mpc.public([fixed(Fraction(1 << self.fold_shift, size)) for size in self.fold_sizes])
        entries = await mpc.truncate(entries * means.reshape(-1, 1), 2 * F - ERROR_BITS, F + room)
        return symmetric(entries, upper, columns)

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
        unit = await mpc.product(selected, root, F, 2 * F + QUADRATIC_BITS + 4)
        unit = await mpc.product(unit, largest, F, 2 * F + QUADRATIC_BITS + GRADIENT_BITS + 4)
        multiples = np.array(self.problem.multiples(self.n))[:, None] * self.relative_factors
        distinct, where = np.unique(multiples, return_inverse=True)
        bits = QUADRATIC_BITS + FACTOR_RANGE_BITS + GRADIENT_BITS + 6
        public = mpc.public([fixed(value, ROOT_BITS) for value in distinct.tolist()])
        added = await mpc.truncate(unit * public, F, F + ROOT_BITS + bits)
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
        bits = inversion_bits(lowest)
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
        previous, iterations, restarts = None, 0, True
        for phase in self.phases():
            if phase.inverse_rho not in steps:
                steps[phase.inverse_rho] = await self.x_step(correlation, q, phase)
            threshold = await self.at_precision(penalty.tau * phase.inverse_rho, F, phase) + 8
            if previous:
                z, u = await self.rescaled(z, u, previous, phase)
            z, u, support = await self.iterate(steps[phase.inverse_rho], z, u, threshold, phase)
            previous = phase
            iterations += phase.iterations
            b = z << F - fraction_bits(phase)
            for _ in range(phase.polishes):
                b, support = await self.polish(correlation, q, penalty, b, support, phase)
            progress(iterations)
            tolerance = penalty.strict if phase.has_large_ridge else penalty.tolerance
            holds = await self.conditions_hold(correlation, q, penalty.tau, tolerance, b, support)
            found = await self.best(found, Solved(b, support, holds))
            if await mpc.is_zero("conditions hold", found.holds.size - found.holds.ravel().sum()):
                return found.b, found.support, iterations
            if restarts:
                z, u = await self.restarted(correlation, q, penalty.tau, b, phase)
            restarts = False
        raise Refused("not-converged", plain_lasso.not_converged(iterations))

    async def best(self, found: Solved | None, new: Solved) -> Solved:
        """For each penalty what has satisfied the conditions first, or the newest."""
        if found is None or new.holds.size == 1:
            return new
        mpc = self.mpc
        keep = found.holds[..., None]
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

    async def restarted(
        self, correlation: Shares, q: Shares, tau: Shares, b: Shares, phase: Phase
    ) -> tuple[Shares, Shares]:
        """Iterates from which to go on after the first polish: its coefficients and their dual, both cut to a range."""
        mpc, limit = self.mpc, ONE << RESTART_BITS
        fitted = await mpc.truncate(b @ correlation, F, 2 * F + polish_bits(self.d))
        values = stack([b, q[:, None] - fitted])
        limits = stack([placed(mpc.field, limit, np.ones(b.shape)), tau])
        excess = stack([values - limits, -values - limits])
        beyond = await mpc.nonnegative(excess, F + polish_bits(self.d))
        cut = await mpc.reduce(beyond * excess)
        values = values - cut[0] + cut[1]
        z, dual = values[0], values[1]
        both = await self.at_precision(mpc.concatenate(z, dual * phase.inverse_rho), F, phase)
        z, u = mpc.split(both, z.shape, dual.shape)
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
        at_zero = shrink @ q[..., None] * fixed(RELAXATION, 2)
        at_zero, linear = await mpc.together(mpc.truncate(at_zero, F + 2, F + f + ITERATE_BITS + 4), linear)
        return at_zero.reshape(len(q), 1, -1), linear

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
        mpc, active, sign = self.mpc, support.active, support.sign
        b = await self.solve_on(correlation, q, penalty.tau, z, support, phase)
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

    async def solve_on(
        self, correlation: Shares, q: Shares, tau: Shares, z: Shares, support: Support, phase: Phase
    ) -> Shares:
        """Solve R b = q - tau sign on the support, near z, for each system and penalty."""
        mpc, d = self.mpc, self.d
        i, j = upper = np.triu_indices(d, 1)
        active, sign = support.active, support.sign
        products = active[..., i] * active[..., j], active * q[:, None] - sign * tau
        shapes = products[0].shape, z.shape
        both, right_side = mpc.split(await mpc.reduce(mpc.concatenate(*products)), *shapes)
        entries = both * correlation[:, None, i, j]
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
        for _ in range(phase.refinements):
            fitted = (equations @ b[..., None]).reshape(*b.shape)
            residual = right_side - await mpc.truncate(fitted, F, 2 * F + polish_bits(d))
            change = (approximate_inverse @ residual[..., None]).reshape(*b.shape)
            b = (b + await mpc.truncate(change, f, F + f + polish_bits(d))).carried()
        return b

    async def times_known(
        self, active: Shares, sign: Shares, b: Shares, comparison: Any
    ) -> tuple[list[Shares], list[Shares]]:
        """b on the support, the support and the signs, each flat, and these times what the holders know."""
        mpc = self.mpc
        values = [(await mpc.reduce(active * b)).ravel(), active.ravel(), sign.ravel()]
        products = mpc.concatenate(*(comparison.holders_bit * value for value in values))
        return values, mpc.split(await mpc.reduce(products), *[(b.size,)] * 3)

    async def residual_share(self, correlation: Shares, q: Shares, b: Shares) -> Shares:
        """Mean square of the residuals per square of the outcome's norm, 1 - 2 q'b + b'Rb, of one group.

        b : shape (penalties, features), below 2^COEFFICIENT_BITS.
        """
        mpc = self.mpc
        fitted = await mpc.truncate(b @ correlation, F, 2 * F + COEFFICIENT_BITS + 10)
        explained = ((q * 2 - fitted) * b).sum()
        return ONE - await mpc.truncate(explained, F, 2 * F + 2 * COEFFICIENT_BITS + 12)

    async def conditions_hold(
        self, correlation: Shares, q: Shares, tau: Shares, tolerance: Shares, b: Shares, support: Support
    ) -> Shares:
        """For each penalty 1 where b satisfies the optimality conditions of the lasso within the tolerance, else 0.

        For a single one the number of conditions that do not hold, less 1, is taken off: it is 1 if all hold.
        """
        mpc = self.mpc
        off = (q[:, None] << F) - b @ correlation - (support.sign * tau << F)
        allowed = tolerance + (1 - support.active) * tau << F
        below = allowed
        if self.model.positive:  # a coefficient of 0 may be pulled towards negative numbers
            below = allowed + (1 - support.active) * mpc.public(1 << 2 * F + polish_bits(self.d))
        limit = placed(mpc.field, ONE << COEFFICIENT_BITS, self.ones)
        margins = concatenate([allowed - off, below + off, limit - b << F, limit + b << F], axis=-1)
        holds = (await mpc.nonnegative(margins, 2 * F + polish_bits(self.d) + 2)).sum()
        missing = holds - margins.shape[-1]
        if missing.size == 1:
            return missing + 1
        return await mpc.nonnegative(missing, margins.shape[-1].bit_length() + 2)


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


async def largest(mpc: Arithmetic, values: Shares, bits: int) -> Shares:
    """The largest of a vector of numbers of `bits` bits; shape (1,). 11 rounds."""
    one_hot = await first_smallest(mpc, -values, bits)
    return await mpc.reduce((one_hot * values).sum().reshape(1))


async def first_smallest(mpc: Arithmetic, values: Shares, bits: int) -> Shares:
    """1 at the smallest of a vector of numbers, at the first of them if there are several, and 0 elsewhere. 10 rounds.

    All pairs are compared at once; the one that no other is before wins.
    """
    count = len(values)
    i, j = np.triu_indices(count, 1)
    if not len(i):
        return mpc.public(np.ones(count, np.int64))
    before = await mpc.nonnegative(values[j] - values[i], bits + 1)  # the first of a pair is not after the second
    limbs = np.zeros((len(before.limbs), count, count), np.int64)
    after = 1 - before
    limbs[:, i, j], limbs[:, j, i] = before.limbs, after.limbs
    wins = Residues(mpc.field, limbs, max(before.bound, after.bound)).sum()
    return await mpc.nonnegative(wins - (count - 1), count.bit_length() + 2)
