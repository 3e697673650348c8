"""What is remembered of what was said, and for how long."""

from __future__ import annotations

from execution_service.core.heard import Heard


def test_only_the_last_thing_said_is_a_repetition() -> None:
    heard = Heard(10)
    assert not heard.is_known("a", ("FILLED", 1))
    heard.note("a", ("FILLED", 1))
    assert heard.is_known("a", ("FILLED", 1))
    assert not heard.is_known("a", ("FILLED", 2))
    assert not heard.is_known("b", ("FILLED", 1))
    heard.note("a", ("FILLED", 2))
    assert not heard.is_known("a", ("FILLED", 1)), "said before, but not last"


def test_what_an_older_memory_has_does_not_outweigh_what_was_said_since() -> None:
    heard = Heard(2)
    heard.note("a", 1)
    heard.note("b", 1)
    heard.note("a", 2)
    assert heard.is_known("a", 2)
    assert not heard.is_known("a", 1)


def test_the_latest_are_remembered_and_the_oldest_forgotten() -> None:
    heard = Heard(100)
    for number in range(1000):
        heard.note(f"name-{number}", number)
        assert len(heard) <= 200
    assert all(heard.is_known(f"name-{n}", n) for n in range(900, 1000))
    assert not any(heard.is_known(f"name-{n}", n) for n in range(800))


def test_what_is_heard_again_and_again_is_not_forgotten() -> None:
    heard = Heard(10)
    heard.note("steady", 1)
    for number in range(500):
        heard.note(f"name-{number}", number)
        if number % 5 == 0:
            assert heard.is_known("steady", 1)
