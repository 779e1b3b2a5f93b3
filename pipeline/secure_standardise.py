"""Step 8 up to the normalised problem: correlations of features and outcome, on shares, for each group of records.

A *group* is a set of records: all of them first, then those outside each fold.
Arrays begin with the axis of groups. What the data must be like to go on is
tested here, and refused at all parties alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from pipeline import plain_lasso, secure_gate
from pipeline.bounds import (
    ERROR_BITS,
    HELD_OUT_BITS,
    MEAN_TO_SPREAD_BITS,
    OUTCOME_SPREAD_BITS,
    RATIO_BITS,
    SPREAD_BITS,
    Plan,
)
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.errors import LocalProtocolError, RangeError, Refused
from pipeline.mpc_runtime import Shares
from pipeline.primitives import Arithmetic, fixed, symmetric
from pipeline.problem import Problem
from pipeline.residues import Residues, concatenate, stack
from pipeline.secret_scale import Scale, of_places, rsqrt, scale
from pipeline.share_convert import GramShare, fold_sizes

ONE = 1 << F


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


class Standardisation:
    """The preparation of an analysis; `moments`, then `standardise`."""

    def __init__(self, mpc: Arithmetic, sizes: Plan, gram: GramShare, problem: Problem) -> None:
        if gram.field != sizes.field:
            raise LocalProtocolError("the Gram matrix is shared in another field than planned")
        if problem.folds and gram.folds != problem.folds:
            raise LocalProtocolError("the Gram matrices are of other folds than agreed")
        self.mpc = mpc
        self.narrow = mpc.over(sizes.field)
        self.sizes = sizes
        self.gram = gram
        self.n = gram.records
        self.problem = problem
        self.model = problem.model
        self.d = problem.features
        self.fold_sizes = fold_sizes(self.n, problem.folds) if problem.folds else ()
        self.counts = (self.n, *(self.n - size for size in self.fold_sizes))  # records of each group

    @property
    def exponents(self) -> list[int]:
        """Known to controllers only; outcome last."""
        if self.problem.exponents is None:
            raise LocalProtocolError("the third party does not know the exponents")
        return [self.problem.exponents[j] for j in self.problem.order]

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
