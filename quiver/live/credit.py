"""`python -m quiver.live credit`: what a gateway's clients have prepaid.

A store has one writer. Whoever finds it free is that writer; otherwise the gateway runs, and is asked at its admin door.
Every command reads this file for its arguments, so aiohttp, which is slow to import, is imported where it is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

import msgspec

from quiver.errors import Unavailable, UsageError
from quiver.gateway.budget import GRANT_ID_BYTES, Budget
from quiver.live import keyfile, process
from quiver.live.clock import LiveClock
from quiver.live.config import GatewayConfig
from quiver.live.config_file import load, resolve
from quiver.live.stores.choice import open_store
from quiver.live.stores.refusal import StoreInUse
from quiver.live.teller import AccountView, Teller

FORMAT = argparse.RawDescriptionHelpFormatter
ASK_S = 10.0
_ACTIONS = {
    "add": "give an account credits; a negative amount takes back what is neither spent nor held",
    "show": "one account",
    "list": "all accounts",
}


def add_credit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`credit`."""
    text = "What a gateway's clients have prepaid: an account is the name of an API key."
    credit = commands.add_parser(
        "credit", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live credit add --config gateway.toml alice 1000000\n"
        "  python -m quiver.live credit show --config gateway.toml alice --json\n"
        "  python -m quiver.live credit list --config gateway.toml\n\n"
        "While the gateway runs, [selling] admin_port has to be set.",
    )  # fmt: skip
    actions = credit.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, told in _ACTIONS.items():
        action = actions.add_parser(name, help=told, description=told)
        action.add_argument("--config", type=Path, required=True, metavar="FILE", help="of a gateway")
        action.add_argument("--json", action="store_true", help="one JSON value")
        if name != "list":
            action.add_argument("account", metavar="NAME")
        if name == "add":
            action.add_argument("amount", type=int, metavar="AMOUNT", help="credits")
            action.add_argument(
                "--id", default="", metavar="HEX", help="32 hex digits: the same again gives nothing twice (a new one)"
            )
    _add_pay(actions)


def _add_pay(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "a client: pay in by a channel to the gateway's account, from a chain account of one's own"
    pay = actions.add_parser("pay", help=text, description=f"{text}; the API key is in QUIVER_API_KEY")
    pay.add_argument("amount", type=int, metavar="AMOUNT", help="credits; those the account lacks are bought first")
    pay.add_argument("--network", type=Path, required=True, metavar="FILE", help="network.toml")
    pay.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="of the account that pays; no node may run on it"
    )
    pay.add_argument("--gateway", default="http://127.0.0.1:8080", metavar="URL")
    pay.add_argument("--json", action="store_true", help="one JSON value")


def run_credit(given: argparse.Namespace) -> int:
    """One action."""

    async def main(stop: asyncio.Event) -> int:
        sys.stdout.write(await (_pay(given) if given.action == "pay" else _show(given)) + "\n")
        return process.EXIT_DONE

    return process.run(main)


async def _pay(given: argparse.Namespace) -> str:
    from quiver.live.credit_pay import pay

    answer = await pay(given)
    if given.json:
        return msgspec.json.encode(answer).decode()
    return f"{answer['given']:,} credits paid in; account {answer['account']!r} holds {answer['balance']:,}"


async def _show(given: argparse.Namespace) -> str:
    config = load(given.config, GatewayConfig)
    if config.selling is None:
        raise UsageError(f"{given.config} has no [selling]: this gateway's clients have no accounts")
    keypair = keyfile.load(resolve(given.config, config.key))
    try:
        store = open_store(config.store, resolve(given.config, config.store), keypair.peer_id)
    except StoreInUse as error:
        port = config.selling.admin_port
        if not port:
            raise UsageError(
                f"{error}; or set [selling] admin_port, and `credit` asks the gateway that runs"
            ) from error
        from quiver.live.http.admin import ADMIN_MESSAGE, LOOPBACK, make_admin_key

        views = await _ask(given, f"http://{LOOPBACK}:{port}/credit", make_admin_key(keypair.sign(ADMIN_MESSAGE)))
    else:
        try:
            views = await _do(given, Teller(Budget(store), config.http.accounts(), store, LiveClock()))
        finally:
            await store.close()
    if given.action == "show" and not views:
        raise UsageError(f"there is no account {given.account!r}: `credit list` shows those there are")
    if given.json:
        return msgspec.json.encode(views if given.action == "list" else views[0]).decode()
    return _table(views)


def _grant_id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text) if text else os.urandom(GRANT_ID_BYTES)
    except ValueError:
        found = b""
    if len(found) != GRANT_ID_BYTES:
        raise UsageError(f"--id {text}: write {2 * GRANT_ID_BYTES} hex digits")
    return found


async def _do(given: argparse.Namespace, teller: Teller) -> list[AccountView]:
    if given.action == "add":
        return [await teller.grant(_grant_id(given.id), given.account, given.amount)]
    return [one for one in teller.views() if given.action == "list" or one.account == given.account]


async def _ask(given: argparse.Namespace, url: str, key: str) -> list[AccountView]:
    """The same of a gateway that runs."""
    import aiohttp

    headers = {"Authorization": f"Bearer {key}"}
    adding = given.action == "add"
    body = {"id": _grant_id(given.id).hex(), "account": given.account, "amount": given.amount} if adding else None
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_S)) as session,
            session.request("POST" if adding else "GET", url, json=body, headers=headers) as response,
        ):
            data = await response.read()
            if response.status >= 400:
                kind = UsageError if response.status < 500 else Unavailable
                raise kind(f"the gateway refuses: {msgspec.json.decode(data, type=dict[str, str])['error']}")
    except (aiohttp.ClientError, TimeoutError) as error:
        told = f" (it may have been given: the same command with --id {body['id']} gives nothing twice)" if body else ""
        raise Unavailable(f"the gateway that holds the store does not answer at {url}: {error}{told}") from error
    if adding:
        return [msgspec.json.decode(data, type=AccountView)]
    views = msgspec.json.decode(data, type=list[AccountView])
    return [one for one in views if given.action == "list" or one.account == given.account]


def _table(views: list[AccountView]) -> str:
    names = AccountView.__struct_fields__
    cells = [names, *([_cell(getattr(one, name)) for name in names] for one in views)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    )


def _cell(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"
