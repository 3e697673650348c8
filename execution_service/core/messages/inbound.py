"""Parses orders and commands of either message dialect into our types. Outgoing messages are in `confirmation`, JSON
itself in `fields`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from types import MappingProxyType

from brokers.base import AssetClass, Instrument, OptionRight, OrderType, Side, Tif
from execution_service.core.messages.fields import (
    Fields,
    NotFinite,
    UnreadableMessage,
    object_of,
    shown,
    text_of,
    without_not_finite,
    written,
)
from execution_service.core.orders.request import (
    LEAST_TRAIL_PERCENT,
    MOST_TRAIL_PERCENT,
    NO_DECISION,
    DecisionIds,
    Identity,
    OrderRequest,
    Purpose,
    RefusedRequest,
)

MOST_LEGS = 1000
HIGHEST_CON_ID = 2**31 - 1
LONGEST_TIMEOUT_SECONDS = 366 * 24 * 3600
LONGEST_REASON = 1000
LONGEST_DECISION_ID = 128

_SYMBOL = re.compile(r"[A-Z0-9._\-/&: ]{1,32}")
_SYMBOL_MUST = "1 to 32 of letters, digits and . _ - / & : space"
_EXCHANGE = re.compile(r"[A-Z0-9._\-]{1,32}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_PAIR = re.compile(r"[A-Z]{6}")
_PAIR_SEPARATORS = str.maketrans("", "", "/._-: ")
_TRADING_CLASS = re.compile(r"[A-Z0-9._\-/&: ]{1,32}")
_ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]")
_OBJECT_ID = re.compile(r"[0-9A-F]{24}")

_SIDES = MappingProxyType({side.value: side for side in Side})
_ACTIONS = MappingProxyType({word: word for word in ("BUY", "SELL", "ENTRY", "EXIT")})
_DIRECTIONS = MappingProxyType({"LONG": "LONG", "SHORT": "SHORT"})
_ORDER_TYPES = MappingProxyType({order_type.value: order_type for order_type in OrderType})
_TIFS = MappingProxyType({tif.value: tif for tif in Tif})
_PRODUCTS = MappingProxyType({word: word for word in ("MIS", "NRML", "CNC", "LONG", "SHORT")})
_VARIETIES = MappingProxyType(
    {
        word.upper(): word
        for word in ("regular", "amo", "co", "iceberg", "auction", "extended_hours", "opg", "cls", "fok")
    }
)
_RIGHTS = MappingProxyType(
    {"CALL": OptionRight.CALL, "C": OptionRight.CALL, "PUT": OptionRight.PUT, "P": OptionRight.PUT}
)
_ASSET_CLASSES = MappingProxyType(
    {asset_class.value: asset_class for asset_class in AssetClass}
    | {
        "STK": AssetClass.STOCK,
        "STOCKS": AssetClass.STOCK,
        "EQUITY": AssetClass.STOCK,
        "EQ": AssetClass.STOCK,
        "OPT": AssetClass.OPTION,
        "OPTIONS": AssetClass.OPTION,
        "CASH": AssetClass.FOREX,
        "FX": AssetClass.FOREX,
        "FUT": AssetClass.FUTURE,
        "FUTURES": AssetClass.FUTURE,
        "CRYPTOCURRENCY": AssetClass.CRYPTO,
        "IND": AssetClass.INDEX,
    }
)
_EXPIRING = frozenset({AssetClass.FUTURE, AssetClass.OPTION, AssetClass.BOND})
_EXITS = frozenset({"EXIT", "SCALE_OUT"})
_ENTRIES = frozenset({"ENTRY", "SCALE_IN"})
_SIDE_FIELDS = ("side", "action", "direction")
_FACTS_READ = frozenset(
    {
        *(
            "instrument_type",
            "secType",
            "symbol",
            "instrument",
            "expiry",
            "lastTradeDateOrContractMonth",
            "strike",
            "right",
        ),
        *(
            "exchange",
            "currency",
            "multiplier",
            "underlying",
            "con_id",
            "conId",
            "trading_class",
            "tradingClass",
            "isin",
        ),
    }
)
_LOOK_LIKE_FACTS = (
    *("symbol", "ticker", "instrument", "contract", "conid", "multiplier", "magnifier", "tradingclass", "pointvalue"),
    *("lotsize", "ticksize", "mintick", "expir", "maturity", "deliverymonth", "strike", "optionright", "optiontype"),
    *(
        "putcall",
        "putorcall",
        "callput",
        "exch",
        "quotecurrency",
        "tradingcurrency",
        "settlementcurrency",
        "underlying",
    ),
    *("sectype", "secid", "securityid", "securitytype", "assetclass", "assettype", "isin", "cusip", "sedol", "figi"),
)
"""Fragments of field names, in lower case without punctuation."""
_FACTS_BY_WHOLE_NAME = frozenset(
    {"ric", "mic", "wkn", "osi", "right", "class", "series", "segment", "lot", "tick", "token", "ccy", "currencycode"}
)
_NO_FACTS = frozenset(
    {"contracts", "numcontracts", "expiresat", "expiresin", "exchangetimestamp", "exchangeorderid", "underlyingprice"}
)
_DECISION_IDS = ("decision_id", "profile_version_id", "regime_id", "universe_id", "plan_id")
_MOST_NAMED = 10
_LONGEST_REMEMBERED_NAME = 64
_SIDE_OF_DIRECTION = MappingProxyType({"LONG": Side.BUY, "SHORT": Side.SELL})


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedOrder:
    """A message that names a signal. `problems` is empty if and only if `request` is an OrderRequest."""

    identity: Identity
    request: OrderRequest | RefusedRequest
    problems: tuple[str, ...]
    raw: str
    """The JSON text as received, with null for NaN and infinities."""
    warning: str | None = None
    """What people should know, although the order can be executed."""
    unread_ids: frozenset[str] = frozenset()
    """Ids of its decision that are there and cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A message that cannot even be recorded as an order: it becomes a dead letter."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCommand:
    """A request to cancel. At least one of `order_id` (upstream's, the broker's or ours) and `signal_id` is given."""

    order_id: str | None
    signal_id: str | None
    leg_index: int | None
    reason: str
    timestamp: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KillCommand:
    """A request to engage a kill switch, as it was written: what its words mean is read where it is carried out."""

    scope: str | None
    level: str | None
    by: str
    reason: str
    cancel_entries: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCommand:
    """A request to make one of the two steps of arming a kill switch, as it was written."""

    scope: str | None
    person: str
    reason: str
    nonce: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StanceCommand:
    """A request to set a stance, as it was written."""

    scope: str | None
    stance: str | None
    by: str
    reason: str
    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCommand:
    """A command that is not carried out. `command` is the word as received, empty if there was none."""

    command: str
    reason: str


