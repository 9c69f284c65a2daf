"""The ledger that a network file names, for one account."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from quiver.errors import Unavailable, UsageError
from quiver.identity.keys import KeyPair
from quiver.live.chain.local import LocalLedger
from quiver.live.config import ChainAccess
from quiver.live.config_file import resolve
from quiver.live.config_network import Network, parse_account
from quiver.live.log import note
from quiver.ports import Clock, Ledger, Store
from quiver.settlement.accounts import NOBODY
from quiver.settlement.terms import Terms
from quiver.values.ledger import LedgerEvent

RETRY_S_MIN, RETRY_S_MAX = 0.5, 30.0

_log = logging.getLogger("quiver.chain")
OnEvent = Callable[[LedgerEvent], None]


class LiveLedger(Ledger, Protocol):
    """A ledger that holds files or connections."""

    async def close(self) -> None:
        """Finish the submission under way, then release them."""


async def open_ledger(
    network: Network,
    network_path: Path,
    keypair: KeyPair,
    *,
    clock: Clock,
    access: ChainAccess | None = None,
    store: Store | None = None,
    on_event: OnEvent | None = None,
) -> LiveLedger:
    """By `[chain] kind`. `UsageError` says what to correct, `Unavailable` which node does not answer.

    Without a `store` for what is under way, a ledger on a node of a chain only looks.
    """
    if network.chain.kind == "rpc":
        return await _open_rpc(network, str(network_path), keypair, access or ChainAccess(), store, on_event)
    return _open_file(network, network_path, keypair, clock, on_event)


async def wait_for_ledger(
    network: Network, network_path: Path, keypair: KeyPair, *, clock: Clock, access: ChainAccess, store: Store,
    on_event: OnEvent,
) -> LiveLedger:  # fmt: skip
    """The same for a node that starts: while nobody answers it asks again."""
    wait_s = RETRY_S_MIN
    while True:
        try:
            return await open_ledger(
                network, network_path, keypair, clock=clock, access=access, store=store, on_event=on_event
            )
        except Unavailable as error:
            note(_log, logging.WARNING, f"no ledger yet: {error}", retry_s=wait_s)
            await clock.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_S_MAX)


def _open_file(
    network: Network, network_path: Path, keypair: KeyPair, clock: Clock, on_event: OnEvent | None
) -> LiveLedger:
    chain, where = network.chain, str(network_path)
    if not chain.path:
        raise UsageError(f"{where}: [chain] path is missing: kind {chain.kind} keeps the ledger in a file")
    make = LocalLedger if chain.kind == "local" else _shared_evm()
    return make(
        resolve(network_path, chain.path), keypair.account, chain_id=chain.id,
        contract=parse_account(chain.contract, where=where),
        aggregator=parse_account(network.aggregator.account, where=where),
        params=network.params, clock=clock, opening_cost_credits=chain.opening_cost_credits, on_event=on_event,
    )  # fmt: skip


def _shared_evm() -> Callable[..., LiveLedger]:
    # Only here, so that a node on another ledger needs no engine.
    try:
        from quiver.live.chain.shared_evm import SharedEvmLedger
    except ModuleNotFoundError as error:
        raise UsageError(
            f"[chain] kind evm needs {error.name}, which is not installed: pip install 'quiver[evm]', or use kind local"
        ) from error
    return SharedEvmLedger


async def _open_rpc(
    network: Network, where: str, keypair: KeyPair, access: ChainAccess, store: Store | None, on_event: OnEvent | None
) -> LiveLedger:
    try:
        from quiver.live.chain.fees import GWEI
        from quiver.live.chain.mirror import Mirror
        from quiver.live.chain.rpc import RpcLedger
        from quiver.live.chain.rpc_client import Rpc
        from quiver.live.chain.sender import Sender
    except ModuleNotFoundError as error:
        raise UsageError(
            f"[chain] kind rpc needs {error.name}, which is not installed: pip install 'quiver[chain]'"
        ) from error
    chain = network.chain
    rpc = Rpc(access.rpc or chain.rpc, chain.id)
    try:
        mirror = Mirror(
            rpc, parse_account(chain.contract, where=where), confirmations=chain.confirmations,
            from_block=chain.from_block, own=[keypair.account],
        )  # fmt: skip
        await mirror.check(parse_account(network.aggregator.account, where=where), Terms.from_params(network.params))
        token = parse_account(chain.token, where=where) if chain.token else NOBODY
        if token != mirror.token:
            raise UsageError(
                f"{where}: [chain] token is {chain.token or 'none'}, the contract takes 0x{mirror.token.hex()}: correct it"
            )
        sender = None
        if store is not None:
            sender = Sender(
                rpc, store, keypair.account, keypair.sign_account, cap_wei=round(access.fee_gwei_max * GWEI),
                stuck_after_s=access.stuck_after_s, now=time.monotonic, contract=mirror.contract,
            )  # fmt: skip
        ledger = RpcLedger(
            mirror, sender, poll_s=chain.poll_s, opening_cost_credits=chain.opening_cost_credits, on_event=on_event
        )
        await ledger.start()
    except BaseException:
        await rpc.close()
        raise
    return ledger
