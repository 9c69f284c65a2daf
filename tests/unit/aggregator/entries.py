"""Entries of an epoch without anybody having signed them."""

from __future__ import annotations

import hashlib

from quiver.aggregator.window import Entry
from quiver.ids import Address, ChannelId
from quiver.values.ledger import Leaf
from quiver.values.receipt import Acknowledgement


def make_entry(number, *, epoch=7, providers=5):
    channel = ChannelId(hashlib.sha256(b"channel %d" % number).digest())
    head = hashlib.sha256(b"head %d" % number).digest()
    leaf = Leaf(epoch=epoch, channel=channel, cum=10 * number, seq=number + 1, head=head)
    ack = Acknowledgement(channel=channel, seq=leaf.seq, cum=leaf.cum, head=head, signature=number.to_bytes(65, "big"))
    return Entry(leaf=leaf, provider=Address(bytes([number % providers]) * 20), acknowledgement=ack)


def make_entries(count, **how):
    return [make_entry(number, **how) for number in range(count)]
