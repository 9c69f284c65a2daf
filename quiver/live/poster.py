"""In whose name an aggregator's node promises: its own, or as a shard that of the account whose bond stands behind the roots."""

from __future__ import annotations

from pathlib import Path

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.ids import Address, PeerId
from quiver.live import keyfile
from quiver.live.config import AggregatorConfig
from quiver.live.config_file import resolve
from quiver.live.config_network import Network


def load_poster(
    config: AggregatorConfig, path: Path, network: Network, *, peer_id: PeerId, account: Address
) -> KeyPair | None:
    """The keys a shard promises with; None for whoever posts himself. `UsageError` for a key that has no place in the network.

    `peer_id` and `account` are of the node's own key.
    """
    named, own, shards = network.aggregator.account.lower(), "0x" + account.hex(), network.shards
    number = None if shards is None else shards.number_of(peer_id)
    if number is None:
        if config.poster_key:
            raise UsageError(
                f"{path}: poster_key is for a shard, and network.toml lists no shard with this node's key: take it out, or "
                "list the node under [[aggregator.shards]]"
            )
        if named != own:
            raise UsageError(
                f"network.toml names {named} as its aggregator's account, this key's is {own}: use the aggregator's own "
                "key file, or list the node under [[aggregator.shards]]"
            )
        return None
    if not config.poster_key:
        raise UsageError(
            f"{path}: this node is shard {number}: set poster_key to the key file of {named}, whose bond stands behind the roots"
        )
    try:
        keypair = keyfile.load(resolve(path, config.poster_key))
    except UsageError as error:
        raise UsageError(f"{path}: poster_key {config.poster_key}: {error}") from error
    if named != "0x" + keypair.account.hex():
        raise UsageError(
            f"network.toml names {named} as its aggregator's account, that of poster_key {config.poster_key} is "
            f"0x{keypair.account.hex()}: use the aggregator's own key file"
        )
    return keypair
