"""Suggests what may have become of a position that changed without an order of ours (expiry, assignment, split,
rename). It only words suggestions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from brokers.base import AssetClass, BrokerPosition, Instrument, MovementKind, OptionRight, PositionMovement
from execution_service.core.reconcile.discrepancies import Finding
from execution_service.core.reconcile.instruments import names_of
from execution_service.core.reconcile.positions import InstrumentGroup, PositionsCompared

_SHARES = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.FUND})
_MOVEMENTS: Mapping[MovementKind, tuple[str, str | None]] = {
    MovementKind.SPLIT: ("a split", "split"),
    MovementKind.SPIN_OFF: ("a spin-off", None),
    MovementKind.MERGER: ("a merger", "merge"),
    MovementKind.RENAME: ("a change of name", "rename"),
    MovementKind.REORGANIZATION: ("a reorganization", "merge"),
    MovementKind.TRANSFER: ("a transfer", None),
}
"""In words, and the verb by which our books follow it; None: shares come or go at a price that a person names."""
_NAMED_AT_MOST = 3
_SPLIT_AT_MOST = 100
"""For a larger ratio, two unrelated holdings are likelier than a split."""


@dataclass(frozen=True, slots=True)
class PositionChange:
    """How the broker's position in something changed since the position in question was last as we have it."""

    instrument: Instrument
    change: Decimal
    product: str | None = None
    is_known: bool = True
    """False: the earlier quantity is not known, and the whole present quantity is taken for the change."""


def quantities_of(theirs: Sequence[BrokerPosition]) -> dict[str, Decimal]:
    """By instrument key, with the product if the broker names one."""
    found: dict[str, Decimal] = {}
    for position in theirs:
        if not position.is_unclear:
            key = _place(position)
            found[key] = found.get(key, Decimal(0)) + position.quantity
    return found


def _place(position: BrokerPosition) -> str:
    return f"{position.instrument.key}|product={position.product}" if position.product else position.instrument.key


def unexplained_changes(compared: PositionsCompared, earlier: Mapping[str, Decimal] | None) -> list[PositionChange]:
    """All changes of the account's positions that our orders do not explain. `earlier`: what the broker showed then,
    by `quantities_of`; None if unknown. For positions that differ from our ledger it is not needed."""
    ours = compared.groups
    found = [
        PositionChange(group.ours[0].instrument, group.shown - group.held, group.product) for group in ours.values()
    ]
    for position in compared.not_ours:
        change = position.quantity - (earlier or {}).get(_place(position), Decimal(0))
        if change:
            found.append(PositionChange(position.instrument, change, position.product, is_known=earlier is not None))
    return found


def explained(
    finding: Finding,
    group: InstrumentGroup,
    changes: Sequence[PositionChange],
    today: date,
    recorded: Sequence[PositionMovement] = (),
) -> Finding:
    """The finding with a note on its cause: by what the broker recorded of shares (`recorded`, oldest first) where that comes to the difference, else
    a probable one. `changes` may include the finding's own change."""
    others = [each for each in changes if not group.is_about(each.instrument, each.product)]
    instrument = group.ours[0].instrument
    lost = group.shown - group.held
    words = [said for said in (_expiry(instrument, today),) if said]
    own: Sequence[PositionMovement] = ()
    taken: list[tuple[PositionChange, str]] = []
    if instrument.asset_class is AssetClass.OPTION:
        taken = [(each, said) for each in others if (said := _assigned(instrument, lost, each))]
    elif instrument.asset_class in _SHARES:
        own = _recorded(group, lost, recorded)
        if own:
            words.append(_record(own))
        elif (ratio := _split(group)) is not None:
            words.append(ratio)
        taken = [(each, said) for each in others if (said := _renamed(group, lost, each))]
    if not taken:
        taken = [(each, said) for each in others if (said := _converted(group, lost, each))]
    for each, said in taken[:_NAMED_AT_MOST]:
        verb = "came" if each.change > 0 else "left"
        words.append(f"{_signed(each.change)} {each.instrument.key} {verb}, {said}")
    successor = " ".join(sorted(each.instrument.key for each, _ in taken[:_NAMED_AT_MOST]))
    names = " ".join(each.movement_id for each in own)
    return replace(finding, note="; ".join(words), successor=successor, recorded=names)


def _recorded(group: InstrumentGroup, lost: Decimal, recorded: Sequence[PositionMovement]) -> list[PositionMovement]:
    """The latest of the broker's records about the instrument that together come to the difference; none: no such are there. What came before them
    our books have followed."""
    mine = {name for holding in group.ours for name in names_of(holding.instrument)}
    left, found = lost, list[PositionMovement]()
    for each in reversed(recorded):
        if group.is_about(each.instrument) or mine & each.also_called:
            left -= each.quantity
            found.insert(0, each)
            if not left:
                return found
    return []


