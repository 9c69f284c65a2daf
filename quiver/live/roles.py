"""The four roles on a real machine: each wires its service between the node, the DHT and the outside, then runs until `stop`.

Rules of this file: wiring only. What a role decides is in its own package, and none of it is here. HTTP is imported by the roles
that speak it: without it a bootstrap or an aggregator starts in two thirds of the time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from quiver.aggregator.service import AggregatorService
from quiver.errors import UsageError
from quiver.gateway.service import GatewayService
from quiver.ids import ModelId
from quiver.live.config import (
    AggregatorConfig,
    BootstrapConfig,
    GatewayConfig,
    NodeConfig,
    ProviderConfig,
    Served,
    parse_digest,
)
from quiver.live.config_file import resolve
from quiver.live.config_network import parse_account
from quiver.live.evidence_file import follow_evidence
from quiver.live.funding import buy_credits
from quiver.live.gas_price import follow_gas_price
from quiver.live.log import note
from quiver.live.node import Node, join, opened, provide
from quiver.live.poster import load_poster
from quiver.live.reminder import remind
from quiver.live.signer import LiveSigner
from quiver.ports import InferenceBackend, Signer
from quiver.provider.models import ServedModel, content_key
from quiver.provider.pricing import Price
from quiver.provider.service import ProviderService
from quiver.provider.settler import Settler
from quiver.receipts.fraud.registry import resolve as resolve_detector
from quiver.runtime import Nursery, Runtime
from quiver.selection import plugin
from quiver.values.backend import InstalledModel

_log = logging.getLogger("quiver.node")

# A file with an API key holds one line.
_API_KEY_BYTES_MAX = 4096
# Of the 5 s a node has to stop, what acknowledgements and goodbyes may take.
FAREWELL_S = 2.0


async def run_bootstrap(config: BootstrapConfig, path: Path, stop: asyncio.Event) -> None:
    """DHT only."""
    async with opened(config, path) as node:
        await _until(stop, _after_join(node, node.dht.run))


async def run_aggregator(config: AggregatorConfig, path: Path, stop: asyncio.Event) -> None:
    """Takes receipts, commits epochs; where the network has shards these take the receipts, and one commits for all."""
    async with opened(config, path) as node:
        poster = find_poster(config, path, node)
        if poster is None:
            await buy_credits(node, config.faucet_credits, config.chain.deposit_credits)
        service = AggregatorService(node.runtime, shards=node.shards, poster=poster)
        if poster is not None:
            note(_log, logging.INFO, "taking receipts as a shard", poster="0x" + poster.account.hex())
        elif service.bonding.missing_credits and (obstacle := service.bonding.find_obstacle()):
            note(_log, logging.WARNING, f"no bond stands behind our roots: {obstacle}")
        async with _ledger_door(config, path, service, node.runtime):
            await _until(stop, _after_join(node, node.dht.run), service.run(), service.fraud.run())


def find_poster(config: AggregatorConfig, path: Path, node: Node) -> Signer | None:
    """Whose word a shard gives; None for whoever posts himself. `UsageError` for a key that has no place in the network."""
    own = node.runtime.signer
    keypair = load_poster(config, path, node.network, peer_id=own.peer_id, account=own.account)
    return None if keypair is None else LiveSigner(keypair, node.signatures)


@asynccontextmanager
async def _ledger_door(
    config: AggregatorConfig, path: Path, service: AggregatorService, runtime: Runtime
) -> AsyncIterator[None]:
    """The aggregator over HTTP, where its config says so."""
    if (http := config.http) is None:
        yield
        return
    from quiver.live.http.ledger_door import make_ledger_app
    from quiver.live.http.serve import start

    files = [str(resolve(path, name)) if name else None for name in (http.certfile, http.keyfile)]
    app = make_ledger_app(service, runtime)
    runner = await start(app, http.host, http.port, files[0], files[1], http.insecure)
    note(_log, logging.INFO, "answering over HTTP", addresses=[list(address[:2]) for address in runner.addresses])
    try:
        yield
    finally:
        await runner.cleanup()


async def run_provider(config: ProviderConfig, path: Path, stop: asyncio.Event) -> None:
    """Sells what its engine holds."""
    backend = make_backend(config, path)
    try:
        served = await choose_models(config, backend, str(path))
        async with opened(config, path) as node:
            payout = config.payout_account(where=str(path))
            service = ProviderService(
                node.runtime, backend, served, slots=config.slots, queue_max=config.queue_max,
                hardware=config.hardware, region=config.region, payout=payout,
            )  # fmt: skip
            settler = Settler(
                node.runtime, service.channels, node.aggregator_of(payout or node.runtime.signer.account),
                poster=parse_account(node.network.aggregator.account, where=config.network),
                policy=config.claims.policy(), payout=payout,
            )  # fmt: skip
            await service.start()
            note(
                _log,
                logging.INFO,
                "serving",
                models=[f"{one.installed.name} {one.installed.model.hex()}" for one in served],
            )

            async def announce() -> None:
                for one in served:
                    await provide(node, content_key(one.installed.model))
                await node.dht.run()

            await _until(
                stop, _after_join(node, announce), service.run(), settler.run(),
                remind(lambda: settler.health, node.runtime.clock),
                follow_gas_price(config, node.network, settler, node.runtime.clock),
            )  # fmt: skip
    finally:
        await backend.close()


async def run_gateway(config: GatewayConfig, path: Path, stop: asyncio.Event) -> None:
    """Answers clients."""
    from quiver.live.http.admin import admin_door
    from quiver.live.http.app import make_app
    from quiver.live.http.serve import start
    from quiver.live.till import credit_doors, make_prepay, make_till

    models = {name: parse_digest(digest, where=str(path)) for name, digest in config.models.items()}
    if not models:
        raise UsageError(f'{path}: [models] is empty: pin at least one name, as in "llama3:8b" = "DIGEST"')
    factory, trust = plugin.load(policy_spec(config.policy, path)), config.trust
    detectors = [resolve_detector(policy_spec(plug, path))() for plug in trust.detector_plugs()]
    witnesses = trust.witness_keys(where=str(path))
    async with opened(config, path) as node:
        runtime = node.runtime
        await buy_credits(node, config.faucet_credits, config.chain.deposit_credits)

        def find_providers(model: ModelId) -> Coroutine[Any, Any, Sequence[Any]]:
            return node.dht.find_providers(content_key(model))

        service = GatewayService(
            runtime, factory(), models, find_providers, detectors=detectors, witnesses=witnesses,
            hedging=config.hedging.terms(), resume=config.resume,
        )  # fmt: skip
        service.purse.top_up = config.top_up.policy()
        service.till = make_till(config, path, runtime)
        prepay = make_prepay(config, service.till)
        app = make_app(
            service, models=lambda: list(service.models.items()), keys=config.http.keys, params=runtime.params,
            open_access=config.http.open_access, providers=lambda: count_ready(service),
            reachability=lambda: node.membership.reachability.state.value, utc_ms=runtime.clock.utc_ms,
            monotonic=runtime.clock.now, warnings=lambda: len(service.purse.concerns.by_subject),
            more=credit_doors(service.till, prepay),
        )  # fmt: skip
        http = config.http
        files = [str(resolve(path, name)) if name else None for name in (http.certfile, http.keyfile)]
        runner = await start(app, http.host, http.port, files[0], files[1], http.insecure)
        note(_log, logging.INFO, "answering clients", addresses=[list(address[:2]) for address in runner.addresses])

        async def discover() -> None:
            async with Nursery() as nursery:
                nursery.start(node.dht.run())
                nursery.start(service.run())
                if prepay is not None:
                    nursery.start(prepay.run())
                if trust.evidence and service.suspicion is not None:
                    nursery.start(follow_evidence(resolve(path, trust.evidence), service.suspicion, runtime.clock))

        async def goodbye() -> None:
            await runner.cleanup()
            async with asyncio.timeout(FAREWELL_S):
                await service.close()

        async with admin_door(service.till, config.selling.admin_port if config.selling is not None else 0):
            concerns = service.purse.concerns
            await _until(
                stop, _after_join(node, discover), remind(lambda: concerns.health, runtime.clock), before_cancel=goodbye
            )


def count_ready(service: GatewayService) -> int:
    """Providers the gateway could send a request to now: an unexpired offer of a pinned model, and an open channel."""
    now = service.runtime.clock.now()
    ready = {
        candidate.peer
        for model in service.models.values()
        for candidate in service.table.candidates(model, now)
        if candidate.channel_ready
    }
    return len(ready)


async def _after_join(node: Node, then: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await join(node)
    async with Nursery() as nursery:
        nursery.start(node.membership.run())
        await then()


async def _until(
    stop: asyncio.Event,
    *work: Coroutine[Any, Any, None],
    before_cancel: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Run everything until `stop`; a failure of one ends the node."""
    async with Nursery() as nursery:
        for one in work:
            nursery.start(one)
        try:
            await stop.wait()
            note(_log, logging.INFO, "stopping")
        finally:
            try:
                if before_cancel is not None:
                    await before_cancel()
            except TimeoutError:
                note(
                    _log,
                    logging.WARNING,
                    "stopped before every delivery was acknowledged; providers hold their receipts",
                )
            finally:
                nursery.cancel()


