"""Whether two names may be of one instrument, by everything that orders and brokers say of it."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from brokers.base import (
    AssetClass,
    Instrument,
    OptionRight,
)

SHARES = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.FUND})


def may_be_the_same(one: Instrument, other: Instrument) -> bool:
    """Whether a position in one may be shown as a position in the other: brokers name instruments more or less fully
    than orders do.

    Shares are the same on every exchange and whichever kind of share (STOCK, ETF, FUND) they are called. A derivative
    may be named by its own symbol or by its underlying, its expiry by day or by month.
    """
    if one.con_id is not None and other.con_id is not None:
        return one.con_id == other.con_id
    if family_of(one) != family_of(other) or not agree(one.currency, other.currency):
        return False
    if one.asset_class in SHARES:
        return symbol_of(one) == symbol_of(other)
    if not agree(_upper(one.exchange), _upper(other.exchange)) or not _expiries_agree(one.expiry, other.expiry):
        return False
    if not agree(one.strike, other.strike) or not agree(one.right, other.right):
        return False
    if symbol_of(one) == symbol_of(other):
        return True
    # Under another name it is the same only if both sides say everything else that distinguishes it.
    is_option = one.asset_class is AssetClass.OPTION
    needed = (one.expiry, other.expiry, *((one.strike, other.strike, one.right, other.right) if is_option else ()))
    return all(each is not None for each in needed) and bool(names_of(one) & names_of(other))


def family_of(instrument: Instrument) -> AssetClass:
    return AssetClass.STOCK if instrument.asset_class in SHARES else instrument.asset_class


def symbol_of(instrument: Instrument) -> str:
    if instrument.asset_class is AssetClass.FOREX:
        return "".join(letter for letter in instrument.symbol if letter.isalpha())
    return instrument.symbol.rpartition(":")[2]


def names_of(instrument: Instrument) -> set[str]:
    as_written = instrument.symbol.rpartition(":")[2]
    return {symbol_of(instrument), as_written} | (
        {instrument.underlying} if instrument.underlying is not None else set()
    )


def instrument_of_key(key: str) -> Instrument | None:
    """The instrument that an `Instrument.key` stands for: old rows kept only the key."""
    parts = key.split("|")
    names = [place for place, part in enumerate(parts) if place and part in AssetClass.__members__]
    if not names:
        return None
    place = names[0]
    said = dict(part.split("=", 1) for part in parts[place + 1 :] if "=" in part)
    try:
        return Instrument(
            symbol="|".join(parts[:place]),
            asset_class=AssetClass(parts[place]),
            exchange=said.get("exchange"),
            expiry=said.get("expiry"),
            strike=Decimal(said["strike"]) if "strike" in said else None,
            right=OptionRight(said["right"]) if "right" in said else None,
            currency=said.get("currency"),
            con_id=int(said["con_id"]) if "con_id" in said else None,
        )
    except (ValueError, InvalidOperation):
        return None


def _upper(text: str | None) -> str | None:
    return None if text is None else text.upper()


def agree(one: object, other: object) -> bool:
    return one is None or other is None or one == other


def _expiries_agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one.startswith(other) or other.startswith(one)
