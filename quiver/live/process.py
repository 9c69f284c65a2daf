"""One process: an event loop, signals that ask it to stop, and an exit code that says how it ended.

0 done; 1 could not do it now; 2 wrong usage or config; 70 a bug (traceback in the log). Errors are one line on standard error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from quiver.errors import QuiverError, UsageError

STOP_S = 4.8
"A node asked to stop is gone within 5 s, whatever hangs."
EXIT_DONE, EXIT_UNAVAILABLE, EXIT_USAGE, EXIT_BUG = 0, 1, 2, 70

_log = logging.getLogger("quiver.node")
Main = Callable[[asyncio.Event], Coroutine[Any, Any, "int | None"]]


def run(main: Main, *, watch_stdin: bool = False, stop_s: float = STOP_S, uvloop: bool = True) -> int:
    """Run `main(stop)`; SIGINT and SIGTERM set `stop`. With `watch_stdin`, so does the end of standard input (a parent's death).

    `uvloop` is used where it is installed.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory() if uvloop else None) as runner:
            return runner.run(_supervise(main, watch_stdin, stop_s))
    except UsageError as error:
        complain(str(error))
        return EXIT_USAGE
    except QuiverError as error:
        complain(str(error))
        return EXIT_UNAVAILABLE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does. What Python still holds for it would fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNAVAILABLE
    except Exception as error:
        _log.exception("a bug ended the process")
        complain(f"bug: {type(error).__name__}: {error}; the log has the traceback, please report it")
        return EXIT_BUG


def complain(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"quiver: {' '.join(message.split())}\n")


async def _supervise(main: Main, watch_stdin: bool, stop_s: float) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if watch_stdin:
        loop.add_reader(0, _on_stdin, loop, stop)
    task = loop.create_task(_result(main, stop))
    waiting = loop.create_task(stop.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        # From here a second signal ends the process at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await asyncio.wait((task,), timeout=stop_s)
        if not task.done():
            _log.error("stopping took longer than %s s: ended by force", stop_s)
            logging.shutdown()
            os._exit(EXIT_UNAVAILABLE)
    waiting.cancel()
    return task.result()


async def _result(main: Main, stop: asyncio.Event) -> int:
    return await main(stop) or EXIT_DONE


def _on_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stop.set()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
