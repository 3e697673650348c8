"""The fields of a gateway's messages, as far as the adapter reads them itself: execution times, and what an
unreadable message is about."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum

EXECUTION_TIME = 15
"""The position of the time among an execution's fields."""
_CONTRACT_OF_EXECUTION = 3
_UNUSED_OF_EXECUTION = (7, 23, 24, 25, 28, 30)
"""Numbers that nothing here uses: strike, liquidation, cumulative quantity, average price, multiplier of a
rule, liquidity."""
_QUESTION = {11: 1, 10: 1, 18: 1, 73: 2}
"""By message: the position of the number of the query that it answers, which differs each time."""
_OUR_TAG = re.compile(r"[a-z][a-z0-9]{18}", re.ASCII)
_LARGEST_ID = 2**63
_SHOWN_CHARACTERS = 400


class MessageKind(IntEnum):
    """The gateway's message types that are used here, by number."""

    ORDER_STATUS = 3
    ERROR = 4
    OPEN_ORDER = 5
    CONTRACT = 10
    EXECUTION = 11
    BOND = 18
    CONTRACTS_END = 52
    EXECUTIONS_END = 55
    COMMISSION = 59
    POSITION = 61
    ACCOUNT_VALUE = 73
    ACCOUNT_VALUES_END = 74
    MARKET_RULE = 93
    COMPLETED_ORDER = 101


OF_ORDERS = frozenset(
    {MessageKind.ORDER_STATUS, MessageKind.OPEN_ORDER, MessageKind.EXECUTION, MessageKind.COMPLETED_ORDER}
)
_ACCOUNT = {
    MessageKind.OPEN_ORDER: 20,
    MessageKind.EXECUTION: 16,
    MessageKind.COMPLETED_ORDER: 19,
    MessageKind.POSITION: 2,
}
_TAG = {MessageKind.OPEN_ORDER: 23, MessageKind.EXECUTION: 26, MessageKind.COMPLETED_ORDER: 22}
_ORDER_ID = {MessageKind.ORDER_STATUS: 1, MessageKind.OPEN_ORDER: 1, MessageKind.EXECUTION: 2}
_CLIENT_ID = {MessageKind.ORDER_STATUS: 9, MessageKind.OPEN_ORDER: 24, MessageKind.EXECUTION: 22}
_PERM_ID = {
    MessageKind.ORDER_STATUS: 6,
    MessageKind.OPEN_ORDER: 25,
    MessageKind.EXECUTION: 21,
    MessageKind.COMPLETED_ORDER: 23,
}
_REQUEST_ID = {
    MessageKind.ERROR: 2,
    MessageKind.CONTRACT: 1,
    MessageKind.BOND: 1,
    MessageKind.CONTRACTS_END: 2,
    MessageKind.EXECUTIONS_END: 2,
    MessageKind.ACCOUNT_VALUE: 2,
    MessageKind.ACCOUNT_VALUES_END: 2,
    MessageKind.MARKET_RULE: 1,
}
_KINDS = {
    MessageKind.ORDER_STATUS: "a status",
    MessageKind.OPEN_ORDER: "an open order",
    MessageKind.EXECUTION: "an execution",
    MessageKind.COMPLETED_ORDER: "a completed order",
    MessageKind.POSITION: "a position",
    MessageKind.COMMISSION: "a commission",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A message that could not be decoded or has impossible values, with what its fields say nevertheless."""

    kind: MessageKind | None = None
    """None: its number is missing or unknown."""
    is_numbered: bool = True
    """False: it does not even have a number, and may be about anything."""
    is_other_account: bool = False
    """It is certainly about another account of the login."""
    tag: str | None = None
    """Ours; empty: certainly not ours; None: unknown."""
    client_id: int = 0
    order_id: int = 0
    perm_id: int = 0
    """Ids that cannot be read are 0."""
    request_id: int | None = None
    con_id: int = 0
    contract: tuple[str, ...] = ()
    """Of a position: symbol, type, expiry, strike, right, multiplier, exchange, currency and local symbol, as
    written."""
    words: str
    """What it is and what it contains, for people."""


def execution_to_decode(fields: Sequence[str], seconds: int) -> list[str]:
    """The message as both client libraries can read it: with its time as seconds of the epoch (the one form that
    needs no zone), and without unused fields, which might be unreadable."""
    decoded = ["" if place in _UNUSED_OF_EXECUTION else field for place, field in enumerate(fields)]
    decoded[EXECUTION_TIME] = str(seconds)
    if not _whole(fields, _CONTRACT_OF_EXECUTION):
        decoded[_CONTRACT_OF_EXECUTION] = ""  # what it is of is known by its order, unless that is a combination
    return decoded


def unreadable(fields: Sequence[str], account: str, accounts: Collection[str], why: object) -> Unreadable:
    """What can be said of an unreadable message. `account` is whose messages are wanted, `accounts` are all of the
    login: their names show whether the fields are in place."""
    number = _whole(fields, 0)
    kind = MessageKind(number) if number in tuple(MessageKind) else None
    about = _KINDS.get(kind, "a message") if kind is not None else "a message"
    named = _field(fields, _ACCOUNT.get(kind)) if kind is not None else ""
    is_in_place = named in accounts if kind in _ACCOUNT else kind is not None
    tag = _tag(fields, kind, is_in_place=is_in_place) if kind in OF_ORDERS or kind is None else ""
    contract = kind is MessageKind.POSITION and is_in_place
    return Unreadable(
        kind=kind,
        is_numbered=number > 0,
        is_other_account=bool(kind in _ACCOUNT and is_in_place and account and named != account),
        tag=tag,
        client_id=_id(fields, _CLIENT_ID, kind) if is_in_place else 0,
        order_id=_id(fields, _ORDER_ID, kind) if is_in_place else 0,
        perm_id=_id(fields, _PERM_ID, kind) if is_in_place else 0,
        request_id=_whole(fields, _REQUEST_ID[kind]) or None if kind in _REQUEST_ID else None,
        con_id=_whole(fields, 3) if contract else 0,
        contract=tuple(fields[4:13]) if contract and len(fields) > 12 else (),
        words=f"{about} cannot be read ({why}): {_shown(fields)}",
    )


def _shown(fields: Sequence[str]) -> str:
    question = _QUESTION.get(_whole(fields, 0))
    shown = ["" if place == question else field for place, field in enumerate(fields)]
    return ",".join(shown)[:_SHOWN_CHARACTERS]


def _tag(fields: Sequence[str], kind: MessageKind | None, *, is_in_place: bool) -> str | None:
    """Wherever it is: nothing else in these messages looks like one."""
    if kind is MessageKind.ORDER_STATUS:
        return None
    found = next((field for field in fields if _OUR_TAG.fullmatch(field)), None)
    if found is not None:
        return found
    return "" if is_in_place and kind in _TAG and len(fields) > _TAG[kind] else None


def _id(fields: Sequence[str], places: dict[MessageKind, int], kind: MessageKind | None) -> int:
    place = places.get(kind) if kind is not None else None
    return 0 if place is None else _whole(fields, place)


def _whole(fields: Sequence[str], place: int) -> int:
    """0 if it is not a whole number above 0."""
    text = _field(fields, place)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and int(text) < _LARGEST_ID else 0


def _field(fields: Sequence[str], place: int | None) -> str:
    return fields[place] if place is not None and place < len(fields) else ""
