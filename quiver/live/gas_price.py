"""What gas costs now, told to a provider's settler: claims that may wait do while it is dear."""

from __future__ import annotations

from quiver.errors import QuiverError
from quiver.live.config import ProviderConfig
from quiver.live.config_network import Network
from quiver.ports import Clock
from quiver.provider.settler import Settler

POLL_S = 60.0


async def follow_gas_price(config: ProviderConfig, network: Network, settler: Settler, clock: Clock) -> None:
    """For ever, on a chain behind RPC and for a policy that asks; a node that is away leaves the last price."""
    claims = config.claims
    if network.chain.kind != "rpc" or not (claims.wei_per_credit or claims.gas_price_gwei_max):
        return
    from quiver.live.chain.dry_run import read_market
    from quiver.live.chain.rpc_client import Rpc

    rpc = Rpc(config.chain.rpc or network.chain.rpc, network.chain.id)
    try:
        while True:
            try:
                with rpc.reading():
                    market = await read_market(rpc)
                settler.gas_price_wei = market.base_wei + market.priority_wei
            except QuiverError:
                pass
            await clock.sleep(POLL_S)
    finally:
        await rpc.close()
