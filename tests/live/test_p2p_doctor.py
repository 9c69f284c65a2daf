"""What `doctor` and `/health` say about being dialled, with a bootstrap peer that does dial back."""

from __future__ import annotations

import asyncio

import httpx

from quiver.live import config, config_file, config_network, init, keyfile
from quiver.live.devnet import Devnet
from quiver.live.doctor_reachability import reachable
from quiver.live.finding import Status
from quiver.live.libp2p.host import Host
from quiver.live.libp2p.reachability import State
from quiver.live.membership import Mode
from tests.live.meeting import Peer, drop_inbound
from tests.live.waiting import until


def make_network(directory, role):
    """A network whose bootstrap runs here, and the config of a node in it."""
    init.init_network(directory, name="here", host="127.0.0.1", bootstrap_port=1, aggregator_port=2)
    init.init_role(role, directory, parts=init.gateway_parts({}) if role == "gateway" else None)
    return directory / f"{role}.toml"


async def ask(path, kind):
    network = config_network.load_network(path.parent / "network.toml")
    seed = keyfile.load(path.parent / "bootstrap.key")
    bootstrap = Peer(1, mode=Mode.SERVER, network=network.prefix())
    bootstrap.host._keypair, bootstrap.host.peer_id = seed, seed.peer_id
    await bootstrap.start()
    address = f"/ip4/127.0.0.1/udp/{bootstrap.host.port}/quic-v1/p2p/"
    text = (path.parent / "network.toml").read_text()
    (path.parent / "network.toml").write_text(text.replace("/ip4/127.0.0.1/udp/1/quic-v1/p2p/", address))
    network = config_network.load_network(path.parent / "network.toml")
    try:
        return await reachable(config_file.load(path, kind), path, network)
    finally:
        await bootstrap.close()


def test_doctor_asks_others_to_dial_the_nodes_own_ports(tmp_path):
    path = make_network(tmp_path, "provider")
    finding = asyncio.run(ask(path, config.ProviderConfig))
    assert finding.status is Status.OK and "got through at /ip4/127.0.0.1/udp/" in finding.detail


def test_doctor_says_what_to_announce(tmp_path):
    path = make_network(tmp_path, "provider")
    path.write_text(path.read_text().replace('host = "127.0.0.1"', 'host = "0.0.0.0"'))
    finding = asyncio.run(ask(path, config.ProviderConfig))
    assert finding.status is Status.WARN and 'announce = ["/ip4/127.0.0.1/' in finding.fix


def test_a_provider_that_nobody_can_dial_fails_and_a_gateway_is_warned(tmp_path, monkeypatch):
    start = Host.start

    async def start_behind_a_firewall(host):
        await start(host)
        if host._listens and host._announce == () and host._network and host.peer_id != bootstrap:
            drop_inbound(host)

    monkeypatch.setattr(Host, "start", start_behind_a_firewall)
    for role, kind, status in (
        ("provider", config.ProviderConfig, Status.FAIL), ("gateway", config.GatewayConfig, Status.WARN),
    ):  # fmt: skip
        path = make_network(tmp_path / role, role)
        bootstrap = keyfile.load(path.parent / "bootstrap.key").peer_id
        finding = asyncio.run(ask(path, kind))
        assert finding.status is status and "open UDP and TCP port" in finding.fix and "no relay" in finding.fix


def test_health_tells_whether_the_gateway_can_be_dialled(tmp_path):
    with Devnet(tmp_path / "net", providers=1, speed=0) as network:
        health = f"{network.gateway_url}/health"
        until(lambda: httpx.get(health).json()["reachability"] == State.REACHABLE, "a gateway that was dialled back")
