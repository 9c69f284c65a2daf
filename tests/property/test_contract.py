"""Any sequence of transactions: conservation holds, the second bookkeeper agrees, a refusal changes nothing, snapshots are exact."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quiver.errors import SettlementError
from quiver.identity.signing import ack_digest, ack_domain
from quiver.ids import Address, ChannelId, PeerId
from quiver.params import Params
from quiver.settlement.channel import session_at
from quiver.settlement.contract import Contract
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.settlement.multiproof import prove_many
from quiver.trace import LedgerMoved
from quiver.values.ledger import (
    Bond,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Commitment,
    Deposit,
    FinishExit,
    FinishUnbond,
    Leaf,
    OpenChannel,
    RequestExit,
    RequestUnbond,
    RotateSession,
    SubmitEpoch,
    TopUp,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement
from sim.invariants import SecondBookkeeper
from sim.signer import compute_tag, model_verify_session

HUB, AGGREGATOR = Address(b"\x0c" * 20), Address(b"\x0a" * 20)
ACCOUNTS = [Address(bytes([n]) * 20) for n in range(1, 5)]
PARAMS = Params.minimal()
DOMAIN = ack_domain(9, HUB)

accounts = st.sampled_from(ACCOUNTS)
amounts = st.integers(1, 60) | st.integers(1, 60) | st.integers(-1, 600)
ACCEPTED: Counter[str] = Counter()


def acknowledge(session, channel, seq, cum):
    digest = ack_digest(DOMAIN, channel, cum, seq, bytes(32))
    signature = compute_tag(session, digest, b"secp256k1") + b"\0"
    return Acknowledgement(channel=channel, seq=seq, cum=cum, head=bytes(32), signature=signature)


class ContractMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.contract = Contract(
            chain_id=9, contract=HUB, aggregator=AGGREGATOR, params=PARAMS, verify_session=model_verify_session
        )
        self.bookkeeper = SecondBookkeeper()
        self.now_ms = 0
        self.channels: list[ChannelId] = [ChannelId(bytes(32))]
        self.trees: dict[int, tuple[Leaf, MerkleTree]] = {}

    def send(self, transaction):
        before = self.contract.to_snapshot()
        try:
            event = self.contract.apply(transaction, self.now_ms)
        except SettlementError as error:
            assert error.reason.replace("_", "").isalpha()
            assert self.contract.to_snapshot() == before
            return None
        self.bookkeeper.observe(LedgerMoved(at_s=0.0, node=PeerId(b""), event=event))
        ACCEPTED[type(transaction).__name__] += 1
        return event

    def pick(self, data):
        return data.draw(st.sampled_from(self.channels[1:]) | st.sampled_from(self.channels))

    def pick_with_sender(self, data):
        channel = self.pick(data)
        state = self.contract.channel(channel)
        return channel, data.draw(accounts if state is None else st.just(state.payer) | st.just(state.payer) | accounts)

    @initialize()
    def a_short_life_of_two_channels(self):
        for account in ACCOUNTS:
            self.deposit_now(account, 200)
        for nonce in (100, 101):
            self.open_now(ACCOUNTS[0], ACCOUNTS[1], ACCOUNTS[2], 50, nonce)
        self.now_ms = PARAMS.epoch_ms
        self.submit_now(AGGREGATOR, self.channels[1], 30, 0)
        leaf, tree = self.trees[0]
        ack = acknowledge(ACCOUNTS[2], leaf.channel, leaf.seq, leaf.cum)
        self.send(Claim(sender=AGGREGATOR, leaf=leaf, proof=tree.proof(1), acknowledgement=ack))
        self.send(RequestExit(sender=ACCOUNTS[0], channel=self.channels[2]))
        self.now_ms += round(PARAMS.exit_delay_s * 1000)
        self.send(FinishExit(sender=ACCOUNTS[0], channel=self.channels[2]))
        self.send(Bond(sender=ACCOUNTS[3], amount=50, signer=ACCOUNTS[0]))
        self.send(RequestUnbond(sender=ACCOUNTS[3]))
        self.now_ms += round(PARAMS.exit_delay_s * 1000)
        self.send(FinishUnbond(sender=ACCOUNTS[3]))

    def submit_now(self, sender, channel, cum, epoch):
        leaf = Leaf(epoch=epoch, channel=channel, cum=cum, seq=1, head=bytes(32))
        tree = MerkleTree([bytes([7]) * 32, hash_leaf(leaf)])
        event = self.send(SubmitEpoch(sender=sender, commitment=Commitment(epoch=epoch, root=tree.root, count=2)))
        if event is not None:
            assert self.now_ms >= (epoch + 1) * PARAMS.epoch_ms
            self.trees[epoch] = (leaf, tree)

    def deposit_now(self, sender, amount):
        self.send(Deposit(sender=sender, amount=amount))

    def open_now(self, sender, provider, session, amount, nonce):
        event = self.send(OpenChannel(sender=sender, provider=provider, session=session, amount=amount, nonce=nonce))
        if event is not None:
            self.channels.append(event.channel)

    @rule(ms=st.sampled_from([4_999, 10_000, 20_000]))
    def time_passes(self, ms):
        self.now_ms += ms

    @rule(sender=accounts, amount=amounts)
    def deposit(self, sender, amount):
        self.deposit_now(sender, amount)

    @rule(sender=accounts, provider=accounts, session=accounts, amount=amounts, nonce=st.integers(-1, 5))
    def open(self, sender, provider, session, amount, nonce):
        self.open_now(sender, provider, session, amount, nonce)

    @rule(data=st.data(), amount=amounts)
    def top_up(self, data, amount):
        channel, sender = self.pick_with_sender(data)
        self.send(TopUp(sender=sender, channel=channel, amount=amount))

    @rule(data=st.data(), signer=st.none() | st.none() | accounts, sender=accounts, cum=st.integers(-1, 100))
    def claim_directly(self, data, signer, sender, cum):
        channel = self.pick(data)
        state = self.contract.channel(channel)
        session = signer or (session_at(state, self.now_ms) if state else ACCOUNTS[0])
        ack = acknowledge(session, channel, 1, max(cum, 0))
        event = self.send(ClaimDirect(sender=sender, acknowledgement=ack))
        # A key before its rotation counts no longer, and the one after it not yet.
        assert event is None or session == session_at(state, self.now_ms)

    @rule(
        data=st.data(),
        sender=st.sampled_from([ACCOUNTS[0], AGGREGATOR, AGGREGATOR]),
        cum=st.integers(0, 100),
        epoch=st.integers(0, 3),
    )
    def submit(self, data, sender, cum, epoch):
        self.submit_now(sender, self.pick(data), cum, epoch)

    @precondition(lambda self: self.trees)
    @rule(data=st.data(), index=st.sampled_from([0, 1, 1]))
    def claim(self, data, index):
        leaf, tree = data.draw(st.sampled_from(list(self.trees.values())))
        state = self.contract.channel(leaf.channel)
        ack = acknowledge(state.session if state else ACCOUNTS[0], leaf.channel, leaf.seq, leaf.cum)
        event = self.send(Claim(sender=AGGREGATOR, leaf=leaf, proof=tree.proof(index), acknowledgement=ack))
        assert event is None or index == 1

    @rule(data=st.data(), sender=accounts, cums=st.lists(st.integers(0, 100), min_size=1, max_size=3))
    def claim_directly_in_a_batch(self, data, sender, cums):
        acks = []
        for cum in cums:
            channel = self.pick(data)
            state = self.contract.channel(channel)
            acks.append(acknowledge(state.session if state else ACCOUNTS[0], channel, 1, cum))
        self.send(ClaimDirectBatch(sender=sender, acknowledgements=tuple(acks)))

    @precondition(lambda self: self.trees)
    @rule(data=st.data(), sender=accounts)
    def claim_in_a_batch(self, data, sender):
        leaf, tree = data.draw(st.sampled_from(list(self.trees.values())))
        state = self.contract.channel(leaf.channel)
        ack = acknowledge(state.session if state else ACCOUNTS[0], leaf.channel, leaf.seq, leaf.cum)
        proof = prove_many(tree, [1])
        self.send(ClaimBatch(sender=sender, epoch=leaf.epoch, acknowledgements=(ack,), proof=proof))

    @rule(sender=accounts, amount=amounts)
    def withdraw(self, sender, amount):
        self.send(Withdraw(sender=sender, amount=amount))

    @rule(sender=accounts, amount=amounts, signer=accounts)
    def bond(self, sender, amount, signer):
        self.send(Bond(sender=sender, amount=amount, signer=signer))

    @rule(sender=accounts, finish=st.booleans())
    def unbond(self, sender, finish):
        self.send(FinishUnbond(sender=sender) if finish else RequestUnbond(sender=sender))

    @rule(data=st.data(), session=accounts)
    def rotate_session(self, data, session):
        channel, sender = self.pick_with_sender(data)
        self.send(RotateSession(sender=sender, channel=channel, session=session))

    @rule(data=st.data())
    def request_exit(self, data):
        channel, sender = self.pick_with_sender(data)
        self.send(RequestExit(sender=sender, channel=channel))

    @rule(data=st.data())
    def finish_exit(self, data):
        channel, sender = self.pick_with_sender(data)
        self.send(FinishExit(sender=sender, channel=channel))

    @invariant()
    def credits_are_conserved(self):
        self.contract.validate()
        self.bookkeeper.compare(self.contract)

    def teardown(self):
        data = self.contract.to_snapshot()
        again = Contract.from_snapshot(data, params=PARAMS, verify_session=model_verify_session)
        again.validate()
        assert again.to_snapshot() == data


def test_any_sequence_of_transactions_conserves_credits_and_each_kind_was_accepted():
    ACCEPTED.clear()
    run_state_machine_as_test(
        ContractMachine,
        settings=settings(max_examples=60, stateful_step_count=50, deadline=None, derandomize=True),
    )
    kinds = (
        Deposit, OpenChannel, TopUp, SubmitEpoch, Claim, ClaimDirect, RequestExit, FinishExit,
        Withdraw, RotateSession, ClaimBatch, ClaimDirectBatch, Bond, RequestUnbond, FinishUnbond,
    )  # fmt: skip
    assert {kind.__name__: ACCEPTED[kind.__name__] > 0 for kind in kinds} == {kind.__name__: True for kind in kinds}


@pytest.mark.parametrize("width", [0, 19, 21])
def test_an_account_of_another_width_is_refused(width):
    contract = Contract(
        chain_id=9, contract=HUB, aggregator=AGGREGATOR, params=PARAMS, verify_session=model_verify_session
    )
    with pytest.raises(SettlementError) as caught:
        contract.apply(Deposit(sender=Address(bytes(width)), amount=1), 0)
    assert caught.value.reason == "malformed_address"
