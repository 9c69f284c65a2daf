"""Kademlia: who is near a key, and who provides it."""
