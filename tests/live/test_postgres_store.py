"""PostgreSQL store: kill -9 of the node and of the server, a password that is never said, whose store DATABASE_URL means."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import msgspec
import psycopg
import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live import doctor, keyfile
from quiver.live.config import AggregatorConfig
from quiver.live.config_file import load
from quiver.live.devnet import MOCK_MODEL, Devnet, make_environment
from quiver.live.devnet_ports import free_ports
from quiver.live.finding import Status
from quiver.live.init import init_network
from quiver.live.stores import choice
from quiver.live.stores.choice import find_url, open_store
from quiver.live.stores.postgres import PostgresStore
from quiver.live.stores.postgres_server import PostgresServer
from quiver.live.stores.postgres_url import Server, schema_of
from quiver.live.stores.sqlite import SqliteStore
from tests.live.postgres import running_server
from tests.live.store_writer import SCHEMA, STORE_FAILED
from tests.live.waiting import until
from tests.live.writing import check_written, read_rest, start_writer, write_until_killed

SECRET = "s3cret/w@rd"
URL = "postgresql://user:s3cret%2Fw%40rd@127.0.0.1:{port}/base"


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


def test_what_was_acknowledged_survives_kill_9_of_the_node_twice(server):
    said = write_until_killed(server.url, first=0, acknowledged=100)
    said += write_until_killed(server.url, first=1_000_000, acknowledged=100)
    assert len(said) >= 200
    check_written(lambda: PostgresStore(server.url, schema=SCHEMA), said)


def test_what_was_acknowledged_survives_kill_9_of_the_server_and_the_node_says_what_happened():
    with running_server() as server:
        said = []
        for first in (0, 1_000_000):
            with start_writer(server.url, first) as writer:
                said += [int(writer.stdout.readline()) for _ in range(100)]
                server.kill()
                said += read_rest(writer)
                complaint = writer.stderr.read()
            assert writer.returncode == STORE_FAILED
            assert complaint.startswith(f"the store {Server(server.url)} ({SCHEMA}) failed: ")
            assert complaint.endswith("look after the server and restart the node")
            server.start()
        check_written(lambda: PostgresStore(server.url, schema=SCHEMA), said)


def test_a_reader_whose_server_is_gone_ends_the_store(server):
    async def story():
        store = PostgresStore(server.url, schema="quiver_reader")
        with psycopg.connect(server.url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (store._reader.info.backend_pid,))
        with pytest.raises(Unavailable, match="look after the server and restart"):
            store.get("t", b"k")
        with pytest.raises(Unavailable, match="look after the server and restart"):
            await store.commit([("t", b"k", b"v")])
        await store.close()

    asyncio.run(story())


def test_a_server_that_does_not_wait_for_its_disk_is_refused_and_a_session_that_would_not_is_made_to():
    server = running_server()
    with open(server.directory / "data" / "postgresql.conf", "a") as file:
        file.write("fsync = off\nsynchronous_commit = off\n")
    with server:
        with pytest.raises(UsageError, match="fsync off"):
            PostgresStore(server.url, schema="quiver_s")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = on")
            connection.execute("SELECT pg_reload_conf()")
            until(lambda: connection.execute("SHOW fsync").fetchone() == ("on",), "fsync")

        async def story():
            store = PostgresStore(server.url, schema="quiver_s")
            shown = store._writer.execute("SHOW synchronous_commit").fetchone()
            await store.close()
            return shown

        assert asyncio.run(story()) == ("on",)


def test_no_message_shows_the_password(server):
    (port,) = free_ports(1)
    wrong = server.url.replace("quiver:", "quiver:s3cret-")
    unescaped = [
        f"postgresql://user:{text}@host/base" for text in (SECRET, "s3cret@rd", "s3cret/rd", "1/s3cret", "s3cret#")
    ]
    for url in (URL.format(port=port), URL.format(port="no-port"), wrong, *unescaped):
        with pytest.raises(UsageError) as raised:
            PostgresStore(url, schema="quiver_x")
        assert "s3cret" not in "".join(traceback.format_exception(raised.value)), url
    assert Server(URL.format(port=1)).name == "postgresql://user@127.0.0.1:1/base"
    assert Server(URL.format(port=1)).clean(ValueError(f"no {SECRET} and s3cret%2Fw%40rd")) == "no *** and ***"


def test_whose_store_is_meant(tmp_path, monkeypatch):
    path = tmp_path / "role.sqlite"
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert find_url("role.sqlite", path) is None
    assert find_url("postgresql://h/d", path) == "postgresql://h/d"
    monkeypatch.setenv("DATABASE_URL", "postgresql://env/d")
    assert find_url("role.sqlite", path) == "postgresql://env/d"
    assert find_url("postgres://h/d", path) == "postgres://h/d"
    path.touch()
    with pytest.raises(UsageError, match="there is a store in .*role.sqlite too"):
        find_url("role.sqlite", path)
    monkeypatch.setenv("DATABASE_URL", "mysql://user:s3cret@h/d")
    with pytest.raises(UsageError, match="no PostgreSQL URL") as raised:
        find_url("role.sqlite", path)
    assert "s3cret" not in str(raised.value)


def test_without_the_extra_an_operator_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install 'quiver\[postgres\]'"):
        open_store("postgresql://h/d", tmp_path / "x", b"peer")
    monkeypatch.delenv("DATABASE_URL", raising=False)

    async def story():
        store = open_store("role.sqlite", tmp_path / "role.sqlite", b"peer")
        assert isinstance(store, SqliteStore)
        await store.close()

    asyncio.run(story())


def test_nodes_that_share_a_database_keep_to_themselves(server, tmp_path):
    async def story():
        one, two = (open_store(server.url, tmp_path / "x", peer) for peer in (b"one", b"two"))
        await one.commit([("t", b"k", b"one")])
        assert two.get("t", b"k") is None
        await two.commit([("t", b"k", b"two")])
        assert one.get("t", b"k") == b"one"
        await one.close()
        await two.close()

    asyncio.run(story())


def test_doctor_looks_at_the_server(server, tmp_path, monkeypatch):
    init_network(tmp_path, name="net", host="127.0.0.1", bootstrap_port=1, aggregator_port=2)
    config = load(tmp_path / "aggregator.toml", AggregatorConfig)
    peer = keyfile.load(tmp_path / "aggregator.key").peer_id

    def look(url):
        return doctor._store(msgspec.structs.replace(config, store=url), tmp_path / "aggregator.toml")

    found = look(server.url)
    assert found.status is Status.OK and "nothing in it yet" in found.detail, found

    async def story():
        store = PostgresStore(server.url, schema=schema_of(peer))
        # It looks while the node runs.
        found = look(server.url)
        await store.close()
        return found

    found = asyncio.run(story())
    assert found.status is Status.OK and "store version 1" in found.detail, found
    (port,) = free_ports(1)
    found = look(URL.format(port=port))
    assert found.status is Status.FAIL and "refused" in found.detail and "s3cret" not in str(found)
    monkeypatch.setenv("DATABASE_URL", server.url)
    assert look("aggregator.sqlite").status is Status.OK
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE USER poor PASSWORD 'poor'")
    found = look(f"postgresql://poor:poor@/postgres?host={server.directory}")
    # The schema is there, but it is another user's.
    assert found.status is Status.FAIL and "permission denied" in found.detail, found


def test_our_server_ends_with_the_process_that_started_it(server):
    code = "import sys; from quiver.live.stores.postgres_server import PostgresServer as S; s = S(); s.start(); print(s.pid, s.directory, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as child:
        pid, directory = child.stdout.readline().split()
        os.kill(int(pid), 0)
        child.send_signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text(), "its end")
    assert (Path(directory) / "data").exists()
    subprocess.run(["rm", "-r", directory], check=True)


def test_a_devnet_on_postgres_serves_and_its_password_is_in_no_file(tmp_path, monkeypatch):
    running_server().close()
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with Devnet(tmp_path / "net", epoch_ms=3000, speed=10.0, store="postgres") as network:
        url = network._database[choice.VARIABLE]
        done = subprocess.run(
            [sys.executable, "-m", "quiver.live", "client", "--gateway", network.gateway_url, "--model", MOCK_MODEL, "Why?"],
            capture_output=True, text=True, timeout=30, cwd=network.directory, env=make_environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with psycopg.connect(url, autocommit=True) as connection:
            schemas = {
                row[0] for row in connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'quiver%'")
            }
            assert schemas == {schema_of(keyfile.load(path).peer_id) for path in network.directory.glob("*.key")}
            gateway = schema_of(keyfile.load(network.directory / "gateway.key").peer_id)
            rows = connection.execute(f"SELECT count(*) FROM {gateway}.rows").fetchone()[0]
            assert rows > 0
        log = Path(url.partition("host=")[2]) / "postgres.log"
        texts = [
            path.read_text() for path in (*network.directory.glob("*.log"), *network.directory.glob("*.toml"), log)
        ]
        assert not list(network.directory.glob("gateway.sqlite"))
    password = url.partition("quiver:")[2].partition("@")[0]
    assert len(password) > 10 and len(texts) > 10
    assert not any(password in text for text in texts)
    assert not log.parent.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_a_devnet_takes_the_server_of_database_url_only_when_it_is_told_to(server, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", server.url)
    assert "DATABASE_URL" not in make_environment()
    with choice.database() as url:
        assert url == server.url
    with pytest.raises(UsageError, match="store 'mysql'"):
        Devnet(store="mysql")


def test_a_server_that_does_not_start_says_why():
    server = running_server()
    with open(server.directory / "data" / "postgresql.conf", "a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(Unavailable, match="no_such_setting"), server:
        pass
    assert not server.directory.exists()
    assert isinstance(server, PostgresServer)
