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
from quiver.live import config, process

FORMAT = argparse.RawDescriptionHelpFormatter
DEVNET_POLL_S = 0.2
DEVNET_STOP_S = 10.0
"Its nodes have 5 s each, together; what hangs is killed."
API_KEY_VARIABLE = "QUIVER_API_KEY"
FAUCET_CREDITS = 100_000_000
"On the local ledger, whose credits are play money: enough for a hundred channels of the default deposit."
_ROLES = {
    "bootstrap": "Run a node others join through (DHT only).",
    "aggregator": "Run the node that collects receipts and commits each epoch to the chain.",
    "provider": "Run a node that sells what an Ollama or OpenAI-compatible engine holds.",
    "gateway": "Run the node clients talk to: OpenAI at /v1, Ollama at /api, native at /generate.",
}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m quiver.live", formatter_class=FORMAT,
        description="QUIVer on real machines.",
        epilog="examples:\n  python -m quiver.live devnet\n  python -m quiver.live init network --directory net\n"
        "  python -m quiver.live gateway --config net/gateway.toml\n\nexit codes: 0 done, 1 not possible now, 2 usage or config, 70 bug",
    )  # fmt: skip
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="also stop when standard input ends: a parent's death"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for role, text in _ROLES.items():
        example = f"examples:\n  python -m quiver.live {role} --config {role}.toml"
        if role == "gateway":
            example += "\n  python -m quiver.live gateway --config gateway.toml --policy my_policy.py:Mine"
        node = commands.add_parser(role, help=text, description=text, epilog=example, formatter_class=FORMAT)
        node.add_argument("--config", type=Path, required=True, metavar="FILE", help="made by `init`")
        if role == "gateway":
            node.add_argument(
                "--policy", metavar="NAME", help="instead of the config's: a name, module:Class or file.py:Class"
            )
        node.set_defaults(run=run_role)
    _add_init(commands)
    _add_doctor(commands)
    _add_client(commands)
    _add_devnet(commands)
    mock = commands.add_parser(
        "ollama-mock", add_help=False, help="Run an engine that answers as Ollama does, without a model."
    )
    mock.set_defaults(run=run_mock)
    return parser


