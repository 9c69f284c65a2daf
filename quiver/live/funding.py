"""What a node's account starts with."""

from __future__ import annotations

import logging

from quiver.ids import Address
from quiver.live.log import note
from quiver.live.node import Node
from quiver.ports import Ledger
from quiver.values.ledger import Deposit

_log = logging.getLogger("quiver.node")


async def buy_credits(node: Node, faucet_credits: int, deposit_credits: int) -> None:
    """Once in the account's life. Play money must not become real money by another `[chain]`."""
    runtime, account = node.runtime, node.runtime.signer.account
    credits = deposit_credits if node.network.chain.kind == "rpc" else faucet_credits
    # An account whose credits are all in channels and bonds is not empty: it must not buy again at each start.
    if credits > 0 and runtime.ledger.balance(account) == 0 and not has_deposited(runtime.ledger, account):
        await runtime.ledger.submit(Deposit(sender=account, amount=credits))
    note(_log, logging.INFO, "account", account="0x" + account.hex(), balance_credits=runtime.ledger.balance(account))


def has_deposited(ledger: Ledger, account: Address) -> bool:
    """The account ever bought credits, as far back as the ledger's events go."""
    cursor = 0
    while events := ledger.events(cursor):
        if any(isinstance(one.transaction, Deposit) and one.transaction.sender == account for one in events):
            return True
        cursor = events[-1].index + 1
    return False
