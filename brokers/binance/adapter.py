"""The Binance broker: the Broker protocol for USD-M futures, on top of the calls. What is read of the account's orders
is kept in `blotter.py`; the forms, the rows and the stream are in the modules beside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, ValidationInfo, field_validator

from brokers.base import (
    AssetClass,
    Balance,
    BrokerPosition,
    Capabilities,
    Instrument,
    NoQuote,
    OrderRef,
    OrderType,
    Quote,
    Report,
    Reports,
    ReportStatus,
    Side,
    Ticket,
    Tif,
    Unreadable,
)
from brokers.binance.blotter import Blotter
from brokers.binance.calls import ANSWER_SECONDS, CONNECT_SECONDS, Access, BinanceCalls, Refusal
from brokers.binance.codes import MARGIN_TYPE_AS_ASKED, NOTHING_LEFT_TO_REDUCE, PASSING, OtherPositionMode
from brokers.binance.manifest import MANIFEST, STREAM_URLS, base_url, is_paper
from brokers.binance.market import CONDITIONAL, LONG, SHORT, Listing, Listings, OrderDefaults, fitted, order_form
from brokers.binance.quotes import BOOK_TICKERS, DAY_TICKERS, day_form_for, form_for, quotes_in, volumes_in
from brokers.binance.rows import (
    Malformed,
    MalformedRow,
    PositionRow,
    read_algo,
    read_balance,
    read_position,
    read_rows,
)
from brokers.binance.stream import UserStream
from brokers.call_kinds import CallKind
from brokers.configuration import AccountConfiguration, Calls, TimeOut, Whole, Wrong
from brokers.errors import AnswerUnclear, AuthRequired, BrokerUnavailable, HeldBack, OrderRefused, OutcomeUnknown
from brokers.manifest import Fact
from brokers.rate import limit
from brokers.volumes import KeptVolumes

_log = logging.getLogger(__name__)
CURRENCY = "USDT"
STOP_PASSED_WORDS = ("would immediately trigger",)
"""Of the refusal -2021: the price is through the stop."""
_FIND_WINDOW_SECONDS = 120.0
"""An order that was accepted, and even filled, has been seen to be unknown to GET order for more than 13 seconds."""
_POLL_SECONDS = 1.0
_CONCURRENT_CALLS = 8
_LIST_AGAIN_SECONDS = 600.0
_EXIT_AGAIN_SECONDS = 5.0
_VOLUMES_KEPT_SECONDS = 600.0
_STALE_LIST_CODES = frozenset({-1111, -4014, -4023})
"""Refusals by a tick or step that is not what our list says."""


class Configuration(AccountConfiguration):
    """One account's settings. Times are in seconds."""

    api_key: str = Field(repr=False)
    api_secret: str = Field("", repr=False)
    private_key_file: Path | None = Field(None, validate_default=True)
    """Of an RSA or Ed25519 key in PEM form, instead of `api_secret`."""
    testnet: bool = True
    base_url: str | None = None
    """None: by `testnet`."""
    stream_url: str | None = None
    """None: the one that belongs to the base URL."""
    position_mode: Literal["one_way", "hedge"] = "one_way"
    """The account's own must be the same, or nothing is sent."""
    leverage: Whole | None = Field(None, ge=1, le=125)
    """Set for each contract before its first order that is no exit. None: as the account has it."""
    margin_type: Literal["ISOLATED", "CROSSED"] | None = None
    working_type: Literal["CONTRACT_PRICE", "MARK_PRICE"] = "CONTRACT_PRICE"
    """The price that triggers stops: of the last trade, or the mark price."""
    protective_working_type: Literal["CONTRACT_PRICE", "MARK_PRICE"] = "MARK_PRICE"
    """The same of stops that protect a position: a single trade far from the market triggers none."""
    reduce_only_exits: bool = True
    """Exits leave as reduce-only, so that they cannot open a position. Off only where several strategies hold opposite
    positions in one contract."""
    rate_limit_rpm: Whole = Field(1200, ge=100)
    """The weight of all calls in a minute, at most."""
    orders_per_10_seconds: Calls = 240
    orders_per_minute: Calls = 960
    order_reserve_percent: Whole = Field(20, ge=0, le=90)
    connect_timeout_seconds: TimeOut = CONNECT_SECONDS
    answer_timeout_seconds: TimeOut = ANSWER_SECONDS
    stream_silence_seconds: TimeOut = 20.0
    find_window_seconds: TimeOut = _FIND_WINDOW_SECONDS
    """Less than two minutes is for simulators."""

    @field_validator("private_key_file")
    @classmethod
    def _is_one_named(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None and info.data.get("api_secret") == "":
            raise Wrong("api_secret or private_key_file is missing")
        return path

    @property
    def address(self) -> str:
        return base_url({"base_url": self.base_url, "testnet": self.testnet})

    @property
    def stream_address(self) -> str:
        if self.stream_url is not None:
            return self.stream_url
        parts = urlsplit(self.address)
        known = STREAM_URLS.get(parts.hostname or "")
        return known or urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "", "", ""))

    @property
    def access(self) -> Access:
        percent = self.order_reserve_percent
        return Access(
            api_key=self.api_key,
            api_secret=self.api_secret,
            private_key_file=self.private_key_file,
            base_url=self.address,
            connect_timeout_seconds=self.connect_timeout_seconds,
            answer_timeout_seconds=self.answer_timeout_seconds,
            weight_limits=(limit(calls=self.rate_limit_rpm, seconds=60.0, reserve_percent=percent),),
            order_limits=(
                limit(calls=self.orders_per_10_seconds, seconds=10.0, reserve_percent=percent),
                limit(calls=self.orders_per_minute, seconds=60.0, reserve_percent=percent),
            ),
        )

    @property
    def order_defaults(self) -> OrderDefaults:
        return OrderDefaults(
            working_type=self.working_type,
            protective_working_type=self.protective_working_type,
            is_hedged=self.position_mode == "hedge",
            reduce_only_exits=self.reduce_only_exits,
        )


