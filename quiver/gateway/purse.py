"""Channels and connections to providers: opened ahead of requests, topped up, re-dialled.

Rules of this file: it awaits and moves values. One channel per (gateway, provider), at most `channels_max` links.
"""

from __future__ import annotations

import asyncio

import msgspec

from quiver import trace
from quiver.concerns import Concerns
from quiver.errors import QuiverError, ReceiptMismatch, SettlementError, Unavailable
from quiver.gateway.link import ProviderLink
from quiver.gateway.payer import PayerChannel
from quiver.gateway.topup import Locked, TopUpPolicy
from quiver.identity import signing
from quiver.ids import Address, ChannelId, PeerId, compute_channel_id
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.history import Book
from quiver.receipts.log import PayerLog
from quiver.receipts.totals import DAY_MS
from quiver.runtime import Nursery, Runtime
from quiver.values.ledger import ChannelState, FinishExit, OpenChannel, RequestExit, TopUp
from quiver.values.offer import Offer

TABLE, EXITS = "gateway_channels", "gateway_exits"
_NONCE = b"nonce"
# Channels abandoned to one provider, exits unfinished, before no further one is opened.
ABANDONED_MAX = 2
TOP_UPS = "top-ups"
"Subject of what an operator is told about them."


class OpenedChannel(msgspec.Struct, frozen=True, kw_only=True):
    """Row: which channel pays this provider. Written before the ledger is asked, so a crash loses no deposit."""

    channel: ChannelId
    payout: Address
    nonce: int


