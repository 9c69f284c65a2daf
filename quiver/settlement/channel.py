"""What a channel's state means, and the five ways it may change. Pure: each change returns a new state.

`locked - paid` is what the channel still holds; a closed channel holds nothing, so its `locked` equals its `paid`.
"""

from __future__ import annotations

import msgspec

from quiver.ids import Address
from quiver.values.ledger import ChannelState


def compute_due(state: ChannelState, cum: int) -> int:
    """Credits a claim over `cum` would move now: min(cum, locked) - paid, never negative."""
    return max(0, min(cum, state.locked) - state.paid)


def compute_held(state: ChannelState) -> int:
    """Credits the channel still holds."""
    return state.locked - state.paid


def is_spendable(state: ChannelState) -> bool:
    """Whether a provider may serve on it: open, and no exit pending."""
    return not state.closed and state.exit_at_ms is None


def session_at(state: ChannelState, now_ms: int) -> Address:
    """Whose signature counts as an acknowledgement now."""
    if state.next_session is None or state.rotates_at_ms is None or now_ms < state.rotates_at_ms:
        return state.session
    return state.next_session


def sessions_of(state: ChannelState) -> tuple[Address, ...]:
    """Whose signature an honest leaf may carry: a rotation takes longer than any challenge lives, so two keys suffice."""
    return (state.session,) if state.next_session is None else (state.session, state.next_session)


def sessions_about(state: ChannelState, now_ms: int, clock_skew_ms_max: int) -> tuple[Address, ...]:
    """Whose signature a peer may take to count now: around a rotation, two clocks differ about which."""
    about = (session_at(state, now_ms - clock_skew_ms_max), session_at(state, now_ms + clock_skew_ms_max))
    return about if about[0] != about[1] else about[:1]


def start_rotation(state: ChannelState, session: Address, *, now_ms: int, rotates_at_ms: int) -> ChannelState:
    """`session` counts from `rotates_at_ms` on; the key that counts until then is kept beside it."""
    return msgspec.structs.replace(
        state, session=session_at(state, now_ms), next_session=session, rotates_at_ms=rotates_at_ms
    )


def top_up(state: ChannelState, amount: int) -> ChannelState:
    """`amount` more is locked."""
    return msgspec.structs.replace(state, locked=state.locked + amount)


def pay(state: ChannelState, amount: int) -> ChannelState:
    """`amount` more went to the provider."""
    return msgspec.structs.replace(state, paid=state.paid + amount)


def start_exit(state: ChannelState, exit_at_ms: int) -> ChannelState:
    """The payer may finish from `exit_at_ms`; until then claims still pay."""
    return msgspec.structs.replace(state, exit_at_ms=exit_at_ms)


def close(state: ChannelState) -> ChannelState:
    """Nothing is held any more."""
    return msgspec.structs.replace(state, locked=state.paid, closed=True)
