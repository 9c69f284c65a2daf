"""The ledger that a network file names, for one account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.live.chain.local import LocalLedger
from quiver.live.config import Network, parse_account, resolve
from quiver.ports import Clock, Ledger
from quiver.values.ledger import LedgerEvent


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
    on_event: Callable[[LedgerEvent], None] | None = None,
) -> LiveLedger:
    """By `[chain] kind`. `UsageError` says what to correct in the file."""
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
