"""The frames are those of docs/protocol.md, and their bytes are written down here: a change of either is another protocol."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from quiver.errors import WireCode
from quiver.ids import ChannelId, ModelId, RequestId
from quiver.values import frames
from quiver.values.receipt import Acknowledgement, ChannelHead
from quiver.values.request import Dialect, Qos
from quiver.wire.protocols import ACKS, DIALBACK, INFERENCE, KAD, OFFER, RECEIPTS

TEXT = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text("utf-8")
EVERY = [*typing.get_args(frames.InferenceFrame), frames.AckFrame, *typing.get_args(frames.ReceiptsFrame)]
REQUEST = RequestId(bytes(range(16)))


def rows(heading):
    """Cells of the table under a heading of the specification."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_table_of_frames_is_the_code():
    described = {tag: (name, fields.split(", ")) for tag, name, _, fields in rows("3. Frames")}
    coded = {
        frame.__struct_config__.tag: (frame.__name__, [field.name for field in msgspec.structs.fields(frame)])
        for frame in EVERY
    }
    assert described == coded


def test_the_table_of_codes_is_the_code():
    described = {int(code, 16): name for code, name, _ in rows("7. Codes")}
    assert described == {int(code): code.name for code in WireCode if code}


def test_the_table_of_protocols_is_the_code():
    units = {"KiB": 1024, "MiB": 1024 * 1024}
    described = {}
    for protocol, *_, largest in rows("1. Peers, transport, encoding"):
        if not protocol.startswith("/quiver/"):
            # The section's other table: limits.
            continue
        number, unit = largest.split()
        described[protocol] = int(number) * units[unit]
    assert described == {codec.id: codec.frame_bytes_max for codec in (KAD, OFFER, INFERENCE, ACKS, RECEIPTS, DIALBACK)}


# version 1.0 | array | tag | fields; c4 xx are bytes of length xx, a0 + n text, cb a double.
GOLDEN = {
    "accept": (INFERENCE, frames.Accept(request_id=REQUEST), "10 92 a143 c410000102030405060708090a0b0c0d0e0f"),
    "chunk": (
        INFERENCE, frames.Chunk(request_id=REQUEST, index=1, tokens=300, text="é"),
        "10 95 a154 c410000102030405060708090a0b0c0d0e0f 01 cd012c a2c3a9",
    ),
    "busy": (
        INFERENCE, frames.Busy(request_id=REQUEST, code=WireCode.BUSY, retry_after_s=0.5),
        "10 94 a142 c410000102030405060708090a0b0c0d0e0f cd2008 cb3fe0000000000000",
    ),
    "an error without a time": (
        INFERENCE, frames.Error(request_id=REQUEST, code=1, message="x"),
        "10 95 a145 c410000102030405060708090a0b0c0d0e0f 01 a178 c0",
    ),
    "open": (
        INFERENCE,
        frames.Open(
            request_id=REQUEST, channel=ChannelId(b"c"), model=ModelId(b"m"), dialect=Dialect.OPENAI_CHAT, max_tokens=1,
            prompt_tokens_estimate=2, deadline_ms=3, qos=Qos.BATCH, seed=None, sealed=False, prefix_hashes=(b"h",),
            body=b"{}",
        ),
        "10 9d a14f c410000102030405060708090a0b0c0d0e0f c40163 c4016d a66f70656e6169 01 02 03 aa6261636b67726f756e64"
        " c0 c2 91 c40168 c4027b7d",
    ),
    "authorised": (
        INFERENCE, frames.Authorised(channel=ChannelId(b"c"), head=ChannelHead(seq=1, cum=2, head=b"h")),
        "10 94 a161 c40163 83 a3736571 01 a363756d 02 a468656164 c40168 90",
    ),
    "acknowledgement": (
        ACKS,
        frames.AckFrame(
            acknowledgement=Acknowledgement(channel=ChannelId(b"c"), seq=1, cum=2, head=b"h", signature=b"s")
        ),
        "10 92 a14b 85 a76368616e6e656c c40163 a3736571 01 a363756d 02 a468656164 c40168 a97369676e6174757265 c40173",
    ),
    "ask for a proof": (RECEIPTS, frames.AskProof(epoch=7, channel=ChannelId(b"c")), "10 93 a150 07 c40163"),
    "an answer without one": (
        RECEIPTS,
        frames.ProofAnswer(
            epoch=7, channel=ChannelId(b"c"), commitment=None, leaf=None, proof=None, acknowledgement=None
        ),
        "10 98 a159 07 c40163 c0 c0 c0 c0 c400",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("codec", "frame", "golden"), GOLDEN.values(), ids=GOLDEN)
def test_the_bytes_of_a_frame_are_these(codec, frame, golden):
    assert codec.encode(frame).hex() == golden.replace(" ", "")
    assert codec.decode(bytes.fromhex(golden)) == frame


@pytest.mark.parametrize(
    ("older", "frame"),
    [
        (
            "10 97 a159 07 c40163 c0 c0 c0 c0",
            frames.ProofAnswer(
                epoch=7, channel=ChannelId(b"c"), commitment=None, leaf=None, proof=None, acknowledgement=None
            ),
        ),
        ("10 95 a149 01 02 03 04", frames.Ingested(batch_id=1, epoch=2, accepted=3, duplicates=4)),
    ],
    ids=["an answer without a signature", "an answer without a promise"],
)
def test_an_older_peers_frame_is_read_without_the_fields_it_does_not_know(older, frame):
    assert RECEIPTS.decode(bytes.fromhex(older.replace(" ", ""))) == frame


def test_frames_are_values():
    frame = frames.Accept(request_id=REQUEST)
    with pytest.raises(AttributeError):
        frame.request_id = RequestId(bytes(16))
    assert {frame: 1}[frames.Accept(request_id=REQUEST)] == 1
