"""Making a node's directory: a key and a commented config for each role. Nothing that is there is overwritten."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import peer_id_text
from quiver.ids import Address
from quiver.live import keyfile
from quiver.live.config_network import AggregatorAddress, Chain, Network, ShardAddress
from quiver.live.private_files import FILE_MODE, make_folder
from quiver.params import Params
from quiver.settlement.terms import Terms
from quiver.wire import multiaddr

NETWORK_FILE = "network.toml"
# What the aggregator of a new local network is given: its bond, and enough to fill it up again.
FAUCET_BONDS = 10


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, str) else str(value)


_COMMENTED = re.compile(r"^(#? ?\w+ = .*?) {2,}# (.*)$", re.MULTILINE)
_COMMENT_COLUMN = 34


def _align(text: str) -> str:
    """Comments behind keys begin in one column, whatever the values are."""
    return _COMMENTED.sub(lambda found: f"{found[1]:<{_COMMENT_COLUMN}}  # {found[2]}", text)


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a role adds to the config every node has: further top-level lines, and further sections."""

    settings: str = ""
    tables: str = ""


def write_new(path: Path, text: str, *, is_private: bool = True) -> None:
    """Write a file that must not exist yet. A node's config may come to hold passwords and hashes of API keys."""
    make_folder(path.parent)
    mode = FILE_MODE if is_private else 0o644
    try:
        with open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(
            f"{path} is already there and is not overwritten: choose another directory, or move it away"
        ) from error


def check_absent(*paths: Path) -> None:
    """Before anything is made, so that a refusal leaves nothing half-done."""
    for path in paths:
        if path.exists():
            raise UsageError(
                f"{path} is already there and is not overwritten: choose another directory, or move it away"
            )


def init_network(
    directory: Path, *, name: str, host: str, bootstrap_port: int, aggregator_port: int, params: Params | None = None,
    shard_ports: Sequence[int] = (), idle_timeout_s: float = 30.0, make_chain: Callable[[Address], Chain] | None = None,
) -> Network:  # fmt: skip
    """`network.toml`, and the nodes it names: one bootstrap and the aggregator, with fixed ports, and a shard for each of `shard_ports`.

    `make_chain` is given the aggregator's account; without it, money is in the local ledger.
    """
    stems = ("bootstrap", "aggregator", *shard_names(len(shard_ports)))
    check_absent(
        directory / NETWORK_FILE, *(directory / f"{stem}.{kind}" for stem in stems for kind in ("key", "toml"))
    )
    params = params or Params.default()
    bootstrap = init_role("bootstrap", directory, host=host, port=bootstrap_port, idle_timeout_s=idle_timeout_s)
    aggregator = init_role(
        "aggregator", directory, host=host, port=aggregator_port, idle_timeout_s=idle_timeout_s,
        parts=aggregator_parts(faucet_credits=FAUCET_BONDS * Terms.from_params(params).bond_min),
    )  # fmt: skip
    shards = [
        ShardAddress(
            address=_address(
                init_role(
                    "aggregator", directory, stem=stem, host=host, port=port, idle_timeout_s=idle_timeout_s,
                    parts=aggregator_parts(poster_key="aggregator.key"),
                ),
                host, port,
            )
        )
        for stem, port in zip(shard_names(len(shard_ports)), shard_ports, strict=True)
    ]  # fmt: skip
    network = Network(
        name=name,
        bootstrap=(_address(bootstrap, host, bootstrap_port),),
        chain=Chain(path="ledger.sqlite") if make_chain is None else make_chain(aggregator.account),
        aggregator=AggregatorAddress(
            address=_address(aggregator, host, aggregator_port),
            account="0x" + aggregator.account.hex(),
            shards=tuple(shards),
        ),
        params=params,
    )
    write_new(directory / NETWORK_FILE, render_network(network), is_private=False)
    return network


def shard_names(count: int) -> tuple[str, ...]:
    """Of their keys and configs, by number."""
    return tuple(f"shard-{number}" for number in range(count))


def _address(keypair: KeyPair, host: str, port: int) -> str:
    return f"{multiaddr.to_text(multiaddr.quic_address(host, port))}/p2p/{peer_id_text(keypair.peer_id)}"


