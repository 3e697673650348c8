"""What other gates are known to get wrong, one test each: of how it goes wrong there each is a short play."""

from __future__ import annotations

from datetime import UTC, timedelta
from decimal import Decimal

import pytest

from brokers.base import AssetClass, Instrument, Side
from execution_service.core.risk.book import admitted, new_book
from execution_service.core.risk.counters import Counters, Measured, fold_all
from execution_service.core.risk.documents import from_document, to_document
from execution_service.core.risk.gate import Reading, judge
from execution_service.core.risk.kill import KillLevel, KillState, Switch
from execution_service.core.risk.limits import RiskLimits, Scope
from execution_service.core.risk.verdict import Decision
from tests.builders import NOW
from tests.core.risk_cases import ACCOUNT, buying, facts, holding, limited, selling, written

REDUCING = KillState((Switch(scope=Scope(), level=KillLevel.REDUCE_ONLY, by="ann", reason="stop"),))
OF_ACCOUNT = Scope(account_id=ACCOUNT)
PASS, REFUSE = Decision.PASS, Decision.REFUSE


@pytest.mark.parametrize("side", Side)
def test_reducing_from_flat_opens_nothing_on_either_side(side: Side) -> None:
    assert judge(buying(10, side=side), facts(kill=REDUCING), RiskLimits()).decision is REFUSE


def test_reducing_lets_no_flip_pass_for_an_exit() -> None:
    verdict = judge(selling(10), facts(holdings=[holding(3)], kill=REDUCING), RiskLimits())
    assert (verdict.decision, verdict.exit_room) == (REFUSE, 3)
    assert judge(selling(3), facts(holdings=[holding(3)], kill=REDUCING), RiskLimits()).decision is PASS


@pytest.mark.parametrize("held", [-3, 3])
def test_a_short_is_an_entry_and_buying_it_back_an_exit(held: int) -> None:
    """Where only purchases count as opening, shorts escape and cannot be closed."""
    covering, adding = (buying(3), selling(3)) if held < 0 else (selling(3), buying(3))
    known = facts(holdings=[holding(held)], kill=REDUCING)
    assert judge(covering, known, RiskLimits()).decision is PASS
    assert judge(adding, known, RiskLimits()).decision is REFUSE


def test_a_market_order_is_valued_by_the_market_and_not_skipped() -> None:
    assert judge(buying(101), facts(), written(max_order_value=1_000)).decision is REFUSE
    assert judge(buying(1), facts(prices=()), written(max_order_value=1_000)).decision is REFUSE


def test_a_missing_price_is_not_replaced_by_the_orders_own_limit() -> None:
    """`last or price` compares a price with itself, and every collar passes."""
    assert judge(limited(1, 10), facts(prices=()), written(price_collar_pct=5)).decision is REFUSE


def test_a_limit_on_exposure_and_drawdown_blocks_no_sale_of_what_is_held() -> None:
    counters = fold_all(
        Counters(account_id=ACCOUNT),
        [Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(v)) for v in (100, 50)],
        now=NOW,
        zone=UTC,
        keep_seconds=Decimal(0),
    )
    known = facts(holdings=[holding(1_000)], counters=counters)
    limits = written(max_gross_exposure=10, max_drawdown_pct=5, max_daily_loss=1)
    assert judge(selling(1_000), known, limits).decision is PASS
    assert judge(buying(1), known, limits).decision is REFUSE


def test_two_quick_orders_do_not_pass_by_the_same_buying_power() -> None:
    limits, power = written(check_buying_power=True), Reading(value=Decimal(1_000), at=NOW)
    first, second = buying(60, signal_id="a"), buying(60, signal_id="b")
    book = admitted(new_book(ACCOUNT), first, judge(first, facts(buying_power=power), limits), limits, UTC)
    known = facts(buying_power=power, working=book.reservations)
    assert judge(second, known, limits).decision is REFUSE


def test_the_first_reason_is_not_the_only_one() -> None:
    limits = written(max_order_quantity=1, max_order_value=1, max_open_orders=0, max_gross_exposure=1)
    assert len(judge(buying(10), facts(), limits).breaches) == 4


