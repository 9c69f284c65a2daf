"""A second bookkeeper at the wire: what each provider sent, what the gateway got, what was billed and what was signed for.

It knows frames only, and shares no code with what it checks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import contextmanager

import pytest

from quiver.values.frames import AckFrame, Authorise, Authorised, Chunk, Open, ReceiptFrame
from sim.stream import SimStream


class Wiretap:
    """Use `listening()` around a stage's play."""

    def __init__(self):
        self.sent, self.received = Counter(), Counter()
        "Tokens by (provider, request), and when the last were sent."
        self.last_sent_s = {}
        self.estimates = defaultdict(list)
        "Prompt estimates that each provider was asked with."
        self.receipts, self.provider_of = {}, {}
        "Bodies by (channel, seq); providers by channel."
        self.signed = Counter()
        "The highest seq by channel that the payer has shown its signature for."

    @contextmanager
    def listening(self):
        """Every simulated stream is overheard."""
        send, receive = SimStream.send, SimStream.receive

        async def tapped_send(stream, frame):
            await send(stream, frame)
            self._on_sent(stream._node.peer_id, stream.peer_id, frame, stream._node.network.env.now)

        async def tapped_receive(stream):
            frame = await receive(stream)
            if isinstance(frame, Chunk):
                self.received[stream.peer_id, frame.request_id] += frame.tokens
            return frame

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimStream, "send", tapped_send)
            patch.setattr(SimStream, "receive", tapped_receive)
            yield

    def _on_sent(self, sender, reader, frame, now):
        if isinstance(frame, Open):
            self.estimates[reader, frame.request_id].append(frame.prompt_tokens_estimate)
        elif isinstance(frame, Chunk):
            self.sent[sender, frame.request_id] += frame.tokens
            self.last_sent_s[sender, frame.request_id] = now
        elif isinstance(frame, (AckFrame, Authorise)):
            if (last := frame.acknowledgement if isinstance(frame, AckFrame) else frame.last) is not None:
                self.signed[last.channel] = max(self.signed[last.channel], last.seq)
        elif isinstance(frame, (ReceiptFrame, Authorised)):
            for signed in frame.unacknowledged if isinstance(frame, Authorised) else (frame.receipt,):
                self._on_receipt(sender, signed)

    def _on_receipt(self, provider, signed):
        key = signed.body.channel, signed.body.seq
        assert self.receipts.setdefault(key, signed) == signed, "a receipt is sent again verbatim, or not at all"
        assert self.provider_of.setdefault(signed.body.channel, provider) == provider

    def paid(self):
        """(prompt tokens, completion tokens, credits) that were signed for, by (provider, request)."""
        sums = defaultdict(lambda: (0, 0, 0))
        for channel, last in self.signed.items():
            cum = 0
            for seq in range(1, last + 1):
                body = self.receipts[channel, seq].body
                cum += body.amount
                assert body.cum == cum, "receipts follow each other"
                key = self.provider_of[channel], body.request_id
                prompt, completion, credits = sums[key]
                sums[key] = (prompt + body.prompt_tokens, completion + body.completion_tokens, credits + body.amount)
        return dict(sums)
