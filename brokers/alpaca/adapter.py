"""The Alpaca broker: the Broker protocol, on top of the library's REST client. The dialect, the calls and the stream
are in the modules beside this one."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
from brokers.alpaca.feed import TradeUpdates
from brokers.alpaca.history import Executions, OlderOrders, leave_soon, window_start
from brokers.alpaca.manifest import LIVE_URL, MANIFEST, PAPER_URL, TradingMode, host_is_paper
from brokers.alpaca.rows import (
    AccountRow,
    AssetRow,
    FillRow,
    Malformed,
    MalformedRow,
    OrderRow,
    PositionRow,
    read_account,
    read_asset,
    read_clock,
    read_contract,
    read_fills,
    read_order,
    read_orders,
    read_position,
    read_positions,
)
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
    Side,
    Ticket,
    Tif,
    Unreadable,
)
from brokers.blocking_calls import CallKind
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
from brokers.settled_reports import SettledTracker

_log = logging.getLogger(__name__)
_FIND_WINDOW_SECONDS = 30.0
_POLL_SECONDS = 2.0
_CONCURRENT_CALLS = 8
_ORDERS_A_PAGE = 500
_FILLS_A_PAGE = 100
_MOST_PAGES = 200
_ASSET_SECONDS = 600.0
"""How long what Alpaca says of an asset is good enough: a halt is noticed by then; Alpaca refuses it before."""
_ASSETS_REMEMBERED = 5_000
_ONE_BY_ONE = 8
"""How many orders at most are asked for by themselves in one look."""
_MARKET_SECONDS = 60.0
"""How long the word that the market is open is good enough."""
_LOCKED_SECONDS = 5.0
"""After how long an exit whose shares are held by another order is tried again."""
_CHAIN_LENGTH = 50
_SETTLED_SECONDS = 20.0
"""How long an order and its executions must agree before one that is missing counts as annulled."""
_CORRECTED_BY = Decimal("0.0001")
"""The part by which the order's average price must differ from that of its executions for them to be read again."""
_PAPER_NUMBER, _PAPER_KEY, _LIVE_KEY = "PA", "PK", "AK"
"""How paper accounts' numbers and keys, and live keys, begin."""
_REMEMBERED = 1_000