def init_role(
    role: str,
    directory: Path,
    *,
    stem: str = "",
    network: str = NETWORK_FILE,
    host: str = "127.0.0.1",
    port: int = 0,
    idle_timeout_s: float = 30.0,
    parts: Parts | None = None,
) -> KeyPair:
    """`STEM.key` and `STEM.toml` of one role."""
    stem = stem or role
    config, key = directory / f"{stem}.toml", directory / f"{stem}.key"
    check_absent(config, key)
    parts = parts or Parts()
    text = _NODE.format(
        role=role, command=f"python -m quiver.live {role} --config {stem}.toml", key=_text(key.name), network=_text(network),
        store=_text(f"{stem}.sqlite"), host=_text(host), port=port, idle=idle_timeout_s, settings=parts.settings, tables=parts.tables,
    )  # fmt: skip
    make_folder(directory)
    keypair = keyfile.create(key)
    write_new(config, _align(text))
    return keypair


_NODE = """# A QUIVer {role}. Start it with: {command}
# Paths are relative to this file. Unknown keys are refused.
role = "{role}"
key = {key}                  # the secret seed: whoever has it has this node's money
network = {network}
store = {store}              # channels, receipts: back it up. A PostgreSQL server: "postgresql://USER@HOST/DATABASE"
log_level = "info"           # debug, info, warning, error
# log = "{role}.log"         # JSON lines; standard error when left out
{settings}
[transport]
host = {host}                # IPv4 or IPv6; 0.0.0.0 or :: for all interfaces, then set announce
port = {port}                # for UDP and TCP; 0 lets the kernel choose
# announce = ["/ip4/203.0.113.7/udp/4001/quic-v1"]   # what others dial, behind NAT or with 0.0.0.0
idle_timeout_s = {idle}
# tcp = false                # QUIC (UDP) is tried first, then TCP; quic = false or tcp = false forbids one
# mode = "server"            # in the DHT; auto: a client until others have dialled this node back
{tables}"""


def aggregator_parts(*, faucet_credits: int = 0, poster_key: str = "") -> Parts:
    """Of an aggregator's config; with `poster_key`, of a shard's."""
    return Parts(
        settings=(
            "\n# A shard posts nothing. What it promises, the bond behind the roots answers for.\n"
            f"poster_key = {_text(poster_key)}    # the key file of the account that network.toml names\n"
            if poster_key
            else "\n# Its roots are taken once it has bonded 20 x slash_credits of network.toml's params.\n"
            f"faucet_credits = {faucet_credits}           # play money of a local ledger, deposited once, when the account is empty\n"
        ),
        tables=(
            "\n# Receipts by POST, epochs, proofs and usage by GET; without this section by libp2p only.\n"
            '# [http]\n# host = "127.0.0.1"\n# port = 8090\n'
        ),
    )


def gateway_parts(
    models: Mapping[str, str],
    *,
    http_host: str = "127.0.0.1",
    http_port: int = 8080,
    policy: str = "power-of-two",
    faucet_credits: int = 0,
) -> Parts:
    """Of a gateway's config."""
    pins = "".join(f"{_text(name)} = {_text(digest)}\n" for name, digest in models.items())
    return Parts(
        settings=(
            "\n# How a provider is chosen: a built-in name, module:Class or file.py:Class.\n"
            f"policy = {_text(policy)}\n"
            f"faucet_credits = {faucet_credits}           # play money of a local ledger, deposited once, when the account is empty\n"
        ),
        tables=(
            "\n# Names clients may ask for, each pinned to a content digest (`ollama list`, GET /api/tags).\n"
            f"[models]\n{pins}"
            "\n[http]\n"
            f"host = {_text(http_host)}                # plain HTTP is refused beyond this machine: certfile and keyfile, or insecure\n"
            f"port = {http_port}\n"
            "# Without keys only this machine may ask. sha256: printf %s KEY | sha256sum\n"
            '# [[http.keys]]\n# name = "alice"\n# sha256 = "..."\n# requests_per_s = 5.0\n'
            "# free = true                   # needs no credit where the gateway sells\n"
            "\n# What clients pay, credits per 10^6 tokens; an account is an API key's name (`credit add`). Left out: nothing.\n"
            "# [selling]\n# margin = 0.25                 # on what an answer cost, for models without a price\n"
            "# admin_port = 8081             # on 127.0.0.1: `credit` while this gateway runs\n"
            "# [selling.ceiling]             # with a margin: the dearest provider's price that is passed on\n"
            "# prompt = 100000\n# completion = 300000\n"
            '# [selling.prices."llama3:8b"]\n# prompt = 80000\n# completion = 240000\n# minimum_credits = 1\n'
            "\n# What may be locked in channels to providers, credits.\n"
            "# [top_up]\n# low_share = 0.5               # a channel with less than this share of a deposit left gets more\n"
            "# amount = 0                    # of one top-up; 0: a deposit\n"
            "# daily_max_credits = 0         # in one UTC day, opening channels included; 0: no limit\n"
            "# balance_floor = 0             # free credits that are never locked\n"
            "\n# Whom not to buy from: what detectors find in our own receipts, and, capped, what witnesses signed.\n"
            '# [trust]\n# detectors = ["all"]\n# witnesses = ["12D3Koo..."]    # peer ids\n# evidence = "evidence.jsonl"   # their lines\n'
        ),
    )


