"""What a node's HTTP side may do to whoever asks it: say too much, say nonsense, send away; and what of its address is ever shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys

import pytest

from quiver.errors import Unavailable, UsageError
from quiver.live.chain import rpc_client
from quiver.live.chain.rpc_client import Rpc
from tests.evm.beds import CHAIN_ID
from tests.evm.node import Node, need_node
from tests.evm.proxy import Proxy, Refused

SECRET = "s3cr3t-api-key"
NOTHING = b'{"jsonrpc": "2.0", "id": 0, "result": null}'


@pytest.fixture(scope="module")
def node():
    need_node()
    with Node() as running:
        yield running


@pytest.fixture
def proxy(node):
    with Proxy(node.url) as made:
        yield made


@contextlib.asynccontextmanager
async def asking(*urls):
    rpc = Rpc(urls, CHAIN_ID)
    try:
        yield rpc
    finally:
        await rpc.close()


def refused(*urls, method="eth_blockNumber", count=1):
    """What is said when no node answers."""

    async def story():
        async with asking(*urls) as rpc:
            with pytest.raises(Unavailable) as caught:
                await rpc.batch([(method, ())] * count)
            return str(caught.value)

    return asyncio.run(story())


def test_no_message_and_no_log_shows_the_path_of_an_address_or_who_logs_in(node, proxy, caplog):
    caplog.set_level(logging.INFO)
    url = f"{proxy.url.replace('http://', f'http://user:{SECRET}@')}/v3/{SECRET}?key={SECRET}"
    for proxy.status in (401, 403, 404, 429, 500, 503):
        said = refused(url)
        assert str(proxy.status) in said and proxy.url[7:] in said and SECRET not in said
    for broken in (f"http://[::1/{SECRET}", f"htp://127.0.0.1/{SECRET}", f"http://127.0.0.1:99999/{SECRET}"):
        with pytest.raises(UsageError) as caught:
            Rpc([url, broken], CHAIN_ID)
        assert "URL 2 of [chain] rpc" in str(caught.value) and SECRET not in str(caught.value)

    async def discover():
        with pytest.raises(Unavailable) as caught:
            await Rpc.discover(url)
        return str(caught.value)

    assert SECRET not in asyncio.run(discover())
    assert SECRET not in caplog.text


def test_a_node_that_sends_us_elsewhere_is_not_followed(node, proxy):
    with Proxy(node.url) as other:
        proxy.status, proxy.headers = 307, {"Location": other.url}
        assert "307" in refused(proxy.url)
        assert other.heard == []


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"7", b'"no"', b"{}", b"[{}, {}]", b'[{"result": "0x1"}, {"result": "0x1"}]', b'{"error": 1}',
     b'{"id": 0, "error": {"code": "x"}}', b'{"id": 0, "error": {"code": -1, "message": null}}', b"\xff", b"[" * 100_000,
     NOTHING, b'{"id": 0, "result": []}', b'{"id": 0, "result": "0xzz"}', b'{"id": 0, "result": "' + b"9" * 5000 + b'"}'],
)  # fmt: skip
def test_what_is_not_json_rpc_is_a_node_that_does_not_answer(proxy, body):
    proxy.body = body
    assert proxy.url[7:] in refused(proxy.url)
    assert proxy.url[7:] in refused(proxy.url, count=2)


def test_a_library_that_raises_the_recursion_limit_opens_no_stack_overflow(proxy):
    """eth-account brings one that sets it to 100,000: then a hundred thousand brackets ended the process."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        proxy.body = b"[" * 100_000
        assert proxy.url[7:] in refused(proxy.url)
        assert sys.getrecursionlimit() == 100_000
    finally:
        sys.setrecursionlimit(limit)


def test_a_batch_is_answered_in_the_order_of_its_questions_or_not_believed(node):
    async def story(answers):
        async with asking(node.url) as rpc:
            await rpc.call("eth_blockNumber")

            async def tell(number, body):
                return json.dumps(answers(json.loads(body))).encode()

            rpc._exchange = tell
            return await rpc.batch([("a", ()), ("b", ()), ("c", ())])

    def answer(one):
        return {"jsonrpc": "2.0", "id": one["id"], "result": one["method"]}

    assert asyncio.run(story(lambda asked: [answer(one) for one in reversed(asked)])) == ["a", "b", "c"]
    for wrong in (
        lambda asked: [answer(asked[0])] * 3,
        lambda asked: [answer(one) for one in asked[:2]],
        lambda asked: [{**answer(one), "id": one["id"] + 1} for one in asked],
        lambda asked: [{**answer(one), "id": str(one["id"])} for one in asked],
        lambda asked: [{"result": "0x1"} for _ in asked],
    ):
        with pytest.raises(Unavailable, match="does not speak JSON-RPC"):
            asyncio.run(story(wrong))


def test_an_answer_that_is_too_large_is_not_held_in_memory(proxy, monkeypatch):
    monkeypatch.setattr(rpc_client, "ANSWER_BYTES_MAX", 1000)

    async def story():
        async with asking(proxy.url) as rpc:
            await rpc.call("eth_blockNumber")
            proxy.forged["eth_blockNumber"] = lambda *_: "0x" + "0" * 2000
            (answer,) = await rpc.batch([("eth_blockNumber", ())])
            assert isinstance(answer, rpc_client.RpcError) and "1000 bytes" in str(answer)
            proxy.forged.clear()
            assert await rpc.call("eth_blockNumber") == "0x0"

    asyncio.run(story())


def test_what_a_node_says_is_one_short_printable_line(proxy):
    proxy.forged["eth_call"] = lambda *_: Refused(code=-1, message="a\x1b[2J\nb" + "x" * 10_000)

    async def story():
        async with asking(proxy.url) as rpc:
            with pytest.raises(rpc_client.RpcError) as caught:
                await rpc.call("eth_call", {"to": "0x" + 40 * "0"}, "latest")
            assert str(caught.value).isprintable() and len(str(caught.value)) < 400

    asyncio.run(story())