def policy_spec(spec: str, config_path: Path) -> str:
    """A policy file is looked for beside the config unless its path is absolute or found from here."""
    place, colon, name = spec.rpartition(":")
    if not colon or not place.endswith(".py") or Path(place).exists():
        return spec
    return f"{resolve(config_path, place)}:{name}"


def make_backend(config: ProviderConfig, path: Path) -> InferenceBackend:
    """The engine's adapter; connects on first use."""
    from quiver.live.backends.ollama import OllamaBackend
    from quiver.live.backends.openai_compatible import OpenAICompatibleBackend

    backend = config.backend
    if backend.kind == "ollama":
        return OllamaBackend(backend.url)
    digests = {one.name: parse_digest(one.digest, where=f"{path}: model {one.name!r}") for one in config.models}
    if not digests:
        raise UsageError(
            f"{path}: an engine of kind openai does not tell digests: list [[models]] with name and digest"
        )
    key = None
    if backend.api_key_file:
        key_path = resolve(path, backend.api_key_file)
        try:
            key = key_path.read_text("utf-8")[:_API_KEY_BYTES_MAX].strip()
        except OSError as error:
            raise UsageError(f"api_key_file {key_path} cannot be read ({error.strerror}): correct its path") from error
    return OpenAICompatibleBackend(backend.url, digests=digests, api_key=key)


