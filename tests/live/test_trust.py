"""A running gateway that was told whom to believe: signed evidence in a file keeps its requests from a provider it suspects itself."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import peer_id_text
from quiver.identity.signing import evidence_digest
from quiver.live import keyfile
from quiver.live.devnet import MOCK_MODEL, Devnet
from quiver.receipts.evidence import write_line
from quiver.values.evidence import Evidence, SignedEvidence
from tests.live.network import events, serving
from tests.live.waiting import until

POLICY = f"{Path(__file__).with_name('fewest_open.py')}:FewestOpen"
DETECTOR = f"{Path(__file__).with_name('suspects_all.py')}:SuspectsAll"
WITNESSES, STRANGER = [KeyPair(bytes([number]) * 32) for number in (1, 2)], KeyPair(b"s" * 32)
DAY_MS = 24 * 3_600_000


@pytest.fixture(scope="module")
def devnet(tmp_path_factory):
    with Devnet(tmp_path_factory.mktemp("net"), policy=POLICY, speed=10.0) as network:
        network.kill("gateway")
        names = ", ".join(f'"{peer_id_text(one.peer_id)}"' for one in WITNESSES)
        with (network.directory / "gateway.toml").open("a") as file:
            file.write(f'\n[trust]\ndetectors = ["{DETECTOR}"]\nwitnesses = [{names}]\nevidence = "evidence.jsonl"\n')
        network.restart("gateway")
        network.wait_for_providers(2)
        yield network


def ask(devnet):
    """Name of the provider that served."""
    answer = httpx.post(
        f"{devnet.gateway_url}/generate", json={"model": MOCK_MODEL, "prompt": "Hi", "max_tokens": 4}, timeout=30
    )
    assert answer.status_code == 200 and answer.json()["completion_tokens"] == 4
    return serving(devnet)


def line_about(peer, witness, *, until_ms, signature=None):
    evidence = Evidence(peer=peer, detector="speed", score=3.0, threshold=1.25, since_ms=0, until_ms=until_ms)
    signed = witness.sign(evidence_digest(evidence, witness.public_key)) if signature is None else signature
    return write_line(SignedEvidence(evidence=evidence, witness=witness.public_key, signature=signed))


def standing(devnet, peer):
    """(distrust, passed over) as the gateway last said it."""
    said = [one for one in events(devnet, "gateway", "trust_changed") if one["peer"] == peer_id_text(peer)]
    return (said[-1]["distrust"], said[-1]["passed_over"]) if said else None


def test_evidence_in_a_file_turns_a_suspicion_into_avoidance(devnet):
    first = ask(devnet)
    (other,) = set(devnet.providers) - {first}
    peer = keyfile.load(devnet.directory / f"{first}.key").peer_id
    until(lambda: standing(devnet, peer) == (0.6, False), "the gateway's own suspicion")
    assert ask(devnet) == first, "one look of its own is not enough"

    now_ms = time.time_ns() // 1_000_000
    lines = [
        *(line_about(peer, witness, until_ms=now_ms) for witness in WITNESSES),
        line_about(peer, WITNESSES[0], until_ms=now_ms, signature=b""),
        line_about(peer, STRANGER, until_ms=now_ms),
        line_about(peer, WITNESSES[0], until_ms=now_ms - 2 * DAY_MS),
    ]
    (devnet.directory / "evidence.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    until(lambda: standing(devnet, peer) == (1.1, True), "the witnesses' word")
    refused = {one["line"]: one["reason"].partition(":")[0] for one in events(devnet, "gateway", "evidence_refused")}
    assert refused == {3: "evidence_signature", 4: "evidence_foreign", 5: "evidence_old"}
    imported = events(devnet, "gateway", "evidence_imported")
    assert {one["witness"] for one in imported} == {peer_id_text(one.peer_id) for one in WITNESSES}
    assert [ask(devnet) for _ in range(3)] == [other] * 3
    passed = events(devnet, "gateway", "providers_passed_over")
    assert len(passed) == 3 and all(one["peers"] == [peer_id_text(peer)] for one in passed)

    devnet.kill(other)
    devnet.wait_for_providers(1)
    assert ask(devnet) == first, "nobody else is left"


def test_a_witness_that_is_no_peer_id_stops_the_gateway_with_one_line(devnet):
    path = devnet.directory / "gateway.toml"
    text = path.read_text()
    path.write_text(text.replace(peer_id_text(WITNESSES[0].peer_id), "nobody"))
    try:
        devnet.kill("gateway")
        devnet.restart("gateway")
        assert devnet.processes["gateway"].wait(timeout=20) == 2
        assert "[trust] witnesses" in devnet.tail("gateway")
    finally:
        path.write_text(text)
