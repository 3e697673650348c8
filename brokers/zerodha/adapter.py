"""The Zerodha broker: the Broker protocol over the library's calls; its words, calls and feed are in the modules beside this one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from brokers.base import (
    Balance,
    BrokerPosition,
    Capabilities,
    Fill,
    FillsShown,
    OrderRef,
    OrderType,
    Report,
    Reports,
    ReportStatus,
    Ticket,
    Tif,
    Unreadable,
)
from brokers.configuration import Calls, MeteredConfiguration, TimeOut, Whole, Wrong, not_a_flag
from brokers.errors import AnswerUnclear, AuthRequired, BrokerError, BrokerUnavailable, HeldBack, OrderRefused
from brokers.manifest import Fact
from brokers.zerodha.calls import (
    ANSWER_SECONDS,
    AUTH_REQUIRED,
    CONNECT_SECONDS,
    READ_SECONDS,
    RESERVE_PERCENT,
    Access,
    CallKind,
    KiteCalls,
)
from brokers.zerodha.feed import OrderFeed
from brokers.zerodha.manifest import MANIFEST
from brokers.zerodha.rows import (
    IST,
    ListedRow,
    Odd,
    OddRow,
    OrderRow,
    Row,
    TradeRow,
    read_orders,
    read_profile,
    read_trades,
)
from brokers.zerodha.words import (
    CURRENCY,
    EXCHANGES,
    IN_LOTS,
    PRODUCTS,
    Habits,
    Listing,
    account_notes,
    asset_classes,
    balances,
    charged,
    exchange_of,
    fills_by_order,
    lot_sizes,
    named,
    note_requests,
    order_form,
    positions,
    reports,
    terms_of,
    working_legs,
)

_log = logging.getLogger(__name__)
_HABITS = Habits()
_FIND_WINDOW_SECONDS = 60.0
_POLL_SECONDS = 0.5
"""A look costs two calls, so this leaves half of the ten a second to what the order feed hints at."""
_CONCURRENT_CALLS = 8
_LIST_AGAIN_SECONDS = 600.0
_NOTE_PAUSES_SECONDS = (0.5, 60.0)
"""After a contract note that failed: the first pause, which doubles, and the longest."""
_LIST_PAUSES_SECONDS = (1.0, 60.0)
"""After an instruments list that could not be had: the first pause, which doubles, and the longest."""
_NOTED_AT_ONCE = 100
_SETTLED_SECONDS = 20.0
"""How long the order and trade lists have to agree about an order before a trade that is gone counts as annulled."""
_ODD_NAMED = 5
_ORDERS_REMEMBERED = 20_000
_ODD_REMEMBERED = 1_000
_FIRST_LIST = "NSE"
"""Read when connecting, so that the day's first order does not wait for it."""


