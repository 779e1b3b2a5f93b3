"""What a controller computes from a result and its own table, beyond the model; `docs/leakage.md` says each."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
from lassos import Reference, reference
from numpy.typing import NDArray

from pipeline.bounds import INTERCEPT_NOISE_BITS, VALUE_BITS, VARIANCE_BITS
from pipeline.config import Model

LEAKAGE = " ".join((Path(__file__).parents[2] / "docs/leakage.md").read_text(encoding="utf-8").split())

Table = NDArray[np.float64]


def opened(x: Table, y: Table, model: Model) -> tuple[Reference, float]:
    """The result on the matched records, and the variance of the outcome, as coarse as step 8 opens them."""
    found, step = reference(x, y, model), np.ptp(y) / 2 ** (VALUE_BITS + 1)
    above, beyond = np.random.default_rng(3).uniform(-1, 1, 2)
    intercept = found.intercept + above * step * 2**INTERCEPT_NOISE_BITS
    mse = found.mse * (1 + beyond * 2.0**-VARIANCE_BITS)
    return Reference(found.coefficients, intercept, found.r2, mse), mse / (1 - found.r2)


def test_who_owns_the_outcome_finds_the_few_own_records_without_a_match_by_its_variance() -> None:
    assert "the few of its own records that have no match" in LEAKAGE
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3))
    y = np.round(50 + 10 * (x @ [1, 0.5, -0.7] + rng.normal(size=200)), 1)
    unmatched = (16, 179)
    _, variance = opened(np.delete(x, unmatched, 0), np.delete(y, unmatched), Model(0.05))
    pairs = np.array(list(combinations(range(200), 2)))
    means = (y.sum() - y[pairs].sum(1)) / 198
    variances = ((y**2).sum() - (y[pairs] ** 2).sum(1)) / 198 - means**2
    fitting = pairs[abs(variances / variance - 1) < 2.0 ** (2 - VARIANCE_BITS)]
    assert [tuple(pair) for pair in fitting.tolist()] == [unmatched]


def test_who_owns_outcome_and_all_columns_of_the_model_finds_which_of_its_records_matched() -> None:
    assert "the columns that stay in the model and the outcome are all its own" in LEAKAGE
    rng = np.random.default_rng(2)
    own = rng.normal(size=(18, 2))
    y = own @ [2.0, -1.5] + 0.5 * rng.normal(size=18)
    matched = tuple(sorted(rng.choice(18, 11, replace=False).tolist()))
    others = rng.normal(size=(18, 1))
    result, _ = opened(np.column_stack((own, others))[list(matched)], y[list(matched)], Model(0.4))
    assert (result.coefficients != 0).tolist() == [True, True, False]
    subsets = np.array(list(combinations(range(18), 11)))  # lattices do the same for a hundred records
    # The residuals of the matched records sum to 0; with a feature they sum to the penalty.
    residuals = y - own @ result.coefficients[:2] - result.intercept
    sums = residuals[subsets].sum(1)
    deviations = own[subsets].std(1)
    products = (own * residuals[:, None])[subsets].sum(1)
    off = np.abs(products - 11 * 0.4 * deviations * np.sign(result.coefficients[:2])).max(1)
    fitting = subsets[(np.abs(sums) < 1e-6) & (off < 1e-6)]
    assert [tuple(subset) for subset in fitting.tolist()] == [matched]


def test_the_levels_of_a_category_tell_their_counts_and_the_sums_of_the_outcome() -> None:
    assert "each of its levels" in LEAKAGE
    rng = np.random.default_rng(4)
    levels = rng.choice(4, 300, p=[0.6, 0.25, 0.1, 0.05])
    indicators = (levels[:, None] == np.arange(1, 4)).astype(float)
    y = np.minimum(rng.poisson(5 + 3 * levels), 127).astype(float)
    result, _ = opened(indicators, y, Model(0.01))
    counts = np.arange(1, 300)
    for j in range(3):
        # A level's fitted mean times its count is the sum of its outcomes, less the penalty.
        penalty = 300 * 0.01 * np.sqrt(counts * (300 - counts)) / 300 * np.sign(result.coefficients[j])
        sums = counts * (result.coefficients[j] + result.intercept) + penalty
        whole = np.abs(sums - np.round(sums)) < 1e-5
        found = list(zip(counts[whole].tolist(), np.round(sums[whole]).astype(int).tolist(), strict=True))
        assert found == [(int(indicators[:, j].sum()), int(y @ indicators[:, j]))]
