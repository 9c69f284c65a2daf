"""A scenario: everything that defines a run but its seed. Frozen, hashable by content, sweepable.

A field of type `Plug` is a plug point: `sim.plug` says what it takes, docs/extend.md shows each. The hash covers the source
of plugged-in classes, the package version and the checksums of data, so a stored result is never mistaken for another.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

import quiver
from quiver.errors import UsageError
from quiver.gateway.hedging import HedgeTerms
from quiver.params import Params
from quiver.receipts.fraud.registry import DETECTORS
from quiver.receipts.fraud.registry import resolve as resolve_detector
from sim import data
from sim.adversary import ADVERSARY
from sim.churn import check_churn
from sim.fingerprint import describe_plug
from sim.hardware import HARDWARE
from sim.machine import SERVICE
from sim.named_workloads import WORKLOAD, make_workload
from sim.plug import Plug, PlugPoint, plug_name
from sim.pricing import PRICING
from sim.rules import JITTER, LINKS, LOSS
from sim.settings import read_settings, write_settings
from sim.table import make_record
from sim.topology import TOPOLOGY
from sim.workload import Workload, poisson

# Those that take nothing but plugs; jitter, loss, churn and links have simpler values too.
_POINTS: tuple[PlugPoint, ...] = (WORKLOAD, TOPOLOGY, HARDWARE, PRICING, SERVICE)
_PLUGS = (
    "workload", "topology", "jitter", "loss", "links", "policy", "hardware", "pricing", "churn", "service", "adversary", "detectors",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Defaults are the demo's; durations are simulated seconds.

    Examples
    --------
    >>> Scenario.named("tour").replace(providers=5).providers
    5
    """

    name: str = "custom"
    providers: int = 1000
    gateways: int = 20
    duration_s: float = 600.0
    "Arrivals stop after this; what is under way may finish within `drain_s`."
    warmup_s: float = 0.0
    "Requests that arrive earlier are kept in the frames, but cut from summaries."
    drain_s: float = 300.0
    workload: Plug = "azure-conv"
    "A name of `sim.named_workloads`, a `Workload`, or what makes one of (seed)."
    arrivals: float = 1.0
    "Factor on the workload's arrival rate."
    load: float | None = None
    "Offered load as a share of the pool's capacity; replaces `arrivals`. Capacity is computed, see `sim.capacity`."
    topology: Plug = "planetlab"
    "A name, a `Topology` (`Topology.from_graph` takes networkx), or what makes one of (nodes, seed)."
    jitter: Plug | bool = True
    "Whether round-trip times wander as the topology's do, or a `LinkRule` that does it."
    loss: Plug | float = 0.0
    "Packet loss probability (an assumption, there is no measured fit), or a `LinkRule`."
    links: Plug | tuple[Plug, ...] = ()
    "Further `LinkRule`s, whose delays are added; a class or function is called with (topology, streams)."
    policy: Plug = "power-of-two"
    hedge_share: float = 0.0
    "Hedges for each request that gateways may send, on average at most; 0: none."
    hedge_after_s: float | None = None
    "Silence before a hedge; None: the 95th percentile of what the gateway saw for such requests."
    hardware: Plug = "consumer"
    "A `Pool` or its name in `sim.hardware`: `consumer` is heterogeneous; a profile (name) makes all providers alike."
    slots: int | None = None
    "Streams a provider serves at once; None takes its hardware profile's."
    queue_max: int = 16
    pricing: Plug = "spread"
    "`spread`, `flat`, or a `Pricing`: what each provider asks."
    churn: Plug | float = "none"
    "`none`, `spot`, `ipfs`, departures per hour, or a `Churn`."
    adversary: Plug | tuple[Plug, ...] = ()
    "Who plays false, one or several: a name of `sim.adversary`, an object with its numbers, or a class of your own."
    detectors: Plug | tuple[Plug, ...] = ()
    "Fraud detectors, one or several: names, classes, or `all`. They fill `result.evidence`."
    distrust: bool = False
    "Gateways act on what the detectors find: whom two of them suspect is passed over while anybody else can serve."
    frames: str = "sized"
    "`encoded` encodes and decodes every frame, `sized` only encodes."
    signatures: str = "modelled"
    "`real` Ed25519 and secp256k1, or `modelled` tags of the same size."
    chunks: str = "coalesced"
    "`token`: one frame a token; `coalesced`: `chunk_tokens` tokens a frame."
    chunk_tokens: int = 16
    discovery: str = "dht"
    "`dht`: join and find by real lookups; `given`: gateways are told all providers at the start."
    service: Plug = "engine"
    "`engine`: the LLM service-time model; `instant`: answers at once; or what makes an engine of a `sim.machine.Machine`."
    output_tokens: int | None = None
    "Fixed answer length; None takes the workload's."
    block_time_s: float = 2.0
    clock_skew_ms: float = 50.0
    "Standard deviation of node clocks."
    params: Params = field(default_factory=Params.default)
    fallback: bool = False
    "Use the synthetic twin when the data folder has no trace; the result says so."

    def __post_init__(self) -> None:
        for name in ("links", "adversary", "detectors"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, low in (
            ("providers", 1), ("gateways", 1), ("chunk_tokens", 1), ("slots", 1), ("queue_max", 0), ("output_tokens", 1),
            ("warmup_s", 0), ("drain_s", 0), ("block_time_s", 0), ("clock_skew_ms", 0), ("hedge_share", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:
                raise UsageError(f"scenario {self.name}: {name} must be at least {low}, not {value}")
        for name, choices in (
            ("frames", ("encoded", "sized")), ("signatures", ("real", "modelled")), ("chunks", ("token", "coalesced")),
            ("discovery", ("dht", "given")),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"scenario {self.name}: {name} is one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        for name in ("duration_s", "arrivals", "load"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"scenario {self.name}: {name} must be positive, not {value}")
        # Refuses numbers that make no sense.
        _ = self.hedging
        self._check_plugs()

    def _check_plugs(self) -> None:
        """Early and cheap: names exist and kinds are right. What a plug makes is checked when a world makes it."""
        for point in _POINTS:
            point.check(getattr(self, point.field))
        if not isinstance(self.jitter, bool):
            JITTER.check(self.jitter)
        if not isinstance(self.loss, (int, float)):
            LOSS.check(self.loss)
        elif not 0 <= self.loss < 1:
            raise UsageError(f"scenario {self.name}: loss is a probability from 0 to below 1, not {self.loss}")
        for plug in self.link_plugs:
            LINKS.check(plug)
        for plug in self.adversary_plugs:
            ADVERSARY.check(plug)
        for plug in self.detector_plugs:
            resolve_detector(plug)
        if self.distrust and not self.detector_plugs:
            raise UsageError(f"scenario {self.name}: distrust needs detectors to act on: add detectors='all'")
        check_churn(self.churn)
        if not isinstance(self.policy, str) and not callable(self.policy):
            raise UsageError(
                f"scenario {self.name}: policy is a {type(self.policy).__name__}: give the class, so each gateway makes its own"
            )

    @property
    def hedging(self) -> HedgeTerms | None:
        """What gateways do about silent providers."""
        return HedgeTerms(share=self.hedge_share, after_s=self.hedge_after_s) if self.hedge_share else None

    @property
    def link_plugs(self) -> tuple[Plug, ...]:
        """`links`, one or several, as several."""
        # A rule may itself be a named tuple.
        return self.links if type(self.links) is tuple else (self.links,)

    @property
    def adversary_plugs(self) -> tuple[Plug, ...]:
        """`adversary`, one or several, as several."""
        return self.adversary if type(self.adversary) is tuple else (self.adversary,)

    @property
    def detector_plugs(self) -> tuple[Plug, ...]:
        """`detectors`, one or several, as several."""
        plugs = self.detectors if type(self.detectors) is tuple else (self.detectors,)
        return tuple(DETECTORS) if plugs == ("all",) else plugs

    @classmethod
    def named(cls, name: str) -> Scenario:
        """One of `names()`."""
        if name not in _NAMED:
            raise UsageError(f"no scenario is called {name!r}; there are: {', '.join(sorted(_NAMED))}")
        return _NAMED[name]()

    @staticmethod
    def names() -> dict[str, str]:
        """Name -> what it is."""
        return {name: (make.__doc__ or "").strip() for name, make in sorted(_NAMED.items())}

    def replace(self, **changes: Any) -> Scenario:
        """A copy with other fields; names of `Params` fields go to `params`."""
        own = {f.name for f in dataclasses.fields(self)}
        inner = {f: changes.pop(f) for f in list(changes) if f not in own and f in Params.__struct_fields__}
        unknown = sorted(set(changes) - own)
        if unknown:
            known = [*sorted(own - {"params"}), *Params.__struct_fields__]
            close = difflib.get_close_matches(unknown[0], known, n=3)
            raise UsageError(
                f"a scenario has no field {unknown[0]!r}; "
                + (f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}")
            )
        if inner:
            changes["params"] = msgspec.structs.replace(changes.get("params", self.params), **inner)
        return dataclasses.replace(self, **changes)

    def with_settings(self, settings: Iterable[str]) -> Scenario:
        """`key=value` texts from a command line, each value read as the type of the field it replaces."""
        fields = {f.name: str(f.type) for f in dataclasses.fields(self)}
        return self.replace(**read_settings(settings, fields, self.params))

    def write_command(self, seed: int) -> str:
        """The line that runs it again; says so where there is none."""
        if self.name not in _NAMED:
            return f"World(scenario, seed={seed}).run() with a scenario that has no name of its own"
        base = Scenario.named(self.name)
        changed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(base, f.name)
        }
        params: Params | None = changed.pop("params", None)
        if params is not None:
            names = Params.__struct_fields__
            changed |= {n: getattr(params, n) for n in names if getattr(params, n) != getattr(base.params, n)}
        try:
            settings = write_settings(changed)
        except UsageError as error:
            return f"World(scenario, seed={seed}).run(); no command line: {error}"
        return " ".join([f"python -m sim run {self.name} --seed {seed}", *settings])

    def sweep(self, **axes: Iterable[Any]) -> Any:
        """All combinations of the given fields (and `seed`), as a `sim.sweep.Sweep`."""
        from sim.sweep import Sweep

        seeds = tuple(axes.pop("seed", (1,)))
        keys, values = list(axes), [list(axis) for axis in axes.values()]
        scenarios = [self.replace(**dict(zip(keys, row, strict=True))) for row in itertools.product(*values)]
        return Sweep(scenarios=scenarios, seeds=seeds)

    def load_workload(self, seed: int) -> Workload:
        """The workload before any scaling; its own draws, if any, come from the seed."""
        return make_workload(self.workload, seed=seed, fallback=self.fallback)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: every field, plugs by name."""
        described: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Params):
                value = {name: getattr(value, name) for name in Params.__struct_fields__}
            elif isinstance(value, Workload):
                value = f"{value.name}:{value.checksum()}"
            elif type(value) is tuple:
                value = [plug_name(plug) for plug in value]
            elif not isinstance(value, (str, int, float, bool, type(None))):
                value = plug_name(value)
            described[f.name] = value
        return described

    def _repr_html_(self) -> str:
        """What differs from the defaults."""
        default = Scenario(name=self.name).describe()
        changed = {name: value for name, value in self.describe().items() if value != default[name]}
        constants = changed.pop("params", {})
        changed |= {name: value for name, value in constants.items() if value != default["params"][name]}
        return make_record(changed, caption=f"scenario {self.name}, where it differs from the defaults")

    def hash(self) -> str:
        """16 hex digits over every field, the sources of plugged-in classes, the version and the data's checksums."""
        sources = {name: describe_plug(getattr(self, name)) for name in _PLUGS if name != "workload"}
        content = self.describe() | {
            "version": quiver.__version__, "sources": sources, "workload_checksum": self.load_workload(0).checksum(),
            "topology_checksum": self._topology_checksum(),
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _topology_checksum(self) -> str | None:
        """Of the measured matrix; None without one, or where a stand-in is allowed and the data is missing."""
        if self.topology not in data.FILES:
            return None
        try:
            return data.checksum(self.topology)
        except data.DataMissing:
            if not self.fallback:
                raise
            return None


def _tour() -> Scenario:
    """A small world that runs in seconds: 20 providers, 2 gateways, one simulated minute of the Azure trace."""
    return Scenario(
        name="tour", providers=20, gateways=2, duration_s=60.0, arrivals=0.5, fallback=True,
        params=_params(epoch_ms=60_000),
    )  # fmt: skip


def _azure_planetlab() -> Scenario:
    """The demo: 1,000 providers and 20 gateways serve 10 minutes of the Azure conversation trace x10 over PlanetLab latencies."""
    # Chunks of 64 tokens: the first token still comes alone and the last one on time, so TTFT and end-to-end are exact.
    return Scenario(name="azure-planetlab", arrivals=10.0, chunk_tokens=64, params=_params(epoch_ms=120_000))


def _kademlia_10k() -> Scenario:
    """10,000 nodes join by real lookups, then 10,000 lookups of existing nodes, PlanetLab latencies with jitter."""
    return Scenario(name="kademlia-10k", providers=10_000, gateways=1)


def _requests_1m() -> Scenario:
    """360,000 full requests (Poisson, 2,000 per second): 8 tokens in 2 chunks, quote, receipt, acknowledgement, no engine."""
    return Scenario(
        name="requests-1m", providers=32, gateways=4, topology="synthetic", jitter=False, service="instant", output_tokens=8,
        chunk_tokens=4, discovery="given", slots=64, queue_max=1024, duration_s=180.0,
        workload=poisson(rate_rps=2000.0, duration_s=180.0, input_tokens=64, output_tokens=8),
        params=_params(
            epoch_ms=60_000,
            channels_max=16, first_credit=1_000_000, credit_limit_max=10_000_000, unproven_credit_max=100_000_000,
            channel_deposit_credits=1_000_000_000,
        ),
    )  # fmt: skip


def _params(**changes: Any) -> Params:
    """The default constants with a few changed."""
    return msgspec.structs.replace(Params.default(), **changes)


_NAMED: dict[str, Callable[[], Scenario]] = {
    "tour": _tour,
    "azure-planetlab": _azure_planetlab,
    "kademlia-10k": _kademlia_10k,
    "requests-1m": _requests_1m,
}
