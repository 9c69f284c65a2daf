"""A gateway that looks at what it pays for stops buying from whom it caught twice, or once with others' word."""

from __future__ import annotations

import msgspec
import pytest

from quiver.gateway.service import GatewayService
from quiver.receipts.evidence import sign_evidence, write_line
from quiver.receipts.fraud.detector import conclude
from quiver.selection.reputation import EVIDENCE_MS_MAX
from quiver.trace import EvidenceImported, EvidenceRecorded, EvidenceRefused, ProvidersPassedOver, TrustChanged
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


def standing(stage):
    """What the trace knows of each provider, by number: distrust, and whether it is passed over."""
    numbers = {node.peer_id: number for number, node in enumerate(stage.providers)}
    return {numbers[event.peer]: (event.distrust, event.passed_over) for event in stage.events.of(TrustChanged)}


def test_each_step_is_in_the_trace_and_a_changed_file_takes_back_what_it_said():
    stage = make_stage()
    witnesses = [SimSigner(1, name) for name in ("aggregator", "somebody")]
    service = watchful(stage, "one", witnesses=[one.public_key for one in witnesses])

    async def story(stage):
        peer, now_ms = stage.providers[0].peer_id, stage.clock.utc_ms()
        said = Evidence(peer=peer, detector="speed", score=3.0, threshold=1.0, since_ms=0, until_ms=now_ms)
        lines = [write_line(await sign_evidence(one, said)) for one in witnesses]
        await service.suspicion.import_lines(lines[:1])
        assert standing(stage) == {0: (0.25, False)}
        assert await service.suspicion.import_lines(lines) == 2
        assert standing(stage) == {0: (0.5, False)}
        assert {one.witness for one in stage.events.of(EvidenceImported)} == {one.peer_id for one in witnesses}
        assert await provider_of(stage, 1) == 0 and not stage.events.of(ProvidersPassedOver)
        await stage.clock.sleep(7.0)
        assert standing(stage) == {0: (1.1, True)}
        assert len(stage.events.of(EvidenceRecorded)) == 1, "two looks found the same"
        assert await provider_of(stage, 2) == 1
        (passed,) = stage.events.of(ProvidersPassedOver)
        assert passed.peers == (peer,) and passed.request_id == stage.request(2).request_id
        await service.suspicion.import_lines([])
        assert standing(stage) == {0: (0.6, False)}
        assert await provider_of(stage, 3) == 0

    stage.play(story)


def test_of_two_looks_of_a_witness_the_newer_counts_wherever_it_stands():
    stage = make_stage()
    witness = SimSigner(1, "aggregator")
    service = watchful(stage, "one", witnesses=[witness.public_key])

    async def story(stage):
        now_ms = stage.clock.utc_ms()
        said = [
            Evidence(peer=stage.providers[0].peer_id, detector="speed", score=score, threshold=1.0, since_ms=0, until_ms=at)
            for score, at in ((0.5, now_ms), (3.0, now_ms - 1000))
        ]  # fmt: skip
        lines = [write_line(await sign_evidence(witness, one)) for one in said]
        for order in (lines, lines[::-1]):
            assert await service.suspicion.import_lines(order) == 2
            assert standing(stage) == {}, "the newer look found nothing"

    stage.play(story)


def test_what_does_not_count_is_refused_by_name():
    stage = make_stage()
    witness, stranger = SimSigner(1, "aggregator"), SimSigner(1, "stranger")
    service = watchful(stage, "one", witnesses=[witness.public_key])

    async def story(stage):
        now_ms = stage.clock.utc_ms()
        peer = stage.providers[0].peer_id
        said = Evidence(peer=peer, detector="speed", score=3.0, threshold=1.0, since_ms=0, until_ms=now_ms)
        good = await sign_evidence(witness, said)
        old = msgspec.structs.replace(said, until_ms=now_ms - EVIDENCE_MS_MAX - 3_600_000)
        early = msgspec.structs.replace(said, until_ms=now_ms + 120_000)
        altered = msgspec.structs.replace(good, evidence=msgspec.structs.replace(said, score=9.0))
        unsigned = msgspec.structs.replace(good, signature=b"")
        lines = [
            b"rubbish", write_line(await sign_evidence(stranger, said)), write_line(await sign_evidence(witness, old)),
            write_line(await sign_evidence(witness, early)), write_line(altered), write_line(unsigned), write_line(good),
        ]  # fmt: skip
        assert await service.suspicion.import_lines(lines) == 1
        refused = {event.line: event.reason for event in stage.events.of(EvidenceRefused)}
        names = [refused[line].partition(":")[0] for line in sorted(refused)]
        assert names == [
            "evidence", "evidence_foreign", "evidence_old", "evidence_early", "evidence_signature", "evidence_signature",
        ]  # fmt: skip
        assert "25 h ago" in refused[3] and stranger.public_key.hex() in refused[2]
        assert standing(stage) == {0: (0.25, False)}

    stage.play(story)
