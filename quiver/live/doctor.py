"""`doctor`: what would stop a node from working, checked from the outside, each with what to do about it.

It changes nothing, and may run beside the node it looks at: a port in use by that very node is not a fault.
"""

from __future__ import annotations

import email.utils
import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from quiver.errors import PeerError, QuiverError, Unavailable
from quiver.identity.keys import KeyPair
from quiver.ids import short
from quiver.live import keyfile
from quiver.live.chain.opening import open_ledger
from quiver.live.clock import LiveClock
from quiver.live.config import (
    AggregatorConfig,
    BootstrapConfig,
    GatewayConfig,
    NodeConfig,
    ProviderConfig,
    parse_digest,
)
from quiver.live.config_file import resolve
from quiver.live.config_network import Network, load_network, parse_peer
from quiver.live.doctor_database import check_database
from quiver.live.doctor_reachability import reachable
from quiver.live.doctor_settlement import check_poster, find_concerns, find_poster
from quiver.live.finding import Finding, Status, fail, ok
from quiver.live.http.admin import LOOPBACK
from quiver.live.http.serve import is_loopback, tls_context
from quiver.live.libp2p.host import Host
from quiver.live.names import resolve_names
from quiver.live.private_files import can_others_read
from quiver.live.roles import choose_models, make_backend, policy_spec
from quiver.live.stores.choice import find_url
from quiver.live.till import make_selling
from quiver.receipts.fraud.registry import resolve as resolve_detector
from quiver.selection import plugin
from quiver.values.kad import KadMessage, KadType
from quiver.wire.protocols import KAD

DISK_FREE_BYTES_MIN = 1024**3
PEER_TIMEOUT_S = 5.0
# A clock that says less than the year this was written is not set.
UTC_MS_MIN = 1_750_000_000_000


async def examine(config: NodeConfig, path: Path) -> list[Finding]:
    """All checks of a role, in the order in which they matter."""
    findings = [_key(config, path), _store(config, path)]
    try:
        network_path = resolve(path, config.network)
        network = load_network(network_path)
    except QuiverError as error:
        return [*findings, fail("network", error)]
    findings.append(ok("network", f"{network.name}, hash {network.compute_hash()[:16]}"))
    findings += _transport_ports(config)
    if isinstance(config, GatewayConfig):
        findings += [
            _http_port(config),
            _models(config, path),
            _policy(config, path),
            _trust(config, path),
            *_selling(config, path),
            *_tls(config, path),
        ]
    findings.append(await _bootstrap(config, path, network, network_path))
    # Without anybody who answers there is nobody to be dialled by.
    if findings[-1].status is Status.OK and not _is_alone(config, path, network):
        findings.append(await reachable(config, path, network))
    findings += await _chain(config, path, network, network_path)
    if isinstance(config, ProviderConfig):
        findings.append(await _backend(config, path))
    findings.append(await _clock(config))
    return [*findings, *await _concerns(config, path)]


async def _concerns(config: NodeConfig, path: Path) -> list[Finding]:
    """Of a provider and a gateway: an aggregator's are in its log."""
    if not isinstance(config, ProviderConfig | GatewayConfig):
        return []
    try:
        keypair = keyfile.load(resolve(path, config.key))
    except QuiverError:
        # Said under its own name above.
        return []
    return await find_concerns(config, path, keypair.peer_id)


def _key(config: NodeConfig, path: Path) -> Finding:
    try:
        keypair = keyfile.load(resolve(path, config.key))
    except QuiverError as error:
        return fail("key", error)
    return ok("key", f"peer ...{short(keypair.peer_id)}, account 0x{keypair.account.hex()}")


def _store(config: NodeConfig, path: Path) -> Finding:
    try:
        url = find_url(config.store, resolve(path, config.store))
        if url is not None:
            return check_database(url, keyfile.load(resolve(path, config.key)).peer_id)
    except QuiverError as error:
        return fail("store", error)
    place = resolve(path, config.store)
    if can_others_read(place):
        return Finding(
            check="store", status=Status.WARN, detail=f"{place} can be read by others", fix=f"chmod 600 {place}"
        )
    folder = place.parent
    if not os.access(folder, os.W_OK):
        return fail("disk", f"{folder} cannot be written", "create it, or give this user the right to write there")
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < DISK_FREE_BYTES_MIN:
        return Finding(check="disk", status=Status.WARN, detail=detail, fix="free some: a full disk stops the node")
    return ok("disk", detail)