def _add_init(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Make a key and a commented config for a role; never overwrites."
    init = commands.add_parser(
        "init", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live init network --directory net --name mynet --port 4001\n"
        "  python -m quiver.live init provider --directory net --backend http://127.0.0.1:11434\n"
        "  python -m quiver.live init gateway --directory net --backend http://127.0.0.1:11434   # pins its models\n"
        "  python -m quiver.live init provider --directory net --kind openai --backend http://127.0.0.1:8000 \\\n"
        '    --model "qwen=$(sha256sum < qwen.gguf | cut -c1-64)"   # llama-server, vLLM: they tell no digests',
    )  # fmt: skip
    init.add_argument(
        "role",
        choices=("network", "bootstrap", "aggregator", "provider", "gateway"),
        help="network: bootstrap + aggregator",
    )
    init.add_argument("--directory", type=Path, required=True, metavar="DIR")
    init.add_argument("--name", default="quiver", help="of the network")
    init.add_argument("--network", default="network.toml", metavar="FILE", help="the network file, relative to DIR")
    init.add_argument("--host", default="127.0.0.1", help="UDP address to listen on")
    init.add_argument("--port", type=int, default=4001, help="UDP port; init network also uses the one after it")
    init.add_argument("--http-port", type=int, default=8080, help="gateway: the clients' port")
    init.add_argument(
        "--backend", metavar="URL", help="the engine; names and digests of models are read from it if it is an Ollama"
    )
    init.add_argument("--kind", choices=("ollama", "openai"), default="ollama", help="provider: what the engine speaks")
    init.add_argument(
        "--model", action="append", default=[], metavar="NAME=DIGEST", help="pin a model; may be repeated"
    )
    init.add_argument(
        "--faucet-credits", type=int, default=FAUCET_CREDITS, metavar="N",
        help="gateway: play money it gives itself once, on a network's local ledger (default %(default)s)",
    )  # fmt: skip
    init.set_defaults(run=run_init)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Check what a node needs: key, disk, ports, network, chain, engine, clock."
    doctor = commands.add_parser(
        "doctor", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live doctor --config provider.toml\n"
        "  python -m quiver.live doctor --config gateway.toml --json\n\nexits with 1 when a check fails",
    )  # fmt: skip
    doctor.add_argument("--config", type=Path, required=True, metavar="FILE")
    doctor.add_argument("--json", action="store_true", help="one JSON array")
    doctor.set_defaults(run=run_doctor)


def _add_client(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Ask a gateway, stream the answer, verify the provider's receipt."
    client = commands.add_parser(
        "client", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live client --model mock:latest 'Why is the sky blue?'\n"
        f"  {API_KEY_VARIABLE}=... python -m quiver.live client --gateway https://gateway.example --model llama3:8b --json Hello",
    )  # fmt: skip
    client.add_argument("prompt", help="- reads standard input")
    client.add_argument("--model", required=True, help="one of GET /v1/models")
    client.add_argument("--gateway", default="http://127.0.0.1:8080", metavar="URL")
    client.add_argument("--max-tokens", type=int, help="without it, the network's default")
    client.add_argument("--seed", type=int, help="the same seed asks the engine for the same answer")
    client.add_argument(
        "--json", action="store_true", help="the whole answer and what was verified, as one JSON object"
    )
    client.set_defaults(run=run_client)


def _add_devnet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Start a whole network on this machine, with a mock engine; Ctrl-C stops it."
    devnet = commands.add_parser(
        "devnet", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live devnet\n  python -m quiver.live devnet --policy my_policy.py:Mine --providers 4\n"
        "  python -m quiver.live devnet --backend http://127.0.0.1:11434   # a real Ollama",
    )  # fmt: skip
    devnet.add_argument(
        "--directory", type=Path, metavar="DIR", help="keep files there; without it they are gone afterwards"
    )
    devnet.add_argument("--providers", type=int, default=2, help="how many (default %(default)s)")
    devnet.add_argument(
        "--policy", default="power-of-two", metavar="NAME", help="of the gateway: a name, module:Class or file.py:Class"
    )
    devnet.add_argument("--epoch-ms", type=int, default=5000, help="length of an epoch (default %(default)s)")
    devnet.add_argument("--backend", default="", metavar="URL", help="a running Ollama in place of the mock")
    devnet.add_argument("--speed", type=float, default=1.0, help="the mock's time: 1 as a real GPU, 0 never waits")
    devnet.add_argument(
        "--http-port", type=int, default=8080, help="of the gateway (default %(default)s); 0 takes a free one"
    )
    devnet.set_defaults(run=run_devnet)


# ---- commands


def run_role(given: argparse.Namespace) -> int:
    """A node until it is told to stop."""
    from quiver.live.log import set_up
    from quiver.live.roles import ROLES

    kind, role = ROLES[given.command]
    loaded = config.load(given.config, kind)
    if getattr(given, "policy", None):
        loaded = msgspec.structs.replace(loaded, policy=str(_absolute_policy(given.policy)))
    set_up(loaded.log_level, config.resolve(given.config, loaded.log) if loaded.log else None)
    return process.run(functools.partial(role, loaded, given.config), watch_stdin=given.until_stdin_ends)


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
            directory, name=given.name, host=given.host, bootstrap_port=given.port, aggregator_port=given.port + 1
        )
        print(
            f"{directory / init.NETWORK_FILE} and its bootstrap and aggregator are ready. Give network.toml to others, and start both:\n"
            f"  python -m quiver.live bootstrap --config {directory}/bootstrap.toml\n"
            f"  python -m quiver.live aggregator --config {directory}/aggregator.toml"
        )
        return process.EXIT_DONE
    if given.kind == "openai" and not given.model:
        raise UsageError("an engine of kind openai tells no digests: give --model NAME=SHA256_OF_ITS_FILE")
    models = read_models(given.backend) if given.backend and given.kind == "ollama" else {}
    for pair in given.model:
        name, equals, digest = pair.rpartition("=")
        if not equals or not name:
            raise UsageError(
                f"--model {pair}: write NAME=DIGEST, as in llama3:8b=64-hex-digits (`ollama list` shows them)"
            )
        config.parse_digest(digest, where=f"--model {pair}")
        models[name] = digest
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


def run_doctor(given: argparse.Namespace) -> int:
    """The table."""
    from quiver.live import doctor

    loaded = config.load_any(given.config)

    async def main(stop: asyncio.Event) -> int:
        findings = await doctor.examine(loaded, given.config)
        print(msgspec.json.encode(findings).decode() if given.json else doctor.render(findings))
        return process.EXIT_DONE if doctor.is_well(findings) else process.EXIT_UNAVAILABLE

    return process.run(main)


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
        given.directory, providers=given.providers, policy=_absolute_policy(given.policy), epoch_ms=given.epoch_ms,
        backend=given.backend, speed=given.speed, http_port=given.http_port,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of a command line."""
    parser = make_parser()
    given, rest = parser.parse_known_args(arguments)
    # The mock's own parser reads the rest, its --help too.
    if rest and given.run is not run_mock:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given.rest = rest
    try:
        code: int = given.run(given)
    except QuiverError as error:
        process.complain(str(error))
        return process.EXIT_USAGE if isinstance(error, UsageError) else process.EXIT_UNAVAILABLE
    return code


if __name__ == "__main__":
    sys.exit(main())
