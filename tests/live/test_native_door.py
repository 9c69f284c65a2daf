"""The native door, API keys, who may bind where, and clients that leave."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import json
import ssl

import aiohttp
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from quiver.errors import InsufficientCredit, RejectionReason, RequestRejected, UsageError, WireCode
from quiver.live.http.app import make_app
from quiver.live.http.auth import ApiKey, Authenticator
from quiver.live.http.problem import Problem
from quiver.live.http.serve import start
from quiver.values.request import Failure
from tests.live.doors import END, Script, doors, forever, open_door, served

SECRET = ApiKey(name="alice", sha256=hashlib.sha256(b"secret").hexdigest(), requests_per_s=0.5, burst=2)


def test_generate_native_in_one_piece_and_as_lines():
    with doors("a", "b", END) as (url, script):
        whole = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "x", "max_tokens": 3}).json()
        assert (whole["text"], whole["done_reason"], whole["completion_tokens"]) == ("ab", "stop", 2)
        text = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "x", "stream": True}).text
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["text"] for line in lines] == ["a", "b", ""] and lines[-1]["quiver"]["attempts"] == 1
        assert script.requests[0].max_tokens == 3


def test_an_empty_account_is_a_402_with_numbers():
    with doors(InsufficientCredit("alice", balance=3, need=20)) as (url, _):
        answer = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "hi"})
        error = answer.json()["error"]
        assert answer.status_code == 402 and error["code"] == "insufficient_credit"
        assert (error["balance_credits"], error["need_credits"], error["retry_after_s"]) == (3, 20, None)


def test_what_a_broken_answer_cost_the_account_is_told():
    failure = Failure(
        code=WireCode.BACKEND_FAILED, message="gone", delivered_tokens=1, paid_credits=8, charged_credits=10
    )
    with doors("a", failure) as (url, _):
        answer = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "hi"})
        assert (answer.json()["error"]["paid_credits"], answer.json()["error"]["charged_credits"]) == (8, 10)


def test_a_typo_is_refused_and_errors_have_a_code():
    with doors(Failure(code=WireCode.BUSY, message="full", retry_after_s=4.0)) as (url, _):
        typo = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "x", "max_token": 3})
        assert typo.status_code == 400 and "max_token" in typo.json()["error"]["message"]
        busy = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "x"})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "4")
        assert busy.json()["error"] == {"code": "busy", "message": "full", "retry_after_s": 4.0}


def test_health_needs_no_key_and_unknown_paths_are_shaped_by_their_door():
    with doors(keys=[SECRET]) as (url, _):
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "models": 2}
    with doors(END, warnings=lambda: 1) as (url, _):
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "models": 2, "warnings": 1}
        assert "message" in httpx.get(f"{url}/v1/nothing").json()["error"]
        assert isinstance(httpx.get(f"{url}/api/nothing").json()["error"], str)
        assert httpx.put(f"{url}/generate").status_code == 405


def test_a_key_opens_a_wrong_one_does_not_and_too_many_requests_wait():
    with doors("a", END, keys=[SECRET], monotonic=lambda: 100.0) as (url, script):
        body = {"model": "tiny", "prompt": "x"}
        assert httpx.post(f"{url}/generate", json=body).status_code == 401
        wrong = httpx.post(f"{url}/generate", json=body, headers={"Authorization": "Bearer nope"})
        assert wrong.status_code == 401 and wrong.headers["www-authenticate"] == "Bearer"
        right = [{"Authorization": "Bearer secret"}, {"x-api-key": "secret"}, {"Authorization": "Bearer secret"}]
        answers = [httpx.post(f"{url}/generate", json=body, headers=headers) for headers in right]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        # An empty bucket at 0.5 requests/s holds the next token after 2 s.
        assert answers[2].headers["retry-after"] == "2"
        assert [principal.name for principal in script.principals] == ["alice", "alice"]


def test_the_gateways_own_rate_limit_says_how_long_to_wait():
    refusal = RequestRejected(RejectionReason.RATE_LIMITED, "slower, please")
    refusal.retry_after_s = 7.5
    with doors(refusal) as (url, _):
        answer = httpx.post(f"{url}/generate", json={"model": "tiny", "prompt": "x"})
        assert (answer.status_code, answer.headers["retry-after"], answer.headers["retry-after-ms"]) == (
            429,
            "8",
            "7500",
        )


def test_without_keys_only_this_machine_may_ask():
    closed = Authenticator([], open_access=False, now=lambda: 0.0)
    assert closed.principal(authorization="", api_key="", remote="127.0.0.1").name == "anonymous"
    for remote in ("192.0.2.1", None, "not an address"):
        with pytest.raises(Problem, match="no API keys"):
            closed.principal(authorization="", api_key="", remote=remote)
    opened = Authenticator([], open_access=True, now=lambda: 0.0)
    assert opened.principal(authorization="", api_key="", remote="192.0.2.1").name == "anonymous"


@pytest.mark.parametrize("key", [{"sha256": "zz"}, {"requests_per_s": 0.0}, {"burst": 0, "requests_per_s": 1.0}])
def test_a_key_that_cannot_work_is_refused_at_the_start(key):
    fields = {"name": "bob", "sha256": "00" * 32, **key}
    with pytest.raises(UsageError, match="bob"):
        Authenticator([ApiKey(**fields)], open_access=False, now=lambda: 0.0)


def test_plain_http_beyond_this_machine_is_refused_unless_forced():
    async def story():
        with pytest.raises(UsageError, match="refusing to serve plain HTTP on 0.0.0.0"):
            await start(make_app(Script(), models=list), "0.0.0.0", 0)
        with pytest.raises(UsageError, match="absent.pem"):
            await start(make_app(Script(), models=list), "0.0.0.0", 0, certfile="absent.pem")
        runner = await start(make_app(Script(), models=list), "0.0.0.0", 0, insecure=True)
        await runner.cleanup()

    asyncio.run(story())


async def drop(posting):
    """Leave a request: while it waits for headers, or while its answer streams."""
    posting.cancel()
    for answer in await asyncio.gather(posting, return_exceptions=True):
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()


@pytest.mark.parametrize("events", [(forever,), ("first", forever)], ids=["before the first token", "half-way"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request_and_no_other(events, stream):
    async def story():
        entered, left = asyncio.Event(), asyncio.Event()

        async def wait_here():
            entered.set()
            try:
                await forever()
            finally:
                left.set()

        script = Script(*[wait_here if event is forever else event for event in events])
        runner, url = await open_door(script)
        body = {"model": "tiny", "prompt": "x", "stream": stream}
        async with aiohttp.ClientSession() as session:
            stays = asyncio.create_task(session.post(f"{url}/generate", json=body))
            await entered.wait()
            entered.clear()
            leaves = asyncio.create_task(session.post(f"{url}/generate", json=body))
            await entered.wait()
            await drop(leaves)
            await left.wait()
            while not script.closed:
                await asyncio.sleep(0)
            assert script.closed == [script.requests[1].request_id]
            assert not stays.done() or stays.result().status == 200
            await drop(stays)
        await runner.cleanup()

    asyncio.run(story())


def make_certificate(folder):
    """(certfile, keyfile) for 127.0.0.1, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    start_at = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start_at)
        .not_valid_after(start_at + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(pem))
    files[1].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return str(files[0]), str(files[1])


def test_certificate_files_make_https(tmp_path):
    certfile, keyfile = make_certificate(tmp_path)

    async def opening():
        runner = await start(make_app(Script("a", END), models=list), "0.0.0.0", 0, certfile, keyfile)
        return runner, f"https://127.0.0.1:{runner.addresses[0][1]}"

    with served(opening) as url:
        trust = ssl.create_default_context(cafile=certfile)
        assert httpx.post(f"{url}/generate", json={"model": "m", "prompt": "x"}, verify=trust).json()["text"] == "a"
