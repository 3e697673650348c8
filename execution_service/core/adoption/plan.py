"""Plans an adoption: which movements it consists of, for which entries and at what cost. Pure decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal, localcontext

from brokers.base import AssetClass, ContractTerms, Instrument, OptionRight, Side
from execution_service.core.adoption.entries import (
    CannotBeAdopted,
    EntryHolding,
    PartOfEntry,
    is_entry_of,
    left_for_exit,
    named_holders,
    oldest_first,
    refs_to,
)
from execution_service.core.adoption.money import (
    EXACT_MONEY,
    SMALLEST_SHARE,
    WHOLE_UNITS_ONLY,
    at_cost,
    contract_size,
    decimal_quotient,
    exact_deals,
    incoming_values,
    money_per_point,
    shared_out,
)
from execution_service.core.adoption.protecting import after_split, present_holder
from execution_service.core.adoption.records import (
    ALL_OF_IT,
    INTO_SHARES,
    AdoptionBooks,
    AdoptionRequest,
    Before,
    Deal,
    EntryProtection,
    Movement,
    Plan,
    Refused,
    instrument_fields,
    negative_prices,
    read_instrument,
)
from execution_service.core.adoption.warnings import after_adoption, warnings_about
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import Contract
from execution_service.core.orders.events import Occasion
from execution_service.core.orders.request import Purpose
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import ORDER_IDS_KEPT, Position, apply_fill
from execution_service.core.reconcile.discrepancies import DiscrepancyState
from execution_service.core.texts.values import plain, quantity


def plan(request: AdoptionRequest, books: AdoptionBooks, now: datetime) -> Plan | Refused:
    """What to record for the request, or why nothing is recorded."""
    try:
        with localcontext(EXACT_MONEY):
            return _Draft(request, books, now).plan()
    except CannotBeAdopted as exc:
        return Refused((str(exc),))


class _Draft:
    """A plan in the making: the positions as they are after the movements planned so far."""

    def __init__(self, request: AdoptionRequest, books: AdoptionBooks, now: datetime) -> None:
        self._request = request
        self._books = books
        self._now = now
        self._own_entries = [e for e in books.ledgers if e.key.strategy == request.strategy]
        self._entries: dict[LedgerKey, LedgerEntry] = {}
        """The ledger entries that the plan changes, as they were."""
        self._positions: dict[LedgerKey, Position] = {}
        self._movements: list[Movement] = []
        self._realized: dict[LedgerKey, Decimal] = {}

    def plan(self) -> Plan:
        request = self._request
        if request.happened_at is not None and request.happened_at > self._now:
            raise CannotBeAdopted(f"it cannot have happened at {request.happened_at.isoformat()}, which is to come")
        if request.occasion is Occasion.TRADE:
            self._trade()
        elif request.occasion is Occasion.TRANSFER_IN:
            self._transfer_in()
        elif request.occasion in ALL_OF_IT:
            self._convert()
        elif request.occasion in INTO_SHARES:
            self._deliver()
        else:
            self._leave()
        self._check_discrepancy()
        return Plan(
            movements=tuple(self._movements),
            before=tuple(
                Before(ledger_id=e.key.ledger_id, quantity=e.position.quantity, cost=e.position.cost)
                for e in self._entries.values()
            ),
            holdings=tuple(
                after_adoption(entry, self._positions[key], self._realized.get(key, ZERO))
                for key, entry in self._entries.items()
            ),
            warnings=warnings_about(self._books, self._entries.values(), self._positions, request.discrepancy_id),
        )

    # --- the occasions ------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """An expiry, square-off or transfer out: the position is closed."""
        entry = self._held()
        price = self._request.price
        if price is None and self._request.occasion is Occasion.EXPIRY:
            price = ZERO
        self._close(entry, self._all_or(entry, self._product), price)

    def _trade(self) -> None:
        request = self._request
        assert request.side is not None
        assert request.quantity is not None
        assert request.price is not None
        entry = self._named_holding() or self._first_holding()
        position = self._touch(entry)
        closing = min(request.quantity, abs(position.quantity)) if position.quantity * request.side.sign < 0 else ZERO
        opening = request.quantity - closing
        if closing and opening and not request.is_new:
            raise CannotBeAdopted(
                f"{request.strategy} holds {quantity(position.quantity)} {plain(entry.key.instrument_key)}: "
                f"{request.side} {quantity(request.quantity)} would open the other side (--new says that it is meant)"
            )
        if not closing and request.entries:
            raise CannotBeAdopted("a trade that opens or adds is an entry of its own: leave --entry out")
        if closing:
            self._close(entry, closing, request.price)
        if opening:
            self._open(entry, request.side, (Deal(opening, request.price),), product=request.product)

    def _transfer_in(self) -> None:
        request = self._request
        assert request.quantity is not None
        assert request.price is not None
        side = request.side or Side.BUY
        assert request.instrument is not None
        entry = self._named_holding() or self._fresh(request.instrument)
        if self._touch(entry).quantity * side.sign < 0:
            raise CannotBeAdopted("the strategy holds the other side of it: tell it as a trade")
        self._open(entry, side, (Deal(request.quantity, request.price),), product=request.product)

    def _convert(self) -> None:
        """A split, rename or merger: another holding replaces the position, at the same cost unless prices or cash
        are given."""
        request, entry = self._request, self._held()
        held, amount = entry.position.quantity, abs(entry.position.quantity)
        successor = self._successor(entry)
        is_other = successor.key != entry.key
        if is_other and self._touch(successor).quantity * held < 0:
            raise CannotBeAdopted(
                f"the strategy holds the other side of {plain(successor.key.instrument_key)}: settle that first"
            )
        total = request.new_quantity or self._converted(amount, successor.instrument)
        cash = request.cash * (1 if held > 0 else -1)
        per_old, per_new = money_per_point(entry), money_per_point(successor)
        parts = self._parts(entry, amount)
        if request.price is None and request.new_price is not None:
            worth = (request.new_price * total * per_new + cash) / per_old
            closed = self._close_parts(entry, parts, worth=worth)
        else:
            closed = self._close_parts(entry, parts, request.price)
        shares = shared_out(total, [part.quantity for part in parts], successor.instrument, amount)
        if request.new_price is None:
            values = incoming_values(closed, per_old, per_new, cash)
            if sum(values, ZERO) < 0 <= sum((m.value for m in closed), ZERO):
                raise CannotBeAdopted("more cash came than it cost: say the prices (--price, --new-price)")
        else:
            values = [request.new_price * share for share in shares]
        side, carried = (Side.BUY if held > 0 else Side.SELL), ZERO
        for part, share, value in zip(parts, shares, values, strict=True):
            carried += value
            if share:
                protection = self._protection_after(entry, part)
                self._open(successor, side, exact_deals(share, carried), part, protection=protection)
                carried = ZERO

    def _protection_after(self, entry: LedgerEntry, part: PartOfEntry) -> EntryProtection | None:
        """Of what takes the part's place. Only a ratio says at which prices: none follows from a new quantity, and another company's shares have
        prices of their own."""
        request = self._request
        holder = present_holder(self._books.orders, part.refs, entry.key)
        if holder is None or request.occasion is Occasion.MERGE or request.new_quantity is not None:
            return None
        return after_split(holder, *(request.ratio or (Decimal(1), Decimal(1))))

    def _deliver(self) -> None:
        """An assignment or exercise: the option position is closed, and shares are bought or sold at the strike."""
        request, entry = self._request, self._held()
        option, held = entry.instrument, entry.position.quantity
        if option.asset_class is not AssetClass.OPTION:
            raise CannotBeAdopted(
                f"{plain(entry.key.instrument_key)} is no OPTION: there is no {request.occasion} of it"
            )
        if option.right is None or option.strike is None:
            raise CannotBeAdopted(f"{plain(entry.key.instrument_key)} has no strike and right in our book")
        contracts = self._all_or(entry)
        is_mine_to_call = held > 0
        if is_mine_to_call is not (request.occasion is Occasion.EXERCISE):
            words = "long: it is exercised" if is_mine_to_call else "short: it is assigned"
            raise CannotBeAdopted(f"{quantity(held)} {plain(entry.key.instrument_key)} is {words}, not the other")
        total = request.new_quantity
        if total is None:
            size = contract_size(entry)
            if size is None:
                raise CannotBeAdopted(
                    "our book does not say how many shares a contract is: say how many moved (--new-quantity)"
                )
            total = contracts * size
        shares = self._successor(entry)
        price = option.strike if request.new_price is None else request.new_price
        side = Side.BUY if (option.right is OptionRight.CALL) is is_mine_to_call else Side.SELL
        parts = self._parts(entry, contracts)
        self._close_parts(entry, parts, ZERO if request.price is None else request.price)
        position = self._touch(shares)
        closing = min(total, abs(position.quantity)) if position.quantity * side.sign < 0 else ZERO
        if closing:
            self._close_parts(shares, oldest_first(self._holders(shares), closing), price)
        for part, share in zip(
            parts, shared_out(total, [p.quantity for p in parts], shares.instrument, contracts), strict=True
        ):
            against = min(closing, share)
            closing -= against
            if share > against:
                self._open(shares, side, (Deal(share - against, price),), part)

    # --- holdings -----------------------------------------------------------------------------------------------

    def _named_holding(self) -> LedgerEntry | None:
        request = self._request
        if request.instrument is not None:
            found = self._find(request.instrument)
        else:
            found = next((e for e in self._own_entries if e.key.instrument_key == request.holding), None)
        instrument = request.instrument if found is None else found.instrument
        problems = [] if instrument is None else negative_prices(request, instrument)
        if problems:
            raise CannotBeAdopted("; ".join(problems))
        if found is not None and request.happened_at is not None and found.position.is_open:
            opened_at = found.position.opened_at
            if opened_at is not None and request.happened_at < opened_at:
                raise CannotBeAdopted(
                    f"it cannot have happened before the position was opened, {opened_at.isoformat()}"
                )
        return found

    @property
    def _named(self) -> str:
        request = self._request
        return plain(str(request.holding) if request.instrument is None else request.instrument.key)

    def _find(self, named: Instrument) -> LedgerEntry | None:
        """The strategy's holding that is meant, open or flat. Raises _CannotBe if several may be."""
        exact = [e for e in self._own_entries if e.key.instrument_key in (named.key, named.full_key)]
        alike = [
            e for e in self._own_entries if e.instrument.could_be(named) and e.contract.agrees_with(Contract(named))
        ]
        found = exact or [e for e in alike if e.position.is_open] or alike
        if len(found) > 1:
            names = ", ".join(plain(e.key.instrument_key) for e in found)
            raise CannotBeAdopted(f"{plain(named.key)} may be any of {names}: name it more fully")
        return found[0] if found else None

    def _held(self) -> LedgerEntry:
        request, entry = self._request, self._named_holding()
        if entry is None or not entry.position.is_open:
            others = sorted(
                f"{e.key.strategy} {quantity(e.position.quantity)}"
                for e in self._books.ledgers
                if e.position.is_open and e.key.strategy != request.strategy and self._is_named_so(e)
            )
            elsewhere = f"; it is held by {', '.join(map(plain, others))}" if others else ""
            raise CannotBeAdopted(
                f"{plain(request.strategy)} holds no {self._named} in account {plain(request.account_id)}{elsewhere}"
            )
        self._touch(entry)
        return entry

    def _is_named_so(self, entry: LedgerEntry) -> bool:
        named = self._request.instrument
        if named is None:
            return entry.key.instrument_key == self._request.holding
        return entry.instrument.could_be(named)

    def _first_holding(self) -> LedgerEntry:
        named = self._request.instrument
        if named is None or not self._request.is_new:
            raise CannotBeAdopted(
                f"{plain(self._request.strategy)} never held {self._named} in account {plain(self._request.account_id)}: "
                "correct the name, or say that it is its first position (--new)"
            )
        return self._fresh(named)

    def _fresh(self, named: Instrument, terms: ContractTerms | None = None) -> LedgerEntry:
        name = Contract(named, terms).holding_name
        key = LedgerKey(self._request.account_id, self._request.strategy, name)
        return LedgerEntry(key=key, instrument=named, terms=terms)

    def _touch(self, entry: LedgerEntry) -> Position:
        self._entries.setdefault(entry.key, entry)
        return self._positions.setdefault(entry.key, entry.position)

    @property
    def _product(self) -> str:
        """The product of the discrepancy to be closed, if the broker keeps products apart; else empty."""
        return "" if self._books.discrepancy is None else self._books.discrepancy.finding.product

    def _all_or(self, entry: LedgerEntry, product: str = "") -> Decimal:
        """The quantity given, else all of it, or all that is known to be held in the product."""
        by_product = entry.known_products or {}
        held, wanted = abs(by_product.get(product, entry.position.quantity)), self._request.quantity
        is_any = wanted is None and product not in by_product and len(by_product) > 1
        if is_any and self._request.occasion is Occasion.SQUARE_OFF:
            names = ", ".join(
                f"{quantity(held)} in {name or 'the usual one'}" for name, held in sorted(by_product.items())
            )
            raise CannotBeAdopted(
                f"it is held in several products ({names}): say how much has gone (--quantity) of which entry (--entry), or "
                "which difference it closes (--discrepancy)"
            )
        if wanted is not None and wanted > held:
            raise CannotBeAdopted(
                f"{plain(self._request.strategy)} holds {quantity(held)} {plain(entry.key.instrument_key)}, not {quantity(wanted)}"
            )
        return held if wanted is None else wanted

    def _successor(self, entry: LedgerEntry) -> LedgerEntry:
        """The holding that replaces the entry's: the same instrument, except for what the request says of it."""
        said = dict(self._request.successor or {})
        if self._request.occasion in ALL_OF_IT:
            if not said:
                return entry
            was = instrument_fields(entry.instrument)
            was.pop("con_id", None)  # another contract has another number
        else:
            option = entry.instrument
            if option.underlying is None and any(map(str.isdigit, option.symbol)) and "symbol" not in said:
                raise CannotBeAdopted("our book does not say what the option is on: name the shares (--new-symbol)")
            was = {"symbol": option.underlying or option.symbol, "instrument_type": AssetClass.STOCK.value}
            was |= {} if option.currency is None else {"currency": option.currency}
        found = read_instrument({**was, **said})
        if isinstance(found, Refused):
            raise CannotBeAdopted(f"the successor: {found.words}")
        if self._request.occasion is Occasion.RENAME and found.could_be(entry.instrument):
            raise CannotBeAdopted(f"{plain(found.key)} is the name that it has")
        return self._find(found) or self._fresh(found, self._terms_after(entry, found))

    def _terms_after(self, entry: LedgerEntry, successor: Instrument) -> ContractTerms | None:
        """A contract that continues under another name has the same size, unless the request says otherwise."""
        was = entry.terms
        if (
            was is None
            or self._request.occasion not in ALL_OF_IT
            or successor.asset_class is not entry.instrument.asset_class
        ):
            return None
        if successor.multiplier is not None and not was.means(successor.multiplier):
            return None
        return replace(was, con_id=None, local_symbol=None, trading_class=successor.trading_class)

    def _converted(self, held: Decimal, successor: Instrument) -> Decimal:
        old, new = self._request.ratio or (Decimal(1), Decimal(1))
        total = held * new / old
        is_odd = successor.asset_class in WHOLE_UNITS_ONLY and total % 1 and not held % 1
        if is_odd or decimal_quotient(held * new, old) is None:
            raise CannotBeAdopted(
                f"{quantity(held)} at {quantity(old)}:{quantity(new)} would be {quantity(total.quantize(Decimal('1e-8')))}: "
                "say how many came (--new-quantity, in place of --ratio), and the cash that came for the rest (--cash)"
            )
        return total

    # --- entries ------------------------------------------------------------------------------------------------

    def _holders(self, entry: LedgerEntry, product: str = "") -> list[EntryHolding]:
        """The entries that still have something of the holding, oldest first; only those in the product, if there
        are any."""
        side = Side.BUY if entry.position.quantity > 0 else Side.SELL
        found: dict[tuple[str, ...], EntryHolding] = {}
        for order in sorted(self._books.orders, key=lambda o: (o.received_at, o.order_id)):
            if not is_entry_of(order, entry.key) or order.request.side is not side:
                continue
            refs = refs_to(order)
            if refs not in found:
                request, left = order.accepted_request, left_for_exit(refs, entry, side, self._books.orders, self._now)
                found[refs] = EntryHolding(refs, left, request.instrument, request.product)
        holders = [holder for holder in found.values() if holder.left]
        return [holder for holder in holders if holder.product == product] or holders

    def _parts(self, entry: LedgerEntry, leaving: Decimal, product: str = "") -> list[PartOfEntry]:
        """How the closed quantity is divided among entries. Raises _CannotBe if that cannot be determined."""
        holders = self._holders(entry, product)
        names = self._request.entries
        if names:
            named = [next((h for h in holders if name in h.refs), None) for name in names]
            missing = [plain(name) for name, holder in zip(names, named, strict=True) if holder is None]
            if missing:
                have = named_holders(holders)
                raise CannotBeAdopted(f"{', '.join(missing)}: no entry that has anything left of it; {have}")
            chosen = list(dict.fromkeys(h for h in named if h is not None))
            parts = oldest_first(chosen, leaving)
            if parts[-1].holder is None:
                raise CannotBeAdopted(f"the entry has less than {quantity(leaving)} left: {named_holders(chosen)}")
            return parts
        if entry.position.order_count > ORDER_IDS_KEPT:
            raise CannotBeAdopted(f"more than {ORDER_IDS_KEPT} orders built the position: name the entry (--entry)")
        is_clear = leaving == abs(entry.position.quantity) or not holders
        if not is_clear and (len(holders) > 1 or holders[0].left < leaving):
            raise CannotBeAdopted(f"say which entry it belongs to (--entry): {named_holders(holders)}")
        return oldest_first(holders, leaving)

    # --- movements ----------------------------------------------------------------------------------------------

    def _close(self, entry: LedgerEntry, leaving: Decimal, price: Decimal | None) -> None:
        self._close_parts(entry, self._parts(entry, leaving, self._product), price)

    def _close_parts(
        self,
        entry: LedgerEntry,
        parts: Sequence[PartOfEntry],
        price: Decimal | None = None,
        *,
        worth: Decimal | None = None,
    ) -> list[Movement]:
        """At the price, or so that all of it has the value `worth`; else at cost, so that nothing is realised."""
        made = []
        left = sum((part.quantity for part in parts), ZERO)
        for part in parts:
            position = self._touch(entry)
            if price is not None:
                deals: tuple[Deal, ...] = (Deal(part.quantity, price),)
            elif worth is not None:
                value = worth if part.quantity == left else (worth * part.quantity / left).quantize(SMALLEST_SHARE)
                deals, worth, left = exact_deals(part.quantity, value), worth - value, left - part.quantity
            else:
                deals = at_cost(position, part.quantity)
            movement = Movement(
                instrument=entry.instrument if part.holder is None else part.holder.instrument,
                holding=entry.key.instrument_key,
                side=Side.SELL if position.quantity > 0 else Side.BUY,
                purpose=Purpose.EXIT,
                deals=deals,
                entry_refs=part.refs,
                product=part.product,
                terms=entry.terms,
            )
            self._make(entry, movement)
            made.append(movement)
        return made

    def _open(
        self,
        entry: LedgerEntry,
        side: Side,
        deals: tuple[Deal, ...],
        part: PartOfEntry | None = None,
        product: str | None = None,
        protection: EntryProtection | None = None,
    ) -> None:
        """`part`: the part of a closed position that it replaces, if any. Without one it is held in this `product`."""
        self._touch(entry)
        holder = None if part is None else part.holder
        # An exit of the entry must find only one name for a holding.
        is_same = holder is not None and holder.instrument.key == entry.instrument.key
        movement = Movement(
            instrument=holder.instrument if holder is not None and is_same else entry.instrument,
            holding=entry.key.instrument_key,
            side=side,
            purpose=Purpose.ENTRY,
            deals=deals,
            stands_for=() if part is None else part.refs,
            product=product if part is None else part.product,
            terms=entry.terms,
            protection=protection,
        )
        self._make(entry, movement)

    def _make(self, entry: LedgerEntry, movement: Movement) -> None:
        for deal in movement.deals:
            booked = apply_fill(
                self._positions[entry.key],
                side=movement.side,
                quantity=deal.quantity,
                price=deal.price,
                multiplier=money_per_point(entry),
                at=self._now,
                order_id="",
            )
            self._positions[entry.key] = booked.position
            self._realized[entry.key] = self._realized.get(entry.key, ZERO) + booked.realized
        self._movements.append(movement)

    def _check_discrepancy(self) -> None:
        found = self._books.discrepancy
        if self._request.discrepancy_id is None:
            return
        if found is None or found.account_id != self._request.account_id:
            raise CannotBeAdopted(f"there is no discrepancy {plain(self._request.discrepancy_id)} of this account")
        if found.state is DiscrepancyState.CLOSED:
            raise CannotBeAdopted(
                f"discrepancy {plain(self._request.discrepancy_id)} is closed: nothing is left of it to be closed"
            )
        is_known = any(found.finding.is_about(e.instrument) for e in self._books.ledgers)
        if is_known and not any(found.finding.is_about(e.instrument) for e in self._entries.values()):
            raise CannotBeAdopted(
                f"discrepancy {plain(self._request.discrepancy_id)} is about {plain(found.finding.subject)}"
            )
