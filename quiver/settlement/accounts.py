"""Free credits, and every credit's way into the contract and out of it."""

from __future__ import annotations

from collections.abc import Iterator

from quiver.errors import SettlementError
from quiver.ids import ADDRESS_BYTES, Address

# All credits ever deposited fit a signed 64-bit number, so no sum of balances can overflow anywhere.
SUPPLY_MAX = (1 << 63) - 1
NOBODY = Address(bytes(ADDRESS_BYTES))


class Accounts:
    """deposited = free + withdrawn + burnt + what channels, bonds and challenges hold."""

    def __init__(self) -> None:
        self.deposited = 0
        self.withdrawn = 0
        self.burnt = 0
        self._free: dict[Address, int] = {}

    def free(self, account: Address) -> int:
        """Free credits of an account."""
        return self._free.get(account, 0)

    def items(self) -> Iterator[tuple[Address, int]]:
        """Accounts with free credits, by address."""
        return iter(sorted((account, credits) for account, credits in self._free.items() if credits))

    def restore(self, balances: tuple[tuple[Address, int], ...]) -> None:
        """Free credits as `items` told them."""
        self._free = dict(balances)

    def deposit(self, account: Address, amount: int) -> None:
        """Credits appear."""
        check_address(account)
        check_amount(amount)
        if self.deposited + amount > SUPPLY_MAX:
            raise SettlementError("supply_exceeded", f"at most {SUPPLY_MAX} credits can ever be deposited")
        self.deposited += amount
        self.credit(account, amount)

    def withdraw(self, account: Address, amount: int) -> None:
        """Credits leave."""
        self.check_funds(account, amount)
        self.debit(account, amount)
        self.withdrawn += amount

    def check_funds(self, account: Address, amount: int) -> None:
        """`SettlementError` unless the amount can exist and is free."""
        check_amount(amount)
        self.check_free(account, amount)

    def check_free(self, account: Address, amount: int) -> None:
        """`SettlementError` unless that much is free; nothing always is."""
        if (free := self.free(account)) < amount:
            raise SettlementError("insufficient_balance", f"{amount} credits wanted, {free} are free; deposit first")

    def credit(self, account: Address, amount: int) -> None:
        """Free credits grow."""
        self._free[account] = self.free(account) + amount

    def debit(self, account: Address, amount: int) -> None:
        """Free credits shrink; the caller has checked that they are there."""
        self._free[account] = self.free(account) - amount

    def validate(self, held: int) -> None:
        """Conservation to the unit; `held` is what everything else holds."""
        assert all(free >= 0 for free in self._free.values()), "an account is below zero"
        free, gone = sum(self._free.values()), self.withdrawn + self.burnt
        assert self.deposited == free + held + gone, (
            f"{self.deposited} deposited, but {free} free + {held} held + {gone} gone"
        )


def check_address(address: Address) -> None:
    """`SettlementError` unless it is 20 bytes and somebody's."""
    if len(address) != ADDRESS_BYTES or address == NOBODY:
        raise SettlementError("malformed_address", f"an account has {ADDRESS_BYTES} bytes, not all zero")


def check_amount(amount: int) -> None:
    """`SettlementError` unless it is a positive number of credits that can exist."""
    if not 0 < amount <= SUPPLY_MAX:
        raise SettlementError("amount_out_of_range", f"an amount is 1 to {SUPPLY_MAX} credits, not {amount}")
