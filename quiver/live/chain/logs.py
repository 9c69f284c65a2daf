"""What the contract's logs touch: which views to read again, and what happened in each transaction.

Rules of this file: no I/O and no arithmetic of money. Logs say what to look at; the contract's views say what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from eth_abi.abi import decode

from quiver.ids import Address, ChannelId
from quiver.live.chain.answers import FAULTS, Log, address_of
from quiver.live.chain.artefact import keccak256, load_artefact
from quiver.live.chain.rpc_client import quantity
from quiver.values.ledger import Fault


class ChainLog(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the contract, and where it is."""

    block: int
    transaction: bytes
    log: Log


class Touched(msgspec.Struct, kw_only=True):
    """Keys of views. Dictionaries without values, so that their order is the chain's."""

    channels: dict[ChannelId, None] = {}
    accounts: dict[Address, None] = {}
    epochs: dict[int, int] = {}
    "And how many leaves each has."
    challenges: dict[tuple[Fault, int, bytes], None] = {}

    def merge(self, other: Touched) -> None:
        """Both."""
        self.channels |= other.channels
        self.accounts |= other.accounts
        self.epochs |= other.epochs
        self.challenges |= other.challenges


class _Shape(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    indexed: list[tuple[str, str]]
    plain: list[tuple[str, str]]


@cache
def _shapes() -> dict[bytes, _Shape]:
    shapes = {}
    for entry in load_artefact().abi:
        if entry["type"] != "event":
            continue
        inputs: Any = entry["inputs"]
        signature = f"{entry['name']}({','.join(one['type'] for one in inputs)})"
        shapes[keccak256(signature.encode())] = _Shape(
            name=str(entry["name"]),
            indexed=[(one["name"], one["type"]) for one in inputs if one["indexed"]],
            plain=[(one["name"], one["type"]) for one in inputs if not one["indexed"]],
        )
    return shapes


def read_log(data: dict[str, Any]) -> ChainLog:
    """Of `eth_getLogs`."""
    return ChainLog(
        block=quantity(data["blockNumber"]),
        transaction=bytes.fromhex(data["transactionHash"][2:]),
        log=Log(
            topics=tuple(bytes.fromhex(topic[2:]) for topic in data["topics"]), data=bytes.fromhex(data["data"][2:])
        ),
    )


def _fields(log: Log) -> tuple[str, dict[str, Any]] | None:
    shape = _shapes().get(log.topics[0]) if log.topics else None
    if shape is None:
        return None
    values = {name: decode([kind], topic)[0] for (name, kind), topic in zip(shape.indexed, log.topics[1:], strict=True)}
    values |= zip([name for name, _ in shape.plain], decode([kind for _, kind in shape.plain], log.data), strict=True)
    return shape.name, values


def find_touched(logs: Sequence[ChainLog]) -> Touched:
    """All keys that these events name. Whose balance else has moved follows from the views read for them."""
    touched = Touched()
    for one in logs:
        told = _fields(one.log)
        if told is None:
            continue
        name, values = told
        for value in values.values():
            if isinstance(value, str):
                touched.accounts[address_of(value)] = None
        if "channel" in values:
            touched.channels[ChannelId(values["channel"])] = None
        if name == "EpochSubmitted":
            touched.epochs[values["epoch"]] = values["count"]
        if "fault" in values:
            touched.challenges[FAULTS[values["fault"]], values["epoch"], values["subject"]] = None
    return touched


def opened_channel(logs: Sequence[Log]) -> ChannelId | None:
    """The channel that a transaction opened."""
    for log in logs:
        told = _fields(log)
        if told is not None and told[0] == "Opened":
            return ChannelId(told[1]["channel"])
    return None
