"""Money: the Merkle tree, channels, the contract as a pure model, and what is worth claiming."""
