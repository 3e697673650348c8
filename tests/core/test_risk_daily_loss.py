"""The daily loss over midnights, restarts and both changes of the clocks, against a reckoning of its own."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execution_service.core.risk.counters import Counters, Measured, fold_all, rolled
from execution_service.core.risk.documents import from_document, to_document
from execution_service.core.risk.gate import judge
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.verdict import Decision
from tests.core.risk_cases import ACCOUNT, buying, facts, quote, written

NEW_YORK = ZoneInfo("America/New_York")
LIMIT = 100
OF_ACCOUNT = Scope(account_id=ACCOUNT)
EVES = {
    "clocks forward": datetime(2025, 3, 8, 20, tzinfo=UTC),
    "clocks back": datetime(2025, 11, 1, 20, tzinfo=UTC),
    "usual": datetime(2025, 6, 1, 20, tzinfo=UTC),
}
steps = st.lists(
    st.tuples(
        st.sampled_from([1, 20, 59, 60, 61, 180, 360, 719]),  # minutes until the next reading
        st.integers(-60, 40),  # what was gained until then
        st.booleans(),  # the process ends and begins anew
    ),
    min_size=1,
    max_size=20,
)


class Reckoning:
    """Of one account: the best known at the beginning of the day, less what it has now."""

    def __init__(self) -> None:
        self.day: date | None = None
        self.before: int | None = None
        """The last reading of an earlier day."""
        self.begun_with = self.latest = 0

    def reads(self, value: int, now: datetime) -> None:
        day = now.astimezone(NEW_YORK).date()
        if day != self.day:
            self.before = None if self.day is None else self.latest
            self.day = day
            self.begun_with = value if self.before is None else max(self.before, value)
        self.latest = value

    @property
    def loss(self) -> int:
        return self.begun_with - self.latest


@pytest.mark.parametrize("eve", EVES.values(), ids=EVES)
@settings(max_examples=120, deadline=None)
@given(steps)
def test_the_gate_stops_new_risk_from_the_limit_on_and_until_the_day_ends_where_the_account_is(
    eve: datetime, played: list[tuple[int, int, bool]]
) -> None:
    now, value, counters, reckoning = eve, 1_000, Counters(account_id=ACCOUNT), Reckoning()
    for minutes, gained, is_restarted in played:
        now, value = now + timedelta(minutes=minutes), value + gained
        reading = Measured(at=now, scope=OF_ACCOUNT, value=Decimal(value))
        counters = fold_all(counters, [reading], now=now, zone=NEW_YORK, keep_seconds=Decimal(86_400))
        reckoning.reads(value, now)
        if is_restarted:
            counters = from_document(Counters, to_document(counters))
        known = facts(counters=counters, now=now, zone=NEW_YORK, prices=(quote(at=now),))
        found = judge(buying(1), known, written(max_daily_loss=LIMIT)).decision
        expected = Decision.REFUSE if reckoning.loss >= LIMIT else Decision.PASS
        assert found is expected, (now, reckoning.loss)
        of_day = rolled(counters, now, NEW_YORK).result(OF_ACCOUNT)
        assert of_day is not None
        assert of_day.baseline - of_day.latest == reckoning.loss
