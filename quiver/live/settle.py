"""`python -m quiver.live settle`: an operator's view of channels, and what it may do about them by hand.

Rules of this file: it reads the store and sends transactions; what is worth doing is decided where the node decides it
(`settlement/claims`, `provider/watch`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from quiver.concerns import Concern, read_concerns
from quiver.errors import UsageError
from quiver.identity.keys import verify_session
from quiver.identity.signing import ack_digest, ack_domain
from quiver.ids import Address, ChannelId
from quiver.live.client.bundle import make_bundle
from quiver.live.config import GatewayConfig, ProviderConfig
from quiver.live.settle_desk import Desk
from quiver.provider.leaves import Leaves
from quiver.provider.watch import Asked, Docket, Step, judge_leaf, judge_promise
from quiver.receipts.log import PayerLog, ProviderLog, issued_receipts, payer_channels, provider_channels
from quiver.settlement.accounts import NOBODY
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.channel import compute_due, sessions_of
from quiver.settlement.claims import Claimable, ClaimPolicy, make_transactions, plan_claims
from quiver.settlement.merkle import hash_leaf
from quiver.values.ledger import (
    AnswerLeaf,
    ChallengeOmission,
    ChannelState,
    Fault,
    Finalize,
    FinishExit,
    RequestExit,
    Transaction,
)
from quiver.values.receipt import Acknowledgement

# Whoever asks by hand wants all of it, however little.
ALL_DUE = ClaimPolicy(amount_min=1, age_s_max=0.0, worth_factor=0)


class ChannelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of `settle status`."""

    channel: str
    other: str
    "The payer's account, or the provider's."
    locked: int
    paid: int
    served: int
    acknowledged: int
    due: int
    "Credits a claim would move now."
    proven_epoch: int | None
    exit_at_ms: int | None
    key_until_ms: int | None
    "When the session key changes, or changed."
    closed: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All of `settle status`."""

    channels: list[ChannelStatus]
    warnings: list[Concern]
    "What the node can't help alone, as it last kept it; oldest first."
    more_warnings: int
    "Further ones, which only its log has."


def status(desk: Desk) -> Status:
    """Every channel of a provider or a gateway that its store knows and the ledger shows, and what to look after."""
    channels, held = channels_of(desk), read_concerns(desk.store)
    return Status(channels=channels, warnings=held.concerns, more_warnings=held.more)


def channels_of(desk: Desk) -> list[ChannelStatus]:
    """Every channel of a provider or a gateway that its store knows and the ledger shows."""
    lines, leaves = [], Leaves.load(desk.store)
    for log in _logs(desk):
        state = desk.ledger.channel(log.terms.channel)
        if state is None:
            continue
        kept, signed = leaves.newest(state.channel), log.last.cum if log.last else 0
        pays = state.payer == desk.keypair.account
        lines.append(ChannelStatus(
            channel=state.channel.hex(), other="0x" + (state.provider if pays else state.payer).hex(),
            locked=state.locked, paid=state.paid, served=log.head.cum, acknowledged=signed,
            due=0 if state.closed else compute_due(state, signed),
            proven_epoch=None if kept is None else kept.leaf.epoch, exit_at_ms=state.exit_at_ms,
            key_until_ms=state.rotates_at_ms, closed=state.closed,
        ))  # fmt: skip
    return lines


def _logs(desk: Desk) -> list[ProviderLog | PayerLog]:
    if isinstance(desk.config, GatewayConfig):
        return [PayerLog.load(desk.store, terms) for _, terms in payer_channels(desk.store)]
    if isinstance(desk.config, ProviderConfig):
        return [ProviderLog.load(desk.store, terms) for terms in provider_channels(desk.store)]
    raise UsageError("only a provider and a gateway have channels: give the config of one")


async def claim(desk: Desk) -> list[dict[str, Any]]:
    """Everything a provider has due, with proofs where they are at hand, directly otherwise."""
    if not isinstance(desk.config, ProviderConfig):
        raise UsageError("only a provider claims: give its config")
    leaves, candidates, proofs = Leaves.load(desk.store), [], {}
    for log in _logs(desk):
        state = desk.ledger.channel(log.terms.channel)
        if state is None or log.last is None:
            continue
        kept = leaves.newest(state.channel)
        if kept is not None:
            proofs[state.channel] = (kept.leaf, kept.proof)
        committed = None if kept is None else kept.acknowledgement
        candidates.append(Claimable(
            state=state, acknowledgement=log.last, committed=committed, since_ms=0,
            signed_by=_signer(desk, state, log.last), committed_by=_signer(desk, state, committed),
        ))  # fmt: skip
    planned = plan_claims(candidates, policy=ALL_DUE, now_ms=desk.clock.utc_ms())
    sent = []
    for transaction, group in make_transactions(planned, proofs, desk.keypair.account):
        await desk.ledger.submit(transaction)
        sent.append(
            {"sent": type(transaction).__name__, "credits": sum(one.due for one in group), "channels": len(group)}
        )
    return sent


def _signer(desk: Desk, state: ChannelState, ack: Acknowledgement | None) -> Address | None:
    if ack is None:
        return None
    digest = ack_digest(ack_domain(desk.ledger.chain_id, desk.ledger.contract), ack.channel, ack.cum, ack.seq, ack.head)
    return next((key for key in sessions_of(state) if verify_session(key, digest, ack.signature)), NOBODY)


async def leave(desk: Desk, channel: ChannelId) -> str:
    """A payer's way out of a channel: the request, or once its delay is over the end."""
    state = desk.ledger.channel(channel)
    if state is None or state.payer != desk.keypair.account:
        raise UsageError(f"channel {channel.hex()} is not paid for by this node: `settle status` lists those that are")
    if state.exit_at_ms is None:
        await desk.ledger.submit(RequestExit(sender=desk.keypair.account, channel=channel))
        return f"exit requested; finish it in {desk.network.params.exit_delay_s:g} s with the same command"
    if (left_ms := state.exit_at_ms - desk.clock.utc_ms()) > 0:
        return f"the exit may finish in {left_ms / 1000:.0f} s"
    await desk.ledger.submit(FinishExit(sender=desk.keypair.account, channel=channel))
    return "closed; what was not claimed is free again"


