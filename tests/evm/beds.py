"""Ledgers of several accounts on one anvil, ready for stories."""

from __future__ import annotations

import time

from quiver.identity.keys import KeyPair
from quiver.ids import Address
from quiver.live.chain.artefact import deployment, load_artefact
from quiver.live.chain.evm import hex_address
from quiver.live.chain.mirror import Mirror
from quiver.live.chain.rpc import RpcLedger
from quiver.live.chain.rpc_client import Rpc
from quiver.live.chain.sender import Sender
from quiver.params import Params
from quiver.settlement.accounts import NOBODY
from quiver.settlement.terms import Terms
from sim.signer import derive
from sim.store import MemoryStore

CHAIN_ID = 31337
COIN = 10**20
CAP_WEI = 500 * 10**9


def key_of(name: str) -> KeyPair:
    """The account that `SimSigner(1, name, mode="real")` has."""
    return KeyPair(derive(1, name, "seed"))


def fund(node, *accounts: Address, wei: int = COIN) -> None:
    """From the node's own first account; there when it returns."""
    rich = node.rpc("eth_accounts")[0]
    for account in accounts:
        node.send(rich, hex_address(account), b"", wei)


def deploy_at(node, params: Params, *, token: Address = NOBODY, unit: int = 10**9) -> Address:
    """The contract of the account called aggregator."""
    code = deployment(
        bytes.fromhex(load_artefact().bytecode[2:]), aggregator=key_of("aggregator").account,
        terms=Terms.from_params(params), token=token, unit=unit,
    )  # fmt: skip
    receipt = node.send(node.rpc("eth_accounts")[0], None, code)
    return Address(bytes.fromhex(receipt["contractAddress"][2:]))


class Chain:
    """One contract on a node, and the ledgers that a test opens on it."""

    def __init__(self, urls, contract, params, *, chain_id=CHAIN_ID, confirmations=0, stuck_after_s=60.0, poll_s=0.05):
        self.urls, self.contract, self.params, self.chain_id = urls, contract, params, chain_id
        self.confirmations, self.stuck_after_s, self.poll_s = confirmations, stuck_after_s, poll_s
        self.ledgers = {}
        self.mirrors = []

    async def open(self, *names, stores=None, **options):
        """Ledgers of these accounts over one mirror, started."""
        rpc = Rpc(self.urls, self.chain_id)
        keys = {name: key_of(name) for name in names}
        mirror = Mirror(
            rpc, self.contract, confirmations=self.confirmations, own=[key.account for key in keys.values()]
        )
        self.mirrors.append(mirror)
        await mirror.check(key_of("aggregator").account, Terms.from_params(self.params))
        for name, key in keys.items():
            store = (stores or {}).get(name) or MemoryStore()
            sender = Sender(
                rpc, store, key.account, key.sign_account, cap_wei=options.get("cap_wei", CAP_WEI),
                stuck_after_s=self.stuck_after_s, now=time.monotonic, contract=self.contract,
            )  # fmt: skip
            ledger = RpcLedger(mirror, sender, poll_s=self.poll_s, on_event=options.get("on_event"))
            await ledger.start()
            self.ledgers[name] = ledger
        return [self.ledgers[name] for name in names]

    async def close(self):
        """All of them."""
        for ledger in self.ledgers.values():
            await ledger.close()
