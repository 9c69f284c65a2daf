"""Values to bytes and back, without I/O."""
