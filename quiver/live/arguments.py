"""What may be said on the command line, and the help that says it. What each command does is in `__main__`."""

from __future__ import annotations

import argparse
from pathlib import Path

from quiver.live.chain_commands import add_chain
from quiver.live.credit import add_credit
from quiver.live.keys import add_keys
from quiver.live.p2p_arguments import add_p2p
from quiver.live.settle_commands import add_settle

FORMAT = argparse.RawDescriptionHelpFormatter
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
    _add_init(commands)
    _add_doctor(commands)
    _add_client(commands)
    _add_evidence(commands)
    _add_analytics(commands)
    _add_devnet(commands)
    add_p2p(commands)
    add_settle(commands)
    add_keys(commands)
    add_chain(commands)
    add_credit(commands)
    # Its own parser reads the rest, its --help too.
    commands.add_parser(
        "ollama-mock", add_help=False, help="Run an engine that answers as Ollama does, without a model."
    )
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
        help="network: bootstrap + aggregator, and its shards",
    )
    init.add_argument("--directory", type=Path, required=True, metavar="DIR")
    init.add_argument("--name", default="quiver", help="of the network")
    init.add_argument("--network", default="network.toml", metavar="FILE", help="the network file, relative to DIR")
    init.add_argument("--host", default="127.0.0.1", help="address to listen on, IPv4 or IPv6")
    init.add_argument("--port", type=int, default=4001, help="UDP and TCP port; init network also uses those after it")
    init.add_argument(
        "--shards", type=int, default=0, metavar="N", help="network: nodes that take receipts in the aggregator's place"
    )
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


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Check what a node needs: key, disk, ports, network, chain, engine, clock."
    doctor = commands.add_parser(
        "doctor", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live doctor --config provider.toml\n"
        "  python -m quiver.live doctor --config gateway.toml --json\n\nexits with 1 when a check fails",
    )  # fmt: skip
    doctor.add_argument("--config", type=Path, required=True, metavar="FILE")
    doctor.add_argument("--json", action="store_true", help="one JSON array")


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


def _add_evidence(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Show whom an aggregator suspects of fraud and why, signed; or check such lines of somebody else."
    evidence = commands.add_parser(
        "evidence", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live evidence --config aggregator.toml --json > evidence.jsonl\n"
        "  python -m quiver.live evidence --check evidence.jsonl",
    )  # fmt: skip
    evidence.add_argument("--config", type=Path, metavar="FILE", help="of an aggregator; it may be running")
    evidence.add_argument("--check", type=Path, metavar="FILE", help="JSON lines whose signatures are verified")
    evidence.add_argument("--json", action="store_true", help="one JSON object a line, as in docs/protocol.md")


def _add_analytics(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Sum up what providers served through an aggregator, by provider, model and epoch."
    analytics = commands.add_parser(
        "analytics", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live analytics --config aggregator.toml\n"
        "  python -m quiver.live analytics --config aggregator.toml --by provider --by epoch --json\n"
        "  python -m quiver.live analytics --config aggregator.toml --by model --parquet usage.parquet\n\n"
        "An aggregator on a file may be running. Sums are over the epochs it keeps.",
    )  # fmt: skip
    analytics.add_argument("--config", type=Path, required=True, metavar="FILE", help="of an aggregator")
    columns = ("provider", "model", "epoch")
    analytics.add_argument("--by", action="append", choices=columns, default=[], help="may be repeated; else all three")
    analytics.add_argument("--json", action="store_true", help="one JSON array")
    analytics.add_argument("--parquet", type=Path, metavar="FILE", help="write it there; never overwrites")


def _add_devnet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Start a whole network on this machine, with a mock engine; Ctrl-C stops it."
    devnet = commands.add_parser(
        "devnet", help=text, description=text, formatter_class=FORMAT,
        epilog="examples:\n  python -m quiver.live devnet\n  python -m quiver.live devnet --policy my_policy.py:Mine --providers 4\n"
        "  python -m quiver.live devnet --backend http://127.0.0.1:11434   # a real Ollama\n"
        '  python -m quiver.live devnet --backend http://127.0.0.1:8000 --model "qwen=$(sha256sum < qwen.gguf | cut -c1-64)"',
    )  # fmt: skip
    devnet.add_argument(
        "--directory", type=Path, metavar="DIR", help="keep files there; without it they are gone afterwards"
    )
    devnet.add_argument("--providers", type=int, default=2, help="how many (default %(default)s)")
    devnet.add_argument(
        "--aggregators", type=int, default=1, metavar="N",
        help="that take receipts (default %(default)s); with more than one, each a share of the providers, and one more commits",
    )  # fmt: skip
    devnet.add_argument(
        "--policy", default="power-of-two", metavar="NAME", help="of the gateway: a name, module:Class or file.py:Class"
    )
    devnet.add_argument("--epoch-ms", type=int, default=5000, help="length of an epoch (default %(default)s)")
    devnet.add_argument("--backend", default="", metavar="URL", help="a running engine in place of the mock")
    devnet.add_argument(
        "--model", action="append", default=[], metavar="NAME=DIGEST", help="of an engine that speaks OpenAI's API"
    )
    devnet.add_argument(
        "--chain", default="evm", metavar="WHERE",
        help="money is on: evm, the contract on an engine in each node (default); local, its model; or a URL: a development node, such as anvil",
    )  # fmt: skip
    devnet.add_argument(
        "--store", default="sqlite", metavar="KIND",
        help="of every node: sqlite (default), or postgres: the server of DATABASE_URL, or one of our own",
    )  # fmt: skip
    devnet.add_argument("--speed", type=float, default=1.0, help="the mock's time: 1 as a real GPU, 0 never waits")
    devnet.add_argument(
        "--http-port", type=int, default=8080, help="of the gateway (default %(default)s); 0 takes a free one"
    )
