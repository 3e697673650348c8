"""The Alpaca broker: the Broker protocol, on top of the library's REST client. The dialect, the calls and the stream
are in the modules beside this one."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, ValidationInfo, field_validator

from brokers.alpaca import dialect
from brokers.alpaca.calls import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    READ_SECONDS,
    Access,
    AlpacaCalls,
    Declined,
    NotAnOrder,
)
from brokers.alpaca.endings import read_endings
from brokers.alpaca.feed import TradeUpdates
from brokers.alpaca.manifest import DATA_URL, LIVE_URL, MANIFEST, PAPER_URL, TradingMode, host_is_paper
from brokers.alpaca.movements import read_movements
from brokers.alpaca.orders import AccountOrders
from brokers.alpaca.quotes import AccountQuotes, Feed
from brokers.alpaca.rows import (
    AccountRow,
    AssetRow,
    Malformed,
    OrderRow,
    PositionRow,
    read_account,
    read_asset,
    read_contract,
    read_order,
    read_position,
    read_positions,
)
from brokers.base import (
    AssetClass,
    Balance,
    BrokerPosition,
    Capabilities,
    Instrument,
    NoQuote,
    OrderRef,
    OrderType,
    PositionEnding,
    PositionMovement,
    Quote,
    Report,
    Reports,
    ReportStatus,
    Side,
    Ticket,
    Tif,
)
from brokers.call_kinds import CallKind
from brokers.configuration import Calls, MeteredConfiguration, TimeOut, Whole, Wrong
from brokers.errors import (
    AnswerUnclear,
    AuthRequired,
    BrokerUnavailable,
    HeldBack,
    NotAnswered,
    OrderRefused,
)
from brokers.manifest import Fact
from brokers.rate import limit

_log = logging.getLogger(__name__)
STOP_PASSED_WORDS = ("base_price",)
"""Of the refusal of a stop that the price is through, in small letters: that it must be less, or greater, than the base price, which is the
market's."""
_FIND_WINDOW_SECONDS = 30.0
_POLL_SECONDS = 2.0
_CONCURRENT_CALLS = 8
_ASSET_SECONDS = 600.0
"""How long what Alpaca says of an asset is good enough: a halt is noticed by then; Alpaca refuses it before."""
_ASSETS_REMEMBERED = 5_000
_LOCKED_SECONDS = 5.0
"""After how long an exit whose shares are held by another order is tried again."""
_CHAIN_LENGTH = 50
_PAPER_NUMBER, _PAPER_KEY, _LIVE_KEY = "PA", "PK", "AK"
"""How paper accounts' numbers and keys, and live keys, begin."""