class Purse:
    """The gateway's channels by provider."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.top_up = TopUpPolicy()
        "What the operator allows; the wiring may set another before the first request."
        self.concerns = Concerns(runtime)
        self.links: dict[PeerId, ProviderLink] = {}
        self.book: Book | None = None
        "What providers billed and delivered, for fraud detectors; nothing is kept while it is None."
        self._dials: dict[PeerId, asyncio.Future[ProviderLink]] = {}
        self._topping_up: dict[PeerId, None] = {}
        self._locked = Locked.load(runtime.store)
        self._nonce: int | None = None
        "Of the next channel. Counted here, because two dials of one moment read the same row."
        self._domain = signing.ack_domain(runtime.ledger.chain_id, runtime.ledger.contract)

    def link(self, peer: PeerId) -> ProviderLink | None:
        """A live connection, or None."""
        link = self.links.get(peer)
        return link if link is not None and link.up else None

    @property
    def is_full(self) -> bool:
        """No further provider can be connected."""
        return len(self.links) >= self.runtime.params.channels_max

    async def connect(self, offer: Offer, nursery: Nursery) -> ProviderLink:
        """The live link to a provider, after opening its channel and dialling if need be. One dial at a time a peer.

        Whoever asks meanwhile waits for the same dial; it goes on when the first who asked has given up.
        """
        peer = offer.provider
        link = self.link(peer)
        if link is not None:
            return link
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = asyncio.get_running_loop().create_future()
            nursery.start(self._dial(offer, dial, nursery))
        return await asyncio.shield(dial)

    async def _dial(self, offer: Offer, dial: asyncio.Future[ProviderLink], nursery: Nursery) -> None:
        peer = offer.provider
        try:
            # A link that went down while its task still cleans up keeps its place: it is the same provider's.
            if peer not in self.links and self.is_full:
                raise Unavailable(f"all {self.runtime.params.channels_max} channels are in use")
            link = ProviderLink(self.runtime, peer, await self._channel(offer), self.book)
            await self._agree(link)
            self.links[peer] = link
            nursery.start(self._keep(link))
            dial.set_result(link)
        except QuiverError as error:
            dial.set_exception(error)
            # Nobody may be waiting any more; then it was not lost, just not asked for.
            dial.exception()
        finally:
            del self._dials[peer]
            if not dial.done():
                dial.set_exception(Unavailable("the gateway is stopping"))
                dial.exception()

    async def _agree(self, link: ProviderLink) -> None:
        """Connect; a provider whose history of the channel is not ours gets a new channel next time."""
        try:
            await link.connect()
        except ReceiptMismatch:
            await self._abandon(link)
            raise

    async def _abandon(self, link: ProviderLink) -> None:
        """Two histories of one channel can't be joined: ask for the rest back. What was signed for stays the provider's."""
        runtime, channel = self.runtime, link.channel.state.channel
        await runtime.store.commit([(TABLE, link.peer, None), (EXITS, channel, link.peer)])
        runtime.trace.emit(
            trace.EvidenceRecorded(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=link.peer, kind="ReceiptMismatch",
                detail=f"channel {channel.hex()} abandoned: the provider holds another history than we",
            )
        )  # fmt: skip

    async def leave(self) -> None:
        """One round over abandoned channels: request the exit, finish it once its delay is over."""
        runtime = self.runtime
        for key, _ in runtime.store.scan(EXITS):
            channel = ChannelId(key)
            state = runtime.ledger.channel(channel)
            sender = runtime.signer.account
            try:
                if state is None or state.closed:
                    await runtime.store.commit([(EXITS, key, None)])
                elif state.exit_at_ms is None:
                    await runtime.ledger.submit(RequestExit(sender=sender, channel=channel))
                elif state.exit_at_ms <= runtime.clock.utc_ms():
                    await runtime.ledger.submit(FinishExit(sender=sender, channel=channel))
            except QuiverError:
                # A ledger that is away, or whose clock is behind ours: the next round tries again.
                continue

    async def _keep(self, link: ProviderLink) -> None:
        try:
            await link.run()
        finally:
            if self.links.get(link.peer) is link:
                del self.links[link.peer]

    async def _channel(self, offer: Offer) -> PayerChannel:
        """Our channel to this provider, opened on the ledger if there is none yet."""
        runtime, peer = self.runtime, offer.provider
        row = runtime.store.get(TABLE, peer)
        opened = None if row is None else msgspec.msgpack.decode(row, type=OpenedChannel)
        state = None if opened is None else runtime.ledger.channel(opened.channel)
        if opened is None or opened.payout != offer.payout or (state is not None and not _is_usable(state)):
            self._check_abandoned(peer)
            opened, state = await self._reserve_nonce(offer), None
        if state is None:
            await self._lock(
                OpenChannel(
                    sender=runtime.signer.account, provider=offer.payout, session=runtime.signer.session_address,
                    amount=runtime.params.channel_deposit_credits, nonce=opened.nonce,
                )
            )  # fmt: skip
            state = runtime.ledger.channel(opened.channel)
            if state is None:
                raise SettlementError("not_confirmed", "the ledger accepted a channel it does not show")
        terms = ChannelTerms(
            chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract, channel=opened.channel,
            provider_key=offer.public_key, payer=runtime.signer.account,
        )  # fmt: skip
        return PayerChannel(state, PayerLog.load(runtime.store, terms))

    def _check_abandoned(self, peer: PeerId) -> None:
        """Each exit takes days: a provider whose histories never fit binds no more than two deposits."""
        waiting = sum(1 for _, value in self.runtime.store.scan(EXITS) if value == peer)
        if waiting >= ABANDONED_MAX:
            raise Unavailable(f"{waiting} channels to this provider were abandoned and wait for their exit")

    async def _reserve_nonce(self, offer: Offer) -> OpenedChannel:
        runtime = self.runtime
        if self._nonce is None:
            row = runtime.store.get(TABLE, _NONCE)
            self._nonce = int.from_bytes(row, "big") if row else 0
        nonce = self._nonce
        self._nonce += 1
        channel = compute_channel_id(self._domain, runtime.signer.account, offer.payout, nonce)
        opened = OpenedChannel(channel=channel, payout=offer.payout, nonce=nonce)
        await runtime.store.commit(
            [
                (TABLE, _NONCE, self._nonce.to_bytes(8, "big")),
                (TABLE, offer.provider, msgspec.msgpack.encode(opened)),
            ]
        )
        return opened

    def top_up_soon(self, link: ProviderLink, nursery: Nursery) -> None:
        """Start a top-up if the channel runs low and none is under way."""
        low = self.top_up.is_low(link.channel.available, deposit=self.runtime.params.channel_deposit_credits)
        if low and link.peer not in self._topping_up:
            self._topping_up[link.peer] = None
            nursery.start(self._top_up(link))

    async def _top_up(self, link: ProviderLink) -> None:
        runtime, channel = self.runtime, link.channel
        amount = self.top_up.compute_amount(deposit=runtime.params.channel_deposit_credits)
        try:
            await self._lock(TopUp(sender=runtime.signer.account, channel=channel.state.channel, amount=amount))
            channel.state = runtime.ledger.channel(channel.state.channel) or channel.state
        except QuiverError:
            # The next request that finds the channel low tries again; until then the channel just holds less.
            return
        finally:
            self._topping_up.pop(link.peer, None)

    async def _lock(self, transaction: OpenChannel | TopUp) -> None:
        """Ask the ledger, within what the operator allows; `Unavailable` beyond it, and a concern until it may again."""
        runtime, locked, amount = self.runtime, self._locked, transaction.amount
        day = runtime.clock.utc_ms() // DAY_MS
        balance = runtime.ledger.balance(runtime.signer.account)
        obstacle = self.top_up.find_obstacle(amount, balance=balance, locked=locked, day=day)
        if obstacle is not None:
            detail, _, fix = obstacle.partition(": ")
            self.concerns.warn(TOP_UPS, detail, fix)
            raise Unavailable(f"no credits for a channel: {obstacle}")
        asked = locked.on_asked(amount, day=day)
        try:
            await runtime.store.commit(asked)
            await runtime.ledger.submit(transaction)
        except QuiverError as error:
            if isinstance(error, SettlementError):
                self.concerns.warn(
                    TOP_UPS, f"{amount} credits could not be locked in a channel: {error}",
                    "deposit more if they are missing; the next request that needs it tries again",
                )  # fmt: skip
            await runtime.store.commit(locked.on_refused(amount, day=day))
            raise
        locked.on_done(amount)
        self.concerns.clear(TOP_UPS)


def _is_usable(state: ChannelState) -> bool:
    return not state.closed and state.exit_at_ms is None
