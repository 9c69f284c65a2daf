"""What accepted receipts say about each provider, rolled up and bounded: the one thing fraud detectors look at.

Rules of this file: no I/O, no clock, no verdicts; what comes in was verified. An aggregator knows receipts and offers; a payer
knows in addition what it was sent for them (`on_delivery`). Times are utc milliseconds, as receipts are stamped.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

import msgspec

from quiver.identity.peer_id import compute_peer_id
from quiver.ids import Address, ChannelId, ModelId, PeerId, RequestId
from quiver.receipts.payments import Payments
from quiver.values.offer import Offer
from quiver.values.receipt import SignedReceipt

# About 700 bytes a request: 4,096 providers with 256 requests each are 0.7 GB at the very most.
PROVIDERS_MAX = 4096
REQUESTS_PER_PROVIDER_MAX = 256
# Answers remembered over all providers, to know one that is sold again.
ANSWERS_MAX = 1 << 17
FORKS_PER_PROVIDER_MAX = 16
# Receipts of yesterday do not condemn today's provider.
HISTORY_MS_MAX = 24 * 3_600_000


class BilledRequest(msgspec.Struct, kw_only=True):
    """One request as its receipts tell it, and what its payer received where that is known."""

    request_id: RequestId
    channel: ChannelId
    payer: Address
    model: ModelId
    first_ms: int
    "Issue time of its first receipt."
    last_ms: int
    receipts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_tokens: int = 0
    "Completion tokens of its first receipt: the others were made between the two times."
    amount: int = 0
    response_hash: bytes = b""
    is_resold: bool = False
    "Its newest receipt is over an answer that was billed for another request before."
    size_bytes: int | None = None
    "Answer bytes its payer received; None where nobody said."
    chunk_tokens: int = 0
    "Sum of the tokens that the chunks themselves named."


class OfferedTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider offered for a model: over several offers the dearest prices and the fastest machine, in its favour."""

    prompt_price: int
    completion_price: int
    minimum_credits: int
    slots: int
    decode_tps: float


class History:
    """One provider: what detectors are shown. `book` has everybody else."""

    __slots__ = ("peer", "book", "requests", "offers", "forks")

    def __init__(self, peer: PeerId, book: Book) -> None:
        self.peer = peer
        self.book = book
        self.requests: OrderedDict[RequestId, BilledRequest] = OrderedDict()
        "The newest `REQUESTS_PER_PROVIDER_MAX`, oldest first."
        self.offers: dict[ModelId, OfferedTerms] = {}
        self.forks: deque[str] = deque(maxlen=FORKS_PER_PROVIDER_MAX)
        "Histories it signed that contradict one we hold, in words."

    @property
    def since_ms(self) -> int:
        """Issue time of the oldest receipt that counts; 0 without any."""
        return min((request.first_ms for request in self.requests.values()), default=0)

    @property
    def slots(self) -> int | None:
        """Streams it says it serves at once; None without an offer."""
        return max((terms.slots for terms in self.offers.values()), default=None)

    def drop_before(self, oldest_ms: int) -> None:
        """Forget requests whose last receipt is older."""
        while self.requests and next(iter(self.requests.values())).last_ms < oldest_ms:
            self.requests.popitem(last=False)


class Book:
    """All providers. Give it what was accepted; ask `history` about one."""

    def __init__(self) -> None:
        self._histories: OrderedDict[PeerId, History] = OrderedDict()
        self._answers: OrderedDict[bytes, RequestId] = OrderedDict()
        self.payments = Payments()
        "Who paid whom, over all receipts that came here."

    def history(self, peer: PeerId) -> History:
        """Of one provider; empty for one never seen."""
        return self._histories.get(peer) or History(peer, self)

    def peers(self) -> list[PeerId]:
        """Providers with a history, in the order of their ids."""
        return sorted(self._histories)

    def histories(self) -> Iterable[History]:
        """All of them."""
        return self._histories.values()

    def on_receipts(self, receipts: Sequence[SignedReceipt], *, now_ms: int) -> PeerId | None:
        """Accepted receipts of one provider; returns whose."""
        if not receipts:
            return None
        peer = compute_peer_id(receipts[0].body.provider_key)
        history = self._open(peer)
        for receipt in receipts:
            body = receipt.body
            request = history.requests.get(body.request_id)
            if request is None:
                request = history.requests[body.request_id] = BilledRequest(
                    request_id=body.request_id, channel=body.channel, payer=body.payer, model=body.model,
                    first_ms=body.issued_ms, last_ms=body.issued_ms, first_tokens=body.completion_tokens,
                )  # fmt: skip
            request.last_ms = max(request.last_ms, body.issued_ms)
            request.receipts += 1
            request.prompt_tokens += body.prompt_tokens
            request.completion_tokens += body.completion_tokens
            request.amount += body.amount
            request.response_hash = body.response_hash
            request.is_resold = self._first_sale(body.response_hash, body.request_id) != body.request_id
            history.requests.move_to_end(body.request_id)
            self.payments.add(body.payer, peer, body.amount)
        history.drop_before(now_ms - HISTORY_MS_MAX)
        while len(history.requests) > REQUESTS_PER_PROVIDER_MAX:
            history.requests.popitem(last=False)
        return peer

    def on_delivery(self, peer: PeerId, request_id: RequestId, *, size_bytes: int, chunk_tokens: int) -> None:
        """What a payer received for a request until its newest receipt."""
        request = self._open(peer).requests.get(request_id)
        if request is not None:
            request.size_bytes, request.chunk_tokens = size_bytes, chunk_tokens

    def on_offer(self, offer: Offer) -> None:
        """A verified offer."""
        history = self._open(offer.provider)
        before = history.offers.get(offer.model)
        history.offers[offer.model] = OfferedTerms(
            prompt_price=max(offer.prompt_price, before.prompt_price if before else 0),
            completion_price=max(offer.completion_price, before.completion_price if before else 0),
            minimum_credits=max(offer.minimum_credits, before.minimum_credits if before else 0),
            slots=max(offer.slots, before.slots if before else 0),
            decode_tps=max(offer.decode_tps, before.decode_tps if before else 0.0),
        )  # fmt: skip

    def on_fork(self, peer: PeerId, reason: str) -> None:
        """The provider signed two histories of one channel; both signatures were verified."""
        self._open(peer).forks.append(reason)

    def _first_sale(self, response_hash: bytes, request_id: RequestId) -> RequestId:
        """The request that this answer was billed for first, among those remembered."""
        first = self._answers.setdefault(response_hash, request_id)
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)
        return first

    def _open(self, peer: PeerId) -> History:
        history = self._histories.get(peer)
        if history is None:
            history = self._histories[peer] = History(peer, self)
            if len(self._histories) > PROVIDERS_MAX:
                self.payments.forget(self._histories.popitem(last=False)[0])
        self._histories.move_to_end(peer)
        return history
