"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# A machine that is busy with three parties and their workers is slow now and then; nothing here measures time.
settings.register_profile("pipeline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pipeline")
