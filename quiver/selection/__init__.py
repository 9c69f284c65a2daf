"""Choosing a provider: the candidate table of a gateway, and the policies that rank it."""