def _transport_ports(config: NodeConfig) -> list[Finding]:
    ways, key = config.transport, "[transport] port"
    udp = [_port("udp port", socket.SOCK_DGRAM, ways.host, ways.port, key)] if ways.quic else []
    tcp = [_port("tcp port", socket.SOCK_STREAM, ways.host, ways.port, key)] if ways.tcp else []
    return udp + tcp


def _http_port(config: GatewayConfig) -> Finding:
    return _port("http port", socket.SOCK_STREAM, config.http.host, config.http.port, "[http] port")


def _port(check: str, kind: socket.SocketKind, host: str, port: int, key: str) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except PermissionError:
            return fail(check, f"{host} port {port} needs more rights", f"choose a {key} of 1024 or more")
        except OSError as error:
            fix = f"fine if this node is running; otherwise choose another {key}"
            return Finding(check=check, status=Status.WARN, detail=f"{host} port {port}: {error.strerror}", fix=fix)
    return ok(check, f"{host} port {port or 'chosen at start'} is free")


def _models(config: GatewayConfig, path: Path) -> Finding:
    try:
        for digest in config.models.values():
            parse_digest(digest, where=path.name)
    except QuiverError as error:
        return fail("models", error)
    if not config.models:
        return fail("models", "[models] is empty", 'pin at least one name, as in "llama3:8b" = "DIGEST"')
    return ok("models", ", ".join(config.models))


def _selling(config: GatewayConfig, path: Path) -> list[Finding]:
    try:
        selling = make_selling(config, path)
    except QuiverError as error:
        return [fail("selling", error)]
    if selling is None or config.selling is None:
        return []
    margin = "no margin" if config.selling.margin is None else f"a margin of {config.selling.margin:.2%}"
    found = [
        ok(
            "selling",
            f"{len(selling.tariffs)} models by the table, {margin} on others; accounts: {', '.join(sorted(config.http.accounts()))}",
        )
    ]
    if config.selling.admin_port:
        found.append(
            _port("admin port", socket.SOCK_STREAM, LOOPBACK, config.selling.admin_port, "[selling] admin_port")
        )
    return found


def _policy(config: GatewayConfig, path: Path) -> Finding:
    try:
        plugin.load(policy_spec(config.policy, path))
    except QuiverError as error:
        return fail("policy", error)
    return ok("policy", config.policy)


def _trust(config: GatewayConfig, path: Path) -> Finding:
    trust = config.trust
    try:
        names = [resolve_detector(policy_spec(plug, path))().name for plug in trust.detector_plugs()]
        witnesses = len(trust.witness_keys(where=str(path)))
    except QuiverError as error:
        return fail("trust", str(error).removeprefix(f"{path}: "))
    missing = trust.evidence and not resolve(path, trust.evidence).exists()
    absent = f"; {trust.evidence} is not there yet" if missing else ""
    return ok("trust", f"detectors: {', '.join(names) or 'none'}; witnesses: {witnesses}{absent}")


def _tls(config: GatewayConfig, path: Path) -> list[Finding]:
    http = config.http
    if not http.certfile:
        if is_loopback(http.host) or http.insecure:
            return []
        return [fail("tls", f"plain HTTP on {http.host} is refused", "set certfile and keyfile, or insecure = true")]
    certfile, keyfile = (str(resolve(path, name)) if name else None for name in (http.certfile, http.keyfile))
    try:
        tls_context(str(certfile), keyfile)
    except QuiverError as error:
        return [fail("tls", error, "give the PEM files of [http] certfile and keyfile")]
    return [ok("tls", http.certfile)]


def _is_alone(config: NodeConfig, path: Path, network: Network) -> bool:
    """This node is the one through which everybody else joins."""
    if not isinstance(config, BootstrapConfig) or len(network.bootstrap) != 1:
        return False
    try:
        own = keyfile.load(resolve(path, config.key)).peer_id
    except QuiverError:
        return False
    return own == parse_peer(network.bootstrap[0], where=config.network).peer_id


