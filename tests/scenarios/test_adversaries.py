"""Every built-in adversary in a world of honest nodes: what it gains, what the honest lose, and who is suspected of it."""

from __future__ import annotations

import pytest

from quiver.errors import UsageError
from quiver.trace import EvidenceRecorded
from quiver.values.ledger import ClaimDirect
from sim import Scenario, World
from sim.adversary import ADVERSARY
from sim.adversary_providers import Overreporter, Reseller
from sim.adversary_wash import WashRing

BASE = Scenario.named("tour").replace(
    providers=12, gateways=3, duration_s=120.0, arrivals=1.0, detectors="all", discovery="given", receipt_every_tokens=64,
    workload="azure-conv-synthetic", topology="synthetic",
)  # fmt: skip


def play(adversary, **changes):
    return World(BASE.replace(adversary=adversary, **changes), seed=1).run(progress=False)


@pytest.fixture(scope="module")
def honest():
    return play(())


def suspects(result, detector):
    rows = result.evidence[(result.evidence["detector"] == detector) & result.evidence["suspicious"]]
    return set(rows["provider"])


def culprits(result):
    return set(result.providers[result.providers["adversary"] != ""]["provider"])


def test_nobody_is_suspected_among_the_honest(honest):
    assert not honest.evidence["suspicious"].any() and not honest.requests["cheated"].any()
    assert honest.summary["evidence"] == 0
    assert set(honest.evidence["witness"]) == {"aggregator", "gateway-0", "gateway-1", "gateway-2"}


@pytest.mark.parametrize("name", sorted(ADVERSARY.builtins))
def test_a_world_with_it_repeats_and_every_request_has_one_end(name):
    first, again = (play(name, duration_s=30.0) for _ in range(2))
    assert first.digest == again.digest
    s = first.summary
    assert s["requests"] == s["completed"] + s["rejected"] + s["failed"] + s["cancelled"] + s["unfinished"] > 0


def test_who_counts_double_is_paid_for_it_at_most_so_and_is_found_by_payers_and_aggregator(honest):
    result = play(Overreporter(share=0.2, factor=2.0))
    assert len(culprits(result)) == 2
    assert suspects(result, "tokens") == culprits(result)
    assert suspects(result, "speed") <= culprits(result)
    assert honest.summary["credits_owed"] < result.summary["credits_owed"] < 2 * honest.summary["credits_owed"]


def test_who_sells_one_answer_to_all_is_found_by_its_text(honest):
    result = play(Reseller(share=0.2))
    assert suspects(result, "replay") == culprits(result) and len(culprits(result)) == 2


def test_a_ring_is_found_by_its_payments_and_moves_only_its_own_money(honest):
    result = play(WashRing(share=0.25, every_s=2.0))
    assert suspects(result, "self-dealing") == culprits(result) and len(culprits(result)) == 3
    others = result.providers[result.providers["adversary"] == ""]
    assert (others["earned_credits"] == others["claimed_credits"]).all()
    # What honest gateways paid is what they were billed: the ring's inventions went from its own payer to itself.
    assert result.requests["paid_credits"].sum() <= honest.requests["paid_credits"].sum() * 1.2


def test_payers_that_run_cost_a_provider_no_more_than_the_credit_it_gave():
    scenario = BASE.replace(adversary="run-away")
    world = World(scenario, seed=1)
    world.run(progress=False)
    runaways = {node.signer.account for node in world.gateways if node.peer_id in world.population.culprits}
    assert len(runaways) == 2
    lost = [
        channel.log.unacknowledged_credits
        for node in world.providers
        for channel in node.service.channels.values()
        if channel.state.payer in runaways
    ]
    assert 0 < sum(lost) and max(lost) <= scenario.params.credit_limit_max
    # What they did sign for was claimed before their deposits went back.
    for node in world.providers:
        for channel in node.service.channels.values():
            if channel.state.payer in runaways:
                state = world.population.contract.channel(channel.state.channel)
                assert state.exit_at_ms is not None and state.paid == channel.log.acknowledged.cum


@pytest.mark.parametrize("name", ["withhold", "censor", "equivocate", "replay-root"])
def test_a_bad_aggregator_delays_pay_and_never_moves_it(name):
    world = World(BASE.replace(adversary=name), seed=1)
    result = world.run(progress=False)
    # `World` has compared every balance with a second bookkeeper. Nobody got more than its payers signed for ...
    for row in result.providers.itertuples():
        assert row.claimed_credits <= row.earned_credits
    assert result.summary["credits_paid"] < result.summary["credits_owed"]
    # ... and with the acknowledgements alone everybody gets the rest, without the aggregator.
    contract, now_ms = world.population.contract, world.aggregator.clock.utc_ms()
    for node in world.providers:
        for channel in node.service.channels.values():
            claim_the_rest(contract, node, channel, now_ms)
            assert contract.channel(channel.state.channel).paid == channel.log.acknowledged.cum
    contract.validate()


def test_a_word_that_no_bond_answers_for_is_seen_when_it_is_given(honest):
    world = World(BASE.replace(adversary="perjure"), seed=1)
    seen = []
    world.trace.subscribe(lambda event: seen.append(event) if isinstance(event, EvidenceRecorded) else None)
    result = world.run(progress=False)
    served = [node for node in world.providers if any(one.log.last for one in node.service.channels.values())]
    assert {(event.node, event.peer, event.kind) for event in seen} == {
        (node.peer_id, world.aggregator.peer_id, "promise_signature") for node in served
    }
    for node in served:
        assert node.settler.watcher.docket.promises == [] and "(promise_signature)" in node.settler.health
    # Its roots are as good as ever: only the word was worthless.
    assert result.summary["credits_paid"] == honest.summary["credits_paid"] > 0


def claim_the_rest(contract, node, channel, now_ms):
    last = channel.log.last
    if last is not None and last.cum > contract.channel(channel.state.channel).paid:
        contract.apply(ClaimDirect(sender=node.signer.account, acknowledgement=last), now_ms)


def test_several_play_at_once_and_one_may_play_two_roles():
    result = play((Overreporter(share=1.0), Reseller(share=0.5)), duration_s=20.0)
    assert set(result.providers["adversary"]) == {"over-report", "over-report+resell"}


def test_a_peer_that_is_no_node_cannot_be_accused():
    class Dreamer:
        def corrupt(self, population, rng):
            return {b"nobody": "dream"}

    with pytest.raises(UsageError, match="no node of this world"):
        World(BASE.replace(adversary=Dreamer), seed=1)