class Configuration(MeteredConfiguration):
    """One account's settings. Times are in seconds."""

    api_key: str = Field(repr=False)
    secret_key: str = Field(repr=False)
    base_url: str | None = None
    """None: Alpaca's host for the trading mode."""
    stream_url: str | None = None
    """None: made from the base URL."""
    account_number: str | None = None
    """The keys must be those of this account."""
    trading_mode: TradingMode = Field(TradingMode.PAPER, validate_default=True)
    order_calls_per_second: Calls = 10
    order_calls_per_minute: Calls | None = 100
    order_reserve_percent: Whole = Field(20, ge=0, le=90)
    other_calls_per_second: Calls = 10
    other_calls_per_minute: Calls | None = 90
    """Alpaca counts all calls of an account together: 200 a minute."""
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
        self._clock = clock
        self._calls = AlpacaCalls(configuration.access)
        self._account: AccountRow | None = None
        self._has_session = False
        self._hint: Callable[[], None] | None = None
        self._stream: TradeUpdates | None = None
        self._assets: OrderedDict[str, _KnownAsset] = OrderedDict()
        self._executions = Executions()
        self._older = OlderOrders()
        self._related: dict[str, OrderRow] = {}
        """Members of chains of replaced orders that the lists did not show, by Alpaca's id."""
        self._last_of: dict[str, str] = {}
        """By the id of a replaced order that of the last one of its chain."""
        self._annulled: dict[str, str] = {}
        """By order id, what the stream told of a busted or corrected execution."""
        self._read_again: set[str] = set()
        """Of these orders the executions are to be read anew."""
        self._averages: dict[str, tuple[Decimal, Decimal]] = {}
        """By order id, the count and average price for which that was done."""
        self._settled_tracker = SettledTracker(_SETTLED_SECONDS)
        self._opens_at: datetime | None = None
        self._market_read_at = float("-inf")
        self._malformed_logged: set[str] = set()

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
            refuses_repeated_client_id=Fact.REFUSES_REPEATED_IDS in MANIFEST.facts,
            needs_reservation=True,
            fits_tickets=True,
            commission_currency=dialect.CURRENCY,
            concurrent_calls=_CONCURRENT_CALLS,
            find_window_seconds=self._configuration.find_window_seconds,
            is_paper=self._is_paper(),
            poll_seconds=_POLL_SECONDS,
            concern=None if account is None else dialect.concern_of(account),
            notes=(
                *(() if account is None else dialect.account_notes(account)),
                "Shares: DAY, GTC, IOC; options: DAY, market or limit; crypto: GTC, IOC, no plain stops.",
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
        orders, or whose opposite rests, raises HeldBack: it may leave once these are gone."""
        self._check_session()
        asset = await self._asset(ticket)
        form = dialect.order_form(dialect.fitted(ticket, asset), asset)
        try:
            said = await self._calls.ask(lambda client: _placed(client.post("/orders", form), ticket), _kind_of(ticket))
        except Declined as exc:
            raise self._meant(exc, ticket) from exc
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
            row = await self._by_tag(ref.client_order_id)
            if row is None:
                raise OrderRefused(f"Alpaca has no order {ref.client_order_id}")
            order_id = row.order_id
        order_id = self._last_of.get(order_id, order_id)
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
        rows, malformed = await self._recent()
        rows = await self._with_related(rows)
        odd_fills = await self._learn_executions(rows)
        await self._learn_opening(rows)
        unknown = {row.order_id for row in malformed} | {row.tag for row in malformed if row.tag}
        unclear = frozenset(row.order_id for row in odd_fills if row.order_id is not None)
        reports = [
            self._report(chain, unclear)
            for chain in dialect.chains(rows)
            if not unknown & {chain[0].order_id, chain[0].tag} - {None, ""}
        ]
        judged = self._settled_tracker.judge(reports, time.monotonic())
        return Reports(judged, unreadable=_unreadable([*malformed, *odd_fills], rows))

    async def find(self, client_order_id: str) -> Report | None:
        """Asks for this one order: Alpaca knows it by its client id at once, and for ever."""
        self._check_session()
        row = await self._by_tag(client_order_id)
        if row is None:
            return None
        chain = await self._chain_from(row)
        odd_fills = await self._learn_executions(chain, each=True)
        await self._learn_opening(chain)
        return self._report(chain, frozenset(row.order_id for row in odd_fills if row.order_id is not None))

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

    async def balances(self) -> Sequence[Balance]:
        self._check_session()
        return dialect.balances(await self._read_account())

    def calls_left(self) -> dict[tuple[str, float], int]:
        """By kind of call and period in seconds, how many ordinary calls may leave now."""
        return self._calls.left()

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called when the stream tells of any order, ours or not, and whenever it has connected."""
        self._hint = callback

    async def close(self) -> None:
        self._has_session = False
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        self._calls.close()

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

    def _meant(self, exc: Declined, ticket: Ticket) -> OrderRefused | HeldBack:
        """What Alpaca's refusal means for this order."""
        locked = exc.refusal.locked
        if locked is not None:
            holders = ", ".join(exc.refusal.related_orders) or "other open orders"
            words = f"{locked:f} of {ticket.instrument.symbol} are held by {holders} ({exc.reason})"
        elif exc.refusal.is_wash_trade:
            words = f"An order of the other side rests in {ticket.instrument.symbol}: Alpaca takes no order that might trade with it ({exc.reason})"
        else:
            return exc
        return HeldBack(words, wait_seconds=_LOCKED_SECONDS) if ticket.is_exit else OrderRefused(words)

    async def _cancel(self, order_id: str, kind: CallKind) -> None:
        await self._calls.ask(lambda client: client.delete(f"/orders/{quote(order_id, safe='')}"), kind)

    async def _after_refused_cancel(self, order_id: str, exc: Declined) -> str | None:
        """What to cancel instead. None: nothing, it is being cancelled. Raises OrderRefused if it is over."""
        row = await self._by_id(order_id)
        if row is None or row.status not in (dialect.REPLACED, "pending_replace", "pending_cancel"):
            raise exc
        if row.status == "pending_cancel":
            return None
        if row.status == dialect.REPLACED and row.replaced_by is not None:
            return row.replaced_by
        raise HeldBack(f"Order {order_id} is being replaced ({exc.reason})", wait_seconds=1.0)

    async def _by_tag(self, tag: str) -> OrderRow | None:
        """Raises AnswerUnclear."""
        query = {"client_order_id": tag}
        said = await self._calls.ask(lambda client: client.get_or_none("/orders:by_client_order_id", query))
        row = _order_or_none(said)
        if row is not None and row.tag != tag:
            raise AnswerUnclear(f"Alpaca answered with another order than {tag}")
        return row

    async def _by_id(self, order_id: str) -> OrderRow | None:
        """Raises AnswerUnclear."""
        path = f"/orders/{quote(order_id, safe='')}"
        return _order_or_none(await self._calls.ask(lambda client: client.get_or_none(path)))

    # Orders

    async def _recent(self) -> tuple[list[OrderRow], list[MalformedRow]]:
        """The orders submitted since the window's beginning, and older ones that were open at the last look."""
        now = self._clock()
        window = window_start(now)
        start = _written(window)
        recent, malformed = await self._order_pages({"status": "all", "after": start})
        if self._older.open_ids or not self._older.are_known_at(window):
            still_open, odd = await self._order_pages({"status": "open", "until": start})
            malformed += odd
            gone = self._older.open_ids - {row.order_id for row in still_open} - {row.order_id for row in recent}
            self._older.learn(still_open)
            for order_id in list(gone)[:_ONE_BY_ONE]:
                ended = await self._by_id(order_id)
                if ended is not None:
                    self._older.learn([ended])
            self._older.forget_finished()
        self._older.read_at(window)
        named = {row.order_id for row in recent}
        # An order that leaves the window while it is open stays known.
        rows = [row for row in self._older.rows() if row.order_id not in named] + recent
        self._older.learn(leave_soon(recent, now))
        return rows, malformed

    async def _order_pages(self, query: Mapping[str, object]) -> tuple[list[OrderRow], list[MalformedRow]]:
        """All pages, oldest first. Raises BrokerUnavailable, AnswerUnclear."""
        asked: dict[str, object] = {**query, "direction": "asc", "limit": _ORDERS_A_PAGE, "nested": "false"}
        rows: dict[str, OrderRow] = {}
        malformed: list[MalformedRow] = []
        for _ in range(_MOST_PAGES):
            page = asked
            said = await self._calls.ask(lambda client: client.get("/orders", page))  # noqa: B023  asked at once
            try:
                good, odd = read_orders(said)
            except Malformed as exc:
                raise BrokerUnavailable(str(exc)) from exc
            rows |= {row.order_id: row for row in good}
            for each in odd:
                self._log_malformed(each.words)
            malformed += odd
            last = said[-1].get("id") if said and isinstance(said[-1], Mapping) else None
            if len(said) < _ORDERS_A_PAGE:
                return list(rows.values()), malformed
            if not isinstance(last, str) or last == asked.get("after_order_id"):
                break
            asked = {name: value for name, value in asked.items() if name not in ("after", "until")}
            asked["after_order_id"] = last
            last_at = good[-1].submitted_at if good else None
            if "until" in query and last_at is not None and _written(last_at) > str(query["until"]):
                # A page by id knows no end: what lies beyond it is read by the other list.
                return list(rows.values()), malformed
        raise AnswerUnclear("Alpaca's list of orders does not end")

    async def _with_related(self, rows: Sequence[OrderRow]) -> list[OrderRow]:
        """With the orders that replaced these or were replaced by them, a few new ones of them at a time."""
        by_id = {row.order_id: row for row in rows}
        asked = 0
        pending = [row for row in rows if row.replaced_by is not None or row.replaces is not None]
        while pending:
            row = pending.pop()
            for other in (row.replaced_by, row.replaces):
                if other is None or other in by_id:
                    continue
                found = self._related.get(other)
                if found is None or not dialect.is_over(found):
                    if asked >= _ONE_BY_ONE:
                        continue
                    asked += 1
                    found = await self._by_id(other)
                if found is not None:
                    self._remember_related(found)
                    by_id[other] = found
                    pending.append(found)
        return list(by_id.values())

    async def _chain_from(self, row: OrderRow) -> list[OrderRow]:
        chain, seen = [row], {row.order_id}
        while (following := chain[-1].replaced_by) is not None and following not in seen:
            if len(chain) >= _CHAIN_LENGTH:
                break
            found = await self._by_id(following)
            if found is None:
                break
            seen.add(following)
            chain.append(found)
        return chain

    def _remember_related(self, row: OrderRow) -> None:
        if len(self._related) > _REMEMBERED:
            self._related.clear()
        self._related[row.order_id] = row

    def _report(self, chain: Sequence[OrderRow], unclear: frozenset[str]) -> Report:
        """`unclear`: the orders of which an execution cannot be read."""
        if len(chain) > 1:
            if len(self._last_of) > _REMEMBERED:
                self._last_of.clear()
            self._last_of |= {row.order_id: chain[-1].order_id for row in chain[:-1]}
        told = next((self._annulled[row.order_id] for row in chain if row.order_id in self._annulled), None)
        note = None if told is None else f"the stream told a {told}"
        fills = self._executions.by_order(row.order_id for row in chain)
        report = dialect.report_of(chain, fills, opens_at=self._opens_at, note=note)
        if any(row.order_id in unclear for row in chain):
            return replace(report, is_unclear=True, fills_shown=FillsShown.SOME)
        return report

    async def _learn_opening(self, rows: Sequence[OrderRow]) -> None:
        """Asks for the market's hours, if an order may wait for them and they are not known."""
        now = self._clock()
        if self._opens_at is not None and now >= self._opens_at:
            self._opens_at = None
        if self._opens_at is not None or not any(dialect.may_be_held(row) for row in rows):
            return
        if time.monotonic() - self._market_read_at < _MARKET_SECONDS:
            return
        self._market_read_at = time.monotonic()
        try:
            opens_at = read_clock(await self._calls.ask(lambda client: client.get("/clock")))
        except BrokerUnavailable as exc:
            _log.info("Whether the market is open is not known: %s", exc)
            return
        self._opens_at = opens_at if opens_at is not None and opens_at > now else None

    # Executions

    async def _learn_executions(self, rows: Sequence[OrderRow], *, each: bool = False) -> list[MalformedRow]:
        """Reads new executions if an order counts others than are known; for what then still differs, all of the order.
        `each`: all of these orders at once."""
        differing = self._differing(rows)
        if not differing:
            return []
        malformed: list[MalformedRow] = []
        if not each:
            malformed += await self._read_executions(self._new_executions())
            differing = self._differing(rows)
        # The newest first: those of earlier days may differ for ever.
        for row in differing[::-1][:_ONE_BY_ONE]:
            self._read_again.discard(row.order_id)
            if row.average_price is not None:
                self._averages[row.order_id] = row.filled, row.average_price
            malformed += await self._read_executions({"order_id": row.order_id}, row.order_id)
        if len(self._averages) > _REMEMBERED:
            self._averages.clear()
        return malformed

    def _differing(self, rows: Iterable[OrderRow]) -> list[OrderRow]:
        return [
            row
            for row in rows
            if row.filled != self._executions.total(row.order_id)
            or row.order_id in self._read_again
            or self._is_corrected(row)
        ]

    def _is_corrected(self, row: OrderRow) -> bool:
        """Whether the order's average price is not that of its executions, and these were not read for that yet."""
        ours, theirs = self._executions.average(row.order_id), row.average_price
        if ours is None or theirs is None or abs(ours - theirs) <= ours * _CORRECTED_BY:
            return False
        return self._averages.get(row.order_id) != (row.filled, theirs)

    def _new_executions(self) -> dict[str, object]:
        token = self._executions.page_token
        return {"after": _written(window_start(self._clock()))} if token is None else {"page_token": token}

    async def _read_executions(self, query: Mapping[str, object], order_id: str | None = None) -> list[MalformedRow]:
        """`order_id`: the query is for all executions of this order, and what it does not show is not there."""
        found: list[tuple[FillRow, Fill]] = []
        asked: dict[str, object] = {**query, "direction": "asc", "page_size": _FILLS_A_PAGE}
        malformed: list[MalformedRow] = []
        for _ in range(_MOST_PAGES):
            page = asked
            said = await self._calls.ask(
                lambda client: client.get("/account/activities/FILL", page)  # noqa: B023  asked at once
            )
            try:
                rows, odd = read_fills(said)
            except Malformed as exc:
                raise BrokerUnavailable(str(exc)) from exc
            now = self._clock()
            found += [(row, dialect.fill_of(row, now, is_crypto=row.is_crypto)) for row in rows]
            for each in odd:
                self._log_malformed(each.words)
            malformed += odd
            if len(said) < _FILLS_A_PAGE or not rows or rows[-1].activity_id == asked.get("page_token"):
                if order_id is None:
                    self._executions.add(found)
                else:
                    self._executions.replace(order_id, found)
                return malformed
            asked["page_token"] = rows[-1].activity_id
        raise AnswerUnclear("Alpaca's list of executions does not end")

    def _log_malformed(self, words: str) -> None:
        """Once each: the lists are read every second."""
        if words not in self._malformed_logged:
            if len(self._malformed_logged) > _REMEMBERED:
                self._malformed_logged.clear()
            self._malformed_logged.add(words)
            _log.warning("Alpaca: %s", words)

    # Hints

    def _start_stream(self) -> None:
        if self._stream is None:
            self._stream = TradeUpdates(
                url=self._configuration.stream_address,
                api_key=self._configuration.api_key,
                secret_key=self._configuration.secret_key,
                on_event=self._give_hint,
                on_annulled=self._note_annulled,
                silence_seconds=self._configuration.stream_silence_seconds,
            )
        self._stream.start()

    def _give_hint(self) -> None:
        if self._hint is not None and self._has_session:
            self._hint()

    def _note_annulled(self, order_id: str, event: str) -> None:
        if len(self._annulled) > _REMEMBERED:
            self._annulled.clear()
        self._annulled[order_id] = event
        self._read_again.add(order_id)
        _log.warning(
            "Alpaca tells %s of order %s: compare its executions with the account's activities", event, order_id
        )


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


def _order_or_none(said: object) -> OrderRow | None:
    if said is None:
        return None
    try:
        return read_order(said)
    except Malformed as exc:
        raise AnswerUnclear(f"An order of Alpaca's cannot be read: {exc}") from exc


def _unreadable(malformed: Sequence[MalformedRow], rows: Sequence[OrderRow]) -> list[Unreadable]:
    """What cannot be read and may be about an order of ours."""
    tags = {row.order_id: row.tag for row in rows}
    told = [(row.tag if row.tag is not None else tags.get(row.order_id or ""), row.words) for row in malformed]
    return [Unreadable(client_order_id=tag or "", words=words) for tag, words in told if tag != ""]


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
