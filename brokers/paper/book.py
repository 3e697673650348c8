"""The rows of the paper exchange's book as values: queries and updates. No transactions, and no decisions about
orders."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from brokers.base import AssetClass, Instrument, OptionRight, OrderType, ReportStatus, Side, Ticket, Tif
from brokers.errors import OrderAlreadyExists
from brokers.paper.model import Execution, PaperFill, PaperOrder, Planned, ScriptedQuote, Step, time_of

_INSTRUMENT_COLUMNS = "symbol, asset_class, exchange, expiry, strike, call_or_put, o.currency, multiplier, underlying, con_id, trading_class, isin"
_ORDER_COLUMNS = (
    "number, account, client_id, broker_id, symbol, asset_class, exchange, expiry, strike, call_or_put, currency, multiplier, underlying, "
    "con_id, trading_class, isin, side, quantity, order_type, limit_price, stop_price, reference_price, tif, product, variety, "
    "reserved_id, status, reason, placed_at, changed_at, changed, is_protective, link, display_quantity"
)
_FILL_COLUMNS = "f.order_number, f.fill_id, f.quantity, f.price, f.at, f.commission, f.currency, f.busted, f.corrects, f.number, f.market_volume"
_DAY_MICROSECONDS = 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One scheduled step of an order."""

    row_id: int
    order_number: int
    planned: Planned


# Questions about orders


def orders(db: sqlite3.Connection, account_id: str) -> list[PaperOrder]:
    return _load(db, "account = ?", (account_id,))


def order_numbered(db: sqlite3.Connection, number: int) -> PaperOrder:
    """Raises if there is no such order."""
    return _load(db, "number = ?", (number,))[0]


def orders_under(db: sqlite3.Connection, account_id: str, client_order_id: str) -> list[PaperOrder]:
    """In the order of their last change."""
    return _load(db, "account = ? AND client_id = ?", (account_id, client_order_id))


def order_with_broker_id(db: sqlite3.Connection, account_id: str, broker_order_id: str) -> PaperOrder | None:
    found = _load(db, "account = ? AND broker_id = ?", (account_id, broker_order_id))
    return found[0] if found else None


def orders_changed_after(
    db: sqlite3.Connection, account_id: str, mark: int, limit: int | None = None
) -> list[PaperOrder]:
    """At most `limit` orders, in the order of their last change."""
    return _load(db, "account = ? AND changed > ?", (account_id, mark), limit)


def orders_of_the_day(db: sqlite3.Connection, account_id: str, moment: int, limit: int | None) -> list[PaperOrder]:
    """The orders changed within 24 hours and all unfinished ones, at most `limit`, in the order of their last
    change."""
    return _load(
        db,
        "number IN (SELECT number FROM orders WHERE account = ? AND changed_at >= ?"
        " UNION SELECT number FROM orders WHERE account = ? AND status = 'WORKING')",
        (account_id, moment - _DAY_MICROSECONDS, account_id),
        limit,
    )


def orders_linked(db: sqlite3.Connection, account_id: str, link: str) -> list[PaperOrder]:
    """In the order of their last change."""
    return _load(db, "account = ? AND link = ?", (account_id, link))


def resting(db: sqlite3.Connection, symbol: str) -> list[PaperOrder]:
    """The working protective orders of any account that bear this symbol."""
    return _load(db, "status = 'WORKING' AND is_protective = 1 AND symbol = ?", (symbol,))


def last_price(db: sqlite3.Connection, instrument: Instrument) -> Decimal | None:
    """Of the latest execution in it, of any account; None: there was none."""
    rows = db.execute(
        "SELECT f.price FROM fills f JOIN orders o ON o.number = f.order_number WHERE o.symbol = ? AND o.asset_class = ?"
        " AND o.expiry IS ? AND o.strike IS ? AND o.call_or_put IS ? AND f.busted = 0 ORDER BY f.number DESC LIMIT 1",
        (instrument.symbol, instrument.asset_class, instrument.expiry, text_of(instrument.strike), instrument.right),
    ).fetchone()
    return None if rows is None else Decimal(rows[0])


def symbol_under(db: sqlite3.Connection, account_id: str, client_order_id: str) -> str:
    """The symbol of an order with this client id; empty: there is none."""
    row = db.execute(
        "SELECT symbol FROM orders WHERE account = ? AND client_id = ?", (account_id, client_order_id)
    ).fetchone()
    symbol: str = row[0] if row else ""
    return symbol


