"""The mock as a process of its own; `python -m quiver.live ollama-mock` runs the same command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from quiver.live.backends.mock.app import make_mock_app, start_mock
from quiver.live.backends.mock.config import PROFILES, MockConfig, MockModel


def parse(arguments: list[str] | None = None) -> tuple[MockConfig, str, int]:
    """(config, host, port) from a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m quiver.live ollama-mock",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run an engine that answers as Ollama does (and as OpenAI, at /v1), without a model.",
        epilog="examples:\n  python -m quiver.live ollama-mock\n"
        "  python -m quiver.live ollama-mock --port 11500 --model llama3.2 --profile cpu-2core --num-parallel 4",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="TCP (default %(default)s, as Ollama)")
    parser.add_argument("--model", action="append", help="a model on disk; may be repeated", default=None)
    parser.add_argument(
        "--profile", choices=sorted(PROFILES), default="gpu-4090", metavar="NAME",
        help=f"whose speed: {', '.join(sorted(PROFILES))} (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--speed", type=float, default=1.0, help="modelled seconds per second; 0 never sleeps")
    parser.add_argument("--num-parallel", type=int, default=1, help="requests a model answers at once")
    parser.add_argument("--max-queue", type=int, default=512, help="requests that wait for a load before 503")
    parser.add_argument(
        "--queue-policy",
        choices=("ollama", "strict"),
        default="ollama",
        help="strict bounds the queue of a warm model too",
    )
    parser.add_argument("--seed", type=int, default=0, help="of its pace and of answers without a seed")
    given = parser.parse_args(arguments)
    if not 0 <= given.port <= 65535:
        # A fast event loop would take 80000 as 14464 without a word.
        parser.error(f"--port is {given.port}: choose one up to 65535, or 0 for a free one")
    names = given.model or ["mock"]
    config = MockConfig(
        models=tuple(MockModel(name=name if ":" in name else f"{name}:latest") for name in names),
        profile=given.profile, speed=given.speed, num_parallel=given.num_parallel, max_queue=given.max_queue,
        queue_policy=given.queue_policy, seed=given.seed,
    )  # fmt: skip
    return config, given.host, given.port


async def serve(config: MockConfig, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = await start_mock(make_mock_app(config), host=host, port=port)
    names = ", ".join(model.name for model in config.models)
    logging.getLogger("ollama-mock").info("listening on %s with %s", runner.addresses[0], names)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    asyncio.run(serve(*parse()))