class Configuration(MeteredConfiguration):
    """One account's settings. Times are in seconds."""

    api_key: str = Field(repr=False)
    secret_key: str = Field(repr=False)
    base_url: str | None = None
    """None: Alpaca's host for the trading mode."""
    stream_url: str | None = None
    """None: made from the base URL."""
    data_url: str | None = None
    """Of the market data. None: Alpaca's host for it, or the base URL where that is none of Alpaca's hosts: keys go nowhere that
    nobody has named."""
    account_number: str | None = None
    """The keys must be those of this account."""
    trading_mode: TradingMode = Field(TradingMode.PAPER, validate_default=True)
    order_calls_per_second: Calls = 10
    order_calls_per_minute: Calls | None = 100
    order_reserve_percent: Whole = Field(20, ge=0, le=90)
    other_calls_per_second: Calls = 10
    other_calls_per_minute: Calls | None = 90
    """Alpaca counts all calls of an account together: 200 a minute."""
    quote_feed: Feed = Feed.AUTO
    quote_calls_per_minute: Calls = 180
    """Alpaca counts calls for market data by themselves: 200 a minute, and more with a subscription."""
    connect_timeout_seconds: TimeOut = CONNECT_SECONDS
    read_timeout_seconds: TimeOut = READ_SECONDS
    answer_timeout_seconds: TimeOut = ANSWER_SECONDS
    stream_silence_seconds: TimeOut = 30.0
    find_window_seconds: TimeOut = _FIND_WINDOW_SECONDS

    @field_validator("trading_mode")
    @classmethod
    def _agrees_with_host_and_keys(cls, mode: TradingMode, info: ValidationInfo) -> TradingMode:
        base_url, key = info.data.get("base_url"), str(info.data.get("api_key", ""))
        host_mode = None if base_url is None else host_is_paper(base_url)
        is_local = host_mode is True and urlsplit(base_url or "").hostname != urlsplit(PAPER_URL).hostname
        if host_mode is not None and not is_local and host_mode is not (mode is TradingMode.PAPER):
            raise Wrong(f"TRADING_MODE is {mode}, but {base_url} is the host of {_kind(host_mode)} accounts")
        is_paper = (mode is TradingMode.PAPER) if host_mode is None else host_mode
        begins_as = {_PAPER_KEY: True, _LIVE_KEY: False}.get(key[:2])
        if not is_local and begins_as is not None and begins_as is not is_paper:
            raise Wrong(
                f"api_key is the key of a {_kind(begins_as)} account (it begins with {key[:2]}), "
                f"but TRADING_MODE and base URL are those of {_kind(is_paper)} accounts"
            )
        return mode

    @property
    def address(self) -> str:
        default = LIVE_URL if self.trading_mode is TradingMode.LIVE else PAPER_URL
        return (self.base_url or default).rstrip("/")

    @property
    def stream_address(self) -> str:
        parts = urlsplit(self.address)
        made = urlunsplit(("wss" if parts.scheme == "https" else "ws", parts.netloc, "/stream", "", ""))
        return self.stream_url or made

    @property
    def data_address(self) -> str:
        is_alpacas = urlsplit(self.address).hostname in {urlsplit(url).hostname for url in (PAPER_URL, LIVE_URL)}
        return (self.data_url or (DATA_URL if is_alpacas else self.address)).rstrip("/")

    @property
    def data_access(self) -> Access:
        """As `access`, to the market data."""
        limits = (limit(calls=self.quote_calls_per_minute, seconds=60.0),)
        return replace(self.access, base_url=self.data_address, order_limits=(), other_limits=limits)

    @property
    def access(self) -> Access:
        return Access(
            api_key=self.api_key,
            secret_key=self.secret_key,
            base_url=self.address,
            connect_timeout_seconds=self.connect_timeout_seconds,
            read_timeout_seconds=self.read_timeout_seconds,
            answer_timeout_seconds=self.answer_timeout_seconds,
            order_limits=self.order_limits,
            other_limits=self.other_limits,
        )


def _kind(is_paper: bool) -> str:
    return "paper" if is_paper else "live"


def create(config: Mapping[str, object]) -> AlpacaBroker:
    """A broker for one account, not yet connected. The settings are the fields of `Configuration`. Raises ValueError
    naming everything that is wrong."""
    return AlpacaBroker(Configuration.of(config, broker="Alpaca"))


@dataclass(frozen=True, slots=True)
class _KnownAsset:
    row: AssetRow
    read_at: float


