"""What `doctor` says about a node's part in settlement: what it is concerned about, and of an aggregator its keys, bond and coin."""

from __future__ import annotations

from pathlib import Path

import msgspec

from quiver.aggregator.bonding import find_missing, find_obstacle
from quiver.concerns import KEY, TABLE, Held, decode_concerns
from quiver.errors import QuiverError
from quiver.identity.keys import KeyPair
from quiver.ids import PeerId
from quiver.live import keyfile
from quiver.live.config import AggregatorConfig, NodeConfig
from quiver.live.config_file import resolve
from quiver.live.config_network import Network
from quiver.live.doctor_database import read_row
from quiver.live.finding import Finding, Status, fail, ok
from quiver.live.funding import has_deposited
from quiver.live.poster import load_poster
from quiver.live.stores.choice import find_url
from quiver.live.stores.reader import FileReader, readable
from quiver.live.times import utc_text
from quiver.ports import Ledger
from quiver.settlement.terms import Terms

# Of one root, rounded up (71,267 measured, docs/decisions/003-contract.md).
ROOT_GAS = 80_000


async def find_concerns(config: NodeConfig, path: Path, peer_id: PeerId) -> list[Finding]:
    """What the node said it can't help alone, as it last kept it; nothing where it has never run."""
    try:
        held = await _read(config, path, peer_id)
    except (QuiverError, msgspec.MsgspecError) as error:
        return [fail("warnings", f"cannot be read from the store: {error}", "see what `store` says above")]
    if held is None:
        return []
    if not held.concerns:
        return [ok("warnings", "none")]
    more = f"; {held.more} more are in the log" if held.more else ""
    return [
        Finding(
            check="warning", status=Status.WARN, detail=f"since {utc_text(one.since_ms)}: {one.detail}{more}", fix=one.fix
        )
        for one in held.concerns
    ]  # fmt: skip


async def _read(config: NodeConfig, path: Path, peer_id: PeerId) -> Held | None:
    place = resolve(path, config.store)
    url = find_url(config.store, place)
    if url is not None:
        return decode_concerns(read_row(url, peer_id, TABLE, KEY))
    if not place.exists():
        return None
    reader = FileReader(place)
    try:
        with readable(place):
            return decode_concerns(reader.get(TABLE, KEY))
    finally:
        await reader.close()


def find_poster(config: AggregatorConfig, path: Path, network: Network) -> tuple[Finding | None, KeyPair | None]:
    """Whose bond answers for this node's promises. No finding where its own key can't be read: that is said under `key`."""
    try:
        own = keyfile.load(resolve(path, config.key))
    except QuiverError:
        return None, None
    try:
        poster = load_poster(config, path, network, peer_id=own.peer_id, account=own.account)
    except QuiverError as error:
        return fail("poster", str(error).removeprefix(f"{path}: ")), None
    if poster is None:
        return ok("poster", f"this node posts, account 0x{own.account.hex()}"), own
    return ok("poster", f"a shard, in the name of account 0x{poster.account.hex()}"), poster


async def check_poster(config: AggregatorConfig, network: Network, ledger: Ledger, poster: KeyPair) -> list[Finding]:
    """What stands behind the roots on the ledger, and whether the account can pay for them."""
    found = [_bond(config, network, ledger, poster)]
    if network.chain.kind == "rpc":
        found.append(await _coin(config, network, poster))
    return found


def _bond(config: AggregatorConfig, network: Network, ledger: Ledger, poster: KeyPair) -> Finding:
    terms, account = Terms.from_params(network.params), poster.account
    missing, obstacle = (
        find_missing(ledger, terms, account),
        find_obstacle(ledger, terms, account, poster.session_address),
    )
    if not terms.bond_min:
        return ok("bond", "none is needed: in this network nothing is slashed")
    if obstacle is None and not missing:
        return ok("bond", f"{terms.bond_min} credits or more stand behind the roots")
    lacking = f"it lacks {missing} of {terms.bond_min} credits"
    starts = "start the aggregator: it bonds before it posts its first root"
    if obstacle is None:
        return Finding(check="bond", status=Status.WARN, detail=f"{lacking}, which are free", fix=starts)
    buys = config.chain.deposit_credits if network.chain.kind == "rpc" else config.faucet_credits
    is_new = ledger.balance(account) == 0 and not has_deposited(ledger, account)
    if is_new and (config.poster_key or buys >= missing):
        # A shard can't know what the aggregator's config lets it buy.
        return Finding(check="bond", status=Status.WARN, detail=f"{lacking}, and nothing was bought yet", fix=starts)
    name, _, rest = obstacle.partition(": ")
    detail, _, fix = rest.partition(": " if ": " in rest else "; ")
    return fail("bond", f"{name}: {detail}", fix)


async def _coin(config: AggregatorConfig, network: Network, poster: KeyPair) -> Finding:
    from quiver.live.chain.dry_run import read_market
    from quiver.live.chain.rpc_client import Rpc, quantity

    who = "0x" + poster.account.hex()
    rpc = Rpc(config.chain.rpc or network.chain.rpc, network.chain.id)
    try:
        with rpc.reading():
            market = await read_market(rpc)
            coin_wei = quantity(await rpc.call("eth_getBalance", who, "latest"))
    except QuiverError as error:
        return fail("gas", error)
    finally:
        await rpc.close()
    root_wei = ROOT_GAS * (market.base_wei + market.priority_wei)
    detail = f"account {who} has {coin_wei} wei, a root costs about {root_wei} now"
    if coin_wei < root_wei:
        return fail("gas", detail, "send it coin: without gas no root, bond or answer goes out")
    return ok("gas", detail)
