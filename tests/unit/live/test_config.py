"""Config files: what is refused, and with which words."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import UsageError
from quiver.gateway.hedging import HedgeTerms
from quiver.live import config, config_file, config_network, init
from quiver.params import Params
from quiver.quic.limits import NodeLimits
from quiver.quic.rate import Rate

DIGEST = "ab" * 32


def write(tmp_path, text, name="node.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def gateway(more="", head=""):
    return f'role = "gateway"\nkey = "g.key"\nstore = "g.sqlite"\n{head}[models]\n"m:1" = "{DIGEST}"\n{more}'


def test_defaults_fill_what_is_not_written(tmp_path):
    loaded = config_file.load(write(tmp_path, gateway()), config.GatewayConfig)
    assert loaded.http.host == "127.0.0.1" and loaded.policy == "power-of-two" and loaded.transport.port == 0
    assert config.load_any(tmp_path / "node.toml") == loaded


def test_hedging_and_resuming_are_an_operators_choice(tmp_path):
    loaded = config_file.load(write(tmp_path, gateway()), config.GatewayConfig)
    assert loaded.hedging.terms() is None and loaded.resume is False
    chosen = gateway(head="resume = true\n", more="[hedging]\nenabled = true\nafter_s = 2.0\nshare = 0.1\n")
    loaded = config_file.load(write(tmp_path, chosen), config.GatewayConfig)
    assert loaded.hedging.terms() == HedgeTerms(after_s=2.0, quantile=0.95, share=0.1) and loaded.resume is True
    with pytest.raises(UsageError, match=r"node.toml: .*hedging.share"):
        config_file.load(write(tmp_path, gateway(more="[hedging]\nshare = 1.5\n")), config.GatewayConfig)


def test_rates_of_attempts_to_connect_are_an_operators_choice(tmp_path):
    loaded = config_file.load(write(tmp_path, gateway()), config.GatewayConfig)
    assert loaded.limits.node_limits() == NodeLimits()
    more = "[limits]\nknown_addresses_max = 9\naddress_rate = { burst = 50, per_s = 20.0 }\nloopback_rate.burst = 8\n"
    loaded = config_file.load(write(tmp_path, gateway(more=more + "loopback_rate.per_s = 2\n")), config.GatewayConfig)
    assert loaded.limits.node_limits() == NodeLimits(
        known_addresses_max=9, connection_rate=Rate(burst=50, per_s=20.0), loopback_rate=Rate(burst=8, per_s=2.0)
    )
    for wrong, words in (
        ("address_rate = { burst = 50 }", "per_s"),
        ("network_rate = { burst = 0, per_s = 1 }", "burst"),
    ):
        with pytest.raises(UsageError, match=f"node.toml: .*{words}"):
            config_file.load(write(tmp_path, gateway(more=f"[limits]\n{wrong}\n")), config.GatewayConfig)


def test_an_unknown_key_is_refused_with_file_key_and_the_known_ones(tmp_path):
    path = write(tmp_path, gateway(head='polcy = "random"\n'))
    with pytest.raises(UsageError, match=r"node.toml: unknown key 'polcy' .* known keys there: .*policy"):
        config_file.load(path, config.GatewayConfig)


def test_an_unknown_key_inside_a_section_or_a_list_is_refused_too(tmp_path):
    with pytest.raises(UsageError, match=r"unknown key 'prot' in \[http\].*port"):
        config_file.load(write(tmp_path, gateway(more="[http]\nprot = 1\n")), config.GatewayConfig)
    listed = 'role = "provider"\nkey = "k"\nstore = "s"\n[[models]]\nname = "m"\n[models.price]\npromt = 3\n'
    with pytest.raises(UsageError, match=r"unknown key 'promt' in \[models.price\].*prompt"):
        config_file.load(write(tmp_path, listed), config.ProviderConfig)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('role = "provider"\nkey = "k"\nstore = "s"\n', "role is 'provider', but a gateway's config is needed"),
        ('role = "gateway"\nstore = "s"\n[models]\n', "missing required field `key`"),
        ("role = ", "is not TOML"),
        (gateway(more='[http]\nport = "8080"\n'), "Expected `int`, got `str`.*http.port"),
        (gateway(more="[http]\nport = 99999\n"), "<= 65535.*http.port"),
        (gateway(more="[transport]\nidle_timeout_s = 0\n"), "> 0.*transport.idle_timeout_s"),
        (gateway(head="faucet_credits = -1\n"), ">= 0.*faucet_credits"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        config_file.load(write(tmp_path, text), config.GatewayConfig)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="make it with `init`"):
        config_file.load(tmp_path / "none.toml", config.GatewayConfig)


def make_network(tmp_path, **more):
    return init.init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=4001, aggregator_port=4002, **more)


def test_a_network_file_reads_back_with_its_hash_and_its_params(tmp_path):
    made = make_network(tmp_path, params=Params(epoch_ms=5000, k=8))
    read = config_network.load_network(tmp_path / "network.toml")
    assert read.params == made.params and read.hash == made.compute_hash() == read.compute_hash()
    peer = config_network.parse_peer(read.bootstrap[0], where="network.toml")
    assert len(peer.peer_id) == 38 and len(peer.addresses) == 1


def test_an_edited_network_file_is_refused_but_other_bootstrap_peers_are_the_same_network(tmp_path):
    made = make_network(tmp_path)
    path = tmp_path / "network.toml"
    original = path.read_text()
    path.write_text(original + "epoch_ms = 1\n")
    with pytest.raises(UsageError, match="its hash is"):
        config_network.load_network(path)
    path.write_text(original.replace("udp/4001", "udp/4009"))
    assert config_network.load_network(path).compute_hash() == made.compute_hash()
    assert msgspec.structs.replace(made, name="other").compute_hash() != made.compute_hash()


def test_a_bootstrap_address_without_a_peer_is_refused(tmp_path):
    make_network(tmp_path)
    path = tmp_path / "network.toml"
    path.write_text(path.read_text().replace("/p2p/", "/", 1))
    with pytest.raises(UsageError, match="is not the address of a peer"):
        config_network.load_network(path)


@pytest.mark.parametrize("role", ["bootstrap", "aggregator", "gateway", "provider"])
def test_what_init_writes_can_be_read_and_is_never_overwritten(tmp_path, role):
    parts = {
        "gateway": init.gateway_parts({"m:1": DIGEST}),
        "provider": init.provider_parts(models={"m:1": DIGEST}),
    }.get(role)
    keys = init.init_role(role, tmp_path, parts=parts)
    loaded = config.load_any(tmp_path / f"{role}.toml")
    assert loaded.key == f"{role}.key" and loaded.store == f"{role}.sqlite"
    if role in ("gateway", "provider"):
        assert len(loaded.models) == 1
    before = (tmp_path / f"{role}.key").read_bytes()
    with pytest.raises(UsageError, match="not overwritten"):
        init.init_role(role, tmp_path, parts=parts)
    assert (tmp_path / f"{role}.key").read_bytes() == before and len(keys.account) == 20


def test_paths_are_relative_to_the_file_that_names_them(tmp_path):
    assert config_file.resolve(tmp_path / "sub" / "node.toml", "g.key") == tmp_path / "sub" / "g.key"
    assert config_file.resolve(tmp_path / "node.toml", "/etc/g.key").as_posix() == "/etc/g.key"


def test_accounts_and_digests_name_what_they_should_look_like():
    assert config_network.parse_account("0x" + "01" * 20, where="f") == b"\x01" * 20
    for text in ("0x01", "xyz"):
        with pytest.raises(UsageError, match="40 hex digits"):
            config_network.parse_account(text, where="f")
    with pytest.raises(UsageError, match="64 hex digits"):
        config.parse_digest("abcd", where="f")