def create(config: Mapping[str, object]) -> BinanceBroker:
    """A broker for one account, not yet connected. The settings are the fields of `Configuration`. Raises ValueError
    naming everything that is wrong."""
    return BinanceBroker(Configuration.of(config, broker="Binance"))


class BinanceBroker:
    """One account's USD-M futures. A client order id is unique among open orders only: a filled order's id is taken again.
    So an order that may have been sent is never sent again from here."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._calls = BinanceCalls(configuration.access)
        self._blotter = Blotter(self._calls)
        self._stream: UserStream | None = None
        self._has_session = False
        self._hint: Callable[[], None] | None = None
        self._listings: Listings | None = None
        self._listed_at = float("-inf")
        self._listing_lock = asyncio.Lock()
        self._prepared: set[str] = set()
        """The contracts whose leverage and margin type are as configured."""
        self._notes: tuple[str, ...] = ()
        self._volumes = KeptVolumes(_VOLUMES_KEPT_SECONDS)

    @property
    def name(self) -> str:
        return "BINANCE"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            order_types=frozenset(OrderType),
            tifs=frozenset({Tif.GTC, Tif.IOC}),
            asset_classes=frozenset({AssetClass.CRYPTO, AssetClass.FUTURE}),
            refuses_repeated_client_id=Fact.REFUSES_REPEATED_IDS in MANIFEST.facts,
            needs_reservation=True,
            fits_tickets=True,
            commission_currency=CURRENCY,
            concurrent_calls=_CONCURRENT_CALLS,
            find_window_seconds=self._configuration.find_window_seconds,
            is_paper=is_paper({"base_url": self._configuration.address}),
            poll_seconds=_POLL_SECONDS,
            stop_passed_words=STOP_PASSED_WORDS,
            derivative_products=(LONG, SHORT) if self._configuration.order_defaults.is_hedged else (),
            notes=(
                *self._notes,
                self._note_of_exits(),
            ),
        )

    def _note_of_exits(self) -> str:
        if self._configuration.order_defaults.is_hedged:
            return "Orders name the side of the position as their product, LONG or SHORT; exits close that side and cannot open the other."
        if self._configuration.reduce_only_exits:
            return "Exits leave as reduce-only: they cannot open a position."
        return "Exits do not leave as reduce-only."

    async def connect(self) -> None:
        """Verifies that the key is valid, that the account may trade, and that it keeps positions as configured. May be called
        again at any time."""
        self._calls.open()
        self._has_session = False
        try:
            account = await self._asked("GET", "/fapi/v1/accountConfig", weight=5)
            self._check_account(account)
            await self._all_listings(anew=self._listings is None)
            await self._blotter.begin()
        except Malformed as exc:
            raise BrokerUnavailable(str(exc)) from exc
        self._has_session = True
        if self._stream is None:
            self._stream = UserStream(
                self._calls,
                stream_url=self._configuration.stream_address,
                on_event=self._on_event,
                silence_seconds=self._configuration.stream_silence_seconds,
            )
        self._stream.start()

    async def fitted(self, ticket: Ticket) -> Ticket:
        """With its prices on the tick and its quantity on the step. Sets the contract's leverage and margin type where the
        account's settings name them."""
        self._check_session()
        listing = await self._listed(ticket)
        ticket = fitted(ticket, listing)
        order_form(ticket, listing, self._configuration.order_defaults)
        if not ticket.is_exit:
            await self._prepare(listing)
        return ticket

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """No id: Binance assigns it when placing. Raises RateLimited if the ticket would have to wait."""
        self._calls.check_budget(_kind_of(ticket))
        return None

    async def place_order(self, ticket: Ticket) -> Report:
        """The report has no fills: Binance returns only the order's id. Raises HeldBack for an exit of what other open orders
        would close first, or whose price is too far from the mark price now."""
        self._check_session()
        listing = await self._listed(ticket)
        ticket = fitted(ticket, listing)
        form = order_form(ticket, listing, self._configuration.order_defaults)
        is_conditional = ticket.order_type in CONDITIONAL
        path = "/fapi/v1/algoOrder" if is_conditional else "/fapi/v1/order"
        try:
            answer = await self._calls.ask("POST", path, form, kind=_kind_of(ticket))
        except OrderRefused as refused:
            cause = refused.__cause__
            if isinstance(cause, Refusal) and cause.code in _STALE_LIST_CODES:
                self._listed_at = float("-inf")
            if isinstance(cause, Refusal) and ticket.is_exit:
                await self._check_exit_is_refused_for_good(ticket, listing, cause)
            raise
        try:
            if is_conditional:
                placed_algo = read_algo(answer)
                self._blotter.learn_algo(placed_algo)
                broker_order_id = placed_algo.broker_order_id
            else:
                number = answer.get("orderId") if isinstance(answer, Mapping) else None
                if not isinstance(number, int) or isinstance(number, bool):
                    raise Malformed(f"the order's id is {number!r}")
                broker_order_id = f"{listing.symbol}:{number}"
        except (Malformed, AttributeError) as exc:
            raise OutcomeUnknown(f"Binance accepted the order with an answer that cannot be read: {exc}") from exc
        self._blotter.learn_place(ticket.client_order_id, listing.symbol)
        return Report(
            client_order_id=ticket.client_order_id,
            broker_order_id=broker_order_id,
            status=ReportStatus.WORKING,
            filled_quantity=Decimal(0),
        )

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        """A conditional order that has been triggered is cancelled as the order that it became. Costs more calls if the order's
        symbol is not known yet."""
        self._check_session()
        kind = CallKind.CANCEL_AGAIN if again else CallKind.CANCEL
        self._calls.check_budget(kind)  # before any query is made for it
        place = _place_of(ref.broker_order_id)
        if place is None:
            found = await self._blotter.find([ref.client_order_id])
            report = found.get(ref.client_order_id)
            place = None if report is None else _place_of(report.broker_order_id)
        if place is None:
            raise OrderRefused(f"Binance shows no order {ref.broker_order_id or ref.client_order_id}")
        symbol, number, is_algo = place
        if is_algo:
            await self._cancel_algo(symbol, number, kind)
        else:
            await self._cancel(symbol, number, kind)

    async def reports(self, since: int | None = None) -> Reports:
        """The orders of the last 24 hours and all open ones. Orders that cannot be read are left out. There is no mark."""
        self._check_session()
        try:
            reports, malformed = await self._blotter.reports()
        except Malformed as exc:
            raise BrokerUnavailable(str(exc)) from exc
        unreadable = [Unreadable(client_order_id=row.tag or "", words=row.words) for row in malformed if row.tag != ""]
        return Reports(reports, unreadable=unreadable)

    async def find(self, client_order_id: str) -> Report | None:
        """The oldest order with this tag. Raises AnswerUnclear if an unreadable row may be the order."""
        self._check_session()
        found = await self.find_all([client_order_id])
        if client_order_id not in found:
            raise AnswerUnclear(f"Order {client_order_id} may be one that Binance shows oddly")
        return found[client_order_id]

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """With one query each for the conditional orders, and two for all others."""
        self._check_session()
        try:
            return await self._blotter.find(list(client_order_ids))
        except Malformed as exc:
            raise AnswerUnclear(str(exc)) from exc

    async def positions(self) -> Sequence[BrokerPosition]:
        """Where the account keeps long and short positions apart, each is one by itself, with its side as its product."""
        self._check_session()
        listings = await self._all_listings()
        try:
            rows, malformed = await self._position_rows()
        except Malformed as exc:
            raise AnswerUnclear(str(exc)) from exc
        positions: list[BrokerPosition] = []
        for row in rows:
            listing = listings.by_symbol(row.symbol)
            if not row.quantity:
                continue
            if listing is None:
                _log.warning("Binance shows a position in %s, which is not in its list of contracts", row.symbol)
            positions.append(
                BrokerPosition(
                    instrument=_unlisted(row.symbol) if listing is None else listing.instrument,
                    quantity=row.quantity,
                    average_price=row.entry_price,
                    also_called=frozenset() if listing is None else listing.also_called,
                    terms=None if listing is None else listing.terms,
                    product=row.side if row.side in (LONG, SHORT) else None,
                )
            )
        for malformed_row in malformed:
            _log.warning("%s: it is not compared", malformed_row.words)
            positions.append(BrokerPosition(instrument=_unlisted(""), quantity=Decimal(0), is_unclear=True))
        return positions

    async def balances(self) -> Sequence[Balance]:
        """One for each asset of the futures wallet that is not empty, and always one in USDT."""
        self._check_session()
        try:
            rows, malformed = read_rows(
                await self._asked("GET", "/fapi/v3/balance", weight=5), read_balance, "balances", "asset"
            )
        except Malformed as exc:
            raise AnswerUnclear(str(exc)) from exc
        if malformed:
            raise AnswerUnclear(malformed[0].words)
        return [row for row in rows if row.cash or row.equity or row.currency == CURRENCY]

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """The best bid and ask: one contract by itself, several by one call that tells those of all. Nothing is asked while less than
        half of the minute's weight is left."""
        self._check_session()
        listings = await self._all_listings()
        found: dict[Instrument, Quote | NoQuote] = {}
        symbols: dict[str, list[Instrument]] = {}
        for instrument in instruments:
            try:
                symbols.setdefault(listings.resolve(instrument).symbol, []).append(instrument)
            except OrderRefused as exc:
                found[instrument] = NoQuote(reason=exc.reason)
        if symbols:
            told = await self._quotes_of(list(symbols))
            for symbol, named in symbols.items():
                found |= dict.fromkeys(named, told[symbol])
        return found

    async def usual_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """A minute's part of the last 24 hours: one contract by itself, several by one call that tells those of all, each at most every ten minutes.
        Nothing is asked while less than half of the minute's weight is left."""
        self._check_session()
        listings, symbols = await self._all_listings(), {}
        for instrument in instruments:
            try:
                symbols[instrument] = listings.resolve(instrument).symbol
            except OrderRefused:
                continue
        to_ask = self._volumes.to_ask(set(symbols.values()))
        if to_ask:
            self._calls.check_spare()
            form, weight = day_form_for(to_ask)
            try:
                answer = await self._calls.ask(
                    "GET", DAY_TICKERS, form, weight=weight, kind=CallKind.QUOTE, is_signed=False
                )
                self._volumes.keep(to_ask, volumes_in(answer))
            except Refusal as refusal:
                raise BrokerUnavailable(f"Binance: {refusal}") from refusal
            except Malformed as exc:
                raise BrokerUnavailable(str(exc)) from exc
        found = ((instrument, self._volumes.of(symbol)) for instrument, symbol in symbols.items())
        return {instrument: volume for instrument, volume in found if volume is not None}

    async def quotes_in_words(self) -> str:
        """By asking for all: in demo trading not every contract has both sides."""
        self._check_session()
        symbols = (await self._all_listings()).trading
        told = await self._quotes_of(symbols)
        two_sided = [each for each in told.values() if isinstance(each, Quote) and None not in (each.bid, each.ask)]
        return f"Quotes (best bid and ask) of {len(two_sided)} of the {len(symbols)} contracts that are traded."

    async def _quotes_of(self, symbols: Sequence[str]) -> Mapping[str, Quote | NoQuote]:
        self._calls.check_spare()
        form, weight = form_for(symbols)
        try:
            answer = await self._calls.ask(
                "GET", BOOK_TICKERS, form, weight=weight, kind=CallKind.QUOTE, is_signed=False
            )
            return quotes_in(answer, symbols, self._calls.by_our_clock)
        except Malformed as exc:
            raise BrokerUnavailable(str(exc)) from exc

    def calls_left(self) -> dict[tuple[str, float], int]:
        """By kind of call and period in seconds, how many ordinary calls (or how much weight) may leave now."""
        return self._calls.left()

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called for every event of the account's stream, and whenever that has connected."""
        self._hint = callback

    async def close(self) -> None:
        self._has_session = False
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        await self._calls.close()

    async def _check_exit_is_refused_for_good(self, ticket: Ticket, listing: Listing, refusal: Refusal) -> None:
        """Raises HeldBack if a refused exit may leave later: by the state of the market, because open orders would close the position
        before it, or because Binance shows the position all the same: it names the edge of liquidation as a third reason (ccxt issue 9001)."""
        if refusal.code in PASSING:
            raise HeldBack(f"Binance: {refusal}", wait_seconds=_EXIT_AGAIN_SECONDS) from refusal
        if refusal.code not in NOTHING_LEFT_TO_REDUCE:
            return
        try:
            others = await self._blotter.closing(listing.symbol, ticket.side)
            held = Decimal(0) if others else await self._closable(listing.symbol, ticket.side)
        except (Malformed, BrokerUnavailable) as exc:
            words = f"Binance: {refusal}; what other orders would close, and what is held, is not told now ({exc})"
            raise HeldBack(words, wait_seconds=_EXIT_AGAIN_SECONDS) from exc
        if others:
            names = ", ".join(row.broker_order_id for row in others)
            words = (
                f"The position in {listing.symbol} is not left to this order: {names} would take it first ({refusal})"
            )
            raise HeldBack(words, wait_seconds=_EXIT_AGAIN_SECONDS) from refusal
        # Where sides are kept apart, one of more than its side holds is refused for that.
        if held and (held >= ticket.quantity or not self._configuration.order_defaults.is_hedged):
            words = f"Binance shows {held:f} of {listing.symbol} and does not let it go now ({refusal})"
            raise HeldBack(words, wait_seconds=_EXIT_AGAIN_SECONDS) from refusal

    async def _closable(self, symbol: str, side: Side) -> Decimal:
        """How much an order of this side could close, by Binance's positions. Raises Malformed, BrokerUnavailable."""
        rows, malformed = await self._position_rows()
        if malformed:
            raise Malformed(malformed[0].words)
        own = (-row.quantity * side.sign for row in rows if row.symbol == symbol)
        return sum((quantity for quantity in own if quantity > 0), Decimal(0))

    async def _position_rows(self) -> tuple[list[PositionRow], list[MalformedRow]]:
        """Raises Malformed, BrokerUnavailable."""
        answer = await self._asked("GET", "/fapi/v3/positionRisk", weight=5)
        return read_rows(answer, read_position, "positions", "symbol")

    # Calls

    def _check_session(self) -> None:
        if not self._has_session:
            raise BrokerUnavailable("Binance is not connected")

    async def _asked(self, method: str, path: str, params: Mapping[str, object] | None = None, *, weight: int) -> Any:
        """A query whose refusal is an error of the account or of ours, not of an order."""
        try:
            return await self._calls.ask(method, path, params, weight=weight)
        except Refusal as refusal:
            raise BrokerUnavailable(f"Binance: {refusal}") from refusal

    def _check_account(self, account: object) -> None:
        if not isinstance(account, Mapping) or not isinstance(account.get("dualSidePosition"), bool):
            raise Malformed("Binance's answer about the account cannot be read")
        if account.get("canTrade") is False:
            raise AuthRequired("This account or key may not trade futures at Binance")
        wanted = self._configuration.position_mode
        is_hedged = account["dualSidePosition"]
        if is_hedged is not (wanted == "hedge"):
            actual = "hedge" if is_hedged else "one_way"
            raise OtherPositionMode(
                f"The account's position mode at Binance is {actual}, but position_mode is {wanted}"
            )
        self._notes = (
            f"Position mode {wanted}, multi-asset margin {'on' if account.get('multiAssetsMargin') else 'off'}.",
        )

    async def _cancel(self, symbol: str, number: int, kind: CallKind) -> None:
        try:
            await self._calls.ask("DELETE", "/fapi/v1/order", {"symbol": symbol, "orderId": number}, kind=kind)
        except Refusal as refusal:
            # Not open (any more): which of the two, only another question tells.
            order = await self._blotter.one_order(symbol, number)
            words = "it is not known" if order is None else f"the order is {order.status}"
            raise OrderRefused(f"Too late to cancel: {words}") from refusal

    async def _cancel_algo(self, symbol: str, number: int, kind: CallKind) -> None:
        try:
            await self._calls.ask("DELETE", "/fapi/v1/algoOrder", {"algoId": number}, kind=kind)
            return
        except (Refusal, OrderRefused) as refusal:
            algo = await self._blotter.one_algo(number=number)
            if algo is None or algo.child is None:
                words = "it is not known" if algo is None else f"the order is {algo.status}"
                raise OrderRefused(f"Too late to cancel: {words}") from refusal
        await self._cancel(symbol, algo.child, kind)

    # Contracts

    async def _listed(self, ticket: Ticket) -> Listing:
        """Raises OrderRefused, and BrokerUnavailable while there is no list of contracts."""
        listings = await self._all_listings()
        try:
            return listings.resolve(ticket.instrument)
        except OrderRefused:
            if time.monotonic() - self._listed_at < _LIST_AGAIN_SECONDS:
                raise
        return (await self._all_listings(anew=True)).resolve(ticket.instrument)

    async def _all_listings(self, *, anew: bool = False) -> Listings:
        """Read once a day, after a refusal that contradicts it, and for a symbol that is not in it."""
        async with self._listing_lock:
            known = self._listings
            is_of_today = known is not None and known.read_on == datetime.now(UTC).date()
            if known is not None and is_of_today and not anew and self._listed_at > float("-inf"):
                return known
            try:
                answer = await self._calls.ask("GET", "/fapi/v1/exchangeInfo", is_signed=False)
                listings = Listings(answer)
            except (Malformed, Refusal) as exc:
                raise BrokerUnavailable(f"Binance's list of contracts cannot be had: {exc}") from exc
            if listings.odd_symbols:
                _log.warning("%d contracts of Binance cannot be read: %s", len(listings.odd_symbols), _some(listings))
            self._calls.keep_within(
                weight_per_minute=listings.limits.weight_per_minute,
                orders_by_seconds=listings.limits.orders_by_seconds,
            )
            self._listings, self._listed_at = listings, time.monotonic()
            return listings

    async def _prepare(self, listing: Listing) -> None:
        """Leverage and margin type as the account's settings name them, once for each contract. Raises OrderRefused if Binance
        will not set them: the order would be placed at terms that nobody named."""
        wanted = self._configuration
        if listing.symbol in self._prepared or (wanted.leverage is None and wanted.margin_type is None):
            return
        try:
            if wanted.margin_type is not None:
                await self._set("/fapi/v1/marginType", listing.symbol, "marginType", wanted.margin_type)
            if wanted.leverage is not None:
                await self._set("/fapi/v1/leverage", listing.symbol, "leverage", wanted.leverage)
        except Refusal as refusal:
            raise OrderRefused(
                f"Binance does not set {listing.symbol} to leverage {wanted.leverage or 'unchanged'}, margin "
                f"{wanted.margin_type or 'unchanged'}: {refusal}"
            ) from refusal
        self._prepared.add(listing.symbol)

    async def _set(self, path: str, symbol: str, name: str, wanted: object) -> None:
        """Raises Refusal if Binance does not set it and does not show it so either: refusals have been seen of what was as asked for already
        (-4067, binance-connector-python issue 538)."""
        try:
            await self._calls.ask("POST", path, {"symbol": symbol, name: wanted})
        except Refusal as refusal:
            if refusal.code != MARGIN_TYPE_AS_ASKED and await self._shown(symbol, name) != str(wanted):
                raise

    async def _shown(self, symbol: str, name: str) -> str | None:
        """Of the contract's settings in this account; None: it is not told."""
        try:
            rows = await self._calls.ask("GET", "/fapi/v1/symbolConfig", {"symbol": symbol}, weight=5)
        except Refusal:
            return None
        own = (
            (row for row in rows if isinstance(row, Mapping) and row.get("symbol") == symbol)
            if isinstance(rows, list)
            else ()
        )
        return next((str(row[name]) for row in own if row.get(name) is not None), None)

    # Hints

    def _on_event(self, event: Mapping[str, Any]) -> None:
        self._blotter.on_event(event)
        if self._hint is not None and self._has_session:
            self._hint()


def _kind_of(ticket: Ticket) -> CallKind:
    return CallKind.EXIT if ticket.is_exit else CallKind.PLACE


def _place_of(broker_order_id: str | None) -> tuple[str, int, bool] | None:
    """Symbol, number, and whether it is a conditional order. None: this is no id of ours."""
    parts = (broker_order_id or "").split(":")
    is_algo = len(parts) == 3 and parts[1] == "algo"
    if not parts[0] or not (len(parts) == 2 or is_algo) or not parts[-1].isdecimal():
        return None
    return parts[0], int(parts[-1]), is_algo


def _unlisted(symbol: str) -> Instrument:
    return Instrument(symbol=symbol, asset_class=AssetClass.CRYPTO)


def _some(listings: Listings) -> str:
    return ", ".join(sorted(listings.odd_symbols)[:5])
