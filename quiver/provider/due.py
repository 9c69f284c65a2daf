"""Since when a channel has something to claim, across restarts. Pure; a method returns the batch to commit."""

from __future__ import annotations

import msgspec

from quiver.ids import ChannelId
from quiver.ports import Batch, Store
from quiver.settlement.channel import compute_due
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement

TABLE = "provider_due"


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Row of `provider_due`."""

    since_ms: int
    paid: int
    "What the channel had paid then: a payment begins a new wait for what it left over."


_ENCODE = msgspec.msgpack.Encoder().encode
_DUE = msgspec.msgpack.Decoder(Due)


class DueSince:
    """By channel."""

    def __init__(self) -> None:
        self._due: dict[ChannelId, Due] = {}

    @classmethod
    def load(cls, store: Store) -> DueSince:
        """As last committed."""
        self = cls()
        self._due = {ChannelId(key): _DUE.decode(row) for key, row in store.scan(TABLE)}
        return self

    def since_ms(self, channel: ChannelId) -> int | None:
        """utc_ms, or None while nothing is due."""
        due = self._due.get(channel)
        return None if due is None else due.since_ms

    def on_seen(self, state: ChannelState, newest: Acknowledgement, now_ms: int) -> Batch:
        """The ledger's state of a channel and its newest acknowledgement, as they are now."""
        channel, held = state.channel, self._due.get(state.channel)
        if state.closed or compute_due(state, newest.cum) == 0:
            if self._due.pop(channel, None) is None:
                return []
            return [(TABLE, channel, None)]
        if held is not None and held.paid == state.paid:
            return []
        self._due[channel] = due = Due(since_ms=now_ms, paid=state.paid)
        return [(TABLE, channel, _ENCODE(due))]
