"""Executions as rows of `trades`: one for each execution, and one for each later change of it. From an order's events alone; nothing is looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256

from brokers.base import AssetClass, Fill, Side
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.orders.effects import AppliedEvent
from execution_service.core.orders.events import Busted, CommissionReported, ContractDeclared, Filled, Occasion
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import INDIAN_PRODUCTS, NO_DECISION, DecisionIds
from execution_service.core.positions.ledger import key_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
WITHOUT_CASH = frozenset({Occasion.TRANSFER_IN, Occasion.TRANSFER_OUT})
"""Occasions of adoptions that move units and no money."""
DECLARED = "contract declared"
"""The reason of rows that restate an execution, since it became known what its contract is worth."""


class TradeKind(StrEnum):
    """The values stand in rows, and must not change."""

    FILL = "FILL"
    """An execution; or an execution that stands restated after its reversal."""
    REVERSAL = "REVERSAL"
    """What a FILL row booked is taken back: its size and its commission with the other sign."""
    COMMISSION = "COMMISSION"
    """The commission of an execution became known, or was changed: `commission` is the difference, `size` is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeRow:
    """One row; it never changes. Sums over rows are right at any time: of `size` and of `commission`, by `direction`."""

    trade_id: str
    """Rises with `at`; the same for the same change of the same execution, whenever and by whomever it is worked out."""
    at: datetime
    """When it was executed, by the broker's time; of a later change, when that was recorded."""
    ticker: str
    side: Side
    """Of the execution, in all rows about it."""
    size: Decimal
    """Negative in a REVERSAL."""
    price: Decimal
    """Of the execution, in all rows about it."""
    order_id: str
    """Ours."""
    strategy_id: str
    decision: DecisionIds
    kind: TradeKind
    execution_trade_id: str
    """Of the row that the execution came with: its own, in that row."""
    fill_id: str
    """The broker's."""
    account_id: str
    signal_id: str
    leg_index: int
    broker_order_id: str | None
    ledger_id: str
    """The position ledger's entry that has it."""
    instrument_key: str
    currency: str
    """Of the price: as the broker or the order names it; else of the pair, else INR for an Indian product, else USD, which is assumed."""
    money_per_point: Decimal | None
    """As `Order.money_per_point`; None: not known, and neither is what the row is worth."""
    commission: Decimal | None
    """None: not reported yet."""
    commission_currency: str | None
    reason: str | None
    """Why it was executed, where no order asked for it: the occasion of an adoption; or why it is restated."""
    moves_cash: bool
    """Whether units were exchanged for money; False of a transfer."""
    recorded_at: datetime
    mode: str | None = None
    """The account's, PRODUCTION or TRAINING; None: the account is not configured any more."""

    @property
    def value(self) -> Decimal | None:
        """The money that the units cost, negative where they were sold; without the commission. None: not known."""
        if not self.size:
            return ZERO
        if self.money_per_point is None:
            return None
        signed = self.size * self.side.sign
        return EXACT.multiply(EXACT.multiply(signed, self.price), self.money_per_point)

    @property
    def unknown_amounts(self) -> int:
        """1 where it is not known what the units cost, -1 where such a row is taken back: the sum over rows is how many amounts are missing."""
        if self.value is not None:
            return 0
        return -1 if self.kind is TradeKind.REVERSAL else 1


def rows_of(applied_event: AppliedEvent, mode: str | None) -> Iterator[TradeRow]:
    """The rows that the event makes: of most events none. `mode` is the account's."""
    event, before, after = applied_event.event, applied_event.before, applied_event.after
    match event:
        case Filled() if applied_event.moves_position:
            yield _row(after, event.fill, TradeKind.FILL, event.fill.time, event.at, mode)
        case Busted() if applied_event.moves_position:
            fill = before.fill_of(event.fill_id)
            assert fill is not None
            yield _row(after, fill, TradeKind.REVERSAL, event.at, event.at, mode, change="bust")
        case CommissionReported():
            yield from _commission(applied_event, event, mode)
        case ContractDeclared() if _worth(before) != _worth(after):
            for fill in after.fills:
                change = f"declared {applied_event.number}"
                yield _row(before, fill, TradeKind.REVERSAL, event.at, event.at, mode, change=change, reason=DECLARED)
                yield _row(after, fill, TradeKind.FILL, event.at, event.at, mode, change=change, reason=DECLARED)


