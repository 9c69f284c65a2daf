"""What connections hold in memory, bounded for each and for the whole node.

Rules of this file: no clock, no I/O. Each connection has a reserve of its own, so that hogs never starve an honest peer's small
rpcs; beyond it all draw on one pool. A lease counts every byte that comes in or is written as held; only when that reaches what it
was granted is it measured what really is, so the count costs an addition a datagram.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from quiver.quic.limits import Limits, Quota, Refusal

# A lease is measured again after so many bytes.
CHUNK_BYTES = 64 * 1024
# When the pool is empty all leases are measured, because some hold less than they did: at each refusal as long as that finds
# something, and else after twice as many refusals as the time before, at most so many.
REFUSALS_A_SWEEP_MAX = 256


class Budget:
    """`NodeLimits.memory_bytes`, shared by the leases of all connections."""

    def __init__(self, quota: Quota) -> None:
        limits = quota.limits
        self.reserve_bytes = limits.memory_reserve_bytes
        self._pool_bytes = limits.memory_bytes - limits.connections.total * limits.memory_reserve_bytes
        self._quota = quota
        self._leases: dict[Lease, None] = {}
        self._pool_used = 0
        self._refusals = 0
        self._refusals_a_sweep = 1

    def enter(self, lease: Lease) -> None:
        """A connection begins."""
        self._leases[lease] = None

    def leave(self, lease: Lease) -> None:
        """It is gone."""
        if lease in self._leases:
            del self._leases[lease]
            self._pool_used -= lease.from_pool

    def grant(self, lease: Lease, size_bytes: int) -> bool:
        """`lease` may hold so much, in place of what it might."""
        wanted = max(0, size_bytes - self.reserve_bytes)
        if self._pool_used - lease.from_pool + wanted > self._pool_bytes and wanted > lease.from_pool:
            return False
        self._pool_used += wanted - lease.from_pool
        lease.from_pool = wanted
        return True

    def refuse(self) -> None:
        """There is no room. Counted; now and then whoever holds less than it was granted gives it back."""
        self._quota.refuse(Refusal.NODE_MEMORY)
        self._refusals += 1
        if self._refusals >= self._refusals_a_sweep:
            before = self._pool_used
            for lease in self._leases:
                lease.measure()
            has_found = before - self._pool_used >= CHUNK_BYTES
            self._refusals = 0
            self._refusals_a_sweep = 1 if has_found else min(2 * self._refusals_a_sweep, REFUSALS_A_SWEEP_MAX)

    def validate(self) -> None:
        """Own invariants."""
        assert self._pool_used == sum(lease.from_pool for lease in self._leases)
        assert 0 <= self._pool_used <= self._pool_bytes


class Lease:
    """How much one connection may hold; without a budget, anything."""

    __slots__ = ("from_pool", "reserve_bytes", "_held_bytes", "_budget", "_charged", "_granted")

    def __init__(self, held_bytes: Callable[[], int]) -> None:
        """`held_bytes()` says how much there really is."""
        self.from_pool = 0
        self.reserve_bytes = 0
        "What it holds in any case."
        self._held_bytes = held_bytes
        self._budget: Budget | None = None
        self._charged = 0
        self._granted: float = float("inf")

    def join(self, budget: Budget) -> None:
        """From now on it counts."""
        self._budget = budget
        self._granted = self.reserve_bytes = budget.reserve_bytes
        budget.enter(self)

    def leave(self) -> None:
        """The connection is gone. Idempotent."""
        if self._budget is not None:
            self._budget.leave(self)
            self._budget, self._granted = None, float("inf")

    def take(self, size_bytes: int) -> bool:
        """`size_bytes` more may be held by now; False if that is more than the node has room for."""
        self._charged += size_bytes
        return self._charged <= self._granted or self._renew()

    def measure(self) -> None:
        """Give back what is not needed now."""
        self._charged = self._held_bytes()
        if self._budget is not None and self._budget.grant(self, self._charged):
            self._granted = max(self._charged, self._budget.reserve_bytes)

    def _renew(self) -> bool:
        assert self._budget is not None, "without a budget everything was granted"
        if self._is_granted():
            return True
        self._budget.refuse()
        return self._is_granted()

    def _is_granted(self) -> bool:
        budget = self._budget
        assert budget is not None
        self._charged = held = self._held_bytes()
        if budget.grant(self, held + CHUNK_BYTES):
            self._granted = max(held + CHUNK_BYTES, budget.reserve_bytes)
            return True
        return held <= self._granted


class Holder(ABC):
    """The memory of one connection."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._written_bytes = 0
        "No less than what is held unsent; made exact when it reaches the limit."
        self.lease = Lease(self._held_bytes)

    @abstractmethod
    def _buffered_bytes(self, stream_id: int) -> int:
        """Bytes of a stream that are held in memory until the peer has them."""

    @abstractmethod
    def _buffered_bytes_total(self) -> int:
        """The same of all streams."""

    @abstractmethod
    def _received_bytes_total(self) -> int:
        """Bytes that have come and that nobody has read."""

    def _held_bytes(self) -> int:
        return self._buffered_bytes_total() + self._received_bytes_total()

    def _count_written(self, size_bytes: int) -> None:
        """After they were written: one frame may cross the bound, the next one waits."""
        self._written_bytes += size_bytes
        self.lease.take(size_bytes)

    def has_memory(self) -> bool:
        """The peer has taken enough of what was written that more may be, and the node has room for it."""
        most = self._limits.unsent_bytes_max
        if self._written_bytes >= most:
            self._written_bytes = self._buffered_bytes_total()
        return self._written_bytes < most and self.lease.take(0)
