"""What an operator writes down: one TOML file a node. The network file is in `config_network`, how files are read in `config_file`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from quiver.errors import MalformedMessage, UsageError
from quiver.gateway.hedging import HedgeTerms
from quiver.gateway.topup import TopUpPolicy
from quiver.ids import Address, ModelId, model_id_from_digest
from quiver.live.config_file import Count, NotNegative, Port, Positive, Section, load, read
from quiver.live.config_limits import LimitsSection
from quiver.live.config_network import parse_account
from quiver.live.config_selling import SellingSection
from quiver.live.config_trust import TrustSection
from quiver.live.http.auth import ApiKey
from quiver.live.libp2p.host import Kind
from quiver.live.libp2p.kad_transport import KAD_IDS
from quiver.live.membership import Mode
from quiver.settlement.claims import ClaimPolicy
from quiver.wire import multiaddr

Level = Literal["debug", "info", "warning", "error"]


class TransportSection(Section, frozen=True, kw_only=True):
    """`[transport]`: how this node meets others."""

    host: str = "127.0.0.1"
    "An IPv4 or IPv6 address of this machine; 0.0.0.0 or :: for all of them, then `announce` is needed."
    port: Port = 0
    "For UDP and TCP; 0 lets the kernel choose. A bootstrap or aggregator needs a fixed one."
    announce: tuple[str, ...] = ()
    "Multiaddrs others are told to dial; needed behind NAT and with host 0.0.0.0."
    idle_timeout_s: Positive = 30.0
    "A peer that is silent this long is gone."
    quic: bool = True
    tcp: bool = True
    "QUIC (UDP) is tried first, then TCP with TLS and yamux. Either may be forbidden."
    mode: Mode = Mode.AUTO
    "In the DHT: server, client, or auto: a client until others have shown that they can dial this node."
    kad: str | tuple[str, ...] = "quiver"
    "DHT protocols served and asked: quiver (this network's own), ipfs, or ids that begin with /."
    uvloop: bool = True
    "Use uvloop where it is installed; false: asyncio's own loop."

    def kinds(self, *, where: str) -> tuple[Kind, ...]:
        """Of connections; `UsageError` when none is left."""
        kinds = tuple(kind for kind, allowed in ((Kind.QUIC, self.quic), (Kind.TCP, self.tcp)) if allowed)
        if not kinds:
            raise UsageError(f"{where}: [transport] forbids both quic and tcp: allow one")
        return kinds

    def kad_ids(self, *, where: str) -> tuple[str, ...]:
        """Full protocol ids; `UsageError` for a name nobody knows."""
        names = (self.kad,) if isinstance(self.kad, str) else self.kad
        return parse_kad(names, where=where)


class Http(Section, frozen=True, kw_only=True):
    """`[http]`: the gateway's doors."""

    host: str = "127.0.0.1"
    port: Port = 8080
    certfile: str = ""
    keyfile: str = ""
    insecure: bool = False
    "Serve plain HTTP beyond this machine."
    open_access: bool = False
    "Serve other machines without an API key."
    keys: tuple[ApiKey, ...] = ()

    def accounts(self) -> frozenset[str]:
        """Names of the keys whose requests are paid for, where the gateway sells."""
        return frozenset(key.name for key in self.keys if not key.free)


class AggregatorHttp(Section, frozen=True, kw_only=True):
    """`[http]` of an aggregator: receipts by POST, epochs, proofs and usage by GET."""

    host: str = "127.0.0.1"
    port: Port = 8090
    certfile: str = ""
    keyfile: str = ""
    insecure: bool = False
    "Serve plain HTTP beyond this machine: what is served is public, what is posted is signed."


class Backend(Section, frozen=True, kw_only=True):
    """`[backend]`: the provider's engine."""

    url: str = "http://127.0.0.1:11434"
    kind: Literal["ollama", "openai"] = "ollama"
    api_key_file: str = ""
    "For kind openai: a file that holds the engine's key."