async def choose_models(config: ProviderConfig, backend: InferenceBackend, where: str) -> list[ServedModel]:
    """What is on sale: the configured models as the engine holds them now, or all it holds. `UsageError` at a difference."""
    installed = {model.name: model for model in await backend.models()}
    if not installed:
        raise UsageError(
            f"the engine at {config.backend.url} holds no model: run `ollama pull MODEL`, then start again"
        )
    wanted = config.models or tuple(Served(name=name) for name in installed)
    return [_served(config, one, installed, where) for one in wanted]


def _served(config: ProviderConfig, one: Served, installed: dict[str, InstalledModel], where: str) -> ServedModel:
    model = installed.get(one.name) or installed.get(f"{one.name}:latest")
    if model is None:
        raise UsageError(
            f"{where}: the engine has no model {one.name!r}, only {', '.join(sorted(installed))}: pull it or unlist it"
        )
    if one.digest and parse_digest(one.digest, where=where) != model.model:
        raise UsageError(
            f"{where}: {one.name!r} is pinned to {one.digest[:12]}..., the engine holds {model.model.hex()[:12]}...: "
            "pull the pinned content again, or correct the digest"
        )
    price = one.price or config.price
    return ServedModel(
        installed=model, prefill_tps=one.prefill_tps, decode_tps=one.decode_tps,
        price=Price(prompt=price.prompt, completion=price.completion, minimum_credits=price.minimum_credits),
    )  # fmt: skip


Role = Callable[[Any, Path, asyncio.Event], Coroutine[Any, Any, None]]
ROLES: dict[str, tuple[type[NodeConfig], Role]] = {
    "bootstrap": (BootstrapConfig, run_bootstrap),
    "aggregator": (AggregatorConfig, run_aggregator),
    "provider": (ProviderConfig, run_provider),
    "gateway": (GatewayConfig, run_gateway),
}
