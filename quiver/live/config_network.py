"""`network.toml`: what all nodes of one network share, and where its money is settled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from quiver.aggregator.shards import Shards
from quiver.errors import MalformedMessage, UsageError
from quiver.identity.peer_id import parse_peer_id
from quiver.ids import ADDRESS_BYTES, Address, PeerId
from quiver.live.config_file import NotNegative, Positive, Section, load
from quiver.params import Params
from quiver.values.peer import PeerInfo
from quiver.wire import multiaddr

# Hex digits of a network's hash in a protocol id: 64 bits, which nobody makes collide by accident.
PREFIX_DIGITS = 16


class Chain(Section, frozen=True, kw_only=True):
    """`[chain]` of network.toml: where money is settled. Id and contract are in the network's hash, the way there is not."""

    kind: Literal["local", "evm", "rpc"] = "local"
    "local: the contract's model in a file; evm: the contract itself, its history in a file: both for the nodes of one machine; rpc: any chain with JSON-RPC nodes."
    path: str = ""
    "The ledger's file, for kinds local and evm."
    rpc: tuple[str, ...] = ()
    "URLs of nodes, for kind rpc; the next takes over when one dies. A node's own config may name others."
    confirmations: NotNegative = 6
    "Blocks that must follow one before it counts as final."
    from_block: NotNegative = 0
    "The block of the contract's creation: what is before it need not be read."
    token: str = ""
    "The ERC-20 contract that pays for credits; empty: the chain's coin."
    poll_s: Positive = 2.0
    "How often a node looks for a new block."
    id: int = 31337
    contract: str = "0x" + "51" * ADDRESS_BYTES
    opening_cost_credits: int = 0
    "What opening a channel costs a payer, for policies to weigh."


class ShardAddress(Section, frozen=True, kw_only=True):
    """`[[aggregator.shards]]`: one of those that take receipts. Its place in the list is its number."""

    address: str
    "Multiaddr with /p2p."


class AggregatorAddress(Section, frozen=True, kw_only=True):
    """`[aggregator]`: who commits epochs."""

    address: str
    "Multiaddr with /p2p."
    account: str
    "The only account whose commitments the contract takes."
    shards: tuple[ShardAddress, ...] = ()
    "Who takes receipts in its place, each of an equal range of provider accounts; none: it takes all itself."


class Network(Section, frozen=True, kw_only=True):
    """`network.toml`: what a node joins. `hash`, if it is there, must be that of the rest."""

    name: str
    bootstrap: tuple[str, ...]
    "Multiaddrs with /p2p. They may change without making another network, so they are not in the hash."
    chain: Chain
    aggregator: AggregatorAddress
    params: Params = Params()
    hash: str = ""

    def compute_hash(self) -> str:
        """Hex SHA-256 over name, chain, contract, aggregator account, params and shards: two nodes with one hash can settle.

        Of shards the peer ids count, in order: they say who takes whose receipts. Where they are may change.
        """
        parts: list[object] = [
            self.name,
            self.chain.id,
            self.chain.contract.lower(),
            self.aggregator.account.lower(),
            self.params,
        ]
        if (shards := self.shards) is not None:
            parts.append([peer.hex() for peer in shards.peers])
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()

    def prefix(self) -> str:
        """What goes into the id of each protocol of ours, so that networks do not mix."""
        return self.compute_hash()[:PREFIX_DIGITS]

    @property
    def aggregators(self) -> tuple[str, ...]:
        """Multiaddrs of whoever commits, and of the shards by number."""
        return (self.aggregator.address, *(shard.address for shard in self.aggregator.shards))

    @property
    def shards(self) -> Shards | None:
        """Who takes whose receipts; None where the aggregator itself takes all. `UsageError` for a list that is wrong."""
        if not self.aggregator.shards:
            return None
        committer, *peers = (parse_peer(text, where=f"network {self.name!r}").peer_id for text in self.aggregators)
        return Shards(committer=committer, peers=tuple(peers))


def load_network(path: str | Path) -> Network:
    """`network.toml`, checked against its own hash."""
    try:
        network = load(path, Network)
    except UsageError as error:
        raise UsageError(f"{error} (a network file comes from whoever runs the network)") from error
    for text in (*network.bootstrap, *network.aggregators):
        parse_peer(text, where=str(path))
    try:
        network.compute_hash()
    except UsageError as error:
        raise UsageError(f"{path}: [aggregator]: {error}") from error
    if network.hash and network.hash != network.compute_hash():
        raise UsageError(
            f"{path}: its hash is {network.hash[:16]}..., but its content gives {network.compute_hash()[:16]}...: "
            "get the file again from whoever runs the network, or delete the hash to make a network of your own"
        )
    return network


def parse_peer(text: str, *, where: str) -> PeerInfo:
    """Peer id and address of a text multiaddr that ends in /p2p/PEER."""
    address, _, peer = text.rpartition("/p2p/")
    try:
        if not address:
            raise MalformedMessage("it must end in /p2p/PEER_ID")
        peer_id: PeerId = parse_peer_id(peer)
        return PeerInfo(peer_id=peer_id, addresses=(multiaddr.from_text(address),))
    except MalformedMessage as error:
        raise UsageError(f"{where}: {text!r} is not the address of a peer: {error}") from error


def parse_account(text: str, *, where: str) -> Address:
    """20 bytes of `0x` and 40 hex digits."""
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != ADDRESS_BYTES:
        raise UsageError(f"{where}: {text!r} is not an account: write 0x and 40 hex digits")
    return Address(data)
