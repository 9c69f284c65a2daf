"""What a node warns of, read by `doctor` from its PostgreSQL store while it runs, which its lock keeps everybody else out of."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver.concerns import KEY, TABLE, Concern, Held
from quiver.live import keyfile
from quiver.live.config import ProviderConfig
from quiver.live.config_file import load
from quiver.live.doctor_settlement import find_concerns
from quiver.live.finding import Status
from quiver.live.init import init_role, provider_parts
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.postgres_url import schema_of
from tests.live.postgres import running_server


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


def test_doctor_shows_the_warnings_of_a_node_that_runs(server, tmp_path):
    path = tmp_path / "provider.toml"
    init_role("provider", tmp_path, parts=provider_parts(url="http://127.0.0.1:1"))
    peer = keyfile.load(tmp_path / "provider.key").peer_id
    config = msgspec.structs.replace(load(path, ProviderConfig), store=server.url)

    async def story():
        assert [one.detail for one in await find_concerns(config, path, peer)] == ["none"], "it has never run"
        store = PostgresStore(server.url, schema=schema_of(peer))
        concern = Concern(subject="ledger", detail="it is away", fix="look after it", since_ms=0)
        await store.commit([(TABLE, KEY, msgspec.msgpack.encode(Held(concerns=[concern])))])
        found = await find_concerns(config, path, peer)
        await store.close()
        return found

    (found,) = asyncio.run(story())
    assert (found.status, found.fix) == (Status.WARN, "look after it")
    assert found.detail == "since 1970-01-01 00:00:00 UTC: it is away"


def test_a_server_that_is_away_is_said_without_its_password(tmp_path):
    path = tmp_path / "provider.toml"
    init_role("provider", tmp_path, parts=provider_parts(url="http://127.0.0.1:1"))
    peer = keyfile.load(tmp_path / "provider.key").peer_id
    config = msgspec.structs.replace(load(path, ProviderConfig), store="postgresql://u:s3cret@127.0.0.1:1/base")
    (found,) = asyncio.run(find_concerns(config, path, peer))
    assert found.status is Status.FAIL and "s3cret" not in str(found)