def numbers_good_for_the_day(db: sqlite3.Connection, account_id: str) -> list[int]:
    """Working orders with time in force DAY or none."""
    rows = db.execute(
        "SELECT number FROM orders WHERE account = ? AND status = 'WORKING' AND coalesce(tif, 'DAY') = 'DAY'",
        (account_id,),
    ).fetchall()
    return [number for (number,) in rows]


def number_of_filled_order(db: sqlite3.Connection, account_id: str, fill_id: str) -> int:
    """Raises ValueError for an unknown fill."""
    row = db.execute(
        "SELECT o.number FROM fills f JOIN orders o ON o.number = f.order_number WHERE f.fill_id = ? AND o.account = ?",
        (fill_id, account_id),
    ).fetchone()
    if row is None:
        raise ValueError(f"the book has no fill {fill_id}")
    number: int = row[0]
    return number


def executions(db: sqlite3.Connection, account_id: str) -> Iterator[Execution]:
    """The fills that are not busted, and transfers, by time."""
    moved = _INSTRUMENT_COLUMNS.replace("o.", "")
    rows = db.execute(
        f"SELECT f.quantity, f.price, f.commission, f.currency, o.side, o.product, f.at, f.number, {_INSTRUMENT_COLUMNS}"
        " FROM fills f JOIN orders o ON o.number = f.order_number WHERE o.account = ? AND f.busted = 0"
        f" UNION ALL SELECT quantity, price, NULL, coalesce(currency, ''), NULL, product, at, number, {moved}"
        " FROM transfers WHERE account = ? ORDER BY 7, 8",
        (account_id, account_id),
    )
    instruments: dict[tuple[Any, ...], Instrument] = {}
    for amount, paid, commission, currency, side, product, _, _, *columns in rows:
        described = tuple(columns)
        yield Execution(
            instruments.get(described) or instruments.setdefault(described, _instrument(described)),
            -Decimal(amount) if side == Side.SELL else Decimal(amount),
            Decimal(paid),
            Decimal(commission or 0),
            currency,
            product,
            is_transfer=side is None,
        )


def mark(db: sqlite3.Connection) -> int:
    """The number of the latest change in the book."""
    value: int = db.execute("SELECT value FROM counters WHERE name = 'change'").fetchone()[0]
    return value


# Questions about the plan


def is_anything_due(db: sqlite3.Connection, account_id: str, moment: int) -> bool:
    row = db.execute("SELECT 1 FROM plan WHERE account = ? AND due <= ? LIMIT 1", (account_id, moment)).fetchone()
    return row is not None


def next_due(db: sqlite3.Connection, account_id: str) -> int | None:
    """In microseconds since 1970."""
    row = db.execute("SELECT MIN(due) FROM plan WHERE account = ?", (account_id,)).fetchone()
    due: int | None = row[0]
    return due


def due_rows(db: sqlite3.Connection, account_id: str, moment: int) -> list[PlanRow]:
    """In the order in which the steps are due."""
    rows = db.execute(
        "SELECT id, order_number, due, step, quantity, price, commission, reason FROM plan"
        " WHERE account = ? AND due <= ? ORDER BY due, id",
        (account_id, moment),
    ).fetchall()
    return [
        PlanRow(
            row_id,
            order_number,
            Planned(due, Step(step), Decimal(quantity or 0), Decimal(price or 0), decimal_of(commission), reason),
        )
        for row_id, order_number, due, step, quantity, price, commission, reason in rows
    ]


# Changes


def insert_order(
    db: sqlite3.Connection,
    account_id: str,
    number: int,
    broker_id: str,
    ticket: Ticket,
    moment: int,
    *,
    unique_client_order_id: bool,
) -> None:
    """A working order. Raises OrderAlreadyExists for a repeated broker id, and for a repeated client id that must be
    unique."""
    instrument = ticket.instrument
    client_id = ticket.client_order_id
    guard = client_id if unique_client_order_id else None
    try:
        db.execute(
            f"INSERT INTO orders (guard, {_ORDER_COLUMNS}) VALUES ({', '.join('?' * 35)})",
            (
                guard,
                number,
                account_id,
                client_id,
                broker_id,
                *_columns_of(instrument),
                ticket.side,
                str(ticket.quantity),
                ticket.order_type,
                text_of(ticket.limit_price),
                text_of(ticket.stop_price),
                text_of(ticket.reference_price),
                ticket.tif,
                ticket.product,
                ticket.variety,
                ticket.reserved_order_id,
                ReportStatus.WORKING,
                None,
                moment,
                moment,
                count(db, "change"),
                int(ticket.is_protective),
                ticket.link,
                text_of(ticket.display_quantity),
            ),
        )
    except sqlite3.IntegrityError as exc:
        raise OrderAlreadyExists(f"The book already has an order {client_id or broker_id}") from exc


