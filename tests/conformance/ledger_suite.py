"""What every `Ledger` must do. Subclass `LedgerSuite` and give it a `chain` fixture.

`chain.run(story)` runs `await story()`; `chain.node(name)` is (ledger, signer) of that account, "aggregator" being the contract's;
`await chain.advance(seconds)` lets the chain's time pass; `chain.params` are its params; `chain.utc_ms()` is the chain's time.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver.errors import SettlementError
from quiver.identity.signing import ack_domain
from quiver.ids import compute_channel_id
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.signatures import sign_acknowledgement
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.settlement.multiproof import prove_many
from quiver.values.ledger import (
    Bond,
    BondState,
    ChallengeLeaf,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Commitment,
    Deposit,
    Fault,
    Finalize,
    FinishExit,
    FinishUnbond,
    Leaf,
    OpenChannel,
    RequestExit,
    RequestUnbond,
    RotateSession,
    SubmitEpoch,
    TopUp,
    Verdict,
    Withdraw,
)
from quiver.values.receipt import ChannelHead


class Parties:
    """A payer with 1,000 free credits and a channel of 400 to a provider."""

    @classmethod
    async def meet(cls, chain):
        self = cls()
        self.payer, self.payer_signer = chain.node("payer")
        self.provider, self.provider_signer = chain.node("provider")
        self.payer_account, self.provider_account = self.payer_signer.account, self.provider_signer.account
        await self.payer.submit(Deposit(sender=self.payer_account, amount=1000))
        opened = OpenChannel(
            sender=self.payer_account, provider=self.provider_account, session=self.payer_signer.session_address,
            amount=400, nonce=7,
        )  # fmt: skip
        await self.payer.submit(opened)
        domain = ack_domain(self.payer.chain_id, self.payer.contract)
        self.channel = compute_channel_id(domain, self.payer_account, self.provider_account, 7)
        return self

    async def acknowledge(self, cum, seq=1, signer=None):
        terms = ChannelTerms(
            chain_id=self.payer.chain_id, contract=self.payer.contract, channel=self.channel,
            provider_key=self.provider_signer.public_key, payer=self.payer_account,
        )  # fmt: skip
        return await sign_acknowledgement(
            signer or self.payer_signer, terms, ChannelHead(seq=seq, cum=cum, head=bytes([seq]) * 32)
        )


async def refused(reason, coroutine):
    with pytest.raises(SettlementError) as caught:
        await coroutine
    assert caught.value.reason == reason


class LedgerSuite:
    """Behaviour of the port, by name."""

    def meet(self, chain, story):
        async def main():
            await story(await Parties.meet(chain))

        chain.run(main)

    def test_opening_locks_credits(self, chain):
        async def story(p):
            assert p.payer.balance(p.payer_account) == 600
            state = p.provider.channel(p.channel)
            assert (state.payer, state.provider, state.locked, state.paid) == (
                p.payer_account,
                p.provider_account,
                400,
                0,
            )
            await p.payer.submit(TopUp(sender=p.payer_account, channel=p.channel, amount=100))
            assert (p.payer.balance(p.payer_account), p.payer.channel(p.channel).locked) == (500, 500)
            await refused(
                "insufficient_balance", p.payer.submit(TopUp(sender=p.payer_account, channel=p.channel, amount=501))
            )
            assert p.payer.channel(bytes(32)) is None

        self.meet(chain, story)

    def test_nobody_sends_for_another_account(self, chain):
        async def story(p):
            await refused(
                "not_the_sender", p.provider.submit(TopUp(sender=p.payer_account, channel=p.channel, amount=1))
            )
            await refused("not_the_payer", p.provider.submit(RequestExit(sender=p.provider_account, channel=p.channel)))

        self.meet(chain, story)

    def test_a_direct_claim_pays_the_difference_once_and_never_more_than_locked(self, chain):
        async def story(p):
            send = p.provider.submit
            await send(ClaimDirect(sender=p.provider_account, acknowledgement=await p.acknowledge(150)))
            assert p.provider.balance(p.provider_account) == 150
            again = ClaimDirect(sender=p.provider_account, acknowledgement=await p.acknowledge(150))
            await refused("nothing_due", send(again))
            await send(ClaimDirect(sender=p.provider_account, acknowledgement=await p.acknowledge(900, seq=2)))
            assert p.provider.balance(p.provider_account) == 400
            assert p.provider.channel(p.channel).paid == 400

        self.meet(chain, story)

    def test_an_acknowledgement_of_another_key_pays_nothing(self, chain):
        async def story(p):
            forged = await p.acknowledge(150, signer=p.provider_signer)
            await refused(
                "bad_signature", p.provider.submit(ClaimDirect(sender=p.provider_account, acknowledgement=forged))
            )
            assert p.provider.balance(p.provider_account) == 0

        self.meet(chain, story)

    def test_a_claim_with_proof_pays_what_the_epoch_holds(self, chain):
        async def story(p):
            aggregator, signer = chain.node("aggregator")
            ack = await p.acknowledge(250)
            epoch = chain.utc_ms() // chain.params.epoch_ms
            leaf = Leaf(epoch=epoch, channel=p.channel, cum=250, seq=1, head=ack.head)
            tree = MerkleTree([hash_leaf(leaf), bytes(32), bytes(32)])
            commitment = Commitment(epoch=epoch, root=tree.root, count=3)
            claim = Claim(sender=p.provider_account, leaf=leaf, proof=tree.proof(0), acknowledgement=ack)
            submit = SubmitEpoch(sender=signer.account, commitment=commitment)
            await refused("unknown_epoch", p.provider.submit(claim))
            await refused("epoch_not_over", aggregator.submit(submit))
            await chain.advance(chain.params.epoch_ms / 1000)
            early = SubmitEpoch(sender=p.provider_account, commitment=commitment)
            await refused("not_the_aggregator", p.provider.submit(early))
            await aggregator.submit(submit)
            await refused("epoch_exists", aggregator.submit(submit))
            assert p.provider.epoch(epoch).commitment == commitment
            await p.provider.submit(claim)
            assert p.provider.balance(p.provider_account) == 250
            await refused("nothing_due", p.provider.submit(claim))

        self.meet(chain, story)

    def test_a_batch_pays_several_claims_of_an_epoch_under_one_proof(self, chain):
        async def story(p):
            aggregator, signer = chain.node("aggregator")
            ack = await p.acknowledge(250)
            epoch = chain.utc_ms() // chain.params.epoch_ms
            leaf = Leaf(epoch=epoch, channel=p.channel, cum=250, seq=1, head=ack.head)
            tree = MerkleTree([bytes(32), hash_leaf(leaf), bytes(32)])
            commitment = Commitment(epoch=epoch, root=tree.root, count=3)
            await chain.advance(chain.params.epoch_ms / 1000)
            await aggregator.submit(SubmitEpoch(sender=signer.account, commitment=commitment))
            assert p.payer.epoch(epoch).poster == signer.account
            batch = ClaimBatch(
                sender=p.provider_account, epoch=epoch, acknowledgements=(ack,), proof=prove_many(tree, [1])
            )
            elsewhere = msgspec.structs.replace(batch, proof=prove_many(tree, [0]))
            await refused("bad_proof", p.provider.submit(elsewhere))
            await p.provider.submit(batch)
            assert (p.provider.balance(p.provider_account), p.payer.events(0)[-1].paid) == (250, 250)
            await refused("nothing_due", p.provider.submit(batch))
            further = await p.acknowledge(300, seq=2)
            direct = ClaimDirectBatch(sender=p.provider_account, acknowledgements=(ack, further))
            await p.provider.submit(direct)
            assert p.provider.balance(p.provider_account) == 300

        self.meet(chain, story)

    def test_credits_leave_by_withdrawal(self, chain):
        async def story(p):
            await refused("insufficient_balance", p.payer.submit(Withdraw(sender=p.payer_account, amount=601)))
            await p.payer.submit(Withdraw(sender=p.payer_account, amount=200))
            assert p.payer.balance(p.payer_account) == 400

        self.meet(chain, story)

    def test_a_new_session_key_counts_after_its_delay(self, chain):
        async def story(p):
            session = p.provider_signer.session_address
            await p.payer.submit(RotateSession(sender=p.payer_account, channel=p.channel, session=session))
            state = p.provider.channel(p.channel)
            assert (state.session, state.next_session) == (p.payer_signer.session_address, session)
            new = ClaimDirect(
                sender=p.provider_account, acknowledgement=await p.acknowledge(50, signer=p.provider_signer)
            )
            await refused("bad_signature", p.provider.submit(new))
            await chain.advance(chain.params.exit_delay_s)
            await p.provider.submit(new)
            assert p.provider.balance(p.provider_account) == 50

        self.meet(chain, story)

    def test_a_bond_comes_back_after_its_delay(self, chain):
        async def story(p):
            bond = Bond(sender=p.payer_account, amount=500, signer=p.payer_signer.session_address)
            assert p.payer.bond(p.payer_account) is None
            await p.payer.submit(bond)
            assert p.provider.bond(p.payer_account) == BondState(
                account=p.payer_account, signer=p.payer_signer.session_address, amount=500
            )
            await refused("insufficient_balance", p.payer.submit(bond))
            finish = FinishUnbond(sender=p.payer_account)
            await refused("unbond_not_requested", p.payer.submit(finish))
            await p.payer.submit(RequestUnbond(sender=p.payer_account))
            await refused("unbond_too_early", p.payer.submit(finish))
            await chain.advance(chain.params.exit_delay_s)
            await p.payer.submit(finish)
            assert p.payer.bond(p.payer_account) is None
            assert (p.payer.balance(p.payer_account), p.payer.events(0)[-1].refunded) == (600, 500)

        self.meet(chain, story)

    def test_a_leaf_nobody_acknowledged_costs_its_poster_after_the_time_for_an_answer(self, chain):
        async def story(p):
            aggregator, signer = chain.node("aggregator")
            await aggregator.submit(Deposit(sender=signer.account, amount=500))
            await aggregator.submit(Bond(sender=signer.account, amount=500, signer=signer.session_address))
            epoch = chain.utc_ms() // chain.params.epoch_ms
            leaf = Leaf(epoch=epoch, channel=p.channel, cum=300, seq=9, head=bytes(32))
            tree = MerkleTree([hash_leaf(leaf)])
            await chain.advance(chain.params.epoch_ms / 1000)
            commitment = Commitment(epoch=epoch, root=tree.root, count=1)
            await aggregator.submit(SubmitEpoch(sender=signer.account, commitment=commitment))
            about = (Fault.LEAF, epoch, hash_leaf(leaf))
            assert p.payer.challenge(*about) is None
            await p.payer.submit(ChallengeLeaf(sender=p.payer_account, leaf=leaf, proof=tree.proof(0)))
            opened = p.provider.challenge(*about)
            assert (opened.challenger, opened.verdict) == (p.payer_account, Verdict.OPEN)
            assert opened.respond_by_ms > chain.utc_ms()
            assert p.payer.bond(signer.account).challenges == 1
            finalize = Finalize(sender=p.payer_account, fault=Fault.LEAF, epoch=epoch, subject=hash_leaf(leaf))
            await refused("answer_pending", p.payer.submit(finalize))
            await chain.advance(chain.params.exit_delay_s / 8 + 1)
            await p.payer.submit(finalize)
            assert p.payer.challenge(*about).verdict is Verdict.SLASHED

        self.meet(chain, story)

    def test_an_exit_returns_the_rest_after_its_delay(self, chain):
        async def story(p):
            finish = FinishExit(sender=p.payer_account, channel=p.channel)
            await refused("exit_not_requested", p.payer.submit(finish))
            await p.payer.submit(RequestExit(sender=p.payer_account, channel=p.channel))
            assert p.provider.channel(p.channel).exit_at_ms > chain.utc_ms()
            await refused("exit_too_early", p.payer.submit(finish))
            await p.provider.submit(ClaimDirect(sender=p.provider_account, acknowledgement=await p.acknowledge(150)))
            await chain.advance(chain.params.exit_delay_s)
            await p.payer.submit(finish)
            assert (p.payer.balance(p.payer_account), p.payer.channel(p.channel).closed) == (850, True)
            late = ClaimDirect(sender=p.provider_account, acknowledgement=await p.acknowledge(200, seq=2))
            await refused("channel_closed", p.provider.submit(late))

        self.meet(chain, story)

    def test_events_tell_every_accepted_transaction_in_order(self, chain):
        async def story(p):
            await p.provider.submit(ClaimDirect(sender=p.provider_account, acknowledgement=await p.acknowledge(150)))
            events = p.payer.events(0)
            assert [event.index for event in events] == [0, 1, 2]
            assert [type(event.transaction) for event in events] == [Deposit, OpenChannel, ClaimDirect]
            assert (events[1].channel, events[2].paid, events[2].channel) == (p.channel, 150, p.channel)
            assert [event.index for event in p.provider.events(2)] == [2]
            assert list(p.payer.events(3)) == []

        self.meet(chain, story)

    def test_submissions_at_once_all_count(self, chain):
        async def story(p):
            loop = asyncio.get_running_loop()
            top_up = TopUp(sender=p.payer_account, channel=p.channel, amount=10)
            ids = await asyncio.gather(*(loop.create_task(p.payer.submit(top_up)) for _ in range(10)))
            assert p.payer.channel(p.channel).locked == 500
            assert len(dict.fromkeys(ids)) == 10

        self.meet(chain, story)