async def _bootstrap(config: NodeConfig, path: Path, network: Network, network_path: Path) -> Finding:
    """Dial the bootstrap peers with a throw-away key."""
    peers = [parse_peer(text, where=str(network_path)) for text in network.bootstrap]
    if _is_alone(config, path, network):
        return ok("bootstrap", "this node is the network's only one: it waits for the others")
    transport = Host(KeyPair(os.urandom(keyfile.SEED_BYTES)), host="0.0.0.0", network=network.prefix())
    await transport.start()
    try:
        alive, reasons = 0, []
        for info in peers:
            try:
                transport.learn(await resolve_names(info))
                await transport.rpc(info.peer_id, KAD, KadMessage(type=KadType.PING), timeout_s=PEER_TIMEOUT_S)
                alive += 1
            except (Unavailable, PeerError) as error:
                reasons.append(str(error))
    finally:
        await transport.close()
    if alive:
        return ok("bootstrap", f"{alive} of {len(peers)} peers answer")
    fix = "start it, open its port, or get a newer network.toml"
    return fail("bootstrap", f"no bootstrap peer answers ({'; '.join(reasons)})", fix)


async def _chain(config: NodeConfig, path: Path, network: Network, network_path: Path) -> list[Finding]:
    """The ledger, and what an aggregator has there."""
    found, poster = [], None
    if isinstance(config, AggregatorConfig):
        finding, poster = find_poster(config, path, network)
        found = [] if finding is None else [finding]
    ledger_path = resolve(network_path, network.chain.path)
    if network.chain.kind != "rpc" and not ledger_path.exists():
        fix = "fine before the network's first start; otherwise correct [chain] path"
        detail = f"no ledger at {ledger_path} yet"
        return [*found, Finding(check="chain", status=Status.WARN, detail=detail, fix=fix)]
    try:
        keypair = keyfile.load(resolve(path, config.key))
        ledger = await open_ledger(network, network_path, keypair, clock=LiveClock(), access=config.chain)
    except QuiverError as error:
        return [*found, fail("chain", error)]
    try:
        found.append(_credits(config, network, ledger.balance(keypair.account)))
        if isinstance(config, AggregatorConfig) and poster is not None:
            found += await check_poster(config, network, ledger, poster)
    finally:
        await ledger.close()
    return found


def _credits(config: NodeConfig, network: Network, balance: int) -> Finding:
    if (
        isinstance(config, GatewayConfig)
        and balance < network.params.channel_deposit_credits
        and not (config.chain.deposit_credits if network.chain.kind == "rpc" else config.faucet_credits)
    ):
        detail = f"{balance} free credits, a new channel takes {network.params.channel_deposit_credits}"
        fix = "set [chain] deposit_credits; on a network of one machine, faucet_credits"
        return Finding(check="chain", status=Status.WARN, detail=detail, fix=fix)
    return ok("chain", f"chain {network.chain.id}, {balance} free credits")


async def _backend(config: ProviderConfig, path: Path) -> Finding:
    try:
        backend = make_backend(config, path)
    except QuiverError as error:
        return fail("backend", error)
    try:
        trouble = await backend.health()
        if trouble is not None:
            return fail("backend", trouble, "start the engine, or correct [backend] url")
        served = await choose_models(config, backend, path.name)
    except QuiverError as error:
        return fail("backend", error)
    finally:
        await backend.close()
    return ok("backend", f"{config.backend.url} holds {', '.join(one.installed.name for one in served)}")


async def _clock(config: NodeConfig) -> Finding:
    """Our wall clock against the `Date` of the engine's HTTP answer, where there is one on another machine."""
    utc_ms = time.time_ns() // 1_000_000
    if utc_ms < UTC_MS_MIN:
        return fail("clock", "the system clock is not set", "start time synchronisation (chrony, systemd-timesyncd)")
    theirs = await _date_of(config.backend.url) if isinstance(config, ProviderConfig) else None
    if theirs is None:
        return ok("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
    skew_s = time.time() - theirs
    # HTTP dates are whole seconds.
    if abs(skew_s) > 5.0:
        return Finding(
            check="clock", status=Status.WARN, detail=f"{skew_s:+.0f} s against the engine's machine",
            fix="start time synchronisation: signed times are accepted within 60 s",
        )  # fmt: skip
    return ok("clock", "agrees with the engine's machine")


async def _date_of(url: str) -> float | None:
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PEER_TIMEOUT_S)) as session:
            async with session.get(url) as response:
                text = response.headers.get("Date")
    except (TimeoutError, aiohttp.ClientError):
        return None
    return None if text is None else email.utils.parsedate_to_datetime(text).timestamp()


def render(findings: Sequence[Finding]) -> str:
    """The table for people."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status.upper():4}  {finding.check:{width}}  {finding.detail}")
        if finding.fix:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.fix}")
    return "\n".join(lines)


def is_well(findings: Sequence[Finding]) -> bool:
    """Nothing fails."""
    return all(finding.status is not Status.FAIL for finding in findings)