class Configuration(MeteredConfiguration):
    """One account's settings; times in seconds."""

    api_key: str = Field(repr=False)
    access_token: str = Field("", repr=False)
    access_token_file: Path | None = Field(None, validate_default=True)
    """Read anew each day, instead of `access_token`; not looked at before it is needed."""
    root_url: str | None = None
    """None: Zerodha's own."""
    ticker_url: str | None = None
    """None: Zerodha's own; with a root URL alone the feed is on its host and port."""
    user_id: str | None = None
    """The token must be this user's."""
    market_protection: Annotated[Decimal, BeforeValidator(not_a_flag)] = _HABITS.market_protection
    """-1: Zerodha's own; else a per cent above 0 and up to 100."""
    equity_product: str = _HABITS.equity_product
    derivatives_product: str = _HABITS.derivatives_product
    iceberg_legs: Whole = Field(_HABITS.iceberg_legs, ge=2, le=10)
    order_calls_per_second: Calls = 8
    order_calls_per_minute: Calls | None = 180
    order_calls_per_day: Calls | None = 2_800
    order_reserve_percent: Whole = Field(RESERVE_PERCENT, ge=0, le=90)
    other_calls_per_second: Calls = 8
    connect_timeout_seconds: TimeOut = CONNECT_SECONDS
    read_timeout_seconds: TimeOut = READ_SECONDS
    answer_timeout_seconds: TimeOut = ANSWER_SECONDS
    feed_silence_seconds: TimeOut = 15.0
    find_window_seconds: TimeOut = _FIND_WINDOW_SECONDS
    """Orders have been seen to come into the list many seconds after they were sent: less than a minute is for simulated brokers."""

    @field_validator("access_token_file")
    @classmethod
    def _is_one_named(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None and info.data.get("access_token") == "":
            raise Wrong("access_token or access_token_file is missing")
        return path

    @field_validator("market_protection")
    @classmethod
    def _is_protection(cls, per_cent: Decimal) -> Decimal:
        if per_cent != -1 and not 0 < per_cent <= 100:
            raise ValueError("-1 or a per cent above 0 and up to 100")
        return per_cent

    @field_validator("equity_product", "derivatives_product")
    @classmethod
    def _is_product(cls, product: str) -> str:
        if product.upper() not in PRODUCTS:
            raise ValueError(f"one of {', '.join(PRODUCTS)}")
        return product.upper()

    @property
    def access(self) -> Access:
        return Access(
            api_key=self.api_key,
            access_token=self.access_token,
            access_token_file=self.access_token_file,
            root_url=self.root_url,
            connect_timeout_seconds=self.connect_timeout_seconds,
            read_timeout_seconds=self.read_timeout_seconds,
            answer_timeout_seconds=self.answer_timeout_seconds,
            order_limits=self.order_limits,
            other_limits=self.other_limits,
        )

    @property
    def habits(self) -> Habits:
        return Habits(
            market_protection=self.market_protection,
            equity_product=self.equity_product,
            derivatives_product=self.derivatives_product,
            iceberg_legs=self.iceberg_legs,
        )

    @property
    def feed_url(self) -> str | None:
        return self.ticker_url or _ticker_beside(self.root_url)


def create(config: Mapping[str, object]) -> ZerodhaBroker:
    """A broker for one account, not yet connected; what may be told are the fields of `Configuration`. Raises ValueError naming all
    that is wrong."""
    return ZerodhaBroker(Configuration.of(config, broker="Zerodha"))


class ZerodhaBroker:
    """One account at Zerodha. Kite has no key that makes placing repeatable: what was perhaps sent is never sent again from here.

    A dead access token is a state, not an error of an order: every call raises AuthRequired until another token is there.
    """

    def __init__(
        self, configuration: Configuration, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._configuration = configuration
        self._clock = clock
        self._calls = KiteCalls(configuration.access)
        self._has_session = False
        self._is_day_counted = False
        self._profile: Row = {}
        self._hint: Callable[[], None] | None = None
        self._feed: OrderFeed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_hint_due = False
        self._listings: dict[str, _DayList] = {}
        self._listing_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._list_troubles: dict[str, _ListTrouble] = {}
        self._notes = ContractNotes()
        self._steadiness = Steadiness(_SETTLED_SECONDS)
        self._varieties: dict[str, str] = {}
        self._odd_told: set[str] = set()
        self._first_heard: dict[tuple[str, str], datetime] = {}
        """Of trades whose time cannot be read, by order and trade."""
        self._lot_sizes: dict[tuple[str, str], Decimal] = {}
        """Where quantities are in lots: what one is of, as Kite has told beside positions."""

    @property
    def name(self) -> str:
        return "ZERODHA"

    @property
    def capabilities(self) -> Capabilities:
        exchanges = self._profile.get("exchanges", EXCHANGES)
        notes = tuple(account_notes(self._profile)) if self._profile else ()
        return Capabilities(
            order_types=frozenset(OrderType),
            tifs=frozenset({Tif.DAY, Tif.IOC}),
            asset_classes=asset_classes(exchanges),
            refuses_repeated_client_id=Fact.REFUSES_REPEATED_IDS in MANIFEST.facts,
            needs_reservation=True,
            fits_tickets=True,
            commission_currency=CURRENCY,
            concurrent_calls=_CONCURRENT_CALLS,
            find_window_seconds=self._configuration.find_window_seconds,
            poll_seconds=_POLL_SECONDS,
            share_products=_usual_first(self._configuration.equity_product, "CNC", "MIS", "NRML"),
            derivative_products=_usual_first(self._configuration.derivatives_product, "NRML", "MIS"),
            notes=(
                *notes,
                "Commissions are estimates from the virtual contract note; the day's contract note is final.",
                "An annulled or corrected trade is known only by its absence from the day's lists: compare with the day's contract note.",
            ),
        )

    async def connect(self) -> None:
        """Shows that the token is good and whose it is. May be called again at any time."""
        self._calls.open()
        self._loop = asyncio.get_running_loop()
        self._has_session = False
        try:
            profile: Row = read_profile(await self._calls.ask(lambda kite: kite.profile()))
        except Odd as exc:
            self._stop_feed()
            raise BrokerUnavailable(str(exc)) from exc
        except BrokerError:
            self._stop_feed()
            raise
        wanted = self._configuration.user_id
        if wanted is not None and profile.get("user_id") != wanted:
            words = f"{AUTH_REQUIRED}: the access token is that of user {profile.get('user_id')}, not of {wanted}"
            raise AuthRequired(words)
        if not self._is_day_counted:
            # The limits of the minute and the day go on over a restart of ours.
            self._calls.remember_order_calls((await self._orders()).call_ages(datetime.now(UTC)))
            self._is_day_counted = True
        self._profile = profile
        self._has_session = True
        await self._start_feed()
        if _FIRST_LIST in profile.get("exchanges", EXCHANGES):
            try:
                await self._listing(_FIRST_LIST)
            except BrokerUnavailable as exc:
                # Only orders need it, and they ask for it themselves.
                _log.info("The instruments list could not be read yet: %s", exc)

    async def fitted(self, ticket: Ticket) -> Ticket:
        """With its prices on the tick. A quantity that is no whole number of lots is refused, and so is what the order says of the contract and
        Kite's list does not confirm."""
        self._check_session()
        listed = await self._listed(ticket)
        await self._learn_lot_size(listed)
        terms = terms_of(listed, ticket.instrument, self._lot_sizes)
        form = order_form(ticket, listed, self._configuration.habits)
        limit, stop = form.get("price"), form.get("trigger_price")
        return replace(
            ticket,
            terms=terms,
            limit_price=ticket.limit_price if limit is None else Decimal(str(limit)),
            stop_price=ticket.stop_price if stop is None else Decimal(str(stop)),
        )

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """No id: Kite gives them when placing. Raises RateLimited if the ticket would have to wait for the minute or the day."""
        self._calls.check_budget(_kind_of(ticket))
        return None

    async def place_order(self, ticket: Ticket) -> Report:
        """The answer knows no fills: Kite tells no more than the order's id."""
        self._check_session()
        listed = await self._listed(ticket)
        terms_of(listed, ticket.instrument, self._lot_sizes)
        form = order_form(ticket, listed, self._configuration.habits)
        order_id = await self._calls.ask(lambda kite: _placed(kite.place_order(**form)), _kind_of(ticket))
        self._varieties[order_id] = str(form["variety"])
        return Report(
            client_order_id=ticket.client_order_id,
            broker_order_id=order_id,
            status=ReportStatus.WORKING,
            filled_quantity=Decimal(0),
        )

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        """Cancels the order, or what is left of an iceberg order. Costs one call more where the order's variety is not known yet."""
        self._check_session()
        kind = CallKind.CANCEL_AGAIN if again else CallKind.CANCEL
        self._calls.check_budget(kind)  # before any question is asked for it
        order_id = ref.broker_order_id
        variety = None if order_id is None else self._varieties.get(order_id)
        if order_id is not None and variety is not None and variety != "iceberg":
            await self._cancel(variety, order_id, kind)
            return
        book = await self._orders()
        legs = working_legs(book.orders, ref.client_order_id, order_id)
        if not legs and order_id is None:
            book.check_clear(ref.client_order_id)
            raise OrderRefused(f"Zerodha shows no order {ref.client_order_id}")
        for leg in legs:
            await self._cancel(leg.cancelled_as, leg.order_id, kind)
        if not legs and order_id is not None:
            # It may exist without being shown; Zerodha itself shall say.
            shown = next((odd.variety for odd in book.odd if odd.order_id == order_id), None)
            await self._cancel(shown or "regular", order_id, kind)

    async def reports(self, since: int | None = None) -> Reports:
        """All orders of the day by two calls, and a third where an estimate of commissions is due; none of an order that Zerodha shows in a
        way that cannot be read. There is no mark."""
        self._check_session()
        book = await self._orders()
        trades, odd_trades = await self._trades()
        fills = await self._with_commissions(book.orders, fills_by_order(trades, self._heard_at))
        shown = reports(book.orders, fills, book.odd, odd_trades, now=self._clock())
        told = self._steadiness.judge(shown, time.monotonic())
        return Reports(told, unreadable=book.unreadable(odd_trades))

    async def find(self, client_order_id: str) -> Report | None:
        """The oldest order of the day with this tag. Raises AnswerUnclear where a row that cannot be read may be the order's."""
        self._check_session()
        book = await self._orders()
        book.check_found(client_order_id)
        return (await self._found(book, [client_order_id]))[client_order_id]

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """By one look at the day's orders, and one at its trades where any of these has filled."""
        self._check_session()
        book = await self._orders()
        return await self._found(book, book.told_of(client_order_ids))

    async def _found(self, book: _Book, tags: Sequence[str]) -> dict[str, Report | None]:
        wanted = frozenset(tags)
        orders = [order for order in book.orders if order.tag in wanted]
        fills: Mapping[str, Sequence[Fill]] = {}
        odd_trades: Sequence[OddRow] = ()
        if any(order.filled for order in orders):
            own = {order.order_id for order in orders}
            trades, odd_trades = await self._trades()
            fills = fills_by_order((trade for trade in trades if trade.order_id in own), self._heard_at)
        found: dict[str, Report | None] = dict.fromkeys(tags)
        priced = await self._with_commissions(orders, fills) if orders else {}
        for report in reversed(reports(orders, priced, odd_trades=odd_trades, now=self._clock())):
            found[report.client_order_id] = report  # the oldest of a tag comes last, and stays
        return found

    async def positions(self) -> Sequence[BrokerPosition]:
        """Today's positions and settled holdings, of each product taken together."""
        self._check_session()
        told = await self._calls.ask(lambda kite: kite.positions())
        holdings = await self._calls.ask(lambda kite: kite.holdings())
        net = told.get("net") if isinstance(told, Mapping) else None
        if not isinstance(net, list) or not isinstance(holdings, list):
            raise AnswerUnclear("Zerodha answered with no list of positions")
        kinds: dict[tuple[str, str], ListedRow] = {}
        for row in net:
            try:
                exchange, symbol = named(row)
            except Odd as exc:
                self._tell_odd(f"A position cannot be read: {exc}")
                continue
            if exchange in EXCHANGES and exchange not in ("NSE", "BSE"):
                listed = (await self._listing(exchange)).by_symbol(symbol)
                if listed is not None:
                    kinds[exchange, symbol] = listed
        self._lot_sizes |= lot_sizes(net)
        found = positions(net, holdings, kinds, self._lot_sizes)
        for position in found:
            if position.is_unclear and not position.is_unnamed:
                self._tell_odd(f"The position in {position.instrument.symbol} cannot be read: it is not compared")
        return found

    async def balances(self) -> Sequence[Balance]:
        self._check_session()
        margins: Mapping[str, Row] = await self._calls.ask(lambda kite: kite.margins())
        try:
            return balances(margins)
        except Odd as exc:
            raise AnswerUnclear(f"Zerodha's margins cannot be read: {exc}") from exc

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called when the order feed tells of any order, ours or not, and whenever the feed has been connected."""
        self._hint = callback

    async def close(self) -> None:
        self._has_session = False
        self._stop_feed()
        self._calls.close()

    # Calls

    def _check_session(self) -> None:
        if not self._has_session:
            raise BrokerUnavailable("Zerodha is not connected")

    async def _orders(self) -> _Book:
        told = await self._calls.ask(lambda kite: kite.orders())
        try:
            book = _Book(*read_orders(told))
        except Odd as exc:
            raise BrokerUnavailable(str(exc)) from exc
        if len(self._varieties) > _ORDERS_REMEMBERED:
            self._varieties.clear()
        self._varieties.update((order.order_id, order.cancelled_as) for order in book.orders)
        for odd in book.odd:
            self._tell_odd(odd.words)
        return book

    async def _trades(self) -> tuple[list[TradeRow], list[OddRow]]:
        """Those that can be read, and those that cannot. Of an order with one of these, the executions do not add up to its count, which
        says that one is missing."""
        told = await self._calls.ask(lambda kite: kite.trades())
        try:
            trades, odd = read_trades(told)
        except Odd as exc:
            raise BrokerUnavailable(str(exc)) from exc
        for each in odd:
            self._tell_odd(each.words)
        return trades, odd

    def _heard_at(self, trade: TradeRow) -> datetime:
        """When a trade whose time cannot be read was first told of."""
        key = (trade.order_id, trade.trade_id)
        if key not in self._first_heard:
            if len(self._first_heard) > _ORDERS_REMEMBERED:
                self._first_heard.clear()
            self._first_heard[key] = datetime.now(UTC)
            words = f"the trade {trade.trade_id} of order {trade.order_id} is taken as of now: {trade.told_time}"
            self._tell_odd(words)
        return self._first_heard[key]

    def _tell_odd(self, words: str) -> None:
        """Once each: the lists come again every second."""
        if words not in self._odd_told:
            if len(self._odd_told) > _ODD_REMEMBERED:
                self._odd_told.clear()
            self._odd_told.add(words)
            _log.warning("Zerodha: %s", words)

    async def _cancel(self, variety: str, order_id: str, kind: CallKind) -> None:
        await self._calls.ask(lambda kite: kite.cancel_order(variety, order_id), kind)

    async def _with_commissions(
        self, orders: Sequence[OrderRow], fills: Mapping[str, Sequence[Fill]]
    ) -> Mapping[str, Sequence[Fill]]:
        """Estimates what is new among the fills by one call, if it may be made now, and adds what is known."""
        wanted = self._notes.wanted(orders, fills, time.monotonic())
        if wanted:
            requests = [request for _, request in wanted]
            try:
                notes = await self._calls.ask(lambda kite: kite.get_virtual_contract_note(requests))
                self._notes.learn([key for key, _ in wanted], [_charged(note) for note in notes], time.monotonic())
            except HeldBack as exc:
                _log.info("Zerodha's contract notes wait: %s", exc)
            except (BrokerError, LookupError, TypeError) as exc:
                # A fill without its commission is better than no fill; the estimate is asked for again.
                self._notes.failed(time.monotonic())
                _log.info("Zerodha gave no virtual contract note: %s", exc)
        return {order_id: self._notes.priced(order_id, own) for order_id, own in fills.items()}

    # Instruments

    async def _listed(self, ticket: Ticket) -> ListedRow:
        """Raises OrderRefused, and HeldBack while there is no list of the day, or none that can be trusted about this instrument."""
        exchange = exchange_of(ticket.instrument)
        listing = await self._listing(exchange)
        listed = listing.resolve(ticket.instrument)
        if listed is None:
            listing = await self._listing(exchange, or_older_than_seconds=_LIST_AGAIN_SECONDS)
            listed = listing.resolve(ticket.instrument)
        if listed is None and ticket.instrument.symbol in listing.odd_symbols:
            words = f"{ticket.instrument.symbol} cannot be read in the instruments list of {exchange}"
            raise HeldBack(words, wait_seconds=_LIST_PAUSES_SECONDS[1])
        if listed is None:
            raise OrderRefused(f"{ticket.instrument.symbol} is not in the instruments list of {exchange}")
        return listed

    async def _learn_lot_size(self, listed: ListedRow) -> None:
        """Where quantities are in lots, asks the positions once for each contract what a lot is of; they tell it once it has been traded."""
        if listed.exchange not in IN_LOTS or (listed.exchange, listed.symbol) in self._lot_sizes:
            return
        try:
            told = await self._calls.ask(lambda kite: kite.positions())
        except AuthRequired:
            raise
        except BrokerError as exc:
            _log.info("What one lot of %s is of is not known: %s", listed.symbol, exc)
            return
        net = told.get("net") if isinstance(told, Mapping) else None
        self._lot_sizes |= lot_sizes(net if isinstance(net, list) else ())

    async def _listing(self, exchange: str, *, or_older_than_seconds: float = float("inf")) -> Listing:
        """The day's list, read again on a new day, or if it is older than so much. Raises HeldBack, at once after a failure that is young."""
        known = self._days_list(exchange, or_older_than_seconds)
        if known is not None:
            return known
        async with self._listing_locks[exchange]:
            known = self._days_list(exchange, or_older_than_seconds)
            if known is not None:
                return known
            trouble = self._list_troubles.get(exchange)
            wait_seconds = 0.0 if trouble is None else trouble.not_before - time.monotonic()
            if trouble is not None and wait_seconds > 0:
                raise HeldBack(trouble.words, wait_seconds=wait_seconds)
            try:
                rows = await self._calls.ask(lambda kite: Listing(exchange, kite.instruments(exchange)))
            except (AuthRequired, HeldBack):
                raise
            except BrokerUnavailable as exc:
                first, longest = _LIST_PAUSES_SECONDS
                pause = first if trouble is None else min(trouble.pause_seconds * 2, longest)
                words = f"The instruments list of {exchange} cannot be had: {exc}"
                self._list_troubles[exchange] = _ListTrouble(words, pause, time.monotonic() + pause)
                raise HeldBack(words, wait_seconds=pause) from exc
            self._list_troubles.pop(exchange, None)
            today = datetime.now(UTC).astimezone(IST).date()
            self._listings[exchange] = _DayList(rows, today, time.monotonic())
            if rows.odd_symbols:
                some = ", ".join(sorted(rows.odd_symbols)[:_ODD_NAMED])
                self._tell_odd(
                    f"{len(rows.odd_symbols)} lines of the instruments list of {exchange} cannot be read: {some}"
                )
            return rows

    def _days_list(self, exchange: str, or_older_than_seconds: float) -> Listing | None:
        known, today = self._listings.get(exchange), datetime.now(UTC).astimezone(IST).date()
        if known is None or known.day != today or time.monotonic() - known.read_at > or_older_than_seconds:
            return None
        return known.listing

    # Hints

    async def _start_feed(self) -> None:
        token = self._calls.token
        if self._feed is not None and self._feed.token == token:
            return
        self._stop_feed()
        access = self._configuration.access
        feed = OrderFeed(
            api_key=access.api_key,
            token=token,
            url=self._configuration.feed_url,
            on_events=self._heard,
            silence_seconds=self._configuration.feed_silence_seconds,
        )
        try:
            await asyncio.to_thread(feed.start)
        except BaseException as exc:
            feed.close()
            if not isinstance(exc, TimeoutError):
                raise
            # It only gives hints; it is tried again when the account is connected anew.
            _log.warning("The order feed of Zerodha could not be started: %s", exc)
            return
        self._feed = feed

    def _stop_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _heard(self) -> None:
        """In the feed's thread. Several pieces of news before the loop's next turn are one hint."""
        loop = self._loop
        if loop is None or self._is_hint_due:
            return
        self._is_hint_due = True
        try:
            loop.call_soon_threadsafe(self._give_hint)
        except RuntimeError:
            # The loop has ended, and with it whoever wanted to know.
            self._is_hint_due = False

    def _give_hint(self) -> None:
        self._is_hint_due = False
        if self._hint is not None and self._has_session:
            self._hint()


@dataclass(frozen=True, slots=True)
class _Book:
    """The order list: what could be read of it, and what could not."""

    orders: list[OrderRow]
    odd: list[OddRow]

    def call_ages(self, now: datetime) -> list[float]:
        """How long ago, in seconds, the calls were made that the list tells of: one for each order, one more for each cancelled. An order
        whose time cannot be read counts as of now."""
        ages: list[float] = [0.0] * len(self.odd)
        for order in self.orders:
            if order.leg is None or order.leg.number == 1:
                age = 0.0 if order.placed_at is None else (now - order.placed_at).total_seconds()
                ages += [age] * (2 if order.status == "CANCELLED" else 1)
        return ages

    def unreadable(self, odd_trades: Sequence[OddRow]) -> list[Unreadable]:
        """What cannot be read and may be of an order of ours."""
        tags = {order.order_id: order.tag for order in self.orders}
        told = [(odd.tag, odd.words) for odd in self.odd]
        told += [(tags.get(odd.order_id) if odd.order_id is not None else None, odd.words) for odd in odd_trades]
        return [Unreadable(client_order_id=tag or "", words=words) for tag, words in told if tag != ""]

    def told_of(self, client_order_ids: Iterable[str]) -> list[str]:
        """Those of which it is clear what it says, or that it does not show them."""
        shown, odd = {order.tag for order in self.orders}, {row.tag for row in self.odd}
        return [tag for tag in client_order_ids if tag not in odd and (tag in shown or None not in odd)]

    def check_found(self, client_order_id: str) -> None:
        """Raises AnswerUnclear if it is not clear what it says of the order."""
        if not self.told_of([client_order_id]):
            self.check_clear(client_order_id)

    def check_clear(self, client_order_id: str) -> None:
        """Raises AnswerUnclear if one of the odd rows may be this order's: then that it is not among the others proves nothing."""
        for odd in self.odd:
            if odd.may_concern(client_order_id):
                raise AnswerUnclear(f"Order {client_order_id} may be one that Zerodha shows oddly. {odd.words}")


@dataclass(frozen=True, slots=True)
class _DayList:
    listing: Listing
    day: date
    read_at: float


@dataclass(frozen=True, slots=True)
class _ListTrouble:
    """An instruments list that could not be had, and when it is asked for again (monotonic)."""

    words: str
    pause_seconds: float
    not_before: float


class Steadiness:
    """Since when each order's executions have been shown as they are now."""

    def __init__(self, settled_seconds: float) -> None:
        self._settled_seconds = settled_seconds
        self._since: dict[str, tuple[object, float]] = {}

    def judge(self, told: Sequence[Report], now: float) -> list[Report]:
        """The reports of one answer, with those said to be settled that are. `now` is monotonic seconds."""
        before, self._since = self._since, {}
        judged = []
        for report in told:
            figures = (
                report.fills_shown,
                report.filled_quantity,
                frozenset((fill.fill_id, fill.quantity, fill.price) for fill in report.fills),
            )
            known = before.get(report.broker_order_id)
            since = now if known is None or known[0] != figures else known[1]
            self._since[report.broker_order_id] = figures, since
            is_settled = report.fills_shown is FillsShown.ALL and now - since >= self._settled_seconds
            judged.append(replace(report, fills_shown=FillsShown.SETTLED) if is_settled else report)
        return judged


class ContractNotes:
    """What is known of the costs of the day's fills. A note is for a whole order: a fill costs what the order's note grew by it."""

    def __init__(self) -> None:
        self._commissions: dict[tuple[str, str], Decimal] = {}
        self._pause_seconds = 0.0
        self._not_before = float("-inf")

    def wanted(
        self, orders: Sequence[OrderRow], fills: Mapping[str, Sequence[Fill]], now: float
    ) -> list[tuple[tuple[str, str], dict[str, object]]]:
        """The notes to ask for now, by order and fill; none while a failed call is young."""
        if now < self._not_before:
            return []
        by_id = {order.order_id: order for order in orders if order.noted is not None}
        unknown = [
            (order_id, own)
            for order_id, own in reversed(list(fills.items()))
            if order_id in by_id and any((order_id, fill.fill_id) not in self._commissions for fill in own)
        ]
        # After a restart all of the day's are unknown here, and those of the last orders are those that nobody has recorded yet.
        unknown.sort(key=lambda each: max(fill.time for fill in each[1]), reverse=True)
        wanted: list[tuple[tuple[str, str], dict[str, object]]] = []
        for order_id, own in unknown:
            if len(wanted) >= _NOTED_AT_ONCE:
                break
            keys = [(order_id, fill.fill_id) for fill in own]
            first_new = next(index for index, key in enumerate(keys) if key not in self._commissions)
            asked = list(zip(keys, note_requests(by_id[order_id], own), strict=True))
            # The note before the first new fill is needed to know what that fill added.
            wanted += asked[max(first_new - 1, 0) :]
        return wanted

    def learn(self, keys: Sequence[tuple[str, str]], totals: Sequence[Decimal | None], now: float) -> None:
        """The totals of the notes asked for, in the same sequence; None: it cannot be read, and of that order nothing more is learnt. Raises
        LookupError if there are not as many."""
        if len(keys) != len(totals):
            raise LookupError(f"{len(totals)} notes came for {len(keys)} requests")
        if len(self._commissions) > _ORDERS_REMEMBERED:
            self._commissions.clear()
        before: dict[str, Decimal | None] = {}
        for key, total in zip(keys, totals, strict=True):
            earlier = before.get(key[0], Decimal(0))
            if total is not None and earlier is not None:
                self._commissions.setdefault(key, total - earlier)
            before[key[0]] = None if earlier is None else total
        if None in totals:
            self.failed(now)
        else:
            self._pause_seconds, self._not_before = 0.0, float("-inf")

    def failed(self, now: float) -> None:
        first, longest = _NOTE_PAUSES_SECONDS
        self._pause_seconds = min(max(self._pause_seconds * 2, first), longest)
        self._not_before = now + self._pause_seconds

    def priced(self, order_id: str, fills: Sequence[Fill]) -> Sequence[Fill]:
        """The fills with what is known of their costs."""
        return [_priced(fill, self._commissions.get((order_id, fill.fill_id))) for fill in fills]


def _priced(fill: Fill, commission: Decimal | None) -> Fill:
    if commission is None:
        return fill
    return replace(fill, commission=commission, commission_currency=CURRENCY)


def _charged(note: object) -> Decimal | None:
    """None for a note that cannot be read."""
    try:
        return charged(note)
    except Odd as exc:
        _log.info("A virtual contract note of Zerodha's cannot be read: %s", exc)
        return None


def _kind_of(ticket: Ticket) -> CallKind:
    return CallKind.EXIT if ticket.is_exit else CallKind.PLACE


def _placed(answer: object) -> str:
    """The order's id. Anything else is no answer, and the order may exist."""
    if not isinstance(answer, str | int) or not str(answer):
        raise TypeError(f"Zerodha answered with the order id {answer!r}")
    return str(answer)


def _ticker_beside(root_url: str | None) -> str | None:
    if root_url is None:
        return None
    parts = urlsplit(root_url)
    return urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "", "", ""))


def _usual_first(usual: str, *others: str) -> tuple[str, ...]:
    return (usual, *(other for other in others if other != usual))
