"""A gateway that looks at what it pays for stops buying from whom it caught twice, or once with others' word."""

from __future__ import annotations

import msgspec
import pytest

from quiver.gateway.service import GatewayService
from quiver.receipts.evidence import sign_evidence, write_line
from quiver.receipts.fraud.detector import conclude
from quiver.trace import EvidenceRecorded
from quiver.values.evidence import Evidence
from quiver.values.request import Final
from sim.signer import SimSigner
from tests.scenarios.stage import MODEL, NAME, Stage


class Suspects:
    """One provider, whatever it did, once it billed something."""

    def __init__(self, peer, name):
        self.peer, self.name = peer, name

    def score(self, history, now_ms):
        guilty = history.peer == self.peer and history.requests
        return conclude(history, now_ms, detector=self.name, score=2.0 if guilty else 0.0, threshold=1.0)


def watchful(stage, *names, witnesses=()):
    """The stage's gateway with detectors that suspect its first provider."""
    detectors = [Suspects(stage.providers[0].peer_id, name) for name in names]
    node = stage.gateway
    node.service = GatewayService(
        node.runtime, node.policy, {NAME: MODEL}, node._finder(stage.given), detectors=detectors, witnesses=witnesses
    )
    return node.service


async def provider_of(stage, number):
    final = (await stage.ask(number))[-1]
    assert isinstance(final, Final)
    return [node.peer_id for node in stage.providers].index(final.provider)


def make_stage():
    return Stage(providers=2, params=msgspec.structs.replace(Stage().params, discovery_refresh_s=3.0))


def test_two_detectors_of_its_own_send_requests_elsewhere():
    stage = make_stage()
    service = watchful(stage, "one", "two")

    async def story(stage):
        assert await provider_of(stage, 1) == 0
        await stage.clock.sleep(4.0)
        assert await provider_of(stage, 2) == 1
        kinds = {event.kind for event in stage.events.of(EvidenceRecorded) if event.node == stage.gateway.peer_id}
        assert kinds == {"one", "two"}
        # It knows bytes and offer as well as the receipt: 5 tokens "tok ".
        history = service.purse.book.history(stage.providers[0].peer_id)
        (request,) = history.requests.values()
        assert (request.size_bytes, request.chunk_tokens, history.slots) == (20, 5, 2)

    stage.play(story)


@pytest.mark.parametrize("heard", [False, True])
def test_one_detector_is_enough_only_with_two_witnesses(heard):
    stage = make_stage()
    witnesses = [SimSigner(1, name) for name in ("aggregator", "somebody", "stranger")]
    service = watchful(stage, "one", witnesses=[one.public_key for one in witnesses[:2]])

    async def story(stage):
        peer, now_ms = stage.providers[0].peer_id, stage.clock.utc_ms()
        said = Evidence(peer=peer, detector="speed", score=3.0, threshold=1.0, since_ms=0, until_ms=now_ms)
        signed = [await sign_evidence(one, said) for one in witnesses]
        if heard:
            assert await service.suspicion.import_lines(map(write_line, signed)) == 2
        assert await provider_of(stage, 1) == 0, "hearsay alone keeps nobody from work"
        await stage.clock.sleep(4.0)
        assert await provider_of(stage, 2) == (1 if heard else 0)

    stage.play(story)


def test_an_outcast_is_asked_when_nobody_else_is_left():
    stage = make_stage()
    watchful(stage, "one", "two")

    async def story(stage):
        await provider_of(stage, 1)
        await stage.clock.sleep(4.0)
        stage.providers[1].crash()
        await stage.clock.sleep(6.0)
        assert await provider_of(stage, 2) == 0

    stage.play(story)
