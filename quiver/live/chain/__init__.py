"""Settlement ledgers: implementations of the `Ledger` port."""
