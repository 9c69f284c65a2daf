"""The policies QUIVer brings, by name."""

from __future__ import annotations

from quiver.errors import UsageError
from quiver.selection.cheapest_within_slo import CheapestWithinSlo
from quiver.selection.least_loaded import LeastLoaded
from quiver.selection.peak_ewma import PeakEwma
from quiver.selection.policy import Factory
from quiver.selection.power_of_two import PowerOfTwo
from quiver.selection.prefix_affinity import PrefixAffinity
from quiver.selection.prequal import Prequal
from quiver.selection.random_choice import RandomChoice
from quiver.selection.round_robin import RoundRobin
from quiver.selection.weighted import Weighted

POLICIES: dict[str, Factory] = {
    policy.name: policy
    for policy in (
        RandomChoice,
        Weighted,
        RoundRobin,
        LeastLoaded,
        PowerOfTwo,
        PeakEwma,
        Prequal,
        PrefixAffinity,
        CheapestWithinSlo,
    )
}


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def named(name: str) -> Factory:
    """The factory of a built-in policy: 'power-of-two', 'power_of_two' and 'PowerOfTwo' are the same."""
    for known, factory in POLICIES.items():
        if _plain(name) in (_plain(known), _plain(getattr(factory, "__name__", known))):
            return factory
    raise UsageError(
        f"no policy is named {name!r}: choose one of {', '.join(POLICIES)}, or give 'module:Class' or 'file.py:Class'"
    )
