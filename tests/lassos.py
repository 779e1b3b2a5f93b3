"""Tables for tests of step 8, what scikit-learn makes of them, and the shares that stand for them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Lasso, LinearRegression
from sklearn.preprocessing import StandardScaler

from pipeline.config import Model
from pipeline.field import FIELD_127
from pipeline.problem import Problem
from pipeline.share_convert import GramShare

KINDS = ("independent", "sums", "duplicates", "pairs", "neighbours", "common", "heavy tails", "rare", "dummies")


@dataclass(frozen=True)
class Encoded:
    """A table as integers, as step 1 leaves it; the outcome is the last column."""

    values: NDArray[np.object_]  # (n, columns)
    offsets: tuple[int, ...]
    exponents: tuple[int, ...]

    @property
    def gram(self) -> NDArray[np.object_]:
        """Of [1, columns]."""
        z = np.concatenate((np.ones((len(self.values), 1), dtype=object), self.values), axis=1)
        return z.T @ z


@dataclass(frozen=True)
class Reference:
    coefficients: NDArray[np.float64]
    intercept: float
    r2: float
    mse: float


def table(kind: str, n: int, d: int, seed: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features of a difficult kind and an outcome of which they explain about two thirds."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    half = d // 2
    match kind:
        case "sums":
            x[:, -1], x[:, -2] = x[:, 0] + x[:, 1], x[:, 2] - x[:, 3]
        case "duplicates":
            x[:, half : 2 * half] = x[:, :half]
        case "pairs":
            x[:, half : 2 * half] = 0.99 * x[:, :half] + np.sqrt(1 - 0.99**2) * x[:, half : 2 * half]
        case "neighbours":
            for j in range(1, d):
                x[:, j] = 0.9 * x[:, j - 1] + np.sqrt(1 - 0.81) * x[:, j]
        case "common":
            x = np.sqrt(0.1) * x + np.sqrt(0.9) * rng.standard_normal((n, 1))
        case "heavy tails":
            x = np.exp(1.5 * x)
        case "rare":
            x[:, :half] = x[:, :half] > 2
            x[0, :half] = 1
        case "dummies":
            x = np.eye(d)[rng.integers(0, d, n)]
    slopes = np.zeros(d)
    some = rng.permutation(d)[: max(1, d // 3)]
    slopes[some] = rng.uniform(0.5, 2, len(some)) * rng.choice([-1, 1], len(some))
    y = x @ slopes
    return x, y + rng.standard_normal(n) * 0.7 * (y.std() + 1e-9)


def strongest_penalty(x, y, model_alpha: float, standardize: bool = True, fit_intercept: bool = True) -> float:
    """`model_alpha` times the smallest alpha that removes every feature."""
    centred = x - x.mean(0) if fit_intercept else x
    deviation = x.std(0)
    scaled = centred / np.where(deviation > 0, deviation, 1) if standardize else centred
    return float(model_alpha * np.abs(scaled.T @ (y - y.mean() * fit_intercept) / len(y)).max())


def encode(columns: NDArray[np.float64]) -> Encoded:
    """Fixed point as in step 1 without declared ranges: each column around its middle, the largest power of two."""
    low, high = columns.min(0), columns.max(0)
    half = np.where(high > low, (high - low) / 2, 1)
    exponents = tuple(int(e) for e in np.floor(43 - 1e-9 - np.log2(half)))
    offsets = tuple(round((a + b) / 2 * 2.0**e) for a, b, e in zip(low, high, exponents, strict=True))
    values = [
        [round(v * 2.0**e) - c for v, e, c in zip(row, exponents, offsets, strict=True)] for row in columns.tolist()
    ]
    return Encoded(np.array(values, dtype=object), offsets, exponents)


def reference(x, y, model: Model) -> Reference:
    """The same model by scikit-learn; a feature that is constant is left out."""
    varies = x.std(0) > 1e-9 * np.abs(x).max(0)
    scaler = StandardScaler(with_mean=model.fit_intercept, with_std=model.standardize).fit(x)
    scale = scaler.scale_ if model.standardize else np.ones(x.shape[1])
    scaled = scaler.transform(x) * varies
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model.alpha == 0:
            fitted = LinearRegression(fit_intercept=model.fit_intercept).fit(scaled, y)
        else:
            fitted = Lasso(model.alpha, fit_intercept=model.fit_intercept, tol=1e-14, max_iter=10**6).fit(scaled, y)
    coefficients = fitted.coef_ / scale * varies
    intercept = float(y.mean() - coefficients @ x.mean(0)) if model.fit_intercept else 0.0
    residuals = y - x @ coefficients - intercept
    mse = float(np.mean(residuals**2))
    return Reference(coefficients, intercept, 1 - mse / float(y.var()), mse)


def objective(x, y, model: Model, coefficients, intercept: float) -> float:
    """What the lasso minimises, per variance of the outcome."""
    weights = x.std(0) if model.standardize else 1
    loss = np.mean((y - intercept - x @ coefficients) ** 2) / 2
    return float((loss + model.alpha * np.abs(coefficients * weights).sum()) / y.var())


def deal(x, y, model: Model, split: int | None = None) -> list[tuple[GramShare, Problem]]:
    """Shares of the Gram matrix for three parties: controller 0 has `split` features and the outcome, 1 the rest."""
    return deal_folds(x, y, replace(model, folds=0), split, model)


def deal_folds(
    x, y, model: Model, split: int | None = None, solved: Model | None = None, **settings: Any
) -> list[tuple[GramShare, Problem]]:
    """The same, with a Gram matrix for each fold: record i is in fold i modulo `model.folds`.

    solved : the model of the problem, if another one; settings : of the problem.
    """
    split = x.shape[1] // 2 if split is None else split
    columns = encode(np.column_stack((x[:, :split], y, x[:, split:])))
    owners = (0,) * (split + 1) + (1,) * (x.shape[1] - split)
    folds = max(1, model.folds)
    grams = np.array([replace(columns, values=columns.values[fold::folds]).gram for fold in range(folds)])
    rng = np.random.default_rng(7)
    p = FIELD_127.p
    first, second = (_uniform(rng, p, grams.shape) for _ in range(2))
    parties = []
    for i in range(3):
        shares = FIELD_127.from_ints((grams + first * (i + 1) + second * (i + 1) ** 2) % p)
        own = tuple(c for c, owner in zip(columns.offsets, owners, strict=True) if owner == i)
        exponents = columns.exponents if i < 2 else None
        problem = Problem(solved or model, owners, split, exponents, own, **settings)
        parties.append((GramShare(len(y), FIELD_127, shares, folds), problem))
    return parties


def _uniform(rng, p: int, shape):
    count = int(np.prod(shape))
    numbers = [int.from_bytes(rng.bytes(32), "little") % p for _ in range(count)]
    return np.array(numbers, dtype=object).reshape(shape)
