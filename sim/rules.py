"""What a link does to a frame: rules that add up, each one a plain object without I/O.

Rules of this file: a verdict is seconds to add, `DROP` (infinity) cuts the link. A rule's draws are hashes of
(seed, link, time or slot), never a shared generator, so what one pair of nodes does cannot change another pair's delays.
In the spirit of turmoil's rules, but delays are summed instead of the first verdict winning.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from statistics import NormalDist
from typing import Protocol

from quiver.errors import UsageError
from sim.plug import Plug, PlugPoint
from sim.rng import Substreams
from sim.topology import Topology

DROP = math.inf
"""The verdict of a cut link."""

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_normal = NormalDist().inv_cdf


def _mix(value: int) -> int:
    """splitmix64 finaliser (Steele, Lea & Flood 2014): 64 well-mixed bits for about 0.3 us."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _uniform(key: int, counter: int) -> float:
    """A draw in (0, 1), never 0 or 1."""
    return ((_mix((key + counter * _GOLDEN) & _MASK) >> 11) + 0.5) * 2.0**-53


class LinkRule(Protocol):
    """The plug point: one effect of a link.

    `in_handshake` says whether a handshake, which has no size and no queue, feels it too; a rule without it is felt.
    """

    in_handshake: bool

    def delay_s(self, src: int, dst: int, size_bytes: int, now: float) -> float:
        """Seconds this rule adds to a frame sent `now`, or `DROP`."""


class MatrixLatency:
    """One-way delay of a topology."""

    in_handshake = True

    def __init__(self, topology: Topology) -> None:
        self._row_of = topology.row_of
        self._one_way_s = topology.one_way_s

    def delay_s(self, src: int, dst: int, size_bytes: int, now: float) -> float:
        """One-way delay."""
        row_of = self._row_of
        return self._one_way_s[row_of[src]][row_of[dst]]


class Jitter:
    """RTT of a pair wanders: log RTT is AR(1) in slots of `slot_s`, lag-1 autocorrelation 0.81 (Seattle), median unchanged.

    The slot length is that of Seattle's slices (about 16 s, recalled from the paper, not in the data). To answer any time
    without history, each pair restarts from its stationary distribution every `BLOCK` slots; `phi` inside a block is raised
    so that the autocorrelation over all slots is `autocorrelation`. Both directions of a pair wander together.
    """

    in_handshake = True
    BLOCK = 8  # a pair that is new to the cache replays at most this many steps, which is what it costs

    def __init__(
        self, topology: Topology, streams: Substreams, *, sigma: float | None = None, autocorrelation: float = 0.81,
        slot_s: float = 15.7, pairs_max: int = 65_536,
    ) -> None:  # fmt: skip
        """`sigma`: standard deviation of log RTT, by default the topology's own. `pairs_max` bounds the cache, not the pairs."""
        if not 0 <= autocorrelation < (self.BLOCK - 1) / self.BLOCK:
            raise UsageError(
                f"jitter autocorrelation {autocorrelation} is outside 0 .. {(self.BLOCK - 1) / self.BLOCK:.3f}"
            )
        self.sigma = topology.log_rtt_sigma if sigma is None else sigma
        self._phi = autocorrelation * self.BLOCK / (self.BLOCK - 1)
        self._innovation = math.sqrt(1 - self._phi**2)
        self._slot_s = slot_s
        self._pairs_max = pairs_max
        self._base = topology.delay_s
        self._key = int.from_bytes(streams.digest("link", "jitter")[:8], "big")
        self._state: OrderedDict[int, tuple[int, float, float]] = OrderedDict()
        "pair -> (slot, standard normal value, factor - 1); least recently moved pair dropped first."

    def delay_s(self, src: int, dst: int, size_bytes: int, now: float) -> float:
        """What the pair's present factor adds to (or takes from) the base delay."""
        pair = src << 32 | dst if src < dst else dst << 32 | src
        slot = int(now / self._slot_s)
        state = self._state.get(pair)
        excess = state[2] if state is not None and state[0] == slot else self._move(pair, slot, state)
        base_s = self._base(src, dst)
        return base_s * excess if base_s < DROP else 0.0

    def _move(self, pair: int, slot: int, state: tuple[int, float, float] | None) -> float:
        key = _mix(self._key ^ _mix(pair + _GOLDEN))
        start = slot - slot % self.BLOCK
        if state is not None and start <= state[0] < slot:
            at, value = state[0], state[1]
        else:
            at, value = start, _normal(_uniform(key, start))
        while at < slot:
            at += 1
            value = self._phi * value + self._innovation * _normal(_uniform(key, at))
        excess = math.exp(self.sigma * value) - 1.0
        self._state[pair] = (slot, value, excess)
        self._state.move_to_end(pair)
        if len(self._state) > self._pairs_max:
            self._state.popitem(last=False)
        return excess


