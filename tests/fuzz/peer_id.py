"""Peer ids in text: any text is malformed, or an id that comes back from each form."""

from quiver.errors import MalformedMessage
from quiver.identity.peer_id import parse_peer_id, peer_id_cid, peer_id_cid36, peer_id_text

SEEDS = [
    b"12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
    b"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    b"bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe",
]


def one_input(data: bytes) -> None:
    try:
        peer = parse_peer_id(data.decode("utf-8", "replace"))
    except MalformedMessage:
        return
    for form in (peer_id_text, peer_id_cid, peer_id_cid36):
        assert parse_peer_id(form(peer)) == peer
