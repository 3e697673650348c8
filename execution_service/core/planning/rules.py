"""How plans of an account, strategy or symbol are made and carried out, as the operator wrote it: the narrowest word counts. No file is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal

from execution_service.core.exact import ZERO
from execution_service.core.planning.facts import Fees, PlanSettings
from execution_service.core.planning.targets import OnPartial
from execution_service.core.risk.limits import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRule:
    """What one table says; None: nothing, and a wider one counts, at last what is built in."""

    buffer: Decimal | None = None
    band: Decimal | None = None
    max_weights: Decimal | None = None
    max_turnover: Decimal | None = None
    slices: int | None = None
    guard: Decimal | None = None
    fee_per_order: Decimal | None = None
    fee_rate: Decimal | None = None
    bounded_by_cash: bool | None = None
    """Increases are cut to the cash that the broker tells. Built in: yes."""
    phases_together: bool | None = None
    """Increases do not wait for reductions, as on a margin account. Built in: no."""
    market_in_emergency: bool | None = None
    """The ladder of an EMERGENCY may end with a market order. Built in: no."""
    on_partial: OnPartial | None = None
    """Of plans that do not say it themselves. Built in: REPORT."""
    lot: Decimal | None = None
    min_quantity: Decimal | None = None
    max_quantity: Decimal | None = None
    min_value: Decimal | None = None
    """The smallest value of an order, in money of the account."""

    @property
    def settings(self) -> PlanSettings:
        """What a plan is computed with."""
        built_in = PlanSettings()
        return PlanSettings(
            buffer=built_in.buffer if self.buffer is None else self.buffer,
            band=built_in.band if self.band is None else self.band,
            max_weights=built_in.max_weights if self.max_weights is None else self.max_weights,
            max_turnover=self.max_turnover,
            slices=self.slices or built_in.slices,
            guard=built_in.guard if self.guard is None else self.guard,
            fees=Fees(per_order=self.fee_per_order or ZERO, rate=self.fee_rate or ZERO),
        )

    @property
    def when_short(self) -> OnPartial:
        return self.on_partial or OnPartial()

    @property
    def is_bounded_by_cash(self) -> bool:
        return self.bounded_by_cash is not False


OF_SYMBOLS = frozenset({"lot", "min_quantity", "max_quantity", "min_value"})
"""What a table of a single symbol may say; the rest is of a plan as a whole."""


@dataclass(frozen=True, slots=True)
class PlanRules:
    """All tables, by whom they are of."""

    tables: Mapping[Scope, PlanRule] = field(default_factory=dict)

    def of(self, where: Scope) -> PlanRule:
        """What counts there: of each word that of the narrowest scope that covers it."""
        covering = sorted((scope for scope in self.tables if scope.covers(where)), key=lambda scope: scope.rank)
        said: dict[str, object] = {}
        for scope in covering:
            table = self.tables[scope]
            said |= {each.name: value for each in fields(table) if (value := getattr(table, each.name)) is not None}
        return PlanRule(**said)  # type: ignore[arg-type]
