"""Messages of the DHT protocols (libp2p kad-dht specification, rpc messages)."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from quiver.values.peer import PeerInfo


class KadType(IntEnum):
    """Wire values of libp2p's `Message.MessageType`."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A value in the DHT, as PUT_VALUE stores it and GET_VALUE finds it. Nobody has checked it yet."""

    key: bytes
    "`/namespace/rest`: the namespace names the validator."
    value: bytes
    time_received: str = ""
    "RFC 3339, set by whoever received it; of other nodes it says nothing."


class KadMessage(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Question and answer share one shape."""

    type: KadType
    key: bytes = b""
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()
    record: Record | None = None
    "PUT_VALUE carries the one to store, the answer to GET_VALUE the one that is held."
