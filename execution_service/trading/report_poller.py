"""What the broker reports of the account's orders: when it is asked, and how what is new is recorded, also of finished orders; not what is next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import structlog

from brokers.base import Report, Unreadable
from brokers.errors import AnswerUnclear, BrokerError, BrokerUnavailable, NotAnswered
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Event, Held, Noted
from execution_service.core.orders.last_reported import LastReported, name_of
from execution_service.core.orders.order import Order
from execution_service.core.orders.repetition import FINDS
from execution_service.core.orders.report_events import (
    fills_are_missing,
    is_of_another,
    is_short,
    new_events,
    unreadable_note,
    was_noted,
)
from execution_service.core.orders.sanitize import sanitized
from execution_service.core.orders.status import Status
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import held_for_opening
from execution_service.core.texts.service import cannot_be_read
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import OrderStore, Stored
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.isolation import Isolation
from execution_service.trading.reconciliation import Reconciliation
from execution_service.trading.timers import Timers

log = structlog.get_logger(__name__)
T = TypeVar("T")

MISSING_FILLS_ALERT_SECONDS = 30.0
ANSWER_SECONDS = 1.0
"""How long the call that hands an order over may still take when a report has told of that order."""
"""After so long the broker's count is taken at its word: fills that it has not shown are missing, and an order that it calls complete with
less than was ordered has ended."""
IDLE_CHECK_SECONDS = 5.0
"""How often a broker is asked without an order at work: fills may come after the end, and not every broker tells by itself."""
LOOKED_UP_AT_ONCE = 50
"""While the store answers such a question others wait."""
LOOKED_THROUGH_AT_ONCE = 2000
FINISHED_REMEMBERED = 50_000
UNREADABLE_REMEMBERED = 5000
STRANGERS_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class _Missing:
    """An order of which the broker counts more, or calls complete less, than its executions show; `since` by the monotonic clock."""

    live: LiveOrder
    report: Report
    since: float


class _NotNow(Exception):
    """Nothing may be recorded of a report's order at this moment: the broker is to report it again."""


