"""What stands behind this aggregator's roots: its bond, put up before the first root and filled up after a slash.

Without a bond it still takes receipts, but promises nothing and posts nothing; what it lacks is said once, by name.
"""

from __future__ import annotations

from quiver.errors import SettlementError, Unavailable
from quiver.ids import Address
from quiver.ports import Ledger, Signer
from quiver.runtime import Runtime
from quiver.settlement.terms import Terms
from quiver.trace import EvidenceRecorded
from quiver.values.ledger import Bond


def find_missing(ledger: Ledger, terms: Terms, account: Address) -> int:
    """Credits that the bond of `account` lacks to post a root."""
    state = ledger.bond(account)
    return max(0, terms.bond_min - (0 if state is None else state.amount))


def find_obstacle(ledger: Ledger, terms: Terms, account: Address, signer: Address) -> str | None:
    """Why the bond of `account`, whose session key is `signer`, can't be filled up; None when it can. The name comes first."""
    state = ledger.bond(account)
    if state is not None and state.unbond_at_ms is not None:
        return "unbonding: our bond was asked back; finish that, then it is bonded again"
    if state is not None and state.signer != signer:
        return f"signer_fixed: our bond names signer 0x{state.signer.hex()}; start with the key file it was bonded with"
    if (free := ledger.balance(account)) < (missing := find_missing(ledger, terms, account)):
        return (
            f"bond_short: the bond lacks {missing} of {terms.bond_min} credits and {free} are free: "
            f"deposit {missing - free} more to account 0x{account.hex()}; until then no root is posted"
        )
    return None


class Bonding:
    """One poster's bond, whose signer is its session key. `poster` is another's where only he posts, as for a shard."""

    def __init__(self, runtime: Runtime, poster: Signer | None = None) -> None:
        self._runtime = runtime
        self.poster = poster or runtime.signer
        self._terms = Terms.from_params(runtime.params)
        self._said = ""

    @property
    def is_binding(self) -> bool:
        """Whether a promise signed now can cost us something: a bond of ours names our session key."""
        state = self._runtime.ledger.bond(self.poster.account)
        return (
            state is not None
            and state.amount > 0
            and state.unbond_at_ms is None
            and state.signer == self.poster.session_address
        )

    @property
    def missing_credits(self) -> int:
        """What the bond lacks to post a root."""
        return find_missing(self._runtime.ledger, self._terms, self.poster.account)

    def find_obstacle(self) -> str | None:
        """Why the bond can't be filled up, with what to do; None when it can. The name comes first."""
        poster = self.poster
        return find_obstacle(self._runtime.ledger, self._terms, poster.account, poster.session_address)

    async def ensure(self) -> bool:
        """Bond what is missing. False, once said in the trace, while that is not possible."""
        if self.missing_credits == 0:
            return True
        obstacle = self.find_obstacle()
        if obstacle is None:
            signer = self.poster
            transaction = Bond(sender=signer.account, amount=self.missing_credits, signer=signer.session_address)
            try:
                await self._runtime.ledger.submit(transaction)
            except (SettlementError, Unavailable) as error:
                obstacle = f"bond_refused: {error}"
        self._say(obstacle or "")
        return obstacle is None

    def _say(self, obstacle: str) -> None:
        if obstacle and obstacle != self._said:
            node = self._runtime.signer.peer_id
            kind = obstacle.partition(":")[0]
            self._runtime.trace.emit(
                EvidenceRecorded(at_s=self._runtime.clock.now(), node=node, peer=node, kind=kind, detail=obstacle)
            )
        self._said = obstacle