class PriceSection(Section, frozen=True, kw_only=True):
    """Credits per 10^6 tokens."""

    prompt: NotNegative = 50_000
    completion: NotNegative = 150_000
    minimum_credits: NotNegative = 1


class Served(Section, frozen=True, kw_only=True):
    """`[[models]]`: one model on sale."""

    name: str
    digest: str = ""
    "64 hex digits. If the engine holds another content under this name, the provider refuses to start. Kind openai needs it."
    price: PriceSection | None = None
    prefill_tps: Positive = 500.0
    decode_tps: Positive = 30.0


class ChainAccess(Section, frozen=True, kw_only=True):
    """`[chain]` of a node: how it reaches a chain of kind rpc, and what it pays there."""

    rpc: tuple[str, ...] = ()
    "In place of the network's, as with an API key in the URL."
    fee_gwei_max: Positive = 100.0
    "Most for a unit of gas, tip included."
    stuck_after_s: Positive = 60.0
    "A transaction that no block has taken by then is sent again with a higher fee."
    deposit_credits: NotNegative = 0
    "Bought once, with the account's coin or tokens, while it has no free credits. Real money on a real chain."


class NodeConfig(Section, frozen=True, kw_only=True):
    """What every role has."""

    key: str
    "The secret seed."
    network: str = "network.toml"
    store: str
    "An SQLite file, or the URL of a PostgreSQL server; DATABASE_URL of the environment takes the place of a file."
    log: str = ""
    "A file for the log's JSON lines; empty is standard error."
    log_level: Level = "info"
    transport: TransportSection = TransportSection()
    limits: LimitsSection = LimitsSection()
    chain: ChainAccess = ChainAccess()


class BootstrapConfig(NodeConfig, frozen=True, kw_only=True, tag="bootstrap", tag_field="role"):
    """A node others join through."""


class AggregatorConfig(NodeConfig, frozen=True, kw_only=True, tag="aggregator", tag_field="role"):
    """The node that commits epochs."""

    faucet_credits: NotNegative = 0
    "On the local ledger: deposit this once, when the account is empty; the bond behind its roots is taken from it."
    poster_key: str = ""
    "Of a shard: the key file whose bond stands behind the roots; a shard's promises are signed with it."
    http: AggregatorHttp | None = None
    "Left out: receipts and questions come by libp2p only."


class TopUpSection(Section, frozen=True, kw_only=True):
    """`[top_up]`: what a gateway may lock in channels to providers, credits."""

    low_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    "A channel is topped up when less than this share of a deposit is left in it; 0: never."
    amount: NotNegative = 0
    "Of one top-up; 0: a deposit."
    daily_max_credits: NotNegative = 0
    "Most that is locked in one UTC day, opening channels included; 0: no limit."
    balance_floor: NotNegative = 0
    "Free credits of the account that are never locked."

    def policy(self) -> TopUpPolicy:
        """As the purse takes it."""
        return TopUpPolicy(
            low_share=self.low_share, amount=self.amount, daily_max_credits=self.daily_max_credits,
            balance_floor=self.balance_floor,
        )  # fmt: skip


class HedgingSection(Section, frozen=True, kw_only=True):
    """`[hedging]`: what a gateway does about a provider that is silent."""

    enabled: bool = False
    "Ask a second provider, and pay the slower one for what it had sent by then."
    after_s: Positive | None = None
    "Silence before that; left out: the time within which `quantile` of such requests had their first token."
    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.95
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    "Second requests for each request, on average at most."

    def terms(self) -> HedgeTerms | None:
        """As the gateway takes it; None: never."""
        return HedgeTerms(after_s=self.after_s, quantile=self.quantile, share=self.share) if self.enabled else None


