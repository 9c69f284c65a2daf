"""A scenario: everything that defines a run but its seed. Frozen, hashable by content, sweepable.

Every plug point takes a value, a class, `module:Class` or `file.py:Class`. The hash covers the source of plugged-in
classes, the package version and the checksums of data, so a stored result is never mistaken for another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

import quiver
from quiver.errors import UsageError
from quiver.params import Params
from sim.source import describe_source
from sim.workload import Workload, poisson

Plug = Any
"""A registered name, a class, a factory, `module:Class` or `file.py:Class`."""


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
    workload: Any = "azure-conv"
    "A name of `Workload.named`, or a `Workload`."
    arrivals: float = 1.0
    "Factor on the workload's arrival rate."
    load: float | None = None
    "Offered load as a share of the pool's capacity; replaces `arrivals`. Capacity is computed, see `sim.capacity`."
    topology: str = "planetlab"
    jitter: bool = True
    loss: float = 0.0
    "Packet loss probability: an assumption, there is no measured fit."
    policy: Plug = "power-of-two"
    hardware: str = "consumer"
    "A pool of `sim.hardware`: `consumer` is heterogeneous, a profile name makes all providers alike."
    slots: int | None = None
    "Streams a provider serves at once; None takes its hardware profile's."
    queue_max: int = 16
    churn: str = "none"
    "`none`, `spot`, `ipfs`, or departures per hour as a number."
    frames: str = "sized"
    "`encoded` encodes and decodes every frame, `sized` only encodes."
    signatures: str = "modelled"
    "`real` Ed25519 and secp256k1, or `modelled` tags of the same size."
    chunks: str = "coalesced"
    "`token`: one frame a token; `coalesced`: `chunk_tokens` tokens a frame."
    chunk_tokens: int = 16
    discovery: str = "dht"
    "`dht`: join and find by real lookups; `given`: gateways are told all providers at the start."
    service: str = "engine"
    "`engine`: the LLM service-time model; `instant`: answers at once, to measure the protocol alone."
    output_tokens: int | None = None
    "Fixed answer length; None takes the workload's."
    block_time_s: float = 2.0
    clock_skew_ms: float = 50.0
    "Standard deviation of node clocks."
    params: Params = field(default_factory=Params.default)
    fallback: bool = False
    "Use the synthetic twin when the data folder has no trace; the result says so."

    def __post_init__(self) -> None:
        for name, low in (("providers", 1), ("gateways", 1), ("chunk_tokens", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"scenario {self.name}: {name} must be at least {low}, not {getattr(self, name)}")
        for name, choices in (
            ("frames", ("encoded", "sized")), ("signatures", ("real", "modelled")), ("chunks", ("token", "coalesced")),
            ("discovery", ("dht", "given")), ("service", ("engine", "instant")),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"scenario {self.name}: {name} is one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        if self.duration_s <= 0 or self.arrivals <= 0 or (self.load is not None and not 0 < self.load):
            raise UsageError(f"scenario {self.name}: duration_s, arrivals and load must be positive")

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
            raise UsageError(f"a scenario has no field {unknown[0]!r}; it has: {', '.join(sorted(own))}")
        if inner:
            changes["params"] = msgspec.structs.replace(changes.get("params", self.params), **inner)
        return dataclasses.replace(self, **changes)

    def with_settings(self, settings: Iterable[str]) -> Scenario:
        """`key=value` texts from a command line, each value read as the type of the field it replaces."""
        changes: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(f"--set {setting!r}: write key=value")
            old = getattr(self, key, getattr(self.params, key, None))
            changes[key] = _read(key, text, old)
        return self.replace(**changes)

    def sweep(self, **axes: Iterable[Any]) -> Any:
        """All combinations of the given fields (and `seed`), as a `sim.sweep.Sweep`."""
        from sim.sweep import Sweep

        seeds = tuple(axes.pop("seed", (1,)))
        keys, values = list(axes), [list(axis) for axis in axes.values()]
        scenarios = [self.replace(**dict(zip(keys, row, strict=True))) for row in itertools.product(*values)]
        return Sweep(scenarios=scenarios, seeds=seeds)

    def load_workload(self, seed: int) -> Workload:
        """The workload before any scaling; its own draws, if any, come from the seed."""
        if isinstance(self.workload, Workload):
            return self.workload
        return Workload.named(self.workload, fallback=self.fallback, seed=seed)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: every field, plugs by name."""
        described: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Params):
                value = {name: getattr(value, name) for name in Params.__struct_fields__}
            elif isinstance(value, Workload):
                value = f"{value.name}:{value.checksum()}"
            elif not isinstance(value, (str, int, float, bool, type(None))):
                value = plug_name(value)
            described[f.name] = value
        return described

    def hash(self) -> str:
        """16 hex digits over every field, the sources of plugged-in classes, the version and the workload's checksum."""
        content = self.describe() | {"version": quiver.__version__, "policy_source": describe_source(self.policy)}
        if isinstance(self.workload, str) and self.service == "engine":
            content["workload_checksum"] = self.load_workload(0).checksum()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def plug_name(plug: Plug) -> str:
    """How a plug is shown in tables."""
    if isinstance(plug, str):
        return plug.rpartition(":")[2] if ":" in plug else plug
    return getattr(plug, "__name__", type(plug).__name__)


def _read(key: str, text: str, old: Any) -> Any:
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if isinstance(old, int):
            return int(text.replace("_", ""))
        if isinstance(old, float):
            return float(text)
        if old is None:
            return json.loads(text)
    except (ValueError, KeyError):
        raise UsageError(f"--set {key}={text}: {key} is a {type(old).__name__}, like {old!r}") from None
    return text


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
