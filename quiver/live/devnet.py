"""A whole network on this machine: bootstrap, aggregator, providers, a gateway and a mock engine, each a process of its own.

`Devnet` is a context manager for tests and demos; `python -m quiver.live devnet` is the same for people. Every process is
stopped by the pid that was started here, and ends by itself when this process dies: its standard input then ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec

from quiver.errors import Unavailable, UsageError
from quiver.live.devnet_chain import DevnetChain
from quiver.live.devnet_ports import HOST, check_free, free_ports, release_ports
from quiver.live.init import NETWORK_FILE, gateway_parts, init_network, init_role, provider_parts, shard_names
from quiver.live.stores.choice import KINDS, VARIABLE, database
from quiver.params import Params

START_S = 30.0
STOP_S = 6.0
"A node is gone 5 s after it was asked; what is not, is killed."
POLL_S = 0.1
LOG_TAIL_LINES = 8
PROVIDERS_MAX = 16
AGGREGATORS_MAX = 8
IDLE_TIMEOUT_S = 3.0
"On one machine a silent peer is a dead one."
FAUCET_CREDITS = 1_000_000_000
MOCK_MODEL = "mock:latest"
MOCK_PARALLEL = 16
_INVENTORY = {"ollama": "/api/version", "openai": "/v1/models"}


def devnet_params(epoch_ms: int) -> Params:
    """The public network's rules with a devnet's patience."""
    return Params(
        epoch_ms=epoch_ms, rpc_timeout_s=2.0, dial_timeout_s=3.0, quote_timeout_s=2.0, discovery_refresh_s=1.0,
        load_refresh_s=0.5, receipts_interval_s=1.0, first_token_timeout_s=10.0, request_timeout_s=60.0,
        bucket_refresh_s=30.0, lease_s=60.0, republish_s=20.0, exit_delay_s=60.0, submit_grace_s=5.0,
    )  # fmt: skip


class Devnet:
    """Starts on `__enter__`, returns once the gateway can reach all providers; stops on `__exit__`.

    `backend` is the URL of a running engine to use in place of the mock: an Ollama, or, with `models` (name -> digest,
    which it does not tell), any server that speaks OpenAI's API. `speed` is how fast the mock's time runs (1.0 is a real
    GPU's pace, 0 never waits). `store` is where nodes keep their state: "sqlite", or "postgres", the server of DATABASE_URL or
    one of our own. `params` replace `devnet_params(epoch_ms)`. `chain` is where money is: "evm", the contract on an
    engine in each node, "local", its model, or the URL of a development node, such as anvil, whose first account pays.
    With more than one of `aggregators` each is a shard that takes receipts, and one more process commits for them.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        providers: int = 2,
        aggregators: int = 1,
        policy: str = "power-of-two",
        epoch_ms: int = 5000,
        params: Params | None = None,
        backend: str = "",
        models: Mapping[str, str] | None = None,
        speed: float = 1.0,
        http_port: int = 0,
        store: str = "sqlite",
        chain: str = "evm",
    ) -> None:
        if not 1 <= providers <= PROVIDERS_MAX:
            raise UsageError(f"a devnet has 1 to {PROVIDERS_MAX} providers, not {providers}")
        if not 1 <= aggregators <= AGGREGATORS_MAX:
            raise UsageError(f"a devnet has 1 to {AGGREGATORS_MAX} aggregators, not {aggregators}")
        if models and not backend:
            raise UsageError("models are named for an engine that does not tell them: give its URL as backend")
        if store not in KINDS:
            raise UsageError(f"store {store!r}: it is one of {', '.join(KINDS)}")
        self._temporary = None if directory is not None else tempfile.TemporaryDirectory(prefix="quiver-devnet-")
        self.directory = Path(directory if directory is not None else self._temporary.name)  # type: ignore[union-attr]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        "By name: mock, bootstrap, aggregator, shard-0 ..., provider-1 ..., gateway."
        self.params = params or devnet_params(epoch_ms)
        self.providers = [f"provider-{number + 1}" for number in range(providers)]
        self.shards = shard_names(aggregators if aggregators > 1 else 0)
        self._chain = DevnetChain(chain, self.directory, self.params)
        self._store, self._database, self._resources = store, dict[str, str](), ExitStack()
        self._given_up = False
        self._policy, self._backend, self._models, self._speed = policy, backend, dict(models or {}), speed
        ports = free_ports(5 + len(self.shards))
        self._resources.callback(release_ports, ports)
        self._bootstrap_port, self._aggregator_port, self._gateway_port, self._mock_port, spare, *self._shard_ports = (
            ports
        )
        self._http_port = http_port or spare
        self.gateway_url = f"http://{HOST}:{self._http_port}"
        self.backend_url = backend or f"http://{HOST}:{self._mock_port}"

    # ---- files

    def write(self) -> None:
        """Keys and configs; `UsageError` if the directory already holds a network."""
        init_network(
            self.directory, name="devnet", host=HOST, bootstrap_port=self._bootstrap_port,
            aggregator_port=self._aggregator_port, shard_ports=self._shard_ports, params=self.params, idle_timeout_s=IDLE_TIMEOUT_S,
            make_chain=self._chain.make,
        )  # fmt: skip
        for name in self.providers:
            init_role(
                "provider",
                self.directory,
                stem=name,
                idle_timeout_s=IDLE_TIMEOUT_S,
                parts=provider_parts(url=self.backend_url, kind=self._kind, models=self._models, slots=4),
            )
        self._chain.fund("aggregator", *self.providers)
        self._chain.let_buy("aggregator", FAUCET_CREDITS)

    def _write_gateway(self) -> None:
        models = self._models or read_models(self.backend_url)
        if not models:
            raise UsageError(
                f"the engine at {self.backend_url} holds no model: run `ollama pull MODEL`, then start again"
            )
        parts = gateway_parts(
            models, http_host=HOST, http_port=self._http_port, policy=self._policy, faucet_credits=FAUCET_CREDITS
        )
        init_role("gateway", self.directory, port=self._gateway_port, idle_timeout_s=IDLE_TIMEOUT_S, parts=parts)
        self._chain.fund("gateway")
        self._chain.let_buy("gateway", FAUCET_CREDITS)

    @property
    def _kind(self) -> str:
        return "openai" if self._models else "ollama"

    # ---- processes

    def start(self) -> None:
        """Write everything, start everything, wait until it works; `Unavailable` shows the ends of the logs."""
        check_free(self._http_port)
        if self._store == "postgres":
            self._database[VARIABLE] = self._resources.enter_context(database())
        self.write()
        deadline = time.monotonic() + START_S
        if not self._backend:
            self._spawn(
                "mock", "ollama-mock", "--port", str(self._mock_port), "--speed", str(self._speed), "--model", MOCK_MODEL,
                "--num-parallel", str(MOCK_PARALLEL),
            )  # fmt: skip
        self._spawn("bootstrap", "bootstrap", "--config", "bootstrap.toml")
        for name in ("aggregator", *self.shards):
            self._spawn(name, "aggregator", "--config", f"{name}.toml")
        self._wait("the engine", lambda: get_json(f"{self.backend_url}{_INVENTORY[self._kind]}") is not None, deadline)
        self._write_gateway()
        for name in self.providers:
            self._spawn(name, "provider", "--config", f"{name}.toml")
        self._spawn("gateway", "gateway", "--config", "gateway.toml")
        self.wait_for_providers(len(self.providers), deadline - time.monotonic())

    def wait_for_providers(self, count: int, timeout_s: float = START_S) -> None:
        """Return once the gateway has an offer of, and a channel to, exactly `count` providers."""
        self._wait(
            f"{count} providers at the gateway", lambda: self.ready_providers() == count, time.monotonic() + timeout_s
        )

    def ready_providers(self) -> int:
        """As the gateway's `/health` tells; -1 while it does not answer."""
        health = get_json(f"{self.gateway_url}/health")
        return int(health.get("providers", -1)) if isinstance(health, dict) else -1

    def restart(self, name: str) -> None:
        """Start a process again that was killed or stopped."""
        old = self.processes.pop(name)
        if old.poll() is None:
            self.processes[name] = old
            raise UsageError(f"{name} is still running: stop or kill it first")
        self._spawn(name, *list(old.args)[4:])  # type: ignore[arg-type]

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash: nothing is said goodbye to."""
        process = self.processes[name]
        process.kill()
        process.wait()
        _close_stdin(process)

    def _spawn(self, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "quiver.live", "--until-stdin-ends", *arguments]
        with open(self.log_path(name), "ab") as log:
            # A session of its own: Ctrl-C at the terminal reaches us alone, and we stop the others in order.
            self.processes[name] = subprocess.Popen(
                command, cwd=self.directory, env=make_environment() | self._database,
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _wait(self, what: str, is_there: Callable[[], bool], deadline: float) -> None:
        while not is_there():
            if self._given_up:
                raise Unavailable("the devnet was stopped while it started")
            dead = [name for name, process in self.processes.items() if process.poll() not in (None, -9)]
            if dead:
                raise Unavailable(
                    f"{dead[0]} ended with code {self.processes[dead[0]].returncode}:\n{self.tail(dead[0])}"
                )
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {name}\n{self.tail(name)}" for name in self.processes)
                raise Unavailable(f"{what}: not there in time. The ends of the logs in {self.directory}:\n{tails}")
            time.sleep(POLL_S)

    def log_path(self, name: str) -> Path:
        """Where a process writes."""
        return self.directory / f"{name}.log"

    def tail(self, name: str) -> str:
        """The last lines of a log."""
        return "\n".join(self.log_path(name).read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:])

    def check_alive(self) -> None:
        """`Unavailable` names a process that ended by itself."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Unavailable(f"{name} ended with code {process.returncode}:\n{self.tail(name)}")

    def give_up(self) -> None:
        """From another thread: a start or wait under way fails at once."""
        self._given_up = True

    def close(self) -> None:
        """Stop everything, give its ports back and remove a directory that was only ours."""
        self.stop()
        self._resources.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def stop(self) -> dict[str, int]:
        """Ask the gateway first, the bootstrap last; kill what is not gone in time. Exit codes by name."""
        order = list(reversed(self.processes))
        for name in order:
            if self.processes[name].poll() is None:
                self.processes[name].terminate()
        deadline = time.monotonic() + STOP_S
        for name in order:
            process = self.processes[name]
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close_stdin(process)
        return {name: process.returncode for name, process in self.processes.items()}

    def __enter__(self) -> Devnet:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def summary(self) -> str:
        """What to try, for people."""
        model = next(iter(self._models or read_models(self.backend_url)), MOCK_MODEL)
        return (
            f"devnet in {self.directory} (logs: *.log)\n"
            f"  gateway    {self.gateway_url}   (OpenAI at /v1, Ollama at /api, native at /generate)\n"
            f"  engine     {self.backend_url}\n"
            f"  chain      {self._chain.text}\n"
            f"  providers  {len(self.providers)}, shards of the aggregator {len(self.shards) or 'none'}, epochs of {self.params.epoch_ms / 1000:g} s, network {self.directory / NETWORK_FILE}\n"
            f"Try: python -m quiver.live client --gateway {self.gateway_url} --model {model} 'Why is the sky blue?'\n"
            f"     OLLAMA_HOST={self.gateway_url} ollama run {model}\n"
            "Ctrl-C stops everything."
        )


_SOURCE = Path(__file__).resolve().parents[2]


def make_environment() -> dict[str, str]:
    """Ours, with this very source first on the path: a child in another directory runs the same code.

    Without DATABASE_URL: a database that another program's shell names is not taken by accident.
    """
    path = [str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    others = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return {**others, "PYTHONPATH": os.pathsep.join(path)}


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def get_json(url: str) -> object | None:
    """A small answer, or None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2.0) as response:
            return msgspec.json.decode(response.read())  # type: ignore[no-any-return]
    except (urllib.error.URLError, OSError, msgspec.DecodeError):
        return None


def read_models(url: str) -> dict[str, str]:
    """Name -> digest of what an Ollama holds (`/api/tags`)."""
    tags = get_json(f"{url.rstrip('/')}/api/tags")
    if not isinstance(tags, dict):
        raise Unavailable(f"no engine answers at {url}: start Ollama, or correct the URL")
    return {str(entry["name"]): str(entry["digest"]).removeprefix("sha256:") for entry in tags.get("models", ())}
