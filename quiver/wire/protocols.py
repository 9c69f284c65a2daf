"""The protocol ids of QUIVer and the codec of each (docs/protocol.md, table of protocols)."""

from __future__ import annotations

from quiver.params import Params
from quiver.values.dialback import DialBackAnswer, DialBackQuestion
from quiver.values.frames import AckFrame, InferenceFrame, ReceiptsFrame
from quiver.values.offer import OfferAnswer, OfferQuestion
from quiver.wire.codec import MessageCodec
from quiver.wire.kad import KAD_QUIVER, KadCodec

_LIMIT = Params.default().frame_bytes_max

INFERENCE: MessageCodec[InferenceFrame] = MessageCodec(
    "/quiver/inference/1.0.0", InferenceFrame, frame_bytes_max=_LIMIT
)
ACKS: MessageCodec[AckFrame] = MessageCodec("/quiver/acks/1.0.0", AckFrame, frame_bytes_max=4096)
RECEIPTS: MessageCodec[ReceiptsFrame] = MessageCodec("/quiver/receipts/1.0.0", ReceiptsFrame, frame_bytes_max=_LIMIT)
OFFER: MessageCodec[OfferQuestion | OfferAnswer] = MessageCodec(
    "/quiver/offer/1.0.0", OfferQuestion | OfferAnswer, frame_bytes_max=256 * 1024
)
KAD = KadCodec(KAD_QUIVER)
DIALBACK: MessageCodec[DialBackQuestion | DialBackAnswer] = MessageCodec(
    "/quiver/dialback/1.0.0", DialBackQuestion | DialBackAnswer, frame_bytes_max=2048
)
