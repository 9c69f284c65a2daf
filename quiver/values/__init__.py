"""Frozen values that move between rooms. One concept a file."""
