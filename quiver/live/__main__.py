"""`python -m quiver.live`: run a node, make its files, look after it, ask it, or start a whole network on this machine.

Exit codes: 0 done, 1 not possible now, 2 wrong usage or config, 70 a bug. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from quiver.errors import QuiverError, UsageError
from quiver.live import config, config_file, process
from quiver.live.arguments import API_KEY_VARIABLE, make_parser
from quiver.live.chain_commands import run_chain
from quiver.live.credit import run_credit
from quiver.live.keys import run_keys
from quiver.live.settle_commands import run_earnings, run_settle, run_verify

DEVNET_POLL_S = 0.2
DEVNET_STOP_S = 10.0
"Its nodes have 5 s each, together; what hangs is killed."


def run_role(given: argparse.Namespace) -> int:
    """A node until it is told to stop."""
    from quiver.live.log import set_up
    from quiver.live.roles import ROLES

    kind, role = ROLES[given.command]
    loaded = config_file.load(given.config, kind)
    if getattr(given, "policy", None):
        loaded = msgspec.structs.replace(loaded, policy=str(_absolute_policy(given.policy)))
    set_up(loaded.log_level, config_file.resolve(given.config, loaded.log) if loaded.log else None)
    return process.run(
        functools.partial(role, loaded, given.config), watch_stdin=given.until_stdin_ends, uvloop=loaded.transport.uvloop
    )  # fmt: skip


def _absolute_policy(spec: str) -> str:
    """A policy file on the command line is relative to where the command runs."""
    place, colon, name = spec.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if colon and place.endswith(".py") else spec


def run_init(given: argparse.Namespace) -> int:
    """Files."""
    from quiver.live import init
    from quiver.live.devnet import read_models

    directory: Path = given.directory
    if given.role == "network":
        init.init_network(
            directory, name=given.name, host=given.host, bootstrap_port=given.port, aggregator_port=given.port + 1,
            shard_ports=range(given.port + 2, given.port + 2 + given.shards),
        )  # fmt: skip
        print(
            f"{directory / init.NETWORK_FILE} and its bootstrap and aggregator are ready. Give network.toml to others, and start these:\n"
            f"  python -m quiver.live bootstrap --config {directory}/bootstrap.toml"
        )
        for name in ("aggregator", *init.shard_names(given.shards)):
            print(f"  python -m quiver.live aggregator --config {directory}/{name}.toml")
        return process.EXIT_DONE
    if given.kind == "openai" and not given.model:
        raise UsageError("an engine of kind openai tells no digests: give --model NAME=SHA256_OF_ITS_FILE")
    models = read_models(given.backend) if given.backend and given.kind == "ollama" else {}
    models |= _models(given.model)
    parts = init.Parts()
    if given.role == "gateway":
        parts = init.gateway_parts(models, http_port=given.http_port, faucet_credits=given.faucet_credits)
    elif given.role == "provider":
        parts = init.provider_parts(url=given.backend or config.Backend().url, kind=given.kind, models=models)
    port = given.port if given.role in ("bootstrap", "aggregator") else 0
    keypair = init.init_role(given.role, directory, network=given.network, host=given.host, port=port, parts=parts)
    path = directory / f"{given.role}.toml"
    print(f"{path} is ready; account 0x{keypair.account.hex()}. Check it, then start it:")
    print(f"  python -m quiver.live doctor --config {path}\n  python -m quiver.live {given.role} --config {path}")
    if given.role == "gateway" and not models:
        print(f"First pin a model under [models] in {path}: a gateway without one does not start")
    return process.EXIT_DONE


def _models(pairs: list[str]) -> dict[str, str]:
    """Name -> digest of `--model` options."""
    models = {}
    for pair in pairs:
        name, equals, digest = pair.rpartition("=")
        if not equals or not name:
            raise UsageError(
                f"--model {pair}: write NAME=DIGEST, as in llama3:8b=64-hex-digits (`ollama list` shows them)"
            )
        config.parse_digest(digest, where=f"--model {pair}")
        models[name] = digest
    return models


def run_doctor(given: argparse.Namespace) -> int:
    """The table."""
    from quiver.live import doctor

    loaded = config.load_any(given.config)

    async def main(stop: asyncio.Event) -> int:
        findings = await doctor.examine(loaded, given.config)
        print(msgspec.json.encode(findings).decode() if given.json else doctor.render(findings))
        return process.EXIT_DONE if doctor.is_well(findings) else process.EXIT_UNAVAILABLE

    return process.run(main)


def run_evidence(given: argparse.Namespace) -> int:
    """Signed suspicions."""
    from quiver.live import evidence

    text = evidence.run(config_path=given.config, file=given.check, as_json=given.json)
    if text:
        print(text)
    return process.EXIT_DONE


def run_analytics(given: argparse.Namespace) -> int:
    """Sums."""
    from quiver.live import analytics

    by = given.by or ("provider", "model", "epoch")
    print(asyncio.run(analytics.run(given.config, by=by, as_json=given.json, parquet=given.parquet)))
    return process.EXIT_DONE


def run_client(given: argparse.Namespace) -> int:
    """One question."""
    from quiver.live.client.ask import ask

    async def main(stop: asyncio.Event) -> int:
        prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
        answer = await ask(
            given.gateway, given.model, prompt, max_tokens=given.max_tokens, seed=given.seed,
            api_key=os.environ.get(API_KEY_VARIABLE, ""), on_text=None if given.json else _show,
        )  # fmt: skip
        if given.json:
            print(msgspec.json.encode(answer).decode())
        else:
            print()
            print(
                f"[{answer.prompt_tokens} + {answer.completion_tokens} tokens, {answer.paid_credits} credits; "
                f"receipt of {answer.verified['provider']} verified]", file=sys.stderr,
            )  # fmt: skip
        return process.EXIT_DONE

    return process.run(_until_interrupted(main))


def _until_interrupted(main: process.Main) -> process.Main:
    """For commands that have nothing to tidy up: Ctrl-C just ends them."""

    async def run(stop: asyncio.Event) -> int:
        work, stopped = asyncio.ensure_future(main(stop)), asyncio.ensure_future(stop.wait())
        await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (work, stopped):
            task.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
        return process.EXIT_UNAVAILABLE if work.cancelled() else work.result() or process.EXIT_DONE

    return run


def _show(text: str) -> None:
    print(text, end="", flush=True)


def run_devnet(given: argparse.Namespace) -> int:
    """Until Ctrl-C, or until one of its processes ends."""
    from quiver.live.devnet import Devnet

    network = Devnet(
        given.directory, providers=given.providers, aggregators=given.aggregators,
        policy=_absolute_policy(given.policy), epoch_ms=given.epoch_ms,
        backend=given.backend, models=_models(given.model), speed=given.speed, http_port=given.http_port,
        store=given.store,
        chain=given.chain,
    )  # fmt: skip

    async def main(stop: asyncio.Event) -> int:
        starting = asyncio.ensure_future(asyncio.to_thread(network.start))
        try:
            while not stop.is_set():
                if starting.done():
                    starting.result()
                    network.check_alive()
                    if not shown:
                        shown.append(network.summary())
                        print(shown[0], flush=True)
                await asyncio.sleep(DEVNET_POLL_S)
        finally:
            network.give_up()
            await asyncio.gather(starting, return_exceptions=True)
            network.close()
        return process.EXIT_DONE

    shown: list[str] = []
    return process.run(main, watch_stdin=given.until_stdin_ends, stop_s=DEVNET_STOP_S)


def run_p2p(given: argparse.Namespace) -> int:
    """One look at the peer-to-peer network."""
    from quiver.live import p2p

    async def main(stop: asyncio.Event) -> int:
        if given.p2p_command == "provide":
            report = await p2p.provide(given, stop)
        else:
            report = await p2p.COMMANDS[given.p2p_command](given)
        print(msgspec.json.encode(report.data).decode() if given.json else report.text)
        return process.EXIT_DONE

    return process.run(main if getattr(given, "stay", False) else _until_interrupted(main))


def run_mock(given: argparse.Namespace) -> int:
    """The mock engine."""
    from quiver.live.backends.mock import make_mock_app, start_mock
    from quiver.live.backends.mock.__main__ import parse as parse_mock

    mock, host, port = parse_mock(given.rest)

    async def main(stop: asyncio.Event) -> None:
        try:
            runner = await start_mock(make_mock_app(mock), host=host, port=port)
        except (OSError, OverflowError) as error:
            raise UsageError(f"cannot listen on {host} port {port}: {error}; choose another --port") from error
        print(f"http://{host}:{runner.addresses[0][1]} holds {', '.join(one.name for one in mock.models)}", flush=True)
        await stop.wait()
        await runner.cleanup()

    return process.run(main, watch_stdin=given.until_stdin_ends)


_COMMANDS = {
    **dict.fromkeys(("bootstrap", "aggregator", "provider", "gateway"), run_role),
    "init": run_init,
    "doctor": run_doctor,
    "evidence": run_evidence,
    "analytics": run_analytics,
    "client": run_client,
    "devnet": run_devnet,
    "p2p": run_p2p,
    "settle": run_settle,
    "earnings": run_earnings,
    "verify": run_verify,
    "keys": run_keys,
    "chain": run_chain,
    "credit": run_credit,
    "ollama-mock": run_mock,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of a command line."""
    parser = make_parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and given.command not in ("ollama-mock", "verify"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given.rest = rest
    try:
        return _COMMANDS[given.command](given)
    except QuiverError as error:
        process.complain(str(error))
        return process.EXIT_USAGE if isinstance(error, UsageError) else process.EXIT_UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
