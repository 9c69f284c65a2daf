"""Multiaddrs: any bytes and any text are an address or malformed."""

from quiver.errors import MalformedMessage
from quiver.wire import multiaddr

SEEDS = [
    multiaddr.quic_address("127.0.0.1", 4001), multiaddr.quic_address("::1", 1), b"/dns4/a.io/udp/1/quic-v1",
    b"/ip4/1.2.3.4/tcp/4001/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
]  # fmt: skip


def one_input(data: bytes) -> None:
    try:
        parts = multiaddr.decode(data)
        assert multiaddr.decode(multiaddr.encode(parts)) == parts
        multiaddr.to_text(data)
        multiaddr.quic_endpoint(data)
    except MalformedMessage:
        pass
    try:
        binary = multiaddr.from_text(data.decode("utf-8", "replace"))
    except MalformedMessage:
        return
    multiaddr.decode(binary)
