"""A node behind a bad line: the proxy of a test, which cuts connections before or after the node has heard, and lies."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Proxy:
    """For a `with` statement. `cut` names methods whose next answers are lost, each once; `dead` cuts everything off.

    `forged` makes of a method's parameters and true result what is told in its place; `body` is told whatever was asked.
    """

    def __init__(self, url: str) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if proxy.dead:
                    self.close_connection = True
                    self.connection.close()
                    return
                told = json.loads(body)
                if isinstance(told, dict) and told["method"] in proxy.kept:
                    # Said to be done, and never heard of again.
                    answer = json.dumps({"jsonrpc": "2.0", "id": told["id"], "result": "0x" + 64 * "0"}).encode()
                else:
                    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
                    with urllib.request.urlopen(request, timeout=30) as response:
                        answer = response.read()
                asked = told if isinstance(told, list) else [told]
                methods = [one["method"] for one in asked]
                proxy.heard += methods
                for method in methods:
                    if method in proxy.cut:
                        proxy.cut.remove(method)
                        self.close_connection = True
                        self.connection.close()
                        return
                if any(method in proxy.forged for method in methods):
                    answer = proxy.forge(asked, json.loads(answer))
                if proxy.body is not None:
                    answer = proxy.body
                self.send_response(proxy.status)
                for name, value in proxy.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                try:
                    self.wfile.write(answer)
                except (BrokenPipeError, ConnectionResetError):
                    # Whoever asked has heard enough.
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.dead = False
        self.cut: list[str] = []
        self.kept: list[str] = []
        "Methods that are answered and not done."
        self.heard: list[str] = []
        "Methods that reached the node."
        self.forged: dict[str, Callable[[list[Any], Any], Any]] = {}
        self.status, self.headers, self.body = 200, dict[str, str](), None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def forge(self, asked: list[dict[str, Any]], answer: Any) -> bytes:
        """The node's answer with what is told in place of the truth."""
        answers = {one["id"]: one for one in (answer if isinstance(answer, list) else [answer])}
        for one in asked:
            if one["method"] in self.forged:
                true = answers[one["id"]]
                lie = self.forged[one["method"]](one["params"], true.get("result"))
                answers[one["id"]] = {"jsonrpc": "2.0", "id": one["id"], "result": lie}
                if isinstance(lie, Refused):
                    answers[one["id"]] = {"jsonrpc": "2.0", "id": one["id"], "error": lie.error}
        told = list(answers.values())
        return json.dumps(told if isinstance(answer, list) else told[0]).encode()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Refused:
    """A lie that is an error of JSON-RPC."""

    def __init__(self, **error: Any) -> None:
        self.error = error
