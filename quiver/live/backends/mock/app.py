"""The mock as an HTTP application, with an admin corner that no real engine has: `/mock/log`, `/mock/faults`, `/mock/release`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from quiver.errors import UsageError
from quiver.live.backends.mock import ollama_api, openai_api
from quiver.live.backends.mock.answer import ENGINE, body_of, json_response
from quiver.live.backends.mock.config import Fault, MockConfig
from quiver.live.backends.mock.engine import FAULTS_MAX, MockEngine
from quiver.live.backends.mock.runner import EngineError

BODY_BYTES_MAX = 64 * 1024 * 1024
"Images travel in base64."


def make_mock_app(config: MockConfig | None = None, *, now: Callable[[], float] = time.monotonic) -> web.Application:
    """A fresh mock; `app[ENGINE]` is its engine, with the log and the faults to come."""
    app = web.Application(middlewares=[_shape_errors], client_max_size=BODY_BYTES_MAX)
    app[ENGINE] = MockEngine(config or MockConfig(), now=now)
    app.add_routes([*ollama_api.routes(), *openai_api.routes()])
    app.add_routes([web.get("/mock/log", _log), web.post("/mock/faults", _faults), web.post("/mock/release", _release)])
    return app


async def start_mock(app: web.Application, *, host: str = "127.0.0.1", port: int = 11434) -> web.AppRunner:
    """Serve it; a client that leaves stops its generation. Port 0 picks one: `runner.addresses[0][1]`."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


@web.middleware
async def _shape_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except EngineError as error:
        status, message = error.status, str(error)
    except UsageError as error:
        status, message = 400, str(error)
    if request.path.startswith("/v1/"):
        return json_response(openai_api.error_body(status, message), status)
    return json_response({"error": message}, status)


async def _log(request: web.Request) -> web.Response:
    return json_response({"events": list(request.app[ENGINE].log)})


async def _faults(request: web.Request) -> web.Response:
    """POST {"fault": "stall:3", "times": 2}: the next requests get it."""
    body = await body_of(request)
    times = body.get("times", 1)
    if type(times) is not int or not 1 <= times <= FAULTS_MAX:
        raise EngineError(400, f"times must be 1 to {FAULTS_MAX}")
    fault = Fault.parse(str(body.get("fault")))
    request.app[ENGINE].faults.extend([fault] * times)
    return json_response({"waiting": len(request.app[ENGINE].faults)})


async def _release(request: web.Request) -> web.Response:
    request.app[ENGINE].release()
    return json_response({})
