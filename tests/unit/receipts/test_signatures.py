"""A frame's signatures, checked together: whose is missing is said, and rubbish is cheap to refuse."""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import BadSignature
from quiver.identity.signing import receipt_digest
from quiver.receipts.signatures import verify_submission
from sim.signer import SimVerifier
from tests.unit.receipts.histories import CHAIN_ID, HUB, History, drive

replace = msgspec.structs.replace


class Counting(SimVerifier):
    """Notes how long each list was, and where it broke."""

    def __init__(self, mode):
        super().__init__(mode=mode)
        self.asked = []

    async def find_invalid(self, checks):
        found = await super().find_invalid(checks)
        self.asked.append((len(checks), found))
        return found


def verify(verifier, history, *, receipts=None, ack=None, sessions=None):
    drive(
        verify_submission(
            verifier, receipts or history.receipts, [receipt_digest(one.body) for one in history.receipts],
            ack or history.acknowledge(),
            sessions or (history.payer.session_address,), chain_id=CHAIN_ID, contract=HUB,
        )
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_all_signatures_of_a_frame_are_one_question(mode):
    history, verifier = History(amounts=(10, 7, 3), mode=mode), Counting(mode)
    verify(verifier, history)
    assert verifier.asked == [(4, None)]


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_an_older_session_key_may_have_signed(mode):
    history, verifier = History(amounts=(10, 7, 3), mode=mode), Counting(mode)
    verify(verifier, history, sessions=(history.provider.session_address, history.payer.session_address))
    assert verifier.asked == [(4, 0), (4, None)]


@pytest.mark.parametrize("mode", ["real", "modelled"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_receipt_that_is_not_signed_is_named(mode, position):
    history, verifier = History(amounts=(10, 7, 3), mode=mode), Counting(mode)
    receipts = [*history.receipts]
    receipts[position] = replace(receipts[position], signature=bytes(64))
    with pytest.raises(BadSignature, match=f"^receipt_signature: receipt {position + 1} "):
        verify(verifier, history, receipts=receipts)
    assert verifier.asked == [(4, position + 1)]


@pytest.mark.parametrize("mode", ["real", "modelled"])
def test_without_a_payers_word_no_receipt_is_looked_at(mode):
    history, verifier = History(amounts=(10, 7, 3), mode=mode), Counting(mode)
    receipts = [replace(one, signature=bytes(64)) for one in history.receipts]
    with pytest.raises(BadSignature, match="^acknowledgement_signature"):
        verify(verifier, history, receipts=receipts, ack=replace(history.acknowledge(), signature=bytes(65)))
    assert verifier.asked == [(4, 0)]
