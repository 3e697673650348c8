"""The Zerodha broker: the Broker protocol, on top of the library's calls. The dialect, the calls and the feed are in
the modules beside this one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
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
    Instrument,
    NoQuote,
    OrderRef,
    OrderType,
    Quote,
    Report,
    Reports,
    ReportStatus,
    Ticket,
    Tif,
    Unreadable,
)
from brokers.call_kinds import CallKind
from brokers.configuration import Calls, MeteredConfiguration, TimeOut, Whole, Wrong, not_a_flag
from brokers.errors import AnswerUnclear, AuthRequired, BrokerError, BrokerUnavailable, HeldBack, OrderRefused
from brokers.manifest import Fact
from brokers.settled_reports import SettledTracker
from brokers.zerodha.calls import (
    ANSWER_SECONDS,
    AUTH_REQUIRED,
    CONNECT_SECONDS,
    READ_SECONDS,
    RESERVE_PERCENT,
    Access,
    KiteCalls,
)
from brokers.zerodha.codes import STOP_PASSED_WORDS
from brokers.zerodha.dialect import (
    CURRENCY,
    EXCHANGES,
    IN_LOTS,
    MOST_ICEBERG_LEGS,
    PRODUCTS,
    Listing,
    OrderDefaults,
    account_notes,
    asset_classes,
    balances,
    exchange_of,
    fills_by_order,
    is_overtaken,
    leg_before_next,
    legs_to_come,
    lot_sizes,
    named,
    note_requests,
    note_total,
    order_form,
    positions,
    reports,
    terms_of,
    to_cancel,
)
from brokers.zerodha.feed import OrderFeed
from brokers.zerodha.manifest import MANIFEST
from brokers.zerodha.rows import (
    ICEBERG,
    IST,
    ListedRow,
    Malformed,
    MalformedRow,
    OrderRow,
    Row,
    TradeRow,
    read_orders,
    read_profile,
    read_quote,
    read_trades,
)

_log = logging.getLogger(__name__)
_ORDER_DEFAULTS = OrderDefaults()
_FIND_WINDOW_SECONDS = 60.0
_POLL_SECONDS = 0.5
"""A poll costs two calls; this leaves half of the ten per second for polls after a hint of the order feed."""
_CONCURRENT_CALLS = 8
_LIST_AGAIN_SECONDS = 600.0
_NOTE_PAUSES_SECONDS = (0.5, 60.0)
"""After a failed contract note: the first pause, which doubles, and the longest."""
_LIST_PAUSES_SECONDS = (1.0, 60.0)
"""After a failed download of an instruments list: the first pause, which doubles, and the longest."""
_NOTED_AT_ONCE = 100
_QUOTED_AT_ONCE = 500
"""Kite's limit for quotes with depth."""
_QUOTED_BY_ALL = "NSE:INFY"
"""By which it is found out whether there are quotes."""
_SETTLED_SECONDS = 20.0
"""How long the order and trade lists must agree about an order before a missing trade counts as busted."""
_NEXT_LEG_SECONDS = 10.0
"""How long a cancel waits for the next leg of an iceberg order."""
_NEXT_LEG_AGAIN_SECONDS = 0.5
_LEGS_CHASED = 2
"""How many legs one cancel is sent after, each of which may fill before it arrives."""
_OF_THE_DAY_ALONE_SECONDS = 61.0
"""A call of that age counts in the day's limit, and in no shorter one: as the legs do that Zerodha places by itself."""
_MALFORMED_NAMED = 5
_ORDERS_REMEMBERED = 20_000
_MALFORMED_REMEMBERED = 1_000
_FIRST_LIST = "NSE"
"""Read when connecting, so that the day's first order does not wait for it."""


