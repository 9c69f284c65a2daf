"""The list of shards in network.toml: who is asked for what, what makes another network, and which key a shard needs."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from quiver.aggregator.shards import shard_of
from quiver.errors import UsageError
from quiver.ids import Address
from quiver.live import init, keyfile
from quiver.live.config import AggregatorConfig, load_any
from quiver.live.config_network import AggregatorAddress, ShardAddress, load_network, parse_peer
from quiver.live.node import Node
from quiver.live.roles import find_poster
from quiver.live.signer import LiveSigner


def make_network(directory, *ports):
    return init.init_network(
        directory, name="net", host="127.0.0.1", bootstrap_port=4001, aggregator_port=4002, shard_ports=ports
    )


def with_shards(network, *addresses):
    listed = tuple(ShardAddress(address=address) for address in addresses)
    return msgspec.structs.replace(network, aggregator=msgspec.structs.replace(network.aggregator, shards=listed))


def test_a_network_with_shards_reads_back_with_each_in_its_place(tmp_path):
    made, network = make_network(tmp_path, 4003, 4004, 4005), load_network(tmp_path / "network.toml")
    assert network.shards == made.shards and network.compute_hash() == made.compute_hash() == network.hash
    keys = [keyfile.load(tmp_path / f"{name}.key") for name in ("aggregator", "shard-0", "shard-1", "shard-2")]
    assert [parse_peer(text, where="").peer_id for text in network.aggregators] == [one.peer_id for one in keys]
    assert [network.shards.number_of(one.peer_id) for one in keys] == [None, 0, 1, 2]
    for first in (0, 0x60, 0xFF):
        account = Address(bytes([first]) + bytes(19))
        assert network.shards.peer_of(account) == keys[1 + shard_of(account, 3)].peer_id
    assert load_any(tmp_path / "shard-1.toml").poster_key == "aggregator.key"
    assert load_any(tmp_path / "aggregator.toml").poster_key == ""


def test_who_takes_whose_receipts_makes_the_network_and_where_they_are_does_not(tmp_path):
    network = make_network(tmp_path, 4003, 4004)
    one, two = (shard.address for shard in network.aggregator.shards)
    assert with_shards(network, one.replace("4003", "4999"), two).compute_hash() == network.compute_hash()
    for other in ((two, one), (one,), ()):
        assert with_shards(network, *other).compute_hash() != network.compute_hash()


def test_a_network_without_shards_keeps_the_hash_it_had_before_there_were_any():
    params = init.Params(epoch_ms=5000)
    aggregator = AggregatorAddress(address="/ip4/127.0.0.1/udp/1/quic-v1/p2p/x", account="0x" + "ab" * 20)
    network = init.Network(name="net", bootstrap=(), chain=init.Chain(), aggregator=aggregator, params=params)
    assert network.shards is None and network.compute_hash().startswith("8194c043b0522e8e")


def test_a_node_twice_in_the_list_is_refused(tmp_path):
    network = make_network(tmp_path, 4003, 4004)
    one, two = (shard.address for shard in network.aggregator.shards)
    path = tmp_path / "network.toml"
    path.write_text(path.read_text().replace(one, two))
    with pytest.raises(UsageError, match=r"network.toml: \[aggregator\]: a committer and its shards"):
        load_network(path)
    path.write_text(path.read_text().replace(two, "/ip4/127.0.0.1/udp/4003/quic-v1"))
    with pytest.raises(UsageError, match="is not the address of a peer"):
        load_network(path)


class Here:
    """A node of `network` that has the key of `name`."""

    def __init__(self, directory, name, network):
        keys = keyfile.load(directory / f"{name}.key")
        self.path = directory / f"{name}.toml"
        self.node = Node(
            runtime=SimpleNamespace(signer=LiveSigner(keys, None)), network=network, host=None, membership=None,
            aggregator=parse_peer(network.aggregator.address, where="").peer_id, shards=network.shards, signatures=None,
        )  # fmt: skip

    def find(self, **changed):
        return find_poster(msgspec.structs.replace(load_any(self.path), **changed), self.path, self.node)


def test_a_shard_gives_the_committers_word_and_the_committer_its_own(tmp_path):
    network = make_network(tmp_path, 4003, 4004)
    committer = keyfile.load(tmp_path / "aggregator.key")
    assert Here(tmp_path, "aggregator", network).find() is None
    poster = Here(tmp_path, "shard-1", network).find()
    assert (poster.account, poster.session_address) == (committer.account, committer.session_address)


def test_a_key_without_a_place_in_the_network_is_refused_by_name(tmp_path):
    network = make_network(tmp_path, 4003, 4004)
    shard, committer = Here(tmp_path, "shard-0", network), Here(tmp_path, "aggregator", network)
    with pytest.raises(UsageError, match="this node is shard 0: set poster_key"):
        shard.find(poster_key="")
    with pytest.raises(UsageError, match=r"that of poster_key bootstrap.key is 0x.*use the aggregator's own key file"):
        shard.find(poster_key="bootstrap.key")
    with pytest.raises(UsageError, match="poster_key is for a shard"):
        committer.find(poster_key="aggregator.key")
    init.init_role("aggregator", tmp_path, stem="stranger", parts=init.aggregator_parts())
    assert isinstance(load_any(tmp_path / "stranger.toml"), AggregatorConfig)
    with pytest.raises(UsageError, match="or list the node under"):
        Here(tmp_path, "stranger", network).find()


def test_a_provider_finds_its_shard_and_without_shards_the_aggregator(tmp_path):
    network = make_network(tmp_path, 4003, 4004)
    node = Here(tmp_path, "shard-0", network).node
    low, high = Address(bytes(20)), Address(b"\xff" * 20)
    assert [node.aggregator_of(account) for account in (low, high)] == list(network.shards.peers)
    alone = Here(tmp_path, "aggregator", with_shards(network)).node
    assert alone.aggregator_of(low) == alone.aggregator_of(high) == alone.aggregator
