"""libp2p over real sockets."""