class Configuration(MeteredConfiguration):
    """One account's settings. Times are in seconds."""

    api_key: str = Field(repr=False)
    access_token: str = Field("", repr=False)
    access_token_file: Path | None = Field(None, validate_default=True)
    """Read anew each day, instead of `access_token`. Not opened before it is needed."""
    root_url: str | None = None
    """None: Zerodha's own."""
    ticker_url: str | None = None
    """None: Zerodha's own; if only a root URL is set, the feed is on its host and port."""
    user_id: str | None = None
    """The token must belong to this user."""
    market_protection: Annotated[Decimal, BeforeValidator(not_a_flag)] = _ORDER_DEFAULTS.market_protection
    """-1: Zerodha's own; else a percentage above 0, up to 100."""
    equity_product: str = _ORDER_DEFAULTS.equity_product
    derivatives_product: str = _ORDER_DEFAULTS.derivatives_product
    iceberg_legs: Whole = Field(_ORDER_DEFAULTS.iceberg_legs, ge=2, le=MOST_ICEBERG_LEGS)
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
    """Orders have been seen to appear in the list many seconds after they were sent: less than a minute is for
    simulators."""

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
    def order_defaults(self) -> OrderDefaults:
        return OrderDefaults(
            market_protection=self.market_protection,
            equity_product=self.equity_product,
            derivatives_product=self.derivatives_product,
            iceberg_legs=self.iceberg_legs,
        )

    @property
    def feed_url(self) -> str | None:
        return self.ticker_url or _ticker_beside(self.root_url)


def create(config: Mapping[str, object]) -> ZerodhaBroker:
    """A broker for one account, not yet connected. The settings are the fields of `Configuration`. Raises ValueError
    naming everything that is wrong."""
    return ZerodhaBroker(Configuration.of(config, broker="Zerodha"))


