"""The clients of a world: an open loop that asks gateways when the workload says so, and notes what each client saw.

Rules of this file: clients know gateways and nothing behind them; a row is filled from what the client received.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from quiver.errors import Busy, RequestRejected
from quiver.ids import RequestId
from quiver.runtime import Nursery
from quiver.values.request import Dialect, Failure, Final, InferenceRequest, Principal, TokenChunk
from sim.clock import SimClock
from sim.collect import Collector, RequestRow
from sim.loop import Environment
from sim.nodes import GatewayNode
from sim.rng import Substreams
from sim.scenario import Scenario
from sim.topology import Topology
from sim.workload import Workload

MODEL_NAME = "llama3.1:8b"
# Clients leave max_tokens at this unless the trace's answer is longer.
MAX_TOKENS = 1024
# Accounts that the clients' requests are spread over.
PRINCIPALS = 1000
# Requests remembered after their client left: the Cancel of one that waits for a slot may come later than its turn.
DEPARTED_MAX = 65_536


class Asked:
    """What the engines need to know of requests under way, from the workload: the same for every policy."""

    def __init__(self) -> None:
        self._output: dict[RequestId, int] = {}
        self._prefix: dict[RequestId, tuple[bytes, ...]] = {}
        self._departed: deque[RequestId] = deque()

    def note(self, request_id: RequestId, output_tokens: int, prefix: tuple[bytes, ...]) -> None:
        """A client asks."""
        self._output[request_id] = output_tokens
        if prefix:
            self._prefix[request_id] = prefix

    def forget(self, request_id: RequestId) -> None:
        """The client has its answer, or left; an engine may still begin with the request."""
        self._departed.append(request_id)
        if len(self._departed) > DEPARTED_MAX:
            oldest = self._departed.popleft()
            self._output.pop(oldest, None)
            self._prefix.pop(oldest, None)

    def output_tokens(self, request_id: RequestId) -> int:
        """Length of the whole answer."""
        return self._output[request_id]

    def prefix_blocks(self, request_id: RequestId) -> tuple[bytes, ...]:
        """Shared blocks of the prompt; none where the workload does not say."""
        return self._prefix.get(request_id, ())


class Clients:
    """All clients of one world."""

    def __init__(
        self, scenario: Scenario, workload: Workload, *, env: Environment, streams: Substreams, topology: Topology,
        collector: Collector, asked: Asked,
    ) -> None:  # fmt: skip
        self._scenario = scenario
        self._workload = workload
        self._env = env
        self._streams = streams
        self._topology = topology
        self._collector = collector
        self._asked = asked

    async def run(self, gateways: Sequence[GatewayNode], clock: SimClock, bar: tqdm[Any]) -> None:
        """A native SimPy process lets each request begin at its time; `drain_s` after the last, clients leave."""
        start_s, rng = clock.now(), self._streams.stream("world", "clients")
        async with Nursery() as nursery:

            def arrivals() -> Any:
                for number, arrival_s in enumerate(self._workload.arrival_s.tolist()):
                    delay_s = start_s + arrival_s - self._env.now
                    if delay_s > 0:
                        yield self._env.timeout(delay_s)
                    nursery.start(self._client(number, rng.choice(gateways), clock, bar))

            await self._env.loop.wrap(self._env.process(arrivals()))
            last_s = start_s + self._scenario.duration_s + self._scenario.drain_s
            while len(nursery) and clock.now() < last_s:
                await clock.sleep(0.25)
            nursery.cancel()

    async def _client(self, number: int, gateway: GatewayNode, clock: SimClock, bar: tqdm[Any]) -> None:
        request, collector = self._request(number, gateway), self._collector
        row = RequestRow(
            run_id=collector.run_id, seed=collector.seed, policy=collector.policy, request_id=request.request_id.hex(),
            gateway=gateway.name, region=self._topology.region_of(gateway.index), model=MODEL_NAME, qos=request.qos.value,
            arrived_s=clock.now() - collector.start_s, prompt_tokens=request.prompt_tokens_estimate,
        )  # fmt: skip
        collector.requests[request.request_id] = row
        events = gateway.service.handle(request, Principal(name=f"client-{number % PRINCIPALS}"))
        try:
            async for event in events:
                now_s = clock.now() - collector.start_s
                if isinstance(event, TokenChunk):
                    if row.first_token_s is None:
                        row.first_token_s = now_s
                    continue
                row.finished_s = now_s
                if isinstance(event, Final):
                    row.on_final(event)
                elif isinstance(event, Failure):
                    row.on_failure(event)
        except (RequestRejected, Busy):
            row.finished_s = clock.now() - collector.start_s
        finally:
            await events.aclose()  # type: ignore[attr-defined]
            self._asked.forget(request.request_id)
        bar.update(1)

    def _request(self, number: int, gateway: GatewayNode) -> InferenceRequest:
        scenario, workload = self._scenario, self._workload
        request_id = RequestId(self._streams.digest("request", number)[:16])
        output = scenario.output_tokens or int(workload.output_tokens[number])
        prefix = workload.prefix_hashes(number)
        self._asked.note(request_id, output, prefix)
        return InferenceRequest(
            request_id=request_id, model=MODEL_NAME, dialect=Dialect.NATIVE,
            # Every request is another prompt: its number stands for it, or all answers of a world would be one text.
            body=b'{"n":%d}' % number,
            max_tokens=max(MAX_TOKENS, output) if scenario.output_tokens is None else output,
            prompt_tokens_estimate=int(workload.input_tokens[number]),
            deadline_ms=gateway.clock.utc_ms() + round(scenario.params.request_timeout_s * 1000),
            prefix_hashes=prefix,
        )  # fmt: skip
