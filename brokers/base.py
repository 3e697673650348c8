"""The vocabulary in which the service speaks to a broker: tickets, fills, reports, and the Broker protocol. No
broker's dialect, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Context, Decimal
from enum import StrEnum
from typing import Protocol, runtime_checkable


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


POSITION_SIDES = ("LONG", "SHORT")
"""The products of an account that keeps a long and a short position in one instrument apart; no other product bears one of these names."""
DERIVATIVES = frozenset({AssetClass.FUTURE, AssetClass.OPTION})
"""One symbol and expiry of these may stand for contracts of several sizes."""
ONE = Decimal(1)
_EXACT = Context(prec=60)
"""Precise enough for the quotient of any two numbers that a broker reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """What is traded, as the order names it. Every field distinguishes instruments, except `underlying`; None leaves
    it open."""

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
    """Money per point of the price and contract. None: the broker's own, or 1."""
    underlying: str | None = None
    con_id: int | None = None
    """The broker's contract number, if it has such numbers and the sender knows it."""
    trading_class: str | None = None
    """The venue's name of the series: SPX and SPXW are options with the same index, expiry, strike and right."""
    isin: str | None = None

    @property
    def key(self) -> str:
        """Equal for equal instruments: symbol, asset class, then whatever else distinguishes it, except the
        multiplier. Ledgers were kept under this key before contracts were distinguished by multiplier (see
        `full_key`)."""
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
        """As `key`, with the multiplier: equal only for instruments that are equal in everything."""
        return self.key if self.multiplier is None else f"{self.key}|multiplier={_written(self.multiplier)}"

    def could_be(self, other: Instrument) -> bool:
        """Whether both may name the same instrument. A field that one leaves open (exchange, currency, trading
        class, ISIN, contract number) matches any value; if both name the contract number, it decides. Different
        multipliers do not: a sender may mean either of two figures (`ContractTerms.means`)."""
        if self.con_id is not None and other.con_id is not None:
            return (self.con_id, self.asset_class) == (other.con_id, other.asset_class)
        numbered = self.con_id is not None or other.con_id is not None
        pairs = ((self.expiry, other.expiry), (self.strike, other.strike), (self.right, other.right))
        left_open = (
            (self.exchange, other.exchange),
            (self.currency, other.currency),
            (self.trading_class, other.trading_class),
            (self.isin, other.isin),
        )
        return (
            (self.symbol, self.asset_class) == (other.symbol, other.asset_class)
            and (numbered or all(mine == theirs for mine, theirs in pairs))
            and all(mine is None or theirs is None or mine == theirs for mine, theirs in (*pairs, *left_open))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTerms:
    """A contract's facts as the broker reported them when it was asked for an order's instrument."""

    multiplier: Decimal | None = None
    """Units of the underlying in one contract. None: the broker reports none (as for shares), and it is 1."""
    price_magnifier: Decimal = ONE
    """How many units of the quoted price make one of the currency: 100 if prices are in cents."""
    currency: str | None = None
    trading_class: str | None = None
    con_id: int | None = None
    local_symbol: str | None = None
    """The venue's own symbol."""
    exchange: str | None = None
    """For shares the listing exchange; for anything else the trading venue."""
    isin: str | None = None
    lot_size: Decimal | None = None
    """Quantities are multiples of it, if the broker counts in units but trades in lots."""
    is_one_size: bool = False
    """The symbol stands for contracts of one size only, so that the multiplier distinguishes nothing."""
    is_size_unknown: bool = False
    """The broker counts in contracts and does not report the size of one: no amount of money can be computed."""

    @property
    def money_per_point(self) -> Decimal | None:
        """The value of one point of the quoted price in the contract's currency, for one unit of quantity. None: not
        known."""
        if self.is_size_unknown:
            return None
        return _EXACT.divide(self.multiplier or ONE, self.price_magnifier)

    def means(self, multiplier: Decimal) -> bool:
        """Whether a sender who names this multiplier may mean this contract: it is the contract's own, the money per
        point of its quoted price, or its lot size."""
        return multiplier in (self.multiplier or ONE, self.money_per_point, self.lot_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """One order as it is given to a broker. Quantities are units, shares or contracts, always positive."""

    client_order_id: str
    """Our tag on the order at the broker: 19 characters, a letter first, then lower-case base 32."""
    instrument: Instrument
    side: Side
    quantity: Decimal
    order_type: OrderType
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reference_price: Decimal | None = None
    """The price that the order's author saw. Never a limit; used if a broker wants an amount of money, and by the
    mock."""
    tif: Tif | None = None
    product: str | None = None
    """One of `Capabilities.share_products` or `derivative_products`, if the broker keeps positions apart by product."""
    variety: str | None = None
    """The broker's own name of an order variety, if it has several."""
    display_quantity: Decimal | None = None
    """How much of it the market may see at once, less than the quantity: an iceberg. None: all of it."""
    reserved_order_id: str | None = None
    """The broker's own order id, if `Broker.reserve` gave one before placing."""
    cash_quantity: Decimal | None = None
    """Not None: an amount of money to be spent instead of the quantity, which then is what that was expected to buy."""
    terms: ContractTerms | None = None
    """The contract's facts as the broker reported them. None: it was not asked, or reports none."""
    is_exit: bool = False
    """It closes or reduces a position, so it may use the calls that the rate budget reserves for cancels and exits."""
    is_protective: bool = False
    """It protects a position: it rests until its price is reached."""
    link: str | None = None
    """Orders of one account with the same link take what one of them fills off the others, and end when nothing is left; one that comes after that
    is refused. Only where `Capabilities.links_exits`."""
    is_repetition: bool = False
    """It may have been sent before under the same ids: an answer to this sending proves nothing about that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinationLeg:
    """One leg of several that the broker takes as one order."""

    client_order_id: str
    """The tag of the leg's own ticket. The broker does not know it, unless the whole bears it."""
    con_id: int
    """The broker's number of the leg's contract, by which its executions are told from those of the other legs."""
    side: Side
    ratio: int
    """Contracts of the leg in one unit of the whole, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Several tickets as one order at the broker, which fills as a whole: units of all legs in their ratios."""

    client_order_id: str
    """The tag that the whole bears at the broker: that of its first leg."""
    legs: tuple[CombinationLeg, ...]
    quantity: Decimal
    """How many units are bought; of a leg that is sold its side says so."""
    limit_price: Decimal | None = None
    """The most to be paid for one unit, as the legs are quoted: what is bought less what is sold. Negative: the least
    to be received. None: at the market."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRef:
    """Identifies an order by our tag and, once known, by the broker's id."""

    client_order_id: str
    broker_order_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution. `commission` is None until the broker reports it; then the same fill is reported again with it."""

    fill_id: str
    quantity: Decimal
    price: Decimal
    time: datetime
    commission: Decimal | None = None
    commission_currency: str | None = None
    is_time_estimated: bool = False
    """The broker's time could not be read or is ambiguous: `time` is then when the fill was first received, or the
    likeliest reading."""
    market_volume: Decimal | None = None
    """What the whole market traded while this filled, of a broker that tells it. None: it does not."""


class ReportStatus(StrEnum):
    """An order's status at the broker. There is no value for "not mentioned": that is no statement about the order."""

    WORKING = "WORKING"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


class FillsShown(StrEnum):
    """What it means that an execution is missing from a report."""

    SOME = "SOME"
    """Nothing: the report may be incomplete."""
    ALL = "ALL"
    """The executions add up to the broker's count, at this moment; lists that lag behind can agree too."""
    SETTLED = "SETTLED"
    """They have added up, unchanged, for some time: an execution that we hold and that is missing was busted, one
    with other figures was corrected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A snapshot of one order as the broker shows it. Reports may arrive late, repeated or out of order."""

    client_order_id: str
    """Empty for an order without a tag of ours (somebody else's)."""
    broker_order_id: str
    status: ReportStatus
    filled_quantity: Decimal
    """Cumulative, by the broker's own count; may be ahead of `fills`."""
    fills: tuple[Fill, ...] = ()
    """Every execution of the order that the broker shows. `fills_shown` says what a missing one means."""
    fills_shown: FillsShown = FillsShown.SOME
    busted_fill_ids: frozenset[str] = frozenset()
    """Executions that the venue annulled. A correction is the old id here and a new fill above."""
    reason: str | None = None
    """The broker's text on a rejection, cancellation or expiry; of an order that the broker made itself, why."""
    said: str | None = None
    """The order's state in the broker's own words, for people. Other words count as a change."""
    is_held: bool | None = None
    """True: the broker holds the order for the opening of the market. False: it is at the market. None: the broker
    says neither."""
    held_until: datetime | None = None
    """If it is held: until when, if the broker says so."""
    is_triggered: bool = False
    """The order is a stop whose trigger was reached: what it became is at the market. False: it was not, or the broker
    does not say."""
    orders_under_tag: tuple[str, ...] = ()
    """If several orders bear this tag: the broker's ids of all of them, oldest first. Only one can be ours."""
    is_unclear: bool = False
    """Part of it could not be read. What it says is valid, but the order's end must not be concluded from it."""
    instrument: Instrument | None = None
    side: Side | None = None
    """What the order is about, where the broker says so; of an order of ours the record knows it. None: not known."""
    earlier_ids: Mapping[str, str] = field(default_factory=dict)
    """Of an order of somebody else, by execution: the broker's id of the order under which that may have been shown
    before, when the broker had not said yet which order it is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A part of an answer that could not be read. Nothing is known about what it describes; the rest of the answer
    is valid."""

    client_order_id: str = ""
    """The tag of the order that it is about. Empty: none of ours, or unknown."""
    words: str
    """What cannot be read, for people, without a full stop."""


@dataclass(frozen=True, slots=True)
class Reports:
    """The answer to `Broker.reports`: what changed, and the mark from which to ask next time (None: the broker
    always reports everything)."""

    reports: Sequence[Report]
    mark: int | None = None
    has_more: bool = False
    """The answer is incomplete: the rest is to be requested from the mark."""
    unreadable: Sequence[Unreadable] = ()
    """Included in every answer for as long as it lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPosition:
    """A position as the broker shows it. `quantity` is signed; negative is short."""

    instrument: Instrument
    quantity: Decimal
    average_price: Decimal | None = None
    also_called: frozenset[str] = frozenset()
    """Other symbols under which an order may have named this instrument."""
    con_id: int | None = None
    """The broker's contract number, if it has such numbers."""
    terms: ContractTerms | None = None
    """The contract's facts that the broker reports with the position."""
    is_unclear: bool = False
    """The broker's row could not be read: something may be held, and `quantity` is meaningless."""
    product: str | None = None
    """The product, if the broker keeps products of one instrument apart; None: it does not, or does not say."""

    @property
    def is_unnamed(self) -> bool:
        """Not even the instrument could be read: it may be any that the answer does not show otherwise."""
        return self.is_unclear and not self.instrument.symbol


UNNAMED_POSITION = BrokerPosition(instrument=Instrument(symbol=""), quantity=Decimal(0), is_unclear=True)
"""Stands for a row of the positions whose instrument cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Money in one currency, in units of that currency."""

    currency: str
    cash: Decimal
    equity: Decimal | None = None
    rate: Decimal | None = None
    """What one unit of it is worth in the account's base currency, by the broker. None: it does not say."""
    is_base: bool = False
    """It is the account's base currency, in which the broker adds up what the account has in several."""
    account_equity: Decimal | None = None
    """With the base currency: what the whole account is worth, all its currencies carried into this one by the
    broker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a broker said of the market in one instrument. Prices are per unit, as orders name them, always positive;
    None: there is none, or the broker does not say."""

    bid: Decimal | None = None
    ask: Decimal | None = None
    last: Decimal | None = None
    """The price of the latest trade."""
    at: datetime
    """When bid and ask stood so: by the market's own clock where the broker tells that, else when the answer came."""
    last_at: datetime | None = None
    """When the latest trade was; None: the broker does not say, and it may be of any age."""
    is_delayed: bool = False
    """It is some minutes old, whatever its time says, as accounts without a subscription are given it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoQuote:
    """The broker has positively no quote of an instrument for this account."""

    reason: str
    """For people, without a full stop."""


@runtime_checkable
class TellsQuotes(Protocol):
    """An adapter whose broker can be asked where the market stands."""

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """Of each of these, by one call where the broker answers for many. Only calls are used that orders, cancels
        and reports can spare; an instrument for which none was left, or that was not answered in time, is left out.
        Sends no order. Raises BrokerUnavailable (RateLimited if nothing can be asked now) and NotAnswered; neither
        says anything about the account's connection."""


class EndingKind(StrEnum):
    """How an option position ended without an order."""

    EXPIRY = "EXPIRY"
    """Worthless."""
    ASSIGNMENT = "ASSIGNMENT"
    EXERCISE = "EXERCISE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What an assignment or exercise moved: so many units came (negative: left), at a price each."""

    instrument: Instrument
    quantity: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionEnding:
    """An option position, or a part of one, that ended without an order, by the broker's own record of that."""

    ending_id: str
    """The broker's; the same each time that it is told."""
    kind: EndingKind
    instrument: Instrument
    also_called: frozenset[str] = frozenset()
    """Other symbols under which an order may have named the option."""
    quantity: Decimal
    """By how much the position changed: negative where it was long."""
    at: datetime
    """Where the broker tells only the day: the close of that day."""
    delivered: Delivered | None = None
    """Not None of an assignment or exercise."""


@runtime_checkable
class TellsEndings(Protocol):
    """An adapter whose broker records how option positions ended."""

    async def endings(self, since: datetime) -> Sequence[PositionEnding]:
        """Those that the broker recorded from then on, oldest first, which may be a day after the position has changed. What cannot be read whole,
        contradicts itself or was taken back is left out. Sends no order. Raises BrokerUnavailable and NotAnswered."""


class MovementKind(StrEnum):
    """By what a position in shares changed without an order."""

    SPLIT = "SPLIT"
    """Of either direction."""
    SPIN_OFF = "SPIN_OFF"
    MERGER = "MERGER"
    RENAME = "RENAME"
    """A change of the symbol: as many leave under the old one as come under the new one."""
    REORGANIZATION = "REORGANIZATION"
    TRANSFER = "TRANSFER"
    """From or to another broker or account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionMovement:
    """Shares that came or left without an order, by the broker's own record of that."""

    movement_id: str
    """The broker's; the same each time that it is told."""
    kind: MovementKind
    instrument: Instrument
    also_called: frozenset[str] = frozenset()
    """Other symbols under which an order may have named it."""
    quantity: Decimal
    """By how much the position changed; not 0."""
    on: date
    """The broker's day."""


@runtime_checkable
class RecordsMovements(Protocol):
    """An adapter whose broker records how positions in shares changed without an order."""

    async def movements(self, since: datetime) -> Sequence[PositionMovement]:
        """Those that the broker recorded from then on, oldest first, which may be a day after the position has changed. What cannot be read or was
        taken back is left out. Sends no order. Raises BrokerUnavailable and NotAnswered."""


@runtime_checkable
class DescribesQuotes(Protocol):
    """An adapter that tells quotes, and knows or finds out which ones this account is given."""

    async def quotes_in_words(self) -> str:
        """One sentence for people, which begins with "Quotes". Uses such calls as `quotes` does. Raises BrokerUnavailable and NotAnswered."""


@runtime_checkable
class CombinesOrders(Protocol):
    """An adapter whose broker takes several tickets as one order. It shows each leg as an order of its own, under the
    leg's tag: with the leg's executions, the status of the whole, and of its count what falls to the leg. `find`,
    `find_all` and `cancel_order` take the tag of any leg; a cancellation is one of the whole."""

    async def place_combined(self, combination: Combination, tickets: Sequence[Ticket]) -> Sequence[Report]:
        """Sends the whole once and returns a report for each leg, in their sequence. `tickets` are the legs', fitted,
        with the whole's reserved id in each. Raises as `place_order`, of the whole."""

    def know_combination(self, combination: Combination) -> bool:
        """Says that this order is a whole of these legs. To be said before reports of it are believed: without it
        they are those of one order, with the executions of all legs. False: it was known already."""


@runtime_checkable
class TellsVolume(Protocol):
    """An adapter whose broker tells how much a market trades."""

    async def usual_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """What the whole market usually trades of each in a bar: on historical bars the mean of the latest that are over, at a live market what
        falls to a minute of what it has traded lately. In the units of orders, above 0; one of which that is not known is left out. Raises
        BrokerUnavailable and NotAnswered."""


@runtime_checkable
class HasMarketClock(Protocol):
    """An adapter whose market is one of the past: it stands still until it is told to go on."""

    async def wants_to_move(self) -> bool:
        """Whether an order waits for the next bar, or a person has asked for it, and there is one. Raises BrokerUnavailable."""

    async def move_on(self) -> bool:
        """To be called when everything that the market has brought so far is dealt with. It goes on by one bar if that is wanted; whether it did.
        Raises BrokerUnavailable: then it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a broker and this account can do, so that an unsupported order is refused before it is sent."""

    order_types: frozenset[OrderType] = frozenset(OrderType)
    tifs: frozenset[Tif] = frozenset(Tif)
    asset_classes: frozenset[AssetClass] = frozenset(AssetClass)
    varieties: frozenset[str] | None = None
    """The order varieties that it has besides `regular`, in lower case. None: the adapter itself refuses others."""
    takes_display_quantity: bool = False
    """It can show the market a part of an order (`Ticket.display_quantity`)."""
    refuses_repeated_client_id: bool = False
    """True only if the broker itself refuses a second order under a client order id for ever: then sending again is
    safe."""
    needs_reservation: bool = False
    """True if `reserve` must be called before the order is recorded as being sent, so that an order that has to wait
    is not recorded as sent."""
    fits_tickets: bool = False
    """True if `fitted` must be called before that, so that the record says what is sent. False: the market takes
    tickets unchanged."""
    reports_positions: bool = True
    """False: `positions` is not available. Positions are then not compared, and exits are limited by our own books
    alone."""
    commission_currency: str = "USD"
    has_base_currency: bool = False
    """The account's base currency is set at the broker and told with the balances. False: it is the commission's."""
    splits_option_combinations: bool = True
    """False: an option that is one leg of several is refused, since it would be naked if another leg did not fill."""
    combines_option_legs: bool = False
    """The adapter is one that `CombinesOrders`: options that are legs of one signal leave as one order."""
    concurrent_calls: int = 1
    """How many placing calls the adapter takes at once."""
    find_window_seconds: float = 30.0
    """How long an accepted order may be invisible to `find`."""
    send_again_seconds: float | None = None
    """How long a possibly sent order is searched for before it is sent again, where that is safe. None: the find
    window."""
    is_paper: bool | None = None
    """Whether this is a paper account, judged by the broker's own name of it. None: that name does not tell."""
    poll_seconds: float = 0.0
    """How long an answer of `reports` is good enough while there is no hint of a change; asking more often would
    only use up calls."""
    links_exits: bool = False
    """It keeps `Ticket.link`: of two linked exits of one position no more than one's quantity fills."""
    classes_without_stops: frozenset[AssetClass] = frozenset()
    """Asset classes in which it takes no stop, not even one that protects a position."""
    classes_of_the_day: frozenset[AssetClass] = frozenset()
    """Asset classes in which no order outlives the day, whatever `tifs` has for others."""
    stop_passed_words: tuple[str, ...] = ()
    """Parts of a refusal, in small letters, by which it says that the price is through a stop already."""
    concern: str | None = None
    """What people must know about this session, in one sentence. None: nothing."""
    share_products: tuple[str, ...] = ()
    derivative_products: tuple[str, ...] = ()
    """The products in which a position in one instrument may be held apart; the first is that of an order that names
    none, unless they are POSITION_SIDES."""
    notes: tuple[str, ...] = field(default=())
    """What `--check` tells the operator about this account, one sentence each."""

    def rests_stops(self, instrument: Instrument) -> bool:
        """Whether a stop of this instrument can rest at the broker."""
        return OrderType.STOP in self.order_types and instrument.asset_class not in self.classes_without_stops

    def keeps_overnight(self, instrument: Instrument) -> bool:
        """Whether an order of this instrument can outlive the day."""
        return Tif.GTC in self.tifs and instrument.asset_class not in self.classes_of_the_day

    def products_of(self, instrument: Instrument) -> tuple[str, ...]:
        """The products in which this instrument may be held apart, the default first; none if the broker has no
        products."""
        is_share = instrument.asset_class in (AssetClass.STOCK, AssetClass.ETF, AssetClass.FUND)
        return self.share_products if is_share else self.derivative_products


@runtime_checkable
class LimitsCalls(Protocol):
    """An adapter whose broker limits how many calls may be made, and which keeps within that."""

    def calls_left(self) -> Mapping[tuple[str, float], int]:
        """By kind of call and period in seconds, how many ordinary calls may leave now."""


class Broker(Protocol):
    """One account at one broker. All calls are coroutines. They raise the errors of `brokers.errors` and no others.

    A failed query says nothing about any order. A failed placing or cancelling call means exactly what its error class
    says.
    """

    @property
    def name(self) -> str:
        """The broker's name for people and in our records, in capitals."""

    @property
    def capabilities(self) -> Capabilities:
        """Does not change once connected."""

    async def connect(self) -> None:
        """Opens the session, anew if necessary. Raises BrokerUnavailable if that is not possible now."""

    async def fitted(self, ticket: Ticket) -> Ticket:
        """The ticket rounded to the market: prices on its ticks and never to the order's disadvantage, the quantity
        rounded down to its increment (or replaced by an amount of money), and with the contract's facts in `terms`.
        If what the order says of the contract is not true, the ticket is refused with the reason. Sends no order.
        Raises OrderRefused, NotAnswered, BrokerUnavailable."""

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """The broker's own order id for this ticket, if it must be known before placing; else None. `taken`: ids
        reserved earlier, by any process, under which orders may have been sent; none of them is reused. Sends no
        order. Raises OrderRefused, NotAnswered, BrokerUnavailable (HeldBack if only this ticket has to wait,
        RateLimited if it waits for the account's rate budget)."""

    async def place_order(self, ticket: Ticket) -> Report:
        """Sends the order once and returns the broker's answer. Raises BrokerUnavailable, NotAnswered or
        ReservationLost (certainly not sent now), OrderRefused, OrderAlreadyExists, or OutcomeUnknown (sent, or
        possibly sent; UndocumentedAnswer if it must not be sent again)."""

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        """Requests a cancellation. A return means that the request arrived, not that the order is cancelled.
        `again`: it was requested before, and comes last if calls are scarce. Raises OrderRefused if the broker will
        not cancel (too late, unknown order), BrokerUnavailable or NotAnswered if the request was certainly not sent
        (HeldBack, including RateLimited, if only this one has to wait)."""

    async def reports(self, since: int | None = None) -> Reports:
        """All orders of the account's day, finished ones too, in one answer. `since` is the mark of an earlier
        answer: a broker that supports it may omit what has not changed since."""

    async def find(self, client_order_id: str) -> Report | None:
        """The order with this tag, wherever it is. None only if the broker positively has no such order now. After
        an UndocumentedAnswer the order is reported as rejected once it is certain that it is nowhere."""

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """As `find`, for each of these orders; one about which the answer is unclear is left out. Where the broker
        finds orders in its lists, this reads them once."""

    async def positions(self) -> Sequence[BrokerPosition]:
        """All positions. Not called if `Capabilities.reports_positions` is False."""

    async def balances(self) -> Sequence[Balance]: ...

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called on the event loop's thread when something may have changed, so that `reports` should
        be called now."""

    async def close(self) -> None:
        """Ends the session. Working orders stay at the broker."""


def _written(number: Decimal) -> str:
    return format(number.normalize(), "f")