class ZerodhaBroker:
    """One account at Zerodha. Kite has no key that makes placing idempotent: an order that may have been sent is never
    sent again from here.

    A dead access token is a state, not an error of an order: every call raises AuthRequired until there is another
    token.
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
        self._settled_tracker = SettledTracker(_SETTLED_SECONDS)
        self._varieties: dict[str, str] = {}
        self._awaiting_leg: dict[OrderRef, tuple[str, float]] = {}
        """After which leg and since when (monotonic) the cancel of an iceberg order has been waiting for the next one."""
        self._malformed_logged: set[str] = set()
        self._first_received: dict[tuple[str, str], datetime] = {}
        """By order and trade: when a trade with an unreadable time was first received."""
        self._lot_sizes: dict[tuple[str, str], Decimal] = {}
        """By exchange and symbol: the units in one lot, as Kite reported them with positions."""

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
            takes_display_quantity=True,
            needs_reservation=True,
            fits_tickets=True,
            commission_currency=CURRENCY,
            concurrent_calls=_CONCURRENT_CALLS,
            find_window_seconds=self._configuration.find_window_seconds,
            poll_seconds=_POLL_SECONDS,
            stop_passed_words=STOP_PASSED_WORDS,
            share_products=_usual_first(self._configuration.equity_product, "CNC", "MIS", "NRML"),
            derivative_products=_usual_first(self._configuration.derivatives_product, "NRML", "MIS"),
            notes=(
                *notes,
                "Commissions are estimates from the virtual contract note; the day's contract note is final.",
                "An annulled or corrected trade is known only by its absence from the day's lists: compare with the day's contract note.",
            ),
        )

    async def connect(self) -> None:
        """Verifies that the token is valid and belongs to the right user. May be called again at any time."""
        self._calls.open()
        self._loop = asyncio.get_running_loop()
        self._has_session = False
        try:
            profile: Row = read_profile(await self._calls.ask(lambda kite: kite.profile()))
        except Malformed as exc:
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
            # The limits per minute and day continue over a restart of this process.
            self._calls.remember_order_calls((await self._orders()).call_ages(datetime.now(UTC)))
            self._is_day_counted = True
        self._profile = profile
        self._has_session = True
        await self._start_feed()
        if _FIRST_LIST in profile.get("exchanges", EXCHANGES):
            try:
                await self._listing(_FIRST_LIST)
            except BrokerUnavailable as exc:
                # Only orders need it, and they request it themselves.
                _log.info("The instruments list could not be read yet: %s", exc)

    async def fitted(self, ticket: Ticket) -> Ticket:
        """With its prices on the tick, and with the legs' size if it is worked in legs. Refused if the quantity is not a
        whole number of lots, or if Kite's list does not confirm what the order says of the contract."""
        self._check_session()
        listed = await self._listed(ticket)
        await self._learn_lot_size(listed)
        terms = terms_of(listed, ticket.instrument, self._lot_sizes)
        form = order_form(ticket, listed, self._configuration.order_defaults)
        limit, stop, part = form.get("price"), form.get("trigger_price"), form.get("iceberg_quantity")
        return replace(
            ticket,
            terms=terms,
            limit_price=ticket.limit_price if limit is None else Decimal(str(limit)),
            stop_price=ticket.stop_price if stop is None else Decimal(str(stop)),
            display_quantity=None if part is None else Decimal(str(part)),
        )

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """No id: Kite assigns it when placing. Raises RateLimited if the ticket would have to wait for the limit per
        minute or day."""
        self._calls.check_budget(_kind_of(ticket))
        return None

    async def place_order(self, ticket: Ticket) -> Report:
        """The report has no fills: Kite returns only the order's id."""
        self._check_session()
        listed = await self._listed(ticket)
        terms_of(listed, ticket.instrument, self._lot_sizes)
        form = order_form(ticket, listed, self._configuration.order_defaults)
        order_id = await self._calls.ask(lambda kite: _placed(kite.place_order(**form)), _kind_of(ticket))
        self._varieties[order_id] = str(form["variety"])
        if "iceberg_legs" in form:
            later_legs = int(str(form["iceberg_legs"])) - 1
            self._calls.remember_order_calls([_OF_THE_DAY_ALONE_SECONDS] * later_legs)
        return Report(
            client_order_id=ticket.client_order_id,
            broker_order_id=order_id,
            status=ReportStatus.WORKING,
            filled_quantity=Decimal(0),
        )

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        """Cancels the order, or the unfinished legs of an iceberg order. Costs one more call if the order's variety
        is not known yet, and a query and a cancel more if a leg fills meanwhile. Raises HeldBack between two legs."""
        self._check_session()
        kind = CallKind.CANCEL_AGAIN if again else CallKind.CANCEL
        self._calls.check_budget(kind)  # before any query is made for it
        order_id = ref.broker_order_id
        variety = None if order_id is None else self._varieties.get(order_id)
        if order_id is not None and variety is not None and variety != ICEBERG:
            await self._cancel(variety, order_id, kind)
            return
        book = await self._orders()
        for _ in range(_LEGS_CHASED):
            self._check_legs(book, ref)
            asked = to_cancel(book.orders, book.malformed, ref.client_order_id, order_id)
            if not asked and order_id is None:
                book.check_clear(ref.client_order_id)
                raise OrderRefused(f"Zerodha shows no order {ref.client_order_id}")
            if not asked and order_id is not None:
                # It may exist without being shown, so Zerodha itself must answer.
                shown = next((odd.variety for odd in book.malformed if odd.order_id == order_id), None)
                asked = {order_id: shown or "regular"}
            try:
                await self._cancel_each(asked, kind)
                return
            except OrderRefused:
                if ICEBERG not in asked.values():
                    raise
                before, book = book, await self._orders()
                if not book.is_overtaken(asked, before, ref):
                    raise
        words = f"the legs of order {ref.client_order_id} fill faster than they are cancelled"
        raise HeldBack(words, wait_seconds=_NEXT_LEG_AGAIN_SECONDS)

    async def _cancel_each(self, asked: Mapping[str, str], kind: CallKind) -> None:
        """Cancels these, by id and variety. Raises OrderRefused if none can be: of several one may be done already,
        and shall not keep the others alive."""
        refusals = []
        for order_id, variety in asked.items():
            try:
                await self._cancel(variety, order_id, kind)
            except OrderRefused as exc:
                refusals.append(exc)
        if len(refusals) == len(asked):
            raise refusals[-1]

    def _check_legs(self, book: _Book, ref: OrderRef) -> None:
        """Raises HeldBack between two legs of an iceberg order: cancelling the leg that is done would be refused, and
        the next one works. If that does not come for long, Kite itself must answer."""
        leg_id = leg_before_next(book.orders, book.malformed, ref.client_order_id, ref.broker_order_id)
        if leg_id is None:
            self._awaiting_leg.pop(ref, None)
            return
        now = time.monotonic()
        if len(self._awaiting_leg) > _ORDERS_REMEMBERED:
            self._awaiting_leg.clear()
        if ref not in self._awaiting_leg or self._awaiting_leg[ref][0] != leg_id:
            self._awaiting_leg[ref] = leg_id, now
        if now - self._awaiting_leg[ref][1] < _NEXT_LEG_SECONDS:
            words = (
                f"order {ref.client_order_id} is between two legs, and is cancelled as soon as the next one is shown"
            )
            raise HeldBack(words, wait_seconds=_NEXT_LEG_AGAIN_SECONDS)

    async def reports(self, since: int | None = None) -> Reports:
        """All orders of the day in two calls, and a third if commissions are to be estimated. Orders that cannot be
        read are left out. There is no mark."""
        self._check_session()
        book = await self._orders()
        trades, malformed_trades = await self._trades()
        fills = await self._with_commissions(book.orders, fills_by_order(trades, self._first_received_at))
        shown = reports(book.orders, fills, book.malformed, malformed_trades, now=self._clock())
        reported = self._settled_tracker.judge(shown, time.monotonic())
        return Reports(reported, unreadable=book.unreadable(malformed_trades))

    async def find(self, client_order_id: str) -> Report | None:
        """The oldest order of the day with this tag. Raises AnswerUnclear if an unreadable row may be the order."""
        self._check_session()
        book = await self._orders()
        book.check_found(client_order_id)
        return (await self._found(book, [client_order_id]))[client_order_id]

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """With one query of the day's orders, and one of its trades if any of these orders has filled."""
        self._check_session()
        book = await self._orders()
        return await self._found(book, book.clear_about(client_order_ids))

    async def _found(self, book: _Book, tags: Sequence[str]) -> dict[str, Report | None]:
        wanted = frozenset(tags)
        orders = [order for order in book.orders if order.tag in wanted]
        fills: Mapping[str, Sequence[Fill]] = {}
        malformed_trades: Sequence[MalformedRow] = ()
        if any(order.filled for order in orders):
            own = {order.order_id for order in orders}
            trades, malformed_trades = await self._trades()
            fills = fills_by_order((trade for trade in trades if trade.order_id in own), self._first_received_at)
        found: dict[str, Report | None] = dict.fromkeys(tags)
        priced = await self._with_commissions(orders, fills) if orders else {}
        for report in reversed(reports(orders, priced, malformed_trades=malformed_trades, now=self._clock())):
            found[report.client_order_id] = report  # the oldest of a tag comes last, and stays
        return found

    async def positions(self) -> Sequence[BrokerPosition]:
        """Today's positions and settled holdings, added up by product."""
        self._check_session()
        reported = await self._calls.ask(lambda kite: kite.positions())
        holdings = await self._calls.ask(lambda kite: kite.holdings())
        net = reported.get("net") if isinstance(reported, Mapping) else None
        if not isinstance(net, list) or not isinstance(holdings, list):
            raise AnswerUnclear("Zerodha answered with no list of positions")
        kinds: dict[tuple[str, str], ListedRow] = {}
        for row in net:
            try:
                exchange, symbol = named(row)
            except Malformed as exc:
                self._log_malformed(f"A position cannot be read: {exc}")
                continue
            if exchange in EXCHANGES and exchange not in ("NSE", "BSE"):
                listed = (await self._listing(exchange)).by_symbol(symbol)
                if listed is not None:
                    kinds[exchange, symbol] = listed
        self._lot_sizes |= lot_sizes(net)
        found = positions(net, holdings, kinds, self._lot_sizes)
        for position in found:
            if position.is_unclear and not position.is_unnamed:
                self._log_malformed(f"The position in {position.instrument.symbol} cannot be read: it is not compared")
        return found

    async def balances(self) -> Sequence[Balance]:
        self._check_session()
        margins: Mapping[str, Row] = await self._calls.ask(lambda kite: kite.margins())
        try:
            return balances(margins)
        except Malformed as exc:
            raise AnswerUnclear(f"Zerodha's margins cannot be read: {exc}") from exc

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """By one call, of which Kite allows one a second: none of those for orders or other queries is used, unless an instruments list has to be
        read first. Of more than 500 instruments the first."""
        self._check_session()
        found: dict[Instrument, Quote | NoQuote] = {}
        names: dict[str, list[Instrument]] = {}
        for instrument in instruments:
            try:
                listed = await self._listed_as(instrument)
            except OrderRefused as exc:
                found[instrument] = NoQuote(reason=exc.reason)
            except HeldBack as exc:
                _log.info("Zerodha is asked for no quote of %s: %s", instrument.symbol, exc)
            else:
                names.setdefault(f"{listed.exchange}:{listed.symbol}", []).append(instrument)
        asked = list(names)[:_QUOTED_AT_ONCE]
        if not asked:
            return found
        answer = await self._calls.ask(lambda kite: kite.quote(*asked), CallKind.QUOTE)
        for name in asked:
            found |= dict.fromkeys(names[name], _quote(name, answer.get(name)))
        return found

    async def quotes_in_words(self) -> str:
        """By asking for one: an app without Kite's market data is refused all."""
        self._check_session()
        try:
            await self._calls.ask(lambda kite: kite.quote(_QUOTED_BY_ALL), CallKind.QUOTE)
        except BrokerUnavailable as exc:
            return f"Quotes: none ({exc})."
        return "Quotes of all that Kite lists."

    def calls_left(self) -> dict[tuple[str, float], int]:
        """By kind of call and period in seconds, how many ordinary calls may leave now."""
        return self._calls.left()

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called when the order feed reports any order, ours or not, and whenever the feed has
        connected."""
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
        reported = await self._calls.ask(lambda kite: kite.orders())
        try:
            book = _Book(*read_orders(reported))
        except Malformed as exc:
            raise BrokerUnavailable(str(exc)) from exc
        if len(self._varieties) > _ORDERS_REMEMBERED:
            self._varieties.clear()
        self._varieties.update((order.order_id, order.cancelled_as) for order in book.orders)
        for malformed in book.malformed:
            self._log_malformed(malformed.words)
        return book

    async def _trades(self) -> tuple[list[TradeRow], list[MalformedRow]]:
        """The readable trades, and the unreadable ones. The executions of an order with an unreadable trade do not
        add up to its count, which shows that one is missing."""
        reported = await self._calls.ask(lambda kite: kite.trades())
        try:
            trades, malformed = read_trades(reported)
        except Malformed as exc:
            raise BrokerUnavailable(str(exc)) from exc
        for each in malformed:
            self._log_malformed(each.words)
        return trades, malformed

    def _first_received_at(self, trade: TradeRow) -> datetime:
        """When a trade with an unreadable time was first received."""
        key = (trade.order_id, trade.trade_id)
        if key not in self._first_received:
            if len(self._first_received) > _ORDERS_REMEMBERED:
                self._first_received.clear()
            self._first_received[key] = datetime.now(UTC)
            words = f"the trade {trade.trade_id} of order {trade.order_id} is taken as of now: {trade.time_text}"
            self._log_malformed(words)
        return self._first_received[key]

    def _log_malformed(self, words: str) -> None:
        """Once each: the lists are read every second."""
        if words not in self._malformed_logged:
            if len(self._malformed_logged) > _MALFORMED_REMEMBERED:
                self._malformed_logged.clear()
            self._malformed_logged.add(words)
            _log.warning("Zerodha: %s", words)

    async def _cancel(self, variety: str, order_id: str, kind: CallKind) -> None:
        await self._calls.ask(lambda kite: kite.cancel_order(variety, order_id), kind)

    async def _with_commissions(
        self, orders: Sequence[OrderRow], fills: Mapping[str, Sequence[Fill]]
    ) -> Mapping[str, Sequence[Fill]]:
        """Estimates the costs of new fills with one call, if a call is possible now, and adds what is known."""
        wanted = self._notes.wanted(orders, fills, time.monotonic())
        if wanted:
            requests = [request for _, request in wanted]
            try:
                notes = await self._calls.ask(lambda kite: kite.get_virtual_contract_note(requests))
                self._notes.learn([key for key, _ in wanted], [_charged(note) for note in notes], time.monotonic())
            except HeldBack as exc:
                _log.info("Zerodha's contract notes wait: %s", exc)
            except (BrokerError, LookupError, TypeError) as exc:
                # A fill without its commission is better than no fill; the estimate is requested again.
                self._notes.failed(time.monotonic())
                _log.info("Zerodha gave no virtual contract note: %s", exc)
        return {order_id: self._notes.priced(order_id, own) for order_id, own in fills.items()}

    # Instruments

    async def _listed(self, ticket: Ticket) -> ListedRow:
        """As `_listed_as`."""
        return await self._listed_as(ticket.instrument)

    async def _listed_as(self, instrument: Instrument) -> ListedRow:
        """Raises OrderRefused, and HeldBack while there is no instruments list for today, or none that is reliable
        for this instrument."""
        exchange = exchange_of(instrument)
        listing = await self._listing(exchange)
        listed = listing.resolve(instrument)
        if listed is None:
            listing = await self._listing(exchange, or_older_than_seconds=_LIST_AGAIN_SECONDS)
            listed = listing.resolve(instrument)
        if listed is None and instrument.symbol in listing.odd_symbols:
            words = f"{instrument.symbol} cannot be read in the instruments list of {exchange}"
            raise HeldBack(words, wait_seconds=_LIST_PAUSES_SECONDS[1])
        if listed is None:
            raise OrderRefused(f"{instrument.symbol} is not in the instruments list of {exchange}")
        return listed

    async def _learn_lot_size(self, listed: ListedRow) -> None:
        """Reads from the positions, once per contract, how many units a lot has; they say it once the contract was
        traded."""
        if listed.exchange not in IN_LOTS or (listed.exchange, listed.symbol) in self._lot_sizes:
            return
        try:
            reported = await self._calls.ask(lambda kite: kite.positions())
        except AuthRequired:
            raise
        except BrokerError as exc:
            _log.info("What one lot of %s is of is not known: %s", listed.symbol, exc)
            return
        net = reported.get("net") if isinstance(reported, Mapping) else None
        self._lot_sizes |= lot_sizes(net if isinstance(net, list) else ())

    async def _listing(self, exchange: str, *, or_older_than_seconds: float = float("inf")) -> Listing:
        """Today's list, read again on a new day, or if it is older than that. Raises HeldBack, without a query
        shortly after a failure."""
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
                some = ", ".join(sorted(rows.odd_symbols)[:_MALFORMED_NAMED])
                self._log_malformed(
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
            on_events=self._on_feed_event,
            silence_seconds=self._configuration.feed_silence_seconds,
        )
        try:
            await asyncio.to_thread(feed.start)
        except BaseException as exc:
            feed.close()
            if not isinstance(exc, TimeoutError):
                raise
            # The feed only gives hints; it is tried again at the next connection.
            _log.warning("The order feed of Zerodha could not be started: %s", exc)
            return
        self._feed = feed

    def _stop_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _on_feed_event(self) -> None:
        """Called in the feed's thread. Several events before the loop's next iteration are one hint."""
        loop = self._loop
        if loop is None or self._is_hint_due:
            return
        self._is_hint_due = True
        try:
            loop.call_soon_threadsafe(self._give_hint)
        except RuntimeError:
            # The loop has ended, and with it whoever wanted the hint.
            self._is_hint_due = False

    def _give_hint(self) -> None:
        self._is_hint_due = False
        if self._hint is not None and self._has_session:
            self._hint()


def _quote(name: str, row: object) -> Quote | NoQuote:
    if row is None:
        return NoQuote(reason=f"Zerodha has no quote of {name}")
    try:
        read = read_quote(row)
    except Malformed as exc:
        return NoQuote(reason=f"Zerodha's quote of {name} cannot be read: {exc}")
    return Quote(bid=read.bid, ask=read.ask, last=read.last, at=read.at, last_at=read.last_at)


@dataclass(frozen=True, slots=True)
class _Book:
    """The order list: the readable rows and the unreadable ones."""

    orders: list[OrderRow]
    malformed: list[MalformedRow]

    def call_ages(self, now: datetime) -> list[float]:
        """How long ago, in seconds, the calls were made that led to these rows: one for each order, one more for
        each cancelled. A row without a readable time counts as new. A later leg of an iceberg order took no call, and
        counts in the day's limit alone; so do the legs that are still to come."""
        ages: list[float] = [0.0] * len(self.malformed)
        for order in self.orders:
            age = 0.0 if order.placed_at is None else (now - order.placed_at).total_seconds()
            own_age = age if order.leg is None or order.leg.number == 1 else max(age, _OF_THE_DAY_ALONE_SECONDS)
            ages += [own_age] + [age] * (order.status == "CANCELLED")
        return ages + [_OF_THE_DAY_ALONE_SECONDS] * legs_to_come(self.orders)

    def is_overtaken(self, asked: Container[str], before: _Book, ref: OrderRef) -> bool:
        """Whether one of these legs has filled since `before`, and the order goes on."""
        lists = (before.orders, before.malformed), (self.orders, self.malformed)
        return is_overtaken(asked, *lists, ref.client_order_id, ref.broker_order_id)

    def unreadable(self, malformed_trades: Sequence[MalformedRow]) -> list[Unreadable]:
        """What cannot be read and may be about an order of ours."""
        tags = {order.order_id: order.tag for order in self.orders}
        reported = [(malformed.tag, malformed.words) for malformed in self.malformed]
        reported += [
            (tags.get(malformed.order_id) if malformed.order_id is not None else None, malformed.words)
            for malformed in malformed_trades
        ]
        return [Unreadable(client_order_id=tag or "", words=words) for tag, words in reported if tag != ""]

    def clear_about(self, client_order_ids: Iterable[str]) -> list[str]:
        """Those of these orders about which the list is clear: what it says, or that it does not have them."""
        shown, malformed = {order.tag for order in self.orders}, {row.tag for row in self.malformed}
        return [tag for tag in client_order_ids if tag not in malformed and (tag in shown or None not in malformed)]

    def check_found(self, client_order_id: str) -> None:
        """Raises AnswerUnclear if it is not clear what the list says about the order."""
        if not self.clear_about([client_order_id]):
            self.check_clear(client_order_id)

    def check_clear(self, client_order_id: str) -> None:
        """Raises AnswerUnclear if an unreadable row may be this order's, so that its absence from the others proves
        nothing."""
        for malformed in self.malformed:
            if malformed.may_concern(client_order_id):
                raise AnswerUnclear(f"Order {client_order_id} may be one that Zerodha shows oddly. {malformed.words}")


