"""Hypothesis for all tests: whether one passes never depends on how fast the machine is."""

from hypothesis import HealthCheck, settings

from tests.examples import examples

settings.register_profile(
    "quiver", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(100)
)
settings.load_profile("quiver")
