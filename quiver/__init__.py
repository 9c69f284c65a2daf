"""QUIVer: one network for AI inference that anyone can join. The protocol; see docs/protocol.md."""

__version__ = "0.1.0"
