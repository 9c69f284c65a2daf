"""Binding an application to an address, with TLS by certificate files. Plain HTTP stays on this machine unless forced."""

from __future__ import annotations

import ipaddress
import ssl

from aiohttp import web

from quiver.errors import UsageError

SHUTDOWN_S = 2.5
"How long open answers may go on once the gateway stops: a node has 5 s for all of its goodbye."


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """Server context for PEM files; `UsageError` names the file that cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"TLS certificate {certfile} with key {keyfile or certfile} cannot be used: {error}"
        ) from error
    return context


async def start(
    app: web.Application,
    host: str,
    port: int,
    certfile: str | None = None,
    keyfile: str | None = None,
    insecure: bool = False,
) -> web.AppRunner:
    """Serve until `await runner.cleanup()`. Port 0 picks one: `runner.addresses[0][1]`."""
    if certfile is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"refusing to serve plain HTTP on {host}: prompts and API keys would be readable on the network. "
            "Give certfile and keyfile, listen on 127.0.0.1 behind a TLS proxy, or set insecure = true"
        )
    context = tls_context(certfile, keyfile) if certfile is not None else None
    # handler_cancellation: a client that leaves cancels its request even while we wait for the first token.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context, reuse_address=True).start()
    except OSError as error:
        await runner.cleanup()
        raise UsageError(f"cannot listen on {host} port {port}: {error}; is another gateway running?") from error
    return runner