class ReportPoller:
    """Asks one broker about all orders at once, or looks for one."""

    def __init__(
        self,
        *,
        connection: Connection,
        queues: InstrumentQueues,
        live_orders: LiveOrders,
        store: OrderStore,
        clock: Clock,
        alerts: RaisesAlerts,
        grouped_alerts: GroupedAlerts,
        isolation: Isolation,
        timers: Timers[LiveOrder],
        reconciliation: Reconciliation,
        ownership: Ownership,
    ) -> None:
        """`timers` are woken when the broker may be asked again, whoever had asked. `reconciliation` learns of an ended order whose
        record has all that the report tells, and when an order that is none of this account's records has filled: a person's, or the
        broker's that squares off. `ownership`: whether this process surely holds the account at this moment."""
        self._connection = connection
        self._queues = queues
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._grouped_alerts = grouped_alerts
        self._isolation = isolation
        self._timers = timers
        self._reconciliation = reconciliation
        self._ownership = ownership
        self.answered_at: float | None = None
        """When the last question about all orders was asked that was answered, by the monotonic clock."""
        self.is_asking = False
        self._is_wanted = False
        self._pause_until = 0.0
        self._mark: int | None = None
        self._finished = LastReported(FINISHED_REMEMBERED)
        """What the broker has said of orders that are not in hand."""
        self._unreadable: set[str] = set()
        """What an alert was raised of since it could not be read or recorded, by what it is about."""
        self._strange = LastReported(STRANGERS_REMEMBERED)
        """What orders without a tag had filled, and what was said of those whose record cannot be read."""
        self._missing: dict[str, _Missing] = {}
        """By our id."""
        self._said: WeakKeyDictionary[LiveOrder, Hashable] = WeakKeyDictionary()
        """What the broker last said of each order in hand: something else means that asking again may fare better."""

    # --- when ---------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Nothing was asked of this broker yet: another one's mark means nothing to it, and whoever was asking has ended."""
        self.answered_at = self._mark = None
        self.is_asking = self._is_wanted = False
        self._pause_until = 0.0
        self._missing.clear()

    def want(self) -> None:
        """The broker is to be asked about all orders as soon as may be."""
        self._is_wanted = True

    def is_due(self, now: float) -> bool:
        if self.is_asking:
            return False  # what comes due meanwhile may be answered by that
        if self.answered_at is None or now >= self.answered_at + IDLE_CHECK_SECONDS:
            self._is_wanted = True
        return self._is_wanted and now >= self._pause_until

    @property
    def next_at(self) -> float | None:
        """When it is due, by the monotonic clock; None while it is being asked."""
        if self.is_asking:
            return None
        if self._is_wanted:
            return self._pause_until
        return None if self.answered_at is None else max(self._pause_until, self.answered_at + IDLE_CHECK_SECONDS)

    # --- about all orders ---------------------------------------------------------------------------------------

    async def check(self) -> None:
        """One question about all orders; if it fails, it is wanted again."""
        try:
            await self.ask_all()
        except (BrokerError, TimeoutError, StoreUnavailable) as exc:
            # A failed question changes no order's state; it is asked again.
            self._connection.query_failed(exc)
        except Exception as exc:
            log.exception(
                f"What the broker says of the orders could not be taken in: {exc}",
                action="check_failed",
                account_id=self._connection.account_id,
            )
            self._connection.query_failed(exc)
        else:
            return
        self._is_wanted = True
        self._pause_until = self._clock.monotonic() + AFTER_FAILURE_SECONDS

    async def ask_all(
        self, *, whole: bool = False, on_part: Callable[[Sequence[Report]], Awaitable[None]] | None = None
    ) -> None:
        """One question answers all orders; what is new is recorded, for finished orders too. `whole`: what was reported before is asked
        for again, too. An answer may come in parts: each is recorded, and then given to `on_part`. Raises BrokerError, TimeoutError,
        StoreUnavailable, and whatever an adapter raises that cannot answer."""
        broker = self._connection.broker
        self.is_asking, self._is_wanted = True, False
        asked_at = self._clock.monotonic()
        if whole:
            self._tell_combinations()
        try:
            since, has_more, is_recorded = None if whole else self._mark, True, True
            while has_more:
                answer = await self._connection.ask(broker.reports(since))
                if answer.has_more and answer.mark == since:
                    raise AnswerUnclear("the broker says that its answer goes on, and it does not")
                since, has_more = answer.mark, answer.has_more
                reports, odd = await self._sound(answer.reports)
                is_recorded = await self._record_all(reports, [*answer.unreadable, *odd]) and is_recorded
                self._connection.was_usable()
                if on_part is not None:
                    await on_part(reports)
            self.answered_at = asked_at
            if is_recorded:
                self._mark = since
            await self._settle_lasting_counts()
        finally:
            self.is_asking = False
            self._timers.wake()

    def _tell_combinations(self) -> None:
        """Of all orders in hand, so that a new connection shows their legs at once."""
        for live in self._live.by_id.values():
            if live.order.request.account_id == self._connection.account_id:
                self._connection.tell_combinations(live.order)

    async def _sound(self, reports: Sequence[Report]) -> tuple[list[Report], list[Unreadable]]:
        """The reports without values that can be none, and what those were."""
        good: list[Report] = []
        odd: list[Unreadable] = []
        now = self._clock.now()
        for number, report in enumerate(reports, 1):
            if number % LOOKED_THROUGH_AT_ONCE == 0:
                await asyncio.sleep(0)  # a whole day's answer must not hold up everybody else
            try:
                if not isinstance(report.client_order_id, str):
                    odd.append(Unreadable(words=f"an order's tag is {report.client_order_id!r}"[:200]))
                    continue
                each, problem = sanitized(report, now)
                good.append(each)
            except Exception as exc:  # noqa: BLE001  whatever it is made of, the others are recorded
                problem = f"its report is {type(exc).__name__}: {exc}"
            if problem is not None:
                odd.append(Unreadable(client_order_id=report.client_order_id, words=problem))
        return good, odd

    async def _record_all(self, reports: Sequence[Report], unreadable: Sequence[Unreadable]) -> bool:
        """False: not everything could be recorded. The mark must stay, so that it is reported again; other orders are not held up by it."""
        account_id = self._connection.account_id
        # Found at once: an order may be let out of hand while others are recorded, and its report would be lost.
        known = {r.client_order_id: live for r in reports if (live := self._live.by_client_id.get(r.client_order_id))}
        # Two accounts of ours may be one at the broker: each records its own orders only, or both would step them.
        own = {tag: live for tag, live in known.items() if live.order.request.account_id == account_id}
        # What was shown of a combination before the broker knew its legs is not to be believed: it shows it anew, each leg by itself.
        anew = {tag for tag, live in own.items() if self._connection.tell_combinations(live.order)}
        in_hand = [(own[tag], r) for r in reports if (tag := r.client_order_id) in own and tag not in anew]
        recorded = await asyncio.gather(*(self._is_recorded(live, r) for live, r in in_hand))
        self._note_strangers([r for r in reports if r.filled_quantity and not r.client_order_id])
        failed = await self._record_finished(
            [r for r in reports if r.client_order_id and r.client_order_id not in known]
        )
        lasting = [(r, exc) for r, exc in failed if not isinstance(exc, StoreUnavailable | _NotNow)]
        for report, failure in lasting:
            self._say_failure(report, failure)
        cannot = [
            Unreadable(client_order_id=r.client_order_id, words=f"its news cannot be recorded: {exc}")
            for r, exc in lasting
        ]
        await self._alert_unreadable([*unreadable, *cannot])
        return all(recorded) and not (failed or anew)

    def _say_failure(self, report: Report, failure: BaseException) -> None:
        """Once for each order: what cannot be recorded is reported again and again."""
        name = f"failed:{report.client_order_id}"
        if name not in self._unreadable:
            self._unreadable.add(name)
            log.error(
                f"A report could not be recorded: {failure}",
                action="report_failed",
                account_id=self._connection.account_id,
                client_order_id=report.client_order_id,
                exc_info=failure,
            )

    async def _alert_unreadable(self, unreadable: Sequence[Unreadable]) -> None:
        """Once for each thing: in the order's own record where that is in hand, else in one alert for the account."""
        if len(self._unreadable) > UNREADABLE_REMEMBERED:
            self._unreadable.clear()
        alerted: list[str] = []
        for each in unreadable:
            name = each.client_order_id or each.words
            if name in self._unreadable:
                continue
            live = self._live.by_client_id.get(each.client_order_id)
            if live is not None and live.order.request.account_id != self._connection.account_id:
                continue
            self._unreadable.add(name)
            if live is None or not await self._is_noted(live, each.words):
                alerted.append(f"{each.client_order_id}: {each.words}" if each.client_order_id else each.words)
        if alerted:
            words = cannot_be_read(
                account_name=self._connection.account_name, broker=self._connection.broker_name, what=alerted
            )
            try:
                await self._alerts.raise_alert(f"cannot_be_read:{self._connection.account_id}", words)
            except BaseException:
                self._unreadable.clear()  # alerted of with the next answer, then
                raise

    async def _is_noted(self, live: LiveOrder, words: str) -> bool:
        """False: it cannot stand in the order's record, and an alert has to say it."""
        if live.is_let_go:
            return True  # whoever works it now asks the broker, too
        try:
            await self._live.record(live, partial(unreadable_note, words=words, now=self._clock.now()))
        except Exception as exc:  # noqa: BLE001  whatever the record is spoilt by
            log.warning(f"Not noted in the record: {exc}", action="note_failed", signal_id=live.order.signal_id)
            return False
        return True

    async def _is_recorded(self, live: LiveOrder, report: Report) -> bool:
        """False: what is new could not be recorded, and must be reported again; nothing is while the order is isolated."""
        if live.is_let_go:
            return True  # another process asks the broker
        if self._isolation.holds(live):
            return False
        try:
            await self._learn(live, report)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._isolation.failed(live, exc, doing="recording what the broker reports of it")
            return False
        return True

    def _note_strangers(self, reports: Sequence[Report]) -> None:
        fresh = [r for r in reports if not self._strange.is_known(name_of(r), r.filled_quantity)]
        for report in fresh:
            self._strange.note(name_of(report), report.filled_quantity)
        if fresh:
            self._reconciliation.traded_past_us()

    async def _record_finished(self, reports: Sequence[Report]) -> list[tuple[Report, BaseException]]:
        """Reports of orders that are not in hand: a late fill, a correction, a commission, or nothing new. Returns those that could not be
        recorded, and why."""
        failed: list[tuple[Report, BaseException]] = []
        unrecorded: list[Report] = []
        anew: set[str] = set()
        for start in range(0, len(reports), LOOKED_THROUGH_AT_ONCE):
            some = reports[start : start + LOOKED_THROUGH_AT_ONCE]
            unrecorded += [r for r in some if not self._is_known(r)]
            await asyncio.sleep(0)  # a whole day's answer must not hold up everybody else
        for start in range(0, len(unrecorded), LOOKED_UP_AT_ONCE):
            some = unrecorded[start : start + LOOKED_UP_AT_ONCE]
            stored = await self._store.find([f"client:{r.client_order_id}" for r in some])
            by_client_id = {c: s for s in stored for c in s.order.client_order_ids}
            for report in some:
                record = by_client_id.get(report.client_order_id)
                try:
                    if record is not None and record.order.request.account_id == self._connection.account_id:
                        if self._connection.tell_combinations(record.order):
                            anew.add(report.client_order_id)  # as in `_record_all`
                        if report.client_order_id in anew:
                            continue
                        await self._record_late(record, report)
                    elif record is None and (
                        unreadable := self._store.unreadable([f"client:{report.client_order_id}"])
                    ):
                        # Not noted as known: once the record can be read, what was reported meanwhile has to be recorded.
                        self._note_change_of_unknown(report)
                        failed.append((report, UnreadableRecord("; ".join(unreadable))))
                        continue
                    elif report.filled_quantity:
                        self._reconciliation.traded_past_us()
                except StoreUnavailable:
                    raise
                except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                    failed.append((report, exc))
                    continue
                self._finished.note(name_of(report), _gist(report))
        return failed

    def _note_change_of_unknown(self, report: Report) -> None:
        """Of an order whose record cannot be read: what we hold may have changed, and only a comparison would show it."""
        if report.filled_quantity and not self._strange.is_known(name_of(report), _gist(report)):
            self._strange.note(name_of(report), _gist(report))
            self._reconciliation.traded_past_us()

    def _is_known(self, report: Report) -> bool:
        """Whether the latest word about an order that is not in hand is the same; where that is not known, it is looked at."""
        try:
            return self._finished.is_known(name_of(report), _gist(report))
        except Exception:  # noqa: BLE001  what is wrong with it is said when it is recorded
            return False

    async def _record_late(self, record: Stored, report: Report) -> None:
        """Takes the order in hand again where the report has something new of it. It may have come in hand while its record was being read, and then
        this is a report of it like any other; or the account may have gone to another process. Raises _NotNow where it has to be reported again."""
        if not new_events(record.order, report, self._clock.now()):
            return
        in_hand = self._live.by_id.get(record.order.order_id)
        if in_hand is not None:
            if not await self._is_recorded(in_hand, report):
                raise _NotNow
            return
        if not self._ownership.holds(self._connection.account_id):
            raise _NotNow  # nothing is taken in hand that another process may be working
        live = self._live.adopt(record)
        await self.learn(live, report)
        if not live.order.status.is_final:
            self._queues.look_again(live)

    # --- about one order ----------------------------------------------------------------------------------------

    async def find(self, live: LiveOrder) -> None:
        """Looks for an order that was perhaps sent, and notes since when it has been looked for in vain."""
        is_unclear = False
        try:
            await self.look_for(live)
        except (BrokerError, TimeoutError) as exc:
            self._connection.query_failed(exc)
            live.tries = replace(live.tries, not_before=self._clock.monotonic() + AFTER_FAILURE_SECONDS)
            if not isinstance(exc, AnswerUnclear):
                return
            # An odd row may stay for the whole day. It leads to doubt like no answer at all, and whatever waits for the order goes on.
            is_unclear = True
        live.sending = live.sending.looked_for(self._clock.monotonic(), is_unclear=is_unclear)

    async def find_doubtful(self, live: LiveOrder) -> None:
        """Looks for an order in doubt, and with the same look for all others of the account, unless one of them has just done so."""
        now, account_id = self._clock.monotonic(), self._connection.account_id
        if live.tries.finds.wait_seconds(FINDS, now) > 0:
            return
        doubtful = [
            each
            for each in self._live.by_id.values()
            if each.order.status is Status.IN_DOUBT and each.order.request.account_id == account_id
        ]
        for each in doubtful:
            each.tries = replace(each.tries, finds=each.tries.finds.with_request(now))
        try:
            await self.look_for_all(doubtful)
        except (BrokerUnavailable, NotAnswered) as exc:
            for each in doubtful:
                finds = each.tries.finds.without_latest()
                each.tries = replace(each.tries, finds=finds, not_before=now + AFTER_FAILURE_SECONDS)
            self._connection.query_failed(exc)
        except (BrokerError, TimeoutError) as exc:
            self._connection.query_failed(exc)

    async def look_for_all(self, some: Sequence[LiveOrder]) -> set[str]:
        """Looks for these orders under all of their ids, and records what the broker says of them; one of which that cannot be recorded is
        isolated. Returns our ids of those that it surely does not show. Raises BrokerError, TimeoutError."""
        tags = {tag: live for live in some for tag in live.order.client_order_ids}
        if not tags:
            return set()
        for live in some:
            self._connection.tell_combinations(live.order)
        found = await self._looked(self._connection.broker.find_all(tuple(tags)))
        shown = {live.order.order_id for tag, live in tags.items() if tag not in found or found[tag] is not None}
        for tag, report in found.items():
            if report is not None:
                try:
                    await self.learn(tags[tag], report)
                except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                    self._isolation.failed(tags[tag], exc, doing="recording what the broker reports of it")
        return {live.order.order_id for live in some} - shown

    async def look_for(self, live: LiveOrder) -> bool:
        """Whether the broker finds the order under any of its ids; what it says of it is recorded. Raises BrokerError, TimeoutError."""
        broker = self._connection.broker
        self._connection.tell_combinations(live.order)
        is_found = False
        for client_order_id in live.order.client_order_ids:
            report = await self._looked(broker.find(client_order_id))
            if report is not None:
                is_found = True
                await self.learn(live, report)
        return is_found

    async def _looked(self, question: Awaitable[T]) -> T:
        """What an adapter raises that nobody foresaw is no answer, and no fault of the order's. Raises BrokerError, TimeoutError."""
        try:
            return await self._connection.ask(question)
        except (BrokerError, TimeoutError):
            raise
        except Exception as exc:
            log.exception(
                f"The adapter stumbled over a look for orders: {exc}",
                action="look_failed",
                account_id=self._connection.account_id,
            )
            raise BrokerError(f"no answer to a look for orders: {type(exc).__name__}: {exc}") from exc

    async def learn(self, live: LiveOrder, report: Report) -> None:
        """Records what a report tells that is new."""
        report, problem = sanitized(report, self._clock.now())
        if problem is not None:
            await self._live.record(live, partial(unreadable_note, words=problem, now=self._clock.now()))
        await self._learn(live, report)

    async def _learn(self, live: LiveOrder, report: Report) -> None:
        """Of a report that is `sanitized`."""
        events = await self._live.record(live, lambda order: new_events(order, report, self._clock.now()))
        is_news = bool(events)
        now = self._clock.monotonic()
        live.sending = replace(live.sending, asked_at=now)
        self._note_change(live, report)
        if live.handing_over is not None and live.order.status is not Status.SUBMITTING:
            self._clock.call_later(ANSWER_SECONDS, partial(_end_of_waiting, live.handing_over))
        hold = live.order.hold
        if hold is not None and any(isinstance(event, Held) and event.at == hold.since for event in events):
            self._alert_of_hold(live.order)  # not where the broker only names another time
        if is_of_another(live.order, report):
            self._queues.settle(live)
            return
        if live.order.status.is_final:
            # The next answer about all orders tells it again; it need not be read from the store for that.
            self._finished.note(name_of(report), _gist(report))
            self._reconciliation.ended(live.order, report)
        if live.order.status.is_final or not (fills_are_missing(live.order, report) or is_short(live.order, report)):
            self._missing.pop(live.order.order_id, None)
        else:
            before = self._missing.get(live.order.order_id)
            since = now if before is None or is_news else before.since
            self._missing[live.order.order_id] = _Missing(live, report, since)
        self._queues.settle(live)

    def _note_change(self, live: LiveOrder, report: Report) -> None:
        """Another word of the broker about the order than before: what was asked in vain may be answered now."""
        if report.client_order_id != live.order.client_order_id or is_of_another(live.order, report):
            return
        recorded = (report.status, report.filled_quantity, report.said, report.reason, report.is_held)
        if self._said.get(live, recorded) != recorded:
            live.take_news()
        self._said[live] = recorded

    def _alert_of_hold(self, order: Order) -> None:
        words = partial(
            held_for_opening,
            account_name=self._connection.account_name,
            broker=self._connection.broker_name,
            words="" if order.hold is None else order.hold.message,
        )
        until = None if order.hold is None else order.hold.until
        self._grouped_alerts.mention("held_for_opening", MentionedOrder(order, until), words)

    async def _settle_lasting_counts(self) -> None:
        """Says once that a broker's count and the executions it has shown have differed for long, and ends what it has long called complete
        with less than was ordered; a broker that tells only what is new does not repeat the report."""
        now = self._clock.monotonic()
        for missing in tuple(self._missing.values()):
            live = missing.live
            if self._isolation.holds(live):
                continue
            try:
                await self._settle_lasting_count(missing, now)
            except (BrokerError, TimeoutError, StoreUnavailable):
                raise
            except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                self._isolation.failed(live, exc, doing="recording what the broker reports of it")

    async def _settle_lasting_count(self, missing: _Missing, now: float) -> None:
        live, report = missing.live, missing.report
        if live.is_let_go or live.order.status.is_final:
            self._missing.pop(live.order.order_id, None)
            return
        if now - missing.since <= MISSING_FILLS_ALERT_SECONDS:
            return
        if is_short(live.order, report):
            await self._end_short(missing)
            return
        self._missing[live.order.order_id] = replace(missing, since=float("inf"))
        words = (
            f"the broker says {report.filled_quantity} filled ({report.status}), "
            f"the executions it has shown add up to {live.order.filled_quantity}"
        )
        note = Noted(at=self._clock.now(), message=words, alert=True)
        await self._live.record(live, lambda order, note=note: _unless_known(order, note))  # type: ignore[misc]

    async def _end_short(self, missing: _Missing) -> None:
        """Takes the broker's word that the order is complete with less than was ordered, if it still says so when it is asked for this one.
        Where that gets no answer it is tried again later: what was reported of the others is recorded all the same."""
        live = missing.live
        try:
            await self.look_for(live)
        except (BrokerError, TimeoutError) as exc:
            self._connection.query_failed(exc)
            self._missing[live.order.order_id] = replace(missing, since=self._clock.monotonic())
            return
        latest = self._missing.get(live.order.order_id)
        if latest is None or latest.since != missing.since or not is_short(live.order, latest.report):
            return
        shown = latest.report
        await self._live.record(live, lambda order: new_events(order, shown, self._clock.now(), is_settled=True))
        self._missing.pop(live.order.order_id, None)
        self._queues.settle(live)


def _unless_known(order: Order, note: Noted) -> Sequence[Event]:
    return () if order.status.is_final or was_noted(order, note.message) else (note,)


def _end_of_waiting(call: asyncio.Future[None]) -> None:
    if not call.done():
        call.set_result(None)


def _gist(report: Report) -> tuple[object, ...]:
    """What would make a repeated report worth looking at."""
    return (
        report.status,
        report.filled_quantity,
        tuple(fill.commission for fill in report.fills),
        report.busted_fill_ids,
        report.orders_under_tag,
        report.fills_shown,
    )
