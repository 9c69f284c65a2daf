"""The constants a contract is deployed with: they never change while it lives."""

from __future__ import annotations

import msgspec

from quiver.params import Params
from quiver.units import ms_from_s

# A poster can be wrong this often before its bond is spent.
FAULTS_PER_BOND = 20
# Accusing costs a tenth of what a proven fault takes, so a false accusation costs more than its answer's gas.
STAKES_PER_SLASH = 10


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are milliseconds, money is credits."""

    epoch_ms: int
    submit_grace_ms: int
    "After an epoch's end the aggregator alone may post its root for this long."
    exit_delay_ms: int
    "Also the delay of a new session key, and of a bond's return."
    challenge_window_ms: int
    "After a root was posted, it can be challenged for this long."
    respond_ms: int
    slash: int
    "Taken from the bond for each fault, as far as it reaches: half to the accuser, half burnt, or accusing oneself would pay."

    @classmethod
    def from_params(cls, params: Params) -> Terms:
        """A window of half the exit delay and an answer within an eighth: both end before a bond can leave."""
        exit_delay_ms = ms_from_s(params.exit_delay_s)
        return cls(
            epoch_ms=params.epoch_ms, submit_grace_ms=ms_from_s(params.submit_grace_s), exit_delay_ms=exit_delay_ms,
            challenge_window_ms=exit_delay_ms // 2, respond_ms=exit_delay_ms // 8, slash=params.slash_credits,
        )  # fmt: skip

    @property
    def bond_min(self) -> int:
        """What a poster must have bonded."""
        return FAULTS_PER_BOND * self.slash

    @property
    def stake(self) -> int:
        """What a challenger puts up: it goes to whoever answers."""
        return self.slash // STAKES_PER_SLASH
