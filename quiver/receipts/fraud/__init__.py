"""Fraud detectors over accepted receipts: values with `score(history, now_ms) -> Evidence`, one family a file."""