def _record(own: Sequence[PositionMovement]) -> str:
    """What the broker recorded, and by which word our books follow it."""
    said = []
    for each in own:
        noun, verb = _MOVEMENTS[each.kind]
        verb = verb or ("transfer-in" if each.quantity > 0 else "transfer-out")
        said.append(f"{_signed(each.quantity)} by {noun} on {each.on.isoformat()} (execctl adopt {verb})")
    return f"the broker recorded {', '.join(said)}"


def _expiry(instrument: Instrument, today: date) -> str:
    """A remark on its expiry; empty if it has none."""
    expiry = instrument.expiry
    if expiry is None:
        return ""
    if expiry in (f"{today:%Y%m%d}", f"{today:%Y%m}"):
        return f"its expiry is now ({expiry})"
    return f"it expired ({expiry})" if expiry < f"{today:%Y%m%d}"[: len(expiry)] else f"its expiry is {expiry}"


def _assigned(option: Instrument, lost: Decimal, candidate: PositionChange) -> str:
    """How a change in shares fits option contracts that disappeared: a short put or a long call brings shares, the
    others take them. Empty: it does not fit."""
    if candidate.instrument.asset_class not in _SHARES or option.right is None:
        return ""
    if not _is_underlying(candidate.instrument.symbol, option):
        return ""
    sign = 1 if option.right is OptionRight.PUT else -1
    each = candidate.change / (lost * sign)
    multiplier = option.multiplier
    if not multiplier:
        multiplier = each if each == each.to_integral_value() and each > 0 else Decimal(100)
    contracts = candidate.change / (multiplier * sign)
    is_part = contracts == contracts.to_integral_value() and 0 < contracts / lost <= 1
    if not is_part or (contracts != lost and not candidate.is_known):
        return ""
    what = "an assignment" if lost > 0 else "an exercise"
    kind = f"{'short' if lost > 0 else 'long'} {option.right.lower()}"
    many = "" if abs(contracts) == 1 else "s"
    return f"as {what} of {_plain(abs(contracts))} {kind}{many} of {_plain(multiplier)} brings it about"


def _is_underlying(symbol: str, option: Instrument) -> bool:
    """By name. An option with a symbol of its own begins with the underlying's symbol, followed by a date or blanks."""
    code = option.symbol.rpartition(":")[2]
    if symbol in (option.underlying, code):
        return True
    rest = code.removeprefix(symbol)
    return option.underlying is None and rest != code and (rest[0].isdigit() or rest[0].isspace())


def _split(group: InstrumentGroup) -> str | None:
    """If the quantities are in a whole ratio; a manual trade can look the same."""
    held, shown = group.held, group.shown
    if held * shown <= 0:
        return None
    ratio = max(abs(held), abs(shown)) / min(abs(held), abs(shown))
    if ratio != ratio.to_integral_value() or not 2 <= ratio <= _SPLIT_AT_MOST:
        return None
    ratio_text = f"{_plain(ratio)} for 1" if abs(shown) > abs(held) else f"1 for {_plain(ratio)}"
    return f"as after a split or merger of shares {ratio_text}, if it was no trade"


def _converted(group: InstrumentGroup, lost: Decimal, candidate: PositionChange) -> str:
    """How the same instrument in another product fits what disappeared."""
    if candidate.product is None or candidate.product == group.product or candidate.change != -lost:
        return ""
    return f"in {candidate.product}: perhaps converted" if group.is_about(candidate.instrument) else ""


def _renamed(group: InstrumentGroup, lost: Decimal, candidate: PositionChange) -> str:
    """How shares under another name fit shares that disappeared completely."""
    if (
        candidate.instrument.asset_class not in _SHARES
        or group.shown
        or not group.held
        or group.is_about(candidate.instrument)
    ):
        return ""
    if candidate.change == -lost:
        return "as many as left: perhaps the same under another name"
    ratio = candidate.change / group.held
    if not candidate.is_known or ratio <= 0:
        return ""
    if ratio == ratio.to_integral_value() and ratio <= _SPLIT_AT_MOST:
        return f"{_plain(ratio)} for each that left: perhaps the same, split and under another name"
    back = 1 / ratio
    if group.held == candidate.change * back and back == back.to_integral_value() and back <= _SPLIT_AT_MOST:
        return f"1 for {_plain(back)} that left: perhaps the same, merged and under another name"
    return ""


def _plain(amount: Decimal) -> str:
    return format(amount.normalize(), "f") if amount else "0"


def _signed(amount: Decimal) -> str:
    return ("+" if amount > 0 else "") + _plain(amount)
