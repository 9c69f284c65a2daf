"""`python -m quiver.live p2p` against a running devnet: every example of every --help, what is printed, and how errors read."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from quiver.identity.peer_id import peer_id_cid, peer_id_cid36, peer_id_text
from quiver.live import keyfile
from quiver.live.arguments import make_parser
from quiver.live.devnet import Devnet, make_environment
from quiver.live.p2p_arguments import EXAMPLE_KEY, EXAMPLE_PEER
from quiver.live.p2p_key import parse_key
from tests.live.waiting import until

COMMANDS = ("id", "ping", "identify", "find-peer", "provide", "find-providers", "put", "get", "crawl")

NODES = ("bootstrap", "aggregator", "provider-1", "gateway")


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    with Devnet(tmp_path_factory.mktemp("here") / "net", providers=1, speed=0) as network:
        # A node becomes a server of the DHT a moment after it has joined: when others have dialled it back.
        everybody = {peer_of(network, name) for name in NODES}
        until(lambda: {one["peer"] for one in show(network, "crawl")} == everybody, "every node in the DHT")
        yield network


def run(devnet, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "quiver.live", "p2p", *arguments], capture_output=True, text=True, timeout=40,
        cwd=devnet.directory.parent, env=make_environment(),
    )  # fmt: skip


def show(devnet, command, *arguments):
    done = run(devnet, command, "--json", "--network", "net/network.toml", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def peer_of(devnet, name):
    return peer_id_text(keyfile.load(devnet.directory / f"{name}.key").peer_id)


def help_of(command, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["p2p", command, "--help"])
    return capsys.readouterr().out


def test_every_example_of_every_help_works_when_it_is_pasted(devnet, capsys):
    examples = [
        line.strip() for command in COMMANDS for line in help_of(command, capsys).splitlines()
        if line.startswith("  python -m quiver.live p2p ") and "--stay" not in line
    ]  # fmt: skip
    assert len(examples) >= len(COMMANDS)
    script = "\n".join(["set -e", f"python() {{ '{sys.executable}' \"$@\"; }}", *examples])
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, cwd=devnet.directory.parent,
        env=make_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert EXAMPLE_KEY in done.stdout and "0 lost" in done.stdout
    assert (devnet.directory.parent / "out.png").read_bytes().startswith(b"\x89PNG")


def test_id_shows_every_form_of_each(devnet):
    peer = keyfile.load(devnet.directory / "gateway.key").peer_id
    for text in (
        "net/gateway.key",
        peer_id_text(peer),
        peer_id_cid(peer),
        f"/ip4/1.2.3.4/tcp/5/p2p/{peer_id_text(peer)}",
    ):
        forms = json.loads(run(devnet, "id", "--json", text).stdout)
        assert (forms["base58"], forms["cid-base32"], forms["cid-base36"], forms["key"]) == (
            peer_id_text(peer), peer_id_cid(peer), peer_id_cid36(peer), "Ed25519",
        )  # fmt: skip


def test_ping_and_identify_name_the_peer_that_answered(devnet):
    pinged = show(devnet, "ping", "-n", "3", "aggregator")
    assert pinged["peer"] == peer_of(devnet, "aggregator") and len(pinged["rtt_ms"]) == 3
    assert all(0 < rtt_ms < 1000 for rtt_ms in pinged["rtt_ms"])
    told = show(devnet, "identify", peer_of(devnet, "provider-1"))
    assert told["agent"].startswith("quiver/") and any("/inference/1.0.0" in one for one in told["protocols"])


def test_a_crawl_finds_every_node_and_who_knows_whom(devnet):
    everybody = {peer_of(devnet, name) for name in NODES}
    found = show(devnet, "crawl")
    assert {one["peer"] for one in found} == everybody
    for one in found:
        assert not one["error"] and one["rtt_ms"] > 0 and one["addresses"]
        assert sum(one["buckets"].values()) == len(one["neighbours"]) and set(one["neighbours"]) < everybody
    assert set(next(one for one in found if one["peer"] == peer_of(devnet, "bootstrap"))["neighbours"]) == (
        everybody - {peer_of(devnet, "bootstrap")}
    )
    # Looking leaves no trace: the crawlers themselves are in nobody's table.
    table = run(devnet, "crawl", "--network", "net/network.toml").stdout
    assert "4 of 4 peers answered" in table


def test_a_provider_that_stays_can_be_asked_and_leaves_at_ctrl_c(devnet):
    command = [
        sys.executable,
        "-m",
        "quiver.live",
        "p2p",
        "provide",
        "--network",
        "net/network.toml",
        "--stay",
        "a text",
    ]
    with subprocess.Popen(
        command, cwd=devnet.directory.parent, env=make_environment(), stdout=subprocess.PIPE, text=True
    ) as staying:
        try:
            found = until(
                lambda: run(devnet, "find-providers", "--json", "--network", "net/network.toml", "a text").stdout,
                "a record",
            )
            (provider,) = json.loads(found)
            address = f"{provider['addresses'][0]}/p2p/{provider['peer']}"
            assert show(devnet, "ping", "-n", "1", address)["peer"] == provider["peer"]
            staying.send_signal(signal.SIGINT)
            told = staying.communicate(timeout=10)[0]
        finally:
            staying.kill()
    assert staying.returncode == 0 and parse_key("a text").hex() in told


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["find-peer", EXAMPLE_PEER], 2, "Give --network"),
        (["find-peer", "--network", "net/network.toml", EXAMPLE_PEER], 1, "was not found"),
        (["find-peer", "--network", "net/network.toml", "abc"], 2, "is not a peer id"),
        (["find-providers", "--network", "net/network.toml", "nobody has this"], 1, "nobody provides"),
        (["get", "--network", "net/network.toml", "/nope/x"], 2, "no validator"),
        (["put", "--network", "net/network.toml", f"/pk/{EXAMPLE_PEER}", "0x00"], 2, "is not the public key of"),
        (["put", "--network", "net/network.toml", "pk", "x"], 2, "write /namespace/rest"),
        (["ping", "--timeout", "1", f"/ip4/127.0.0.1/udp/9/quic-v1/p2p/{EXAMPLE_PEER}"], 1, "within 1 s"),
        (["ping", "/ip4/127.0.0.1/udp/9"], 2, "is not the address of a peer"),
        (["crawl", "--network", "net/network.toml", "--kad", "x"], 2, "quiver, ipfs"),
        (["crawl", "--network", "nowhere.toml"], 2, "cannot be read"),
    ],
)
def test_an_error_is_one_line_that_says_what_is_wrong(devnet, arguments, code, message):
    done = run(devnet, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_node_of_another_network_says_which_one_it_is(devnet):
    address = re.search(r'bootstrap = \["([^"]+)"', (devnet.directory / "network.toml").read_text())[1]
    done = run(devnet, "crawl", "--peer", address)
    assert done.returncode == 1
    done = run(devnet, "find-providers", "--peer", address, "x")
    assert done.returncode == 1 and "It is a node of network" in done.stderr


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("0x1220ff", "1220ff"),
        ("", None),
        # A model's digest stands for the key its providers announce; a CID for its multihash; other text is hashed.
        (
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
            "1220c3c4733ec8affd06cf9e9ff50ffc6bcd2ec85a6170004bb709669c31de94391a",
        ),
        ("abc", "1220ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ],
)
def test_keys_as_people_write_them(text, key):
    if key is None:
        with pytest.raises(Exception, match="not empty"):
            parse_key(text)
    else:
        assert parse_key(text).hex() == key
