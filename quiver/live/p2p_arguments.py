"""What may be said to `python -m quiver.live p2p`, and the help that says it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

FORMAT = argparse.RawDescriptionHelpFormatter
PINGS = 5
CRAWLERS = 16
TIMEOUT_S = 10.0
# Both are of the Ed25519 key whose seed is 32 bytes of 01: the test vector of the libp2p facts.
EXAMPLE_PEER = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
EXAMPLE_KEY = "0x080112208a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
EXAMPLE_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
# The first address of a network file, as a shell reads it.
_ADDRESS = "$(grep -m1 -o '/ip4[^\"]*' net/network.toml)"
_KEY_HELP = (
    "a model's digest (64 hex digits), a CID, 0x and the hex digits of a multihash, or any text, which is hashed"
)
_COMMAND = "  python -m quiver.live p2p"
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_p2p(commands: Commands) -> None:
    """`p2p` and its commands."""
    text = "Look at the peer-to-peer network: ping, identify, find, provide, put, get, crawl."
    p2p = commands.add_parser(
        "p2p", help=text, formatter_class=FORMAT,
        description=f"{text} Works in a network of QUIVer (--network FILE) and with any libp2p node (--peer ADDRESS).",
        epilog="a devnet to try it on:\n  python -m quiver.live devnet --directory net\nexamples:\n"
        f"{_COMMAND} crawl --network net/network.toml\n{_COMMAND} id net/gateway.key\n{_COMMAND} id {EXAMPLE_PEER}",
    )  # fmt: skip
    those = p2p.add_subparsers(dest="p2p_command", required=True, metavar="COMMAND")

    _add_peers(those)
    _add_records(those)

    one = _add(
        those, "crawl", "Walk the DHT from its bootstrap peers and show everybody in it.",
        "crawl --network net/network.toml", "crawl --network net/network.toml --json", "crawl --network net/network.toml --graph out.png",
    )  # fmt: skip
    one.add_argument("--graph", type=Path, metavar="FILE.png", help="draw who knows whom")
    one.add_argument("--parallel", type=int, default=CRAWLERS, help="peers asked at once (default %(default)s)")
    _way_in(one)


def _add_peers(those: Commands) -> None:
    """Of one peer: its id, whether it answers, what it is, where it lives."""
    one = _add(those, "id", "Show a peer id in every text form.", f"id {EXAMPLE_PEER}", "id net/gateway.key")
    one.add_argument(
        "what", metavar="KEY_FILE_OR_TEXT", help="a node's key file, a peer id in any form, or a multiaddr"
    )

    one = _add(
        those, "ping", "Measure round trips to a peer.", "ping --network net/network.toml bootstrap", f'ping -n 3 "{_ADDRESS}"'
    )  # fmt: skip
    _address(one)
    one.add_argument("-n", dest="count", type=int, default=PINGS, help="how many (default %(default)s)")

    one = _add(
        those, "identify", "Ask a peer what it is.", "identify --network net/network.toml bootstrap", f'identify "{_ADDRESS}"'
    )  # fmt: skip
    _address(one)

    one = _add(
        those, "find-peer", "Find where a peer can be dialled, by the DHT.",
        "find-peer --network net/network.toml net/aggregator.key",
    )  # fmt: skip
    one.add_argument(
        "what", metavar="KEY_FILE_OR_TEXT", help="a node's key file, a peer id in any form, or a multiaddr"
    )
    _way_in(one)


def _add_records(those: Commands) -> None:
    """Of the DHT: providers and values."""
    one = _add(
        those, "provide", "Announce that this machine provides a key.",
        f"provide --network net/network.toml {EXAMPLE_DIGEST}", "provide --network net/network.toml --stay 'any text'",
    )  # fmt: skip
    one.add_argument("what", metavar="KEY", help=_KEY_HELP)
    one.add_argument("--stay", action="store_true", help="answer others and renew the record until Ctrl-C")
    one.add_argument("--key", type=Path, metavar="FILE", help="the key file to do it as; a throw-away key without it")
    _way_in(one)

    one = _add(
        those, "find-providers", "Find who provides a key.",
        f"find-providers --network net/network.toml {EXAMPLE_DIGEST}",
    )  # fmt: skip
    one.add_argument("what", metavar="KEY", help=_KEY_HELP)
    _way_in(one)

    one = _add(
        those, "put", "Store a value in the DHT.",
        f"put --network net/network.toml /pk/{EXAMPLE_PEER} {EXAMPLE_KEY}",
    )  # fmt: skip
    one.add_argument("what", metavar="KEY", help="/pk/PEER; other namespaces have no validator here")
    one.add_argument("value", metavar="VALUE", help="0x and hex digits, or text")
    _way_in(one)

    one = _add(
        those, "get", "Read a value from the DHT.", f"get --network net/network.toml /pk/{EXAMPLE_PEER}"
    )  # fmt: skip
    one.add_argument("what", metavar="KEY", help="/pk/PEER; other namespaces have no validator here")
    _way_in(one)


def _add(those: Commands, name: str, text: str, *examples: str) -> argparse.ArgumentParser:
    lines = "\n".join(f"{_COMMAND} {example}" for example in examples)
    one = those.add_parser(name, help=text, description=text, epilog=f"examples:\n{lines}", formatter_class=FORMAT)
    one.add_argument("--json", action="store_true", help="one JSON value instead of text")
    return one


def _address(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "address", metavar="ADDR",
        help="a multiaddr with /p2p/PEER; with a way in also a peer id; with --network also bootstrap or aggregator",
    )  # fmt: skip
    _way_in(one)


def _way_in(one: argparse.ArgumentParser) -> None:
    one.add_argument("--network", type=Path, metavar="FILE", help="a network.toml: its peers, its hash, its constants")
    one.add_argument(
        "--peer", action="append", default=[], metavar="MULTIADDR", help="a peer to start from; may be repeated"
    )
    one.add_argument(
        "--kad", action="append", default=[], metavar="ID",
        help="DHT protocol: quiver, ipfs or /an/id; may be repeated (default: quiver, and ipfs too without --network)",
    )  # fmt: skip
    one.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="of each question (default %(default)s)"
    )
