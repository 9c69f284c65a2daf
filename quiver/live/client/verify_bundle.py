"""Checks a proof bundle by itself: that a provider signed for this request and answer, its payer for the bill, and that the bill is
under an epoch's root. Needs this file, PyNaCl and coincurve, and root and count as the ledger shows them; QUIVer is not trusted.

    python verify_bundle.py bundle.json --root HEX [--count N] [--request FILE] [--response FILE] [--session 0xADDRESS]
"""

import argparse
import json
import sys
from hashlib import sha256
from pathlib import Path
from struct import pack
from typing import Any

import coincurve
import nacl.bindings

HALF_ORDER, MASK = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0, (1 << 64) - 1


def check(holds: bool, what: str) -> None:
    """ValueError that begins with the name of what does not hold."""
    if not holds:
        raise ValueError(what)


def take(obj: Any, name: str, size: int) -> bytes:
    """A field of `size` bytes in hex."""
    check(len(data := bytes.fromhex(obj[name])) == size, f"{name}: must be {2 * size} hex digits")
    return data


def check_receipt(receipt: Any, request: bytes | None, max_tokens: int | None, response: bytes | None) -> bytes:
    """Digest of a receipt its provider signed, for these bytes where they are given (docs/protocol.md, section 4)."""
    body, key = receipt["body"], take(receipt["body"], "provider_key", 32)
    digest = sha256(b"QUIVer/receipt/v1" + pack(
        ">BQ20s32s16sQ32s20s32s32s32sIIQQQ", 1, body["chain_id"], take(body, "contract", 20), take(body, "channel", 32),
        take(body, "request_id", 16), body["seq"], key, take(body, "payer", 20), take(body, "request_hash", 32),
        take(body, "response_hash", 32), take(body, "model", 32), body["prompt_tokens"], body["completion_tokens"],
        body["amount"], body["cum"], body["issued_ms"])).digest()  # fmt: skip
    nacl.bindings.crypto_sign_open(take(receipt, "signature", 64) + digest, key)
    if request is not None:
        check(max_tokens is not None, "max_tokens: not in the bundle; `settle prove --max-tokens N` puts it there")
        asked = bytes.fromhex(body["request_id"] + body["model"]) + pack(">Q", max_tokens) + sha256(request).digest()
        check(sha256(asked).hexdigest() == body["request_hash"], "request_hash: of another request")
    check(response is None or sha256(response).hexdigest() == body["response_hash"], "response_hash: of another text")
    return digest


def recover_session(body: Any, ack: Any) -> str:
    """Address of whoever signed the acknowledgement: the ledger has it as the channel's session key."""
    domain = sha256(b"QUIVer/ack/v1" + body["chain_id"].to_bytes(32, "big") + take(body, "contract", 20)).digest()
    state = pack(">32sQQQ32s", take(ack, "channel", 32), 0, ack["cum"], ack["seq"], take(ack, "head", 32))
    signature = take(ack, "signature", 65)
    check(int.from_bytes(signature[32:64], "big") <= HALF_ORDER, "ack_signature: not in its canonical (low s) form")
    key = coincurve.PublicKey.from_signature_and_message(signature, sha256(domain + state).digest(), hasher=None)
    return "0x" + keccak256(key.format(compressed=False)[1:])[12:].hex()


def check_inclusion(bundle: Any, digest: bytes, root: bytes, count: int | None = None) -> None:
    """The receipt leads to the acknowledged head, the head is in the leaf, the leaf under `root` of `count` (RFC 6962)."""
    body, ack, leaf, proof = bundle["receipt"]["body"], bundle["acknowledgement"], bundle["leaf"], bundle["proof"]
    head = sha256(take(bundle, "head_before", 32) + digest).digest()
    for later in bundle["later"]:
        head = sha256(head + bytes.fromhex(later)).digest()
    reached = (body["channel"], body["seq"] + len(bundle["later"]), head.hex(), max(body["cum"], leaf["cum"]))
    check(reached == (leaf["channel"], leaf["seq"], leaf["head"], leaf["cum"]), "head_chain: does not lead to the leaf")
    check(all(ack[name] == leaf[name] for name in ("channel", "seq", "cum", "head")), "ack_leaf: of another state")
    packed = pack(">BQ32sQQQ32s", 0, leaf["epoch"], take(leaf, "channel", 32), 0, leaf["cum"], leaf["seq"], head)
    at, width, node, path = proof["index"], proof["count"], sha256(packed).digest(), map(bytes.fromhex, proof["siblings"])  # fmt: skip
    check(count in (None, width), f"proof_count: of a tree with {width} leaves")
    check(0 <= at < width, "proof_index: no such leaf")
    while width > 1:
        if at ^ 1 < width:
            node = sha256(b"\x01" + (next(path, b"") + node if at & 1 else node + next(path, b""))).digest()
        at, width = at >> 1, (width + 1) >> 1
    check(node == root and not [*path], "proof_root: the leaf is not under this root")


def keccak256(data: bytes) -> bytes:
    """Of Ethereum, at most 134 bytes; hashlib has only its successor."""
    block, a, lfsr = (data + b"\x01").ljust(135, b"\0") + b"\x80", [0] * 25, 1
    a[:17] = [int.from_bytes(block[8 * i : 8 * i + 8], "little") for i in range(17)]
    for _ in range(24):
        c = [a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20] for x in range(5)]
        a = [w ^ c[(i + 4) % 5] ^ (c[(i + 1) % 5] << 1 & MASK | c[(i + 1) % 5] >> 63) for i, w in enumerate(a)]
        b, x, y = a[:], 1, 0
        for t in range(24):
            w, x, y, by = a[x + 5 * y], y, (2 * x + 3 * y) % 5, (t + 1) * (t + 2) // 2 % 64
            b[x + 5 * y] = w << by & MASK | w >> (64 - by)
        a = [b[i] ^ (~b[i // 5 * 5 + (i + 1) % 5] & b[i // 5 * 5 + (i + 2) % 5]) for i in range(25)]
        for j in range(7):
            a[0], lfsr = a[0] ^ (lfsr & 1) << ((1 << j) - 1), lfsr << 1 ^ (0x171 if lfsr & 0x80 else 0)
    return b"".join(w.to_bytes(8, "little") for w in a[:4])


def main(arguments: list[str] | None = None) -> int:
    """0 and what was verified, or 1 and what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="made by `settle prove`; the files hold the very bytes posted and received")
    for name in ("--root", "--count", "--request", "--response", "--session"):
        parser.add_argument(name, required=name == "--root", type=int if name == "--count" else str)
    given = parser.parse_args(arguments)
    try:
        sent, answer = (Path(name).read_bytes() if name else None for name in (given.request, given.response))
        bundle = json.loads(Path(given.bundle).read_bytes())
        digest = check_receipt(bundle["receipt"], sent, bundle["max_tokens"], answer)
        check_inclusion(bundle, digest, bytes.fromhex(given.root.removeprefix("0x")), given.count)
        session = recover_session(bundle["receipt"]["body"], bundle["acknowledgement"])
        check((given.session or session).lower() == session, f"ack_signature: signed by {session}, not this one")
    except Exception as problem:  # coincurve raises it bare, and whatever a forger writes must end here
        sys.stdout.write(f"does not hold: {type(problem).__name__}: {problem}\n")
        return 1
    checked = ["receipt", *(name for name in ("request", "response") if getattr(given, name))]
    sys.stdout.write(f"holds: {', '.join(checked)}, acknowledged by {session}, under this root\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
