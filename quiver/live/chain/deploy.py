"""Putting the contract on a chain."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from quiver.errors import Unavailable
from quiver.ids import Address
from quiver.live.chain.artefact import UNIT_DEFAULT, contract_address, deployment, load_artefact
from quiver.live.chain.rpc_client import quantity
from quiver.live.chain.sender import Sender
from quiver.live.log import note
from quiver.params import Params
from quiver.settlement.accounts import NOBODY
from quiver.settlement.terms import Terms

STEP_S = 0.2
RETRY_S = 2.0

_log = logging.getLogger("quiver.chain")


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A contract that is there, and what it took."""

    contract: Address
    from_block: int
    "The first block whose logs may be its own."
    transaction: bytes
    gas: int
    "Units."
    gas_wei: int


async def deploy_contract(
    sender: Sender,
    *,
    aggregator: Address,
    params: Params,
    token: Address = NOBODY,
    unit: int = UNIT_DEFAULT,
    confirmations: int = 0,
) -> Deployed:
    """Put it there. Paid for by the sender's account; waits until it is final."""
    code = deployment(
        bytes.fromhex(load_artefact().bytecode[2:]), aggregator=aggregator, terms=Terms.from_params(params), token=token,
        unit=unit,
    )  # fmt: skip
    before = quantity(await sender.rpc.call("eth_blockNumber"))
    end = await sender.prepare(None, code, 0)
    planned = contract_address(sender.account, max(sender.outbox.waiting))
    note(
        _log,
        logging.WARNING,
        f"being deployed: 0x{planned.hex()}. It is paid for: wait until {confirmations} blocks follow it",
    )
    while not end.done():
        try:
            head = quantity(await sender.rpc.call("eth_blockNumber"))
            await sender.step(max(head - confirmations, 0))
        except Unavailable as error:
            # It is paid for: who gave up now would pay for another.
            note(_log, logging.WARNING, f"the deployment is under way, but cannot be looked after: {error}")
            await asyncio.sleep(RETRY_S)
        if not end.done():
            await asyncio.sleep(STEP_S)
    mined = end.result()
    assert mined.contract is not None, "a transaction without a receiver makes a contract"
    return Deployed(
        contract=mined.contract, from_block=before + 1, transaction=mined.hash, gas=mined.gas, gas_wei=mined.gas_wei
    )
