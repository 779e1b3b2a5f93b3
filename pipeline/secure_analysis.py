"""Step 8 as a whole: fit, choose, test the rules on what comes out, open.

Everything that is opened to the controllers is opened here, in one message,
rounded before it is: `OPENED` in `mpc_runtime.py` lists it, and what each of it
tells is in `docs/leakage.md`. The third party sends its shares and receives
none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline import plain_lasso, secure_gate, secure_selection
from pipeline.bounds import (
    COEFFICIENT_BITS,
    ERROR_BITS,
    INTERCEPT_NOISE_BITS,
    MEAN_TO_SPREAD_BITS,
    R2_BITS,
    RANK_BITS,
    RATIO_BITS,
    SLOPE_BITS,
    VARIANCE_BITS,
    WIDE_FRACTIONAL_BITS,
    Plan,
    plan,
)
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.errors import LocalProtocolError, Refused
from pipeline.mpc_runtime import Runtime, Shares
from pipeline.primitives import Arithmetic, fixed
from pipeline.problem import Problem
from pipeline.residues import Residues, concatenate, stack
from pipeline.schedule import RIDGE_BITS, STEP_BITS
from pipeline.secret_scale import of_places, rsqrt, scale
from pipeline.secure_lasso import SecureLasso
from pipeline.secure_selection import SPREAD_BITS, Choice, Errors
from pipeline.secure_solver import Penalty
from pipeline.secure_standardise import ONE, Moments, Sizes, Standardised
from pipeline.share_convert import GramShare

ERROR_NOISE_BITS = 6  # mean errors are opened up to about 2^-34 of the outcome's variance
CORRECTED_BITS = 36
FACTOR_BITS = 22  # of a variance inflation factor, with sign
MEAN_BITS = 20  # a mean is below 2^MEAN_BITS deviations where its standard error is asked for
LEVERAGE_BITS = 30  # fractional bits of what opens the standard error of the intercept


@dataclass(frozen=True)
class Fit:
    """A model on the original scale; at the third party its parts are None.

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
class CrossValidated:
    """Mean squared errors in held-out folds, on the scale of the outcome, for each penalty; `r2` of the chosen one.
    Each only if it was opened.

    accuracy : means that differ by less may be equal.
    """

    mean: tuple[float, ...] | None
    sd: tuple[float, ...] | None
    r2: float | None
    accuracy: float = 0.0


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a column over the matched records."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Analysis:
    """What a party has learnt; at the third party the fits have no parts, and the rest is None.

    fits : the chosen model, or those of all penalties, the largest first.
    chosen : which of `fits` is the chosen one.
    alphas : the penalties; the chosen one alone if nothing else was opened of a secret grid.
    chosen_alpha, place : the chosen penalty, and its place among all; None if there was nothing to choose.
    standard_errors : of the intercept, if there is one, and the coefficients.
    spreads : of the columns, outcome last.
    """

    iterations: int
    hiding_bits: float
    fits: tuple[Fit, ...]
    chosen: int
    alphas: tuple[float, ...] | None
    chosen_alpha: float | None
    place: int | None
    cross_validated: CrossValidated | None
    standard_errors: tuple[float, ...] | None
    spreads: tuple[Spread, ...] | None


