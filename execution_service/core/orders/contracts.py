"""What tells two contracts apart: by what orders say of them and by what brokers have told; no ledger and no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace

from brokers.base import DERIVATIVES, ONE, ContractTerms, Instrument
from execution_service.core.orders.order import Order


@dataclass(frozen=True, slots=True)
class Contract:
    """The instrument as an order named it, and what the broker told of it; None: it was not asked, or tells nothing."""

    instrument: Instrument
    terms: ContractTerms | None = None

    @property
    def known_terms(self) -> ContractTerms | None:
        """What the broker told, else what the order said of its size; None where nobody said anything."""
        if self.terms is not None or self.instrument.multiplier is None:
            return self.terms
        return ContractTerms(multiplier=self.instrument.multiplier, currency=self.instrument.currency)

    @property
    def holding_name(self) -> str:
        """The key under which a holding of it is kept: that of the instrument, with what the broker tells of a derivative in place of what the
        order happens to say. A share's trading class is in it only where the order names it: shares have always been kept without."""
        named, told = self.instrument, self.terms
        if named.asset_class not in DERIVATIVES:
            return named.key if named.multiplier in (None, ONE) else named.full_key
        if told is None:
            return named.full_key
        multiplier = None if told.is_one_size else told.multiplier
        return replace(named, multiplier=multiplier, trading_class=self._trading_class).full_key

    def is_same_as(self, other: Contract) -> bool:
        """Whether a holding of the one is a holding of the other: by the broker's number where it told both, else by name and facts."""
        numbers = (self.con_id, other.con_id)
        if None not in numbers:
            return numbers[0] == numbers[1]
        return _without_facts(self.instrument) == _without_facts(other.instrument) and self.agrees_with(other)

    def agrees_with(self, other: Contract) -> bool:
        """Whether nothing that is known of their numbers, multipliers, trading classes and ISINs tells the two apart."""
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
        """The broker's own number of it, where the broker or the order told it."""
        told = None if self.terms is None else self.terms.con_id
        return told or self.instrument.con_id

    @property
    def _trading_class(self) -> str | None:
        """In capitals, as orders are read; a venue's own spelling may have others."""
        told = None if self.terms is None else self.terms.trading_class
        said = told or self.instrument.trading_class
        return None if said is None else said.upper()


def may_be_of_one_contract(one: Order, other: Order) -> bool:
    """Whether two orders may be about one contract: what one leaves open the other may say, and by a multiplier both the contract's own and
    what a point of its quoted price is worth may be meant."""
    if one.instrument is None or other.instrument is None:
        return False
    named_alike = one.instrument.could_be(other.instrument)
    return named_alike and Contract(one.instrument, one.terms).agrees_with(Contract(other.instrument, other.terms))


def _may_mean(terms: ContractTerms, instrument: Instrument) -> bool:
    return instrument.multiplier is None or terms.is_size_unknown or terms.means(instrument.multiplier)


def _without_facts(instrument: Instrument) -> str:
    return replace(instrument, multiplier=None, trading_class=None, isin=None).key
