"""Random transactions for `Pair`: every kind, mostly sensible, often tampered with.

What a rule draws are small numbers that pick among what exists, so that most steps meet something.
"""

from __future__ import annotations

import zlib

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from quiver.identity.signing import (
    COMMITMENT_TAG,
    PROMISE_TAG,
    ack_digest,
    ack_domain,
    commitment_digest,
    promise_digest,
)
from quiver.ids import ChannelId, compute_domain
from quiver.settlement.challenges import WHOLE_EPOCH, subject_of_omission
from quiver.settlement.channel import session_at
from quiver.settlement.channels import leaf_of
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.settlement.multiproof import prove_many
from quiver.values import ledger
from quiver.values.receipt import Acknowledgement
from tests.evm.pair import ACCOUNTS, AGGREGATOR, CHAIN_ID, KEY_OF, KEYS, PARAMS, Difference, Pair

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# Hypothesis loves small numbers and repeats itself; picks should meet everything alike.
picks = st.integers(0, 2**32 - 1).map(lambda number: zlib.crc32(number.to_bytes(4, "big")))
credits = picks.map(lambda pick: pick % 500)
amounts = st.integers(1, 60) | st.sampled_from([0, 1, 300, 2000, 2**63, 2**64, 2**255])
# What is done to a signature or a proof: mostly nothing, or no step would succeed.
tampers = picks.map(lambda pick: max(0, pick % 28 - 16))


def twin(signature):
    """The other signature that the same key and digest allow: s becomes n - s, v flips."""
    s = int.from_bytes(signature[32:64], "big")
    return signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes([signature[64] ^ 1])


def spoil(signature, tamper):
    """`signature`, or something that must not pass for it."""
    match tamper:
        case 5:
            return twin(signature)
        case 6:
            return signature[:64] + bytes([signature[64] ^ 1])
        case 7:
            return bytes(65)
        case 8:
            return signature[:63] + bytes([signature[63] ^ 1]) + signature[64:]
        case 9:
            return signature[:64] + bytes([signature[64] + 27])
        case _:
            return signature


