"""Models other than the lasso, by three real processes, against scikit-learn on the plain join."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import PARTIES, run_study
from sklearn.linear_model import ElasticNet
from sklearn.preprocessing import StandardScaler
from studies import make_study

ROWS = 120


def study(folder: Path, x: Any, y: Any, model: dict[str, Any]) -> Path:
    half = x.shape[1] // 2

    def csv(names: list[str], matrix: Any) -> str:
        lines = [",".join(["id", *names])]
        return "\n".join(lines + [",".join([str(i), *map(repr, row)]) for i, row in enumerate(matrix.tolist())]) + "\n"

    names = [f"x{j}" for j in range(x.shape[1])]
    return make_study(
        folder,
        hospital_csv=csv([*names[:half], "y"], np.column_stack((x[:, :half], y))),
        insurer_csv=csv(names[half:], x[:, half:]),
        model=model,
        join={"keys": "subgroup"},
    )


@pytest.fixture
def table() -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((ROWS, 6)) * [1, 10, 0.1, 1, 1, 5] + 4
    return x, 3 * x[:, 0] - 0.2 * x[:, 1] + x[:, 4] + rng.standard_normal(ROWS)


def test_an_elastic_net_without_negative_coefficients_is_that_of_scikit_learn(tmp_path: Path, table: Any) -> None:
    x, y = table
    model = {"kind": "elastic-net", "alpha": 0.2, "l1_ratio": 0.3, "positive": True}
    ended = run_study(study(tmp_path, x, y, model))
    assert [ended[party].state for party in PARTIES] == [0, 0, 0], ended[0].err
    result = ended[0].result
    assert result is not None
    scaler = StandardScaler().fit(x)
    expected = ElasticNet(0.2, l1_ratio=0.3, positive=True, tol=1e-12, max_iter=10**6).fit(scaler.transform(x), y)
    found = np.array(list(result["coefficients"].values())) * scaler.scale_
    assert np.abs(found - expected.coef_).max() < 1e-7 * y.std() and (found >= 0).all() and (found == 0).any()
    assert {key: result["model"][key] for key in model} == model


def test_a_factor_of_zero_keeps_a_feature_that_the_penalty_would_remove(tmp_path: Path, table: Any) -> None:
    x, y = table
    ended = run_study(study(tmp_path, x, y, {"alpha": 1e6, "penalty_factors": {"insurer.x4": 0}}))
    assert [ended[party].state for party in PARTIES] == [0, 0, 0], ended[0].err
    result = ended[1].result
    assert result is not None
    slope = np.polyfit(x[:, 4], y, 1)[0]
    assert result["coefficients"]["insurer.x4"] == pytest.approx(slope, rel=1e-9)
    assert [name for name, value in result["coefficients"].items() if value] == ["insurer.x4"]


def test_least_squares_on_dependent_features_are_refused_at_all_parties_alike(tmp_path: Path, table: Any) -> None:
    x, y = table
    x[:, 5] = x[:, 0] + x[:, 3]
    ended = run_study(study(tmp_path, x, y, {"kind": "ols", "alpha": None}))
    assert [ended[party].state for party in PARTIES] == [3, 3, 3], ended[0].err
    assert len({ended[party].last_line for party in PARTIES}) == 1
    assert "combination of the others" in ended[2].last_line
    assert all(ended[party].result is None for party in PARTIES)
