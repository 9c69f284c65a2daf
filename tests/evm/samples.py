"""One transaction of each kind, well formed and otherwise meaningless."""

from __future__ import annotations

from typing import get_args

from quiver.ids import Address, ChannelId
from quiver.values import ledger
from quiver.values.receipt import Acknowledgement


def samples() -> list[ledger.Transaction]:
    """In the order of the union, so that a new kind without a sample is seen."""
    sender, other, channel, word = Address(b"\1" * 20), Address(b"\2" * 20), ChannelId(b"\3" * 32), bytes(32)
    signature = bytes(65)
    ack = Acknowledgement(channel=channel, seq=1, cum=2, head=word, signature=signature)
    leaf = ledger.Leaf(epoch=0, channel=channel, cum=2, seq=1, head=word)
    proof = ledger.Proof(index=0, count=2, siblings=(word,))
    many = ledger.MultiProof(indices=(0,), count=2, siblings=(word,))
    commitment = ledger.Commitment(epoch=0, root=word, count=2)
    promise = ledger.Promise(epoch=0, channel=channel, cum=2, seq=1, head=word, signature=signature)
    made = [
        ledger.Deposit(sender=sender, amount=1),
        ledger.Withdraw(sender=sender, amount=1),
        ledger.OpenChannel(sender=sender, provider=other, session=other, amount=1, nonce=1),
        ledger.TopUp(sender=sender, channel=channel, amount=1),
        ledger.RotateSession(sender=sender, channel=channel, session=other),
        ledger.SubmitEpoch(sender=sender, commitment=commitment),
        ledger.Claim(sender=sender, leaf=leaf, proof=proof, acknowledgement=ack),
        ledger.ClaimBatch(sender=sender, epoch=0, acknowledgements=(ack,), proof=many),
        ledger.ClaimDirect(sender=sender, acknowledgement=ack),
        ledger.ClaimDirectBatch(sender=sender, acknowledgements=(ack,)),
        ledger.RequestExit(sender=sender, channel=channel),
        ledger.FinishExit(sender=sender, channel=channel),
        ledger.Bond(sender=sender, amount=1, signer=other),
        ledger.RequestUnbond(sender=sender),
        ledger.FinishUnbond(sender=sender),
        ledger.ChallengeOmission(sender=sender, promise=promise),
        ledger.AnswerOmission(sender=sender, promised_seq=1, leaf=leaf, proof=proof),
        ledger.ChallengeLeaf(sender=sender, leaf=leaf, proof=proof),
        ledger.AnswerLeaf(sender=sender, leaf=leaf, signature=signature),
        ledger.ProveBadHead(sender=sender, signed=ledger.SignedCommitment(commitment=commitment, signature=signature)),
        ledger.Finalize(sender=sender, fault=ledger.Fault.LEAF, epoch=0, subject=word),
    ]
    assert [type(transaction) for transaction in made] == list(get_args(ledger.Transaction))
    return made
