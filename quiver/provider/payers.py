"""Every channel that pays this provider: who may use it, what is issued on it, what its payer has signed for.

Rules of this file: it awaits and moves values; the rules of money are in channel, those of receipts in receipts/.
"""

from __future__ import annotations

from contextlib import suppress

from quiver import trace
from quiver.errors import BadSignature, PeerError, Unavailable, WireCode
from quiver.identity import signing
from quiver.ids import Address, ChannelId, PeerId
from quiver.ports import Stream
from quiver.provider.channel import ProviderChannel
from quiver.provider.metering import Meter
from quiver.receipts.checks import ChannelTerms
from quiver.receipts.log import ProviderLog
from quiver.receipts.signatures import find_signer, sign_receipt
from quiver.runtime import Runtime
from quiver.settlement.channel import sessions_about
from quiver.values.frames import AckFrame, Authorise, Open
from quiver.values.ledger import ChannelState
from quiver.values.receipt import Acknowledgement, SignedReceipt

# Of a channel that holds too little for what is asked.
LOOK_AGAIN_S = 1.0


def load_channel(
    runtime: Runtime,
    channels: dict[ChannelId, ProviderChannel],
    channel_id: ChannelId,
    *,
    payout: Address | None = None,
) -> ProviderChannel:
    """The one object of a channel in this life of the node, read back from the store when it is first asked for."""
    channel = channels.get(channel_id)
    if channel is None:
        state = runtime.ledger.channel(channel_id)
        if state is None or not is_ours(runtime, state, payout):
            raise PeerError("the ledger has no such channel to us", wire_code=WireCode.NOT_AUTHORISED)
        terms = ChannelTerms(
            chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract, channel=channel_id,
            provider_key=runtime.signer.public_key, payer=state.payer,
        )  # fmt: skip
        channel = ProviderChannel(state, ProviderLog.load(runtime.store, terms), runtime.params)
        channels[channel_id] = channel
    return channel


def is_ours(runtime: Runtime, state: ChannelState, payout: Address | None) -> bool:
    """Whether a channel pays the payout account, or the node's own: what was opened before the operator named another."""
    return state.provider in (payout, runtime.signer.account)


class Payers:
    """Channels are read back from the store when they are first asked for."""

    def __init__(self, runtime: Runtime, *, payout: Address | None = None) -> None:
        self.channels: dict[ChannelId, ProviderChannel] = {}
        self._payout = payout
        self._runtime = runtime

    async def authorise(self, peer: PeerId, frame: Authorise) -> ProviderChannel:
        """The payer's channel, once its session key has signed for this very connection."""
        runtime = self._runtime
        ledger = runtime.ledger
        state = ledger.channel(frame.channel)

        def refuse(reason: str) -> PeerError:
            return PeerError(f"Authorise refused: {reason}", peer_id=peer, wire_code=WireCode.NOT_AUTHORISED)

        if state is None or state.closed:
            raise refuse("no such channel on the ledger, or it is closed")
        if not is_ours(runtime, state, self._payout) or frame.provider != runtime.signer.peer_id:
            raise refuse("the channel pays another provider")
        sessions = sessions_about(state, runtime.clock.utc_ms(), runtime.params.clock_skew_ms_max)
        if frame.gateway != peer or frame.payer != state.payer or frame.session not in sessions:
            raise refuse("it names another gateway, payer or session key")
        if frame.expires_ms < runtime.clock.utc_ms() - runtime.params.clock_skew_ms_max:
            raise refuse("it has expired")
        digest = signing.authorise_digest(
            ledger.chain_id, ledger.contract, frame.channel, frame.gateway, frame.provider, frame.expires_ms
        )
        if not await runtime.verifier.verify_session(frame.session, digest, frame.signature):
            raise BadSignature(
                "Authorise refused: the session key's signature does not verify",
                peer_id=peer,
                wire_code=WireCode.NOT_AUTHORISED,
            )
        channel = load_channel(runtime, self.channels, frame.channel, payout=self._payout)
        channel.state = state
        # An older one is known, and may be by a key that counts no more; the same again under a new key pays, ours does not.
        if frame.last is not None and frame.last.seq >= channel.log.acknowledged.seq and frame.last != channel.log.last:
            await self._on_acknowledgement(peer, channel, frame.last)
        return channel

    def can_carry(self, channel: ProviderChannel, amount_max: int) -> bool:
        """The channel has the money, and strangers together never cost more than one cap: identities are free (Sybils)."""
        if amount_max > channel.left:
            self._look_for_top_up(channel)
        if channel.refusal(amount_max) is not None:
            return False
        if channel.proven:
            return True
        at_risk = sum(other.exposure for other in self.channels.values() if not other.proven)
        return at_risk + amount_max <= self._runtime.params.unproven_credit_max

    def _look_for_top_up(self, channel: ProviderChannel) -> None:
        """A payer tops up between two rounds of the settler. Seldom: whoever asks for too much must not make us read for ever."""
        now = self._runtime.clock.now()
        if now - channel.looked_s >= LOOK_AGAIN_S:
            channel.looked_s = now
            with suppress(Unavailable):
                channel.state = self._runtime.ledger.channel(channel.state.channel) or channel.state

    async def issue(self, channel: ProviderChannel, request: Open, meter: Meter) -> SignedReceipt:
        """The next receipt, durable. Call with the channel's `issuing` held, and send it before that is let go.

        Cancelled while it signs, nothing has changed; later, the store commits all the same.
        """
        runtime = self._runtime
        body = meter.next_receipt(
            channel.log.terms, channel.log.head, request_id=request.request_id, model=request.model,
            issued_ms=runtime.clock.utc_ms(),
        )  # fmt: skip
        signed = await sign_receipt(runtime.signer, body)
        batch = channel.on_issued(signed)
        meter.on_billed(body)
        await runtime.store.commit(batch)
        runtime.trace.emit(
            trace.ReceiptIssued(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, request_id=body.request_id,
                channel=body.channel, seq=body.seq, amount=body.amount, cum=body.cum,
            )
        )  # fmt: skip
        return signed

    async def serve_acks(self, stream: Stream) -> None:
        """Handler of the acknowledgements' protocol."""
        while (frame := await stream.receive()) is not None:
            assert isinstance(frame, AckFrame)
            channel = load_channel(self._runtime, self.channels, frame.acknowledgement.channel, payout=self._payout)
            await self._on_acknowledgement(stream.peer_id, channel, frame.acknowledgement)
        stream.finish()

    async def _on_acknowledgement(
        self, peer: PeerId, channel: ProviderChannel, acknowledgement: Acknowledgement
    ) -> None:
        """Verify, count, make durable. A bad one is evidence and ends the stream it came on."""
        runtime, ledger = self._runtime, self._runtime.ledger
        try:
            sessions = sessions_about(channel.state, runtime.clock.utc_ms(), runtime.params.clock_skew_ms_max)
            signer = await find_signer(
                runtime.verifier, acknowledgement, sessions, chain_id=ledger.chain_id, contract=ledger.contract
            )
            if signer is None:
                raise BadSignature("acknowledgement_signature: not by the session key that counts now")
            batch = channel.on_acknowledged(acknowledgement)
        except PeerError as error:
            runtime.trace.emit(
                trace.EvidenceRecorded(
                    at_s=runtime.clock.now(), node=runtime.signer.peer_id, peer=peer, kind=type(error).__name__,
                    detail=str(error),
                )
            )  # fmt: skip
            raise
        if batch:
            await runtime.store.commit(batch)