class Loss:
    """Packet loss as retransmission delay: streams are reliable, so a lost packet costs time, never data.

    A frame of n packets is hit with probability 1 - (1 - p)^n. Each loss of its last retransmission costs one probe timeout,
    doubling (RFC 9002 6.2: srtt + 4 rttvar + max_ack_delay, with rttvar taken as RTT / 8). The rate is an assumption:
    measured path loss was not found. The draw is keyed by (link, time, size).
    """

    in_handshake = True
    PACKET_BYTES = 1200
    ATTEMPTS_MAX = 8
    "Beyond so many losses in a row the delay stops growing; a partition is a rule of its own."
    MAX_ACK_DELAY_S = 0.025

    def __init__(self, topology: Topology, streams: Substreams, *, probability: float) -> None:
        if not 0 <= probability < 1:
            raise UsageError(f"loss probability {probability} is outside 0 .. 1")
        self._p = probability
        self._rtt_s = topology.rtt_s
        self._key = int.from_bytes(streams.digest("link", "loss")[:8], "big")

    def delay_s(self, src: int, dst: int, size_bytes: int, now: float) -> float:
        """0 for most frames."""
        p = self._p
        if p == 0.0:
            return 0.0
        packets = 1 + max(size_bytes - 1, 0) // self.PACKET_BYTES
        # One mix decides for most frames: times are told apart down to a nanosecond.
        link = src * 0xD1B54A32D192ED03 + dst * 0xABC98388FB8FAC03
        key = _mix((self._key + link + int(now * 1e9) * 0x8CB92BA72F3D8DD7 + size_bytes * _GOLDEN) & _MASK)
        if key * 2.0**-64 >= 1.0 - (1.0 - p) ** packets:
            return 0.0
        rtt_s = self._rtt_s(src, dst)
        timeout_s = 1.5 * rtt_s + self.MAX_ACK_DELAY_S
        total, attempt = timeout_s, 1
        while attempt < self.ATTEMPTS_MAX and _uniform(key, attempt) < p:
            total += timeout_s * 2**attempt
            attempt += 1
        return total


class Bandwidth:
    """Serialisation at the sender's uplink and the receiver's downlink, each a queue that drains at its rate.

    The downlink's queue is advanced at send time: exact when the senders of one receiver are equally far, otherwise frames
    are served in order of sending instead of arrival. Calls must come in order of `now`.
    """

    in_handshake = False

    def __init__(self, topology: Topology) -> None:
        speeds = [topology.bandwidth_bps(node) for node in range(len(topology))]
        self._up_s_per_byte = [8 / up for up, _ in speeds]
        self._down_s_per_byte = [8 / down for _, down in speeds]
        self._up_free = [0.0] * len(speeds)
        self._down_free = [0.0] * len(speeds)

    def delay_s(self, src: int, dst: int, size_bytes: int, now: float) -> float:
        """Waiting and sending at both ends."""
        up_free, down_free = self._up_free[src], self._down_free[dst]
        sent = (up_free if up_free > now else now) + size_bytes * self._up_s_per_byte[src]
        self._up_free[src] = sent
        # The downlink receives while the uplink sends: it adds time only where it is slower or busy.
        done = (down_free if down_free > now else now) + size_bytes * self._down_s_per_byte[dst]
        if done < sent:
            done = sent
        self._down_free[dst] = done
        return done - now


