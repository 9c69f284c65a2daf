"""Receipts as JSON, and their check by the client itself: no gateway has to be believed.

The `quiver` object in the last piece of every answer is `encode_final`; `verify_receipt` reads it back, and checks it with what checks
bundles. No I/O here.
Bytes are lower-case hex, numbers are JSON integers, the provider is libp2p's peer id text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from nacl.exceptions import BadSignatureError

from quiver.errors import BadSignature, MalformedMessage, ReceiptMismatch
from quiver.identity.peer_id import compute_peer_id, peer_id_text
from quiver.live.client import verify_bundle
from quiver.values.receipt import Acknowledgement, ReceiptBody, SignedReceipt
from quiver.values.request import Final

_BODY_BYTES = {
    "contract": 20, "channel": 32, "request_id": 16, "provider_key": 32, "payer": 20,
    "request_hash": 32, "response_hash": 32, "model": 32,
}  # fmt: skip
_BODY_INTS = {
    "chain_id": 8, "seq": 8, "prompt_tokens": 4, "completion_tokens": 4, "amount": 8, "cum": 8, "issued_ms": 8,
}  # fmt: skip
_ACK_BYTES = {"channel": 32, "head": 32, "signature": 65}
_ACK_INTS = {"seq": 8, "cum": 8}


def encode_final(final: Final, *, request_id: bytes, max_tokens: int) -> dict[str, Any]:
    """The `quiver` object: who answered, what it cost, and the signatures."""
    ack, receipt = final.acknowledgement, final.receipt
    charged = {} if final.charged_credits is None else {"charged_credits": final.charged_credits}
    return {
        "request_id": request_id.hex(),
        "model": final.model.hex(),
        "max_tokens": max_tokens,
        "provider": peer_id_text(final.provider),
        "attempts": final.attempts,
        "resumed": final.resumed,
        "hedged": final.hedged,
        "queue_s": final.queue_s,
        "paid_credits": final.paid_credits,
        "quoted_credits": final.quoted_credits,
        **charged,
        # Nothing is owed for an empty answer, so nobody signed for one.
        "receipt": None if receipt is None else {"body": plain(receipt.body), "signature": receipt.signature.hex()},
        "acknowledgement": None if ack is None else plain(ack),
    }


def decode_receipt(obj: Mapping[str, Any]) -> tuple[SignedReceipt, Acknowledgement | None]:
    """The values inside a `quiver` object; `MalformedMessage` names the field that is wrong."""
    receipt = _mapping(obj, "receipt")
    body = ReceiptBody(**_fields(_mapping(obj, "receipt", "body"), "receipt.body", _BODY_BYTES, _BODY_INTS))
    signed = SignedReceipt(body=body, signature=_hex(receipt, "signature", "receipt", 64))
    if obj.get("acknowledgement") is None:
        return signed, None
    return signed, decode_acknowledgement(_mapping(obj, "acknowledgement"))


def decode_acknowledgement(obj: Mapping[str, Any]) -> Acknowledgement:
    """The acknowledgement of a `quiver` object; `MalformedMessage` names the field that is wrong."""
    return Acknowledgement(**_fields(obj, "acknowledgement", _ACK_BYTES, _ACK_INTS))


def verify_receipt(
    obj: Mapping[str, Any], *, answer: str | bytes | None = None, sent_body: bytes | None = None
) -> dict[str, Any]:
    """Check a `quiver` object; raises `MalformedMessage`, `BadSignature` or `ReceiptMismatch`.

    `answer` is the text received (checked when one provider gave all of it), `sent_body` the exact bytes posted.
    The result names the provider, the payer's session address that acknowledged (or None), and what was checked.
    """
    signed, ack = decode_receipt(obj)
    body = signed.body
    # After a resume the last provider signed for its own part only, whose start the client does not know.
    text = answer.encode() if isinstance(answer, str) else answer
    text = text if _count(obj, "resumed") == 0 else None
    max_tokens = None if sent_body is None else _count(obj, "max_tokens")
    try:
        verify_bundle.check_receipt(obj["receipt"], sent_body, max_tokens, text)
    except BadSignatureError as error:
        raise BadSignature("the receipt's signature is not its provider's: do not trust this answer's bill") from error
    except ValueError as error:
        raise ReceiptMismatch(str(error)) from error
    provider = peer_id_text(compute_peer_id(body.provider_key))
    for field, shown, in_receipt in (
        ("provider", obj.get("provider"), provider),
        ("request_id", obj.get("request_id"), body.request_id.hex()),
        ("model", obj.get("model"), body.model.hex()),
    ):
        if shown != in_receipt:
            raise ReceiptMismatch(f"{field}: the gateway says {shown}, the signed receipt says {in_receipt}")
    return {
        "provider": provider,
        "prompt_tokens": body.prompt_tokens,
        "completion_tokens": body.completion_tokens,
        "amount_credits": body.amount,
        "issued_ms": body.issued_ms,
        "acknowledged_by": None if ack is None else _check_acknowledgement(obj, body, ack),
        "answer_checked": text is not None,
        "request_checked": sent_body is not None,
    }


def _check_acknowledgement(obj: Mapping[str, Any], body: ReceiptBody, ack: Acknowledgement) -> str:
    if ack.channel != body.channel:
        raise ReceiptMismatch("acknowledgement: it belongs to another channel than the receipt")
    if ack.seq < body.seq or ack.cum < body.cum or (ack.seq == body.seq and ack.cum != body.cum):
        raise ReceiptMismatch(
            f"acknowledgement: it covers seq {ack.seq}, {ack.cum} credits; not seq {body.seq}, {body.cum}"
        )
    try:
        return verify_bundle.recover_session(obj["receipt"]["body"], obj["acknowledgement"])
    except Exception as error:  # coincurve raises bare Exception for an unrecoverable signature
        raise BadSignature(f"the acknowledgement is not signed: {error}") from error


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """A flat value with its bytes in hex."""
    return {
        name: item.hex() if isinstance(item, bytes) else item for name, item in msgspec.structs.asdict(value).items()
    }


def _mapping(obj: Any, *path: str) -> Mapping[str, Any]:
    for depth, name in enumerate(path):
        obj = obj.get(name) if isinstance(obj, Mapping) else None
        if not isinstance(obj, Mapping):
            raise MalformedMessage(f"{'.'.join(path[: depth + 1])}: missing, or not an object")
    return obj  # type: ignore[no-any-return]


def _count(obj: Mapping[str, Any], name: str) -> int:
    value = obj.get(name)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise MalformedMessage(f"{name}: must be a whole number, not {value!r}")
    return value


def _fields(obj: Mapping[str, Any], where: str, sizes: dict[str, int], ints: dict[str, int]) -> dict[str, Any]:
    values: dict[str, Any] = {name: _hex(obj, name, where, size) for name, size in sizes.items()}
    for name, size in ints.items():
        number = obj.get(name)
        if type(number) is not int or not 0 <= number < 1 << 8 * size:
            raise MalformedMessage(f"{where}.{name}: must be an integer of at most {size} bytes, not {number!r}")
        values[name] = number
    return values


def _hex(obj: Mapping[str, Any], name: str, where: str, size: int) -> bytes:
    value = obj.get(name)
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise MalformedMessage(f"{where}.{name}: must be {2 * size} hex digits")
    return data
