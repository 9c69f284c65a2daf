"""The candidate table against a plain dictionary, whatever providers say and however long they stay away."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quiver.ids import ModelId
from quiver.params import Params
from quiver.selection.candidates import PEERS_PER_CANDIDATE, CandidateTable, OfferVerdict
from quiver.values.offer import Load
from tests.examples import examples
from tests.unit.selection.builders import MODEL, OTHER_MODEL, offer, outcome, peer

PARAMS = Params.minimal()
NAMES = st.integers(0, 40).map(str)
MODELS = st.sampled_from([MODEL, OTHER_MODEL])
ANY = st.integers(-(1 << 63), (1 << 64) - 1)


class Candidates(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.table = CandidateTable(PARAMS)
        self.now, self.known, self.guards, self.generation = 0.0, {}, [], {}

    @rule(name=NAMES, model=MODELS, generation=st.integers(1, 3), lease_s=st.floats(-1, 30))
    def offers(self, name, model, generation, lease_s):
        expires_ms = 1_000_000 + int((self.now + lease_s) * 1000)
        made = offer(name, model=model, generation=generation, expires_ms=expires_ms)
        utc_ms = 1_000_000 + int(self.now * 1000)
        verdict = self.table.on_offer(made, now=self.now, utc_ms=utc_ms)
        ends_s = self.now + min((expires_ms - utc_ms) / 1000, PARAMS.offer_lease_s)
        assert (verdict is OfferVerdict.EXPIRED) == (ends_s <= self.now)
        if verdict is not OfferVerdict.TAKEN:
            return
        if generation > self.generation.get(name, 0):
            # A restart: what it offered before is void.
            self.known = {key: value for key, value in self.known.items() if key[0] != name}
        self.generation[name] = generation
        self.known[name, model] = ends_s, made

    @rule(name=NAMES, queued=ANY, running=ANY, slots=ANY)
    def reports(self, name, queued, running, slots):
        has_offer = any(known == name for known, _ in self.known)
        taken = self.table.on_load(peer(name), Load(queued=queued, running=running, slots=slots), now=self.now)
        assert taken or not has_offer or peer(name) not in self.table.peers()

    @rule(name=NAMES, rtt_s=st.none() | st.floats(0, 10), ready=st.booleans())
    def is_measured(self, name, rtt_s, ready):
        self.table.on_rtt(peer(name), rtt_s)
        self.table.on_channel(peer(name), ready=ready)

    @rule(name=NAMES, ok=st.booleans(), busy=st.booleans(), times=st.integers(1, 6))
    def ends(self, name, ok, busy, times):
        for _ in range(times):
            self.table.on_outcome(outcome(name, ok=ok, busy=busy, ttft_s=0.5), model=MODEL, now=self.now)

    @rule(name=NAMES)
    def is_asked(self, name):
        self.guards.append((name, self.table.dispatch(peer(name))))

    @precondition(lambda self: self.guards)
    @rule(again=st.booleans())
    def answers(self, again):
        _, guard = self.guards.pop(0)
        guard.release()
        if again:
            guard.release()

    @rule(seconds=st.floats(0, 8))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def sweep(self):
        self.table.sweep(self.now)

    @invariant()
    def agree(self):
        table = self.table
        table.validate()
        live = {key for key, (ends_s, _) in self.known.items() if ends_s > self.now}
        for model in (MODEL, OTHER_MODEL):
            found = table.candidates(model, self.now)
            peers = [candidate.peer for candidate in found]
            assert peers == sorted(set(peers)) and len(peers) <= PARAMS.candidates_max
            for candidate in found:
                name = candidate.peer.decode()
                assert (name, model) in live, "an offer that ran out, or was never made"
                assert table.offer(candidate.peer, model, self.now) == self.known[name, model][1]
                # A request sent while the peer was unknown is not counted once it is.
                assert 0 <= candidate.in_flight <= sum(asked == name for asked, _ in self.guards)
        assert table.candidates(ModelId(b"x" * 32), self.now) == []
        assert len(table.peers()) <= PARAMS.candidates_max * PEERS_PER_CANDIDATE


TestCandidates = Candidates.TestCase
TestCandidates.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
