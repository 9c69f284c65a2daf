"""A node behind a bad line: the proxy of a test, which cuts connections before or after the node has heard."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy:
    """For a `with` statement. `cut` names methods whose next answers are lost, each once; `dead` cuts everything off."""

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
                request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=30) as response:
                    answer = response.read()
                told = json.loads(body)
                methods = [one["method"] for one in (told if isinstance(told, list) else [told])]
                proxy.heard += methods
                for method in methods:
                    if method in proxy.cut:
                        proxy.cut.remove(method)
                        self.close_connection = True
                        self.connection.close()
                        return
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.dead = False
        self.cut: list[str] = []
        self.heard: list[str] = []
        "Methods that reached the node."
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
