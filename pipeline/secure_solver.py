"""The solver of step 8 on shares: iterations, polish and the test of the conditions.

A *system* is a matrix of correlations: one for each group of records, or for
each group and penalty where the penalty has a quadratic part. Iterates have
axes (systems, penalties, features). The steps are those of `plain_lasso.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso
from pipeline.bounds import (
    COARSE_BITS,
    COEFFICIENT_BITS,
    INVERSE_HEADROOM,
    ITERATE_BITS,
    POLISH_BITS,
    RESTART_BITS,
    Plan,
    inversion_bits,
    polish_bits,
)
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.errors import LocalProtocolError, Refused
from pipeline.mpc_runtime import Shares
from pipeline.plain_lasso import RELAXATION
from pipeline.primitives import Arithmetic, fixed, symmetric
from pipeline.problem import Problem
from pipeline.residues import Residues, concatenate, placed, stack
from pipeline.schedule import STEP_BITS as FACTOR_BITS
from pipeline.schedule import Phase, inversion_steps, schedule
from pipeline.secure_standardise import ONE, Standardisation
from pipeline.share_convert import GramShare

ROUGH = 2.0**-12  # accuracy of a rough inverse, before it is refined


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


class Solver(Standardisation):
    """Fits all systems and penalties in the same rounds; `solve` does everything."""

    def __init__(self, mpc: Arithmetic, sizes: Plan, gram: GramShare, problem: Problem) -> None:
        super().__init__(mpc, sizes, gram, problem)
        self.inverting = mpc.over(sizes.inverse_field)
        self.ones = np.ones(self.d, np.int64)

    def phases(self) -> Iterator[Phase]:
        weakest = 1.0 if self.problem.has_secret_grid else min(self.problem.penalties)
        quick = weakest > 0 and self.model.l1_ratio == 1
        return schedule(self.model.max_iterations, self.model.fit_intercept, quick)

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
