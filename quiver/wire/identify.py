"""identify and its push, protobuf `Identify` (libp2p specifications, identify).

`/ipfs/id/1.0.0`: the side that accepts the stream writes and ends. `/ipfs/id/push/1.0.0`: the side that opens it does.
One answer may come as several messages, which are merged as protobuf merges: a list grows, of anything else the last counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from quiver.errors import MalformedMessage
from quiver.values.identify import Identify
from quiver.wire.protobuf import BYTES, bytes_field, decode_text, fields, tag

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
# go- and js-libp2p read 8 KiB a message and ten messages a stream; go sends no more than 2 KiB beside a signed record.
MESSAGE_BYTES_MAX = 8 * 1024
MESSAGES_MAX = 10
UNSIGNED_BYTES_MAX = 2 * 1024
# Bounds of what a peer makes us remember: an entry of two bytes on the wire is an object here.
ADDRESSES_MAX, PROTOCOLS_MAX = 256, 1024

_PUBLIC_KEY, _LISTEN, _PROTOCOL, _OBSERVED = tag(1, BYTES), tag(2, BYTES), tag(3, BYTES), tag(4, BYTES)
_PROTOCOL_VERSION, _AGENT_VERSION, _SIGNED_RECORD = tag(5, BYTES), tag(6, BYTES), tag(8, BYTES)


class IdentifyCodec:
    """Codec of identify or of its push."""

    frame_bytes_max = MESSAGE_BYTES_MAX
    fixed_bytes = 0

    def __init__(self, protocol_id: str) -> None:
        self.id = protocol_id

    def encode(self, message: Identify) -> bytes:
        """Fields in the order of their numbers; `MalformedMessage` if it is larger than others read (see `split`)."""
        texts = ((5, message.protocol_version), (6, message.agent_version))
        data = b"".join(
            (
                _optional(1, message.public_key),
                *(bytes_field(2, address) for address in message.listen_addresses),
                *(bytes_field(3, protocol.encode()) for protocol in message.protocols),
                _optional(4, message.observed_address),
                *(_optional(number, None if text is None else text.encode()) for number, text in texts),
                _optional(8, message.signed_peer_record),
            )
        )
        if len(data) > MESSAGE_BYTES_MAX:
            raise MalformedMessage(
                f"{self.id}: a message of {len(data)} bytes; at most {MESSAGE_BYTES_MAX} may be sent"
            )
        return data

    def decode(self, data: bytes) -> Identify:
        """The message, or `MalformedMessage`."""
        if len(data) > MESSAGE_BYTES_MAX:
            raise MalformedMessage(f"{self.id}: a message of {len(data)} bytes; at most {MESSAGE_BYTES_MAX} are read")
        try:
            return _decode(data)
        except MalformedMessage as error:
            raise MalformedMessage(f"{self.id}: {error}") from error

    def size(self, message: Identify) -> int:
        """len(encode(message))."""
        return len(self.encode(message))


def merge(messages: Sequence[Identify]) -> Identify:
    """One answer out of the messages of a stream; `MalformedMessage` beyond the limits."""
    if len(messages) > MESSAGES_MAX:
        raise MalformedMessage(f"{len(messages)} identify messages; at most {MESSAGES_MAX} are read")
    merged: dict[str, object] = {}
    for message in messages:
        for name, value in msgspec.structs.asdict(message).items():
            if isinstance(value, tuple):
                merged[name] = merged.get(name, ()) + value  # type: ignore[operator]
            elif value is not None:
                merged[name] = value
    whole = msgspec.convert(merged, Identify)
    _check_limits(whole.listen_addresses, whole.protocols)
    return whole


def split(message: Identify) -> list[Identify]:
    """The messages to send it as: the signed record goes alone when there is more than 2 KiB beside it."""
    record = message.signed_peer_record
    rest = msgspec.structs.replace(message, signed_peer_record=None)
    if record is None or IdentifyCodec(IDENTIFY).size(rest) <= UNSIGNED_BYTES_MAX:
        return [message]
    return [rest, Identify(signed_peer_record=record)]


def _optional(number: int, value: bytes | None) -> bytes:
    return b"" if value is None else bytes_field(number, value)


def _check_limits(addresses: Sequence[bytes], protocols: Sequence[str]) -> None:
    if len(addresses) > ADDRESSES_MAX or len(protocols) > PROTOCOLS_MAX:
        raise MalformedMessage(
            f"{len(addresses)} addresses and {len(protocols)} protocols; at most {ADDRESSES_MAX} and {PROTOCOLS_MAX} are read"
        )


def _decode(data: bytes) -> Identify:
    single: dict[int, bytes] = {}
    addresses: list[bytes] = []
    protocols: list[str] = []
    for head, _, body in fields(data):
        if head == _LISTEN:
            addresses.append(body)
        elif head == _PROTOCOL:
            protocols.append(decode_text(body))
        elif head & 7 == BYTES:
            single[head] = body
    _check_limits(addresses, protocols)
    protocol_version, agent_version = single.get(_PROTOCOL_VERSION), single.get(_AGENT_VERSION)
    return Identify(
        public_key=single.get(_PUBLIC_KEY),
        listen_addresses=tuple(addresses),
        protocols=tuple(protocols),
        observed_address=single.get(_OBSERVED),
        protocol_version=None if protocol_version is None else decode_text(protocol_version),
        agent_version=None if agent_version is None else decode_text(agent_version),
        signed_peer_record=single.get(_SIGNED_RECORD),
    )
