"""A kill switch with its history: one change is one write, one command changes it once, and what is odd is not read."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest

from execution_service.core.errors import UnreadableRecord
from execution_service.core.risk.kill import KillLevel, Switch
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import (
    LONGEST_HISTORY,
    Deed,
    SwitchRecord,
    record_from_document,
    record_to_document,
    scope_of,
    with_armed,
    with_arming_asked,
    with_engaged,
)
from tests.builders import NOW, order

NEW = SwitchRecord(switch=Switch(scope=Scope(symbol="AAPL")))


def engaged(record: SwitchRecord = NEW, command_id: str = "k1", **changes: Any) -> SwitchRecord:
    usual: dict[str, Any] = {"by": "ann", "reason": "runaway", "now": NOW}
    level = changes.pop("level", KillLevel.REDUCE_ONLY)
    return with_engaged(record, level, command_id=command_id, **usual | changes)


def asked(record: SwitchRecord, command_id: str = "a1") -> SwitchRecord:
    return with_arming_asked(
        record, person="bob", reason="mended", nonce="n1", now=NOW + timedelta(seconds=1), command_id=command_id
    )


def armed(record: SwitchRecord, command_id: str = "a2") -> SwitchRecord:
    return with_armed(
        record, person="bob", reason="mended", nonce="n1", now=NOW + timedelta(seconds=61), command_id=command_id
    )


def test_each_change_raises_the_version_by_one_and_stands_in_the_history() -> None:
    record = armed(asked(engaged()))
    assert record.switch.version == 3
    assert [(c.version, c.deed, c.level, c.by) for c in record.history] == [
        (1, Deed.ENGAGED, KillLevel.REDUCE_ONLY, "ann"),
        (2, Deed.ARMING_ASKED, KillLevel.REDUCE_ONLY, "bob"),
        (3, Deed.ARMED, None, "bob"),
    ]


def test_what_changes_nothing_is_not_written() -> None:
    record = engaged()
    assert engaged(record, "k2", by="eve") is record
    assert engaged(record, "k1", level=KillLevel.HALT) is record  # the same command, whatever it says now


def test_a_command_that_is_carried_out_again_does_not_engage_what_was_armed_since() -> None:
    record = armed(asked(engaged()))
    assert engaged(record, "k1") is record
    assert engaged(record, "k2").switch.is_engaged


def test_the_history_is_bounded_and_keeps_the_latest() -> None:
    record = engaged()
    for number in range(LONGEST_HISTORY + 5):
        record = asked(record, f"a{number}")
    assert len(record.history) == LONGEST_HISTORY
    assert record.history[-1].version == record.switch.version == LONGEST_HISTORY + 6


@pytest.mark.parametrize(
    "record", [engaged(), engaged(level=KillLevel.HALT), asked(engaged()), armed(asked(engaged()))]
)
def test_it_is_read_as_it_was_written(record: SwitchRecord) -> None:
    assert record_from_document(record_to_document(record)) == record


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(version=7),
        lambda d: d.update(version="1"),
        lambda d: d.update(_id="all"),
        lambda d: d.update(history=[]),
        lambda d: d.update(format=2),
        lambda d: d["switch"].pop("level"),
        lambda d: d["switch"].update(level="off"),
        lambda d: d["switch"].pop("engaged_at"),
        lambda d: d["switch"].update(scope={}),
        lambda d: d.pop("switch"),
        lambda d: d["history"][-1].pop("level"),
        lambda d: d["history"][-1].update(version=9),
    ],
)
def test_what_nobody_wrote_so_is_not_read_and_never_as_armed(spoil: Any) -> None:
    document = deepcopy(record_to_document(engaged()))
    spoil(document)
    with pytest.raises(UnreadableRecord):
        record_from_document(document)


def test_an_orders_scope_is_its_account_strategy_and_symbol() -> None:
    assert scope_of(order()) == Scope(account_id="acct-1", strategy="momentum", symbol="AAPL")
