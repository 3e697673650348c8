"""The words in which a broker is spoken to: tickets, fills, reports and the Broker protocol; no broker's dialect and no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal
from enum import StrEnum
from typing import Protocol


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for a purchase, -1 for a sale."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_LIMIT = "STOP_LIMIT"


class Tif(StrEnum):
    """Time in force: how long an order stays alive at the venue."""

    DAY = "DAY"
    GTC = "GTC"
    IOC = "IOC"


class AssetClass(StrEnum):
    STOCK = "STOCK"
    ETF = "ETF"
    OPTION = "OPTION"
    FOREX = "FOREX"
    FUTURE = "FUTURE"
    CRYPTO = "CRYPTO"
    BOND = "BOND"
    CFD = "CFD"
    FUND = "FUND"
    INDEX = "INDEX"


class OptionRight(StrEnum):
    CALL = "CALL"
    PUT = "PUT"


DERIVATIVES = frozenset({AssetClass.FUTURE, AssetClass.OPTION})
"""Kinds of which one symbol and expiry may stand for contracts of several sizes."""
ONE = Decimal(1)
_EXACT = Context(prec=60)
"""Wide enough for the quotient of any two numbers that a broker tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What is traded, as the order names it: all that it says tells it apart from others, but for `underlying`. What is None is left open."""

    symbol: str
    asset_class: AssetClass = AssetClass.STOCK
    exchange: str | None = None
    expiry: str | None = None
    """YYYYMMDD or YYYYMM."""
    strike: Decimal | None = None
    right: OptionRight | None = None
    currency: str | None = None
    """ISO 4217 code; None: the broker's default for the market."""
    multiplier: Decimal | None = None
    """Money per point of the price and contract; None: the broker's, or 1."""
    underlying: str | None = None
    con_id: int | None = None
    """The broker's own number of the contract, where it has such numbers and the sender knows it."""
    trading_class: str | None = None
    """The venue's name for the series: SPX and SPXW are options of one index, expiry, strike and right."""
    isin: str | None = None

    @property
    def key(self) -> str:
        """One text that is equal for equal instruments: symbol, type, then whatever else distinguishes it, but for the multiplier: under this
        text ledgers were kept before two contracts were told apart by it (`full_key` has it)."""
        parts = [self.symbol, self.asset_class.value]
        named = (
            ("exchange", self.exchange),
            ("expiry", self.expiry),
            ("strike", None if self.strike is None else _written(self.strike)),
            ("right", None if self.right is None else self.right.value),
            ("currency", self.currency),
            ("con_id", None if self.con_id is None else str(self.con_id)),
            ("trading_class", self.trading_class),
            ("isin", self.isin),
        )
        parts += [f"{name}={value}" for name, value in named if value is not None]
        return "|".join(parts)

    @property
    def full_key(self) -> str:
        """As `key`, with the multiplier: equal only for what nothing at all tells apart."""
        return self.key if self.multiplier is None else f"{self.key}|multiplier={_written(self.multiplier)}"

    def could_be(self, other: Instrument) -> bool:
        """Whether both may name the same thing: what one leaves open (exchange, currency, trading class, ISIN, contract number), the other may say,
        and where both say the number, it tells. By the multiplier alone nothing is told: one contract may go by two (`ContractTerms.means`)."""
        if self.con_id is not None and other.con_id is not None:
            return (self.con_id, self.asset_class) == (other.con_id, other.asset_class)
        numbered = self.con_id is not None or other.con_id is not None
        told = ((self.expiry, other.expiry), (self.strike, other.strike), (self.right, other.right))
        left_open = (
            (self.exchange, other.exchange),
            (self.currency, other.currency),
            (self.trading_class, other.trading_class),
            (self.isin, other.isin),
        )
        return (
            (self.symbol, self.asset_class) == (other.symbol, other.asset_class)
            and (numbered or all(mine == theirs for mine, theirs in told))
            and all(mine is None or theirs is None or mine == theirs for mine, theirs in (*told, *left_open))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTerms:
    """The contract's own facts, as the broker told them when it was asked what an order means."""

    multiplier: Decimal | None = None
    """Units of the underlying in one contract; None: the broker tells none, as of shares, and it is 1."""
    price_magnifier: Decimal = ONE
    """So many units of the quoted price are one of the currency: 100 where prices are in cents."""
    currency: str | None = None
    trading_class: str | None = None
    con_id: int | None = None
    local_symbol: str | None = None
    """The venue's own name of it."""
    exchange: str | None = None
    """Where it is listed, for shares; where it is traded, for all else."""
    isin: str | None = None
    lot_size: Decimal | None = None
    """Quantities are whole numbers of it, where the broker counts in units and trades in lots."""
    is_one_size: bool = False
    """The symbol stands for contracts of one size only: there is nothing that the multiplier would tell apart."""
    is_size_unknown: bool = False
    """The broker counts in contracts and does not tell how much one is: no amount of money can be told."""

    @property
    def money_per_point(self) -> Decimal | None:
        """What one point of the quoted price is worth in the contract's currency for one unit of quantity; None: it is not known."""
        if self.is_size_unknown:
            return None
        return _EXACT.divide(self.multiplier or ONE, self.price_magnifier)

    def means(self, multiplier: Decimal) -> bool:
        """Whether a sender who says this multiplier means this contract: its own, what one point of its quoted price is worth, or its lot."""
        return multiplier in (self.multiplier or ONE, self.money_per_point, self.lot_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One order as it is handed to a broker. Quantities are units, shares or contracts, always positive."""

    client_order_id: str
    """Our tag on the order at the broker: 19 characters, a letter first, then lower-case base 32."""
    instrument: Instrument
    side: Side
    quantity: Decimal
    order_type: OrderType
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reference_price: Decimal | None = None
    """The price the order's author saw. Never a limit; used where a broker wants an amount of money, and by the mock."""
    tif: Tif | None = None
    product: str | None = None
    """One of `Capabilities.share_products` or `derivative_products`, where the broker holds positions apart by product."""
    variety: str | None = None
    """The broker's own name for a way of placing, where it has several."""
    reserved_order_id: str | None = None
    """The broker's own id, where `Broker.reserve` gave one before placing."""
    cash_quantity: Decimal | None = None
    """Not None: an amount of money to be spent in place of the quantity, which then is what it was expected to buy."""
    terms: ContractTerms | None = None
    """What the broker has told of the contract; None: it has not been asked, or has nothing to tell."""
    is_exit: bool = False
    """It closes or reduces a position, and so may use the calls that an account's rate budget keeps back for cancels and exits."""
    is_repetition: bool = False
    """It was perhaps sent before, under the very same ids: what is said of this sending tells nothing of that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRef:
    """Which order is meant, by our tag and, once known, by the broker's id."""

    client_order_id: str
    broker_order_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution. `commission` is None until the broker tells it; then the same fill is reported again with it."""

    fill_id: str
    quantity: Decimal
    price: Decimal
    time: datetime
    commission: Decimal | None = None
    commission_currency: str | None = None
    is_time_estimated: bool = False
    """The broker's time could not be read, or may mean several moments: `time` is then when it was heard of, or the likeliest of them."""


class ReportStatus(StrEnum):
    """What the broker says an order is now. There is no value for "not mentioned": that is no statement."""

    WORKING = "WORKING"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


class FillsShown(StrEnum):
    """How much a report's executions say about those that are not among them."""

    SOME = "SOME"
    """Nothing."""
    ALL = "ALL"
    """They add up to the broker's own count, at this moment: lists that lag behind can agree, too."""
    SETTLED = "SETTLED"
    """They have added up, unchanged, for some time: one that we hold and that is missing was annulled, one with other figures corrected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A snapshot of one order as the broker describes it. Reports may come late, twice or out of order."""

    client_order_id: str
    """Empty where the broker knows no tag of ours (somebody else's order)."""
    broker_order_id: str
    status: ReportStatus
    filled_quantity: Decimal
    """Cumulative, by the broker's own count; may run ahead of `fills`."""
    fills: tuple[Fill, ...] = ()
    """Every execution of the order that the broker shows; what one that is missing here means, `fills_shown` says."""
    fills_shown: FillsShown = FillsShown.SOME
    busted_fill_ids: frozenset[str] = frozenset()
    """Executions the venue has annulled. A corrected execution is its old id here and a new fill above."""
    reason: str | None = None
    """The broker's words for a rejection, cancellation or expiry."""
    said: str | None = None
    """Where the order is, in the broker's own words, for people; other words are news."""
    is_held: bool | None = None
    """True: the broker holds it for the opening of the market; False: the market has it; None: the broker says neither."""
    held_until: datetime | None = None
    """Where it is held: until when, if the broker says so."""
    orders_under_tag: tuple[str, ...] = ()
    """The broker's ids of all orders that bear this tag, the oldest first, where there is more than one: only one of them can be ours."""
    is_unclear: bool = False
    """Something of it could not be read: what is told here holds, and how the order ended may not be concluded from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A part of an answer that could not be read. What it is about is unclear; everything else in the answer holds."""

    client_order_id: str = ""
    """The tag of the order that it is about; empty: none of ours, or it cannot be told."""
    words: str
    """What cannot be read, for people, without a full stop."""


@dataclass(frozen=True, slots=True)
class Reports:
    """The answer to `Broker.reports`: what changed, and the mark to ask from next time (None: the broker always tells all)."""

    reports: Sequence[Report]
    mark: int | None = None
    goes_on: bool = False
    """This is a part of the answer: the next is to be asked for from the mark."""
    unreadable: Sequence[Unreadable] = ()
    """As long as it stands it is told in each answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPosition:
    """A holding as the broker shows it; `quantity` is signed, negative for a short."""

    instrument: Instrument
    quantity: Decimal
    average_price: Decimal | None = None
    also_called: frozenset[str] = frozenset()
    """Other symbols under which an order may have named this very instrument."""
    con_id: int | None = None
    """The broker's number of it, where it has such numbers."""
    terms: ContractTerms | None = None
    """What the broker tells of the contract beside the position."""
    is_unclear: bool = False
    """The broker shows it in a way that could not be read: it is held, perhaps, and `quantity` says nothing."""
    product: str | None = None
    """Where the broker holds products of one instrument apart, which one; None: it does not, or does not say."""

    @property
    def is_unnamed(self) -> bool:
        """It could not even be read what is held: this may be whatever the answer does not show otherwise."""
        return self.is_unclear and not self.instrument.symbol


UNNAMED_POSITION = BrokerPosition(instrument=Instrument(symbol=""), quantity=Decimal(0), is_unclear=True)
"""Stands for a row of positions of which it cannot be told what is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Money in one currency, in units of that currency."""

    currency: str
    cash: Decimal
    equity: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a broker can do, so that an impossible order is refused before it is sent."""

    order_types: frozenset[OrderType] = frozenset(OrderType)
    tifs: frozenset[Tif] = frozenset(Tif)
    asset_classes: frozenset[AssetClass] = frozenset(AssetClass)
    refuses_repeated_client_id: bool = False
    """True only if the broker itself refuses a second order under a client id for ever; then sending again is safe."""
    needs_reservation: bool = False
    """True if `reserve` is to be asked before the order is recorded as being sent: an order that has to wait leaves no trace of a sending."""
    fits_tickets: bool = False
    """True if `fitted` is to be asked before that, so that what is recorded is what is sent; False: the market takes tickets as they are."""
    tells_positions: bool = True
    """False: it has no answer to `positions`, now or ever. They are then not compared, and exits leave by our own books."""
    commission_currency: str = "USD"
    splits_option_combinations: bool = True
    """False: an option that is one leg of several is refused, since it would stand alone if another leg did not fill."""
    concurrent_calls: int = 1
    """How many placing calls the adapter takes at once."""
    find_window_seconds: float = 30.0
    """How long an accepted order may stay invisible to `find`."""
    send_again_seconds: float | None = None
    """How long an order that was perhaps sent is looked for before it is sent again, where that is safe; None: the find window."""
    is_paper: bool | None = None
    """Whether the account, as the broker itself names it, is one for practice; None: that cannot be told from its name."""
    poll_seconds: float = 0.0
    """How long one answer of `reports` is good enough while the broker hints at nothing: more questions would only spend its patience."""
    concern: str | None = None
    """What people must know of this very session, in one sentence; None: nothing."""
    share_products: tuple[str, ...] = ()
    derivative_products: tuple[str, ...] = ()
    """Where the broker holds positions of one instrument apart by product: those there are. The first is the one of an order that names none."""
    notes: tuple[str, ...] = field(default=())
    """What `--check` should tell the operator about this account, one sentence each."""

    def products_of(self, instrument: Instrument) -> tuple[str, ...]:
        """The products in which an instrument may be held apart, the usual one first; none where the broker knows no such thing."""
        is_share = instrument.asset_class in (AssetClass.STOCK, AssetClass.ETF, AssetClass.FUND)
        return self.share_products if is_share else self.derivative_products


class Broker(Protocol):
    """One account at one broker. All calls are coroutines; errors are those of `brokers.errors` and no others.

    A query that fails says nothing about any order; a placing or cancelling call that fails says exactly what its error class says.
    """

    @property
    def name(self) -> str:
        """The broker's name as people and readers of our records know it, in capitals."""

    @property
    def capabilities(self) -> Capabilities:
        """Fixed once connected."""

    async def connect(self) -> None:
        """Opens or re-opens the session. Raises BrokerUnavailable when it can't be had now."""

    async def fitted(self, ticket: Ticket) -> Ticket:
        """The ticket as the market takes it: prices on its ticks and never to the order's disadvantage, the quantity on its increment and never
        more, or an amount of money in its place, and with the `terms` of the contract that it means. Whatever the order says of the contract is
        so, or the ticket is refused by the name of what is not. Sends no order. Raises OrderRefused, NotAnswered, BrokerUnavailable."""

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """The broker's own id for this ticket, where it must be known before placing; else None. `taken` are ids that were reserved earlier,
        by whichever process, for orders that have perhaps been sent under them: none of them is given again. Sends no order. Raises
        OrderRefused, NotAnswered, and BrokerUnavailable: HeldBack where only this ticket has to wait, CallsSpent where that is for the account's rate
        budget."""

    async def place_order(self, ticket: Ticket) -> Report:
        """Places the order once and tells what the broker answered. Raises BrokerUnavailable, NotAnswered or ReservationLost (surely nothing was
        sent now), OrderRefused, OrderAlreadyExists, or OutcomeUnknown (sent, or perhaps sent): WordsAlone where it is not to be sent again."""

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        """Asks for cancellation; returning means that the wish arrived, not that the order is cancelled. `again`: it was asked for before,
        and this call comes last where calls are scarce. Raises OrderRefused where the broker will not cancel (too late, unknown order),
        BrokerUnavailable or NotAnswered where surely no wish was sent (HeldBack, and so CallsSpent, where only this one has to wait)."""

    async def reports(self, since: int | None = None) -> Reports:
        """One answer about all orders of the account's day, finished ones too. `since` is the mark of an earlier answer: a broker that
        understands it may leave out what has not changed since."""

    async def find(self, client_order_id: str) -> Report | None:
        """The order with this tag, wherever it may be; None only when the broker positively has no such order now. One that was answered by
        words alone (WordsAlone) is told as rejected once it is clear that it is nowhere."""

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """What `find` says of each of these orders; one about which the answer is not clear is missing. Costs one look at the lists, however
        many they are, where the broker finds orders by its lists."""

    async def positions(self) -> Sequence[BrokerPosition]:
        """All that is held. Not asked where `Capabilities.tells_positions` is False."""

    async def balances(self) -> Sequence[Balance]: ...

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called, on the event loop's thread, when something may have changed: a reason to ask `reports` now."""

    async def close(self) -> None:
        """Ends the session. Working orders stay at the broker."""


def _written(number: Decimal) -> str:
    return format(number.normalize(), "f")
