"""A client checks its own receipt: what is true passes, every single change is named."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.errors import BadSignature, MalformedMessage, PeerError, ReceiptMismatch
from quiver.identity.peer_id import peer_id_text
from quiver.live.client.verify import decode_receipt, encode_final, verify_receipt
from quiver.values.request import Dialect, InferenceRequest
from tests.live.doors import PAYER, PROVIDER, make_final

REQUEST = InferenceRequest(
    request_id=b"r" * 16, model="tiny", dialect=Dialect.NATIVE, body=b'{"prompt":"x"}', max_tokens=5,
    prompt_tokens_estimate=1, deadline_ms=0,
)  # fmt: skip
FINAL = make_final(REQUEST, "Hello")
OBJ = json.loads(json.dumps(encode_final(FINAL, request_id=REQUEST.request_id, max_tokens=5)))


def test_json_form_comes_back_as_the_same_values():
    assert decode_receipt(OBJ) == (FINAL.receipt, FINAL.acknowledgement)


def test_a_true_receipt_names_provider_price_and_payer():
    checked = verify_receipt(OBJ, answer="Hello", sent_body=REQUEST.body)
    assert checked == {
        "provider": peer_id_text(PROVIDER.peer_id), "prompt_tokens": 7, "completion_tokens": 2, "amount_credits": 9,
        "issued_ms": 1_700_000_000_000, "acknowledged_by": "0x" + PAYER.session_address.hex(), "answer_checked": True,
        "request_checked": True,
    }  # fmt: skip


def test_a_receipt_without_acknowledgement_says_so():
    assert verify_receipt({**OBJ, "acknowledgement": None})["acknowledged_by"] is None


def test_another_text_another_request_another_provider_are_each_named():
    with pytest.raises(ReceiptMismatch, match="response_hash"):
        verify_receipt(OBJ, answer="Hello!")
    with pytest.raises(ReceiptMismatch, match="request_hash"):
        verify_receipt(OBJ, sent_body=b"{}")
    for field, value in (("provider", peer_id_text(PAYER.peer_id)), ("model", "00" * 32), ("request_id", "00" * 16)):
        with pytest.raises(ReceiptMismatch, match=field):
            verify_receipt({**OBJ, field: value})


def test_after_a_resume_the_text_is_not_claimed_to_be_checked():
    assert verify_receipt({**OBJ, "resumed": 1}, answer="other")["answer_checked"] is False


def test_after_a_failover_or_a_hedge_all_of_the_text_is_one_providers():
    assert verify_receipt({**OBJ, "attempts": 2, "hedged": True}, answer="Hello")["answer_checked"] is True
    with pytest.raises(ReceiptMismatch, match="response_hash"):
        verify_receipt({**OBJ, "attempts": 2, "hedged": True}, answer="other")


@pytest.mark.parametrize("value", [None, 3, [], {}, "zz", {"body": 1}])
def test_what_is_not_a_receipt_is_malformed(value):
    with pytest.raises(MalformedMessage, match="receipt"):
        verify_receipt({**OBJ, "receipt": value})


def _paths(value, path=()):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, (*path, name))
    else:
        yield path


@settings(max_examples=80)
@given(data=st.data())
def test_no_signed_field_can_be_changed(data):
    path = data.draw(st.sampled_from([path for path in _paths(OBJ) if path[0] in ("receipt", "acknowledgement")]))
    forged = copy.deepcopy(OBJ)
    holder = forged
    for name in path[:-1]:
        holder = holder[name]
    value = holder[path[-1]]
    if isinstance(value, int):
        holder[path[-1]] = value ^ 1 << data.draw(st.integers(0, 20))
    else:
        at = data.draw(st.integers(0, len(value) - 1))
        holder[path[-1]] = (
            value[:at] + format(int(value[at], 16) ^ 1 << data.draw(st.integers(0, 3)), "x") + value[at + 1 :]
        )
    if path[0] == "receipt":
        with pytest.raises((BadSignature, ReceiptMismatch)):
            verify_receipt(forged)
        return
    try:
        # A changed acknowledgement is someone else's signature, if it is one at all.
        assert verify_receipt(forged)["acknowledged_by"] != "0x" + PAYER.session_address.hex()
    except PeerError:
        pass
