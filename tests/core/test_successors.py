"""What is likely of how a position came to differ: expiry, assignment, another name, a split; likely, and never taken for granted."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from brokers.base import AssetClass, BrokerPosition, Instrument, MovementKind, OptionRight, PositionMovement
from execution_service.core.adoption.successors import explained, quantities_of, unexplained_changes
from execution_service.core.reconcile.discrepancies import Finding
from execution_service.core.reconcile.positions import Holding, compare_positions
from tests.builders import instrument

PUT = Instrument(
    symbol="XYZ",
    asset_class=AssetClass.OPTION,
    expiry="20261218",
    strike=Decimal(50),
    right=OptionRight.PUT,
    multiplier=Decimal(100),
)
EXPIRY_DAY = date(2026, 12, 18)
SHARES = instrument("XYZ", currency="USD")


def held(of: Instrument, quantity: int) -> Holding:
    return Holding(instrument=of, quantity=Decimal(quantity))


def told(of: Instrument, quantity: int) -> BrokerPosition:
    return BrokerPosition(instrument=of, quantity=Decimal(quantity))


def findings(
    ours: list[Holding],
    theirs: list[BrokerPosition],
    earlier: list[BrokerPosition] | None = None,
    today: date = EXPIRY_DAY,
) -> dict[str, Finding]:
    compared = compare_positions(ours, theirs)
    came = unexplained_changes(compared, None if earlier is None else quantities_of(earlier))
    return {f.subject: explained(f, compared.groups[f.subject], came, today) for f in compared.findings}


def note(*args: object, **kwargs: object) -> str:
    (found,) = findings(*args, **kwargs).values()  # type: ignore[arg-type]
    return found.note


@pytest.mark.parametrize(
    ("right", "quantity", "shares", "words"),
    [
        (OptionRight.PUT, -1, 100, "as an assignment of 1 short put of 100 brings it about"),
        (OptionRight.CALL, -2, -200, "as an assignment of 2 short calls of 100 brings it about"),
        (OptionRight.CALL, 3, 300, "as an exercise of 3 long calls of 100 brings it about"),
        (OptionRight.PUT, 1, -100, "as an exercise of 1 long put of 100 brings it about"),
    ],
)
def test_shares_that_fit_a_vanished_option_are_named_in_one_sentence_with_its_expiry(
    right: OptionRight, quantity: int, shares: int, words: str
) -> None:
    option = replace(PUT, right=right)
    sign, verb = ("+", "came") if shares > 0 else ("", "left")
    assert note([held(option, quantity)], [told(SHARES, shares)]) == (
        f"its expiry is now (20261218); {sign}{shares} XYZ|STOCK|currency=USD {verb}, {words}"
    )


def test_option_that_only_expired_says_so() -> None:
    assert note([held(PUT, -1)], [], today=date(2026, 12, 19)) == "it expired (20261218)"
    assert note([held(PUT, -1)], [], today=date(2026, 12, 1)) == "its expiry is 20261218"
    assert note([held(replace(PUT, expiry="202611"), -1)], [], today=date(2026, 12, 1)) == "it expired (202611)"


@pytest.mark.parametrize("shares", [-100, 50, 300])
def test_shares_that_do_not_fit_are_not_named(shares: int) -> None:
    assert "came" not in note([held(PUT, -2)], [told(SHARES, shares)], [told(PUT, -2)])


def test_part_of_an_assignment_is_named_where_it_is_known_to_have_come() -> None:
    theirs = [told(SHARES, 100)]
    assert "1 short put of 100" in note([held(PUT, -2)], theirs, [told(PUT, -2)])
    assert "came" not in note([held(PUT, -2)], theirs)


def test_shares_that_were_there_before_have_not_come() -> None:
    before = [told(PUT, -1), told(SHARES, 100)]
    assert note([held(PUT, -1)], [told(SHARES, 100)], before) == "its expiry is now (20261218)"
    assert "+100 XYZ" in note([held(PUT, -1)], [told(SHARES, 200)], before)


def test_shares_that_our_ledger_knows_tell_by_how_much_they_differ() -> None:
    found = findings([held(PUT, -1), held(SHARES, 30)], [told(SHARES, 130)])
    assert "+100 XYZ" in found[PUT.full_key].note
    assert found[PUT.full_key].successor == SHARES.key


@pytest.mark.parametrize(("code", "shares"), [("INFY26DEC1500PE", "INFY"), ("XYZ   261218P00050000", "XYZ")])
def test_option_with_a_code_of_its_own_is_known_by_the_underlying_that_it_begins_with(code: str, shares: str) -> None:
    option = replace(PUT, symbol=code, multiplier=None)
    assert "assignment of 400 short puts of 1 " in note([held(option, -400)], [told(instrument(shares), 400)])
    assert "came" not in note([held(option, -400)], [told(instrument(shares[:-1]), 400)])


def test_multiplier_that_nobody_said_follows_from_what_came() -> None:
    assert "of 10 brings" in note([held(replace(PUT, multiplier=None), -1)], [told(SHARES, 10)])


def test_what_our_own_orders_brought_is_no_successor() -> None:
    bought = instrument("OTHER")
    ours, before = [held(instrument("OLD"), 70), held(bought, 70)], [told(instrument("OLD"), 70)]
    assert note(ours, [told(bought, 70)], before) == ""


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ([told(instrument("NEW"), 70)], "+70 NEW|STOCK came, as many as left: perhaps the same under another name"),
        ([told(instrument("NEW"), 140)], "2 for each that left"),
        ([told(instrument("NEW"), 7)], "1 for 10 that left"),
        ([told(instrument("OLD"), 140)], "split or merger of shares 2 for 1"),
        ([told(instrument("OLD"), 7)], "split or merger of shares 1 for 10"),
    ],
)
def test_other_names_and_whole_ratios_are_named(theirs: list[BrokerPosition], words: str) -> None:
    assert words in note([held(instrument("OLD"), 70)], theirs, [told(instrument("OLD"), 70)])


@pytest.mark.parametrize(
    "theirs",
    [
        [told(instrument("NEW"), 71)],
        [told(instrument("NEW"), -70)],
        [told(instrument("OLD"), 66)],
        [told(instrument("OLD"), -70)],
        [told(instrument("OLD"), 20), told(instrument("NEW"), 50)],
        [told(Instrument(symbol="NEW", asset_class=AssetClass.FUTURE), 70)],
    ],
)
def test_anything_else_is_not(theirs: list[BrokerPosition]) -> None:
    assert note([held(instrument("OLD"), 70)], theirs, [told(instrument("OLD"), 70)]) == ""


# --- what the broker recorded ---------------------------------------------------------------------------------------


def recorded(kind: MovementKind, quantity: int, day: int = 18, symbol: str = "OLD") -> PositionMovement:
    return PositionMovement(
        movement_id=f"{kind} {day} {quantity}",
        kind=kind,
        instrument=Instrument(symbol=symbol),
        quantity=Decimal(quantity),
        on=date(2026, 12, day),
    )


def finding_of(shown: int, *movements: PositionMovement) -> Finding:
    compared = compare_positions([held(instrument("OLD"), 70)], [told(instrument("OLD"), shown)])
    (found,) = compared.findings
    return explained(found, compared.groups[found.subject], (), EXPIRY_DAY, movements)


def test_what_the_broker_recorded_is_said_in_place_of_what_is_likely() -> None:
    found = finding_of(140, recorded(MovementKind.SPLIT, 70))
    assert found.note == "the broker recorded +70 by a split on 2026-12-18 (execctl adopt split)"
    assert found.recorded == "SPLIT 18 70"


def test_shares_that_left_and_came_back_fewer_are_one_split() -> None:
    found = finding_of(7, recorded(MovementKind.SPLIT, -70), recorded(MovementKind.SPLIT, 7))
    assert found.note.startswith(
        "the broker recorded -70 by a split on 2026-12-18 (execctl adopt split), +7 by a split"
    )


def test_what_our_books_have_followed_before_explains_nothing_more() -> None:
    found = finding_of(140, recorded(MovementKind.TRANSFER, 50, day=17), recorded(MovementKind.SPLIT, 70))
    assert found.recorded == "SPLIT 18 70"


@pytest.mark.parametrize(
    "other",
    [recorded(MovementKind.SPLIT, 35), recorded(MovementKind.SPLIT, 70, symbol="NEW")],
    ids=["another number", "another share"],
)
def test_records_that_do_not_come_to_the_difference_leave_what_is_likely(other: PositionMovement) -> None:
    found = finding_of(140, other)
    assert found.recorded == ""
    assert found.note == "as after a split or merger of shares 2 for 1, if it was no trade"


@pytest.mark.parametrize(("quantity", "verb"), [(5, "transfer-in"), (-5, "transfer-out")])
def test_a_transfer_names_its_direction(quantity: int, verb: str) -> None:
    found = finding_of(70 + quantity, recorded(MovementKind.TRANSFER, quantity))
    assert f"by a transfer on 2026-12-18 (execctl adopt {verb})" in found.note