def provider_parts(
    *,
    url: str = "http://127.0.0.1:11434",
    kind: str = "ollama",
    models: Mapping[str, str] | None = None,
    slots: int = 1,
) -> Parts:
    """Of a provider's config."""
    listed = "".join(
        f"\n[[models]]\nname = {_text(name)}\ndigest = {_text(digest)}\n" for name, digest in (models or {}).items()
    )
    return Parts(
        settings=(
            f"\nslots = {slots}                    # requests the engine runs at once (OLLAMA_NUM_PARALLEL)\n"
            'hardware = ""                # shown to gateways\nregion = ""\n'
        ),
        tables=(
            f"\n[backend]\nurl = {_text(url)}\nkind = {_text(kind)}              # ollama or openai\n"
            '# api_key_file = "engine.key"         # for kind openai, if the engine wants a key\n'
            "\n# Credits per 10^6 tokens.\n[price]\nprompt = 50000\ncompletion = 150000\nminimum_credits = 1\n"
            "\n# What is on sale; without any, everything an Ollama holds. Kind openai needs each name with the SHA-256 of its weights.\n"
            + (listed or '# [[models]]\n# name = "llama3:8b"\n# digest = "64 hex digits"\n')
        ),
    )


_KINDS = {
    "local": "the contract's model in a file",
    "evm": "the contract itself on an engine in each node, its history in a file",
    "rpc": "a chain with JSON-RPC nodes",
}


def render_chain(chain: Chain) -> str:
    """`[chain]` of a network file."""
    way = f"path = {_text(chain.path)}        # one file for all nodes of this machine\n"
    if chain.kind == "rpc":
        way = (
            f"rpc = [{', '.join(map(_text, chain.rpc))}]   # the next takes over when one dies\n"
            f"confirmations = {chain.confirmations}        # blocks that must follow one before it is final\n"
            f"from_block = {chain.from_block}\ntoken = {_text(chain.token)}            # an ERC-20 contract; empty: the chain's coin\n"
            f"poll_s = {chain.poll_s}\n"
        )
    return (
        f"[chain]\nkind = {_text(chain.kind)}                 # {_KINDS[chain.kind]}\n{way}"
        f"id = {chain.id}\ncontract = {_text(chain.contract)}\nopening_cost_credits = {chain.opening_cost_credits}\n"
    )


def _render_shards(shards: Sequence[ShardAddress]) -> str:
    said = "# Who takes receipts: the first those of the lowest accounts. Another list or order is another network.\n"
    return "".join(
        f"\n{'' if number else said}[[aggregator.shards]]\naddress = {_text(shard.address)}\n"
        for number, shard in enumerate(shards)
    )


def render_network(network: Network) -> str:
    """`network.toml` with its hash; params that are the default are left out."""
    defaults = Params.default()
    changed = {
        name: value
        for name, value in msgspec.structs.asdict(network.params).items()
        if value != getattr(defaults, name)
    }
    return (
        "# A QUIVer network: every node of it has this file. A change of name, chain, aggregator or params is another network.\n"
        f"name = {_text(network.name)}\n"
        f"bootstrap = [{', '.join(_text(text) for text in network.bootstrap)}]\n"
        f"hash = {_text(network.compute_hash())}\n"
        f"\n{render_chain(network.chain)}"
        f"\n[aggregator]\naddress = {_text(network.aggregator.address)}\naccount = {_text(network.aggregator.account)}\n"
        f"{_render_shards(network.aggregator.shards)}"
        "\n# Constants of the protocol that differ from the defaults (quiver/params.py).\n[params]\n"
        + "".join(f"{name} = {_value(value)}\n" for name, value in changed.items())
    )