class GatewayConfig(NodeConfig, frozen=True, kw_only=True, tag="gateway", tag_field="role"):
    """The node clients talk to."""

    models: dict[str, str]
    "Names clients may ask for, each pinned to a content digest."
    policy: str = "power-of-two"
    "A built-in name, module:Class or file.py:Class."
    hedging: HedgingSection = HedgingSection()
    resume: bool = False
    "When a provider breaks in the middle of an answer, let another one continue the text."
    faucet_credits: NotNegative = 0
    "On the local ledger: deposit this once, when the account is empty."
    http: Http = Http()
    top_up: TopUpSection = TopUpSection()
    selling: SellingSection | None = None
    "Left out: nobody pays this gateway."
    trust: TrustSection = TrustSection()


class ClaimsSection(Section, frozen=True, kw_only=True):
    """`[claims]`: when a provider takes its money. What a leaving payer owes is claimed whenever it is worth its cost."""

    amount_min: Count = 1
    "Credits; less is left to grow."
    age_s_max: Positive = 86_400.0
    "What has been due for this long is claimed however little it is, if it brings more than it costs."
    worth_factor: Count = 10
    "A claim that may wait brings at least this many times its cost."
    cost_credits: NotNegative = 0
    "What one claim costs beside gas."
    wei_per_credit: NotNegative = 0
    "Turns gas into credits; 0: gas is not counted."
    gas_price_gwei_max: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    "While gas is dearer, claims that may wait do, up to `age_s_max`; 0: at any price."

    def policy(self) -> ClaimPolicy:
        """As the settler takes it."""
        return ClaimPolicy(
            amount_min=self.amount_min, age_s_max=self.age_s_max, worth_factor=self.worth_factor,
            cost_credits=self.cost_credits, wei_per_credit=self.wei_per_credit,
            gas_price_wei_max=round(self.gas_price_gwei_max * 10**9),
        )  # fmt: skip


class ProviderConfig(NodeConfig, frozen=True, kw_only=True, tag="provider", tag_field="role"):
    """A node that sells inference."""

    backend: Backend = Backend()
    models: tuple[Served, ...] = ()
    "Empty: everything the engine holds, at `price`."
    price: PriceSection = PriceSection()
    slots: Count = 1
    "Requests the engine runs at once (OLLAMA_NUM_PARALLEL)."
    queue_max: NotNegative = 16
    hardware: str = ""
    region: str = ""
    claims: ClaimsSection = ClaimsSection()
    payout: str = ""
    "Account that channels pay, 0x and 40 hex digits; its key belongs elsewhere. Empty: the node's own account."

    def payout_account(self, *, where: str) -> Address | None:
        """None for the node's own."""
        return parse_account(self.payout, where=f"{where}: payout") if self.payout else None


def load_any(path: str | Path) -> NodeConfig:
    """The file of any role, by what it says itself."""
    kinds = {
        kind.__struct_config__.tag: kind for kind in (BootstrapConfig, AggregatorConfig, ProviderConfig, GatewayConfig)
    }
    role = read(Path(path)).get("role")
    if role not in kinds:
        raise UsageError(f"{path}: role is {role!r}: it must be one of {', '.join(map(str, kinds))}")
    return load(path, kinds[role])


def parse_addresses(texts: tuple[str, ...], *, where: str) -> tuple[bytes, ...]:
    """Binary forms of multiaddrs, with or without a /p2p tail."""
    try:
        return tuple(multiaddr.from_text(text.partition("/p2p/")[0]) for text in texts)
    except MalformedMessage as error:
        raise UsageError(f"{where}: announce: {error}") from error


def parse_kad(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """Full ids of DHT protocols named in a config or on a command line."""
    for name in names:
        if name not in KAD_IDS and not name.startswith("/"):
            raise UsageError(f"{where}: kad {name!r}: it is one of {', '.join(KAD_IDS)}, or an id that begins with /")
    if not names:
        raise UsageError(f'{where}: kad names no protocol: write kad = "quiver"')
    return tuple(KAD_IDS.get(name, name) for name in names)


def parse_digest(text: str, *, where: str) -> ModelId:
    """A model's content digest."""
    try:
        return model_id_from_digest(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}; `ollama list` and GET /api/tags show digests") from error
