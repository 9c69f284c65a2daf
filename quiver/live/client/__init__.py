"""What a client may run itself: it trusts no gateway."""
