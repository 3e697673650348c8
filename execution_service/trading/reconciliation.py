"""When one account's books are compared with its broker's, and what is done about a difference; what differs is decided in core/reconcile.py."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

import structlog

from brokers.base import (
    UNNAMED_POSITION,
    AssetClass,
    BrokerPosition,
    Instrument,
    PositionMovement,
    Report,
    ReportStatus,
)
from brokers.errors import BrokerError
from execution_service.core.adoption.successors import explained, quantities_of, unexplained_changes
from execution_service.core.orders.events import Doubted
from execution_service.core.orders.last_reported import LastReported, name_of
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import product_of
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.reconcile.discrepancies import (
    OF_POSITIONS,
    OF_REPORTS,
    Discrepancy,
    DiscrepancyKind,
    DiscrepancyState,
    ExitRestriction,
    Finding,
    Key,
    ReconciliationOutcome,
    owner_of,
)
from execution_service.core.reconcile.judgement import Judgement, Watch, judge
from execution_service.core.reconcile.orders import is_our_tag, may_be_unlisted, order_findings, unknown_order
from execution_service.core.reconcile.positions import (
    Holding,
    InstrumentGroup,
    PositionsCompared,
    compare_positions,
    resting_exits,
)
from execution_service.core.texts.discrepancies import (
    difference,
    discrepancy_opened,
    next_step,
    not_compared,
    reconciled,
)
from execution_service.core.texts.messages import message_not_composed
from execution_service.core.texts.service import cannot_be_read
from execution_service.core.texts.values import plain, quantity
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.trading.holdings import holdings

log = structlog.get_logger(__name__)

SOON_SECONDS = 10.0
"""When something is to be confirmed, and when the comparison failed."""
HURRY_SECONDS = 3.0
"""Between a comparison and one that somebody else's trade brings about: who trades much by hand does not spend the account's calls."""
TRADE_SHOWN_SECONDS = 2.0
"""How long after somebody else's trade was seen the broker's positions may still be without it."""
CONNECTING_SECONDS, CONNECTING_LOOKS = 3.0, 12
"""How long a comparison that was asked for waits for a connection that is just being made."""
SECONDS_FOR_EACH_REPORT = 0.02
"""A whole answer of so many reports is asked for that much later again: on a day of 10,000 orders every 200 seconds, changes in between."""
LOOKED_UP_AT_ONCE = 50
"""While the store answers such a question others wait."""
LOOKED_THROUGH_AT_ONCE = 2000
CLEAN_REMEMBERED = 50_000
STRANGERS_REMEMBERED = 20_000
INCOMPARABLE_REMEMBERED = 5000
NAMED_AT_MOST = 5
MOVEMENTS_AGAIN_SECONDS = 300.0
"""How often a broker is asked how positions changed without an order, while one differs: it may record that a day later."""
MOVEMENTS_BACK = timedelta(days=10)
"""What a broker recorded so long ago may explain a difference: the service may have been down."""
_LISTED = frozenset({Status.SUBMITTED, Status.PARTIALLY_FILLED})
_OF_CHANGES = OF_POSITIONS | {DiscrepancyKind.IN_DOUBT}
"""What can be seen without a whole answer."""

_UNSEEN = Finding(
    kind=DiscrepancyKind.POSITION_DIFFERS,
    subject="",
    ours="",
    theirs="",
    note="an order of somebody else has filled there",
)
"""What is suspected when somebody else has traded, and nobody has compared since."""

_NOBODY_COMPARES = ReconciliationOutcome(
    is_compared=False, words="Not compared: the account is not traded here any more"
)


class Account(Protocol):
    """The conversation with the broker, as far as a comparison needs it."""

    @property
    def account_id(self) -> str: ...

    @property
    def account_name(self) -> str: ...

    @property
    def broker_name(self) -> str: ...

    @property
    def is_connected(self) -> bool: ...

    @property
    def trouble(self) -> str: ...

    async def read_book(
        self, *, whole: bool, on_part: Callable[[Sequence[Report]], Awaitable[None]] | None = None
    ) -> None: ...

    @property
    def reports_positions(self) -> bool:
        """Whether it ever does."""

    async def read_positions(self) -> Sequence[BrokerPosition]: ...

    async def read_movements(self, since: datetime) -> Sequence[PositionMovement]: ...

    def products_of(self, instrument: Instrument) -> Sequence[str]: ...

    async def look_for_all(self, some: Sequence[LiveOrder]) -> set[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _OrdersCompared:
    findings: tuple[Finding, ...]
    open_orders: int = 0
    executions: int = 0
    not_ours: tuple[Report, ...] = ()


@dataclass(slots=True)
class _Read:
    """What is kept of one whole answer while it is read, part by part."""

    parts: int = 0
    reports: int = 0
    executions: int = 0
    """Of orders of ours."""
    latest: Sequence[Report] = ()
    in_hand: dict[str, list[Report]] = field(default_factory=dict)
    """By tag, of orders that were in hand when they were read."""
    not_ours: list[Report] = field(default_factory=list)
    suspects: set[str] = field(default_factory=set)
    """Tags of finished orders that do not simply agree with their one report."""
    unknown: dict[str, Finding] = field(default_factory=dict)
    """By tag."""


@dataclass(slots=True)
class _Request:
    answer: asyncio.Future[ReconciliationOutcome]
    readings: int = 0


class Reconciliation:
    """Compares one account's orders, executions and positions with the broker's: after each connection, at intervals, and when asked."""

    def __init__(
        self,
        *,
        account: Account,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        interval_seconds: float,
        alerts: RaisesAlerts,
    ) -> None:
        """`interval_seconds`: 0 for no comparison but after a connection and when asked."""
        self._account = account
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._interval = interval_seconds
        self._alerts = alerts
        self._wake_up = WakeUp(clock)
        self._requests: list[_Request] = []
        self._is_running = False
        self._watch = Watch()
        self._open: dict[Key, Discrepancy] | None = None
        self._clean = LastReported(CLEAN_REMEMBERED)
        """Reports of finished orders that, as they are, agree with the record."""
        self._uncounted: frozenset[str] = frozenset()
        """By the last whole answer, keys of the instruments of orders whose fills are not all known."""
        self._strangers: OrderedDict[str, None] = OrderedDict()
        """Tags of our kind whose order is another account's."""
        self._shown: Mapping[str, Decimal] | None = None
        """What the broker showed of its positions the last time, by instrument key; None: not asked yet."""
        self._earlier: dict[Key, Mapping[str, Decimal] | None] = {}
        """Of each position that differs: what the broker showed the last time before it did."""
        self._movements: tuple[float, Mapping[Key, str], Sequence[PositionMovement]] = (float("-inf"), {}, ())
        """What the broker recorded of shares that moved without an order: when it was asked, for which differences, and what it told."""
        self._suspected: dict[Key, Finding] = {}
        """Positions that a reading showed to differ, and that have not lasted yet."""
        self._moved: dict[str, Instrument] = {}
        """What a fill, or a word about one, was recorded for since positions were last asked for."""
        self._whole_from = float("-inf")
        """From then on the next answer is a whole one."""
        self._wants_telling = True
        self._said_not_ours: tuple[str, ...] = ()
        self._of_others: tuple[Report, ...] = ()
        self._unclear: set[str] = set()
        """Positions that cannot be read, by the latest answer."""
        self._incomparable: set[str] = set()
        """Orders, instruments and rows that could not be compared by something that nobody foresaw, and that was said."""
        self._unalerted: dict[str, str] = {}
        """Of these what no alert was raised of yet, and why."""
        self._is_hurried = False
        self._traded_at = self._compared_at = self._shown_at = float("-inf")
        """When somebody else's trade was seen, when the broker was last asked for its positions, and when asked as it last showed them."""
        self._is_silence_logged = False
        self._said_without_positions = False
        """Whether the latest line about a comparison said that it was one without positions."""

    @property
    def position_differences(self) -> Sequence[Discrepancy]:
        """Those that are open, by the latest comparison."""
        rows = () if self._open is None else tuple(self._open.values())
        return [row for row in rows if row.finding.kind is DiscrepancyKind.POSITION_DIFFERS]

    @property
    def orders_of_others(self) -> Sequence[Report]:
        """All orders that the broker showed in its latest whole answer and that bear no tag of our kind."""
        return self._of_others

    def connected(self) -> None:
        """A connection stands: what may have happened without us is looked at now."""
        self._wants_telling, self._whole_from = True, float("-inf")
        self._wake_up.tell()

    def traded_past_us(self) -> None:
        """Somebody else has traded in the account: a position of ours may have changed. Nobody says which, so until positions have been
        compared all exits are bound by that."""
        self._traded_at = self._clock.monotonic()
        if self._interval:
            self._is_hurried = True
            self._wake_up.tell()

    @property
    def _is_trade_unseen(self) -> bool:
        return self._compared_at < self._traded_at + TRADE_SHOWN_SECONDS

    @property
    def _is_trade_unknown(self) -> bool:
        """No positions that the broker showed can have the trade in them yet: a question that failed has not."""
        return self._shown_at < self._traded_at + TRADE_SHOWN_SECONDS

    def ended(self, order: Order, report: Report) -> None:
        """An order has ended, and its record has all that the report tells: if they agree, it need not be looked up for the comparison."""
        is_all = order.client_order_ids == (report.client_order_id,) and order.broker_order_id == report.broker_order_id
        if is_all and self._findings(order, (report,)) == []:
            self._note_clean((report,))

    def _findings(self, order: Order, shown: Sequence[Report], *, was_asked: bool = False) -> list[Finding] | None:
        """None: this order cannot be compared, by something that nobody foresaw; one alert is raised, and the others are compared."""
        try:
            return order_findings(order, shown, was_asked=was_asked)
        except Exception as exc:  # noqa: BLE001  logged, and an alert is raised
            self._cannot_compare(order.order_id, order.signal_id, exc)
            return None

    def _cannot_compare(self, name: str, what: str, exc: Exception) -> None:
        if name not in self._incomparable:
            log.exception(
                f"Not compared with the broker: {what}: {exc}",
                action="not_compared",
                account_id=self._account.account_id,
            )
            if len(self._incomparable) >= INCOMPARABLE_REMEMBERED:
                self._incomparable.clear()
            self._incomparable.add(name)
            self._unalerted[what] = f"{type(exc).__name__}: {exc}"

    async def _alert_incomparable(self) -> None:
        unalerted, self._unalerted = self._unalerted, {}
        if unalerted:
            words = not_compared(
                account_name=self._account.account_name, broker=self._account.broker_name, why=unalerted
            )
            await self._alerts.raise_alert(f"not_compared:{self._account.account_id}", words)

    def _note_record(self, live: LiveOrder) -> None:
        request = live.order.request
        if not isinstance(request, OrderRequest) or request.account_id != self._account.account_id:
            return
        if live.order.fills:
            instrument = live.order.accepted_request.instrument
            self._moved[instrument.key] = instrument
        if isinstance(live.order.events[-1], Doubted):
            self._wake_up.tell()  # what an alert is raised of now stands in the list now

    async def compare_now(self) -> ReconciliationOutcome:
        """Of a comparison that began after the call; one that shows something for the first time is confirmed or dismissed by another. Answered
        in bounded time, also where nobody compares, or the account is let go meanwhile."""
        for _ in range(CONNECTING_LOOKS):
            if self._account.is_connected and self._is_running:
                break
            await self._clock.sleep(CONNECTING_SECONDS / CONNECTING_LOOKS)
        if not self._account.is_connected:
            return self._unreachable()
        if not self._is_running:
            return _NOBODY_COMPARES
        request = _Request(asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self._wake_up.tell()
        return await request.answer

    async def run(self) -> None:
        """Until cancelled."""
        self._open, self._watch, self._wants_telling, self._whole_from = None, Watch(), True, float("-inf")
        self._suspected, self._shown, self._earlier = {}, None, {}
        wait: float | None = None
        turned_at = float("-inf")
        self._is_running = True
        self._live.on_recorded.append(self._note_record)
        if self._account.is_connected:
            self._wake_up.tell()  # the run before has failed: nobody else will say that it is time to compare
        try:
            while True:
                await self._wake_up.wait(wait)
                soon = None
                if self._is_hurried and not self._requests:
                    await self._clock.sleep(HURRY_SECONDS - (self._clock.monotonic() - turned_at))
                self._is_hurried, turned_at = False, self._clock.monotonic()
                if self._account.is_connected:
                    soon = await self._turn()
                else:
                    self._answer(self._unreachable())
                wait = soon or self._interval or None
                if self._interval and self._is_trade_unseen:
                    wait = min(wait or HURRY_SECONDS, HURRY_SECONDS)
        finally:
            self._is_running = False
            self._live.on_recorded.remove(self._note_record)
            self._answer(_NOBODY_COMPARES)

    def _unreachable(self) -> ReconciliationOutcome:
        words = f"Not compared: the broker is not connected ({self._account.trouble})"
        return ReconciliationOutcome(is_compared=False, words=words)

    async def _turn(self) -> float | None:
        """One comparison; the seconds until the next, where that is sooner than usual."""
        requests = list(self._requests)
        try:
            is_whole = bool(requests) or self._clock.monotonic() >= self._whole_from
            judgement, outcome = await self._compare(is_whole=is_whole)
        except (BrokerError, TimeoutError, StoreUnavailable) as exc:
            log.warning(
                f"Not compared with the broker, tried again soon: {str(exc) or type(exc).__name__}",
                action="reconcile_failed",
                account_id=self._account.account_id,
            )
            self._answer(
                ReconciliationOutcome(is_compared=False, words=f"Not compared: {str(exc) or type(exc).__name__}"),
                requests,
            )
            return SOON_SECONDS
        except Exception as exc:
            # A comparison may fail for what a broker says that nobody foresaw; the account goes on being traded and compared.
            log.exception(
                f"Not compared with the broker: {exc}", action="reconcile_failed", account_id=self._account.account_id
            )
            self._answer(
                ReconciliationOutcome(is_compared=False, words=f"Not compared: {type(exc).__name__}: {exc}"), requests
            )
            return None
        for request in requests:
            request.readings += 1
        is_settled = not judgement.is_unsettled
        self._answer(outcome, [r for r in requests if is_settled or r.readings > 1])
        return None if is_settled else SOON_SECONDS if not self._interval else min(SOON_SECONDS, self._interval)

    def _answer(self, outcome: ReconciliationOutcome, requests: Iterable[_Request] | None = None) -> None:
        for request in list(self._requests if requests is None else requests):
            self._requests.remove(request)
            if not request.answer.done():
                request.answer.set_result(outcome)

    # --- what it binds ------------------------------------------------------------------------------------------

    async def binding(self, instrument: Instrument, product: str | None) -> ExitRestriction | None:
        """The difference that binds the exits of this instrument, held in that product: one that is open, opened by whichever life, or one
        that a first reading suspects. None: nothing is known to differ, and nothing was asked for that. Raises StoreUnavailable, at most
        before the first."""
        for row in (await self._open_rows()).values():
            if row.finding.is_about(instrument, product):
                latest = self._suspected.get(row.key, row.finding)
                return ExitRestriction(finding=latest, since=row.opened_at)
        for finding in self._suspected.values():
            if finding.is_about(instrument, product):
                return ExitRestriction(finding=finding)
        return ExitRestriction(finding=_UNSEEN) if self._is_trade_unknown else None

    async def _open_rows(self) -> Mapping[Key, Discrepancy]:
        if self._open is None:
            rows = await self._store.open_discrepancies(self._account.account_id)
            if self._open is None:  # nobody else has read them, or opened one, meanwhile
                self._open = {row.key: row for row in rows}
        return self._open

    def _suspect(self, judgement: Judgement) -> None:
        """What is suspected stays so until a reading that could see it does not show it, like the suspicion itself."""
        seen = judgement.watch.suspicions
        kept = {key: f for key, f in self._suspected.items() if key in seen and seen[key].steady == f.sameness}
        kept |= {finding.key: finding for finding in judgement.unconfirmed if finding.kind in OF_POSITIONS}
        lasting = {finding.key for finding in (*judgement.opened, *judgement.replaced, *judgement.changed)}
        self._suspected = {key: finding for key, finding in kept.items() if key not in lasting}

    # --- one comparison -----------------------------------------------------------------------------------------

    async def _compare(self, *, is_whole: bool) -> tuple[Judgement, ReconciliationOutcome]:
        await self._open_rows()
        assert self._open is not None
        orders = await (self._compare_orders() if is_whole else self._read_changes())
        of_orders = OF_REPORTS if is_whole else _OF_CHANGES - OF_POSITIONS
        positions, held_back = await self._compare_positions()
        findings = (*orders.findings, *(() if positions is None else positions.findings))
        judgement = judge(
            self._watch,
            {key: row.finding for key, row in self._open.items()},
            findings,
            judged=of_orders if positions is None else of_orders | OF_POSITIONS,
            held_back=held_back,
            now=self._clock.monotonic(),
        )
        self._suspect(judgement)
        await self._record(judgement)
        await self._alert_incomparable()
        self._watch = judgement.watch
        return judgement, self._outcome(orders, positions, judgement, is_whole=is_whole)

    async def _read_changes(self) -> _OrdersCompared:
        """What our own records say after the latest news; nothing is known of what the broker does not mention."""
        await self._account.read_book(whole=False)
        findings = [f for live in self._in_hand() for f in self._findings(live.order, ()) or ()]
        return _OrdersCompared(findings=tuple(f for f in findings if f.kind is DiscrepancyKind.IN_DOUBT))

    async def _compare_orders(self) -> _OrdersCompared:
        working = [live for live in self._in_hand() if live.order.status in _LISTED]
        read = _Read()

        async def on_part(part: Sequence[Report]) -> None:
            read.parts += 1
            read.reports += len(part)
            read.latest = part
            await self._keep_part(read, part)

        await self._account.read_book(whole=True, on_part=on_part)
        self._whole_from = self._clock.monotonic() + SECONDS_FOR_EACH_REPORT * read.reports
        unlisted = [live for live in working if read.in_hand.keys().isdisjoint(live.order.client_order_ids)]
        # An absence from a list proves nothing, and some brokers list today's orders only. One about which the answer is not clear is there,
        # perhaps, and of the other orders everything is known.
        missing = await self._account.look_for_all([live for live in unlisted if live.order.status in _LISTED])
        now = self._clock.now()
        missing -= {live.order.order_id for live in unlisted if self._may_be_unlisted(live.order, now)}
        in_hand = {tag: live.order for live in self._in_hand() for tag in live.order.client_order_ids}
        await self._compare_finished(read, {tag: some for tag, some in read.in_hand.items() if tag not in in_hand})
        shown: dict[str, list[Report]] = {order.order_id: [] for order in in_hand.values()}
        orders = {order.order_id: order for order in in_hand.values()}
        for tag, order in in_hand.items():
            of_tag = read.in_hand.get(tag, ())
            shown[order.order_id] += of_tag
            read.executions += sum(len(report.fills) for report in of_tag)
        self._of_others = tuple(report for report in read.not_ours if not is_our_tag(report.client_order_id))
        findings = list(read.unknown.values())
        for order_id, of_order in shown.items():
            findings += self._findings(orders[order_id], of_order, was_asked=order_id in missing) or ()
        findings += await self._compare_suspects(read, in_hand=orders.keys())
        self._uncounted = frozenset(
            f.instrument for f in findings if f.kind is DiscrepancyKind.FILLS_MISSING and f.instrument
        )
        return _OrdersCompared(
            open_orders=sum(order.status in _LISTED and bool(shown[i]) for i, order in orders.items()),
            executions=read.executions,
            findings=tuple(findings),
            not_ours=tuple(read.not_ours),
        )

    def _may_be_unlisted(self, order: Order, now: datetime) -> bool:
        try:
            return may_be_unlisted(order, now)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the comparison of the others
            self._cannot_compare(order.order_id, order.signal_id, exc)
            return True

    def _in_hand(self) -> list[LiveOrder]:
        return [
            live
            for live in self._live.by_id.values()
            if isinstance(live.order.request, OrderRequest)
            and live.order.request.account_id == self._account.account_id
        ]

    async def _keep_part(self, read: _Read, part: Sequence[Report]) -> None:
        """Keeps what the comparison needs of a part of the answer. Of finished orders that agree with their records that is nothing."""
        finished: dict[str, list[Report]] = {}
        for number, report in enumerate(part, 1):
            tag = report.client_order_id
            if tag in self._live.by_client_id or tag in read.in_hand:
                read.in_hand.setdefault(tag, []).append(report)
            elif is_our_tag(tag):
                finished.setdefault(tag, []).append(report)
            else:
                read.not_ours.append(report)
            if number % LOOKED_THROUGH_AT_ONCE == 0:
                await asyncio.sleep(0)  # a whole day's answer must not hold up everybody else
        await self._compare_finished(read, finished)

    async def _compare_finished(self, read: _Read, by_tag: Mapping[str, Sequence[Report]]) -> None:
        """Looks at reports under tags of our kind that no order in hand has: most are known to agree, others agree by their records, and
        orders of which more than one report may speak are suspects."""
        doubtful: list[str] = []
        for number, (tag, some) in enumerate(by_tag.items(), 1):
            if tag in self._strangers:
                read.not_ours += some
                continue
            read.executions += sum(len(report.fills) for report in some)
            if not all(self._clean.is_known(name_of(report), _gist(report)) for report in some):
                doubtful.append(tag)
            if number % LOOKED_THROUGH_AT_ONCE == 0:
                await asyncio.sleep(0)
        for start in range(0, len(doubtful), LOOKED_UP_AT_ONCE):
            tags = doubtful[start : start + LOOKED_UP_AT_ONCE]
            by_client_id = await self._records_of(tags)
            for tag in tags:
                order = by_client_id.get(tag)
                if order is None:
                    read.unknown.setdefault(tag, unknown_order(by_tag[tag][0]))
                    read.executions -= sum(len(report.fills) for report in by_tag[tag])
                elif order.request.account_id != self._account.account_id:
                    self._strangers[tag] = None
                    read.not_ours += by_tag[tag]
                    read.executions -= sum(len(report.fills) for report in by_tag[tag])
                elif len(order.client_order_ids) > 1 or any(
                    r.broker_order_id != order.broker_order_id for r in by_tag[tag]
                ):
                    read.suspects.update(order.client_order_ids)
                elif found := self._findings(order, by_tag[tag]):
                    read.suspects.add(tag)
                elif found is not None:
                    self._note_clean(by_tag[tag])
        while len(self._strangers) > STRANGERS_REMEMBERED:
            self._strangers.popitem(last=False)

    async def _records_of(self, tags: Iterable[str]) -> dict[str, Order]:
        stored = await self._store.find([f"client:{tag}" for tag in tags])
        return {tag: each.order for each in stored for tag in each.order.client_order_ids}

    def _note_clean(self, reports: Iterable[Report]) -> None:
        for report in reports:
            self._clean.note(name_of(report), _gist(report))

    async def _compare_suspects(self, read: _Read, *, in_hand: Set[str]) -> list[Finding]:
        """What differs of finished orders that may, by all that the broker shows of each."""
        if not read.suspects:
            return []
        by_tag: dict[str, list[Report]] = {}

        async def collect(part: Sequence[Report]) -> None:
            for report in part:
                if report.client_order_id in read.suspects:
                    by_tag.setdefault(report.client_order_id, []).append(report)

        if read.parts == 1:
            await collect(read.latest)
        else:
            await self._account.read_book(whole=True, on_part=collect)
        findings: list[Finding] = []
        suspects = sorted(read.suspects)
        for start in range(0, len(suspects), LOOKED_UP_AT_ONCE):
            records = await self._records_of(suspects[start : start + LOOKED_UP_AT_ONCE])
            for order in {order.order_id: order for order in records.values()}.values():
                if order.order_id in in_hand:
                    continue
                shown = [report for tag in order.client_order_ids for report in by_tag.get(tag, ())]
                found = self._findings(order, shown)
                findings += [f for f in found or () if f not in findings]
                if found == []:
                    self._note_clean(shown)
        return findings

    async def _compare_positions(self) -> tuple[PositionsCompared | None, frozenset[Key]]:
        """What differs, and what of that says nothing: it was moving meanwhile, or is explained by missing fills, which are said
        themselves. None: the broker does not tell its positions."""
        self._moved.clear()
        # Also where they are not shown: whoever asked again at once would not learn more.
        began = self._compared_at = self._clock.monotonic()
        try:
            theirs = await self._account.read_positions()
        except Exception as exc:  # noqa: BLE001  whatever it was, positions are not known
            if not self._is_silence_logged:
                log.warning(
                    f"The broker does not tell positions, they are not compared: {str(exc) or type(exc).__name__}",
                    action="positions_not_told",
                    account_id=self._account.account_id,
                )
            self._is_silence_logged = True
            if not self._account.reports_positions:
                self._shown_at = began  # it never will
            return None, frozenset()
        self._is_silence_logged, self._shown_at = False, began
        symbols = [position.instrument.symbol for position in theirs]
        account = self._account
        ours = await holdings(self._live, self._store, account.account_id, symbols, account.products_of)
        compared = self._compared(ours, theirs)
        compared = self._explained(compared, theirs, await self._recorded(compared))
        await self._alert_unclear(theirs)
        unclear = frozenset((DiscrepancyKind.POSITION_DIFFERS, subject) for subject in compared.unclear)
        if not compared.findings:
            return compared, unclear
        # Whatever filled while positions were being asked for has been recorded after this; about that nothing is known.
        await self._account.read_book(whole=False)
        being_sent = [live for live in self._in_hand() if live.order.status is Status.SUBMITTING]
        moving = (*self._moved.values(), *(live.order.accepted_request.instrument for live in being_sent))
        keys = {
            finding.key
            for finding in compared.findings
            for mine in compared.instruments[finding.subject]
            if mine.key in self._uncounted or any(mine.could_be(other) for other in moving)
        }
        return compared, unclear | keys

    def _compared(self, ours: Sequence[Holding], theirs: Sequence[BrokerPosition]) -> PositionsCompared:
        """Where one of them cannot be compared, by something that nobody foresaw, the others are: nothing is concluded of what it may be."""
        try:
            return compare_positions(ours, theirs)
        except Exception:
            mine = [each for each in ours if self._is_comparable(each.instrument, (each,), ())]
            other = [each if self._is_comparable(each.instrument, (), (each,)) else UNNAMED_POSITION for each in theirs]
            if len(mine) == len(ours) and other == list(theirs):
                raise
            compared = compare_positions(mine, other)
            odd = {each.instrument.symbol for each in ours if all(each is not one for one in mine)}
            doubtful = {
                finding.subject
                for finding in compared.findings
                if odd & {each.symbol for each in compared.instruments[finding.subject]}
            }
            known = tuple(finding for finding in compared.findings if finding.subject not in doubtful)
            return replace(compared, findings=known, unclear=compared.unclear | doubtful)

    def _is_comparable(self, instrument: Instrument, ours: Sequence[Holding], theirs: Sequence[BrokerPosition]) -> bool:
        try:
            compare_positions(ours, theirs)
        except Exception as exc:  # noqa: BLE001  logged, and an alert is raised
            self._cannot_compare(f"position {instrument.symbol}", f"the position in {instrument.symbol}", exc)
            return False
        return True

    async def _alert_unclear(self, theirs: Sequence[BrokerPosition]) -> None:
        """Once for as long as the same positions cannot be read."""
        names = {
            "a row that does not say what is held"
            if position.is_unnamed
            else f"the position in {plain(position.instrument.key)}"
            for position in theirs
            if position.is_unclear
        }
        fresh = sorted(names - self._unclear)
        if fresh:
            words = cannot_be_read(
                account_name=self._account.account_name, broker=self._account.broker_name, what=fresh
            )
            await self._alerts.raise_alert(f"positions_cannot_be_read:{self._account.account_id}", words)
        self._unclear = names  # now that the alert was raised: else it is raised with the next comparison

    async def _recorded(self, compared: PositionsCompared) -> Sequence[PositionMovement]:
        """What the broker recorded of shares that moved without an order, asked again while the same shares differ: it may record that later. What it
        told last where it does not tell it now."""
        differing = {
            finding.key: finding.steady
            for finding in compared.findings
            if any(mine.asset_class is not AssetClass.OPTION for mine in compared.instruments[finding.subject])
        }
        asked_at, asked_for, told = self._movements
        is_due = differing != asked_for or self._clock.monotonic() - asked_at >= MOVEMENTS_AGAIN_SECONDS
        if differing and is_due:
            asked_at = self._clock.monotonic()
            try:
                told = tuple(await self._account.read_movements(self._clock.now() - MOVEMENTS_BACK))
            except Exception as exc:  # noqa: BLE001  whatever it was, nothing more is known
                log.info(
                    f"The broker does not tell how positions changed: {str(exc) or type(exc).__name__}",
                    action="movements_not_told",
                    account_id=self._account.account_id,
                )
            self._movements = asked_at, differing, told
        return told if differing else ()

    def _explained(
        self,
        compared: PositionsCompared,
        theirs: Sequence[BrokerPosition],
        recorded: Sequence[PositionMovement],
    ) -> PositionsCompared:
        """With what is likely of how each difference came about: of what came since the position was last as we hold it."""
        self._earlier = {finding.key: self._earlier.get(finding.key, self._shown) for finding in compared.findings}
        self._shown = quantities_of(theirs)
        today = self._clock.now().date()
        findings = []
        for finding in compared.findings:
            try:
                came = unexplained_changes(compared, self._earlier[finding.key])
                group = compared.groups[finding.subject]
                exits = [live.order for live in self._in_hand() if self._is_exit_at_work(live.order, group)]
                worded = replace(explained(finding, group, came, today, recorded), resting=resting_exits(group, exits))
            except Exception as exc:  # noqa: BLE001  that it differs is known without an explanation
                self._cannot_compare(finding.subject, f"what explains the difference in {finding.subject}", exc)
                worded = finding
            findings.append(worded)
        return replace(compared, findings=tuple(findings))

    def _is_exit_at_work(self, order: Order, group: InstrumentGroup) -> bool:
        request = order.accepted_request
        product = product_of(order, self._account.products_of(request.instrument))
        is_open = order.status in _LISTED and order.identity.purpose is Purpose.EXIT
        return is_open and group.is_about(request.instrument, product)

    # --- what is done about it ----------------------------------------------------------------------------------

    async def _record(self, judgement: Judgement) -> None:
        """Done again from the start if it fails halfway: each part does only what has not been done. Raises StoreUnavailable."""
        assert self._open is not None
        now = self._clock.now()
        fresh = list(judgement.opened)
        for finding in judgement.replaced:
            before = self._open[finding.key]
            await self._close(before, now)
            was = f"ours {before.finding.ours}, the broker's {before.finding.theirs}"
            fresh.append(replace(finding, before=was))
        for finding in fresh:
            row = Discrepancy(
                account_id=self._account.account_id,
                finding=finding,
                opened_at=now,
                updated_at=now,
                owner=owner_of(finding.kind),
                next_step=self._worded(finding, next_step),
                is_alerted=finding.is_alerted,
            )
            if await self._store.insert_discrepancy(row):
                self._open[row.key] = row
                self._say(f"Discrepancy opened: {self._difference(finding)}", "discrepancy_opened", row)
            else:
                # By a write whose answer was lost, or by another process.
                rows = await self._store.open_discrepancies(self._account.account_id)
                self._open = {stored.key: stored for stored in rows}
        for finding in judgement.changed:
            changed = replace(self._open[finding.key], finding=finding, updated_at=now)
            await self._save(changed)
            log.info(
                f"Discrepancy changed: {self._difference(finding)}",
                action="discrepancy_changed",
                account_id=self._account.account_id,
            )
        for key in judgement.closed:
            await self._close(self._open[key], now)
        for row in tuple(self._open.values()):
            if not row.is_alerted:
                words = self._opened_words(row)
                kind = f"discrepancy:{self._account.account_id}"
                await self._alerts.raise_alert_once(f"discrepancy:{row.discrepancy_id}", kind, words)
                await self._save(replace(row, is_alerted=True))

    async def _close(self, row: Discrepancy, now: datetime) -> None:
        assert self._open is not None
        closed = replace(row, state=DiscrepancyState.CLOSED, closed_at=now)
        await self._store.save_discrepancy(closed)
        del self._open[row.key]
        self._say(f"Discrepancy closed: {self._difference(closed.finding)}", "discrepancy_closed", closed)

    async def _save(self, row: Discrepancy) -> None:
        assert self._open is not None
        await self._store.save_discrepancy(row)
        self._open[row.key] = row

    def _opened_words(self, row: Discrepancy) -> str:
        try:
            return discrepancy_opened(row, account_name=self._account.account_name, broker=self._account.broker_name)
        except Exception as exc:
            log.exception(f"No words for a discrepancy: {exc}", action="no_words", account_id=row.account_id)
            return message_not_composed("discrepancy", [row.finding.signal_id or row.finding.subject])

    def _difference(self, finding: Finding) -> str:
        return self._worded(finding, difference)

    def _worded(self, finding: Finding, words: Callable[[Finding], str]) -> str:
        """Where there are no words for one, it is named, and the others have theirs."""
        try:
            return words(finding)
        except Exception as exc:
            log.exception(f"No words for a difference: {exc}", action="no_words", account_id=self._account.account_id)
            return f"{finding.kind} {finding.subject}"

    def _say(self, sentence: str, action: str, row: Discrepancy) -> None:
        about = {} if row.finding.signal_id is None else {"signal_id": row.finding.signal_id}
        log.warning(sentence, action=action, account_id=row.account_id, kind=row.finding.kind.value, **about)

    def _outcome(
        self, orders: _OrdersCompared, positions: PositionsCompared | None, judgement: Judgement, *, is_whole: bool
    ) -> ReconciliationOutcome:
        assert self._open is not None
        if not is_whole:
            return ReconciliationOutcome(is_compared=False, words="Only changes were asked for")
        foreign_positions = () if positions is None else positions.not_ours
        looked_for = sum(map(_is_looked_for, self._in_hand()))
        line = reconciled(
            open_orders=orders.open_orders,
            executions=orders.executions,
            positions=None if positions is None else positions.agreeing,
            discrepancies=len(self._open),
            unconfirmed=len(judgement.unconfirmed),
            looked_for=looked_for,
            orders_not_ours=len(orders.not_ours),
            positions_not_ours=len(foreign_positions),
        )
        not_ours = _named_not_ours(orders.not_ours, foreign_positions)
        is_news = judgement.opened or judgement.replaced or judgement.closed or not_ours != self._said_not_ours
        if self._wants_telling or is_news or (positions is None) != self._said_without_positions:
            log.info(f"{line} (account {self._account.account_id})", action="reconciled", not_ours=list(not_ours))
            self._wants_telling = bool(judgement.unconfirmed) or bool(looked_for)
            self._said_without_positions = positions is None
            self._said_not_ours = not_ours
        details = [f"open: {self._difference(row.finding)}. {row.next_step}" for row in self._open.values()]
        details += [f"to be confirmed: {self._difference(finding)}" for finding in judgement.unconfirmed]
        details += [f"not ours: {each}" for each in not_ours]
        is_clean = positions is not None and not (self._open or judgement.unconfirmed or looked_for)
        return ReconciliationOutcome(is_compared=True, is_clean=is_clean, words="\n".join([line, *details]))


def _is_looked_for(live: LiveOrder) -> bool:
    """Perhaps sent, by an earlier life or without a clear answer; what is just being sent is not meant."""
    is_of_before = live.sent_at is not None and live.sent_at < live.known_from
    return live.order.status is Status.SUBMITTING and (is_of_before or live.sending.finding_from is not None)


def _named_not_ours(orders: Sequence[Report], positions: Sequence[BrokerPosition]) -> tuple[str, ...]:
    """Working orders and positions, the first few of each by name; the ended orders of others are only counted."""
    working = [r for r in orders if r.status is ReportStatus.WORKING]
    named = [f"order {plain(r.broker_order_id)}, working" for r in working[:NAMED_AT_MOST]]
    named += [f"{quantity(p.quantity)} {plain(p.instrument.key)}" for p in positions[:NAMED_AT_MOST]]
    more = max(0, len(working) - NAMED_AT_MOST) + max(0, len(positions) - NAMED_AT_MOST)
    return (*named, *((f"and {more} more",) if more else ()))


def _gist(report: Report) -> tuple[object, ...]:
    """What would make a report of a finished order worth comparing again."""
    fills = frozenset((fill.fill_id, fill.quantity) for fill in report.fills)
    return (report.broker_order_id, report.status, report.filled_quantity, fills, report.busted_fill_ids)
