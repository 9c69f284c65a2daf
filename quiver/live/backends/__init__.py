"""Engines behind the `InferenceBackend` port."""
