"""What an account can pay for at the moment of a fill: cash, or equity against a margin; exact, in whole numbers."""

from __future__ import annotations

from simulation.books import Account, action_pays
from simulation.lanes import InstrumentLane
from simulation.settings import Settings


class Purse:
    """The money of all instruments together, as it stands."""

    def __init__(self, settings: Settings, account: Account) -> None:
        self._account = account
        self.cash = int((settings.cash or 0) / account.unit)
        """In units of the account's money."""
        margin = settings.margin
        self.margin = None if margin is None else margin.as_integer_ratio()
        self.value = 0
        """Of what is held, shorts negative, at the last price of each instrument."""
        self.exposure = 0
        """The same, shorts counted as positive."""

    def of(self, lane: InstrumentLane) -> LanePurse:
        return LanePurse(self, lane, self._account)

    @property
    def equity(self) -> int:
        return self.cash + self.value


class LanePurse:
    """The purse as one instrument's fills use it (`kernel.Money`)."""

    def __init__(self, purse: Purse, lane: InstrumentLane, account: Account) -> None:
        self._purse, self._lane, self._account = purse, lane, account
        self._filled: dict[int, tuple[int, int, int]] = {}
        """By order: lots, amount in ticks, cents charged."""
        self.net = 0
        self.price = 0

    def marked(self, price: int) -> None:
        """What is held is worth that now."""
        per_tick = self._account.per_tick
        self._purse.value += self.net * (price - self.price) * per_tick
        self._purse.exposure += abs(self.net) * (price - self.price) * per_tick
        self.price = price

    def acted(self, bar: int) -> None:
        """After a corporate action: the lane's positions have changed, and it has paid."""
        self._purse.cash += sum(action_pays(self._lane, bar, sum(self._lane.held_before), self._account))
        price, net = self.price, sum(self._lane.held)
        self.marked(0)
        self.net = net
        self.marked(price)

    def covers(self, order: int, bar: int, side: int, quantity: int, price: int) -> int:
        """So many lots of `quantity` may be filled at `price`, fees inside."""
        purse = self._purse
        closing = min(quantity, abs(self.net)) if side * self.net < 0 else 0
        if purse.margin is None and side < 0:
            # A cash account sells what it has.
            return closing
        most, least = quantity, closing if purse.margin is not None else 0
        if self._is_covered(order, side, most, price):
            return most
        while least < most:
            middle = (least + most + 1) // 2
            if self._is_covered(order, side, middle, price):
                least = middle
            else:
                most = middle - 1
        return least

    def _is_covered(self, order: int, side: int, quantity: int, price: int) -> bool:
        purse, account = self._purse, self._account
        fee = self._fee(order, side, quantity, price) * account.per_cent
        amount = quantity * price * account.per_tick
        if purse.margin is None:
            return amount + fee <= purse.cash
        up, down = purse.margin
        at_price = (price - self.price) * account.per_tick
        equity = purse.equity + self.net * at_price - fee
        others = purse.exposure - abs(self.net) * self.price * account.per_tick
        after = others + abs(self.net + side * quantity) * price * account.per_tick
        return equity * down >= after * up

    def _fee(self, order: int, side: int, quantity: int, price: int) -> int:
        lots, ticks, charged = self._filled.get(order, (0, 0, 0))
        return self._account.fees.total(side, lots + quantity, ticks + quantity * price) - charged

    def booked(self, order: int, bar: int, side: int, quantity: int, price: int) -> None:
        account, purse = self._account, self._purse
        fee = self._fee(order, side, quantity, price)
        lots, ticks, charged = self._filled.get(order, (0, 0, 0))
        self._filled[order] = (lots + quantity, ticks + quantity * price, charged + fee)
        purse.cash -= side * quantity * price * account.per_tick + fee * account.per_cent
        mark = self.price or price
        self.marked(0)
        self.net += side * quantity
        self.marked(mark)
