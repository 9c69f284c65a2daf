"""The chain on the command line: `chain deploy` puts the contract on it, `chain status` shows what is there."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from quiver.errors import UsageError
from quiver.live import keyfile, process
from quiver.live.clock import LiveClock
from quiver.live.config import ChainAccess
from quiver.live.config_network import Chain, load_network, parse_account

FORMAT = argparse.RawDescriptionHelpFormatter
FEE_GWEI_MAX = ChainAccess().fee_gwei_max


def add_chain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`chain deploy` and `chain status`."""
    text = "Put the contract on a chain, or look at it there."
    chain = commands.add_parser(
        "chain", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live chain deploy --rpc http://127.0.0.1:8545 --network net/network.toml "
        "--key net/aggregator.key --out net/on-chain.toml\n"
        "  python -m quiver.live chain status --network net/network.toml --key net/provider.key",
    )  # fmt: skip
    actions = chain.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "Deploy the contract with a network's aggregator and params; prints the [chain] that belongs to it."
    deploy = actions.add_parser("deploy", help=text, description=text)
    deploy.add_argument(
        "--rpc",
        required=True,
        metavar="URL",
        help="a node of the chain; others will read it in the network file: no API key in it",
    )
    deploy.add_argument(
        "--network", type=Path, required=True, metavar="FILE", help="whose aggregator and params it gets"
    )
    deploy.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="whose account pays; any node's key file"
    )
    deploy.add_argument("--token", default="", metavar="0x...", help="an ERC-20 contract; without it, the chain's coin")
    deploy.add_argument(
        "--unit", type=int, default=10**9, help="a credit in the token's smallest unit (default %(default)s)"
    )
    deploy.add_argument("--confirmations", type=int, default=Chain().confirmations, metavar="N")
    deploy.add_argument("--fee-gwei-max", type=float, default=FEE_GWEI_MAX, metavar="N", help="most for a unit of gas")
    deploy.add_argument("--out", type=Path, metavar="FILE", help="write the network file with its new [chain] there")
    deploy.add_argument("--json", action="store_true", help="one JSON object, without the [chain]")
    text = "Show a network's contract: where, up to which block, and one account's coin, credits and bond."
    status = actions.add_parser("status", help=text, description=text)
    status.add_argument("--network", type=Path, required=True, metavar="FILE")
    status.add_argument("--key", type=Path, required=True, metavar="FILE", help="whose account; any node's key file")
    status.add_argument("--rpc", action="append", default=[], metavar="URL", help="instead of the network's nodes")
    status.add_argument("--json", action="store_true", help="one JSON object")


def run_chain(given: argparse.Namespace) -> int:
    """One action."""

    async def main(stop: asyncio.Event) -> int:
        sys.stdout.write(await (_deploy(given) if given.action == "deploy" else _status(given)) + "\n")
        return process.EXIT_DONE

    return process.run(main)


async def _deploy(given: argparse.Namespace) -> str:
    try:
        from quiver.live.chain.deploy import deploy_contract
        from quiver.live.chain.fees import GWEI
        from quiver.live.chain.rpc_client import Rpc
        from quiver.live.chain.sender import Sender
        from quiver.live.stores.sqlite import SqliteStore
    except ModuleNotFoundError as error:
        raise UsageError(f"chain deploy needs {error.name}: pip install 'quiver[chain]'") from error
    from quiver.live.init import check_absent, render_chain, render_network, write_new

    network = load_network(given.network)
    keypair = keyfile.load(given.key)
    if given.out is not None:
        check_absent(given.out)
    rpc = await Rpc.discover(given.rpc)
    # Of no use afterwards: a deployment that is asked for again is another contract.
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "deployment.sqlite")
        try:
            sender = Sender(
                rpc, store, keypair.account, keypair.sign_account, cap_wei=round(given.fee_gwei_max * GWEI),
                stuck_after_s=ChainAccess().stuck_after_s, now=time.monotonic,
            )  # fmt: skip
            made = await deploy_contract(
                sender, aggregator=parse_account(network.aggregator.account, where=str(given.network)),
                params=network.params, unit=given.unit, confirmations=given.confirmations,
                **({"token": parse_account(given.token, where="--token")} if given.token else {}),
            )  # fmt: skip
        finally:
            await store.close()
            await rpc.close()
    chain = Chain(
        kind="rpc", id=rpc.chain_id, contract="0x" + made.contract.hex(), rpc=(given.rpc,), token=given.token,
        confirmations=given.confirmations, from_block=made.from_block,
        opening_cost_credits=network.chain.opening_cost_credits,
    )  # fmt: skip
    if given.out is not None:
        write_new(given.out, render_network(msgspec.structs.replace(network, chain=chain)))
    paid = {"transaction": "0x" + made.transaction.hex(), "gas": made.gas, "gas_wei": made.gas_wei}
    if given.json:
        told = {"chain": chain.id, "contract": chain.contract, "from_block": chain.from_block, **paid}
        return json.dumps(told if given.out is None else {**told, "out": str(given.out)})
    cost = f"transaction {paid['transaction']} used {made.gas} gas, {made.gas_wei} wei"
    if given.out is None:
        # What is printed goes into a network file as it is.
        return f"# {cost}\n{render_chain(chain)}"
    return f"{chain.contract} on chain {chain.id}; {given.out} is the network file that names it\n{cost}"


async def _status(given: argparse.Namespace) -> str:
    from quiver.live.chain.opening import open_ledger

    network, keypair = load_network(given.network), keyfile.load(given.key)
    access = ChainAccess(rpc=tuple(given.rpc))
    ledger = await open_ledger(network, given.network, keypair, clock=LiveClock(), access=access)
    try:
        bond = ledger.bond(keypair.account)
        told: dict[str, Any] = {
            "kind": network.chain.kind, "chain": ledger.chain_id, "contract": "0x" + ledger.contract.hex(),
            "transactions": len(ledger.events(0)), "account": "0x" + keypair.account.hex(),
            "free_credits": ledger.balance(keypair.account), "bond_credits": bond.amount if bond is not None else 0,
        }  # fmt: skip
        if network.chain.kind == "rpc":
            from quiver.live.chain.rpc import RpcLedger

            assert isinstance(ledger, RpcLedger)
            told |= await ledger.look(keypair.account)
    finally:
        await ledger.close()
    return json.dumps(told) if given.json else "\n".join(f"{name}: {value}" for name, value in told.items())