class Partition:
    """Nodes of different groups cannot talk between `start_s` and `end_s`; nodes in no group talk to everybody."""

    in_handshake = True

    def __init__(self, group_of: Mapping[int, int | str], *, start_s: float = 0.0, end_s: float = math.inf) -> None:
        self._group_of = dict(group_of)
        self._start_s = start_s
        self._end_s = end_s

    @classmethod
    def isolate(cls, nodes: Collection[int], total: int, *, start_s: float = 0.0, end_s: float = math.inf) -> Partition:
        """Cut `nodes` off from the other of `total` nodes."""
        inside = frozenset(nodes)
        return cls({node: node in inside for node in range(total)}, start_s=start_s, end_s=end_s)

    @classmethod
    def regions(cls, topology: Topology, region: str, *, start_s: float = 0.0, end_s: float = math.inf) -> Partition:
        """Cut one region off from all others."""
        nodes = [node for node in range(len(topology)) if topology.region_of(node) == region]
        if not nodes:
            raise UsageError(f"topology {topology.name} has no node in region {region!r}")
        return cls.isolate(nodes, len(topology), start_s=start_s, end_s=end_s)

    def delay_s(self, src: int, dst: int, size_bytes: int, now: float) -> float:
        """0 or `DROP`."""
        if not self._start_s <= now < self._end_s:
            return 0.0
        a, b = self._group_of.get(src), self._group_of.get(dst)
        return 0.0 if a is None or b is None or a == b else DROP


_METHODS = {"delay_s": ("src", "dst", "size_bytes", "now")}
_OFFERS = ("topology", "streams")
JITTER = PlugPoint(field="jitter", builtins={"wander": Jitter}, plain="true or false", offers=_OFFERS, methods=_METHODS)
LOSS = PlugPoint(field="loss", builtins={}, plain="a probability", offers=_OFFERS, methods=_METHODS)
LINKS = PlugPoint(field="links", builtins={"bandwidth": Bandwidth}, offers=_OFFERS, methods=_METHODS)


class Links:
    """All links of a world: the sum of its rules. What `sim.transport` asks for every frame."""

    def __init__(self, topology: Topology, rules: Sequence[LinkRule] | None = None) -> None:
        """`rules` None means the topology's latency alone; otherwise exactly these, so name `MatrixLatency` among them."""
        self.topology = topology
        self.rules: tuple[LinkRule, ...] = (MatrixLatency(topology),) if rules is None else tuple(rules)
        if not self.rules:
            raise UsageError("links without rules deliver in no time: give at least MatrixLatency(topology)")
        self._rest = self.rules[1:]
        self._first = self.rules[0].delay_s

    @classmethod
    def realistic(
        cls, topology: Topology, streams: Substreams, *, loss: Plug | float = 0.0, jitter: Plug | bool = True,
        bandwidth: bool = True, extra: Sequence[Plug] = (),
    ) -> Links:  # fmt: skip
        """Latency, jitter (where the topology has a sigma), bandwidth (where it has one), loss, then `extra`; all pluggable."""
        rules: list[LinkRule] = [MatrixLatency(topology)]
        if not isinstance(jitter, bool):
            rules.append(JITTER.make(jitter, topology, streams))
        elif jitter and topology.log_rtt_sigma > 0:
            rules.append(Jitter(topology, streams))
        if bandwidth and any(math.isfinite(topology.bandwidth_bps(node)[0]) for node in range(len(topology))):
            rules.append(Bandwidth(topology))
        if not isinstance(loss, (int, float)):
            rules.append(LOSS.make(loss, topology, streams))
        elif loss > 0:
            rules.append(Loss(topology, streams, probability=loss))
        return cls(topology, [*rules, *(LINKS.make(plug, topology, streams) for plug in extra)])

    def delay_s(self, source: int, destination: int, size_bytes: int, now: float) -> float:
        """Seconds from sending to delivery, infinity when the link is cut. Every rule is asked, so queues see every frame."""
        total = self._first(source, destination, size_bytes, now)
        for rule in self._rest:
            total += rule.delay_s(source, destination, size_bytes, now)
        return total

    def handshake_s(self, source: int, destination: int, now: float) -> float:
        """One round trip before a new QUIC connection carries data (RFC 9001 4.1), with the jitter, loss and partitions of now.

        Infinity when the link is cut.
        """
        size, total = Loss.PACKET_BYTES, 0.0
        for rule in self.rules:
            if getattr(rule, "in_handshake", True):
                total += rule.delay_s(source, destination, size, now) + rule.delay_s(destination, source, size, now)
        return total
