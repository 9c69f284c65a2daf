"""The aggregator over HTTP: the same batches, checked the same way; what it publishes can be verified with nothing but the answers."""

from __future__ import annotations

import asyncio
import hashlib
import io

import msgspec
from aiohttp import ClientSession

from quiver.aggregator.published import decode_manifest, decode_page
from quiver.live.clock import LiveClock
from quiver.live.devnet import get_json
from quiver.live.devnet_ports import free_ports
from quiver.live.http import ledger_door
from quiver.live.http.ledger_door import make_ledger_app
from quiver.live.http.serve import start
from quiver.live.init import init_network
from quiver.params import Params
from quiver.settlement.merkle import MerkleTree, hash_leaf, verify
from quiver.trace import EvidenceRecorded
from quiver.values.frames import AskProof, Ingested
from quiver.values.ledger import Commitment, Deposit, Leaf, Proof
from quiver.wire.protocols import RECEIPTS
from tests.live.aggregators import Aggregator
from tests.live.waiting import until
from tests.unit.aggregator.test_service import World

EPOCH_MS = 1000
PARAMS = msgspec.structs.replace(Params.minimal(), slash_credits=100, epoch_ms=EPOCH_MS)


def tell(story):
    """Run `await story(world, session)` against a served aggregator that has bonded."""

    async def main():
        world = World(PARAMS, clock=LiveClock(), block_time_s=0.0)
        world.apply(Deposit(sender=world.signer.account, amount=9000))
        work = asyncio.ensure_future(world.service.run())
        runner = await start(make_ledger_app(world.service, world.runtime), "127.0.0.1", 0)
        try:
            async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
                while not (await (await session.get("/health")).json())["promises"]:
                    await asyncio.sleep(0.01)
                await story(world, session)
        finally:
            await runner.cleanup()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(main())


async def post(session, data):
    async with session.post("/v1/receipts", data=data) as response:
        return response.status, await response.read(), response.headers


async def get(session, path):
    async with session.get(path) as response:
        return response.status, await response.read()


def test_a_batch_comes_in_by_post_and_goes_out_proven_and_published():
    async def story(world, session):
        status, body, _ = await post(session, RECEIPTS.encode(world.batch(1, 3)))
        answer = RECEIPTS.decode(body)
        assert status == 200 and isinstance(answer, Ingested)
        assert (answer.accepted, answer.promise.seq) == (3, 3)
        # By stream it is known already, and by POST too.
        (again,) = await world.ask(world.batch(1, 3))
        assert (again.accepted, again.duplicates, again.promise) == (0, 3, answer.promise)
        proof_path = f"/v1/proofs/{answer.epoch}/{world.channel.hex()}"
        while (found := await get(session, proof_path))[0] == 404:
            await asyncio.sleep(0.05)
        said = msgspec.json.decode(found[1])
        epoch = msgspec.json.decode((await get(session, f"/v1/epochs/{answer.epoch}"))[1])
        assert epoch["status"] in ("closing", "submitted") and epoch["commitment"] == said["commitment"]
        leaf = Leaf(**{k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in said["leaf"].items()})
        proof = Proof(**{**said["proof"], "siblings": tuple(map(bytes.fromhex, said["proof"]["siblings"]))})
        commitment = Commitment(**{**said["commitment"], "root": bytes.fromhex(said["commitment"]["root"])})
        verify(leaf, proof, commitment)
        # From the manifest's name alone.
        _, data = await get(session, f"/v1/content/{epoch['published']}")
        assert hashlib.sha256(data).hexdigest() == epoch["published"]
        (line,) = decode_manifest(data).pages
        _, page = await get(session, f"/v1/content/{line.name.hex()}")
        hashes = [hash_leaf(one.leaf(answer.epoch)) for one in decode_page(page)]
        assert MerkleTree(hashes).root == commitment.root
        usage = msgspec.json.decode((await get(session, "/v1/usage?by=epoch"))[1])
        assert [(row["epoch"], row["credits"], row["provider"]) for row in usage] == [(answer.epoch, 60, None)]

    tell(story)


def test_what_is_wrong_is_refused_by_name_and_held_against_nobody():
    async def story(world, session):
        good = world.batch(1, 2)
        cases = [
            (b"", 400, "malformed"), (b"\x10\xc1", 400, "malformed"),
            (RECEIPTS.encode(AskProof(epoch=1, channel=world.channel)), 400, "protocol_violation"),
            (RECEIPTS.encode(msgspec.structs.replace(good, receipts=())), 400, "receipt_mismatch"),
            (RECEIPTS.encode(msgspec.structs.replace(
                good, acknowledgement=msgspec.structs.replace(good.acknowledgement, signature=bytes(65)))), 400, "bad_signature"),
        ]  # fmt: skip
        for data, status, name in cases:
            got, body, _ = await post(session, data)
            assert (got, msgspec.json.decode(body)["error"]) == (status, name)
        assert world.trace.of(EvidenceRecorded) == [] and world.service.window.head(world.channel) is None
        for path, status in (
            ("/v1/epochs/18446744073709551615", 200), ("/v1/epochs/99999999999999999999", 200), ("/v1/epochs/-1", 404),
            (f"/v1/content/{bytes(32).hex()}", 404), (f"/v1/proofs/1/{bytes(32).hex()}", 404), ("/v1/usage?by=day", 400),
            ("/v1/receipts", 405), ("/nothing", 404),
        ):  # fmt: skip
            got, body = await get(session, path)
            assert got == status, path
            assert status == 200 or "error" in msgspec.json.decode(body)

    tell(story)


def test_large_bodies_many_batches_and_many_questions_are_limited():
    async def story(world, session):
        status, body, _ = await post(session, io.BytesIO(bytes(RECEIPTS.frame_bytes_max + 1)))
        assert status == 413
        batch = RECEIPTS.encode(world.batch(1, 1))
        # 100 at once and 20 a second: a poster that never waits meets the limit.
        taken = 0
        while (answer := await post(session, batch))[0] == 200:
            taken += 1
        status, body, late = answer
        assert status == 503 and taken >= ledger_door.BATCHES_AT_ONCE
        assert int(late["Retry-After"]) >= 1
        # Each reads all rows: 256 units at once, 128 a second, and nobody waits for more than five seconds.
        statuses = await asyncio.gather(*(get(session, "/v1/usage") for _ in range(20)))
        assert sorted({status for status, _ in statuses}) == [200, 429]

    tell(story)


def test_a_node_whose_config_has_http_answers_there(tmp_path):
    *udp, tcp = free_ports(3)
    init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=udp[0], aggregator_port=udp[1])
    with open(tmp_path / "aggregator.toml", "a") as file:
        file.write(f'[http]\nhost = "127.0.0.1"\nport = {tcp}\n')
    aggregator = Aggregator(tmp_path, "")
    try:
        health = until(lambda: get_json(f"http://127.0.0.1:{tcp}/health"), "an answer over HTTP")
    finally:
        aggregator.kill()
    assert health["status"] == "ok" and health["epoch"] > 400_000
