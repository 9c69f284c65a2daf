"""Handlers of incoming streams, and what becomes of their errors."""

from __future__ import annotations

import asyncio
from typing import Any

from quiver.errors import PeerError, StreamReset, Unavailable, WireCode
from quiver.ports import Answer, Handler
from sim.stream import SimStream


def answering(function: Answer) -> Handler:
    """Serves a stream of questions, one answer each."""

    async def serve(stream: Any) -> None:
        while (message := await stream.receive()) is not None:
            await stream.send(function(stream.peer_id, message))
        stream.finish()

    return serve


async def handle(handler: Handler, stream: SimStream) -> None:
    """Run `handler`; what it raises becomes the code its stream is reset with."""
    try:
        await handler(stream)
    except StreamReset as error:
        stream.reset(error.code)
    except PeerError as error:
        stream.reset(error.wire_code)
    except Unavailable:
        stream.reset(WireCode.RESOURCE_LIMIT)
    except asyncio.CancelledError:
        stream.reset(WireCode.SHUTDOWN)
        raise
    except BaseException:
        stream.reset(WireCode.INTERNAL)
        raise