def parse_order(data: bytes, *, may_be_sized: bool = False) -> ParsedOrder | Unusable:
    """The order in the message. Never raises: everything that is wrong is in the result. `may_be_sized`: an entry that
    names a `stop_loss` need not name a quantity."""
    try:
        return _order(text_of(data), may_be_sized=may_be_sized)
    except UnreadableMessage as exc:
        return Unusable(reason=str(exc))


def parse_order_fields(order_data: Mapping[str, object]) -> ParsedOrder | Unusable:
    """As `parse_order`, for a mapping, by the rules for its JSON text. Floats count by their shortest repr."""
    try:
        return _order(text_of(written(order_data).encode()))
    except UnreadableMessage as exc:
        return Unusable(reason=str(exc))
    except RecursionError:
        return Unusable(reason="the message is nested too deeply")


def parse_command(
    data: bytes,
) -> CancelCommand | KillCommand | ArmCommand | StanceCommand | RefusedCommand | Unusable:
    """The command in the message. Never raises: everything that is wrong is in the result."""
    try:
        fields = Fields(object_of(text_of(data)))
    except UnreadableMessage as exc:
        return Unusable(reason=str(exc))
    command = fields.get("command")
    name = command.strip().upper() if isinstance(command, str) else ""
    if name == "KILL":
        return KillCommand(
            scope=_text(fields.get("scope")),
            level=_text(fields.get("level")),
            by=_remark(fields.get("by")),
            reason=_remark(fields.get("reason")),
            cancel_entries=str(fields.get("cancel_entries")).strip().lower() in ("true", "yes", "1"),
        )
    if name == "ARM":
        return ArmCommand(
            scope=_text(fields.get("scope")),
            person=_remark(fields.get("person")),
            reason=_remark(fields.get("reason")),
            nonce=_text(fields.get("nonce")),
        )
    if name == "STANCE":
        return StanceCommand(
            scope=_text(fields.get("scope")),
            stance=_text(fields.get("stance")),
            by=_remark(fields.get("by")),
            reason=_remark(fields.get("reason")),
            until=_text(fields.get("until")),
        )
    if name != "CANCEL":
        known = "command is missing" if command is None else f"command {shown(command)} is not carried out"
        return RefusedCommand(
            command=_remark(command),
            reason=f"{known}: only CANCEL, KILL, ARM and STANCE are, an order is never modified",
        )
    order_id, signal_id = fields.text("order_id"), fields.text("signal_id")
    leg_index = fields.whole("leg_index", 0, MOST_LEGS - 1)
    if not fields.has("order_id", "signal_id"):
        fields.problems.append("order_id (or signal_id) is missing")
    if fields.problems:
        return RefusedCommand(command="CANCEL", reason="; ".join(fields.problems))
    return CancelCommand(
        order_id=order_id,
        signal_id=signal_id,
        leg_index=leg_index,
        reason=_remark(fields.get("reason")),
        timestamp=_remark(fields.get("timestamp")) or None,
    )


