"""QUIC as libp2p speaks it, over aioquic, without sockets and without a clock."""
