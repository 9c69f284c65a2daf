"""The HTTP application of a gateway: three doors, one service, and errors in the shape each door's clients expect."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from aiohttp import web

from quiver.ids import REQUEST_ID_BYTES
from quiver.live.http import native, ollama, openai
from quiver.live.http.auth import ApiKey, Authenticator
from quiver.live.http.door import REQUEST_ID, REQUEST_ID_HEADER, Door, Models, Service, json_response
from quiver.live.http.problem import Problem
from quiver.params import Params

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes(Protocol):
    """One door's handlers."""

    def routes(self) -> list[web.RouteDef]:
        """For `Application.add_routes`."""


def make_app(
    service: Service,
    *,
    models: Models,
    keys: Sequence[ApiKey] = (),
    params: Params | None = None,
    open_access: bool = False,
    providers: Callable[[], int] | None = None,
    reachability: Callable[[], str] | None = None,
    warnings: Callable[[], int] | None = None,
    more: Sequence[Callable[[Door], Routes]] = (),
    utc_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    monotonic: Callable[[], float] = time.monotonic,
) -> web.Application:
    """The application; serve it with `quiver.live.http.serve.start`.

    Without `keys` only this machine may ask, unless `open_access`. `models` lists (name, digest) of what is served now;
    For `/health`: `providers` counts those that could be asked, `reachability` says whether other nodes can dial this one,
    `warnings` counts what the operator has to look after. `more` makes further doors.
    """
    params = params or Params.default()
    door = Door(
        service=service,
        models=models,
        authenticator=Authenticator(keys, open_access=open_access, now=monotonic),
        params=params,
        utc_ms=utc_ms,
        monotonic=monotonic,
        providers=providers,
        reachability=reachability,
        warnings=warnings,
    )
    app = web.Application(middlewares=[_identify_and_shape_errors], client_max_size=params.body_bytes_max)
    doors: list[Routes] = [openai.OpenAiDoor(door), ollama.OllamaDoor(door), native.NativeDoor(door)]
    for routes in (*doors, *(make(door) for make in more)):
        app.add_routes(routes.routes())
    return app


@web.middleware
async def _identify_and_shape_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    request_id = request[REQUEST_ID] = os.urandom(REQUEST_ID_BYTES)
    try:
        response = await handler(request)
    except Problem as problem:
        response = _problem_response(request, problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _problem_response(request, _problem_of_http(request, error))
    except ConnectionError:
        raise
    except Exception:
        _log.exception("request %s failed by a bug in the gateway", request_id.hex())
        response = _problem_response(request, Problem(500, "the gateway failed; the operator's log says why"))
    if not response.prepared:
        response.headers[REQUEST_ID_HEADER] = request_id.hex()
    return response


def _problem_response(request: web.Request, problem: Problem) -> web.Response:
    return json_response(_shape_of(request.path)(problem), status=problem.status, headers=problem.headers())


def _problem_of_http(request: web.Request, error: web.HTTPException) -> Problem:
    if error.status == 404:
        return Problem(404, f"{request.path} is not served here: see /v1/models, /api/tags or /health")
    if error.status == 405:
        return Problem(405, f"{request.path} does not answer {request.method}")
    return Problem(error.status, error.reason)


def _shape_of(path: str) -> Callable[[Problem], dict[str, Any]]:
    if path.startswith("/v1/"):
        return openai.shape_problem
    return ollama.shape_problem if path.startswith("/api/") else native.shape_problem
