"""Which record updates go into the next commit."""

from __future__ import annotations

from dataclasses import dataclass

from execution_service.storage.mongo.write_queue import (
    COMMIT,
    SHORT_COMMIT,
    SHORT_COMMITS_SECONDS,
    EmbeddedWriteQueue,
    WriteQueue,
)
from tests.fakes import HandClock


@dataclass(frozen=True, slots=True)
class Update:
    account_id: str | None
    number: int
    statement: str = ""


def put(queue: WriteQueue[Update], account_id: str | None, count: int, *, is_leaving: bool = False) -> list[Update]:
    """Updates that no statement serves together."""
    updates = [Update(account_id, number, f"{account_id}-{number}-{is_leaving}") for number in range(count)]
    for update in updates:
        queue.put(update, account_id, is_leaving=is_leaving)
    return updates


def of(account_id: str | None, updates: list[Update]) -> int:
    return sum(update.account_id == account_id for update in updates)


def test_one_account_alone_has_long_commits() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 3 * COMMIT)
    assert len(queue.take_commit()) == COMMIT


def test_commits_are_short_while_several_accounts_are_at_work() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "quiet", 1)
    put(queue, "busy", 3 * COMMIT)
    assert len(queue.take_commit()) == SHORT_COMMIT


def test_commits_are_long_again_when_the_other_account_has_written_nothing_for_a_while() -> None:
    clock = HandClock()
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(clock)
    put(queue, "quiet", 1)
    put(queue, "busy", 3 * COMMIT)
    clock.move(SHORT_COMMITS_SECONDS - 0.1)
    assert len(queue.take_commit()) == SHORT_COMMIT
    put(queue, "busy", 1)
    clock.move(0.2)
    assert len(queue.take_commit()) == COMMIT


def test_what_has_happened_to_no_account_makes_no_commit_short() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, None, COMMIT)
    put(queue, "busy", COMMIT)
    assert len(queue.take_commit()) == COMMIT


def test_what_an_account_with_little_to_write_is_about_to_send_hurries() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 50, is_leaving=True)
    assert not queue.has_hurry
    quiet = put(queue, "quiet", 2, is_leaving=True)
    assert queue.has_hurry
    assert queue.take_hurry() == quiet
    assert not queue.has_hurry


def test_what_has_happened_to_an_account_with_little_to_write_does_not_hurry() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 50, is_leaving=True)
    put(queue, "quiet", 2)
    assert not queue.has_hurry
    assert queue.take_hurry() == []


def test_what_has_happened_to_an_account_counts_as_something_to_write() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 50)
    quiet = put(queue, "quiet", 2, is_leaving=True)
    assert queue.take_hurry() == quiet


def test_what_an_account_begins_to_send_at_once_is_not_cut_into_short_commits() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 64, is_leaving=True)
    other = put(queue, "other", 50, is_leaving=True)
    assert queue.take_hurry()[:50] == other


def test_several_accounts_with_little_to_write_are_served_together() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 64, is_leaving=True)
    for number in range(4):
        put(queue, f"quiet {number}", 2, is_leaving=True)
    commit = queue.take_hurry()
    assert [of(f"quiet {number}", commit) for number in range(4)] == [2] * 4
    assert of("busy", commit) == 0


def test_what_has_happened_has_its_share_however_much_is_about_to_be_sent() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    put(queue, "busy", 300, is_leaving=True)
    happened = put(queue, None, 300)
    taken = queue.take_commit()
    assert len(taken) == COMMIT
    assert len(set(taken) & set(happened)) == COMMIT // 4


def test_what_has_happened_has_its_share_however_many_accounts_are_about_to_send_much() -> None:
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(HandClock())
    for account_id in ("one", "two", "three"):
        put(queue, account_id, 300, is_leaving=True)
    happened = set(put(queue, "one", 300) + put(queue, "two", 300))
    taken = [update for _ in range(5) for update in (*queue.take_hurry(), *queue.take_commit())]
    assert len(happened & set(taken)) >= len(taken) * 0.2


def test_every_update_is_taken_once_and_those_of_one_account_in_their_order() -> None:
    clock = HandClock()
    queue: EmbeddedWriteQueue[Update] = EmbeddedWriteQueue(clock)
    expected = {a: put(queue, a, n, is_leaving=a != "c") for a, n in (("a", 70), ("b", 3), ("c", 40), ("d", 1))}
    taken: list[Update] = []
    while queue:
        taken += queue.take_hurry()
        taken += queue.take_commit()
        clock.move(1.0)
    for account_id, updates in expected.items():
        assert [u for u in taken if u.account_id == account_id] == updates
    assert len(taken) == 114


def test_a_long_commit_has_something_of_every_account_however_much_one_has() -> None:
    queue: WriteQueue[Update] = WriteQueue()
    put(queue, "busy", 3 * COMMIT, is_leaving=True)
    put(queue, "busy", 3 * COMMIT)
    leaving, happened = put(queue, "quiet", 2, is_leaving=True), put(queue, "quiet", 2)
    taken = queue.take(COMMIT)
    assert len(taken) == COMMIT
    assert {*leaving, *happened} <= set(taken)


def test_a_run_of_equal_statements_leaves_room_for_the_other_accounts_in_a_long_commit() -> None:
    queue: WriteQueue[Update] = WriteQueue()
    for number in range(3 * COMMIT):
        queue.put(Update("busy", number, "the start of sending"), "busy", is_leaving=True)
    (quiet,) = put(queue, "quiet", 1, is_leaving=True)
    assert quiet in queue.take(COMMIT)
