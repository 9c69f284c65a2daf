"""Keys, peer ids and the bytes that are signed."""