@dataclass(frozen=True, slots=True)
class _DayList:
    listing: Listing
    day: date
    read_at: float


@dataclass(frozen=True, slots=True)
class _ListTrouble:
    """An instruments list that could not be downloaded, and when it may be tried again (monotonic)."""

    words: str
    pause_seconds: float
    not_before: float


class ContractNotes:
    """The known costs of the day's fills. A contract note is for a whole order: a fill costs what it added to the
    order's note."""

    def __init__(self) -> None:
        self._commissions: dict[tuple[str, str], Decimal] = {}
        self._pause_seconds = 0.0
        self._not_before = float("-inf")

    def wanted(
        self, orders: Sequence[OrderRow], fills: Mapping[str, Sequence[Fill]], now: float
    ) -> list[tuple[tuple[str, str], dict[str, object]]]:
        """The notes to request now, by order and fill; none shortly after a failed call."""
        if now < self._not_before:
            return []
        by_id = {order.order_id: order for order in orders if order.noted is not None}
        unknown = [
            (order_id, own)
            for order_id, own in reversed(list(fills.items()))
            if order_id in by_id and any((order_id, fill.fill_id) not in self._commissions for fill in own)
        ]
        # After a restart all of the day's costs are unknown here; the last orders are the ones that are not recorded
        # yet.
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
        """The totals of the requested notes, in the same order. None: unreadable, and nothing more is requested for
        that order. Raises LookupError if the number of totals is wrong."""
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
        """The fills with their known costs."""
        return [_priced(fill, self._commissions.get((order_id, fill.fill_id))) for fill in fills]


def _priced(fill: Fill, commission: Decimal | None) -> Fill:
    if commission is None:
        return fill
    return replace(fill, commission=commission, commission_currency=CURRENCY)


def _charged(note: object) -> Decimal | None:
    """None for an unreadable note."""
    try:
        return note_total(note)
    except Malformed as exc:
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
