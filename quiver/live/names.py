"""DNS names in the addresses that an operator writes down: resolved when they are used, because a name may move.

A stranger's names are never looked up: whoever sends an address could make every node ask its name server.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from quiver.errors import Unavailable
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import DNS, DNS4, DNS6, DNSADDR, IP4, IP6, Component, decode, encode, to_text

# Addresses one name may stand for; a round-robin of more is cut.
ADDRESSES_MAX = 8
_FAMILIES = {DNS: socket.AF_UNSPEC, DNS4: socket.AF_INET, DNS6: socket.AF_INET6}


async def resolve_names(info: PeerInfo) -> PeerInfo:
    """The same peer with IP addresses in place of names; `Unavailable` names the one that the system does not know."""
    found = [resolved for address in info.addresses for resolved in await _resolve_address(address)]
    return PeerInfo(peer_id=info.peer_id, addresses=tuple(found))


async def resolve_some(infos: Sequence[PeerInfo]) -> list[PeerInfo]:
    """Those that can be resolved, so that one bad name does not hide the others; `Unavailable` when none of several can."""
    found, errors = [], []
    for info in infos:
        try:
            found.append(await resolve_names(info))
        except Unavailable as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    return found


async def _resolve_address(address: bytes) -> list[bytes]:
    parts = decode(address)
    code, name = parts[0] if parts else (0, b"")
    if code == DNSADDR:
        raise Unavailable(f"{to_text(address)}: /dnsaddr is not looked up here: write /dns4/HOST or /ip4/ADDRESS")
    if code not in _FAMILIES:
        return [address]
    loop = asyncio.get_running_loop()
    try:
        told = await loop.getaddrinfo(name.decode(), None, family=_FAMILIES[code], type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(
            f"{to_text(address)}: the name cannot be resolved ({error}): correct it, or try later"
        ) from error
    # A name may be listed twice; the first place counts.
    hosts = list(dict.fromkeys((family, entry[0]) for family, *_, entry in told))
    return [encode([_component(family, str(host)), *parts[1:]]) for family, host in hosts[:ADDRESSES_MAX]]


def _component(family: int, host: str) -> Component:
    # A link-local IPv6 address has its interface behind a %.
    packed = socket.inet_pton(family, host.partition("%")[0])
    return (IP4 if family == socket.AF_INET else IP6, packed)