def insert_fill(
    db: sqlite3.Connection,
    number: int,
    *,
    fill_id: str,
    order_number: int,
    quantity: Decimal,
    price: Decimal,
    at: int,
    commission: Decimal | None,
    currency: str,
    corrects: str | None,
    market_volume: Decimal | None = None,
) -> None:
    db.execute(
        "INSERT INTO fills (number, fill_id, order_number, quantity, price, at, commission, currency, corrects, market_volume)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            fill_id,
            order_number,
            str(quantity),
            str(price),
            at,
            text_of(commission),
            currency,
            corrects,
            text_of(market_volume),
        ),
    )


def insert_transfer(
    db: sqlite3.Connection,
    account_id: str,
    instrument: Instrument,
    quantity: Decimal,
    price: Decimal,
    product: str | None,
    moment: int,
) -> None:
    """Signed: positive for an arrival without an execution, negative for a departure."""
    db.execute(
        "INSERT INTO transfers (number, account, symbol, asset_class, exchange, expiry, strike, call_or_put, currency, multiplier, underlying,"
        f" con_id, trading_class, isin, quantity, price, product, at) VALUES ({', '.join('?' * 18)})",
        (
            count(db, "change"),
            account_id,
            *_columns_of(instrument),
            str(quantity),
            str(price),
            product,
            moment,
        ),
    )


def insert_quote(db: sqlite3.Connection, quote: ScriptedQuote) -> None:
    """In place of an earlier one of the symbol."""
    prices = map(text_of, (quote.bid, quote.ask, quote.last, quote.close))
    row = (quote.symbol, *prices, quote.age_seconds, quote.last_age_seconds, quote.is_delayed, quote.refusal)
    db.execute("INSERT OR REPLACE INTO quotes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def quote_of(db: sqlite3.Connection, symbol: str) -> ScriptedQuote | None:
    row = db.execute("SELECT * FROM quotes WHERE symbol = ?", (symbol,)).fetchone()
    if row is None:
        return None
    bid, ask, last, close = map(decimal_of, row[1:5])
    return ScriptedQuote(
        symbol=symbol,
        bid=bid,
        ask=ask,
        last=last,
        close=close,
        age_seconds=row[5],
        last_age_seconds=row[6],
        is_delayed=bool(row[7]),
        refusal=row[8],
    )


def touch(
    db: sqlite3.Connection,
    number: int,
    moment: int,
    status: ReportStatus | None = None,
    reason: str | None = None,
) -> None:
    """Marks an order as changed. None keeps its status or reason."""
    db.execute(
        "UPDATE orders SET status = coalesce(?, status), reason = coalesce(?, reason), changed_at = max(changed_at, ?), changed = ?"
        " WHERE number = ?",
        (status, reason, moment, count(db, "change"), number),
    )


def reduce_quantity(db: sqlite3.Connection, number: int, quantity: Decimal) -> None:
    """What is ordered becomes so much."""
    db.execute("UPDATE orders SET quantity = ? WHERE number = ?", (str(quantity), number))


def charge(db: sqlite3.Connection, fill_id: str, commission: Decimal | None) -> None:
    db.execute("UPDATE fills SET commission = ? WHERE fill_id = ?", (text_of(commission), fill_id))


def bust(db: sqlite3.Connection, fill_id: str) -> bool:
    """False: it was busted before."""
    return db.execute("UPDATE fills SET busted = 1 WHERE fill_id = ? AND busted = 0", (fill_id,)).rowcount > 0


def schedule(db: sqlite3.Connection, account_id: str, order_number: int, planned: Planned) -> None:
    fills = planned.step is Step.FILL
    db.execute(
        "INSERT INTO plan (account, order_number, due, step, quantity, price, commission, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            account_id,
            order_number,
            planned.due,
            planned.step,
            str(planned.quantity) if fills else None,
            str(planned.price) if fills else None,
            text_of(planned.commission),
            planned.reason,
        ),
    )


