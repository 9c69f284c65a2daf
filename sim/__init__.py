"""The world around the protocol: SimPy lives here."""
