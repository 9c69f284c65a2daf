"""A question that ends in a call: the same ends as those of an rpc, at the same times."""

import math

import pytest

from quiver.errors import DeadlineExceeded, PeerUnreachable, StreamReset
from quiver.ids import PeerId
from quiver.values.kad import KadMessage, KadType
from quiver.wire.protocols import KAD
from sim.loop import Environment
from sim.trace import RunTrace
from sim.transport import Network, UniformLinks

QUESTION = KadMessage(type=KadType.PING)


class Pair:
    """Two nodes 10 ms apart, and how the questions of `a` ended: (time, answer, error)."""

    def __init__(self):
        self.env = Environment()
        self.network = Network(self.env, UniformLinks(0.01), RunTrace(), encoded=True)
        self.a, self.b = (self.network.node(PeerId(name)) for name in (b"a", b"b"))
        self.ends = []

    def on_end(self, about, answer, error):
        assert about == "this one"
        self.ends.append((self.env.now, answer, error))

    def ask(self, timeout_s=5.0, on_end=None):
        self.a.ask(self.b.peer_id, KAD, QUESTION, timeout_s=timeout_s, on_end=on_end or self.on_end, about="this one")


def test_the_answer_comes_with_one_call_and_leaves_nothing_scheduled():
    pair = Pair()
    pair.b.answer(KAD, lambda peer, message: message)
    pair.ask()
    pair.env.run()
    # 20 ms of handshake, 10 ms each way.
    assert pair.ends == [(pytest.approx(0.04), QUESTION, None)]
    assert pair.a.rtt_s(pair.b.peer_id) == pytest.approx(0.02)
    assert not pair.network.timeouts and pair.env.peek() == math.inf


def test_silence_ends_at_the_timeout_and_a_late_answer_is_no_second_end():
    pair = Pair()
    pair.b.answer(KAD, lambda peer, message: message)
    pair.ask(timeout_s=0.035)
    pair.env.run()
    ((at_s, answer, error),) = pair.ends
    assert (at_s, answer, type(error)) == (0.035, None, DeadlineExceeded)
    assert pair.a.rtt_s(pair.b.peer_id) is None


def test_what_is_asked_when_a_question_times_out_has_its_own_time():
    pair = Pair()
    pair.b.crash()

    def on_end(about, answer, error):
        pair.on_end(about, answer, error)
        if len(pair.ends) < 4:
            pair.ask(timeout_s=1.0, on_end=on_end)

    for _ in range(2):
        pair.ask(timeout_s=1.0, on_end=on_end)
    pair.env.run()
    assert [(at_s, type(error)) for at_s, _, error in pair.ends] == [
        (1.0, DeadlineExceeded), (1.0, DeadlineExceeded), (2.0, DeadlineExceeded), (2.0, DeadlineExceeded),
        (3.0, DeadlineExceeded),
    ]  # fmt: skip
    assert not pair.network.timeouts


def test_a_refusal_is_an_end():
    pair = Pair()
    pair.ask()
    pair.env.run()
    ((_, answer, error),) = pair.ends
    assert answer is None and isinstance(error, StreamReset)


def test_a_peer_nobody_has_heard_of_is_unreachable_at_once():
    pair = Pair()
    with pytest.raises(PeerUnreachable):
        pair.a.ask(PeerId(b"c"), KAD, QUESTION, timeout_s=1.0, on_end=pair.on_end)
    assert not pair.ends and not pair.network.timeouts
