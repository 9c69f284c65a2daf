"""Who plays false in a world. An adversary is a plug: `corrupt(population, rng)` changes nodes before they start and says whom.

Rules of this file: adversaries are wrapped around real roles at their ports (engine, transport, ledger), with keys of their own;
what they did to whom is ground truth that no role can see. Built-ins are one family a file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from quiver.errors import UsageError
from quiver.ids import PeerId
from sim.adversary_aggregators import Censor, Equivocator, Perjurer, Replayer, Withholder
from sim.adversary_payers import Runaway
from sim.adversary_providers import Boaster, Overreporter, Reseller
from sim.adversary_wash import WashRing
from sim.plug import Plug, PlugPoint

if TYPE_CHECKING:
    from sim.population import Population

Node = TypeVar("Node")

ADVERSARY = PlugPoint(
    field="adversary",
    builtins={
        "over-report": Overreporter, "boast": Boaster, "resell": Reseller, "wash": WashRing, "run-away": Runaway,
        "withhold": Withholder, "censor": Censor, "equivocate": Equivocator, "replay-root": Replayer, "perjure": Perjurer,
    },
    methods={"corrupt": ("population", "rng")},
)  # fmt: skip


def corrupt(plugs: Sequence[Plug], population: Population, rng_of: Callable[[str], random.Random]) -> dict[PeerId, str]:
    """Let every adversary choose its nodes; peer id -> what it plays, several joined by a plus. `rng_of(name)` is its own stream."""
    culprits: dict[PeerId, str] = {}
    for number, plug in enumerate(plugs):
        adversary: Any = ADVERSARY.make(plug)
        chosen: Mapping[PeerId, str] = adversary.corrupt(population, rng_of(f"adversary-{number}"))
        known = population.names()
        for peer, kind in chosen.items():
            if peer not in known:
                raise UsageError(f"scenario field adversary: {adversary!r} names a peer that is no node of this world")
            culprits[peer] = f"{culprits[peer]}+{kind}" if peer in culprits else kind
    return culprits
