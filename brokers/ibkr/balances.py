"""What the gateway's values of an account say: its money by currency, the base currency, and the rates into that. Nothing is asked here."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from decimal import Decimal

from brokers.base import Balance
from brokers.ibkr.contracts import amount_or_none

_log = logging.getLogger(__name__)
_TOTAL = "BASE"
"""Stands in the place of a currency in the rows that add up all of them."""
_ONE_EACH = Decimal(1)


def balances_in(rows: Iterable[tuple[str, str, str]]) -> list[Balance]:
    """Of rows of key, value and currency, by currency. The base currency is the one of which one is worth one; where that is not one alone, none is
    marked."""
    values = {(key, currency): amount_or_none(value) for key, value, currency in rows}
    base = _base(values)
    found = []
    for (key, currency), cash in sorted(values.items(), key=lambda item: item[0]):
        if key != "CashBalance" or currency in ("", _TOTAL):
            continue
        if cash is None:
            _log.warning("The cash in %s cannot be read: it is left out", currency)
            continue
        rate = values.get(("ExchangeRate", currency))
        found.append(
            Balance(
                currency=currency,
                cash=cash,
                equity=values.get(("NetLiquidationByCurrency", currency)),
                rate=rate if rate is not None and rate > 0 else None,
                is_base=currency == base,
                account_equity=values.get(("NetLiquidationByCurrency", _TOTAL)) if currency == base else None,
            )
        )
    return found


def _base(values: Mapping[tuple[str, str], Decimal | None]) -> str | None:
    named = {currency for (key, currency) in values if key == "NetLiquidation" and currency not in ("", _TOTAL)}
    if not named:
        named = {
            currency
            for (key, currency), rate in values.items()
            if key == "ExchangeRate" and currency not in ("", _TOTAL) and rate == _ONE_EACH
        }
    return named.pop() if len(named) == 1 else None
