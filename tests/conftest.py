"""Settings of all tests."""

import pytest
from hypothesis import HealthCheck, settings

from pipeline import kernels

# A machine that is busy with three parties and their workers is slow now and then; nothing here measures time.
settings.register_profile("pipeline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pipeline")


@pytest.fixture(params=["compiled", "numpy"])
def either_arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with the compiled functions, and without."""
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "compiled", None)
    elif kernels.compiled is None:
        pytest.skip("the compiled functions are not there")