class PairMachine(RuleBasedStateMachine):
    bytecode: bytes | None = None
    total: Pair | None = None

    def __init__(self):
        super().__init__()
        self.pair = Pair(self.bytecode)
        self.domains = [
            compute_domain(tag, CHAIN_ID, self.pair.chain.contract) for tag in (PROMISE_TAG, COMMITMENT_TAG)
        ]
        self.ack_domain = ack_domain(CHAIN_ID, self.pair.chain.contract)
        self.channels = [ChannelId(bytes(32))]
        self.trees = {}
        "Epoch -> (its leaves, their acknowledgements, the tree)."
        self.paid_claims = []
        self.covered = {}
        self.pending = {}
        self.promises = []
        self.accused = []

    # what exists

    @property
    def now_ms(self):
        return self.pair.now_ms

    def channel(self, pick):
        """One that is open, or now and then any that was, or none that ever was."""
        if pick % 8:
            opened = [state.channel for state in self.pair.model.channel_states() if not state.closed]
            if opened:
                return opened[pick // 8 % len(opened)]
        return self.channels[pick // 8 % len(self.channels)]

    def state(self, channel):
        return self.pair.model.channel(channel)

    def payer_or(self, channel, pick):
        state = self.state(channel)
        return state.payer if state is not None and pick % 8 else ACCOUNTS[pick % len(ACCOUNTS)]

    def acknowledge(self, channel, seq, cum, pick=1, tamper=0):
        """By the key that counts, or now and then by another."""
        state = self.state(channel)
        session = KEYS[pick % len(KEYS)].session_address if state is None else session_at(state, self.now_ms)
        key = KEYS[pick % len(KEYS)] if tamper == 10 else KEY_OF[session]
        head = bytes([seq % 256]) * 32
        signature = spoil(key.sign_session(ack_digest(self.ack_domain, channel, cum, seq, head)), tamper)
        return Acknowledgement(channel=channel, seq=seq, cum=cum + (tamper == 11), head=head, signature=signature)

    def epoch(self, pick):
        """One with a root, mostly the last."""
        return list(self.trees)[-1 - (0 if pick % 4 else pick // 4) % len(self.trees)]

    def signer_of(self, epoch, pick):
        """Key of whoever posted the root of `epoch`, or now and then another."""
        committed = self.pair.model.epoch(epoch)
        bond = None if committed is None else self.pair.model.bond(committed.poster)
        return KEYS[pick % len(KEYS)] if bond is None or pick % 8 == 0 else KEY_OF[bond.signer]

    def send(self, transaction):
        return self.pair.send(transaction)

    # a beginning in which everything can happen, and what takes several steps has happened

    @initialize()
    def a_short_life(self):
        for account in ACCOUNTS:
            self.send(ledger.Deposit(sender=account, amount=5000))
        for nonce in range(4):
            self.open(0, 1, nonce, 200 + nonce, nonce)
        signer = KEYS[3].session_address
        self.send(ledger.Bond(sender=ACCOUNTS[3], amount=2000, signer=signer))
        self.send(ledger.RequestUnbond(sender=ACCOUNTS[3]))
        self.send(ledger.Bond(sender=AGGREGATOR, amount=2100, signer=signer))
        self.send(ledger.RequestExit(sender=ACCOUNTS[0], channel=self.channels[-1]))
        self.pair.now_ms += 24_000
        self.send(ledger.FinishExit(sender=ACCOUNTS[0], channel=self.channels[-1]))
        self.send(ledger.FinishUnbond(sender=ACCOUNTS[3]))
        self.submit_epoch(1, 0, [(1, 1, 20, 0), (9, 2, 30, 0), (17, 3, 40, 0)])
        self.claim_batch(0, {0, 1}, 2, 0)
        self.claim(0, 2, 2, 0)
        for place in (0, 1):
            self.challenge_leaf(0, place, 2, 0)
        self.answer_leaf(0, 2, 2, 0)
        # Channel, seq and key fit the third leaf, and its poster's signer.
        self.challenge_omission(0, 2, 3, 1, 2, 0)
        self.answer_omission(0, 0, 2, 0)
        self.pair.now_ms += 3_000
        self.finalize(1, 1, ledger.Fault.LEAF)

    # rules

    @rule(seconds=st.sampled_from([1, 1, 1, 2, 3, 10, 24]))
    def time_passes(self, seconds):
        self.pair.now_ms += 1000 * seconds

    @rule(who=picks, amount=amounts)
    def deposit(self, who, amount):
        self.send(ledger.Deposit(sender=ACCOUNTS[who % 5], amount=amount))

    @rule(who=picks, amount=amounts)
    def withdraw(self, who, amount):
        self.send(ledger.Withdraw(sender=ACCOUNTS[who % 5], amount=amount))

    @rule(who=picks, provider=picks, key=picks, amount=amounts, nonce=st.integers(0, 20))
    def open(self, who, provider, key, amount, nonce):
        opened = ledger.OpenChannel(
            sender=ACCOUNTS[who % 5], provider=ACCOUNTS[provider % 5], session=KEYS[key % 4].session_address,
            amount=amount, nonce=nonce,
        )  # fmt: skip
        event = self.send(opened)
        if event is not None:
            self.channels.append(event.channel)

    @rule(pick=picks, who=picks, amount=amounts)
    def top_up(self, pick, who, amount):
        channel = self.channel(pick)
        self.send(ledger.TopUp(sender=self.payer_or(channel, who), channel=channel, amount=amount))

    @rule(pick=picks, who=picks, key=picks)
    def rotate(self, pick, who, key):
        channel = self.channel(pick)
        session = KEYS[key % 4].session_address
        self.send(ledger.RotateSession(sender=self.payer_or(channel, who), channel=channel, session=session))

    @rule(pick=picks, who=picks)
    def request_exit(self, pick, who):
        channel = self.channel(pick)
        self.send(ledger.RequestExit(sender=self.payer_or(channel, who), channel=channel))

    @rule(pick=picks, who=picks)
    def finish_exit(self, pick, who):
        leaving = [state.channel for state in self.pair.model.channel_states() if state.exit_at_ms and not state.closed]
        channel = leaving[pick % len(leaving)] if leaving and who % 4 else self.channel(pick)
        self.send(ledger.FinishExit(sender=self.payer_or(channel, who), channel=channel))

    def claim_both(self, transaction, acks):
        """What is paid is what this file's own books say is left of min(signed, locked): a repetition brings nothing."""
        left = 0
        for ack in acks:
            state = self.pair.chain.channel(ack.channel)
            if state is not None and not state.closed:
                covered = min(ack.cum, state.locked)
                before = self.pending.get(ack.channel, self.covered.get(ack.channel, 0))
                left += max(0, covered - before)
                self.pending[ack.channel] = max(covered, before)
        event = self.send(transaction)
        if event is not None:
            self.covered.update(self.pending)
            self.paid_claims.append((transaction, acks))
        self.pending.clear()
        if event is not None and event.paid != left:
            raise Difference(f"{transaction} paid {event.paid}, {left} was left")

    @rule(pick=picks, who=picks, seq=st.integers(1, 9), cum=credits | st.just(2**64 - 1), tamper=tampers)
    def claim_direct(self, pick, who, seq, cum, tamper):
        ack = self.acknowledge(self.channel(pick), seq, min(cum, 2**64 - 2), who, tamper)
        self.claim_both(ledger.ClaimDirect(sender=ACCOUNTS[who % 5], acknowledgement=ack), [ack])

    @rule(chosen=st.lists(st.tuples(picks, credits), min_size=1, max_size=4), who=picks, tamper=tampers)
    def claim_direct_batch(self, chosen, who, tamper):
        acks = [self.acknowledge(self.channel(pick), 1 + cum % 9, cum, pick) for pick, cum in chosen]
        acks[-1] = self.acknowledge(acks[-1].channel, acks[-1].seq, acks[-1].cum, who, tamper)
        self.claim_both(ledger.ClaimDirectBatch(sender=ACCOUNTS[who % 5], acknowledgements=tuple(acks)), acks)

    @rule(
        who=picks, back=st.integers(-1, 3),
        chosen=st.lists(st.tuples(picks, st.integers(1, 9), credits, tampers), min_size=1, max_size=7),
    )  # fmt: skip
    def submit_epoch(self, who, back, chosen):
        last = self.now_ms // PARAMS.epoch_ms - 1
        epoch = last - back
        if who % 8:
            epoch = next((epoch for epoch in range(last, -1, -1) if epoch not in self.trees), epoch)
        epoch = max(0, epoch)
        acks = [self.acknowledge(self.channel(pick), seq, cum, pick, tamper) for pick, seq, cum, tamper in chosen]
        leaves = [leaf_of(ack, epoch) for ack in acks]
        tree = MerkleTree([hash_leaf(leaf) for leaf in leaves])
        sender = AGGREGATOR if who % 4 else ACCOUNTS[who // 4 % 5]
        # Now and then with a count that is not the tree's, or none that can be.
        count = len(tree) if who % 8 else (len(tree) + 1, 0, 1 << 40, 1)[who // 8 % 4]
        commitment = ledger.Commitment(epoch=epoch, root=tree.root, count=count)
        if self.send(ledger.SubmitEpoch(sender=sender, commitment=commitment)) is not None:
            self.trees[epoch] = (leaves, acks, tree)

    def proven(self, pick, place, tamper):
        """(leaf, acknowledgement, proof) of a posted tree, or of one that was not."""
        epoch = self.epoch(pick)
        leaves, acks, tree = self.trees[epoch]
        index = place % len(leaves)
        count = self.pair.model.epoch(epoch).commitment.count
        leaf, ack, proof = leaves[index], acks[index], msgspec.structs.replace(tree.proof(index), count=count)
        match tamper:
            case 5:
                proof = msgspec.structs.replace(proof, index=(index + 1 + place // 8) % (len(leaves) + 1))
            case 6:
                proof = msgspec.structs.replace(proof, siblings=(*proof.siblings, bytes(32)))
            case 7:
                proof = msgspec.structs.replace(proof, siblings=proof.siblings[:-1])
            case 8:
                proof = msgspec.structs.replace(proof, siblings=proof.siblings[::-1])
            case 9:
                ack = self.acknowledge(leaf.channel, leaf.seq, leaf.cum + 1, place)
                leaf = leaf_of(ack, leaf.epoch)
            case 10:
                leaf = msgspec.structs.replace(leaf, epoch=leaf.epoch + 1)
        return leaf, ack, proof

    @rule(pick=picks, place=picks, who=picks, tamper=tampers)
    def claim(self, pick, place, who, tamper):
        if self.trees:
            leaf, ack, proof = self.proven(pick, place, tamper)
            claimed = ledger.Claim(sender=ACCOUNTS[who % 5], leaf=leaf, proof=proof, acknowledgement=ack)
            self.claim_both(claimed, [ack])

    @rule(pick=picks, places=st.sets(st.integers(0, 6), min_size=1), who=picks, tamper=tampers)
    def claim_batch(self, pick, places, who, tamper):
        if not self.trees:
            return
        epoch = self.epoch(pick)
        leaves, acks, tree = self.trees[epoch]
        indices = sorted({place % len(leaves) for place in places})
        count = self.pair.model.epoch(epoch).commitment.count
        proof, chosen = (
            msgspec.structs.replace(prove_many(tree, indices), count=count),
            [acks[index] for index in indices],
        )
        match tamper:
            case 5:
                proof = msgspec.structs.replace(proof, siblings=(*proof.siblings, bytes(32)))
            case 6:
                proof = msgspec.structs.replace(proof, siblings=proof.siblings[:-1])
            case 7:
                proof = msgspec.structs.replace(proof, indices=tuple(index + 1 for index in indices))
            case 8:
                chosen = chosen[::-1]
            case 9:
                proof = msgspec.structs.replace(proof, indices=(*proof.indices, proof.indices[-1]))
                chosen = [*chosen, chosen[-1]]
        batch = ledger.ClaimBatch(sender=ACCOUNTS[who % 5], epoch=epoch, acknowledgements=tuple(chosen), proof=proof)
        self.claim_both(batch, chosen)

    @rule(pick=picks, who=picks)
    def replay(self, pick, who):
        """What was paid once is not paid again, whoever sends it; only credits locked since may follow."""
        if self.paid_claims:
            again, acks = self.paid_claims[pick % len(self.paid_claims)]
            self.claim_both(msgspec.structs.replace(again, sender=ACCOUNTS[who % 5]), acks)

    @rule(who=picks, amount=amounts | st.just(2000), key=picks)
    def bond(self, who, amount, key):
        account = ACCOUNTS[who % 5]
        kept = self.pair.model.bond(account)
        signer = KEYS[key % 4].session_address if kept is None or key % 8 == 0 else kept.signer
        self.send(ledger.Bond(sender=account, amount=amount, signer=signer))

    @rule(who=picks)
    def unbond(self, who):
        bonds = self.pair.model._bonds.states()
        leaving = [bond.account for bond in bonds if bond.unbond_at_ms]
        if leaving and who % 2:
            self.send(ledger.FinishUnbond(sender=leaving[who % len(leaving)]))
        elif who % 16 < 2:
            self.send((ledger.RequestUnbond, ledger.FinishUnbond)[who % 2](sender=ACCOUNTS[who // 16 % 5]))
        else:
            # Seldom the aggregator: without its bond there is little to see.
            others = [bond.account for bond in bonds if bond.account != AGGREGATOR]
            if others:
                self.send(ledger.RequestUnbond(sender=others[who % len(others)]))

    @rule(pick=picks, channel=picks, seq=st.integers(1, 9), key=picks, who=picks, tamper=tampers)
    def challenge_omission(self, pick, channel, seq, key, who, tamper):
        if not self.trees:
            return
        epoch = self.epoch(pick)
        leaf = self.trees[epoch][0][channel % len(self.trees[epoch][0])]
        promise = ledger.Promise(
            epoch=epoch,
            channel=leaf.channel if key % 2 else self.channel(channel),
            cum=seq,
            seq=seq,
            head=bytes(32),
            signature=b"",
        )
        signature = self.signer_of(epoch, key).sign_session(promise_digest(self.domains[0], promise))
        promise = msgspec.structs.replace(promise, signature=spoil(signature, tamper), cum=seq + (tamper == 11))
        if self.send(ledger.ChallengeOmission(sender=ACCOUNTS[who % 5], promise=promise)) is not None:
            self.promises.append(promise)

    @rule(pick=picks, place=picks, who=picks, tamper=tampers)
    def answer_omission(self, pick, place, who, tamper):
        if not self.promises:
            return
        promise = self.promises[-1 - pick % len(self.promises)]
        leaves, _, tree = self.trees[promise.epoch]
        fitting = [at for at, leaf in enumerate(leaves) if leaf.channel == promise.channel] or [place % len(leaves)]
        index = fitting[place % len(fitting)] if tamper < 8 else place % len(leaves)
        proof = tree.proof(index)
        if tamper == 7:
            proof = msgspec.structs.replace(proof, siblings=(*proof.siblings, bytes(32)))
        self.send(
            ledger.AnswerOmission(sender=ACCOUNTS[who % 5], promised_seq=promise.seq, leaf=leaves[index], proof=proof)
        )

    @rule(pick=picks, place=picks, who=picks, tamper=tampers)
    def challenge_leaf(self, pick, place, who, tamper):
        if self.trees:
            leaf, ack, proof = self.proven(pick, place, tamper)
            if self.send(ledger.ChallengeLeaf(sender=ACCOUNTS[who % 5], leaf=leaf, proof=proof)) is not None:
                self.accused.append((leaf, ack))

    @rule(pick=picks, place=picks, who=picks, tamper=tampers)
    def answer_leaf(self, pick, place, who, tamper):
        if self.trees:
            leaf, ack, _ = self.proven(pick, place, 0)
            if self.accused and place % 4:
                leaf, ack = self.accused[-1 - place % len(self.accused)]
            signature = spoil(ack.signature, tamper)
            self.send(ledger.AnswerLeaf(sender=ACCOUNTS[who % 5], leaf=leaf, signature=signature))

    @rule(pick=picks, key=picks, who=picks, tamper=tampers)
    def prove_bad_head(self, pick, key, who, tamper):
        if not self.trees:
            return
        epoch = self.epoch(pick)
        posted = self.pair.model.epoch(epoch).commitment
        signed = posted if key % 3 == 0 else msgspec.structs.replace(posted, count=posted.count + 1)
        signature = self.signer_of(epoch, key).sign_session(commitment_digest(self.domains[1], signed))
        signed = ledger.SignedCommitment(commitment=signed, signature=spoil(signature, tamper))
        self.send(ledger.ProveBadHead(sender=ACCOUNTS[who % 5], signed=signed))

    @rule(pick=picks, who=picks, fault=st.sampled_from(list(ledger.Fault)))
    def finalize(self, pick, who, fault):
        known = self.pair.model._challenges.states()
        if who % 4:
            known = [at for at in known if at.verdict is ledger.Verdict.OPEN] or known
        if known and pick % 8:
            at = known[pick % len(known)]
            fault, epoch, subject = at.fault, at.epoch, at.subject
        else:
            epoch, subject = pick % 4, WHOLE_EPOCH if pick % 2 else subject_of_omission(self.channel(pick), 1)
        self.send(ledger.Finalize(sender=ACCOUNTS[who % 5], fault=fault, epoch=epoch, subject=subject))

    @invariant()
    def both_are_the_same(self):
        self.pair.compare()

    def teardown(self):
        for name in ("accepted", "refused"):
            self.seen[name].update(getattr(self.pair, name))
