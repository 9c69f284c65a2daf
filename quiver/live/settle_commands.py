"""The operator's money on the command line: `settle`, `earnings`, `verify`. What each does is in `settle`, `earnings` and
`client/verify_bundle`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from quiver.live import process
from quiver.live.times import utc_text

if TYPE_CHECKING:
    from quiver.live.settle import Status

FORMAT = argparse.RawDescriptionHelpFormatter
_ACTIONS = {
    "status": "each channel: locked, paid, served, signed for, due, exits, keys; and what the node warns of, since when, what to do",
    "claim": "a provider: claim everything that is due, now",
    "exit": "a gateway: ask for a channel's rest back; once the delay is over, take it",
    "dispute": "promises held and leaves on trial, and what is to be done about each",
    "prove": "a provider: write the proof bundle of a request, for `verify`",
}


def add_settle(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`settle`, `earnings` and `verify`."""
    text = "Look after a node's channels by hand; a running node does the same by itself."
    settle = commands.add_parser(
        "settle", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live settle status --config provider.toml\n"
        "  python -m quiver.live settle claim --config provider.toml\n"
        "  python -m quiver.live settle exit --config gateway.toml --channel HEX\n"
        "  python -m quiver.live settle dispute --config provider.toml --act\n"
        "  python -m quiver.live settle prove --config provider.toml --request HEX --out bundle.json\n\n"
        "Works while the node runs. On a chain of kind rpc, what sends a transaction needs it stopped.",
    )  # fmt: skip
    actions = settle.add_subparsers(dest="action", required=True, metavar="ACTION")
    made = {name: actions.add_parser(name, help=text, description=text) for name, text in _ACTIONS.items()}
    for action in made.values():
        action.add_argument("--config", type=Path, required=True, metavar="FILE")
        action.add_argument("--json", action="store_true", help="one JSON value")
    made["exit"].add_argument("--channel", required=True, metavar="HEX")
    made["dispute"].add_argument("--act", action="store_true", help="do it: accuse, answer, finalize")
    made["prove"].add_argument("--request", required=True, metavar="HEX", help="its id, from the answer's receipt")
    made["prove"].add_argument(
        "--max-tokens", type=int, help="of the request: without it, `verify --request` can't check the request's hash"
    )
    made["prove"].add_argument("--out", type=Path, metavar="FILE", help="instead of standard output; never overwrites")
    _add_earnings(commands)
    # Its own parser reads the rest, its --help too.
    commands.add_parser(
        "verify", add_help=False, help="Check a proof bundle against an epoch's root: needs no node and trusts none."
    )


def _add_earnings(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "What a provider or gateway served, and where its money is; the sum is the ledger's."
    earnings = commands.add_parser(
        "earnings", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live earnings --config provider.toml\n"
        "  python -m quiver.live earnings --config provider.toml --by day --since 2026-01-31 --csv\n\n"
        "served = claimed + unclaimed + owed + lost, in credits; gas is in wei. A gateway's net is what it spent.",
    )  # fmt: skip
    earnings.add_argument("--config", type=Path, required=True, metavar="FILE")
    earnings.add_argument("--since", metavar="DAY", help="served on this day (UTC) or later")
    earnings.add_argument("--by", choices=("total", "model", "peer", "day"), default="total")
    form = earnings.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_const", const="csv", dest="form", help="a header, then a line a row")
    form.add_argument("--json", action="store_const", const="json", dest="form", help="rows and their sum")
    earnings.set_defaults(form="table")


def run_settle(given: argparse.Namespace) -> int:
    """One action."""

    async def main(stop: asyncio.Event) -> int:
        sys.stdout.write(await _settle(given) + "\n")
        return process.EXIT_DONE

    return process.run(main)


async def _settle(given: argparse.Namespace) -> str:
    from quiver.live import settle
    from quiver.live.init import write_new
    from quiver.live.settle_desk import opened_desk

    sends = given.action in ("claim", "exit") or (given.action == "dispute" and given.act)
    async with opened_desk(given.config, sends=sends) as desk:
        match given.action:
            case "status":
                return _show_status(settle.status(desk), given.json)
            case "claim":
                return _show(await settle.claim(desk), given.json)
            case "exit":
                told = await settle.leave(desk, settle.parse_channel(given.channel))
                return _show([{"channel": given.channel, "told": told}], given.json)
            case "dispute":
                return _show(await settle.dispute(desk, act=given.act), given.json)
            case _:
                request_id = settle.parse_bytes(given.request, 16, what="request")
                bundle = json.dumps(settle.prove(desk, request_id, max_tokens=given.max_tokens), indent=1)
    if given.out is None:
        return bundle
    # A slip of the hand must not replace a key or a store.
    write_new(given.out, bundle + "\n")
    return f"{given.out} is ready; check it with: python -m quiver.live verify {given.out} --root HEX --count N"


def _show_status(status: Status, as_json: bool) -> str:
    if as_json:
        return json.dumps(msgspec.to_builtins(status))
    told = [msgspec.structs.asdict(line) for line in status.channels]
    for one in status.warnings:
        told.append({"warning": one.detail, "since": utc_text(one.since_ms), "to do": one.fix})
    if status.more_warnings:
        told.append({"further warnings": f"{status.more_warnings}, in the log"})
    return _show(told, as_json=False)


def _show(lines: Sequence[dict[str, Any]], as_json: bool) -> str:
    if as_json:
        return json.dumps(lines)
    if not lines:
        return "nothing"
    return "\n\n".join("\n".join(f"{name}: {value}" for name, value in line.items()) for line in lines)


def run_earnings(given: argparse.Namespace) -> int:
    """The report."""

    async def main(stop: asyncio.Event) -> int:
        from quiver.live.earnings import show

        sys.stdout.write(await show(given.config, by=given.by, since=given.since, form=given.form) + "\n")
        return process.EXIT_DONE

    return process.run(main)


def run_verify(given: argparse.Namespace) -> int:
    """The verifier, which knows nothing of this package."""
    from quiver.live.client import verify_bundle

    return verify_bundle.main(given.rest)