def test_a_profit_does_not_fire_what_is_meant_for_losses_and_losses_are_measured_from_the_peak() -> None:
    counters = Counters(account_id=ACCOUNT)
    limits = written(max_drawdown_pct=10)
    for value, decision in ((100, PASS), (200, PASS), (181, PASS), (180, REFUSE), (120, REFUSE)):
        reading = Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(value))
        counters = fold_all(counters, [reading], now=NOW, zone=UTC, keep_seconds=Decimal(0))
        assert judge(buying(1), facts(counters=counters), limits).decision is decision


def test_a_restart_neither_resets_the_days_orders_nor_keeps_them_for_ever() -> None:
    limits, book = written(max_orders_per_day=2), new_book(ACCOUNT)
    for name in ("a", "b"):
        about = buying(1, signal_id=name)
        book = admitted(book, about, judge(about, facts(counters=book.counters), limits), limits, UTC)
    counters = from_document(Counters, to_document(book.counters))
    third = buying(1, signal_id="c")
    assert judge(third, facts(counters=counters), limits).decision is REFUSE
    tomorrow = facts(counters=counters, now=NOW + timedelta(days=1))
    assert judge(third, tomorrow, limits).decision is PASS


def test_fractions_are_not_cut_off_before_they_are_judged() -> None:
    assert judge(buying("0.5"), facts(), written(max_order_quantity="0.4")).decision is REFUSE


def test_an_unknown_state_of_the_kill_switch_is_not_taken_for_armed() -> None:
    assert judge(buying(1), facts(kill=KillState(is_known=False)), RiskLimits()).decision is Decision.HOLD


@pytest.mark.parametrize("kind", [AssetClass.FUTURE, AssetClass.CFD, AssetClass.FOREX])
def test_what_is_traded_on_margin_is_not_let_pass_before_its_value_is_looked_at(kind: AssetClass) -> None:
    instrument = Instrument(symbol="AAPL", asset_class=kind, multiplier=Decimal(1))
    assert judge(buying(101, instrument=instrument), facts(), written(max_order_value=1_000)).decision is REFUSE


def test_the_same_order_again_and_again_is_stopped_and_the_window_does_end() -> None:
    """A counter that never resets, or that is lost at a restart, stops either for ever or never."""
    limits, book = written(duplicate_window_seconds=10), new_book(ACCOUNT)
    about = buying(10, signal_id="a")
    book = admitted(book, about, judge(about, facts(counters=book.counters), limits), limits, UTC)
    counters = from_document(Counters, to_document(book.counters))
    again = buying(10, signal_id="b")
    assert judge(again, facts(counters=counters, now=NOW + timedelta(seconds=9)), limits).decision is REFUSE
    assert judge(again, facts(counters=counters, now=NOW + timedelta(seconds=10)), limits).decision is PASS


@pytest.mark.parametrize("limit", ["max_order_quantity", "max_order_value", "max_position_quantity", "max_open_orders"])
def test_nobody_is_refused_without_a_word(limit: str) -> None:
    (breach,) = judge(buying(10), facts(), written(**{limit: 0 if limit == "max_open_orders" else 1})).breaches
    assert breach.limit_type == limit
    assert breach.actual_value
    assert "the limit is" in breach.message


@pytest.mark.parametrize(
    "limits",
    [
        {"max_position_quantity": 1_000},
        {"max_gross_exposure": 1_000_000},
        {"max_leverage": 2},
        {"check_buying_power": True},
        {"allow_short": False},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_an_account_of_which_nothing_is_known_does_not_pass_for_that(limits: dict[str, object]) -> None:
    unknown = facts(holdings=None, equity=None, buying_power=None)
    assert judge(selling(1), unknown, written(**limits)).decision is REFUSE


def test_a_stop_of_one_symbol_is_not_one_of_all_and_none_of_its_own() -> None:
    """Where there is one switch for everything, nobody dares to use it."""
    odd = KillState((Switch(scope=Scope(symbol="ODD"), level=KillLevel.HALT, by="ann", reason="odd fills"),))
    assert judge(buying(1), facts(kill=odd), RiskLimits()).decision is PASS
    assert judge(buying(1, instrument=Instrument(symbol="ODD")), facts(kill=odd), RiskLimits()).decision is REFUSE