def trade_id_of(order_id: str, fill: Fill) -> str:
    """Of the row that an execution comes with."""
    return _trade_id(order_id, fill.fill_id, TradeKind.FILL, "", fill.time)


def id_from(at: datetime) -> str:
    """Not above the id of any row from that moment on, and above the id of every row before it."""
    return f"trade_{max(0, (at - _EPOCH) // _MILLISECOND):012x}"


FIRST_ID, BEHIND_LAST_ID = "trade_", "trade`"
"""Below and above the id of every row."""


def _trade_id(order_id: str, fill_id: str, kind: TradeKind, change: str, at: datetime) -> str:
    text = "|".join(f"{len(part)}:{part}" for part in (order_id, fill_id, kind.value, change))
    return f"{id_from(at)}_{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


def _commission(applied_event: AppliedEvent, event: CommissionReported, mode: str | None) -> Iterator[TradeRow]:
    """The difference to what was known; in another currency what was known is taken back, and all of it comes anew."""
    fill, now_known = applied_event.before.fill_of(event.fill_id), applied_event.after.fill_of(event.fill_id)
    if fill is None or now_known is None or now_known.commission is None:
        return
    known, changes = fill.commission or ZERO, []
    if known and fill.commission_currency != now_known.commission_currency:
        changes = [(-known, fill.commission_currency), (now_known.commission, now_known.commission_currency)]
    elif fill.commission is None or now_known.commission != known:
        changes = [(now_known.commission - known, now_known.commission_currency)]
    for place, (commission, currency) in enumerate(changes, 1):
        yield _row(
            applied_event.after,
            fill,
            TradeKind.COMMISSION,
            event.at,
            event.at,
            mode,
            change=f"commission {applied_event.number}.{place}",
            commission=(commission, currency),
        )


def _row(
    order: Order,
    fill: Fill,
    kind: TradeKind,
    at: datetime,
    recorded_at: datetime,
    mode: str | None,
    *,
    change: str = "",
    reason: str | None = None,
    commission: tuple[Decimal, str | None] | None = None,
) -> TradeRow:
    request, adopted, instrument = order.accepted_request, order.adoption, order.instrument
    assert instrument is not None
    sign = -1 if kind is TradeKind.REVERSAL else 1
    if commission is None:
        known = fill.commission
        paid, paid_in = None if known is None else sign * known, fill.commission_currency
    else:
        paid, paid_in = commission
    execution_id = trade_id_of(order.order_id, fill)
    return TradeRow(
        trade_id=_trade_id(order.order_id, fill.fill_id, kind, change, at) if change else execution_id,
        at=_as_kept(at),
        ticker=instrument.symbol,
        side=request.side,
        size=ZERO if kind is TradeKind.COMMISSION else sign * fill.quantity,
        price=fill.price,
        order_id=order.order_id,
        strategy_id=request.strategy,
        decision=request.decision or NO_DECISION,
        kind=kind,
        execution_trade_id=execution_id,
        fill_id=fill.fill_id,
        account_id=request.account_id,
        signal_id=order.signal_id,
        leg_index=order.identity.leg_index,
        broker_order_id=order.broker_order_id,
        ledger_id=key_of(order).ledger_id,
        instrument_key=order.booked_as or instrument.key,
        currency=_currency(order),
        money_per_point=order.money_per_point,
        commission=paid,
        commission_currency=paid_in,
        reason=reason or (None if adopted is None else adopted.occasion.value),
        moves_cash=adopted is None or adopted.occasion not in WITHOUT_CASH,
        recorded_at=_as_kept(recorded_at),
        mode=mode,
    )


def _as_kept(at: datetime) -> datetime:
    """To the millisecond, as records keep their times: a row is the same before and after they were read again."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _worth(order: Order) -> tuple[Decimal | None, str]:
    return order.money_per_point, _currency(order)


def _currency(order: Order) -> str:
    """The same for all rows of an order, until its contract's facts are declared anew."""
    instrument, terms, request = order.instrument, order.terms, order.accepted_request
    assert instrument is not None
    named = instrument.currency if terms is None else terms.currency or instrument.currency
    if named is not None:
        return named
    if instrument.asset_class is AssetClass.FOREX:
        return instrument.symbol[-3:]  # of the pair the second is what the price is in
    return "INR" if request.product in INDIAN_PRODUCTS else "USD"
