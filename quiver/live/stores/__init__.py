"""Durable stores: implementations of the `Store` port."""
