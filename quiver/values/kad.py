"""Messages of `/quiver/kad/1.0.0` (libp2p kad-dht specification, the parts QUIVer uses)."""

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


class KadMessage(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Question and answer share one shape."""

    type: KadType
    key: bytes = b""
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()
