"""Stories of two nodes that know each other, in virtual time."""

from __future__ import annotations

import msgspec

from quiver.quic.admission import Admission
from tests.conformance.test_transport_packets import PacketNet
from tests.conformance.transport_suite import ECHO


def links(node):
    return node.swarm.links


def tell(story):
    """Run `story(net, a, b)` with two nodes that know each other and answer ECHO."""
    net = PacketNet()

    async def main(net):
        a, b = await net.node(), await net.node()
        net.meet(a, b)
        for node in (a, b):
            node.answer(ECHO, lambda peer, note: note)
        return await story(net, a, b)

    return net.run(main)


def limit(node, **changes):
    """Give a node other limits, before anything has happened."""
    node.quota.limits = msgspec.structs.replace(node.quota.limits, **changes)
    node.swarm.admission = Admission(node.quota)
