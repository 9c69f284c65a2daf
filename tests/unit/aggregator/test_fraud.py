"""The fraud desk of an aggregator: what it hears, asks, signs, keeps and remembers."""

from __future__ import annotations

import msgspec

from quiver.aggregator import fraud
from quiver.aggregator.fraud import FraudDesk, load_evidence
from quiver.aggregator.service import AggregatorService
from quiver.receipts.evidence import verify_evidence
from quiver.receipts.fraud.copies import Equivocation
from quiver.receipts.fraud.detector import conclude
from quiver.trace import EvidenceRecorded
from quiver.values.frames import Refused
from quiver.values.request import Final
from tests.scenarios.stage import MODEL, Stage
from tests.unit.aggregator.test_service import tell
from tests.unit.receipts.histories import History


class Suspect:
    """Suspects everybody, with the number of requests for a score."""

    name = "suspect"

    def score(self, history, now_ms):
        return conclude(history, now_ms, detector=self.name, score=float(len(history.requests)), threshold=0.5)


def with_desk(stage, *detectors):
    stage.aggregator.service = AggregatorService(stage.aggregator.runtime, detectors=detectors)
    return stage.aggregator.service.fraud


async def serve(stage, *numbers):
    for number in numbers:
        assert isinstance((await stage.ask(number))[-1], Final)
    await stage.clock.sleep(3.0)


def test_what_was_accepted_is_judged_signed_kept_and_told():
    async def story(stage):
        desk = with_desk(stage, Suspect())
        await serve(stage, 1, 2)
        (signed,) = await desk.judge()
        evidence, provider = signed.evidence, stage.providers[0]
        assert (evidence.peer, evidence.score) == (provider.peer_id, 2.0)
        assert evidence.since_ms < evidence.until_ms <= stage.clock.utc_ms()
        await verify_evidence(stage.around.verifier, signed)
        assert signed.witness == stage.aggregator.signer.public_key
        assert list(load_evidence(stage.aggregator.store)) == [signed]
        (event,) = [one for one in stage.events.of(EvidenceRecorded) if one.kind == "suspect"]
        assert (event.peer, event.node) == (provider.peer_id, stage.aggregator.peer_id)
        # It asked the provider itself what it offers: 2 slots, 10 tokens a second.
        terms = desk.book.history(provider.peer_id).offers[MODEL]
        assert (terms.slots, terms.decode_tps, terms.completion_price) == (2, 10.0, 1_000_000_000)
        assert await desk.judge() == [], "nothing new"

    Stage().play(story)


def test_a_restart_reads_the_newest_receipts_back_and_evidence_grows_with_them():
    async def story(stage):
        with_desk(stage, Suspect())
        await serve(stage, 1, 2)
        desk = with_desk(stage, Suspect())
        await serve(stage, 3)
        (signed,) = await desk.judge()
        assert signed.evidence.score == 3.0
        assert len(list(load_evidence(stage.aggregator.store))) == 1, "the newest replaces the one before"

    Stage().play(story)


def test_a_provider_that_went_away_is_judged_without_its_offer():
    async def story(stage):
        desk = with_desk(stage, Suspect())
        await serve(stage, 1)
        stage.providers[0].crash()
        (signed,) = await desk.judge()
        assert signed.evidence.score == 1.0 and not desk.book.history(signed.evidence.peer).offers

    Stage().play(story)


def test_evidence_nothing_renews_is_dropped(monkeypatch):
    async def story(stage):
        desk = with_desk(stage, Suspect())
        await serve(stage, 1)
        await desk.judge()
        (old,) = load_evidence(stage.aggregator.store)
        other = msgspec.structs.replace(old, evidence=msgspec.structs.replace(old.evidence, detector="of-yore"))
        await stage.aggregator.store.commit(
            [(fraud.EVIDENCE, fraud._key(other.evidence), msgspec.msgpack.encode(other))]
        )
        monkeypatch.setattr(fraud, "EVIDENCE_KEPT_MS", 1_000)
        await stage.clock.sleep(2.0)
        await serve(stage, 2)
        await desk.judge()
        kept = [signed.evidence for signed in load_evidence(stage.aggregator.store)]
        assert [(one.detector, one.score) for one in kept] == [("suspect", 2.0)]

    Stage().play(story)


def test_without_detectors_nothing_is_written_down():
    async def story(stage):
        desk = stage.aggregator.service.fraud
        await serve(stage, 1)
        await desk.run()
        assert desk.book.peers() == [] and await desk.judge() == []

    Stage().play(story)


def test_two_signed_histories_of_one_channel_are_heard_of_and_other_refusals_are_not():
    async def story(world):
        world.service.fraud = desk = FraudDesk(world.runtime, [Equivocation()])
        world.history, first = History((10, 20, 30), channel=world.channel, salt=b"other"), world.history
        forked = world.batch(1, 3)
        world.history = first
        peer = first.provider.peer_id
        (bad,) = await world.ask(msgspec.structs.replace(world.batch(1, 2), receipts=()))
        assert isinstance(bad, Refused) and not desk.book.history(peer).forks
        await world.ask(world.batch(1, 2))
        (refused,) = await world.ask(forked)
        assert isinstance(refused, Refused) and refused.message.startswith("fork:")
        evidence = Equivocation().score(desk.book.history(peer), world.clock.utc_ms())
        assert evidence.is_suspicious and evidence.reasons == (refused.message,)

    tell(story)