async def dispute(desk: Desk, *, act: bool) -> list[dict[str, Any]]:
    """Promises held and own leaves on trial, and what is to be done about each; with `act` it is done.

    A running node does the same by itself; by hand no aggregator is asked, so only what is overdue is accused.
    """
    docket, leaves, lines = Docket.load(desk.store), Leaves.load(desk.store), []
    account, now_ms, ledger = desk.keypair.account, desk.clock.utc_ms(), desk.ledger
    for promise in docket.promises:
        subject, root = subject_of_omission(promise.channel, promise.seq), ledger.epoch(promise.epoch)
        step = judge_promise(
            promise, root=root, kept=leaves.find(promise.channel, promise.epoch), asked=Asked.SILENT,
            bond=None if root is None else ledger.bond(root.poster),
            challenge=ledger.challenge(Fault.OMISSION, promise.epoch, subject), terms=desk.terms, account=account,
            free_credits=ledger.balance(account), now_ms=now_ms,
        )  # fmt: skip
        transaction: Transaction | None = None
        if step is Step.CHALLENGE:
            transaction = ChallengeOmission(sender=account, promise=promise)
        elif step is Step.FINALIZE:
            transaction = Finalize(sender=account, fault=Fault.OMISSION, epoch=promise.epoch, subject=subject)
        lines.append(await _tell(desk, "promise", promise.channel, promise.epoch, step, transaction, act))
    # The ledger has not shown yet who signed these.
    lines += [_line("promise", one.channel, one.epoch, "wait_for_bond", None) for one in docket.unchecked]
    for leaf in docket.challenged:
        kept = leaves.find(leaf.channel, leaf.epoch)
        step = judge_leaf(
            leaf, kept=kept, challenge=ledger.challenge(Fault.LEAF, leaf.epoch, hash_leaf(leaf)), now_ms=now_ms
        )
        transaction = None
        if step is Step.ANSWER and kept is not None:
            transaction = AnswerLeaf(sender=account, leaf=leaf, signature=kept.acknowledgement.signature)
        lines.append(await _tell(desk, "leaf", leaf.channel, leaf.epoch, step, transaction, act))
    return lines


async def _tell(
    desk: Desk, what: str, channel: ChannelId, epoch: int, step: Step, transaction: Transaction | None, act: bool
) -> dict[str, Any]:
    if act and transaction is not None:
        await desk.ledger.submit(transaction)
    done = type(transaction).__name__ if act and transaction is not None else None
    return _line(what, channel, epoch, step.name.lower(), done)


def _line(what: str, channel: ChannelId, epoch: int, step: str, sent: str | None) -> dict[str, Any]:
    """Of `settle dispute`."""
    return {"what": what, "channel": channel.hex(), "epoch": epoch, "step": step, "sent": sent}


def prove(desk: Desk, request_id: bytes, *, max_tokens: int | None) -> dict[str, Any]:
    """The bundle of a request this provider was paid for, against the newest proven leaf of its channel."""
    if not isinstance(desk.config, ProviderConfig):
        raise UsageError("the provider of a request proves it: give its config")
    leaves = Leaves.load(desk.store)
    for terms in provider_channels(desk.store):
        receipts = issued_receipts(desk.store, terms.channel)
        if not any(receipt.body.request_id == request_id for receipt in receipts):
            continue
        kept = leaves.newest(terms.channel)
        root = None if kept is None else desk.ledger.epoch(kept.leaf.epoch)
        if kept is None or root is None:
            raise UsageError("no leaf of this request's channel is proven yet: wait for the end of the epoch")
        return make_bundle(receipts, request_id, kept, root.commitment, max_tokens=max_tokens)
    raise UsageError(f"no receipt of request {request_id.hex()} is kept here")


def parse_bytes(text: str, size: int, *, what: str) -> bytes:
    """Hex of a command line."""
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != size:
        raise UsageError(f"{what} {text}: write {2 * size} hex digits")
    return data


def parse_channel(text: str) -> ChannelId:
    """A channel id of a command line."""
    return ChannelId(parse_bytes(text, 32, what="channel"))
