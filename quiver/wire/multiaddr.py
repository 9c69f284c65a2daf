"""Multiaddrs: binary, text, and the one question the QUIC transport asks of them (multiformats multiaddr).

An unknown code makes an address unusable, never a whole message: `parse` raises, and callers skip the address.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from quiver.errors import MalformedMessage
from quiver.identity.peer_id import parse_peer_id, peer_id_text
from quiver.ids import PeerId
from quiver.wire.framing import decode_varint, encode_frame, encode_varint

# An address we store or send: enough for dnsaddr + p2p, small enough to keep a table of.
MULTIADDR_BYTES_MAX = 512

IP4, TCP, IP6, UDP, P2P, QUIC_V1 = 4, 6, 41, 273, 421, 461
DNS, DNS4, DNS6, DNSADDR = 53, 54, 55, 56

_NAMES: Final = {
    IP4: "ip4", TCP: "tcp", IP6: "ip6", UDP: "udp", P2P: "p2p", QUIC_V1: "quic-v1",
    DNS: "dns", DNS4: "dns4", DNS6: "dns6", DNSADDR: "dnsaddr",
}  # fmt: skip
_CODES: Final = {name: code for code, name in _NAMES.items()} | {"ipfs": P2P}
_FIXED_BYTES: Final = {IP4: 4, IP6: 16, TCP: 2, UDP: 2, QUIC_V1: 0}
_PORTS: Final = (TCP, UDP)

Component = tuple[int, bytes]
"""(code, raw value): the value is without its length prefix."""


def decode(data: bytes) -> list[Component]:
    """Components of a binary multiaddr; `MalformedMessage` for an unknown code or a cut value."""
    if len(data) > MULTIADDR_BYTES_MAX:
        raise MalformedMessage(f"a multiaddr of {len(data)} bytes; at most {MULTIADDR_BYTES_MAX} are read")
    parts: list[Component] = []
    offset = 0
    while offset < len(data):
        head = decode_varint(data, offset)
        if head is None or head[0] not in _NAMES:
            raise MalformedMessage(f"an unknown component in multiaddr {data.hex()}")
        code, offset = head
        length = _FIXED_BYTES.get(code)
        if length is None:
            sized = decode_varint(data, offset)
            if sized is None:
                raise MalformedMessage(f"multiaddr {data.hex()} ends inside a length")
            length, offset = sized
        if len(data) - offset < length:
            raise MalformedMessage(f"multiaddr {data.hex()} ends inside /{_NAMES[code]}")
        parts.append((code, data[offset : offset + length]))
        offset += length
    return parts


def encode(parts: list[Component]) -> bytes:
    """Binary form of components; the inverse of `decode`."""
    out = bytearray()
    for code, value in parts:
        if code not in _NAMES or _FIXED_BYTES.get(code, len(value)) != len(value):
            raise MalformedMessage(f"no multiaddr component has code {code} and a value of {len(value)} bytes")
        out += encode_varint(code) + (value if code in _FIXED_BYTES else encode_frame(value))
    if len(out) > MULTIADDR_BYTES_MAX:
        raise MalformedMessage(f"a multiaddr of {len(out)} bytes; at most {MULTIADDR_BYTES_MAX} are read")
    return bytes(out)


def to_text(data: bytes) -> str:
    """`/ip4/127.0.0.1/udp/4001/quic-v1`."""
    return "".join(
        f"/{_NAMES[code]}" + (f"/{text}" if (text := _value_text(code, raw)) else "") for code, raw in decode(data)
    )


def from_text(text: str) -> bytes:
    """Binary form of the text; `MalformedMessage` says which part is wrong."""
    if not text.startswith("/"):
        raise MalformedMessage(f"{text!r} is not a multiaddr: it starts with '/', like /ip4/127.0.0.1/udp/4001/quic-v1")
    words = iter(text.strip("/").split("/"))
    parts: list[Component] = []
    for name in words:
        code = _CODES.get(name)
        if code is None:
            raise MalformedMessage(f"{text!r} is not a multiaddr: {name!r} is not one of {', '.join(sorted(_CODES))}")
        try:
            parts.append((code, b"" if code == QUIC_V1 else _value_bytes(code, next(words, ""))))
        except ValueError as error:
            raise MalformedMessage(f"{text!r} is not a multiaddr: /{name}: {error}") from error
    return encode(parts)


def _value_text(code: int, raw: bytes) -> str:
    if code in (IP4, IP6):
        return str(ipaddress.ip_address(raw))
    if code in _PORTS:
        return str(int.from_bytes(raw, "big"))
    if code == P2P:
        return peer_id_text(PeerId(raw))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"/{_NAMES[code]} holds a name that is not UTF-8") from error


def _value_bytes(code: int, text: str) -> bytes:
    if code == IP4:
        return ipaddress.IPv4Address(text).packed
    if code == IP6:
        return ipaddress.IPv6Address(text).packed
    if code in _PORTS:
        port = int(text)
        if not 0 <= port < 1 << 16:
            raise ValueError(f"a port is 0 to 65535, not {port}")
        return port.to_bytes(2, "big")
    if not text:
        raise ValueError("a value is missing")
    if code == P2P:
        return parse_peer_id(text)
    return text.encode()


def quic_address(host: str, port: int) -> bytes:
    """`/ip4|ip6/host/udp/port/quic-v1` of a numeric host."""
    ip = ipaddress.ip_address(host)
    return encode([(IP4 if ip.version == 4 else IP6, ip.packed), (UDP, port.to_bytes(2, "big")), (QUIC_V1, b"")])


def tcp_address(host: str, port: int) -> bytes:
    """`/ip4|ip6/host/tcp/port` of a numeric host."""
    ip = ipaddress.ip_address(host)
    return encode([(IP4 if ip.version == 4 else IP6, ip.packed), (TCP, port.to_bytes(2, "big"))])


def tcp_endpoint(data: bytes) -> tuple[str, int] | None:
    """(numeric host, port) of a plain TCP address with a numeric host, with or without /p2p; None for any other address."""
    try:
        parts = decode(data)
    except MalformedMessage:
        return None
    if [code for code, _ in parts] not in ([IP4, TCP], [IP6, TCP], [IP4, TCP, P2P], [IP6, TCP, P2P]):
        return None
    return str(ipaddress.ip_address(parts[0][1])), int.from_bytes(parts[1][1], "big")


def quic_endpoint(data: bytes) -> tuple[str, int] | None:
    """(numeric host, port) of a QUIC v1 address with a numeric host, with or without /p2p; None for any other address."""
    try:
        parts = decode(data)
    except MalformedMessage:
        return None
    if [code for code, _ in parts[:3]] not in ([IP4, UDP, QUIC_V1], [IP6, UDP, QUIC_V1]) or len(parts) > 4:
        return None
    if len(parts) == 4 and parts[3][0] != P2P:
        return None
    return str(ipaddress.ip_address(parts[0][1])), int.from_bytes(parts[1][1], "big")
