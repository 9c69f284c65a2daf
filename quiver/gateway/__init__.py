"""The door: admission, choice, streaming, and the purse."""
