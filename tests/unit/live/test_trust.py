"""`[trust]` of a gateway, and the file its witnesses' evidence comes from."""

from __future__ import annotations

import asyncio
import os

import pytest

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import peer_id_text
from quiver.live import config_file, evidence_file
from quiver.live.clock import LiveClock
from quiver.live.config import GatewayConfig
from quiver.live.config_trust import TrustSection
from quiver.live.evidence_file import follow_evidence
from quiver.receipts.fraud.registry import DETECTORS

WITNESS = KeyPair(b"w" * 32)
WITNESS_TEXT = peer_id_text(WITNESS.peer_id)


def test_a_gateway_trusts_nobodys_word_and_looks_for_nothing_unless_it_is_told(tmp_path):
    path = tmp_path / "gateway.toml"
    head = f'role = "gateway"\nkey = "k"\nstore = "s"\n[models]\nm = "{"ab" * 32}"\n'
    path.write_text(head)
    trust = config_file.load(path, GatewayConfig).trust
    assert trust == TrustSection() and trust.detector_plugs() == () and trust.witness_keys(where="x") == ()
    path.write_text(f'{head}[trust]\ndetectors = ["all"]\nwitnesses = ["{WITNESS_TEXT}"]\nevidence = "them.jsonl"\n')
    trust = config_file.load(path, GatewayConfig).trust
    assert trust.detector_plugs() == tuple(DETECTORS)
    assert trust.witness_keys(where="x") == (WITNESS.public_key,)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"detectors": ("all",), "witnesses": (WITNESS_TEXT,)}, "belong together"),
        ({"detectors": ("all",), "evidence": "them.jsonl"}, "belong together"),
        ({"witnesses": (WITNESS_TEXT,), "evidence": "them.jsonl"}, "evidence without detectors"),
        ({"detectors": ("all",), "witnesses": ("12D3",), "evidence": "them.jsonl"}, "node.toml: .trust. witnesses: "),
    ],
)
def test_settings_that_could_decide_nothing_are_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        TrustSection(**fields).witness_keys(where="node.toml")


class Listener:
    """What was imported, round by round."""

    def __init__(self):
        self.rounds = []

    async def import_lines(self, lines):
        self.rounds.append(list(lines))
        return len(self.rounds[-1])


def follow(path, monkeypatch, *steps):
    """Rounds imported until each step, in order, was seen."""
    monkeypatch.setattr(evidence_file, "POLL_S", 0.001)

    async def main():
        listener = Listener()
        task = asyncio.ensure_future(follow_evidence(path, listener, LiveClock()))
        for step in (lambda: None, *steps):
            count = len(listener.rounds)
            step()
            async with asyncio.timeout(10):
                while len(listener.rounds) == count:
                    assert not task.done(), task.exception()
                    await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0.001)
        task.cancel()
        return listener.rounds

    return asyncio.run(main())


def test_a_file_is_read_at_the_start_and_again_whenever_it_changes_but_not_otherwise(tmp_path, monkeypatch):
    path = tmp_path / "evidence.jsonl"

    def replace():
        other = tmp_path / "other"
        other.write_bytes(b"three\n")
        os.replace(other, path)

    rounds = follow(path, monkeypatch, lambda: path.write_bytes(b"one\ntwo\n"), replace, path.unlink)
    assert rounds == [[], [b"one", b"two"], [b"three"], []]


def test_a_file_that_is_too_large_or_cannot_be_read_is_not_used(tmp_path, monkeypatch, caplog):
    path = tmp_path / "evidence.jsonl"
    monkeypatch.setattr(evidence_file, "LINES_MAX", 2)
    monkeypatch.setattr(evidence_file, "FILE_BYTES_MAX", 10)

    def be_a_directory():
        path.unlink()
        path.mkdir()

    rounds = follow(
        path, monkeypatch, lambda: path.write_bytes(b"1\n2\n"), lambda: path.write_bytes(b"1\n2\n3\n"),
        lambda: path.write_bytes(b"a" * 11), be_a_directory,
    )  # fmt: skip
    assert rounds == [[], [b"1", b"2"], [], [], []]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [("more than 10 bytes or 2 lines" in text, "cannot be read" in text) for text in warned] == [
        (True, False), (True, False), (False, True),
    ]  # fmt: skip
