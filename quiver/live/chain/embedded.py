"""The `[chain]` of a network whose chain lives in its own nodes."""

from __future__ import annotations

from quiver.errors import UsageError
from quiver.ids import Address
from quiver.live.config_network import Chain

LEDGER_FILE = "ledger.sqlite"


def embedded_chain(aggregator: Address) -> Chain:
    """The contract that the aggregator makes with its first transaction; `UsageError` where no engine is installed."""
    try:
        from quiver.live.chain.shared_evm import CHAIN_ID, shared_contract
    except ModuleNotFoundError as error:
        raise UsageError(
            f"an embedded chain needs {error.name}, which is not installed: pip install 'quiver[evm]', or choose the local ledger"
        ) from error
    return Chain(kind="evm", path=LEDGER_FILE, id=CHAIN_ID, contract="0x" + shared_contract(aggregator).hex())