def _text(value: object) -> str | None:
    """As it is written; of what is no text, how it is shown, which then means nothing."""
    return value if value is None or (isinstance(value, str) and value.isprintable()) else shown(value)


def _remark(value: object) -> str:
    """Free text, on one line and shortened. A value that is not text is shown as one: a remark must not stop a
    cancel."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else shown(value)
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST_REASON])


def _order(text: str, *, may_be_sized: bool = False) -> ParsedOrder | Unusable:
    fields = Fields(object_of(text))
    signal_id = fields.text("signal_id")
    if signal_id is None:
        return Unusable(reason="; ".join(fields.problems) or "signal_id is missing")
    draft = _Draft(fields, may_be_sized=may_be_sized)
    identity = Identity(signal_id=signal_id, leg_index=draft.leg_index, purpose=draft.purpose)
    request = draft.request() if not fields.problems else draft.refused(text)
    warnings = [words for words in (_ignored_facts(fields), _unread(fields, draft.unread_ids)) if words is not None]
    return ParsedOrder(
        identity=identity,
        request=request,
        problems=tuple(fields.problems),
        raw=without_not_finite(text),
        warning="; ".join(warnings) or None,
        unread_ids=frozenset(draft.unread_ids),
    )


def _decision(fields: Fields, unread: list[str]) -> DecisionIds | None:
    """Ids of others, which refuse no order by themselves: one that cannot be read is as if it were not there, and named in `unread`."""
    if not any(name in fields.names for name in _DECISION_IDS):
        return None  # nearly always
    found: dict[str, str] = {}
    for name in _DECISION_IDS:
        value = fields.get(name)
        if value is None or isinstance(value, NotFinite):
            continue
        if isinstance(value, str) and len(value) <= LONGEST_DECISION_ID and value.isprintable():
            found[name] = str(value)  # a number as it is written
        else:
            unread.append(name)
    decision = DecisionIds(**found)
    return None if decision == NO_DECISION else decision


def _unread(fields: Fields, names: Sequence[str]) -> str | None:
    if not names:
        return None
    named = ", ".join(f"{name} ({shown(fields.get(name))})" for name in names)
    return f"not read, since it is no text of 1 to {LONGEST_DECISION_ID} characters: {named}"


def _confidence(fields: Fields) -> Decimal | None:
    """A remark of the sender, which refuses no order by itself: what is no number from 0 to 1 is not known."""
    said = fields.get("confidence")
    if isinstance(said, bool) or not isinstance(said, int | float | Decimal | str):
        return None
    try:
        value = Decimal(str(said).strip())
    except InvalidOperation:
        return None
    return value if value.is_finite() and 0 <= value <= 1 else None


def _ignored_facts(fields: Fields) -> str | None:
    """The names of fields that nothing reads although they look as if they said which contract is meant."""
    ignored = [name for name in fields.names if _is_ignored_fact(name) and fields.has(name)]
    if not ignored:
        return None
    named = ", ".join(f"{shown(name)} ({shown(fields.get(name))})" for name in ignored[:_MOST_NAMED])
    more = f" and {len(ignored) - _MOST_NAMED} more" if len(ignored) > _MOST_NAMED else ""
    return f"not read, though it looks like a fact of the contract: {named}{more}"


def _is_ignored_fact(name: str) -> bool:
    if name in _FACTS_READ:
        return False
    # One sender always uses the same few names; a long one is not worth the memory.
    return _looks_like_a_known_fact(name) if len(name) <= _LONGEST_REMEMBERED_NAME else _looks_like_a_fact(name)


def _looks_like_a_fact(name: str) -> bool:
    bare = "".join(letter for letter in name.lower() if letter.isalnum())
    if bare in _NO_FACTS:
        return False
    return bare in _FACTS_BY_WHOLE_NAME or any(part in bare for part in _LOOK_LIKE_FACTS)


_looks_like_a_known_fact = lru_cache(maxsize=1024)(_looks_like_a_fact)


class _Draft:
    """The fields of one message, before it is known whether they are consistent."""

    __slots__ = (
        "account_id",
        "decision",
        "direction",
        "display_quantity",
        "entry_refs",
        "fields",
        "instrument",
        "leg_index",
        "limit_price",
        "mathematricks_signal_id",
        "order_type",
        "product",
        "purpose",
        "quantity",
        "reference_price",
        "request_order_id",
        "side",
        "signal_type",
        "stop_loss",
        "stop_price",
        "strategy",
        "symbol",
        "take_profit",
        "tif",
        "timeout_seconds",
        "total_legs",
        "trail_amount",
        "trail_percent",
        "unread_ids",
        "variety",
    )

    def __init__(self, fields: Fields, *, may_be_sized: bool) -> None:
        self.fields = fields
        self.account_id = self._required(("account_id", "account"))
        self.strategy = self._required(("strategy_name", "strategy_id"))
        self._read_side_and_purpose()
        self._read_instrument()
        self.quantity = fields.positive("quantity")
        self._read_type_and_prices()
        self._read_legs()
        self.stop_loss = fields.positive_or_absent("stop_loss")
        self.take_profit = fields.positive_or_absent("take_profit")
        self._read_trail()
        self._check_quantity(may_be_sized)
        self.tif = fields.word("tif", _TIFS)
        self.timeout_seconds = self._timeout()
        self.product = fields.word("product", _PRODUCTS)
        self.variety = fields.word("variety", _VARIETIES)
        self._read_display_quantity()
        refs = (fields.text("entry_signal_id"), fields.text("entry_signal_ref"))
        self.entry_refs = tuple(sorted({ref for ref in refs if ref is not None}))
        self.request_order_id = fields.text("order_id")
        stored_id = fields.pattern("mathematricks_signal_id", _OBJECT_ID, "24 hexadecimal digits")
        self.mathematricks_signal_id = None if stored_id is None else stored_id.lower()
        self.unread_ids: list[str] = []
        self.decision = _decision(fields, self.unread_ids)

    def request(self) -> OrderRequest:
        """The order. To be called only if nothing was wrong: then nothing required is missing."""
        assert self.account_id is not None
        assert self.strategy is not None
        assert self.instrument is not None
        assert self.side is not None
        assert self.order_type is not None
        return OrderRequest(
            account_id=self.account_id,
            strategy=self.strategy,
            instrument=self.instrument,
            side=self.side,
            quantity=self.quantity,
            order_type=self.order_type,
            limit_price=self.limit_price,
            stop_price=self.stop_price,
            reference_price=self.reference_price,
            tif=self.tif,
            timeout_seconds=self.timeout_seconds,
            product=self.product,
            variety=self.variety,
            display_quantity=self.display_quantity,
            stop_loss=self.stop_loss,
            trail_percent=self.trail_percent,
            trail_amount=self.trail_amount,
            take_profit=self.take_profit,
            confidence=_confidence(self.fields),
            direction=self.direction,
            signal_type=self.signal_type,
            entry_refs=self.entry_refs,
            total_legs=self.total_legs,
            request_order_id=self.request_order_id,
            mathematricks_signal_id=self.mathematricks_signal_id,
            decision=self.decision,
        )

    def refused(self, text: str) -> RefusedRequest:
        return RefusedRequest(
            account_id=self.account_id,
            strategy=self.strategy,
            symbol=self.symbol,
            side=self.side,
            quantity=self.quantity,
            order_type=self.order_type,
            direction=self.direction,
            total_legs=self.total_legs,
            request_order_id=self.request_order_id,
            mathematricks_signal_id=self.mathematricks_signal_id,
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        )

    def _read_trail(self) -> None:
        self.trail_percent = self.fields.positive_or_absent("trail_percent")
        self.trail_amount = self.fields.positive_or_absent("trail_amount")
        percent = self.trail_percent
        if percent is not None and not LEAST_TRAIL_PERCENT <= percent <= MOST_TRAIL_PERCENT:
            self.fields.problems.append(
                f"trail_percent must be from {LEAST_TRAIL_PERCENT} to {MOST_TRAIL_PERCENT}: it is in per cent of the price"
            )
        if self.trail_percent is not None and self.trail_amount is not None:
            self.fields.problems.append(
                "trail_amount does not go with trail_percent: either says how far the stop trails"
            )

    def _read_display_quantity(self) -> None:
        """Only what rests in the market with a limit can be shown there in part."""
        fields = self.fields
        shown = self.display_quantity = fields.positive_or_absent("display_quantity")
        if shown is None:
            return
        if self.quantity is not None and shown >= self.quantity:
            fields.problems.append("display_quantity must be less than quantity; without it all of the order is shown")
        if self.order_type not in (None, OrderType.LIMIT):
            fields.problems.append(f"display_quantity goes with a LIMIT order, not with {self.order_type}")
        if self.tif is Tif.IOC:
            fields.problems.append("display_quantity does not go with tif IOC: nothing of that order rests")
        if self.variety not in (None, "regular", "iceberg"):
            fields.problems.append(f"display_quantity does not go with variety {self.variety}")

    def _check_quantity(self, may_be_sized: bool) -> None:
        """One that is missing is worked out from the stop, where that is allowed: of an order that stands alone and
        closes nothing, since what an exit takes is never a matter of what may be lost."""
        fields = self.fields
        if fields.has("quantity"):
            return
        if self.purpose is Purpose.EXIT or self.total_legs != 1:
            fields.problems.append("quantity is missing")
        elif not may_be_sized:
            unset = (
                ""
                if self.stop_loss is None
                else ": TRADE_RISK_PER_TRADE is not set, so that no stop_loss stands for it"
            )
            fields.problems.append(f"quantity is missing{unset}")
        elif self.stop_loss is None:
            fields.problems.append("quantity is missing, and there is no stop_loss to size the order by")

    def _required(self, names: tuple[str, str]) -> str | None:
        fields = self.fields
        if not fields.has(*names):
            fields.problems.append(f"{names[0]} (or {names[1]}) is missing")
        return fields.same(names, fields.text)

    def _read_side_and_purpose(self) -> None:
        fields = self.fields
        said = fields.word("side", _SIDES)
        action = fields.word("action", _ACTIONS)
        self.direction = fields.word("direction", _DIRECTIONS)
        signal_type = fields.text("signal_type")
        self.signal_type = None if signal_type is None else signal_type.strip().upper()
        is_exit = self.signal_type in _EXITS or (self.signal_type is None and action == "EXIT")
        self.purpose = Purpose.EXIT if is_exit else Purpose.ENTRY
        if self.signal_type is not None and action in ("ENTRY", "EXIT") and is_exit != (action == "EXIT"):
            fields.contradiction("action", "signal_type")
        self.side = self._agreed_side(said, action)

    def _agreed_side(self, said: Side | None, action: str | None) -> Side | None:
        """BUY or SELL, by every field that says it. `direction` is that of this trade; beside action ENTRY or EXIT
        it is that of the position; alone it gives the side of an entry only."""
        fields = self.fields
        found: list[tuple[str, Side]] = []
        if said is not None:
            found.append(("side", said))
        if action in ("BUY", "SELL"):
            found.append(("action", Side(action)))
        if self.direction is not None:
            of_direction = _SIDE_OF_DIRECTION[self.direction]
            if action == "EXIT":
                found.append(("direction", of_direction.opposite))
            elif found or action == "ENTRY" or self.signal_type in _ENTRIES:
                found.append(("direction", of_direction))
        if not found:
            unread = (said is None, action is None, self.direction is None)
            if not fields.has(*_SIDE_FIELDS):
                fields.problems.append("side (or action) is missing")
            elif not any(fields.has(name) and is_unread for name, is_unread in zip(_SIDE_FIELDS, unread, strict=True)):
                fields.problems.append("the side cannot be told: give side BUY or SELL, or action and direction")
            return None
        name, side = found[0]
        others = [other for other, its_side in found[1:] if its_side is not side]
        for other in others:
            fields.contradiction(name, other)
        return None if others else side

    def _read_instrument(self) -> None:
        fields = self.fields
        asset_class = fields.same(("instrument_type", "secType"), lambda name: fields.word(name, _ASSET_CLASSES))
        is_named = fields.has("instrument_type", "secType")
        self.symbol = fields.same(("symbol", "instrument"), lambda name: self._symbol(name, asset_class))
        if not fields.has("symbol", "instrument"):
            fields.problems.append("symbol (or instrument) is missing")
        expiry = fields.same(("expiry", "lastTradeDateOrContractMonth"), fields.expiry)
        strike = fields.positive_or_absent("strike")
        right = fields.word("right", _RIGHTS)
        exchange = fields.pattern("exchange", _EXCHANGE, "1 to 32 of letters, digits and . _ -")
        currency = fields.pattern("currency", _CURRENCY, "3 letters")
        multiplier = fields.positive_or_absent("multiplier")
        underlying = fields.pattern("underlying", _SYMBOL, _SYMBOL_MUST)
        con_id = fields.same(("con_id", "conId"), lambda name: fields.whole(name, 0, HIGHEST_CON_ID)) or None
        trading_class = fields.same(
            ("trading_class", "tradingClass"), lambda name: fields.pattern(name, _TRADING_CLASS, _SYMBOL_MUST)
        )
        isin = fields.pattern("isin", _ISIN, "an ISIN: 2 letters, 9 letters or digits, 1 digit")
        given = {"expiry": expiry, "strike": strike, "right": right, "con_id": con_id}
        if not is_named and any(value is not None for value in given.values()):
            names = ", ".join(name for name, value in given.items() if value is not None)
            fields.problems.append(
                f"instrument_type is missing, yet {names} was given: which kind is meant cannot be told"
            )
        if fields.get("legs") not in (None, []):
            fields.problems.append("legs cannot be executed as one order")
        if asset_class is AssetClass.OPTION:
            self._check_option(is_numbered=con_id is not None)
        elif is_named and (strike is not None or right is not None):
            fields.problems.append("strike and right belong to an OPTION, not to the instrument_type given")
        self.instrument = None
        if self.symbol is not None:
            kind = asset_class or AssetClass.STOCK
            self.instrument = Instrument(
                symbol=self.symbol,
                asset_class=kind,
                exchange=exchange,
                # Upstream copies the first leg's expiry to every leg, also to shares and currencies.
                expiry=expiry if kind in _EXPIRING else None,
                strike=strike,
                right=right,
                currency=currency,
                multiplier=multiplier,
                underlying=underlying,
                con_id=con_id,
                trading_class=trading_class,
                isin=isin,
            )

    def _symbol(self, name: str, asset_class: AssetClass | None) -> str | None:
        symbol = self.fields.pattern(name, _SYMBOL, _SYMBOL_MUST)
        if symbol is None or asset_class is not AssetClass.FOREX:
            return symbol
        pair = symbol.translate(_PAIR_SEPARATORS)
        if _PAIR.fullmatch(pair):
            return pair
        self.fields.wrong(name, "a currency pair of two times 3 letters for FOREX")
        return None

    def _check_option(self, *, is_numbered: bool) -> None:
        if is_numbered:
            return
        fields = self.fields
        names = {"strike": ("strike",), "right": ("right",), "expiry": ("expiry", "lastTradeDateOrContractMonth")}
        missing = [name for name, fields_of_it in names.items() if not fields.has(*fields_of_it)]
        if missing:
            fields.problems.append(f"an OPTION needs strike, right and expiry: {', '.join(missing)} is missing")

    def _read_type_and_prices(self) -> None:
        fields = self.fields
        self.order_type = order_type = fields.word("order_type", _ORDER_TYPES)
        price = fields.positive_or_absent("price")
        uses_limit = order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)
        uses_stop = order_type in (OrderType.STOP, OrderType.STOP_LIMIT)
        limit = fields.positive("limit_price") if uses_limit else fields.positive_or_absent("limit_price")
        stop = fields.positive("stop_price") if uses_stop else fields.positive_or_absent("stop_price")
        if not fields.has("order_type"):
            self._assume_market(limit, stop)
        if uses_limit and not fields.has("limit_price"):
            limit = price
            if price is None:
                fields.problems.append(f"{order_type} needs limit_price (or price)")
        if uses_stop and not fields.has("stop_price"):
            stop = price if order_type is OrderType.STOP else None
            if stop is None:
                fields.problems.append(
                    f"{order_type} needs stop_price" + " (or price)" * (order_type is OrderType.STOP)
                )
        self.limit_price = limit if uses_limit else None
        self.stop_price = stop if uses_stop else None
        self.reference_price = price

    def _assume_market(self, limit: Decimal | None, stop: Decimal | None) -> None:
        """Upstream sends null for a leg without an order type; a limit or stop price beside it shows that MARKET was
        not meant."""
        given = [name for name, value in (("limit_price", limit), ("stop_price", stop)) if value is not None]
        if given:
            self.fields.problems.append(f"order_type is missing, yet {' and '.join(given)} was given")
        else:
            self.order_type = OrderType.MARKET

    def _read_legs(self) -> None:
        fields = self.fields
        total = fields.whole("total_legs", 1, MOST_LEGS)
        index = fields.whole("leg_index", 0, MOST_LEGS - 1)
        self.leg_index = index or 0
        self.total_legs = total or 1
        if index is not None and index >= self.total_legs and (total is not None or not fields.has("total_legs")):
            of = f"total_legs is {total}" if total is not None else "total_legs is missing"
            fields.problems.append(f"leg_index {index} is out of range: {of}")

    def _timeout(self) -> Decimal | None:
        seconds = self.fields.number("timeout_seconds")
        if seconds is None or 0 <= seconds <= LONGEST_TIMEOUT_SECONDS:
            return seconds
        self.fields.wrong("timeout_seconds", f"from 0 (none) to {LONGEST_TIMEOUT_SECONDS}")
        return None
