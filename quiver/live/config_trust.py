"""`[trust]` of a gateway: how it finds out whom not to buy from."""

from __future__ import annotations

from quiver.errors import MalformedMessage, UsageError
from quiver.identity.peer_id import parse_peer_id, public_key_of
from quiver.live.config_file import Section
from quiver.receipts.fraud.registry import DETECTORS


class TrustSection(Section, frozen=True, kw_only=True):
    """What a gateway's detectors find counts 0.6 each, its witnesses together at most 0.5; from 1 on a provider is passed over."""

    detectors: tuple[str, ...] = ()
    "Fraud detectors that look at what this gateway pays for: names, module:Class or file.py:Class, or `all` for the built-in ones."
    witnesses: tuple[str, ...] = ()
    "Peer ids of aggregators and gateways whose evidence is believed, within its cap."
    evidence: str = ""
    "A file of their signed JSON lines, as `evidence --json` prints them; read again whenever it changes."

    def detector_plugs(self) -> tuple[str, ...]:
        """`detectors` by name, `all` spelled out."""
        return tuple(DETECTORS) if self.detectors == ("all",) else self.detectors

    def witness_keys(self, *, where: str) -> tuple[bytes, ...]:
        """Ed25519 keys; `UsageError` for a peer id that has none, and for settings that could never decide anything."""
        if bool(self.witnesses) != bool(self.evidence):
            raise UsageError(f"{where}: [trust] witnesses and evidence belong together: give both or neither")
        if self.evidence and not self.detectors:
            raise UsageError(
                f"{where}: [trust] evidence without detectors: others' word alone keeps no provider from work, "
                'so add detectors = ["all"]'
            )
        try:
            return tuple(public_key_of(parse_peer_id(text)) for text in self.witnesses)
        except MalformedMessage as error:
            raise UsageError(f"{where}: [trust] witnesses: {error}") from error
