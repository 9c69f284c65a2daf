"""The role that commits the receipts of an epoch to one Merkle root."""
