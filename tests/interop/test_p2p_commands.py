"""`python -m quiver.live p2p` against two js-libp2p and two py-libp2p nodes that know each other."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys

import pytest

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import encode_public_key, peer_id_text
from quiver.live.devnet import make_environment
from quiver.live.libp2p.host import Kind
from quiver.wire.kad import KAD_IPFS
from tests.interop.met import multihash
from tests.interop.ours import PARTS

pytestmark = pytest.mark.interop

KEY = hashlib.sha256(b"something a stranger provides").hexdigest()
COMMAND_S = 40.0


@pytest.fixture(scope="module", params=["js", "py"])
def pair(request, run, start):
    """Two strangers of one maker; the second has dialled the first and provides `KEY`."""
    first, second = (start(request.param, kad=KAD_IPFS) for _ in range(2))
    run(meet(first, second))
    run(second.call("provide", key=KEY))
    yield first, second
    for other in (first, second):
        run(other.stop())


async def meet(first, second):
    """Until each is in the other's routing table."""
    await second.call("dial", address=with_peer(first, Kind.TCP))
    for one, other in ((first, second), (second, first)):
        while not await one.call("join", peer=other.peer) or other.peer not in await one.call("routing_table"):
            await asyncio.sleep(0.05)


def with_peer(other, kind):
    address = other.address("/ip4/", PARTS[kind])
    return address if "/p2p/" in address else f"{address}/p2p/{other.peer}"


def ask(*arguments):
    """What a command found, from its --json."""
    done = subprocess.run(
        [sys.executable, "-m", "quiver.live", "p2p", *arguments, "--json"], capture_output=True, text=True,
        timeout=COMMAND_S, env=make_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def multihash_text(key):
    return f"0x{multihash(key).hex()}"


def way_in(other):
    return "--peer", with_peer(other, Kind.QUIC), "--kad", "ipfs"


@pytest.mark.parametrize("kind", list(Kind))
def test_ping_and_identify(pair, kind):
    first, _ = pair
    answered = ask("ping", with_peer(first, kind), "-n", "3")
    assert answered["peer"] == first.peer and len(answered["rtt_ms"]) == 3 and None not in answered["rtt_ms"]
    told = ask("identify", with_peer(first, kind))
    assert told["peer"] == first.peer and KAD_IPFS in told["protocols"]
    assert "libp2p" in told["agent"]


def test_a_peer_and_a_provider_behind_the_first_are_found(pair):
    first, second = pair
    assert ask("find-peer", second.peer, *way_in(first))["peer"] == second.peer
    assert [one["peer"] for one in ask("find-providers", multihash_text(KEY), *way_in(first))] == [second.peer]


def test_what_we_put_is_got_by_another_of_us(pair):
    first, _ = pair
    keypair = KeyPair(hashlib.sha256(first.peer.encode()).digest())
    key = f"/pk/{peer_id_text(keypair.peer_id)}"
    value = "0x" + encode_public_key(keypair.public_key).hex()
    if first.kind == "py":
        pytest.skip("py-libp2p takes no binary value keys, and a /pk key holds a binary peer id")
    assert ask("put", key, value, *way_in(first))["held_by"] >= 1
    assert ask("get", key, *way_in(first))["value"] == value


def test_what_we_provide_they_find(run, pair):
    first, second = pair
    key = hashlib.sha256(f"ours, told to {first.peer}".encode()).hexdigest()
    told = ask("provide", multihash_text(key), *way_in(first))
    assert told["held_by"] >= 1
    assert told["peer"] in {one["peer"] for one in run(second.call("find_providers", key=key))}


def test_crawl_sees_both(pair):
    first, second = pair
    assert {first.peer, second.peer} <= {one["peer"] for one in ask("crawl", *way_in(first))}
