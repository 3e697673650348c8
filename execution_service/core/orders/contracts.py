"""Whether two orders are about the same contract, judged by what the orders say and what brokers report. No ledger,
no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace

from brokers.base import DERIVATIVES, ONE, ContractTerms, Instrument
from execution_service.core.orders.order import Order


@dataclass(frozen=True, slots=True)
class Contract:
    """An instrument as an order names it, with the facts that the broker reported of it. `terms` is None if the
    broker was not asked or reports none."""

    instrument: Instrument
    terms: ContractTerms | None = None

    @property
    def known_terms(self) -> ContractTerms | None:
        """The broker's facts; without them the multiplier and currency that the order names; None if neither says
        anything."""
        if self.terms is not None or self.instrument.multiplier is None:
            return self.terms
        return ContractTerms(multiplier=self.instrument.multiplier, currency=self.instrument.currency)

    @property
    def holding_name(self) -> str:
        """The key under which the ledger keeps a position in this contract. For a derivative the broker's multiplier
        and trading class replace the order's own. For a share the trading class is part of the key only if the order
        names it, as in all keys stored so far."""
        named, reported = self.instrument, self.terms
        if named.asset_class not in DERIVATIVES:
            return named.key if named.multiplier in (None, ONE) else named.full_key
        if reported is None:
            return named.full_key
        multiplier = None if reported.is_one_size else reported.multiplier
        return replace(named, multiplier=multiplier, trading_class=self._trading_class).full_key

    def is_same_as(self, other: Contract) -> bool:
        """Whether a position in one is a position in the other: by the broker's contract number if both have one,
        else by instrument and terms."""
        numbers = (self.con_id, other.con_id)
        if None not in numbers:
            return numbers[0] == numbers[1]
        return _without_facts(self.instrument) == _without_facts(other.instrument) and self.agrees_with(other)

    def agrees_with(self, other: Contract) -> bool:
        """Whether nothing that is known of both (contract number, multiplier, trading class, ISIN) contradicts their
        being one contract."""
        known = (
            (self.con_id, other.con_id),
            (self._trading_class, other._trading_class),
            (self.instrument.isin, other.instrument.isin),
        )
        if any(None not in pair and pair[0] != pair[1] for pair in known):
            return False
        if self.terms is not None and other.terms is not None:
            is_unknown = self.terms.is_size_unknown or other.terms.is_size_unknown
            return is_unknown or self.terms.money_per_point == other.terms.money_per_point
        if self.terms is not None:
            return _may_mean(self.terms, other.instrument)
        if other.terms is not None:
            return _may_mean(other.terms, self.instrument)
        multipliers = {self.instrument.multiplier, other.instrument.multiplier} - {None}
        return len(multipliers) < 2

    @property
    def con_id(self) -> int | None:
        """The broker's contract number, as the broker reported it, else as the order names it."""
        reported = None if self.terms is None else self.terms.con_id
        return reported or self.instrument.con_id

    @property
    def _trading_class(self) -> str | None:
        """In upper case, as orders are read: a venue may spell it otherwise."""
        reported = None if self.terms is None else self.terms.trading_class
        said = reported or self.instrument.trading_class
        return None if said is None else said.upper()


def may_be_of_one_contract(one: Order, other: Order) -> bool:
    """Whether two orders may be about one contract. A field that one leaves open matches any value. A multiplier may
    be the contract's own or the money per point of the quoted price."""
    if one.instrument is None or other.instrument is None:
        return False
    named_alike = one.instrument.could_be(other.instrument)
    return named_alike and Contract(one.instrument, one.terms).agrees_with(Contract(other.instrument, other.terms))


def _may_mean(terms: ContractTerms, instrument: Instrument) -> bool:
    return instrument.multiplier is None or terms.is_size_unknown or terms.means(instrument.multiplier)


def _without_facts(instrument: Instrument) -> str:
    return replace(instrument, multiplier=None, trading_class=None, isin=None).key
