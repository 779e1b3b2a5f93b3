"""Parties with and without the compiled functions in one fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lassos import deal, reference, strongest_penalty, table
from mpc_processes import run_three

from pipeline import kernels
from pipeline.config import Model
from pipeline.mpc_runtime import Runtime
from pipeline.secure_analysis import Fit, fit_path


async def fit_without(runtime: Runtime, gram: Any, problem: Any, without: tuple[int, ...]) -> tuple[bool, list[Fit]]:
    if runtime.pid in without:
        kernels.compiled = None
    return kernels.compiled is not None, await fit_path(runtime, gram, problem)


@pytest.mark.skipif(kernels.compiled is None, reason="the compiled functions are not there")
def test_one_party_without_the_compiled_functions_fits_with_two_that_have_them() -> None:
    x, y = table("independent", 300, 6)
    alphas = tuple(strongest_penalty(x, y, strength) for strength in (0.5, 0.1, 0.01))
    model = Model(alphas[0])
    parties = [(gram, replace(problem, alphas=alphas)) for gram, problem in deal(x, y, model)]
    for without in range(3):
        results = run_three(fit_without, [(*party, (without,)) for party in parties])
        assert [has for has, _ in results] == [pid != without for pid in range(3)]
        first, second = (fits for _, fits in results[:2])
        assert [fit.coefficients for fit in first] == [fit.coefficients for fit in second]
        for alpha, fit in zip(alphas, first, strict=True):
            expected = reference(x, y, Model(alpha)).coefficients
            assert np.abs((np.array(fit.coefficients) - expected) * x.std(0)).max() < 1e-7 * y.std()
