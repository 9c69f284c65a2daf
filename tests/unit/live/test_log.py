"""The log: one JSON object a line, peers readable, nothing secret."""

from __future__ import annotations

import json
import logging

from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import peer_id_text
from quiver.live.log import JsonLines, LiveTrace, note
from quiver.trace import AttemptFailed, LookupFinished, SettlementWarned

SEED = b"s" * 32
KEYS = KeyPair(SEED)


class Lines(logging.Handler):
    """Keeps what a node would write."""

    def __init__(self):
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines = []

    def emit(self, record):
        self.lines.append(json.loads(self.format(record)))


def logged(name, act):
    logger, lines = logging.getLogger(name), Lines()
    logger.addHandler(lines)
    old, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        act(logger)
    finally:
        logger.removeHandler(lines)
        logger.setLevel(old)
        logger.propagate = propagate
    return lines.lines


def test_a_trace_event_keeps_its_own_fields_apart_from_the_lines():
    event = AttemptFailed(
        at_s=1.5,
        node=KEYS.peer_id,
        request_id=b"\x01" * 16,
        provider=KEYS.peer_id,
        code=7,
        busy=False,
        message="it broke",
    )
    (line,) = logged("quiver.trace", lambda _: LiveTrace().emit(event))
    assert line["message"] == "AttemptFailed" and line["event"]["message"] == "it broke"
    assert line["event"]["type"] == "attempt_failed" and line["event"]["request_id"] == "01" * 16
    assert line["event"]["provider"] == peer_id_text(KEYS.peer_id)


def test_lookups_are_for_those_who_debug():
    event = LookupFinished(at_s=0.0, node=KEYS.peer_id, key=b"k", found=True, asked=1, hops=1)
    assert logged("quiver.trace", lambda _: LiveTrace().emit(event)) == []


def test_money_at_risk_is_a_warning():
    event = SettlementWarned(at_s=1.0, node=KEYS.peer_id, subject="ledger", detail="away")
    (line,) = logged("quiver.trace", lambda _: LiveTrace().emit(event))
    assert (line["level"], line["event"]["detail"]) == ("warning", "away")


def test_a_value_json_does_not_know_shows_its_repr_and_keys_have_none():
    (line,) = logged("quiver.node", lambda logger: note(logger, logging.INFO, "hello", keys=KEYS, raw=b"\xff"))
    assert line["raw"] == "ff" and SEED.hex() not in json.dumps(line) and line["keys"].startswith("KeyPair(account=")