class AlpacaBroker:
    """One account at Alpaca. A client order id is accepted once and for ever, so an order that was perhaps sent may be
    sent again under it.

    Executions come from the account's activities alone; the stream and the order's own count say only that there are
    more.
    """

    def __init__(
        self, configuration: Configuration, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._configuration = configuration
        self._calls = AlpacaCalls(configuration.access)
        self._account: AccountRow | None = None
        self._has_session = False
        self._hint: Callable[[], None] | None = None
        self._stream: TradeUpdates | None = None
        self._assets: OrderedDict[str, _KnownAsset] = OrderedDict()
        self._orders = AccountOrders(self._calls, clock)
        self._quotes = AccountQuotes(configuration.data_access, feed=configuration.quote_feed)

    @property
    def name(self) -> str:
        return "ALPACA"

    @property
    def capabilities(self) -> Capabilities:
        account = self._account
        return Capabilities(
            order_types=frozenset(OrderType),
            tifs=frozenset(Tif),
            asset_classes=dialect.asset_classes(account),
            varieties=frozenset(dialect.VARIETIES),
            refuses_repeated_client_id=Fact.REFUSES_REPEATED_IDS in MANIFEST.facts,
            needs_reservation=True,
            fits_tickets=True,
            commission_currency=dialect.CURRENCY,
            concurrent_calls=_CONCURRENT_CALLS,
            find_window_seconds=self._configuration.find_window_seconds,
            is_paper=self._is_paper(),
            poll_seconds=_POLL_SECONDS,
            classes_without_stops=frozenset({AssetClass.OPTION}),
            classes_of_the_day=frozenset({AssetClass.OPTION}),
            stop_passed_words=STOP_PASSED_WORDS,
            concern=None if account is None else dialect.concern_of(account),
            notes=(
                *(() if account is None else dialect.account_notes(account)),
                "Shares: DAY, GTC, IOC; options: DAY, market or limit; crypto: GTC, IOC, no plain stops.",
                "Options have no stops: the service watches the price of a stop_loss, as far as it is known, and closes at the market.",
                "Alpaca charges no commission; regulatory fees, and the fees of crypto, are posted the next day and by symbol.",
                "A busted or corrected trade is known by its absence from the account's activities: compare with the account's statement.",
            ),
        )

    def _is_paper(self) -> bool | None:
        by_host = host_is_paper(self._configuration.address)
        if by_host is None and self._account is not None:
            return self._account.number.startswith(_PAPER_NUMBER) or None
        return by_host

    async def connect(self) -> None:
        """Verifies that the keys are accepted and are those of the right account. May be called again at any time."""
        self._calls.open()
        self._quotes.open()
        self._has_session = False
        account = await self._read_account()
        wanted = self._configuration.account_number
        if wanted is not None and account.number != wanted:
            raise AuthRequired(f"The keys are those of account {account.number}, not of {wanted}")
        self._account = account
        self._has_session = True
        self._start_stream()

    async def fitted(self, ticket: Ticket) -> Ticket:
        """With its prices on the tick, and coins on their step. Refused if Alpaca does not list or trade the asset now
        (unless the order is an exit), or if what the order says of it is not true. An exit in coins is cut to what the
        fees have left."""
        self._check_session()
        asset = await self._asset(ticket)
        if asset.asset_class == dialect.CRYPTO and ticket.is_exit and ticket.side is Side.SELL:
            ticket = dialect.without_fees(ticket, await self._position_in(asset.symbol))
        return dialect.fitted(ticket, asset)

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """No id: Alpaca assigns it when placing. Raises RateLimited if the ticket would have to wait for the limit of
        the minute."""
        self._calls.check_budget(_kind_of(ticket))
        return None

    async def place_order(self, ticket: Ticket) -> Report:
        """The report has no executions: they are in the account's activities. An exit whose shares are held by other
        orders, or not released yet, or whose opposite rests, raises HeldBack: it may leave once that is over."""
        self._check_session()
        asset = await self._asset(ticket)
        form = dialect.order_form(dialect.fitted(ticket, asset), asset)
        try:
            said = await self._calls.ask(lambda client: _placed(client.post("/orders", form), ticket), _kind_of(ticket))
        except Declined as exc:
            raise await self._meant(exc, ticket) from exc
        is_rejected = said.status == "rejected"
        return Report(
            client_order_id=ticket.client_order_id,
            broker_order_id=said.order_id,
            status=ReportStatus.REJECTED if is_rejected else ReportStatus.WORKING,
            filled_quantity=Decimal(0),
            reason="Rejected by Alpaca; it tells no reason" if is_rejected else None,
        )

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        """Cancels the order, or the one that replaced it. Costs one or two more calls if its id is not known or Alpaca
        does not cancel it."""
        self._check_session()
        kind = CallKind.CANCEL_AGAIN if again else CallKind.CANCEL
        self._calls.check_budget(kind)  # before any query is made for it
        order_id = ref.broker_order_id
        if order_id is None:
            row = await self._orders.by_tag(ref.client_order_id)
            if row is None:
                raise OrderRefused(f"Alpaca has no order {ref.client_order_id}")
            order_id = row.order_id
        order_id = self._orders.last_of(order_id)
        for _ in range(_CHAIN_LENGTH):
            try:
                await self._cancel(order_id, kind)
                return
            except Declined as exc:
                following = await self._after_refused_cancel(order_id, exc)
            if following is None:
                return
            order_id = following
        raise HeldBack(f"Order {order_id} is replaced again and again", wait_seconds=_LOCKED_SECONDS)

    async def reports(self, since: int | None = None) -> Reports:
        """The orders of the last day and those that are still open, in one call for each 500 of them, and another where
        executions are new. Orders that cannot be read are left out. There is no mark."""
        self._check_session()
        return await self._orders.reports()

    async def find(self, client_order_id: str) -> Report | None:
        """Asks for this one order: Alpaca knows it by its client id at once, and for ever."""
        self._check_session()
        return await self._orders.find(client_order_id)

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """Those in the list of recent orders by the list; each of the others by itself, since a new order may be
        missing in the list."""
        self._check_session()
        found: dict[str, Report | None] = {}
        if len(client_order_ids) > 1:
            wanted = frozenset(client_order_ids)
            shown = (await self.reports()).reports
            found = {report.client_order_id: report for report in shown if report.client_order_id in wanted}
        for tag in client_order_ids:
            if tag not in found:
                try:
                    found[tag] = await self.find(tag)
                except AnswerUnclear as exc:
                    _log.info("What Alpaca says of order %s is unclear: %s", tag, exc)
        return found

    async def positions(self) -> Sequence[BrokerPosition]:
        self._check_session()
        said = await self._calls.ask(lambda client: client.get("/positions"))
        try:
            return dialect.positions(read_positions(said))
        except Malformed as exc:
            raise AnswerUnclear(f"Alpaca's positions cannot be read: {exc}") from exc

    async def endings(self, since: datetime) -> Sequence[PositionEnding]:
        """By the account's activities, which on paper come at the start of the next day."""
        self._check_session()
        return await read_endings(self._calls, since)

    async def movements(self, since: datetime) -> Sequence[PositionMovement]:
        """By the account's activities, which may come later than the position changes."""
        self._check_session()
        return await read_movements(self._calls, since)

    async def balances(self) -> Sequence[Balance]:
        self._check_session()
        self._account = await self._read_account()
        return dialect.balances(self._account)

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """The latest quote and trade, by one call for each class of assets, of another host with a limit of its own: none of the calls
        for orders and other queries is used."""
        self._check_session()
        return await self._quotes.quotes(instruments)

    async def usual_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """Of shares, by calls as `quotes` uses them."""
        self._check_session()
        return await self._quotes.usual_volumes(instruments)

    async def quotes_in_words(self) -> str:
        self._check_session()
        classes = self.capabilities.asset_classes
        return await self._quotes.in_words(
            has_options=AssetClass.OPTION in classes, has_coins=AssetClass.CRYPTO in classes
        )

    def calls_left(self) -> dict[tuple[str, float], int]:
        """By kind of call and period in seconds, how many ordinary calls may leave now."""
        return {**self._calls.left(), **self._quotes.calls_left()}

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called when the stream tells of any order, ours or not, and whenever it has connected."""
        self._hint = callback

    async def close(self) -> None:
        self._has_session = False
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        self._calls.close()
        self._quotes.close()

    # Calls

    def _check_session(self) -> None:
        if not self._has_session:
            raise BrokerUnavailable("Alpaca is not connected")

    async def _read_account(self) -> AccountRow:
        said = await self._calls.ask(lambda client: client.get("/account"))
        try:
            return read_account(said)
        except Malformed as exc:
            raise AnswerUnclear(f"Alpaca's account cannot be read: {exc}") from exc

    async def _asset(self, ticket: Ticket) -> AssetRow:
        """What Alpaca says of the ticket's asset. Raises OrderRefused if there is none, unless the ticket is an exit;
        HeldBack while it does not answer."""
        symbol, kind = dialect.symbol_of(ticket.instrument), dialect.class_of(ticket.instrument)
        known = self._assets.get(symbol)
        if known is not None and time.monotonic() - known.read_at < _ASSET_SECONDS:
            return known.row
        route = "/options/contracts/" if kind == dialect.OPTION else "/assets/"
        try:
            said = await self._calls.ask(lambda client: client.get_or_none(route + quote(symbol, safe="")))
            row = None if said is None else (read_contract if kind == dialect.OPTION else read_asset)(said)
        except Malformed as exc:
            raise HeldBack(f"What Alpaca says of {symbol} cannot be read: {exc}", wait_seconds=_LOCKED_SECONDS) from exc
        except AuthRequired:
            raise
        except BrokerUnavailable as exc:
            if ticket.is_exit and kind != dialect.CRYPTO:
                # An exit waits for no facts that it can leave without; Alpaca knows them.
                return dialect.unlisted(symbol, kind)
            if isinstance(exc, HeldBack):
                raise
            raise HeldBack(f"Alpaca tells nothing of {symbol}: {exc}", wait_seconds=_LOCKED_SECONDS) from exc
        if row is None and not ticket.is_exit:
            raise OrderRefused(f"Alpaca does not list {symbol}")
        if row is None:
            return dialect.unlisted(symbol, kind)
        if row.asset_class != kind:
            raise OrderRefused(f"{symbol} is {row.asset_class} at Alpaca, and not what the order names")
        self._assets[symbol] = _KnownAsset(row, time.monotonic())
        while len(self._assets) > _ASSETS_REMEMBERED:
            self._assets.popitem(last=False)
        return row

    async def _position_in(self, symbol: str) -> PositionRow | None:
        """Raises NotAnswered."""
        path = f"/positions/{quote(symbol.replace('/', ''), safe='')}"
        try:
            said = await self._calls.ask(lambda client: client.get_or_none(path))
            return None if said is None else read_position(said)
        except Malformed as exc:
            raise NotAnswered(f"Alpaca's position in {symbol} cannot be read: {exc}") from exc
        except (AuthRequired, HeldBack):
            raise
        except BrokerUnavailable as exc:
            raise NotAnswered(f"Alpaca does not tell its position in {symbol}: {exc}") from exc

    async def _meant(self, exc: Declined, ticket: Ticket) -> OrderRefused | HeldBack:
        """What Alpaca's refusal means for this order. An exit that it refuses for want of what it shows as held waits: its positions and its
        orders have been seen to differ for ten seconds after an execution."""
        locked = exc.refusal.locked
        if locked is not None:
            holders = ", ".join(exc.refusal.related_orders) or "other open orders"
            words = f"{locked:f} of {ticket.instrument.symbol} are held by {holders} ({exc.reason})"
        elif exc.refusal.is_wash_trade:
            words = f"An order of the other side rests in {ticket.instrument.symbol}: Alpaca takes no order that might trade with it ({exc.reason})"
        elif ticket.is_exit and exc.refusal.is_shortage and await self._may_be_held(ticket):
            words = f"Alpaca shows the position in {ticket.instrument.symbol} and does not let it go yet ({exc.reason})"
        else:
            return exc
        return HeldBack(words, wait_seconds=_LOCKED_SECONDS) if ticket.is_exit else OrderRefused(words)

    async def _may_be_held(self, ticket: Ticket) -> bool:
        """Whether Alpaca's positions show what the exit would close, or cannot be asked now."""
        try:
            position = await self._position_in(dialect.symbol_of(ticket.instrument))
        except (NotAnswered, BrokerUnavailable):
            return True
        quantity = Decimal(0) if position is None else position.quantity
        return quantity is None or -quantity * ticket.side.sign >= ticket.quantity

    async def _cancel(self, order_id: str, kind: CallKind) -> None:
        await self._calls.ask(lambda client: client.delete(f"/orders/{quote(order_id, safe='')}"), kind)

    async def _after_refused_cancel(self, order_id: str, exc: Declined) -> str | None:
        """What to cancel instead. None: nothing, it is being cancelled. Raises OrderRefused if it is over."""
        row = await self._orders.by_id(order_id)
        if row is None or row.status not in (dialect.REPLACED, "pending_replace", "pending_cancel"):
            raise exc
        if row.status == "pending_cancel":
            return None
        if row.status == dialect.REPLACED and row.replaced_by is not None:
            return row.replaced_by
        raise HeldBack(f"Order {order_id} is being replaced ({exc.reason})", wait_seconds=1.0)

    # Hints

    def _start_stream(self) -> None:
        if self._stream is None:
            self._stream = TradeUpdates(
                url=self._configuration.stream_address,
                api_key=self._configuration.api_key,
                secret_key=self._configuration.secret_key,
                on_event=self._take_event,
                on_annulled=self._orders.note_annulled,
                silence_seconds=self._configuration.stream_silence_seconds,
            )
        self._stream.start()

    def _take_event(self, order_id: str | None) -> None:
        self._orders.note_change(order_id)
        if self._hint is not None and self._has_session:
            self._hint()


def _kind_of(ticket: Ticket) -> CallKind:
    return CallKind.EXIT if ticket.is_exit else CallKind.PLACE


def _placed(said: Any, ticket: Ticket) -> OrderRow:
    """Anything but this order is no answer, and it may exist."""
    try:
        row = read_order(said)
    except Malformed as exc:
        raise NotAnOrder(f"its answer is no order ({exc})") from exc
    if row.tag != ticket.client_order_id:
        raise NotAnOrder("its answer is another order")
    return row
