"""Benchmarks: every figure is a ratio of CPU time against a peer, or a limit, measured in one run on one machine."""
