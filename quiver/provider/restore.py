"""What a provider does first in each life: every channel it knows is looked after, and one that lost its disk finds out how far
its channels had got, from the ledger and the aggregator (payers tell it themselves when they connect).

Rules of this file: it awaits and moves values; whether an acknowledgement is where a channel stands is decided in receipts/log.
"""

from __future__ import annotations

from quiver.errors import PeerError, QuiverError, ReceiptMismatch
from quiver.ids import Address, ChannelId, PeerId
from quiver.provider.channel import ProviderChannel
from quiver.provider.payers import load_channel
from quiver.receipts.log import provider_channels
from quiver.receipts.signatures import verify_acknowledgement
from quiver.runtime import Runtime
from quiver.settlement.channel import compute_due, session_at
from quiver.values.frames import AskHeads, HeadsAnswer
from quiver.values.ledger import ClaimDirect, OpenChannel
from quiver.values.receipt import Acknowledgement
from quiver.wire.protocols import RECEIPTS

DONE = ("provider_meta", b"restored")
# More pages than a provider has channels, from an aggregator that never ends.
PAGES_MAX = 4096


def load_known(runtime: Runtime, channels: dict[ChannelId, ProviderChannel], *, payout: Address) -> None:
    """Every open channel of the store is looked after, whether or not its payer comes back in this life of the node."""
    for terms in provider_channels(runtime.store):
        if terms.channel not in channels:
            state = runtime.ledger.channel(terms.channel)
            if state is not None and not state.closed:
                _load(runtime, channels, terms.channel, payout)


async def restore(
    runtime: Runtime, channels: dict[ChannelId, ProviderChannel], aggregator: PeerId, *, payout: Address
) -> bool:
    """With an empty store, ask the aggregator how far we are; False while it has to be asked again."""
    if runtime.store.get(*DONE) is not None:
        return True
    try:
        # A provider nobody has ever opened a channel to has lost nothing.
        if _was_paid_before(runtime, payout):
            await _ask(runtime, channels, aggregator, payout)
        await runtime.store.commit([(*DONE, b"1")])
    except QuiverError:
        return False
    return True


def _was_paid_before(runtime: Runtime, payout: Address) -> bool:
    cursor = 0
    while events := runtime.ledger.events(cursor):
        own = (payout, runtime.signer.account)
        if any(isinstance(event.transaction, OpenChannel) and event.transaction.provider in own for event in events):
            return True
        cursor = events[-1].index + 1
    return False


async def _ask(
    runtime: Runtime, channels: dict[ChannelId, ProviderChannel], aggregator: PeerId, payout: Address
) -> None:
    params = runtime.params
    stream = await runtime.transport.open(aggregator, RECEIPTS, timeout_s=params.dial_timeout_s)
    try:
        after: ChannelId | None = None
        for _ in range(PAGES_MAX):
            async with runtime.clock.deadline(params.request_timeout_s):
                await stream.send(AskHeads(after=after))
                answer = await stream.receive()
            if not isinstance(answer, HeadsAnswer):
                raise PeerError("an aggregator must answer AskHeads with HeadsAnswer", peer_id=aggregator)
            for ack in answer.acknowledgements:
                await take(runtime, channels, ack, payout=payout)
            if not answer.more or not answer.acknowledgements:
                break
            after = answer.acknowledgements[-1].channel
        stream.finish()
    except BaseException:
        stream.reset(0)
        raise


async def take(
    runtime: Runtime, channels: dict[ChannelId, ProviderChannel], ack: Acknowledgement, *, payout: Address
) -> None:
    """A genuine acknowledgement is worth money whoever hands it over; anything else is nothing."""
    channel = _load(runtime, channels, ack.channel, payout)
    if channel is None:
        return
    ledger = runtime.ledger
    try:
        await verify_acknowledgement(
            runtime.verifier, ack, chain_id=ledger.chain_id, contract=ledger.contract,
            session=session_at(channel.state, runtime.clock.utc_ms()),
        )  # fmt: skip
    except PeerError:
        return
    try:
        batch = channel.on_acknowledged(ack)
    except ReceiptMismatch:
        # Its payer came first and told less. The word it once gave still pays, and never again after this.
        if compute_due(channel.state, ack.cum) > 0 and ack.cum > channel.log.acknowledged.cum:
            await ledger.submit(ClaimDirect(sender=runtime.signer.account, acknowledgement=ack))
        return
    if batch:
        await runtime.store.commit(batch)


def _load(
    runtime: Runtime, channels: dict[ChannelId, ProviderChannel], channel_id: ChannelId, payout: Address
) -> ProviderChannel | None:
    try:
        return load_channel(runtime, channels, channel_id, payout=payout)
    except PeerError:
        # Of another chain, or another payout account: the ledger says it pays somebody else.
        return None
