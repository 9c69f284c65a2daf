"""Questions about the network, each answered by a sweep of scenarios and a figure."""
