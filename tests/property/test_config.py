"""Files an operator edits: `network.toml` and node configs with anything changed are read as they stand, or refused in words."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import UsageError
from quiver.live import config, config_network, init
from quiver.params import Params
from tests.examples import examples
from tests.property.messages import mutations

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def files():
    """Texts of a network file and of each role's config, as `init` writes them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        init.init_network(folder, name="net", host="127.0.0.1", bootstrap_port=4001, aggregator_port=4002)
        init.init_role("gateway", folder, parts=init.gateway_parts({"m:1": DIGEST}))
        init.init_role("provider", folder, parts=init.provider_parts(models={"m:1": DIGEST}))
        yield folder, {path.name: path.read_bytes() for path in folder.glob("*.toml")}


def read(folder, name, data):
    path = folder / f"changed-{name}"
    path.write_bytes(data)
    return config_network.load_network(path) if name == "network.toml" else config.load_any(path)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_a_changed_file_is_read_as_it_stands_or_refused_with_its_name(files, data):
    folder, texts = files
    name = data.draw(st.sampled_from(sorted(texts)))
    changed = data.draw(mutations(texts[name]))
    try:
        loaded = read(folder, name, changed)
    except UsageError as error:
        assert f"changed-{name}" in str(error)
        return
    # Whatever is accepted is what the file says, and a network is the one its hash names.
    said = tomllib.loads(changed.decode())
    if name == "network.toml":
        assert loaded.hash == said.get("hash", "") and loaded.hash in ("", loaded.compute_hash())
    else:
        assert (loaded.key, loaded.store) == (said["key"], said["store"])


@settings(max_examples=examples(150), deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(files, data):
    folder, texts = files
    for name in texts:
        with pytest.raises(UsageError, match=f"changed-{name}"):
            read(folder, name, data)


def network(params):
    return config_network.Network(
        name="net", bootstrap=(), chain=config_network.Chain(path="ledger.json"), params=params,
        aggregator=config_network.AggregatorAddress(
            address="/ip4/127.0.0.1/udp/4002/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
            account="0x" + "01" * 20,
        ),
    )  # fmt: skip


def params():
    """Any constants a network may choose."""
    values = {int: st.integers(1, 1 << 40), float: st.floats(0.001, 1e9)}
    fields = {name: values[type(value)] for name, value in msgspec.structs.asdict(Params()).items()}
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: Params(**chosen))


@settings(max_examples=examples(100), deadline=None)
@given(chosen=params())
def test_a_network_file_comes_back_with_its_hash(files, chosen):
    folder, _ = files
    made = network(chosen)
    path = folder / "made.toml"
    path.write_text(init.render_network(made))
    loaded = config_network.load_network(path)
    assert loaded.params == chosen and loaded.hash == made.compute_hash()


@settings(max_examples=examples(100), deadline=None)
@given(one=params(), other=params())
def test_two_networks_with_one_hash_have_the_same_constants(one, other):
    assert (network(one).compute_hash() == network(other).compute_hash()) == (one == other)


@pytest.mark.parametrize("text", ["epoch_ms = 0", "k = 0", "alpha = -1", "frame_bytes_max = -5", "lease_s = nan"])
def test_a_constant_no_network_can_run_with_is_refused_by_name(tmp_path, text):
    path = tmp_path / "network.toml"
    lines = init.render_network(network(Params())).splitlines()
    # The last section is [params]; without its hash the file is a network of one's own.
    path.write_text("\n".join([*(line for line in lines if not line.startswith("hash")), text]))
    with pytest.raises(UsageError, match=text.split()[0]):
        config_network.load_network(path)
