"""`python -m sim data fetch` against a server on loopback that is good, wrong, slow to finish, or gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from quiver.errors import Unavailable, UsageError
from sim import data, data_fetch
from sim.__main__ import main
from sim.data import DataDamaged, DataFile

ROWS = 2000
AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
    b"2023-11-16 18:%02d:%02d.0000000,%d,7\n" % (n // 60, n % 60, n + 1) for n in range(ROWS)
)
FRAME = pd.DataFrame(
    {"arrival_s": [float(n) for n in range(ROWS)], "input_tokens": range(1, ROWS + 1), "output_tokens": [7] * ROWS}
)


class Server:
    """Answers with `reply(handler)`, and remembers the ranges it was asked for."""

    def __init__(self, reply: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers["Range"])
                reply(self)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, cut: int | None = None, status: int = 200) -> None:
    """`cut`: close the connection after so many bytes, although more were announced."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:cut])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, where azure-code has `ROWS` rows."""
    monkeypatch.setenv(data.ENVIRONMENT, str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    entry = DataFile("llm/a.csv.gz", "0" * 64, tuple(FRAME.columns), ROWS, "here", data.compute_values_digest(FRAME))
    monkeypatch.setitem(data.FILES, "azure-code", entry)
    return tmp_path / "data"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    servers = []

    def start(reply: Callable[[BaseHTTPRequestHandler], None]) -> Server:
        servers.append(Server(reply))
        monkeypatch.setattr(data_fetch, "HOST", servers[-1].url)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_good_file_is_converted_and_can_be_loaded(folder, serve, capsys):
    serve(lambda handler: send(handler, AZURE))
    assert main(["data", "fetch", "azure-code"]) == 0
    assert files(folder) == ["a.csv.gz"]
    pd.testing.assert_frame_equal(data.load("azure-code"), FRAME)
    assert str(folder / "llm/a.csv.gz") in capsys.readouterr().out


def test_a_file_of_another_checksum_is_refused_and_leaves_nothing(folder, serve, capsys):
    serve(lambda handler: send(handler, AZURE.replace(b",7\n", b",8\n", 1)))
    assert main(["data", "fetch", "azure-code"]) == 1
    told = capsys.readouterr().out
    assert "has values of SHA-256" in told and "expected " + data.FILES["azure-code"].values_sha256 in told
    assert "nothing was written" in told
    assert files(folder) == []


def test_a_refused_file_leaves_the_old_one_as_it_was(folder, serve):
    serve(lambda handler: send(handler, AZURE))
    before = data_fetch.fetch("azure-code").read_bytes()
    serve(lambda handler: send(handler, b"<html>not found</html>"))
    with pytest.raises(DataDamaged, match="expected 2000|not in the known format"):
        data_fetch.fetch("azure-code")
    assert (folder / "llm/a.csv.gz").read_bytes() == before


def test_an_interrupted_download_is_taken_up_where_it_broke(folder, serve):
    def reply(handler):
        wanted = handler.headers["Range"]
        if wanted is None:
            return send(handler, AZURE, cut=30_000)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        return send(handler, AZURE[start:], cut=20_000, status=206)

    server = serve(reply)
    data_fetch.fetch("azure-code")
    assert server.ranges == [None, "bytes=30000-", "bytes=50000-"]
    pd.testing.assert_frame_equal(data.load("azure-code"), FRAME)


def test_a_server_without_ranges_starts_again(folder, serve):
    server = serve(lambda handler: send(handler, AZURE, cut=30_000 if len(server.ranges) == 1 else None))
    data_fetch.fetch("azure-code")
    assert server.ranges == [None, "bytes=30000-"]
    pd.testing.assert_frame_equal(data.load("azure-code"), FRAME)


def test_a_download_that_never_finishes_is_given_up_and_leaves_nothing(folder, serve, capsys):
    server = serve(lambda handler: send(handler, AZURE, cut=30_000))
    assert main(["data", "fetch", "azure-code"]) == 1
    assert f"broke off after 30000 of {len(AZURE)} bytes" in capsys.readouterr().out
    assert len(server.ranges) == data_fetch.ATTEMPTS_MAX
    assert files(folder) == []


def test_a_server_that_says_no_is_named_with_its_answer(folder, serve):
    server = serve(lambda handler: send(handler, b"", status=404))
    with pytest.raises(Unavailable, match=r"the server answered 404 Not Found\. Try again later, copy the data folder"):
        data_fetch.fetch("azure-code")
    assert len(server.ranges) == 1 and files(folder) == []


def test_a_server_that_is_gone_is_named_with_what_to_do(folder, serve, monkeypatch, capsys):
    gone = serve(lambda handler: send(handler, AZURE))
    gone.close()
    monkeypatch.setattr(gone, "close", lambda: None)
    assert main(["data", "fetch", "azure-code"]) == 1
    told = capsys.readouterr().out
    assert f"cannot download {gone.url}/Azure" in told and "refused" in told
    assert "QUIVER_DATA" in told and "fallback=True" in told
    assert files(folder) == []


def test_a_file_that_is_too_large_is_not_taken(folder, serve, monkeypatch):
    monkeypatch.setattr(data_fetch, "DOWNLOAD_BYTES_MAX", 10_000)
    serve(lambda handler: send(handler, AZURE))
    with pytest.raises(DataDamaged, match="larger than 10000 bytes"):
        data_fetch.fetch("azure-code")
    assert files(folder) == []


def test_a_folder_that_can_not_be_written_is_named(folder, serve):
    serve(lambda handler: send(handler, AZURE))
    folder.write_text("a file where the folder should be")
    with pytest.raises(UsageError, match=r"cannot write .*a\.csv\.gz \(.*\)\. Set QUIVER_DATA to a folder"):
        data_fetch.fetch("azure-code")


def test_a_write_that_is_stopped_leaves_no_half_file(folder, serve, monkeypatch):
    serve(lambda handler: send(handler, AZURE))
    write = Path.write_bytes

    def stop_half_way(self, content):
        write(self, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", stop_half_way)
    assert main(["data", "fetch", "azure-code"]) == 130
    assert files(folder) == []


def test_one_data_set_that_fails_does_not_stop_the_others(folder, serve, capsys):
    serve(lambda handler: send(handler, AZURE))
    assert main(["data", "fetch", "servegen-m-mid", "azure", "azure-code"]) == 1
    told = capsys.readouterr().out
    assert "cannot be fetched" in told and "no data set is called 'azure'" in told
    assert files(folder) == ["a.csv.gz"]
