"""Where the money of a devnet is: on an embedded chain, in the contract's model, or on a development node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quiver.errors import UsageError
from quiver.ids import Address
from quiver.live import keyfile
from quiver.live.chain.embedded import LEDGER_FILE, embedded_chain
from quiver.live.config_network import Chain
from quiver.params import Params

if TYPE_CHECKING:
    from quiver.live.chain.dev_node import DevNode

_SAID = {"evm": "the contract on an engine in each node", "local": "the contract's model in a file"}


class DevnetChain:
    """`where` is evm, local, or the URL of a node whose first account pays for everything."""

    def __init__(self, where: str, directory: Path, params: Params) -> None:
        if where not in _SAID and not where.startswith(("http://", "https://")):
            raise UsageError(f"chain {where!r}: it is one of {', '.join(_SAID)}, or the URL of a development node")
        self._where, self._directory, self._params = where, directory, params
        self.text = _SAID.get(where, where)
        "For people."

    def make(self, aggregator: Address) -> Chain:
        """`[chain]` of the network."""
        if self._where == "local":
            return Chain(path=LEDGER_FILE)
        return embedded_chain(aggregator) if self._where == "evm" else self._node().deploy(aggregator, self._params)

    def fund(self, *names: str) -> None:
        """On a node, gas and deposits cost coin."""
        if self._where not in _SAID:
            self._node().fund(keyfile.load(self._directory / f"{name}.key").account for name in names)

    def let_buy(self, name: str, credits: int) -> None:
        """A faucet's credits cost nothing; on a node they are bought, and that is a setting of its own."""
        if self._where not in _SAID:
            with open(self._directory / f"{name}.toml", "a", encoding="utf-8") as file:
                file.write(f"\n[chain]\ndeposit_credits = {credits}\n")

    def _node(self) -> DevNode:
        # Only here: the client of chains is an extra of its own.
        try:
            from quiver.live.chain.dev_node import DevNode
        except ModuleNotFoundError as error:
            raise UsageError(f"--chain URL needs {error.name}: pip install 'quiver[chain]'") from error
        return DevNode(self._where)