async def analyse(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> Analysis:
    """Fit, choose and open; all three parties call it with the same public arguments.

    progress : called with the number of iterations after each phase.

    Raises Refused, at all parties alike: "constant-outcome", "spread", "min_level_count", "rank", "not-converged",
    "held-out", "criterion", "min_residual_df", "max_parameters_ratio" or "max_r2"; or the error that ended a link.
    """
    sizes = sizes_of(problem, gram.records)
    mpc = Arithmetic(runtime, sizes.solver_field, sizes.statistical_bits)
    return await runtime.supervise(SecureAnalysis(mpc, sizes, gram, problem).fit(progress or (lambda _: None)))


def sizes_of(problem: Problem, records: int) -> Plan:
    """The sizes of the numbers of an analysis."""
    model = problem.model
    return plan(
        records,
        problem.features,
        fit_intercept=model.fit_intercept,
        max_iterations=model.max_iterations,
        problems=problem.groups * problem.choices,
        groups=problem.groups,
        systems=problem.systems,
        analyses=problem.analyses,
    )


async def fit(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> Fit:
    """The chosen model of `analyse`."""
    analysis = await analyse(runtime, gram, problem, progress)
    return analysis.fits[analysis.chosen]


async def fit_path(
    runtime: Runtime, gram: GramShare, problem: Problem, progress: Callable[[int], None] | None = None
) -> list[Fit]:
    """The models of all the problem's penalties."""
    return list((await analyse(runtime, gram, problem, progress)).fits)


class SecureAnalysis(SecureLasso):
    """One analysis; `fit` does everything."""

    async def fit(self, progress: Callable[[int], None]) -> Analysis:
        of, standardised, penalty, path = await self.solution(progress)
        errors = None
        if self.problem.folds:
            errors = await secure_selection.cross_validate(self, standardised, path)
        b, active = path.b[0], path.active[0]
        share = await self.residual_share(standardised.correlation[0], standardised.q[0], b)
        choice = await self.choose(standardised, errors, active, share)
        if choice is not None and self.problem.opened.model == "chosen":
            b, active, share = await self.chosen(choice, b, active, share)
        unexplained = await self.per_variance(share, standardised.sizes.of_group(0))
        await secure_gate.check_models(self.mpc, self.problem, self.n, active, unexplained)
        return await self.open_results(
            path.iterations, of, standardised, penalty, b, active, unexplained, errors, choice
        )

    async def choose(
        self, standardised: Standardised, errors: Errors | None, active: Shares, share: Shares
    ) -> Choice | None:
        """None where there is a single penalty, or where all are wanted."""
        if self.model.rule is None or self.problem.alphas:
            return None
        if self.model.rule in ("aic", "bic"):
            return await secure_selection.choose_by_criterion(self, standardised, active, share)
        if errors is None:
            raise LocalProtocolError("there are no folds to choose by")
        return await secure_selection.choose_by_error(self, errors)

    async def chosen(self, choice: Choice, b: Shares, active: Shares, share: Shares) -> tuple[Shares, Shares, Shares]:
        """Those of the chosen penalty, with an axis of length 1 for penalties. One round."""
        mpc, d, at = self.mpc, self.d, choice.one_hot.reshape(-1, 1)
        parts = [(at * b).sum(axis=0), (at * active).sum(axis=0), (at[:, 0] * share).sum().reshape(1)]
        b, active, share = mpc.split(await mpc.reduce(mpc.concatenate(*parts)), (1, d), (1, d), (1,))
        return b, active, share

    async def slopes(self, b: Shares, active: Shares, sizes: Sizes) -> Shares:
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
        return await mpc.reduce(active * slopes)

    async def per_variance(self, share: Shares, sizes: Sizes) -> Shares:
        """A residual share per variance of the outcome instead of its squared norm: times (norm / deviation)^2."""
        mpc, norm, spread = self.mpc, sizes.norm, sizes.spread
        if self.model.fit_intercept:
            return share
        root = sizes.spread_rsqrt[-1:]
        roots = await mpc.product(root, root, F, 2 * F + 8)
        ratio = await mpc.product(norm.mantissa[-1:], roots, F, 2 * F + 8)
        # So many more fractional bits that no zeros at the end of the result tell the power.
        more = 2 * MEAN_TO_SPREAD_BITS
        limited = await mpc.product(share, ratio, F - more, 2 * F + 8)
        power = await of_places(
            mpc, lambda i: 4 ** min(max(i, 0), MEAN_TO_SPREAD_BITS), norm.one_hot[-1:], spread.one_hot[-1:]
        )
        return await mpc.truncate(limited * power, more, F + 2 * more + 6)

    async def open_results(
        self,
        iterations: int,
        of: Moments,
        standardised: Standardised,
        penalty: Penalty,
        b: Shares,
        active: Shares,
        unexplained: Shares,
        errors: Errors | None,
        choice: Choice | None,
    ) -> Analysis:
        """Open what the agreement says to the controllers, rounded (by noise)."""
        mpc, opened, sizes = self.mpc, self.problem.opened, standardised.sizes.of_group(0)
        results = await self.model_results(of, sizes, b, active, unexplained)
        if choice is not None:
            places = mpc.public(np.arange(self.problem.choices))
            results["place of the penalty"] = (choice.one_hot * places).sum().reshape(1)
        if penalty.largest is not None:
            results["largest penalty"] = penalty.largest + mpc.noise(1, F - R2_BITS, "penalty")
        if errors is not None and opened.cv_curve:
            spread = await secure_selection.error_spread(self, errors)
            results["errors of the folds"] = errors.mean + self.noise(len(errors.mean), ERROR_NOISE_BITS, "errors")
            results["spread of errors"] = spread + self.noise(len(spread), ERROR_NOISE_BITS, "spread")
        if errors is not None and opened.cv_r2:
            mean = errors.mean if choice is None or choice.mean_error is None else choice.mean_error
            results["cross-validated r2"] = mean[:1] + mpc.noise(1, ERROR_NOISE_BITS, "cross-validated")
        if opened.standard_errors:
            results |= await self.error_results(of, standardised, sizes)
        if opened.table1:
            results |= await self.column_results(of, sizes, results["variance of the outcome"][:1])
        values = await mpc.runtime.open_to_controllers(results, self.problem.controllers)
        return self.analysis(iterations, len(b), values)

    async def model_results(
        self, of: Moments, sizes: Sizes, b: Shares, active: Shares, unexplained: Shares
    ) -> dict[str, Shares]:
        mpc, n, count, spread = self.mpc, self.n, len(b), sizes.spread
        slopes = await self.slopes(b, active, sizes)
        results = {"slopes": slopes.ravel()}
        if self.model.fit_intercept:
            totals = of.totals[0]
            line = await mpc.reduce((slopes * totals[:-1]).sum())
            exact = totals[-1:] * mpc.public(1 << SLOPE_BITS) - line
            bits = SLOPE_BITS + INTERCEPT_NOISE_BITS + n.bit_length() - 1
            results["intercept"] = exact + self.noise(count, bits, "intercept")
        results["r2"] = ONE - unexplained + self.noise(count, F - R2_BITS, "r2")
        place = (spread.one_hot[-1] * np.arange(spread.places, dtype=np.int32)).sum().reshape(1)
        mantissa = spread.mantissa[-1:] + mpc.noise(1, F - VARIANCE_BITS, "variance")
        results["variance of the outcome"] = mpc.concatenate(mantissa, place)
        return results

    def noise(self, count: int, bits: int, purpose: str) -> Shares:
        """Noise for one number of each model, with a part that is the same for all: those of many models that hardly
        differ do not average it out.
        """
        noise = self.mpc.noise(count, bits, purpose)
        return noise if count == 1 else noise + self.mpc.noise(1, bits, f"{purpose} of all")

    async def column_results(self, of: Moments, sizes: Sizes, outcome: Shares) -> dict[str, Shares]:
        """Totals and variances of all columns; that of the outcome as it is opened already, with its noise. Those of
        rare levels that were dropped are 0: their totals would tell the few records.
        """
        mpc, spread, totals = self.mpc, sizes.spread, of.totals[0]
        columns = self.d + 1
        places = (spread.one_hot * np.arange(spread.places, dtype=np.int32)).sum()
        mantissas = spread.mantissa[:-1]
        if sizes.kept is not None:
            values, kept = (totals, mantissas, places), sizes.kept
            products = [value * kept[: len(value)] for value in values]
            totals, mantissas, places = mpc.split(
                await mpc.reduce(mpc.concatenate(*products)), *(value.shape for value in values)
            )
        totals = totals + mpc.noise(columns, INTERCEPT_NOISE_BITS + self.n.bit_length() - 1, "means")
        mantissas = mantissas + mpc.noise(self.d, F - VARIANCE_BITS, "variances")
        return {"means": totals, "variances": concatenate([mantissas, outcome, places])}

    async def error_results(self, of: Moments, standardised: Standardised, sizes: Sizes) -> dict[str, Shares]:
        """What standard errors of least squares are made of: of slopes per root of the residuals' variance, on the
        slopes' scale, and n times the leverage at zero.
        """
        mpc, d = self.mpc, self.d
        inverse = await self.exact_inverse(standardised.correlation[0], sizes)
        places = np.arange(d)
        factors = inverse[places, places]
        bits = F + FACTOR_BITS
        bits += bits % 2
        size = await scale(mpc, factors, bits, 0)
        root = await mpc.product(size.mantissa, await rsqrt(mpc, size.mantissa), F, 2 * F + 8)
        powers = mpc.public([1 << (place + 1) for place in range(bits // 2)])
        power = (size.one_hot @ powers.reshape(-1, 1)).reshape(d)
        root = await mpc.product(root, power, F // 2, F + bits // 2 + 6)
        varies = sizes.spread.positive[:-1]
        errors = await self.slopes(root.reshape(1, d), varies.reshape(1, d), sizes)
        results = {"standard errors": errors.ravel()}
        if self.model.fit_intercept:
            leverage = await self.leverage_at_zero(of.totals[0, :-1], inverse, sizes)
            noise = mpc.noise(1, F // 2 - LEVERAGE_BITS + 2, "leverage") if F // 2 > LEVERAGE_BITS else 0
            results["leverage"] = leverage + noise
        return results

    async def exact_inverse(self, correlation: Shares, sizes: Sizes) -> Shares:
        """The inverse of R, whose variance inflation factors are known to be below 2^RANK_BITS."""
        mpc, upper = self.mpc, np.triu_indices(self.d)
        constant = (1 - sizes.spread.positive[:-1]) * ONE
        matrix = correlation + _diagonal(constant)
        ridge = 2.0**-RIDGE_BITS
        x = await self.inverse((matrix + self.scaled_identity(mpc, fixed(ridge)))[None], ridge / 2, self.d + 1)
        for _ in range(correction_steps(self.d)):
            x = await self.newton_step(mpc, matrix[None], x, 1.0, F, 2 * F + STEP_BITS + FACTOR_BITS + 6, upper)
        return x[0]

    async def leverage_at_zero(self, totals: Shares, inverse: Shares, sizes: Sizes) -> Shares:
        """1 + m' R^-1 m, m the means of the features per deviation; raises Refused, rule "spread", for large ones."""
        mpc, norm, f = self.mpc, sizes.norm, F // 2
        powers = mpc.public([1 << place + 1 for place in range(norm.places)])
        sizes_of = (norm.one_hot[:-1] @ powers.reshape(-1, 1)).reshape(self.d)
        limit = sizes_of * (1 << MEAN_BITS - 1)
        bits = norm.places + MEAN_BITS + self.sizes.offset_bits
        far = await mpc.nonnegative(stack([limit - totals, limit + totals]), bits)
        faults = (1 - far).sum(axis=0)
        faults = await mpc.reduce(faults * sizes.spread.positive[:-1])
        if not await mpc.is_zero("a mean is too far away", faults.sum()):
            raise Refused("spread", plain_lasso.too_little_spread())
        half = norm.bits // 2
        factors = await mpc.reduce(norm.factor[:-1] * sizes.spread.positive[:-1])  # without rare levels
        shifted = totals * factors * (1 << max(0, F - half))
        means = await mpc.truncate(shifted, max(0, half - F), F + MEAN_BITS + max(0, half - F) + 4)
        means = await mpc.product(means, sizes.norm_rsqrt[:-1], 2 * F - f, 2 * F + MEAN_BITS + 6)
        narrow = await mpc.truncate(inverse, F - f, F + FACTOR_BITS + 2)
        room = MEAN_BITS + FACTOR_BITS + self.d.bit_length() + 4
        along = await mpc.truncate(means.reshape(1, -1) @ narrow, f, 2 * f + room)
        whole = await mpc.truncate((along * means).sum(), f, 2 * f + room + MEAN_BITS + self.d.bit_length() + 2)
        return whole + (1 << f)

    # What controllers make of the opened numbers

    def analysis(self, iterations: int, count: int, opened: Mapping[str, Any] | None) -> Analysis:
        if opened is None:
            nothing = Fit(iterations, None, None, None, None, self.hiding_bits)
            return Analysis(iterations, self.hiding_bits, (nothing,) * count, 0, None, None, None, None, None, None)
        p = self.mpc.field.p
        signed = {name: [int(x) - p if x > p // 2 else int(x) for x in values] for name, values in opened.items()}
        steps = np.array(signed["slopes"], dtype=object).reshape(count, self.d)
        intercepts = signed.get("intercept", [None] * count)
        variance = self.variance(*signed["variance of the outcome"])
        fits = tuple(
            self.on_original_scale(iterations, steps[k], intercepts[k], signed["r2"][k], variance) for k in range(count)
        )
        place = signed["place of the penalty"][0] if "place of the penalty" in signed else None
        alphas = self.opened_penalties(signed, variance)
        chosen = 0 if place is None or count == 1 else place
        alpha = None if place is None else alphas[place]
        return Analysis(
            iterations,
            self.hiding_bits,
            fits,
            chosen,
            alphas,
            alpha,
            place,
            self.opened_errors(signed, variance),
            self.opened_standard_errors(signed, fits[0], variance),
            self.opened_spreads(signed),
        )

    def opened_penalties(self, signed: Mapping[str, Sequence[int]], variance: Fraction) -> tuple[float, ...]:
        if not self.problem.has_secret_grid:
            return self.problem.penalties
        unit = math.sqrt(variance) / self.problem.least_factor / self.model.l1_ratio
        largest = signed["largest penalty"][0] / ONE * unit
        return tuple(largest * multiple for multiple in self.problem.multiples(self.n))

    def opened_errors(self, signed: Mapping[str, Sequence[int]], variance: Fraction) -> CrossValidated | None:
        if "errors of the folds" not in signed and "cross-validated r2" not in signed:
            return None
        mean = sd = r2 = None
        if "errors of the folds" in signed:
            mean = tuple(float(x * variance) / 2**ERROR_BITS for x in signed["errors of the folds"])
            sd = tuple(float(variance) * math.sqrt(max(0, x) / 2**SPREAD_BITS) for x in signed["spread of errors"])
        if "cross-validated r2" in signed:
            r2 = 1 - signed["cross-validated r2"][0] / 2**ERROR_BITS
        accuracy = float(variance) * 2.0 ** (ERROR_NOISE_BITS + 2 - ERROR_BITS)
        return CrossValidated(mean, sd, r2, accuracy)

    def opened_standard_errors(
        self, signed: Mapping[str, Sequence[int]], fitted: Fit, variance: Fraction
    ) -> tuple[float, ...] | None:
        if "standard errors" not in signed or fitted.r2 is None:
            return None
        *features, outcome = self.exponents
        freedom = self.n - self.d - int(self.model.fit_intercept)
        if freedom <= 0:
            raise LocalProtocolError("least squares without residual degrees of freedom")
        unexplained = math.sqrt(max(0.0, 1 - fitted.r2) / freedom)
        errors = [
            float(Fraction(x, 1 << SLOPE_BITS) * _power(e - outcome)) * unexplained
            for x, e in zip(signed["standard errors"], features, strict=True)
        ]
        if "leverage" in signed:
            leverage = signed["leverage"][0] / 2 ** (F // 2)
            errors.insert(0, math.sqrt(float(variance) * max(1.0, leverage)) * unexplained)
        return tuple(errors)

    def opened_spreads(self, signed: Mapping[str, Sequence[int]]) -> tuple[Spread, ...] | None:
        if "means" not in signed:
            return None
        columns = self.d + 1
        mantissas, places = signed["variances"][:columns], signed["variances"][columns:]
        return tuple(
            Spread(
                float(Fraction(total, self.n) * _power(-exponent)),
                math.sqrt(max(Fraction(0), Fraction(mantissa, ONE) * _power(2 * (place + 1 - exponent)) / self.n**2))
                if place or mantissa > 1 << F - 4
                else 0.0,
            )
            for total, mantissa, place, exponent in zip(signed["means"], mantissas, places, self.exponents, strict=True)
        )

    def variance(self, mantissa: int, place: int) -> Fraction:
        """Of the outcome, on its scale."""
        outcome = self.exponents[-1]
        return Fraction(mantissa, ONE) * _power(2 * (place + 1 - outcome)) / self.n**2

    def on_original_scale(self, iterations: int, steps: Any, intercept: int | None, r2: int, variance: Fraction) -> Fit:
        """A controller's last step: multiply what was opened by the public scales."""
        *features, outcome = self.exponents
        if self.model.positive:  # the last bits of a number near 0 are off by a few units, to either side
            steps = [max(x, 0) for x in steps]
        slopes = [Fraction(x, 1 << SLOPE_BITS) * _power(e - outcome) for x, e in zip(steps, features, strict=True)]
        constant = 0 if intercept is None else Fraction(intercept, self.n << SLOPE_BITS) * _power(-outcome)
        explained = min(Fraction(r2, ONE), Fraction(1))
        if self.model.fit_intercept and not any(steps):  # the mean alone; what was opened is 0 up to noise
            explained = Fraction(0)
        mse = (1 - explained) * variance
        coefficients = tuple(map(float, slopes))
        return Fit(iterations, coefficients, float(constant), float(explained), float(mse), self.hiding_bits)

    @property
    def hiding_bits(self) -> float:
        """Of all masked openings so far."""
        return self.sizes.statistical_bits - math.log2(max(1, self.mpc.opened.masked))


def correction_steps(features: int) -> int:
    """How many of Newton's steps take the ridge out of an inverse up to 2^-CORRECTED_BITS of it.

    The inverse's largest eigenvalue is at most the sum of the variance inflation factors, below features *
    2^RANK_BITS, so the ridge's part of it is below 1; each step squares that.
    """
    share = features * 2.0 ** (RANK_BITS - RIDGE_BITS)
    return max(1, math.ceil(math.log2(CORRECTED_BITS / math.log2((1 + share) / share))))


def _diagonal(values: Shares) -> Shares:
    """The matrix with these numbers on its diagonal."""
    size = len(values)
    places = np.arange(size)
    limbs = np.zeros((len(values.limbs), size, size), np.int64)
    limbs[:, places, places] = values.limbs
    return Residues(values.field, limbs, values.bound)


def _power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent
