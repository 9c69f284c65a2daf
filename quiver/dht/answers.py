"""What a DHT server answers: a plain function of a question and of what this node holds.

Rules of this file: no awaiting. In a question, `providers` carries the asker itself if it is a server, so that a newcomer can
be found by others without a further protocol, and a client never enters a table. (Foreign nodes say the same by identify.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from quiver.dht.distance import KEYS
from quiver.dht.record import RecordStore
from quiver.dht.routing_table import RoutingTable
from quiver.dht.value_store import Validator, ValueStore
from quiver.errors import MalformedMessage, PeerError, WireCode
from quiver.ids import PeerId
from quiver.runtime import Runtime
from quiver.values.kad import KadMessage, KadType
from quiver.values.peer import PeerInfo

# A key is a peer id or a multihash; go-libp2p takes at most 80 bytes.
KEY_BYTES_MAX = 80
# Looking up a member of an enum costs as much as building the answer.
FIND_NODE, ADD_PROVIDER = KadType.FIND_NODE, KadType.ADD_PROVIDER


class AddresslessPeers(dict[PeerId, PeerInfo]):
    """One shared `PeerInfo` for each peer id known without addresses. A bounded memo: beyond the limit all are forgotten."""

    PEERS_MAX = 1 << 17

    def __missing__(self, peer_id: PeerId) -> PeerInfo:
        if len(self) >= self.PEERS_MAX:
            self.clear()
        info = self[peer_id] = PeerInfo(peer_id=peer_id)
        return info


ADDRESSLESS = AddresslessPeers()


def _nowhere(_: PeerId) -> str | None:
    return None


class Answers:
    """Table and records of one node, and its answers from them."""

    __slots__ = ("me", "table", "records", "values", "has_addresses", "_runtime", "_k", "_on_doubt", "_place_of")

    def __init__(
        self, runtime: Runtime, validators: Mapping[str, Validator], on_doubt: Callable[[PeerInfo], None]
    ) -> None:
        """`on_doubt(info)` is called with a peer that was silent for long while newcomers wait for its place."""
        self._runtime = runtime
        params, me = runtime.params, runtime.transport.local_info()
        self.has_addresses = bool(me.addresses)
        self.me = me if self.has_addresses else ADDRESSLESS[me.peer_id]
        self.table = RoutingTable(me.peer_id, params.k, silence_s=params.bucket_refresh_s)
        self.records = RecordStore(params)
        self.values = ValueStore(validators)
        # What a transport may know and the port does not promise: a simulated peer comes from nowhere.
        self._place_of: Callable[[PeerId], str | None] = getattr(runtime.transport, "place_of", _nowhere)
        self._k = params.k
        self._on_doubt = on_doubt

    def on_question(self, peer: PeerId, message: KadMessage) -> KadMessage:
        """Answer one rpc. A server that asks joins our table; `PeerError` for what we do not serve."""
        kind, key = message.type, message.key
        if not 0 < len(key) <= KEY_BYTES_MAX and kind is not KadType.PING:
            raise MalformedMessage(
                f"a {kind.name} key of {len(key)} bytes; 1 to {KEY_BYTES_MAX} are read", peer_id=peer
            )
        if message.providers and kind is not ADD_PROVIDER:
            self._on_asker(peer, message.providers)
        if kind is FIND_NODE:
            return KadMessage(type=kind, key=key, closer=self._closer(peer, key))
        now = self._runtime.clock.now()
        if kind is KadType.GET_PROVIDERS:
            providers = self.records.providers(key, now, self._runtime.rng)
            return KadMessage(type=kind, key=key, closer=self._closer(peer, key), providers=tuple(providers))
        if kind is ADD_PROVIDER:
            return self._on_add_provider(peer, message, now)
        if kind is KadType.GET_VALUE:
            return self._on_get_value(peer, message, now)
        if kind is KadType.PUT_VALUE:
            return self._on_put_value(peer, message, now)
        return message

    def _on_asker(self, peer: PeerId, offered: Sequence[PeerInfo]) -> None:
        """The asker is a server and alive. Where nodes have addresses, it joins only with some: others could not dial it."""
        for info in offered:
            if info.peer_id == peer:
                if info.addresses or not self.has_addresses:
                    self.observe(info)
                return

    def observe(self, info: PeerInfo) -> None:
        """A server we are connected to has these addresses."""
        if info.addresses:
            self._runtime.transport.learn(info)
        else:
            info = ADDRESSLESS[info.peer_id]
        doubtful = self.table.on_seen(info, self._runtime.clock.now())
        if doubtful is not None:
            self._on_doubt(doubtful)

    def _closer(self, peer: PeerId, key: bytes) -> tuple[PeerInfo, ...]:
        """Our k nearest to `key`, ourselves if we are the key, never the asker unless it is."""
        table = self.table
        nearest = table.closest(KEYS[key], self._k)
        if key == self.me.peer_id:
            nearest = [self.me, *nearest[: self._k - 1]]
        if key != peer:
            asker = table.get(peer)
            return tuple([info for info in nearest if info is not asker])
        return tuple(nearest)

    def _on_add_provider(self, peer: PeerId, message: KadMessage, now: float) -> KadMessage:
        for info in message.providers:
            # Nobody may speak for another peer (libp2p kad-dht, ADD_PROVIDER).
            if info.peer_id == peer and (info.addresses or not self.has_addresses):
                if info.addresses:
                    self._runtime.transport.learn(info)
                else:
                    info = ADDRESSLESS[peer]
                if not self.records.add(message.key, info, now, place=self._place_of(peer)):
                    raise PeerError(
                        "no room for another provider record", peer_id=peer, wire_code=WireCode.RESOURCE_LIMIT
                    )
                return KadMessage(type=KadType.ADD_PROVIDER, key=message.key)
        raise PeerError("ADD_PROVIDER names no provider that is its sender, with addresses", peer_id=peer)

    def _on_get_value(self, peer: PeerId, message: KadMessage, now: float) -> KadMessage:
        try:
            self.values.check_key(message.key)
        except ValueError as error:
            raise PeerError(str(error), peer_id=peer) from error
        record = self.values.get(message.key, now)
        return KadMessage(type=message.type, key=message.key, record=record, closer=self._closer(peer, message.key))

    def _on_put_value(self, peer: PeerId, message: KadMessage, now: float) -> KadMessage:
        record = message.record
        if record is None or record.key != message.key:
            raise MalformedMessage("PUT_VALUE needs a record under the same key", peer_id=peer)
        try:
            self.values.check(record.key, record.value)
        except ValueError as error:
            raise PeerError(str(error), peer_id=peer) from error
        received = datetime.fromtimestamp(self._runtime.clock.utc_ms() / 1000, tz=UTC).isoformat()
        record, owner = msgspec.structs.replace(record, time_received=received), self._place_of(peer) or peer
        if not self.values.put(record, now, owner=owner):
            raise PeerError("no room for another value", peer_id=peer, wire_code=WireCode.RESOURCE_LIMIT)
        return message
