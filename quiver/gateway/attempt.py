"""One try at one provider, from Open to End.

Rules of this file: it awaits and moves values; what was delivered is `Delivery`'s to say, whether to try elsewhere `Session`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quiver import trace
from quiver.errors import BadSignature, Busy, DeadlineExceeded, PeerError, PeerUnreachable, Unavailable, WireCode
from quiver.gateway.delivery import Delivery
from quiver.gateway.inbox import RequestInbox
from quiver.gateway.link import ProviderLink
from quiver.gateway.session import Session
from quiver.receipts.quotes import check_quote
from quiver.runtime import Runtime
from quiver.selection.candidates import InFlight
from quiver.values import frames
from quiver.values.offer import Offer
from quiver.values.request import Final, TokenChunk

Connect = Callable[[Offer], Awaitable[ProviderLink]]
"""The live link to a provider, dialled and funded if need be."""


class Attempt:
    """`next()` until `Final`; `close()` whichever way it ends. It asks what the session wants when it is made."""

    __slots__ = (
        "offer", "link", "started_s", "first_token_s", "delivery", "_runtime", "_session", "_asked", "_guard", "_connect", "_inbox",
        "_deadline_s",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, session: Session, offer: Offer, guard: InFlight, connect: Connect) -> None:
        self.offer = offer
        self.link: ProviderLink | None = None
        self.started_s = runtime.clock.now()
        self.first_token_s: float | None = None
        self.delivery: Delivery | None = None
        "Set once the quote is accepted."
        self._runtime = runtime
        self._session = session
        self._asked = session.asked
        self._deadline_s = self.started_s + (session.asked.deadline_ms - runtime.clock.utc_ms()) / 1000
        self._guard = guard
        self._connect = connect
        self._inbox: RequestInbox | None = None

    async def _begin(self) -> tuple[ProviderLink, RequestInbox]:
        """Send the request, hold the quote against the offer, reserve its maximum and accept."""
        runtime, request, offer = self._runtime, self._asked, self.offer
        link = self.link = await self._connect(offer)
        opened = frames.Open(
            request_id=request.request_id, channel=link.channel.state.channel, model=offer.model, dialect=request.dialect,
            max_tokens=request.max_tokens, prompt_tokens_estimate=request.prompt_tokens_estimate,
            deadline_ms=request.deadline_ms, qos=request.qos, seed=request.seed, sealed=request.sealed,
            prefix_hashes=request.prefix_hashes, body=request.body,
        )  # fmt: skip
        timeout_s = runtime.params.quote_timeout_s
        # Sending waits too, for a provider that does not read.
        async with runtime.clock.deadline(timeout_s):
            inbox = self._inbox = await link.open(opened)
            quote = self._check_quote(link, opened, await inbox.get(timeout_s))
            if not link.channel.reserve(quote.request_id, quote.amount_max):
                raise Busy(
                    f"the channel holds {link.channel.available} credits, {quote.amount_max} are quoted",
                    retry_after_s=1.0,
                )
            self.delivery = inbox.delivery = Delivery(quote, inbox.request_hash, runtime.params)
            self._session.deliveries.append(self.delivery)
            await link.accept(quote.request_id)
        runtime.trace.emit(
            trace.RequestQuoted(
                at_s=runtime.clock.now(), node=runtime.signer.peer_id, request_id=quote.request_id, provider=link.peer,
                amount_max=quote.amount_max,
            )
        )  # fmt: skip
        return link, inbox

    def _check_quote(self, link: ProviderLink, opened: frames.Open, frame: frames.InferenceFrame) -> frames.Quote:
        if isinstance(frame, frames.Busy):
            raise Busy("the provider has no room now", retry_after_s=frame.retry_after_s)
        if isinstance(frame, frames.Error):
            raise PeerError(frame.message, peer_id=link.peer, wire_code=_known_code(frame.code))
        if not isinstance(frame, frames.Quote):
            raise PeerError(f"{type(frame).__name__} where a quote was due", peer_id=link.peer)
        check_quote(frame, opened, self.offer, slack_tokens=self._runtime.params.completion_tokens_slack)
        return frame

    async def next(self) -> TokenChunk | Final:
        """The next piece of the answer as it arrives; `Unavailable` or `PeerError` when there will be none."""
        link, inbox = self.link, self._inbox
        if link is None or inbox is None:
            link, inbox = await self._begin()
        try:
            frame = inbox.take() or await inbox.get(self._patience_s())
        except DeadlineExceeded:
            if self.first_token_s is None or self._left_s() <= 0:
                raise
            raise Unavailable("the provider fell silent in the middle of its answer") from None
        if isinstance(frame, frames.Chunk):
            if self.first_token_s is None:
                self._on_first_token(link)
            return TokenChunk(text=frame.text, tokens=frame.tokens)
        if isinstance(frame, frames.End):
            return self._final(link, inbox, frame)
        if isinstance(frame, frames.Error):
            raise PeerError(frame.message, peer_id=link.peer, wire_code=_known_code(frame.code))
        raise PeerError(f"{type(frame).__name__} where an answer was due", peer_id=link.peer)

    def _patience_s(self) -> float:
        """How long the next frame may take, seconds."""
        left_s = self._left_s()
        # Where nobody else can go on there is nothing to gain by giving up earlier.
        is_patient = self.first_token_s is not None and self._session.transcript is None
        return left_s if is_patient else min(left_s, self._runtime.params.first_token_timeout_s)

    def _left_s(self) -> float:
        return self._deadline_s - self._runtime.clock.now()

    def _on_first_token(self, link: ProviderLink) -> None:
        runtime, session = self._runtime, self._session
        assert self.delivery is not None
        self.first_token_s = runtime.clock.now()
        if not session.on_first_token(self.delivery, self.first_token_s):
            return
        runtime.trace.emit(
            trace.FirstToken(
                at_s=self.first_token_s, node=runtime.signer.peer_id, request_id=session.request.request_id,
                provider=link.peer,
            )
        )  # fmt: skip

    def _final(self, link: ProviderLink, inbox: RequestInbox, end: frames.End) -> Final:
        """Complete only with all chunks and a valid receipt over them; an empty answer owes nothing and has none."""
        delivery, receipt, session = self.delivery, inbox.receipt, self._session
        assert delivery is not None
        if end.chunks != delivery.chunks:
            raise PeerUnreachable(f"{delivery.chunks} of {end.chunks} chunks arrived")
        if receipt is None and delivery.chunks:
            raise BadSignature("the answer ended without a receipt", peer_id=link.peer)
        last = link.channel.log.last
        covered = last is not None and receipt is not None and last.seq >= receipt.body.seq
        earlier = [part for part in session.parts if part is not delivery]
        prompt_tokens = delivery.billed_prompt if receipt else end.prompt_tokens
        return Final(
            done_reason=end.done_reason, prompt_tokens=prompt_tokens + sum(part.billed_prompt for part in earlier),
            completion_tokens=delivery.billed_completion + session.tokens_before(delivery), provider=link.peer,
            model=self.offer.model, receipt=receipt, acknowledgement=last if covered else None, queue_s=end.queue_s,
            attempts=session.attempts, paid_credits=session.paid_credits, quoted_credits=session.quoted_credits(delivery),
            resumed=len(earlier), hedged=session.hedged,
        )  # fmt: skip

    def close(self, code: WireCode) -> None:
        """No more frames are wanted, and why. What is reserved stays so until the provider has sent its last receipt."""
        self._guard.release()
        if self.link is None:
            return
        self.link.cancel(self._asked.request_id, code)
        if self._inbox is not None:
            self._inbox.close()


def _known_code(code: int) -> WireCode:
    try:
        return WireCode(code)
    except ValueError:
        return WireCode.INTERNAL
