"""Receipts and acknowledgements: checks, signatures, and the durable log of a channel."""