def unschedule(db: sqlite3.Connection, row: PlanRow) -> None:
    db.execute("DELETE FROM plan WHERE id = ?", (row.row_id,))


def unschedule_order(db: sqlite3.Connection, order_number: int) -> None:
    """Cancels everything scheduled for an order, except commissions of fills that have happened."""
    db.execute("DELETE FROM plan WHERE order_number = ? AND step <> ?", (order_number, Step.COMMISSION))


def count(db: sqlite3.Connection, name: str) -> int:
    """The next number of the sequence `order`, `fill` or `change`."""
    row = db.execute("UPDATE counters SET value = value + 1 WHERE name = ? RETURNING value", (name,)).fetchone()
    value: int = row[0]
    return value


# Rows to values


def _load(
    db: sqlite3.Connection, where: str, parameters: tuple[object, ...], limit: int | None = None
) -> list[PaperOrder]:
    """At most `limit` matching orders with their fills, in the order of their last change."""
    sequence = "ORDER BY changed" if limit is None else f"ORDER BY changed LIMIT {limit}"
    rows = db.execute(f"SELECT {_ORDER_COLUMNS} FROM orders WHERE {where} {sequence}", parameters).fetchall()
    if not rows:
        return []
    fills: defaultdict[int, list[PaperFill]] = defaultdict(list)
    chosen = f"SELECT number FROM orders WHERE {where} {sequence}"
    for row in db.execute(
        f"SELECT {_FILL_COLUMNS} FROM fills f WHERE f.order_number IN ({chosen}) ORDER BY f.number", parameters
    ):
        fills[row[0]].append(
            PaperFill(
                fill_id=row[1],
                quantity=Decimal(row[2]),
                price=Decimal(row[3]),
                time=time_of(row[4]),
                commission=decimal_of(row[5]),
                commission_currency=row[6],
                busted=bool(row[7]),
                corrects=row[8],
                market_volume=decimal_of(row[10]),
            )
        )
    return [_order(row, tuple(fills[row[0]])) for row in rows]


def _order(row: tuple[Any, ...], fills: tuple[PaperFill, ...]) -> PaperOrder:
    ticket = Ticket(
        client_order_id=row[2],
        instrument=_instrument(row[4:16]),
        side=Side(row[16]),
        quantity=Decimal(row[17]),
        order_type=OrderType(row[18]),
        limit_price=decimal_of(row[19]),
        stop_price=decimal_of(row[20]),
        reference_price=decimal_of(row[21]),
        tif=None if row[22] is None else Tif(row[22]),
        product=row[23],
        variety=row[24],
        reserved_order_id=row[25],
        is_protective=bool(row[31]),
        link=row[32],
        display_quantity=decimal_of(row[33]),
    )
    return PaperOrder(
        number=row[0],
        account_id=row[1],
        broker_order_id=row[3],
        ticket=ticket,
        status=ReportStatus(row[26]),
        reason=row[27],
        placed_at=time_of(row[28]),
        changed_at=time_of(row[29]),
        change=row[30],
        fills=fills,
    )


def _columns_of(instrument: Instrument) -> tuple[Any, ...]:
    """In the order in which `_instrument` reads them."""
    return (
        instrument.symbol,
        instrument.asset_class,
        instrument.exchange,
        instrument.expiry,
        text_of(instrument.strike),
        instrument.right,
        instrument.currency,
        text_of(instrument.multiplier),
        instrument.underlying,
        instrument.con_id,
        instrument.trading_class,
        instrument.isin,
    )


def _instrument(columns: tuple[Any, ...]) -> Instrument:
    (
        symbol,
        asset_class,
        exchange,
        expiry,
        strike,
        right,
        currency,
        multiplier,
        underlying,
        con_id,
        trading_class,
        isin,
    ) = columns
    return Instrument(
        symbol=symbol,
        asset_class=AssetClass(asset_class),
        exchange=exchange,
        expiry=expiry,
        strike=decimal_of(strike),
        right=None if right is None else OptionRight(right),
        currency=currency,
        multiplier=decimal_of(multiplier),
        underlying=underlying,
        con_id=con_id,
        trading_class=trading_class,
        isin=isin,
    )


# Amounts as text


def text_of(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def decimal_of(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
